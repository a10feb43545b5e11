"""Packages that only some commands need: whoever lacks them is told how to get them, and everything else works."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

from claude_bus import extras
from tests.support.processes import Wire, environment

LOCKS = Path(__file__).parents[1] / ".claude-plugin"
SOURCE = Path(__file__).parents[1] / "src"


def distributions(lock: str) -> set[str]:
    """The names of the packages in a lock file."""
    return set(re.findall(r"^([\w.-]+)==", (LOCKS / lock).read_text(encoding="utf-8"), re.MULTILINE))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages that are installed first, and no others."""
    folder = tmp_path_factory.mktemp("packages")
    for name in distributions("requirements-session.txt"):
        with contextlib.suppress(PackageNotFoundError):  # one for another system
            found = distribution(name)
            for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
                (folder / top).symlink_to(Path(str(found.locate_file(top))))
    return folder


def python(bare: Path, code: str) -> list[str]:
    """A command that runs code with those packages and claude-bus."""
    return [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = [{str(bare)!r}, {str(SOURCE)!r}]\n{code}"]


PROGRAM = "from claude_bus.__main__ import main; sys.argv[0] = 'claude-bus'; sys.exit(main())"


def run(bare: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command, env = [*python(bare, PROGRAM), *arguments], environment(tmp_path / "bus.db")
    return subprocess.run(command, env=env, input="", capture_output=True, text=True, check=False)


def test_a_session_needs_only_the_packages_that_are_installed_first(bare: Path, tmp_path: Path) -> None:
    """It has a name, sends, reads, and is told at its first prompt that texts are not looked through."""

    class Bare(Wire):
        program = (*python(bare, PROGRAM)[1:], "stdio")

    server = Bare(tmp_path / "bus.db", BUS_NAME="alice").start()
    try:
        assert not server.call("send", to="bob", content="see src/claude_bus/detector.py").failed
        assert server.call("whoami").text == "alice"
        assert not server.call("set_state", key="a", value="1").failed
        assert not server.call("claim", path="src/a.py").failed
        assert not server.call("inbox").failed
        told: list[dict[str, Any]] = [
            json.loads(server.call("hook", event="UserPromptSubmit", session_id="1", prompt="go on").text)
            for _ in range(2)
        ]
    finally:
        server.kill()
    assert "pip install 'claude-bus[secrets]'" in told[0]["systemMessage"]
    assert "secrets" not in told[1].get("systemMessage", "")


def test_commands_need_only_the_packages_that_are_installed_first(bare: Path, tmp_path: Path) -> None:
    """Those of users and those of hooks."""
    for command in ("send bob src/a.py", "inbox --as bob", "agents", "guard check", ""):
        done = run(bare, tmp_path, *command.split())
        assert done.returncode == 0, (command, done.stderr)


def test_a_session_loads_each_package_that_is_named_as_its_own(tmp_path: Path) -> None:
    """The SDK, which only a server needs, comes later with the rest. Systems without /proc need psutil."""
    code = """
import sys, anyio, claude_bus.mcp.session_server, claude_bus.mcp.tools, claude_bus.remote.bus
from claude_bus.config import Config
from claude_bus.connect import open_bus
from claude_bus.sql import agents
from pathlib import Path

async def look():
    async with open_bus(Config(Path(sys.argv[1]))) as bus:
        await bus.run(agents.listing, "default")

anyio.run(look)
print(*sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "bus.db")]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    project = tomllib.loads((LOCKS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["dependency-groups"]["session"]) - {"psutil"} <= set(loaded)


def test_serve_says_how_to_get_what_it_lacks(bare: Path, tmp_path: Path) -> None:
    """In one line, with the exit status of bad input; a program gets a document."""
    done, document = run(bare, tmp_path, "serve"), run(bare, tmp_path, "serve", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"claude-bus: serve needs more packages: \S*pip install 'claude-bus\[serve\]'\n", done.stderr)
    assert json.loads(document.stdout)["error"] == "missing_packages"


def test_doctor_says_that_texts_are_not_looked_through(bare: Path, tmp_path: Path) -> None:
    """With the way to change that."""
    checks = json.loads(run(bare, tmp_path, "doctor", "--json").stdout)["checks"]
    (secrets,) = [check for check in checks if check["name"] == "secrets"]
    assert secrets["ok"] is None  # it is the user's choice
    assert "pip install 'claude-bus[secrets]'" in secrets["detail"]


@pytest.mark.parametrize(
    ("command", "prefix", "way"),
    [
        (["python", "-m", "claude_bus"], "/usr", "pip install 'claude-bus[serve]'"),
        (["python", "x"], "/home/me/.cache/uv/archive-v0/aB3", "uvx --from 'claude-bus[all] @ ADDRESS' claude-bus"),
        (["python", "x"], "/home/me/.local/share/uv/tools/claude-bus", "uv tool install 'claude-bus[all] @ ADDRESS'"),
        (["python", "x"], "/home/me/.local/pipx/venvs/claude-bus", "pipx install --force 'claude-bus[all] @ ADDRESS'"),
        (["python", "launch.py", "--in", "/data/1-python3.12", "serve"], "/data", "/data/1-python3.12/rest.log"),
        (["python", "launch.py", "--in", "", "serve"], "/usr", "pip install"),
    ],
)
def test_the_way_is_that_of_the_installation(command: list[str], prefix: str, way: str) -> None:
    """By pip, by uvx, or by the plugin, which fetches them itself."""
    assert way in extras.way_to_get("serve", command, prefix)


def test_a_venv_has_its_own_pip(tmp_path: Path) -> None:
    """The one on PATH would install into another environment."""
    pip = tmp_path / "my venv" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.touch()
    way = extras.way_to_get("serve", ["python", "-m", "claude_bus"], str(pip.parents[1]))
    assert way == f"'{pip}' install 'claude-bus[serve]'"


def test_the_plugin_tells_whether_it_is_still_fetching(tmp_path: Path) -> None:
    """A package that is on its way is no problem; one that did not come is."""
    command = ["python", "launch.py", "--in", str(tmp_path)]
    (tmp_path / "rest").mkdir()
    assert extras.are_coming(command)
    assert extras.way_to_get("secrets", command).startswith("being fetched")
    (tmp_path / ".rest-failed").touch()
    assert not extras.are_coming(command)
    (tmp_path / ".rest-failed").unlink()
    (tmp_path / "rest" / "fastapi").mkdir()  # all that there is for this system
    assert not extras.are_coming(command)
    assert extras.way_to_get("secrets", command).startswith("fetching failed")
    assert not extras.are_coming(["python", "-m", "claude_bus"])


def test_doctor_finds_no_fault_in_a_scanner_that_is_coming(bare: Path, tmp_path: Path) -> None:
    """It is a problem once the plugin has failed to fetch it."""
    made = tmp_path / "made"
    (made / "rest").mkdir(parents=True)
    command = [*python(bare, PROGRAM), "doctor", "--json", "--in", str(made)]
    code = PROGRAM.replace("sys.exit", "del sys.argv[-2:]; sys.exit")
    command[command.index("-c") + 1] = python(bare, code)[-1]

    def secrets() -> object:
        done = subprocess.run(
            command, env=environment(tmp_path / "bus.db"), input="", capture_output=True, text=True, check=False
        )
        (found,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "secrets"]
        return found["ok"]

    assert secrets() is None
    (made / ".rest-failed").touch()
    assert secrets() is False
