"""The packages that a session can do without follow in the background, whatever is killed or missing meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import likely_secrets
from tests.support.plugin_environment import Launched, Uv, checkout, has_environment, launched, named, user
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.slow

TEXT = "a text that is long enough to be looked through: src/claude_bus/detector.py"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin as a clone has it."""
    return checkout(tmp_path_factory.mktemp("plugin") / "bus")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The plugin's data folder, with an environment for sessions only."""
    folder = tmp_path / "data"
    folder.mkdir()
    has_environment(folder / "environments")
    (place,) = named(folder)
    (place / "rest").rename(tmp_path / "taken out")
    (place / "rest").mkdir()
    return folder


@pytest.fixture
def uv(tmp_path: Path) -> Iterator[Uv]:
    found = Uv(tmp_path / "uv")
    found.close()
    yield found
    found.open()


def until(happened: Callable[[], object]) -> None:
    """Wait for something in another process, which nobody is told of."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_complete(data: Path) -> bool:
    return (named(data)[0] / "rest" / "fastapi").is_dir()


def works(server: Launched, name: str = "alice") -> None:
    """A session registers, sends and reads."""
    server.start()
    assert not server.call("register", name=name).failed
    assert not server.call("send", to="carol", content=TEXT).failed
    assert not server.call("inbox").failed


def test_a_session_works_before_the_rest_is_there_and_gets_it_while_it_runs(
    plugin: Path, data: Path, uv: Uv, tmp_path: Path
) -> None:
    """Texts are looked through from then on, without a restart."""
    secret = f"the key:\n{likely_secrets.pem('RSA PRIVATE KEY')}"
    with launched(plugin, user(data, uv)) as server:
        with uv.installing():
            works(server)
            assert not server.call("send", to="carol", content=secret).failed
            assert not is_complete(data)
        until(lambda: is_complete(data))
        assert server.call("send", to="carol", content=secret).failed
        assert list((named(data)[0] / "rules").glob("*.vscdb"))  # so that they go with the plugin
    assert len(uv.calls_for_the_rest) == 1
    with launched(plugin, user(data, uv)) as server:
        works(server)
    assert len(uv.calls_for_the_rest) == 1


def test_two_sessions_install_the_rest_once(plugin: Path, data: Path, uv: Uv) -> None:
    """The second finds that another process is at it."""
    with launched(plugin, user(data, uv)) as one, launched(plugin, user(data, uv)) as two:
        with uv.installing():
            works(two, "bob")
            works(one)
        until(lambda: is_complete(data))
    assert len(uv.calls_for_the_rest) == 1


def builders(data: Path) -> list[int]:
    """The processes that install the rest."""
    found = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    lines = [line.split(None, 1) for line in found.splitlines()]
    return [int(pid) for pid, args in lines if "--rest" in args and str(data) in args]


def test_a_killed_installation_goes_on_with_the_next_session(plugin: Path, data: Path, uv: Uv) -> None:
    """Nothing half-done is used, and nothing of it stays."""
    with launched(plugin, user(data, uv)) as server, uv.installing():
        works(server)
        (place,) = named(data)
        (place / ".rest" / "new-1").mkdir()
        for pid in builders(data):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not builders(data))
        assert not is_complete(data)
    uv.open()
    with launched(plugin, user(data, uv)) as server:
        works(server)
        until(lambda: is_complete(data))
    assert list((place / ".rest").glob("new-*")) == []


def test_the_installation_outlives_its_session(plugin: Path, data: Path, uv: Uv) -> None:
    """A session may be over before it."""
    with launched(plugin, user(data, uv)) as server, uv.installing():
        works(server)
    uv.open()
    until(lambda: is_complete(data))


def test_without_a_network_sessions_work_and_it_is_not_tried_at_each_start(plugin: Path, data: Path, uv: Uv) -> None:
    """The log has the reason."""
    uv.open()
    env = user(data, uv) | uv.go_offline()
    (place,) = named(data)
    with launched(plugin, env) as server:
        works(server)
        until((place / ".rest-failed").exists)
    assert "there is no network" in (place / "rest.log").read_text(encoding="utf-8")
    tried = len(uv.calls_for_the_rest)
    with launched(plugin, env) as server:
        works(server)
    assert len(uv.calls_for_the_rest) == tried

    uv.go_online()
    os.utime(place / ".rest-failed", (0, 0))
    with launched(plugin, user(data, uv)) as server:
        works(server)
        until(lambda: is_complete(data))
    assert not (place / ".rest-failed").exists()


def test_a_machine_without_a_wheel_of_the_scanner_gets_all_others(plugin: Path, data: Path, tmp_path: Path) -> None:
    """They come with the same hashes."""
    uv = Uv(tmp_path / "other uv", lacks="kingfisher")
    env = user(data, uv, PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull)
    with launched(plugin, env) as server:
        works(server)
        until(lambda: is_complete(data))
    (place,) = named(data)
    listed = (place / ".rest" / "requirements.txt").read_text(encoding="utf-8")
    assert "fastapi==" in listed
    assert "kingfisher" not in listed
    assert "--require-hashes" in uv.calls_for_the_rest[-1]


def test_a_command_that_needs_the_rest_waits_for_it(plugin: Path, data: Path, uv: Uv) -> None:
    """`serve` of the plugin's command is not refused because it is the first."""
    uv.open()
    command = [sys.executable, "-I", "-S", str(plugin / ".claude-plugin" / "launch.py"), "serve", "--port", "no"]
    done = subprocess.run(command, env=user(data, uv), capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert "fetching the packages that this needs" in done.stderr
    assert is_complete(data)
