"""The supervisor of the stdio server: it keeps the client connected, whatever happens to the server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from claude_bus import supervisor
from claude_bus.mcp import hooks
from claude_bus.mcp.tools import TOOLS
from tests.support.processes import PATIENCE, Peer, Wire, answer, environment, eventually, suspend

pytestmark = pytest.mark.slow


class Supervised(Wire):
    """The process that a client starts: a supervisor with its server."""

    program = ("-m", "claude_bus")

    def server(self) -> psutil.Process:
        """The server that is running, or about to run."""
        me, end = psutil.Process(self.process.pid), time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for child in me.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.status() != psutil.STATUS_ZOMBIE:
                        return child
        raise AssertionError("no server runs")

    def kill_server(self) -> None:
        server = self.server()
        server.kill()
        psutil.wait_procs([server], PATIENCE)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Supervised]:
    with supervised(tmp_path / "bus.db") as running:
        yield running


@contextlib.contextmanager
def supervised(db: Path, **env: str) -> Iterator[Supervised]:
    running = Supervised(db, **env)
    try:
        yield running
    finally:
        running.kill()


class Mortal(Supervised):
    """A supervisor whose servers are stand-ins: the first `lives` of them die of the request `fatal`."""

    def __init__(self, log: Path, lives: int, fatal: str) -> None:
        command = f"[{sys.executable!r}, '-m', 'tests.support.mortal_server', '{lives}', {fatal!r}]"
        self.program = ("-c", f"from claude_bus.supervisor import spawning, supervise; supervise(spawning({command}))")
        self._log = log
        super().__init__(log)

    def said(self) -> list[str]:
        """The requests that its servers received, and their deaths."""
        return self._log.read_text().split() if self._log.exists() else []


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Callable[[int, str], Mortal]]:
    with contextlib.ExitStack() as running:

        def start(lives: int, fatal: str) -> Mortal:
            client = Mortal(tmp_path / "log", lives, fatal)
            running.callback(client.kill)
            return client

        yield start


def test_a_killed_server_is_back_for_the_next_call(client: Supervised) -> None:
    """The session keeps its name, and its client notices nothing, however often its server is killed."""
    client.start().call("register", name="alice")

    for _ in range(3):
        client.kill_server()
        assert client.call("whoami").text == "alice"


NEWEST = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
"""The `_meta` of each request of the newest protocol, which has no handshake."""


def test_the_newest_protocol_needs_no_greeting(client: Supervised) -> None:
    """A client of 2026-07-28 sends no opening, so none is repeated for it."""
    call = {"name": "register", "arguments": {"name": "alice"}, "_meta": NEWEST}
    assert not answer(client.ask("tools/call", **call)).failed

    client.kill_server()

    assert answer(client.ask("tools/call", name="whoami", arguments={}, _meta=NEWEST)).text == "alice"


def test_a_handshake_that_was_refused_is_not_repeated(client: Supervised) -> None:
    """A client may try a second opening before the first is answered; the first was accepted, and only it counts."""
    client.post("server/discover", _meta=NEWEST)
    client.start()
    assert answer(client.ask("tools/call", name="whoami", arguments={}, _meta=NEWEST)).text.startswith("not registered")

    client.kill_server()

    assert answer(client.ask("tools/call", name="whoami", arguments={}, _meta=NEWEST)).text.startswith("not registered")


def test_it_goes_on_where_its_launcher_left_off(tmp_path: Path) -> None:
    """The launcher has answered the opening, and leaves a call and half a line, which are answered now."""
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    call = {"name": "register", "arguments": {"name": "é"}}
    said = [
        {"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": "b", "method": "tools/call", "params": call},
        {"jsonrpc": "2.0", "id": "c", "method": "ping"},
    ]
    lines = [json.dumps(message, ensure_ascii=False) + "\n" for message in said]
    left = tmp_path / "left"
    left.write_text(json.dumps({"opening": lines[:2], "rest": lines[2] + lines[3][:20]}), encoding="utf-8")

    with supervised(tmp_path / "bus.db", CLAUDE_BUS_OPENED=str(left)) as client:
        client.write(lines[3][20:-1].encode())
        assert {client.read()["id"], client.read()["id"]} == {"b", "c"}
        client.kill_server()
        assert client.call("whoami").text == "é"

    assert not left.exists()


LOST = {
    "missing": None,
    "empty": "",
    "torn": '{"opening": ["{\\"jsonrpc',
    "something else": "[1]",
    "lost before": '{"opening": null, "rest": ""}',
    "not text": '{"opening": [1], "rest": ""}',
}


@pytest.mark.parametrize("content", LOST.values(), ids=LOST)
def test_a_hand_over_that_is_lost_is_said_in_a_line_and_the_tools_work(tmp_path: Path, content: str | None) -> None:
    """The client has shaken hands and will not do so again; it may also begin anew, or need no handshake."""
    left = tmp_path / "left"
    if content is not None:
        left.write_text(content)
    for number, opens in enumerate(("nothing", "handshake", "newest")):
        with supervised(tmp_path / "bus.db", CLAUDE_BUS_OPENED=str(left)) as client:
            if opens == "handshake":
                client.start()
            meta = {"_meta": NEWEST} if opens == "newest" else {}
            call = {"name": "register", "arguments": {"name": f"a{number}"}, **meta}
            assert not answer(client.ask("tools/call", **call)).failed
            client.kill_server()
            assert answer(client.ask("tools/call", name="whoami", arguments={}, **meta)).text == f"a{number}"
    assert not left.exists()


def test_mail_that_a_killed_server_had_handed_over_comes_again(client: Supervised, tmp_path: Path) -> None:
    """The mail is unconfirmed: it waits again as soon as a server runs, and comes marked."""
    client.start().call("register", name="alice")
    peer = Peer(tmp_path / "bus.db", "bob")
    peer.send("alice", "are you there?")
    assert "are you there?" in client.hook("UserPromptSubmit")
    assert peer.state(1) == "handed"

    client.kill_server()
    client.call("whoami")

    assert peer.state(1) == "queued"
    again = client.hook("PostToolBatch")
    assert "are you there?" in again
    assert 'possibly_seen="true"' in again
    client.hook("Stop")
    assert peer.state(1) == "read"


def test_a_prompt_typed_in_the_middle_of_a_turn_is_known_for_one_by_the_next_server(
    client: Supervised, tmp_path: Path
) -> None:
    """The prompt may join a later turn, so it carries no mail; the batch that follows does."""
    client.start().call("register", name="alice")
    client.hook("UserPromptSubmit", prompt="p1")
    client.kill_server()
    Peer(tmp_path / "bus.db", "bob").send("alice", "news")

    assert client.hook("UserPromptSubmit", prompt="p1") == ""
    assert "news" in client.hook("PostToolBatch")


def test_a_harmless_request_is_put_to_the_next_server(client: Supervised) -> None:
    """A hook event or a read that was in flight when the server died is answered all the same."""
    client.start().call("register", name="alice")
    client.server().suspend()
    asked = client.post("tools/call", name="whoami", arguments={})

    client.kill_server()

    found = client.read()
    assert (found["id"], answer(found).text) == (asked, "alice")


def test_a_request_that_changes_something_is_not_repeated(mortal: Callable[[int, str], Mortal]) -> None:
    """Its effect is unknown; the answer says so, and how to find out."""
    client = mortal(1, "send")

    found = client.ask("tools/call", name="send", arguments={"to": "bob", "content": "once"})

    assert "whether the call took effect is not known" in found["error"]["message"]
    assert "result" in client.ask("tools/call", name="history", arguments={})
    assert client.said() == ["send", "died", "history"]


def test_a_request_that_kills_servers_is_given_up(mortal: Callable[[int, str], Mortal]) -> None:
    """It is repeated once, not for ever."""
    client = mortal(2, "whoami")

    found = client.ask("tools/call", name="whoami", arguments={})

    assert found["error"]["code"] == -32603
    assert "result" in client.ask("tools/call", name="whoami", arguments={})
    assert client.said() == ["whoami", "died", "whoami", "died", "whoami"]


def test_an_opening_is_repeated_as_often_as_it_takes(mortal: Callable[[int, str], Mortal]) -> None:
    """A client whose servers are killed while they start is greeted by the first that survives."""
    client = mortal(3, "initialize")

    client.start()

    assert "result" in client.ask("tools/call", name="whoami", arguments={})
    client.kill_server()
    assert "result" in client.ask("tools/call", name="whoami", arguments={})
    greeted = ["initialize", "notifications/initialized", "whoami"]
    assert client.said() == ["initialize", "died"] * 3 + greeted * 2


def test_a_request_the_client_gave_up_is_not_repeated(mortal: Callable[[int, str], Mortal]) -> None:
    """No client waits for its answer."""
    client = mortal(1, "ping")
    asked = client.post("tools/call", name="whoami", arguments={})
    eventually(client.said, "a server is given the request")
    client.write({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": asked}})
    number = client.post("ping")

    assert client.read()["id"] == number
    assert client.said() == ["whoami", "notifications/cancelled", "ping", "died", "ping"]


def test_what_is_no_json_goes_through(client: Supervised) -> None:
    """The supervisor forwards lines that it cannot parse; the server refuses them."""
    client.start()
    client.write(b"not json")
    client.write(b"[1, 2]")
    client.write(b'{"jsonrpc": "2.0", "id": [1], "method": "ping"}')

    assert not client.call("whoami").failed


def test_the_end_of_its_input_ends_both(client: Supervised) -> None:
    """When a client closes the pipe, no process is left, and the session is over."""
    client.start()
    server = client.server()

    assert client.end() == 0
    assert not server.is_running()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both(client: Supervised, number: signal.Signals) -> None:
    """Claude Code ends its servers with this signal; the session leaves the bus at once."""
    client.start()
    server = client.server()

    client.process.send_signal(number)

    assert client.process.wait(PATIENCE) == 0
    assert not server.is_running()


def test_a_signal_that_came_while_it_was_suspended_ends_both(mortal: Callable[[int, str], Mortal]) -> None:
    """The system may deliver such a signal to any thread, chosen by chance."""
    for _ in range(8):
        client = mortal(0, "nothing")
        client.ask("ping")
        server = client.server()

        suspend(client.process.pid)
        for number in (signal.SIGTERM, signal.SIGCONT):
            client.process.send_signal(number)

        assert client.process.wait(PATIENCE) == 0
        assert not server.is_running()


def test_a_killed_supervisor_leaves_no_server_behind(client: Supervised) -> None:
    """The server notices the end of its input."""
    client.start()
    server = client.server()

    client.process.kill()

    gone, _ = psutil.wait_procs([server], PATIENCE)
    assert gone


def test_a_server_that_cannot_run_ends_its_supervisor(tmp_path: Path) -> None:
    """The reason is on stderr, the exit status is the server's, and nothing is retried."""
    code = (
        "from claude_bus.supervisor import spawning, supervise; "
        "supervise(spawning([{0!r}, '-c', 'import sys; sys.exit(\"no\")']))"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code.format(sys.executable)],
        env=environment(tmp_path / "bus.db"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.wait(PATIENCE) == 1
    finally:
        running.kill()
        _, said = running.communicate()
    assert said == "no\n"


def test_servers_that_die_without_a_word_are_given_up(tmp_path: Path) -> None:
    """After five such deaths in a row the client is told."""
    log = tmp_path / "log"
    dying = f"import os; open({str(log)!r}, 'a').write('started\\n'); os.kill(os.getpid(), {int(signal.SIGKILL)})"
    command = f"[{sys.executable!r}, '-c', {dying!r}]"
    running = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from claude_bus.supervisor import spawning, supervise; supervise(spawning({command}))",
        ],
        env=environment(tmp_path / "bus.db"),
        stdin=subprocess.PIPE,
    )
    try:
        assert running.wait(PATIENCE) == 1
    finally:
        running.kill()
        running.communicate()
    assert log.read_text() == "started\n" * 5


def test_it_is_a_small_process() -> None:
    """It loads neither packages nor a database, and little of the standard library: a shortage of memory kills the
    server rather than the supervisor, and what it has loaded is what a start waits for.
    """
    code = "import sys, claude_bus.supervisor, claude_bus.cli.start; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(Path()), capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}

    assert "claude_bus" in loaded
    assert not loaded & {"mcp", "pydantic", "anyio", "aiosqlite", "sqlite3", "psutil"}
    assert not loaded & {
        "asyncio",
        "subprocess",
        "threading",
        "dataclasses",
        "pathlib",
        "argparse",
        "logging",
        "typing",
    }


def test_the_tools_it_repeats_change_nothing() -> None:
    """They only read; hook events are repeated too, and bring unconfirmed mail again."""
    looking = {name for name, tool in TOOLS.items() if not tool.changes}

    assert looking | {hooks.NAME} == supervisor.REPEATABLE


_ELSEWHERE = """
import select, sys
del select.poll
from claude_bus.supervisor import spawning, supervise
supervise(spawning([sys.executable, '-m', 'claude_bus', 'stdio']))
"""


class Elsewhere(Supervised):
    """As on a system without `fork` and `poll`: threads read the pipes, and servers are started with a command."""

    program = ("-c", _ELSEWHERE)


def test_it_works_where_nothing_forks(tmp_path: Path) -> None:
    """Restart, the repeated handshake, the end."""
    client = Elsewhere(tmp_path / "bus.db")
    try:
        client.start().call("register", name="alice")
        client.kill_server()
        assert client.call("whoami").text == "alice"
        server = client.server()
        assert client.end() == 0
        assert not server.is_running()
    finally:
        client.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
def test_its_server_is_a_fork_and_so_is_the_next(client: Supervised) -> None:
    """It keeps none of the client's pipes, so the client notices when its supervisor is gone."""
    client.start()
    for _ in range(2):
        server = client.server()
        assert server.cmdline() == psutil.Process(client.process.pid).cmdline()
        assert {Path(f"/proc/{server.pid}/fd/{number}").readlink() for number in (0, 1)}.isdisjoint(
            {Path(f"/proc/{client.process.pid}/fd/{number}").readlink() for number in (0, 1)}
        )
        client.kill_server()
        client.call("whoami")


def test_a_client_may_ask_for_long_before_it_reads(client: Supervised) -> None:
    """Its requests and answers are more than the pipes hold, and none is lost."""
    client.start()
    asked = [client.post("tools/list") for _ in range(300)]
    writing = [client.post("ping", filler="x" * 50_000) for _ in range(20)]

    assert [client.read()["id"] for _ in (*asked, *writing)] == [*asked, *writing]


def test_a_line_that_is_too_long_is_refused_and_the_next_is_answered(client: Supervised) -> None:
    """It is not kept either, so that it cannot cost the supervisor its memory."""
    client.start()
    client.write(b'{"jsonrpc":"2.0","id":"long","method":"ping","params":{"x":"' + b"x" * (17 << 20) + b'"}}')

    assert (found := client.read())["id"] == "long"
    assert "is longer than 16 MiB" in found["error"]["message"]
    assert client.call("whoami").text.startswith("not registered")


def test_settings_that_are_refused_end_both_before_any_answer(tmp_path: Path) -> None:
    """The client shows that the server could not be started, and why; it must not take it for connected."""
    running = Supervised(tmp_path / "bus.db", BUS_WAKE="perhaps")
    try:
        running.post(
            "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "", "version": ""}
        )
        said, complaint = running.process.communicate(timeout=PATIENCE)
    finally:
        running.kill()
    assert said == b""
    assert b"BUS_WAKE" in complaint
    assert running.process.returncode == 2


def test_a_batch_that_was_in_flight_is_answered_with_errors(client: Supervised) -> None:
    """Together, as its answers would have been; nobody knows how far it came."""
    client.ask("initialize", protocolVersion="2025-03-26", capabilities={}, clientInfo={"name": "t", "version": "1"})
    client.call("register", name="alice")
    wait = {"name": "wait", "arguments": {"timeout": 60}}
    calls = [{"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": wait} for n in ("a", "b")]
    client.write(json.dumps(calls).encode())
    client.call("whoami")
    client.kill_server()

    found: Any = client.read()

    assert {(told["id"], told["error"]["code"]) for told in found} == {("a", -32603), ("b", -32603)}
    assert client.call("whoami").text == "alice"


def test_a_refused_batch_is_not_answered_once_more_after_a_kill(client: Supervised) -> None:
    """The refusal names none of its ids; the next server's client must not hear of them again."""
    client.start()
    client.write(b'[{"jsonrpc":"2.0","id":"a","method":"ping"}]')
    assert client.read()["id"] is None
    client.kill_server()

    found = client.ask("ping")

    assert found["result"] == {}


def test_a_batch_that_was_given_up_is_not_answered_after_a_kill(client: Supervised) -> None:
    client.ask("initialize", protocolVersion="2025-03-26", capabilities={}, clientInfo={"name": "t", "version": "1"})
    client.call("register", name="alice")
    wait = {"name": "wait", "arguments": {"timeout": 60}}
    client.write(
        json.dumps([{"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": wait} for n in ("a", "b")]).encode()
    )
    for number in ("a", "b"):
        client.write({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}})
    client.call("whoami")
    client.kill_server()

    assert client.ask("ping")["result"] == {}


def test_an_id_that_is_not_valid_takes_no_requests_place(client: Supervised) -> None:
    """JSON's true equals 1 in Python; the request 1 is still answered when the server is killed."""
    client.start().call("register", name="alice")
    wait = {"name": "wait", "arguments": {"timeout": 60}}
    client.write({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": wait})
    client.write({"jsonrpc": "2.0", "id": True, "method": "ping"})
    assert client.read()["id"] is None
    client.kill_server()

    assert client.read()["id"] == 1


def test_a_client_that_no_longer_reads_ends_both(client: Supervised) -> None:
    """Even one that keeps the other pipe open: nothing could be answered."""
    client.start()
    server = client.server()
    assert client.process.stdout
    client.process.stdout.close()

    client.post("ping")

    assert client.process.wait(PATIENCE) == 0
    psutil.wait_procs([server], PATIENCE)
    assert not server.is_running()


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_descriptor_is_not_taken_for_a_pipe_to_the_server(tmp_path: Path, closed: int) -> None:
    """The pipes get the lowest free numbers: those of a client that was started without stdout or stderr."""

    class Shell(Supervised):
        program = (
            "-c",
            f"import os, sys; os.close({closed}); os.execv(sys.executable, [sys.executable, '-m', 'claude_bus'])",
        )

    running = Shell(tmp_path / "bus.db")
    try:
        running.post("ping")
        server = running.server()
        eventually(lambda: Path(f"/proc/{server.pid}/fd/0").readlink() == Path("/dev/null"))
        of_the_supervisor = {Path(f"/proc/{running.process.pid}/fd/{number}").readlink() for number in (0, 1, 2)}
        assert Path(f"/proc/{running.process.pid}/fd/{closed}").readlink() == Path("/dev/null")
        assert Path(f"/proc/{server.pid}/fd/1").readlink() in of_the_supervisor
        assert running.process.stdin
        running.process.stdin.close()
        assert running.process.wait(PATIENCE) == 0
    finally:
        running.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="reads pipes with threads")
def test_requests_that_a_server_does_not_take_are_left_with_the_client() -> None:
    """A server that is suspended must not cost the supervisor the memory of all that its client writes."""
    (client, to_client), (source, into), (out, sink) = os.pipe(), os.pipe(), os.pipe()
    pipes = supervisor._Polled(client, sink)
    pipes.connect(types.SimpleNamespace(into=into, out=out, wait=lambda: 0, terminate=lambda: None))
    pipes.tell_server(b"x" * (17 << 20))
    os.write(to_client, b"more\n")
    try:
        assert pipes.heard(0) == []
        heard: list[tuple[str, bytes]] = []
        while not heard:
            os.read(source, 1 << 16)
            heard = pipes.heard(0)
        assert heard == [("client", b"more\n")]
    finally:
        for descriptor in (client, to_client, source, into, out, sink):
            os.close(descriptor)
