"""`claude-bus listen`, with real processes, a real server and real files."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.agent_bus_server import (
    WIRES,
    Program,
    Server,
    environment,
    ok,
    on_every_wire,
    post,
    program,
    run,
    scripted,
)
from tests.support.processes import eventually

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Place:
    """The folder in which a listener writes, and the environment that configures it."""

    folder: Path
    server: Server

    @property
    def env(self) -> dict[str, str]:
        files = {name: str(self.folder / name.lower()) for name in ("LOG", "FULL", "HEARTBEAT", "PID_FILE")}
        state = str(self.folder / "state")
        return environment(
            self.folder, AGENT_BUS_URL=self.server.url, AGENT_NAME="bob", AGENT_BUS_STATE_DIR=state, **files
        )

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []

    def messages(self) -> list[str]:
        """The texts of the messages in FULL."""
        return [json.loads(line)["msg"] for line in self.lines("full")]

    def begun(self) -> bool:
        return bool(list((self.folder / "state").glob("listen-*.cursor")))


@pytest.fixture
def wire() -> str:
    """One of the servers; see `on_every_wire`."""
    return "small"


@pytest.fixture
def place(wire: str, tmp_path: Path) -> Iterator[Place]:
    """A bus that speaks the protocol, and a folder."""
    with WIRES[wire](tmp_path) as server:
        yield Place(tmp_path, server)


@on_every_wire
def test_it_writes_what_comes(place: Place, tmp_path: Path) -> None:
    """One tab-separated line per message in LOG, the whole message in FULL, the time in HEARTBEAT, the pid in
    PID_FILE.
    """
    body = "one\ttab\nnext " + "x" * 200
    with program(tmp_path, place.env, "listen") as listener:
        eventually(place.begun)
        ts = post(place.server.url, "bob", body)
        post(place.server.url, "bob", "— ü 🎉", sender="zoë")
        eventually(lambda: len(place.lines("log")) == 2)
        assert (tmp_path / "pid_file").read_text() == f"{listener.process.pid}\n"
        assert listener.end() == 0

    first, second = place.lines("log")
    shown = f"one tab | next {'x' * 200}"[:120]
    stamp, sender, said = first.split("\t")
    assert (round(float(stamp), 5), sender, said) == (round(ts, 5), "ann", shown)
    assert second.split("\t")[1:] == ["zoë", "— ü 🎉"]
    message = json.loads(place.lines("full")[0])
    assert (message["from"], message["msg"], round(message["ts"], 5)) == ("ann", body, round(ts, 5))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", place.lines("heartbeat")[0])
    assert not (tmp_path / "pid_file").exists()


def test_its_files_are_the_users_alone(place: Place, tmp_path: Path) -> None:
    """Only the user can read mail, whatever the umask is."""
    with program(tmp_path, place.env, "listen"):
        eventually(place.begun)
        post(place.server.url, "bob", "hello")
        eventually(lambda: place.lines("log"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.is_file()}

    assert {modes[name] for name in ("log", "full", "heartbeat", "pid_file")} == {0o600}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


@on_every_wire
def test_it_never_repeats(place: Place, tmp_path: Path) -> None:
    """More messages than one request returns, over three runs: each is written once, in order."""
    with program(tmp_path, place.env, "listen") as listener:
        eventually(place.begun)
        listener.end()
    for number in range(120):
        post(place.server.url, "bob", f"message {number}")
    with program(tmp_path, place.env, "listen") as listener:
        eventually(lambda: len(place.lines("log")) >= 50)
        listener.end()
    with program(tmp_path, place.env, "listen"):
        eventually(lambda: len(place.lines("log")) >= 120)
        post(place.server.url, "bob", "last")
        eventually(lambda: len(place.lines("log")) > 120)  # it is written after the other file

    expected = [*(f"message {number}" for number in range(120)), "last"]
    assert place.messages() == expected
    assert [line.split("\t")[2] for line in place.lines("log")] == expected


@on_every_wire
def test_a_killed_listener_loses_nothing(place: Place, tmp_path: Path) -> None:
    """If it is killed while mail comes, the next one continues; its files contain only complete lines."""
    for run_ in range(5):
        with program(tmp_path, place.env, "listen") as listener:
            eventually(place.begun)
            for number in range(run_ * 20, run_ * 20 + 20):
                post(place.server.url, "bob", f"message {number}")
            eventually(lambda: f"message {run_ * 20}" in place.messages())  # noqa: B023 - called at once
            listener.end(signal.SIGKILL)
    with program(tmp_path, place.env, "listen"):
        eventually(lambda: "message 99" in place.messages())

    assert list(dict.fromkeys(place.messages())) == [f"message {number}" for number in range(100)]


def test_there_is_one_listener(place: Place, tmp_path: Path) -> None:
    """A second one is refused, told the pid of the first, and changes nothing. After the first has ended, another
    may start.
    """
    with program(tmp_path, place.env, "listen") as first:
        eventually(place.begun)
        second = run(place.env, "listen")
        assert (second.returncode, second.stdout) == (4, b"")
        assert f"pid {first.process.pid}".encode() in second.stderr
        assert (tmp_path / "pid_file").read_text() == f"{first.process.pid}\n"
        first.end(signal.SIGKILL)
    assert (tmp_path / "pid_file").exists()
    with program(tmp_path, place.env, "listen") as third:
        eventually(lambda: (tmp_path / "pid_file").read_text() == f"{third.process.pid}\n")
        assert third.end(signal.SIGINT) == 130
    assert not (tmp_path / "pid_file").exists()


def test_of_many_that_start_at_once_one_listens(place: Place, tmp_path: Path) -> None:
    """The first one wins; all others are refused."""
    started = [Program(tmp_path, place.env, "listen") for _ in range(5)]
    try:
        eventually(lambda: sum(one.process.poll() is not None for one in started) == 4)
        assert sorted(str(one.process.poll()) for one in started) == ["4", "4", "4", "4", "None"]
    finally:
        for one in started:
            one.process.kill()
            one.wait()


def test_a_server_that_is_down_is_waited_for(place: Place, tmp_path: Path) -> None:
    """The listener and its heartbeat go on; afterwards everything is written."""
    with program(tmp_path, place.env, "listen") as listener:
        eventually(place.begun)
        place.server.stop()
        eventually(lambda: "# transient" in listener.complaints)
        (tmp_path / "heartbeat").unlink()
        eventually(lambda: place.lines("heartbeat"))
        place.server.start()
        post(place.server.url, "bob", "back")
        eventually(lambda: place.messages() == ["back"])


def test_a_full_disk_loses_and_repeats_nothing(place: Place, tmp_path: Path) -> None:
    """A message that one of the files has no room for is written to none, until there is room again."""
    log = tmp_path / "log"
    log.symlink_to("/dev/full")
    with program(tmp_path, place.env, "listen") as listener:
        eventually(place.begun)
        post(place.server.url, "bob", "patience")
        eventually(lambda: listener.complaints.count("# transient: OSError") >= 2)
        eventually(lambda: place.lines("full") == [])  # between two attempts: each one writes there first
        log.unlink()
        eventually(lambda: len(place.lines("log")) == 1)
        assert place.messages() == ["patience"]
        assert listener.end() == 0
    assert (place.messages(), len(place.lines("log"))) == (["patience"], 1)


def test_what_a_message_holds_cannot_break_a_line(tmp_path: Path) -> None:
    """Tabs, newlines, terminal sequences and unpaired surrogates stay within one line of either file."""
    odd = 'a\tb\n1\t2\t3\r\x1b[2J\u2028 \\ud800 "'
    answer = ok({"messages": [{"ts": 2e9, "from": "eve\n1\tann", "msg": odd, "extra": {"deep": [1]}}]})
    with scripted(answer.replace(b"\\\\ud800", b"\\ud800 "), ok({"messages": []})) as server:
        place = Place(tmp_path, server)  # type: ignore[arg-type] # it need not start again
        with program(tmp_path, place.env, "listen"):
            eventually(lambda: place.lines("log"))

    assert [line.split("\t") for line in place.lines("log")] == [
        ["2000000000.0", "eve 1 ann", 'a b | 1 2 3\\r\\x1b[2J\\u2028 \\ud800  "']
    ]
    [line] = place.lines("full")
    assert json.loads(line)["extra"] == {"deep": [1]}
    assert json.loads(line)["msg"].startswith("a\tb\n1\t2\t3\r\x1b[2J\u2028 \ud800")


def test_without_a_name_it_does_not_start(place: Place) -> None:
    """Like the original it needs AGENT_NAME; the name may also be an argument."""
    env = place.env | {"AGENT_NAME": ""}
    done = run(env, "listen")
    assert (done.returncode, b"AGENT_NAME env var required" in done.stderr) == (2, True)
    with program(place.folder, env, "listen", "bob") as listener:
        eventually(place.begun)
        assert "listening for bob" in listener.complaints


def test_where_it_writes_unless_told(place: Place, tmp_path: Path) -> None:
    """All its files are in the state folder, by name and channel, so that two listeners do not collide."""
    env = {name: value for name, value in place.env.items() if name not in ("LOG", "FULL", "HEARTBEAT", "PID_FILE")}
    with (
        program(tmp_path, env, "listen"),
        program(tmp_path, env | {"AGENT_BUS_CHANNEL": "shop"}, "listen"),
    ):
        state = tmp_path / "state"
        for kind in ("heartbeat", "pid", "cursor"):
            for channel in ("default", "shop"):
                eventually(lambda: list(state.glob(f"listen-bob-{channel}-*.{kind}")))  # noqa: B023 - called at once
