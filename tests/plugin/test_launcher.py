"""The launcher: how it starts the plugin's server, on the first and later starts, and after damage."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import claude_bus
from tests.support.plugin_environment import (
    LAUNCHER,
    Uv,
    broken_uv,
    checkout,
    environment,
    has_environment,
    launched,
    machine,
    made,
    named,
    user,
)
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.slow


def run(
    plugin: Path, env: dict[str, str], *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the launcher to its end; with arguments it runs the command line instead of the server."""
    command = [sys.executable, "-I", "-S", str(plugin / ".claude-plugin" / "launch.py"), *arguments]
    return subprocess.run(
        command, env=env, cwd=cwd, input="", capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )


# -- starts ---------------------------------------------------------------------------


def test_first_and_second_start(plugin: Path, data: Path, uv: Uv) -> None:
    """The first start makes the environment and then serves; the second reuses it."""
    with launched(plugin, user(data, uv)) as server:
        assert "registered 'alice'" in server.start().call("register", name="alice").text
    calls = uv.calls
    assert [call.split()[0] for call in calls] == ["venv", "pip"]
    assert "--require-hashes" in calls[1]
    assert "--only-binary :all:" in calls[1]
    assert f"-r {plugin / '.claude-plugin' / 'requirements-session.txt'}" in calls[1]
    with launched(plugin, user(data, uv)) as server:
        server.start()
        assert "registered 'alice'" in server.call("register", name="alice").text
        assert server.end() == 0
    assert uv.calls == calls
    assert len(made(data)) == 1


def test_venv_and_pip_do_without_uv(tmp_path: Path) -> None:
    """If uv fails, venv and pip make an environment of exactly the locked packages."""
    code = (
        "import importlib.metadata as m, sys; print(*(f'{d.name}=={d.version}' for d in m.distributions(path=[PATH])))"
    )
    (packages,) = environment().glob("lib/python*/site-packages")
    found = {}
    for folder in (packages, environment() / "rest"):
        command = [str(environment() / "bin" / "python"), "-I", "-c", code.replace("PATH", repr(str(folder)))]
        names = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()
        found[folder.name] = {name.lower().replace("_", "-") for name in names} - {"pip", "setuptools"}
    locked = [
        {line.split()[0] for line in (LAUNCHER / name).read_text().splitlines() if "==" in line}
        for name in ("requirements-session.txt", "requirements.txt")
    ]
    assert found["site-packages"] <= locked[0]
    assert found["rest"] <= locked[1] - locked[0]
    assert {name.partition("==")[0] for name in found["rest"]} >= {"fastapi", "limits", "kingfisher-secret-scanner"}


def test_an_edit_takes_effect_with_the_next_start(plugin: Path, data: Path) -> None:
    """There is no build and no installed copy between the plugin's source and the server."""
    has_environment(data / "environments")
    assert run(plugin, user(data), "--version").stdout == f"claude-bus {claude_bus.__version__}\n"
    source = plugin / "src" / "claude_bus" / "__init__.py"
    source.write_text(source.read_text().replace(claude_bus.__version__, "99.0.0"))
    assert run(plugin, user(data), "--version").stdout == "claude-bus 99.0.0\n"


def test_the_exit_status_is_that_of_the_program(plugin: Path, data: Path) -> None:
    """The launcher exits with the program's exit status."""
    has_environment(data / "environments")
    assert run(plugin, user(data), "send", "no name", "hello").returncode == 2


def test_a_chosen_interpreter(plugin: Path, data: Path) -> None:
    """CLAUDE_BUS_PYTHON is used unchanged, and no environment is made."""
    env = user(data, CLAUDE_BUS_PYTHON=str(environment() / "bin" / "python"))
    assert run(plugin, env, "--version").stdout == f"claude-bus {claude_bus.__version__}\n"
    assert list(data.iterdir()) == []


def test_a_chosen_interpreter_that_is_not_there(plugin: Path, data: Path) -> None:
    """An error names it; no other interpreter is used instead."""
    done = run(plugin, user(data, CLAUDE_BUS_PYTHON="/no/such/python"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot run /no/such/python" in done.stderr


def test_without_the_client_the_environment_is_in_the_users_cache(plugin: Path, tmp_path: Path) -> None:
    """Without the plugin's data folder, as in a server added by hand, it is in ~/.cache/claude-bus."""
    has_environment(tmp_path / "cache" / "claude-bus" / "environments")
    env = machine({"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert run(plugin, env, "--version").returncode == 0


def test_setup_needs_no_environment(plugin: Path, uv: Uv, tmp_path: Path) -> None:
    """Setup runs with the available Python; no packages are fetched for it, since none would be removed later."""
    env = machine({"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": ""}, without=("claude",), first=uv.folder)
    (tmp_path / "home").mkdir()
    done = run(plugin, env, "setup", "--yes")
    assert (done.returncode, done.stderr) == (3, "")
    assert "claude is not on your PATH" in done.stdout
    assert uv.calls == []
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("way", ["installPath", "installLocation"])
def test_a_command_before_the_plugins_first_session(plugin: Path, uv: Uv, tmp_path: Path, way: str) -> None:
    """The environment is made where the plugin's own belongs, and is removed with the plugin: there is no second
    one.
    """
    plugins = tmp_path / "home" / ".claude" / "plugins"
    plugins.mkdir(parents=True)
    copy = str(plugin if way == "installPath" else plugins / "cache")
    market = str(plugin if way == "installLocation" else plugins / "marketplaces")
    installed = {"plugins": {"other@x": None, "bus@claude-bus": [{"installPath": copy}]}}
    (plugins / "installed_plugins.json").write_text(json.dumps(installed))
    (plugins / "known_marketplaces.json").write_text(json.dumps({"claude-bus": {"installLocation": market}}))
    env = machine({"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": ""}, first=uv.folder)

    assert run(plugin, env, "--version").stdout == f"claude-bus {claude_bus.__version__}\n"

    data = plugins / "data" / "bus-claude-bus"
    assert len(named(data)) == 1
    assert not (tmp_path / "home" / ".cache").exists()
    assert run(plugin, {**env, "CLAUDE_PLUGIN_DATA": str(data)}, "--version").returncode == 0
    assert run(plugin, env, "--version").returncode == 0
    assert [call.split()[0] for call in uv.calls] == ["venv", "pip"]


def test_nothing_of_the_users_python_gets_in(plugin: Path, data: Path, tmp_path: Path) -> None:
    """Modules in the working folder or on PYTHONPATH with the names of ours are not imported."""
    has_environment(data / "environments")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name in ("mcp", "claude_bus", "json", "launch", "sitecustomize"):
        (foreign / f"{name}.py").write_text("raise SystemExit('foreign')")
    env = user(data, PYTHONPATH=str(foreign), PYTHONSTARTUP=str(foreign / "json.py"), PYTHONHOME=str(foreign))
    with launched(plugin, env, cwd=foreign) as server:
        server.start()
        assert server.end() == 0


# -- failures ---------------------------------------------------------------------------


def test_no_way_to_the_packages(plugin: Path, data: Path, tmp_path: Path) -> None:
    """If every way fails, a command fails with the reason on stderr, and leaves nothing behind."""
    env = user(data, PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull)
    done = run(plugin, env | {"PATH": str(broken_uv(tmp_path / "bin"))}, "--version")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the package index that uv and pip use lacks a package" in done.stderr
    assert f"The whole story is in {data / 'environments' / 'build.log'}" in done.stderr
    assert made(data) == []


def test_a_folder_that_cannot_be_written(plugin: Path, data: Path) -> None:
    """An error names the folder."""
    (data / "environments").write_text("a file")
    done = run(plugin, user(data), "--version")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"in {data / 'environments'}: " in done.stderr


def test_an_environment_that_lost_its_packages(plugin: Path, data: Path, uv: Uv) -> None:
    """After an upgrade of its Python, for example, it is made anew, and the start continues."""
    has_environment(data / "environments")
    (place,) = named(data)
    (packages,) = place.glob("lib/python*/site-packages")
    shutil.rmtree(packages / "aiosqlite")
    with launched(plugin, user(data, uv)) as server:
        assert not server.start().call("register", name="alice").failed
    assert len(uv.calls) == 2
    assert len(named(data)) == 1


def test_an_environment_of_another_machine(plugin: Path, data: Path, uv: Uv) -> None:
    """If its Python is missing here, as between a container and its host, the environment is left alone."""
    has_environment(data / "environments")
    (place,) = named(data)
    theirs = place.rename(place.with_name(f"{place.name[:-8]}00000000"))
    for name in ("python", "python3", f"python3.{sys.version_info[1]}"):
        with contextlib.suppress(FileNotFoundError):
            (theirs / "bin" / name).unlink()
    (theirs / "bin" / "python").symlink_to("/not/on/this/machine/python")
    assert run(plugin, user(data, uv), "--version").returncode == 0
    assert len(named(data)) == 2
    assert run(plugin, user(data, uv), "--version").returncode == 0
    assert len(uv.calls) == 2


def test_environments_of_earlier_versions(plugin: Path, data: Path, uv: Uv, tmp_path: Path) -> None:
    """When the requirements change, the old environment is removed as soon as no server uses it."""
    has_environment(data / "environments")
    (before,) = named(data)
    newer = checkout(tmp_path / "newer")
    newest = checkout(tmp_path / "newest")
    for place, comment in ((newer, "# newer\n"), (newest, "# newest\n")):
        with (place / ".claude-plugin" / "requirements.txt").open("a") as file:
            file.write(comment)
    with launched(plugin, user(data, uv)) as server:
        server.start()
        assert run(newer, user(data, uv), "--version").returncode == 0
        assert before in named(data)
        server.start()
    assert run(newest, user(data, uv), "--version").returncode == 0
    assert len(named(data)) == 1
    assert before not in named(data)


@pytest.mark.parametrize("name", ["launch.py", "first_start.py", "environment.py"])
def test_old_pythons_can_read_it(name: str) -> None:
    """Any `python3` from 3.8 on can parse the launcher, which then finds a newer one."""
    ast.parse((LAUNCHER / name).read_text(encoding="utf-8"), feature_version=(3, 8))


# -- permitted folders ------------------------------------------------------------------


def planted(folder: Path) -> Path:
    """An environment that leaves a trace when it is run."""
    has_environment(folder)
    (place,) = (place for place in folder.iterdir() if place.is_dir())
    python = place / "bin" / "python"
    python.unlink()
    python.write_text("#!/bin/sh\necho planted\n")
    python.chmod(0o755)
    return folder


def open_to_all(folder: Path) -> None:
    folder.chmod(0o777)


def of_somebody_else(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    os.chown(folder, 4711, 4711)


def behind_a_folder_open_to_all(folder: Path) -> None:
    folder.parent.chmod(0o777)


def behind_a_folder_of_somebody_else(folder: Path) -> None:
    of_somebody_else(folder.parent)


def of_a_group(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder to any group")
    os.chown(folder, -1, 4711)
    folder.chmod(0o770)


def behind_a_link(folder: Path) -> None:
    open_to_all(folder.rename(folder.with_name("elsewhere")))
    folder.symlink_to(folder.with_name("elsewhere"))


EXPOSED = (
    open_to_all,
    of_somebody_else,
    behind_a_folder_open_to_all,
    behind_a_folder_of_somebody_else,
    of_a_group,
    behind_a_link,
)


@pytest.mark.parametrize("expose", EXPOSED)
def test_an_environment_that_others_could_have_planted(
    plugin: Path, data: Path, uv: Uv, tmp_path: Path, expose: Callable[[Path], None]
) -> None:
    """It is not run; another one is made in the user's cache."""
    expose(planted(data / "environments"))
    env = user(data, uv, XDG_CACHE_HOME=str(tmp_path / "cache"))

    assert run(plugin, env, "--version").stdout == f"claude-bus {claude_bus.__version__}\n"

    assert (tmp_path / "cache" / "claude-bus" / "environments").is_dir()


def test_a_folder_in_a_sticky_one(plugin: Path, data: Path) -> None:
    """As in /tmp: others may add to the parent folder, but cannot remove or rename the user's folder."""
    has_environment(data / "environments")
    data.chmod(0o1777)
    assert run(plugin, user(data), "--version").returncode == 0


def test_no_folder_that_only_the_user_can_change(plugin: Path, data: Path, uv: Uv, tmp_path: Path) -> None:
    """An error names each folder, and nothing is run or made."""
    shared = tmp_path / "shared"
    planted(shared / "claude-bus" / "environments")
    open_to_all(shared)
    places = {name: str(shared) for name in ("XDG_CACHE_HOME", "HOME", "TMPDIR")}

    done = run(plugin, {**user(data, uv, **places), "CLAUDE_PLUGIN_DATA": ""}, "--version")

    assert (done.returncode, done.stdout) == (1, "")
    assert f"{shared} can be changed by others" in done.stderr
    assert uv.calls == []


@pytest.mark.parametrize("home", ["relative", "."])
def test_a_home_that_is_relative_holds_no_environment(plugin: Path, uv: Uv, tmp_path: Path, home: str) -> None:
    """A relative home would be another folder in every working folder; the user's part of the temporary folder is
    used.
    """
    (tmp_path / "project").mkdir()
    passing = tmp_path / "passing"
    passing.mkdir()
    env = machine({"HOME": home, "XDG_CACHE_HOME": home, "TMPDIR": str(passing)}, first=uv.folder)

    done = run(plugin, env, "--version", cwd=tmp_path / "project")

    assert (done.returncode, done.stdout) == (0, f"claude-bus {claude_bus.__version__}\n")
    assert list((tmp_path / "project").iterdir()) == []
    assert (passing / f"user-{os.geteuid()}" / "claude-bus" / "environments").is_dir()
