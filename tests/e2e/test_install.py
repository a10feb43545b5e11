"""The plugin and the installer, installed as users do it, in the real client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.plugin_environment import ROOT, Uv, checkout, has_environment

from . import reading
from .claude_e2e import Sandbox, Tui, oldest_binary
from .fake_anthropic import PATIENCE, FakeAnthropic, Request, text, tool
from .peer import Peer
from .test_join import command_lines

BUILT_IN = {"agents", "inbox", "register", "send", "wait"}


@pytest.fixture
def box(box: Sandbox) -> Sandbox:
    """A box for commands that need no model. The API address is closed, so they do not wait for the network."""
    box.env["ANTHROPIC_BASE_URL"] = "http://127.0.0.1:9"
    return box


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return checkout(tmp_path / "repository")


def turn(box: Sandbox, prompt: str, *script: Any) -> list[Request]:
    """Run a headless session without any option; returns the request that the model read."""
    with FakeAnthropic(script) as model:
        box.run("-p", stdin=prompt, env={"ANTHROPIC_BASE_URL": model.url})
        return model.main


def joins(box: Sandbox, peer: Peer, tools: str, *, hidden: bool = True) -> None:
    """Check that a session has command, tools and hooks: `/bus` joins without a permission dialog, and mail comes
    by itself.
    """
    waiting = peer.send("frontend", "it waited")
    asked, answered = turn(box, "/bus frontend the UI", tool(f"{tools}__register", name="frontend"), text("joined"))
    assert {f"{tools}__{name}" for name in BUILT_IN} <= set(asked.tool_names)
    assert (f"{tools}__hook" not in asked.tool_names) == hidden
    assert [line for line in command_lines() if line not in "\n".join(asked.last_user())] == []
    assert 'after /bus: "frontend the UI"' in "\n".join(asked.last_user())
    assert "registered 'frontend'" in answered.tool_results()[0]
    assert [mail.id for mail in reading.mail(answered)] == [waiting]
    assert reading.came_with(answered) == ["PostToolBatch"]


def test_the_marketplace_and_the_plugin_are_valid(box: Sandbox) -> None:
    """The client's own validation, with the checks of the plugin directory, finds nothing wrong with this
    repository.
    """
    out = box.run("plugin", "validate", str(ROOT), "--strict", "--profile", "directory")
    assert "Validation passed" in out
    assert "These checks found nothing to report" in out


def test_from_the_marketplace(box: Sandbox, repository: Path, backend: Peer) -> None:
    """Added as a marketplace and installed, the plugin has command, tools and hooks."""
    box.run("plugin", "marketplace", "add", str(repository))
    box.run("plugin", "install", "bus@claude-bus")
    joins(box, backend, "mcp__plugin_bus_bus")


def test_the_plugin_makes_its_environment_with_its_data(box: Sandbox, repository: Path, backend: Peer) -> None:
    """If no interpreter is chosen, the server runs in the environment in the plugin's data folder."""
    del box.env["CLAUDE_BUS_PYTHON"]
    box.run("plugin", "marketplace", "add", str(repository))
    box.run("plugin", "install", "bus@claude-bus")
    has_environment(box.config / "plugins" / "data" / "bus-claude-bus" / "environments")
    joins(box, backend, "mcp__plugin_bus_bus")


def test_the_shell_of_a_session_with_the_plugin_has_the_command(box: Sandbox, repository: Path, backend: Peer) -> None:
    """The command runs in the environment of the plugin's server, though a shell is not told of the plugin's data."""
    del box.env["CLAUDE_BUS_PYTHON"]
    box.env["PATH"] = os.pathsep.join(place for place in box.env["PATH"].split(os.pathsep) if not has_command(place))
    box.run("plugin", "marketplace", "add", str(repository))
    box.run("plugin", "install", "bus@claude-bus")
    data = box.config / "plugins" / "data" / "bus-claude-bus"
    has_environment(data / "environments")
    with FakeAnthropic([tool("Bash", command="claude-bus send backend 'from a shell'"), text("done")]) as model:
        box.run("-p", "--allowedTools", "Bash", stdin="tell it", env={"ANTHROPIC_BASE_URL": model.url})
        assert "sent to 'backend'" in model.main[-1].tool_results()[0]
    assert not (box.home / ".cache" / "claude-bus").exists()


def has_command(place: str) -> bool:
    return Path(place, "claude-bus").exists()


def test_a_call_on_the_first_start_waits_for_the_server(
    box: Sandbox, repository: Path, backend: Peer, uv: Uv, pool: ThreadPoolExecutor
) -> None:
    """A headless session that joins while the packages are fetched has joined, and its mail comes by itself."""
    backend.send("frontend", "it waited")
    starts_first(box, uv)
    script = [tool("mcp__plugin_bus_bus__register", name="frontend"), text("joined")]
    with FakeAnthropic(script) as model:
        options = ("--plugin-dir", str(repository), "--allowedTools", "mcp__plugin_bus_bus")
        done = pool.submit(box.run, "-p", *options, stdin="join", env={"ANTHROPIC_BASE_URL": model.url})
        asked = model.wait_main(1)
        with uv.installing():
            pass
        done.result()
        answered = model.main[1]
    assert {f"mcp__plugin_bus_bus__{name}" for name in BUILT_IN} <= set(asked.tool_names)
    assert "registered 'frontend'" in answered.tool_results()[0]
    assert [mail.content for mail in reading.mail(answered)] == ["it waited"]


def test_the_person_sees_what_a_first_start_does(box: Sandbox, repository: Path, backend: Peer, uv: Uv) -> None:
    """The first prompt goes through at once and mentions the installation; afterwards the session is on the bus."""
    starts_first(box, uv)
    script = [text("hello"), tool("mcp__plugin_bus_bus__register", name="frontend"), text("joined"), text("read")]
    options = ("--plugin-dir", str(repository), "--permission-mode", "manual", "--allowedTools", "mcp__plugin_bus_bus")
    with FakeAnthropic(script) as model, Tui(box, *options, env={"ANTHROPIC_BASE_URL": model.url}) as tui:
        tui.prompt("hello")
        model.wait_main(1)
        tui.wait_for("its packages are being fetched")
        tui.wait_until_idle()
        with uv.installing():
            pass
        tui.prompt("join")
        assert "registered 'frontend'" in model.wait_main(3).tool_results()[0]
        tui.wait_until_idle()
        backend.send("frontend", "welcome")
        assert [mail.content for mail in reading.mail(model.wait_main(4))] == ["welcome"]
        tui.wait_until_idle()  # while a hook runs, the screen says so
        assert "hook" not in tui.screen().lower()


def starts_first(box: Sandbox, uv: Uv) -> None:
    """The plugin has no environment yet, and its packages come when the test lets them."""
    del box.env["CLAUDE_BUS_PYTHON"]
    box.env["PATH"] = os.pathsep.join([str(uv.folder), box.env["PATH"]])
    uv.close()


# -- a clone as a project ---------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "src/claude_bus"])
def test_a_clone_as_a_project(box: Sandbox, repository: Path, backend: Peer, folder: str) -> None:
    """The `.mcp.json` of a clone offers its bus to a user who opens any folder in it, even one with a server `bus`."""
    box.run("mcp", "add", "--scope", "user", "bus", "--", "python3", "-c", "print('other')")
    open_project(box, repository / folder)
    (asked, answered) = turn(box, "join", tool("mcp__bus__register", name="frontend"), text("joined"))
    assert {f"mcp__bus__{name}" for name in BUILT_IN} <= set(asked.tool_names)
    assert "registered 'frontend'" in answered.tool_results()[0]


def test_a_clone_as_a_project_beside_the_plugin(box: Sandbox, repository: Path, backend: Peer) -> None:
    """Both servers run and are one session on the bus, and the plugin's hooks find theirs."""
    waiting = backend.send("frontend", "it waited")
    box.run("plugin", "marketplace", "add", str(repository))
    box.run("plugin", "install", "bus@claude-bus")
    open_project(box, repository)
    script = (tool("mcp__bus__register", name="frontend"), tool("mcp__plugin_bus_bus__whoami"), text("joined"))
    _, joined, known = turn(box, "join", *script)
    assert [mail.id for mail in reading.mail(joined)] == [waiting]
    assert reading.came_with(joined) == ["PostToolBatch"]
    assert known.tool_results()[-1] == "frontend"


@pytest.mark.parametrize("way", ["switched off", "named as its hooks do"])
def test_with_servers_of_a_file_alone(box: Sandbox, repository: Path, tmp_path: Path, way: str) -> None:
    """--strict-mcp-config removes the plugin's server but not its hooks; the documented ways keep it quiet."""
    box.run("plugin", "marketplace", "add", str(repository))
    box.run("plugin", "install", "bus@claude-bus")
    server = {"command": "python3", "args": [str(repository / ".claude-plugin" / "launch.py")]}
    servers, options = tmp_path / "servers.json", ["--permission-mode", "manual"]
    if way == "switched off":
        options += ["--settings", json.dumps({"enabledPlugins": {"bus@claude-bus": False}})]
    servers.write_text(json.dumps({"mcpServers": {} if way == "switched off" else {"plugin:bus:bus": server}}))
    options += ["--strict-mcp-config", "--mcp-config", str(servers)]
    with FakeAnthropic() as model, Tui(box, *options, env={"ANTHROPIC_BASE_URL": model.url}) as tui:
        tui.prompt("hello")
        model.wait_main(1)
        tui.wait_until_idle()
        tui.prompt("again")
        model.wait_main(2)
        tui.wait_until_idle()
        assert "not connected" not in tui.screen()


def open_project(box: Sandbox, folder: Path) -> None:
    box.settings(enableAllProjectMcpServers=True, permissions={"allow": ["mcp__bus", "mcp__plugin_bus_bus"]})
    box.trust(folder)
    box.project = folder


# -- the installer --------------------------------------------------------------------


class Installer:
    """`install_claude_bus.sh` of a clone, run in the sandbox, with its client on PATH."""

    def __init__(self, box: Sandbox, repository: Path, programs: Path) -> None:
        programs.mkdir()
        (programs / "claude").symlink_to(box.binary)
        path = [str(programs), str(Path(sys.executable).parent), box.env["PATH"]]
        self._env = box.env | {"PATH": os.pathsep.join(path)}
        self._script = repository / "install_claude_bus.sh"
        self.place = box.home / ".local" / "share" / "claude-bus"

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            ["bash", self._script, *arguments],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def installer(box: Sandbox, repository: Path, tmp_path: Path) -> Installer:
    made = Installer(box, repository, tmp_path / "programs")
    made.place.mkdir(parents=True)
    (made.place / ".claude-bus").touch()
    has_environment(made.place / "environments")
    return made


def test_the_installer(box: Sandbox, installer: Installer, backend: Peer) -> None:
    """The installer gives sessions command, tools and hooks; --uninstall leaves nothing; a second run changes
    nothing.
    """
    before = everything(box)
    assert "It works" in installer()
    joins(box, backend, "mcp__bus")
    assert "all is up to date" in installer()
    (first, *_) = turn(box, "hello")
    assert [name for name in first.tool_names if name.endswith("__inbox")] == ["mcp__bus__inbox"]

    installer("--uninstall")
    assert everything(box) == before
    assert not installer.place.exists()
    (last, *_) = turn(box, "hello")
    assert not [name for name in last.tool_names if "bus" in name]


def everything(box: Sandbox) -> dict[str, Any]:
    """The user's settings, commands, registered servers, and programs."""
    state = json.loads((box.config / ".claude.json").read_text(encoding="utf-8"))
    settings = box.config / "settings.json"
    return {
        "settings": settings.read_text(encoding="utf-8") if settings.exists() else None,
        "commands": sorted(str(path) for path in box.config.glob("commands/**/*")),
        "servers": state.get("mcpServers", {}),
        "programs": sorted(str(path) for path in box.home.glob(".local/bin/*")),
    }


def test_a_server_of_that_name_makes_room(box: Sandbox, installer: Installer) -> None:
    """A server already registered as `bus` is shown and replaced; --uninstall brings it back."""
    box.run("mcp", "add", "--scope", "user", "bus", "--", "python3", "-c", "print('other')")
    before = everything(box)
    out = installer()
    assert "until now it was python3 -c 'print('\"'\"'other'\"'\"')'" in out
    assert everything(box)["servers"]["bus"]["command"] == str(installer.place / "bin" / "claude-bus")
    installer("--uninstall")
    assert everything(box) == before


def test_the_original_makes_room(box: Sandbox, installer: Installer, backend: Peer, db: Path) -> None:
    """The original's server keeps its variables under the new program, its hooks are removed, and sessions join at
    once.
    """
    hook = {"type": "command", "command": 'python3 "$HOME/claude-bus/hooks/stop_bus.py" frontend'}
    box.settings(hooks={"Stop": [{"matcher": "", "hooks": [hook]}]})
    kept = ["-e", f"BUS_DB={db}", "-e", "BUS_ROLE=two words"]
    box.run("mcp", "add", "-s", "user", "bus", *kept, "--", "python3", str(box.home / "claude-bus" / "bus_server.py"))
    installer()
    assert everything(box)["servers"]["bus"]["env"] == {"BUS_DB": str(db), "BUS_ROLE": "two words"}
    assert "stop_bus" not in (box.config / "settings.json").read_text(encoding="utf-8")
    joins(box, backend, "mcp__bus")


def test_where_the_user_agrees_tools_run_without_a_question(box: Sandbox, installer: Installer) -> None:
    """In a headless session, which can ask no user, a tool is refused until the permission has been given."""
    installer()
    _, refused = turn(box, "who is here?", tool("mcp__bus__agents"), text("done"))
    assert "permission" in refused.tool_results()[0]
    installer("--yes")
    _, answered = turn(box, "who is here?", tool("mcp__bus__agents"), text("done"))
    assert "permission" not in answered.tool_results()[0]


def test_the_installer_beside_the_plugin(box: Sandbox, repository: Path, installer: Installer, backend: Peer) -> None:
    """Sessions have the plugin's server, hooks and /bus, each once, and the user reads why."""
    box.run("plugin", "marketplace", "add", str(repository))
    box.run("plugin", "install", "bus@claude-bus")
    assert "the plugin bus@claude-bus is enabled" in installer()
    assert everything(box)["servers"] == {}
    joins(box, backend, "mcp__plugin_bus_bus")


# -- the oldest client ------------------------------------------------------------------


@pytest.fixture
def oldest(box: Sandbox) -> Sandbox:
    """A machine with the oldest supported client."""
    box.binary = oldest_binary()
    return box


def test_the_plugin_in_the_oldest_client(oldest: Sandbox, repository: Path, backend: Peer) -> None:
    """The plugin has command, tools and hooks in the oldest client."""
    oldest.run("plugin", "marketplace", "add", str(repository))
    oldest.run("plugin", "install", "bus@claude-bus")
    joins(oldest, backend, "mcp__plugin_bus_bus", hidden=False)


def test_the_installer_with_the_oldest_client(oldest: Sandbox, installer: Installer, backend: Peer) -> None:
    """The oldest client understands the installed settings, including the hooks."""
    assert "It works" in installer()
    joins(oldest, backend, "mcp__bus", hidden=False)
