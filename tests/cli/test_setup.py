"""`claude-bus setup` registers the bus with Claude Code, from any initial state, and removes it again."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from claude_bus import claude_settings, registration
from claude_bus.claude_settings import BACKUP, Refused, hooks_of, with_hooks
from claude_bus.cli import installation
from claude_bus.cli import setup as command
from claude_bus.cli.installation import CHECKS, Case
from claude_bus.drivers.inspect import Finding
from claude_bus.registration import Program
from tests.support.fake_claude import FakeClaude
from tests.support.plugin_environment import ROOT
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.slow

HOOKS = hooks_of(ROOT)
ORIGINALS: dict[str, list[dict[str, Any]]] = {
    "UserPromptSubmit": [{"matcher": "", "hooks": [{"type": "command", "command": "python3 ~/h/inject_state.py me"}]}],
    "Stop": [{"hooks": [{"type": "command", "command": 'python3 "$CLAUDE_PROJECT_DIR/.claude/hooks/stop_bus.py" me'}]}],
}
THEIRS: dict[str, list[dict[str, Any]]] = {"Stop": [{"hooks": [{"type": "command", "command": "say done"}]}]}


class Machine:
    """A user's home with a client, in which setup is run."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.home.mkdir()
        self.config = self.home / ".claude"
        self.settings = self.config / "settings.json"
        self.claude = FakeClaude(root / "bin", self.home / ".claude.json")
        self.env = {"PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(self.home)}

    def setup(self, *, status: int = 0, **options: Any) -> None:
        given = {"remove": False, "yes": True, "permissions": None, "place": "", "json": False, **options}
        assert command.setup(argparse.Namespace(**given), self.env, self.home) == status

    def remove(self) -> None:
        self.setup(remove=True)

    def has(self, document: dict[str, Any]) -> None:
        """Write settings that exist before setup runs."""
        self.config.mkdir(exist_ok=True)
        self.settings.write_text(json.dumps(document, indent=2), encoding="utf-8")

    def read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.settings.read_text(encoding="utf-8"))
        return found

    def has_plugin(self, name: str = "bus@claude-bus", holds: str = ".claude-plugin/launch.py") -> None:
        """Install and enable a plugin."""
        place = self.config / "plugins" / "cache" / name
        (place / holds).parent.mkdir(parents=True)
        (place / holds).touch()
        installed = {"version": 2, "plugins": {name: [{"scope": "user", "installPath": str(place)}]}}
        (self.config / "plugins" / "installed_plugins.json").write_text(json.dumps(installed))
        self.has({"enabledPlugins": {name: True}})

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.home.rglob("*") if path.is_file()}

    def doctor(self, folder: Path | None = None) -> list[Finding]:
        """The findings of `doctor` about Claude Code."""
        case = Case.find(self.env, self.home, folder or self.home, self.home / ".claude-bus" / "bus.db")
        return list(installation.examine(case))

    def problems(self, folder: Path | None = None) -> list[str]:
        return [f"{finding.name}: {finding.detail}" for finding in self.doctor(folder) if finding.ok is False]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# -- in and out -----------------------------------------------------------------------


def test_all_is_there_and_gone_again(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Server, hooks, /bus and permission are added; a second run changes nothing; --remove restores every byte."""
    machine.has({"model": "opus", "hooks": THEIRS, "permissions": {"allow": ["Bash(ls)"]}})
    machine.claude.has(numStartups=3)
    before = machine.files()
    machine.setup()
    assert machine.claude.server
    assert machine.read()["hooks"] == with_hooks({"hooks": THEIRS}, HOOKS)["hooks"]
    assert machine.read()["permissions"] == {"allow": ["Bash(ls)", "mcp__bus"]}
    assert (machine.config / "commands" / "bus.md").exists()
    assert machine.problems() == []
    there = machine.files()
    capsys.readouterr()
    machine.setup()
    assert "all is up to date" in capsys.readouterr().out
    assert machine.files() == there
    machine.remove()
    assert machine.files() == before


def test_in_an_empty_home_nothing_is_left(machine: Machine) -> None:
    """Files that did not exist before do not exist afterwards."""
    machine.setup()
    machine.remove()
    machine.remove()
    assert [Path(path).name for path in machine.files()] == [".claude.json"]


def test_the_packages_that_a_checkout_fetched_go_with_it(machine: Machine, tmp_path: Path) -> None:
    """All other files of the cache folder stay."""
    ours = machine.home / ".cache" / "claude-bus"
    elsewhere = machine.env["XDG_CACHE_HOME"] = str(tmp_path / "caches")
    for folder in (ours, Path(elsewhere, "claude-bus")):
        (folder / "environments" / "1-python3.12" / "bin").mkdir(parents=True)
        (folder / "environments" / "1-python3.12" / ".lock").touch()
    (Path(elsewhere) / "claude-bus" / "notes").touch()

    machine.setup()
    machine.remove()

    assert not ours.exists()
    assert [path.name for path in Path(elsewhere, "claude-bus").iterdir()] == ["notes"]


def test_packages_that_a_session_uses_stay_and_are_named(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """A later removal takes them."""
    environment = machine.home / ".cache" / "claude-bus" / "environments" / "1-python3.12"
    environment.mkdir(parents=True)
    machine.setup()
    session = os.open(environment / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(session, fcntl.LOCK_SH)  # as the launcher does
    machine.remove()
    assert f"{environment.parent} stays" in capsys.readouterr().out
    assert environment.is_dir()

    os.close(session)
    machine.remove()
    assert not environment.parents[1].exists()


def test_without_a_word_nothing_is_done(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --yes, a script gets the list of changes, with every file, as text or as a document."""
    machine.setup(status=2, yes=False)
    out, err = capsys.readouterr()
    assert str(machine.settings) in out
    assert "--yes" in err
    machine.setup(status=2, yes=False, json=True)
    planned = json.loads(capsys.readouterr().out)["planned"]
    assert [step.partition(":")[0] for step in planned] == ["server", "settings", "/bus"]
    assert machine.files() == {}


@pytest.mark.parametrize(("answers", "rules"), [(["y", ""], ["mcp__bus"]), (["", "y"], []), (["y", "n"], None)])
def test_on_a_terminal_it_asks(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answers: list[str],
    rules: list[str] | None,
) -> None:
    """It lists all changes first. It asks separately for the permission, and then whether to go on."""
    monkeypatch.setattr(command, "_terminal", lambda _: True)
    left, listed = iter(answers), []

    def answer(question: str) -> str:
        listed.append(capsys.readouterr().out)
        assert ("mcp__bus" in question) == (len(listed) == 1)
        return next(left)

    monkeypatch.setattr("builtins.input", answer)
    machine.setup(yes=False, status=2 if rules is None else 0)
    assert all(step in listed[0] for step in ("to set up:", "  server ", "  settings ", "  /bus "))
    assert machine.settings.exists() == (rules is not None)
    if rules is not None:
        assert machine.read().get("permissions", {}).get("allow", []) == rules


def test_a_permission_of_the_users_own_stays(machine: Machine) -> None:
    """A rule from before the installation stays after the removal, also in settings that have changed since."""
    machine.has({"permissions": {"allow": ["mcp__bus"], "deny": ["WebFetch"]}})
    machine.setup()
    machine.settings.write_text(json.dumps(machine.read() | {"model": "sonnet"}))
    machine.remove()
    assert machine.read() == {"permissions": {"allow": ["mcp__bus"], "deny": ["WebFetch"]}, "model": "sonnet"}


def test_permissions_of_any_kind_stay(machine: Machine) -> None:
    """Rules of other programs, and rules that are not text, are neither lost nor in the way."""
    before = {"permissions": {"allow": ["Bash", {"tool": "Read"}, ["x"], None]}}
    machine.has(before)

    machine.setup(permissions="yes")
    assert machine.read()["permissions"]["allow"] == [*before["permissions"]["allow"], "mcp__bus"]
    machine.remove()

    assert machine.read() == before


def test_only_our_permission_goes(machine: Machine) -> None:
    """Rules that were added meanwhile stay."""
    machine.setup()
    document = machine.read()
    document["permissions"]["allow"].append("Bash(make)")
    machine.settings.write_text(json.dumps(document))
    machine.remove()
    assert machine.read() == {"permissions": {"allow": ["Bash(make)"]}}


# -- clients --------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.1.117", "2.0.5", "1.0.128", "of my own"])
def test_a_client_that_does_not_know_our_hooks_gets_none(
    machine: Machine, version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown hooks would make it reject all settings: it gets server and /bus, and the user is told what to do."""
    machine.claude = FakeClaude(machine.claude.folder, machine.claude.state, version)
    machine.has({"model": "opus"})
    machine.setup(permissions="no")
    assert machine.claude.server
    assert machine.read() == {"model": "opus"}
    assert "2.1.118 or newer" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("told", "version"),
    [("2.1.332", (2, 1, 332)), ("node 20.11.1\n2.1.9", (2, 1, 9)), ("3.0.0-beta.1", (3, 0, 0)), ("none", None)],
)
def test_versions_are_understood(machine: Machine, told: str, version: tuple[int, ...] | None) -> None:
    """A wrapper's text before the version is skipped."""
    client = FakeClaude(machine.claude.folder, machine.claude.state, told)
    assert registration.Client(str(client.program)).version == version


def test_an_older_client_gets_its_settings_back(machine: Machine) -> None:
    """After a downgrade of the client, doctor reports it and setup removes the hooks; an update restores them."""
    machine.setup()
    older = FakeClaude(machine.claude.folder, machine.claude.state, "2.1.100")
    assert any("refuses settings with our hooks" in problem for problem in machine.problems())
    machine.setup()
    assert "hooks" not in machine.read()
    assert machine.problems() == []
    FakeClaude(older.folder, older.state, "2.1.118")
    machine.setup()
    assert machine.read()["hooks"] == HOOKS


def test_without_a_client_nothing_is_done(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Hooks without their server would cause an error in each turn."""
    machine.claude.program.unlink()
    machine.env["PATH"] = "/nowhere"
    machine.setup(status=3)
    assert machine.files() == {}
    assert "claude is not on your PATH" in capsys.readouterr().out


def test_a_client_where_installers_put_it_is_found(machine: Machine, tmp_path: Path) -> None:
    """`~/.claude/local` need not be on PATH."""
    machine.env["PATH"] = "/nowhere"
    FakeClaude(machine.config / "local", machine.claude.state)
    machine.setup()
    assert machine.claude.server


def test_a_client_that_refuses_the_server_gets_no_hooks(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """If the registration fails, no hook is left that calls our server, and an earlier server is registered again."""
    machine.claude = FakeClaude(machine.claude.folder, machine.claude.state, refuses="add")
    machine.claude.registered(command="other", env={"KEY": "value"})
    before = machine.files()
    machine.setup(status=1)
    assert "add is refused" in capsys.readouterr().err
    assert machine.files() == before


# -- existing configuration -----------------------------------------------------------


def test_variables_of_an_old_registration_stay(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """A database of the user's own is taken over from the original; the shell and doctor are told."""
    kept = {"BUS_DB": "/srv/my bus.db", "BUS_ROLE": "a=b"}
    machine.claude.registered(command="/opt/py", args=["/home/me/claude-bus/bus_server.py"], env=kept)
    assert any(problem.startswith("server: that of the original") for problem in machine.problems())
    machine.setup()
    assert machine.claude.server
    assert machine.claude.server["env"] == kept
    assert "export BUS_DB='/srv/my bus.db'" in capsys.readouterr().out
    assert any("sessions use /srv/my bus.db" in finding.detail for finding in machine.doctor())


def killed(machine: Machine, *arguments: str, during: str) -> None:
    """Run setup in a process that is killed during a command of the client."""
    FakeClaude(machine.claude.folder, machine.claude.state, kills=during)
    env = {**machine.env, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-m", "claude_bus", "setup", "--yes", *arguments], env=env, check=False)
    assert done.returncode == -signal.SIGKILL
    FakeClaude(machine.claude.folder, machine.claude.state)


def test_a_kill_loses_no_variables(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Between the client's two commands no server is registered; the next run still restores the variables."""
    kept = {"BUS_DB": "/srv/my bus.db", "BUS_TOKEN": "hidden"}
    machine.claude.registered(command="/opt/claude-bus/bin/claude-bus", env=kept)
    killed(machine, during="add")
    assert "mcpServers" not in machine.claude.read()
    (place,) = machine.config.glob("mcp-server-*")
    assert stat.S_IMODE(place.stat().st_mode) == 0o600

    machine.setup()

    out = capsys.readouterr().out
    assert machine.claude.server
    assert machine.claude.server["env"] == kept
    assert "(with BUS_DB, BUS_TOKEN)" in out
    assert "export BUS_DB='/srv/my bus.db'" in out
    assert "hidden" not in out
    assert list(machine.config.glob("mcp-server-*")) == []


def test_a_kill_before_a_removal_leaves_nothing(machine: Machine) -> None:
    """A registration that was interrupted during its renewal, and then removed, leaves no file."""
    machine.claude.registered(command="/opt/claude-bus/bin/claude-bus", env={"BUS_DB": "/srv/bus.db"})
    killed(machine, during="add")
    machine.remove()
    assert [Path(path).name for path in machine.files()] == [".claude.json"]


@pytest.mark.parametrize("during", ["add", "remove"])
def test_a_kill_does_not_keep_another_server_away(machine: Machine, during: str) -> None:
    """--remove restores the server that was replaced, whichever run was killed before."""
    machine.claude.registered(command="transit", env={"TOKEN": "hidden"})
    before = machine.claude.server
    if during == "add":
        killed(machine, during="add")
    else:
        machine.setup()
        killed(machine, "--remove", during="add-json")
    assert "mcpServers" not in machine.claude.read()
    machine.remove()
    assert machine.claude.server == before
    assert [Path(path).name for path in machine.files()] == [".claude.json"]


def test_another_server_of_that_name_makes_room_and_comes_back(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is shown without its secrets, saved in a private file, and registered again by --remove."""
    machine.claude.registered(command="transit", args=["--city", "x"], env={"TOKEN": "hidden"})
    before = machine.claude.server
    machine.setup()
    assert "until now it was transit --city x (with TOKEN)" in capsys.readouterr().out
    (kept,) = machine.config.glob(f"*{BACKUP}")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert machine.claude.server
    assert machine.claude.server["env"] == {}
    machine.remove()
    assert machine.claude.server == before
    assert not kept.exists()


def test_a_served_bus_stays_and_gets_hooks(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """A server registered by its address is intended: it is not replaced, hooks call it, and it stays."""
    served = {"type": "http", "url": "https://bus.example.org/mcp"}
    machine.claude.has(mcpServers={"bus": served})
    machine.setup()
    assert "they call the bus at https://bus.example.org/mcp" in capsys.readouterr().out
    assert (machine.claude.server, machine.read()["hooks"]) == (served, HOOKS)
    assert machine.problems() == []
    machine.remove()
    assert (machine.claude.server, machine.settings.exists()) == (served, False)


def test_hooks_of_the_original_are_replaced(machine: Machine) -> None:
    """The original's hooks would fail in each turn. Others stay; --remove does not restore the original's."""
    machine.has({"hooks": {**ORIGINALS, "Stop": ORIGINALS["Stop"] + THEIRS["Stop"]}})
    assert any("hooks of the original" in problem for problem in machine.problems())
    machine.setup()
    assert "inject_state" not in machine.settings.read_text()
    assert "say done" in machine.settings.read_text()
    assert machine.problems() == []
    machine.remove()
    assert machine.read() == {"hooks": THEIRS}


def test_beside_the_plugin_nothing_is_there_twice(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """Setup removes what it had added, permits the plugin's tools, and tells the user."""
    machine.setup(permissions="no")
    machine.has_plugin()
    machine.has({**machine.read(), "hooks": HOOKS})
    assert {problem.partition(":")[0] for problem in machine.problems()} == {"server", "hooks", "/bus"}
    machine.setup()
    assert machine.claude.server is None
    assert machine.read() == {
        "enabledPlugins": {"bus@claude-bus": True},
        "permissions": {"allow": ["mcp__plugin_bus_bus"]},
    }
    assert not (machine.config / "commands" / "bus.md").exists()
    assert "claude plugin uninstall bus@claude-bus" in capsys.readouterr().out
    assert machine.problems() == []


@pytest.mark.parametrize("way", ["its copy", "its marketplace"])
def test_the_plugins_own_setup_has_nothing_to_say_against_the_plugin(
    machine: Machine, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    """Setup that is run from the plugin gives the permission, and does not recommend another installation."""
    plugins = machine.config / "plugins"
    machine.has_plugin()
    if way == "its copy":
        installed = {"version": 2, "plugins": {"bus@claude-bus": [{"installPath": str(ROOT)}]}}
        (plugins / "installed_plugins.json").write_text(json.dumps(installed))
    else:
        markets = {"claude-bus": {"installLocation": str(ROOT)}}
        (plugins / "known_marketplaces.json").write_text(json.dumps(markets))
    machine.setup(yes=True, permissions="yes")
    assert "Open:" not in capsys.readouterr().out
    assert machine.read()["permissions"] == {"allow": ["mcp__plugin_bus_bus"]}


# -- settings are never lost ----------------------------------------------------------


def test_the_backup_is_the_users_alone(tmp_path: Path) -> None:
    """The settings' own permissions do not matter; if its name is a link, the target is not written."""
    settings, victim = tmp_path / "settings.json", tmp_path / "victim"
    settings.write_text('{"env": {"KEY": "secret"}}')
    settings.chmod(0o644)
    victim.write_text("precious")
    backup = tmp_path / f"settings.json{BACKUP}"
    backup.symlink_to(victim)
    claude_settings.install(tmp_path, ROOT, [])
    assert victim.read_text() == "precious"
    assert (backup.is_symlink(), stat.S_IMODE(backup.stat().st_mode)) == (False, 0o600)
    assert stat.S_IMODE(settings.stat().st_mode) == 0o644


def test_what_is_kept_is_private_from_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others cannot open the file at any moment."""
    seen = []
    original = os.fsync

    def look(descriptor: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    before = os.umask(0)
    try:
        claude_settings.keep(tmp_path / "kept", "secret")
    finally:
        os.umask(before)
    assert seen == [0o600]


def test_a_backup_that_is_a_link_is_not_believed(tmp_path: Path) -> None:
    """A link that another user put in its place does not become the user's settings."""
    settings = tmp_path / "settings.json"
    settings.write_text('{"model": "opus"}')
    claude_settings.install(tmp_path, ROOT, [])
    (tmp_path / "other").write_text('{ "model":   "opus"}')
    backup = tmp_path / f"settings.json{BACKUP}"
    backup.unlink()
    backup.symlink_to(tmp_path / "other")
    claude_settings.uninstall(tmp_path, [ROOT])
    assert json.loads(settings.read_text()) == {"model": "opus"}
    assert settings.read_text() != (tmp_path / "other").read_text()


def test_settings_that_change_meanwhile_are_read_again(tmp_path: Path) -> None:
    """A change between the read and the write is not lost."""
    settings = tmp_path / "settings.json"
    settings.write_text('{"model": "opus"}')
    others = iter(['{"model": "sonnet"}', '{"model": "haiku"}'])

    def change(document: dict[str, Any]) -> dict[str, Any]:
        for text in others:
            settings.write_text(text)
            break
        return {**document, "ours": True}

    assert claude_settings.edit(settings, change)
    assert json.loads(settings.read_text()) == {"model": "haiku", "ours": True}


def test_settings_that_never_rest_are_left_alone(tmp_path: Path) -> None:
    """After some attempts setup gives up with one sentence, and writes nothing."""
    settings = tmp_path / "settings.json"
    settings.write_text('{"n": 0}')

    def change(document: dict[str, Any]) -> dict[str, Any]:
        settings.write_text(json.dumps({"n": document["n"] + 1}))
        return {**document, "ours": True}

    with pytest.raises(Refused, match="changed by another program"):
        claude_settings.edit(settings, change)
    assert "ours" not in settings.read_text()


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('{\n  // mine\n  "model": "x"\n}', "line 2, column 3: .*cannot have comments"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ('{"a": 1e999}', "cannot be read"),
        ('{"a": NaN}', "cannot be read"),
        ('{"permissions": {"allow": {}}}', "'permissions' is not an object with a list 'allow'"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_what_could_not_be_written_back_is_refused(tmp_path: Path, written: str, told: str) -> None:
    """Comments, duplicate keys and numbers outside of JSON cause one sentence, and the file does not change."""
    settings = tmp_path / "settings.json"
    settings.write_text(written)
    with pytest.raises(Refused, match=told):
        claude_settings.install(tmp_path, ROOT, [], "mcp__bus")
    assert settings.read_text() == written
    assert list(tmp_path.iterdir()) == [settings]


def test_settings_with_a_byte_order_mark_keep_it(tmp_path: Path) -> None:
    """Windows editors write such a mark."""
    settings = tmp_path / "settings.json"
    settings.write_bytes(b'\xef\xbb\xbf{"model": "opus"}')
    claude_settings.install(tmp_path, ROOT, [])
    assert settings.read_bytes().startswith(b"\xef\xbb\xbf{")
    claude_settings.uninstall(tmp_path, [ROOT])
    assert settings.read_bytes() == b'\xef\xbb\xbf{"model": "opus"}'


EMPTY: tuple[dict[str, Any], ...] = (
    {"hooks": {}, "model": "opus"},
    {"model": "opus", "hooks": {"Stop": [], "SessionEnd": []}, "env": {}},
    {"hooks": {"SessionEnd": THEIRS["Stop"], "Stop": [{"hooks": []}], "PreToolUse": []}},
    {"permissions": {}, "hooks": {}},
    {"permissions": {"allow": []}, "hooks": {"Stop": []}},
    {"permissions": {"deny": [], "allow": []}},
    {},
)
"""Settings with values that are empty."""


@pytest.mark.parametrize("before", EMPTY)
@pytest.mark.parametrize("changed", [False, True])
def test_what_is_empty_stays(tmp_path: Path, before: dict[str, Any], changed: bool) -> None:
    """The user's empty keys and lists stay, and so does their order, also in settings that have changed since."""
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(before, indent=3))
    claude_settings.install(tmp_path, ROOT, [], "mcp__bus")
    more = {"theme": "dark"} if changed else {}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | more, indent=3))
    claude_settings.uninstall(tmp_path, [ROOT])
    assert settings.read_text() == json.dumps({**before, **more}, indent=3)


@pytest.mark.parametrize("written", [b"", b"\n", b" \r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_stays(tmp_path: Path, written: bytes) -> None:
    """It is not valid settings, but it is the user's."""
    (tmp_path / "settings.json").write_bytes(written)
    claude_settings.install(tmp_path, ROOT, [])
    claude_settings.uninstall(tmp_path, [ROOT])
    assert (tmp_path / "settings.json").read_bytes() == written
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_settings_that_changed_since_keep_their_form(tmp_path: Path, line_break: str, end: str) -> None:
    """Indentation, line breaks and the end of the file are the user's."""
    settings = tmp_path / "settings.json"
    written = f'{{\n\t"model": "opus",\n\t"hooks": {{}}\n}}{end}'.replace("\n", line_break).encode()
    settings.write_bytes(written)
    claude_settings.install(tmp_path, ROOT, [], "mcp__bus")
    settings.write_bytes(settings.read_bytes().replace(b"opus", b"sonnet"))
    claude_settings.uninstall(tmp_path, [ROOT])
    assert settings.read_bytes() == written.replace(b"opus", b"sonnet")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/no/such/file")])
def test_settings_that_are_no_file_are_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Reading a pipe would never end, and the target of a dangling link may be on a disk that is not mounted."""
    make(tmp_path / "settings.json")
    with pytest.raises(Refused, match=r"settings\.json"):
        claude_settings.install(tmp_path, ROOT, [])
    assert len(list(tmp_path.iterdir())) == 1


def test_settings_on_a_mount_of_their_own_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's settings.json may be a mount, which cannot be replaced by renaming."""
    settings = tmp_path / "settings.json"
    settings.write_text("{}")
    original = Path.replace

    def busy(self: Path, target: Path) -> Path:
        if target == settings:
            raise OSError(16, "Device or resource busy")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", busy)
    claude_settings.install(tmp_path, ROOT, [])
    assert "hooks" in json.loads(settings.read_text())


def test_settings_that_cannot_be_written_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home manager keeps settings in a read-only store: the sentence names the link and its target."""
    kept = tmp_path / "store" / "settings.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    (tmp_path / "settings.json").symlink_to(kept)

    def refuse(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(Refused, match=r"a link to .*store.* cannot be written: Read-only file system"):
        claude_settings.write(tmp_path / "settings.json", "{}")


# -- doctor ---------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_with_no_claude_code(machine: Machine) -> None:
    """A user of the bus from a shell alone does not need Claude Code."""
    machine.env["PATH"] = "/nowhere"
    machine.claude.program.unlink()
    assert machine.problems() == []


def _local(machine: Machine) -> None:
    machine.claude.has(projects={str(machine.home / "project"): {"mcpServers": {"bus": {"command": "other"}}}})


def _switched_off(machine: Machine) -> None:
    machine.claude.has(projects={str(machine.home / "project"): {"disabledMcpServers": ["bus"]}})


def _project(machine: Machine) -> None:
    servers = {"mcpServers": {"bus": {"command": "python3", "args": ["/x/claude-bus/bus_server.py"]}}}
    (machine.home / "project" / ".mcp.json").write_text(json.dumps(servers))


def _gone(machine: Machine) -> None:
    machine.claude.registered(command="/gone/claude-bus")


def _foreign(machine: Machine) -> None:
    machine.claude.registered(command="transit")


def _unregistered(machine: Machine) -> None:
    machine.claude.has(mcpServers={})


def _partial(machine: Machine) -> None:
    document = machine.read()
    del document["hooks"]["Stop"]
    machine.has(document)


def _twice(machine: Machine) -> None:
    document = machine.read()
    document["hooks"]["Stop"] *= 2
    machine.has(document)


def _without_hooks(machine: Machine) -> None:
    machine.has({})


def _disabled(machine: Machine) -> None:
    machine.has({**machine.read(), "disableAllHooks": True})


def _broken(machine: Machine) -> None:
    machine.settings.write_text("{")


def _denied(machine: Machine) -> None:
    machine.has({**machine.read(), "permissions": {"deny": ["mcp__bus"]}})


def _project_hooks(machine: Machine) -> None:
    folder = machine.home / "project" / ".claude"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps({"hooks": ORIGINALS}))


def _without_command(machine: Machine) -> None:
    (machine.config / "commands" / "bus.md").unlink()


def _command_of_the_original(machine: Machine) -> None:
    text = "---\n---\nBus de mensajes y estado compartido con otras sesiones de Claude Code.\n"
    (machine.config / "commands" / "bus.md").write_text(text)


def _plugin_of_the_original(machine: Machine) -> None:
    document = machine.read()
    machine.has_plugin("claude-bus@claude-bus", "hooks/stop_bus.py")
    machine.has({**document, **machine.read()})


STATES: dict[Callable[[Machine], None], str] = {
    _local: "claude mcp remove -s local bus",
    _switched_off: "switch it on with /mcp",
    _project: "claude mcp remove -s project bus",
    _gone: "/gone/claude-bus is gone; run: ",
    _foreign: "another program: transit; to replace it, run: ",
    _unregistered: "hooks call a server that is not registered; run: ",
    _partial: "not those of this version, or not there once; run: ",
    _twice: "not those of this version, or not there once; run: ",
    _without_hooks: "mail does not come by itself; run: ",
    _disabled: "disableAllHooks",
    _broken: "fix it and try again",
    _denied: '"mcp__bus" is denied',
    _project_hooks: "take them out",
    _without_command: "not there; run: ",
    _command_of_the_original: "that of the original; run: ",
    _plugin_of_the_original: "claude plugin uninstall claude-bus@claude-bus",
}


@pytest.mark.parametrize("change", STATES, ids=lambda change: change.__name__)
def test_doctor_finds_each_state_with_its_way_out(machine: Machine, change: Callable[[Machine], None]) -> None:
    """After one change to a sound installation, doctor finds that change, and says what to do."""
    project = machine.home / "project"
    project.mkdir()
    machine.setup()
    assert machine.problems(project) == []
    change(machine)
    assert any(STATES[change] in problem for problem in machine.problems(project)), machine.problems(project)


@pytest.mark.parametrize(
    "change",
    [_gone, _foreign, _unregistered, _partial, _twice, _without_hooks, _without_command, _command_of_the_original],
    ids=lambda change: change.__name__,
)
def test_the_way_out_is_one(machine: Machine, change: Callable[[Machine], None]) -> None:
    """Where doctor recommends setup, it finds no problem after setup has run."""
    machine.setup()
    change(machine)
    machine.setup()
    assert machine.problems() == []


def test_every_check_is_in_the_list() -> None:
    """Every check that is defined is also run."""
    written = {
        name
        for name, value in vars(installation).items()
        if callable(value) and getattr(value, "__annotations__", {}).get("return") == "Iterator[Finding]"
    }
    public = {name for name in written if not name.startswith("_")} - {"examine"}
    assert public == {check.__name__ for check in CHECKS}


def test_a_check_that_fails_is_a_finding(machine: Machine) -> None:
    """If /bus is a folder, for example, doctor reports it along with its other findings."""
    machine.setup()
    _without_command(machine)
    (machine.config / "commands" / "bus.md").mkdir()
    names = {finding.name: finding.ok for finding in machine.doctor()}
    assert (names["command"], names["hooks"]) == (False, True)


# -- where the program runs from ------------------------------------------------------


def test_a_checkout_is_started_by_its_launcher() -> None:
    """The launcher makes its own environment, so the registration outlives the one that ran setup."""
    found = Program.find({})
    assert found.plugin == ROOT
    assert found.command[-1] == str(ROOT / ".claude-plugin" / "launch.py")


@pytest.mark.parametrize(
    ("prefix", "source", "started"),
    [
        ("/home/me/.cache/uv/archive-v0/aB3", "", ["/bin/uvx", "--from", "claude-bus>=0.3", "claude-bus"]),
        ("/c/environments-v2/x", "/src/bus", ["/bin/uvx", "--from", "/src/bus", "claude-bus"]),
        ("/home/me/.local/pipx/.cache/1f", "", ["/bin/pipx", "run", "--spec", "claude-bus>=0.3", "claude-bus"]),
    ],
)
def test_an_environment_of_the_moment_is_made_again(
    monkeypatch: pytest.MonkeyPatch, prefix: str, source: str, started: list[str]
) -> None:
    """Environments of uvx and pipx run are temporary: the tools themselves are registered, and never the original
    package.
    """
    monkeypatch.setattr(registration, "_source", lambda: source)
    monkeypatch.setattr(registration, "find_spec", lambda module: None)
    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/bin/{name}")
    assert list(registration._of_environment(Path(prefix), {})) == started


@pytest.mark.parametrize(
    ("source", "installed", "fetched"),
    [
        ("", ["fastapi", "kingfisher_sdk"], "claude-bus[all]>=0.3"),
        ("", ["kingfisher_sdk"], "claude-bus[secrets]>=0.3"),
        ("/home/me/claude bus", ["fastapi"], "claude-bus[serve] @ file:///home/me/claude%20bus"),
        (
            "git+https://git.example.org/bus@main",
            ["fastapi"],
            "claude-bus[serve] @ git+https://git.example.org/bus@main",
        ),
        ("/home/me/bus", [], "/home/me/bus"),
    ],
)
def test_extras_are_fetched_again(
    monkeypatch: pytest.MonkeyPatch, source: str, installed: list[str], fetched: str
) -> None:
    """`uvx --from 'claude-bus[all]' claude-bus setup` registers all of it."""
    monkeypatch.setattr(registration, "_source", lambda: source)
    monkeypatch.setattr(registration, "find_spec", lambda module: module if module in installed else None)
    assert registration._specification() == fetched


@pytest.mark.parametrize(
    ("told", "source"),
    [
        ('{"url": "file:///home/me/claude%20bus", "dir_info": {}}', "/home/me/claude bus"),
        (
            '{"url": "https://git.example.org/bus", "vcs_info": {"vcs": "git", "requested_revision": "main"}}',
            "git+https://git.example.org/bus@main",
        ),
        ('{"url": "https://git.example.org/bus", "vcs_info": {"vcs": "git"}}', "git+https://git.example.org/bus"),
        ('{"url": "https://example.org/claude_bus.whl", "archive_info": {}}', "https://example.org/claude_bus.whl"),
        (None, ""),
        ("{", ""),
    ],
)
def test_a_package_from_elsewhere_comes_from_there_again(
    monkeypatch: pytest.MonkeyPatch, told: str | None, source: str
) -> None:
    """`uvx --from` with a folder, a repository or a file is registered with the same source."""

    class Installed:
        def read_text(self, name: str) -> str | None:
            return told

    monkeypatch.setattr(registration, "distribution", lambda name: Installed())
    assert registration._source() == source


def test_the_wheel_holds_what_setup_installs(tmp_path: Path) -> None:
    """Setup installed from a wheel has the repository's hooks and /bus, and registers its own script."""
    wheels, place = tmp_path / "wheels", tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, ROOT], check=True, timeout=3 * PATIENCE)
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", place, wheel], check=True, timeout=PATIENCE)
    plugin = place / "claude_bus" / "plugin"
    for part in ("hooks/hooks.json", "commands/bus/SKILL.md"):
        assert (plugin / part).read_bytes() == (ROOT / part).read_bytes()

    machine = Machine(tmp_path)
    env = {**machine.env, "PYTHONPATH": str(place)}
    done = subprocess.run(
        [sys.executable, "-m", "claude_bus", "setup", "--yes"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert machine.claude.server
    assert machine.read()["hooks"] == HOOKS


def test_setup_needs_none_of_our_packages_and_no_good_settings(tmp_path: Path) -> None:
    """An installation without its packages, or with invalid variables, can still be removed."""
    machine = Machine(tmp_path)
    env = {**machine.env, "PYTHONPATH": str(ROOT / "src"), "BUS_RATE": "many", "BUS_URL": "nonsense"}
    code = (
        "import sys\nfor name in ('psutil', 'aiosqlite', 'anyio', 'mcp', 'pydantic', 'kingfisher_sdk'):\n"
        "    sys.modules[name] = None\nfrom claude_bus.cli.main import run\n"
        "sys.exit(run(['setup', '--yes']) or run(['setup', '--remove', '--yes']))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert machine.claude.server is None
