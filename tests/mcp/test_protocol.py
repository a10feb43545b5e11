"""The protocol of the stdio server, line by line, in both eras; the official SDK is the measure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.message import SessionMessage

from claude_bus import jsonrpc
from claude_bus.mcp import declared
from claude_bus.mcp.protocol import Call, Cancelled, Connection
from claude_bus.mcp.server import create_server
from claude_bus.session.subagents import SessionGroup
from tests.support.processes import Wire, answer, wire
from tests.support.server_answers import NEWEST
from tests.support.sessions import Party

HANDSHAKES = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
Message = dict[str, Any]


def request(number: object, method: str, **params: Any) -> Message:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def modern(number: object, method: str, version: str = "2026-07-28", **params: Any) -> Message:
    meta = NEWEST | {"io.modelcontextprotocol/protocolVersion": version}
    return request(number, method, _meta=meta, **params)


def handshake(version: str = "2025-11-25") -> Message:
    client = {"name": "test", "version": "1"}
    return request("hello", "initialize", protocolVersion=version, capabilities={}, clientInfo=client)


DONE: Message = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class Client:
    """The client's end of a connection without pipes."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.connection = Connection(declared.prepared(), self.sent.append)

    def say(self, message: object) -> list[Call | Cancelled]:
        """Send a message, or bytes; return what is left for others to do."""
        line = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.connection.receive(line + b"\n")

    def ask(self, message: object) -> Any:
        """Return the answer to a message that is answered at once."""
        before = len(self.sent)
        assert self.say(message) == []
        [line] = self.sent[before:]
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        return json.loads(line)

    def refused(self, message: object) -> tuple[object, int]:
        """Return the id and the code of the error that answers a message."""
        found = self.ask(message)
        assert found["jsonrpc"] == "2.0"
        assert found["error"]["message"]
        return found["id"], found["error"]["code"]


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def opened(client: Client) -> Client:
    """A client of the older era, after its handshake."""
    client.ask(handshake())
    client.say(DONE)
    return client


# -- beside the SDK ---------------------------------------------------------------------------

OLDER = [[handshake(version)] for version in (*HANDSHAKES, "2026-07-28", "1999-01-01")] + [
    [handshake(), DONE, request(1, "ping"), request(2, "tools/list"), request(3, "tools/list", cursor="x")],
    [handshake(), DONE, request("a", "no/such"), request(2, "resources/list"), request(3, "server/discover")],
    [handshake(), DONE, modern(1, "tools/list"), modern(2, "server/discover"), request(3, "ping")],
    [handshake(), DONE, request(1, "tools/call", name=5), request(2, "tools/call"), request(3, "tools/list", cursor=5)],
    [handshake(), DONE, request(1, "tools/call", name="whoami", arguments=[]), request(2, "tools/list", _meta=5)],
    [request(1, "ping"), request(2, "tools/list"), request(3, "no/such"), handshake(), request(4, "tools/list")],
    [request(1, "server/discover"), handshake("2025-03-26"), handshake("2024-11-05"), request(2, "ping")],
    [request(1, "initialize"), request(2, "initialize", protocolVersion=5, capabilities={}, clientInfo={})],
]
NEWER = [
    [DONE, modern(1, "server/discover"), modern(2, "tools/list"), modern("x", "ping"), modern(3, "no/such")],
    [modern(1, "server/discover", "2027-01-01"), handshake(), modern(2, "tools/list")],
    [
        modern(1, "tools/list"),
        request(2, "tools/list"),
        request(3, "tools/list", _meta={}),
        request(4, "ping", _meta=5),
    ],
    [modern(1, "tools/list"), modern(2, "tools/list", "2025-11-25"), modern(3, "tools/list", cursor=5)],
    [modern(1, "tools/call", name=5), modern(2, "tools/call"), modern(3, "tools/call", name="x", arguments=[])],
    [modern(1, "tools/list"), *(request(n, "tools/list", _meta=NEWEST | {key: 5}) for n, key in enumerate(NEWEST, 2))],
]


async def told_by_sdk(party: Party, dialogue: list[Message]) -> list[Any]:
    """Return the answers of a server that is made with the SDK."""
    server = create_server(lambda _context: SessionGroup(party.session()))
    into, source = anyio.create_memory_object_stream[SessionMessage | Exception](9)
    sink, out = anyio.create_memory_object_stream[SessionMessage](9)
    found = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run, source, sink, server.create_initialization_options())
        for message in dialogue:
            await into.send(SessionMessage(types.jsonrpc_message_adapter.validate_python(message)))
            if "id" in message:
                told = (await out.receive()).message
                found.append(json.loads(told.model_dump_json(by_alias=True, exclude_unset=True)))
        tasks.cancel_scope.cancel()
    for stream in (into, source, sink, out):
        stream.close()
    return found


def essence(told: Any) -> Any:
    """An answer without the words of its error, which are ours."""
    if "error" not in told:
        return told
    data = told["error"].get("data") or None
    return {**told, "error": (told["error"]["code"], data)}


@pytest.mark.anyio
@pytest.mark.parametrize("dialogue", [*OLDER, *NEWER])
async def test_it_answers_as_the_sdk_does(party: Party, client: Client, dialogue: list[Message]) -> None:
    """Revisions, capabilities, tools, results and their `_meta`, error codes and data, in both eras."""
    theirs = await told_by_sdk(party, dialogue)
    ours = [client.ask(message) if "id" in message else client.say(message) for message in dialogue]

    assert [essence(told) for told in ours if told] == [essence(told) for told in theirs]


# -- messages that are not valid ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"not json", (None, -32700)),
        (b"{", (None, -32700)),
        (b"\xff\xfe", (None, -32700)),
        (b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}', (None, -32700)),
        (b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"ping"}', (None, -32700)),
        (b"5", (None, -32600)),
        (b"null", (None, -32600)),
        (b"{}", (None, -32600)),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', (1, -32600)),
        (b'{"jsonrpc":"2.0","id":"x"}', ("x", -32600)),
        (b'{"jsonrpc":"2.0","id":7,"method":5}', (7, -32600)),
        (b'{"jsonrpc":"2.0","id":[1],"method":"ping"}', (None, -32600)),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', (None, -32600)),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', (None, -32600)),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', (None, -32600)),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', (1, -32602)),
        (b"[]", (None, -32600)),
        (b"[" * 100_000, (None, -32600)),
        (b'{"jsonrpc":"2.0","id":8,"method":"ping","params":{"x":' + b"[" * 90 + b"]" * 90 + b"}}", (8, -32600)),
    ],
)
def test_a_line_that_is_not_valid_is_answered_with_an_error(opened: Client, line: bytes, told: tuple[Any, int]) -> None:
    """With its id where that can be read, and the next request is answered as ever."""
    assert opened.refused(line) == told
    assert opened.ask(request(9, "ping")) == {"jsonrpc": "2.0", "id": 9, "result": {}}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"  \r",
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}',
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}',
        b'{"jsonrpc":"2.0","method":"no/such"}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":[1]}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled"}',
    ],
)
def test_what_needs_no_answer_gets_none(opened: Client, line: bytes) -> None:
    """Empty lines, answers to questions that were never asked, notifications."""
    before = len(opened.sent)

    assert opened.say(line) == []
    assert len(opened.sent) == before


def test_an_id_comes_back_as_it_was(opened: Client) -> None:
    """Numbers of any size, and text that UTF-8 cannot encode."""
    for number in (0, -1, 10**30, "", "é\u2028", "\ud800"):
        assert opened.ask(request(number, "ping"))["id"] == number


# -- batches -----------------------------------------------------------------------------------------


def test_only_one_revision_has_batches(client: Client) -> None:
    """In 2025-03-26 the answers come together, in one line, once the last is there."""
    client.ask(handshake("2025-03-26"))
    [call] = client.say([request(1, "ping"), DONE, request(2, "tools/call", name="whoami"), 5, handshake()])
    assert len(client.sent) == 1
    assert isinstance(call, Call)

    call.answer({"content": []})

    found = {told["id"]: told for told in json.loads(client.sent[-1])}
    assert found[1]["result"] == {}
    assert found[2]["result"] == {"content": []}
    assert found[None]["error"]["code"] == found["hello"]["error"]["code"] == jsonrpc.INVALID_REQUEST
    assert len(found) == 4


def test_a_batch_without_requests_gets_no_answer(client: Client) -> None:
    """As notifications get none, and cancelled calls."""
    client.ask(handshake("2025-03-26"))
    assert client.say([DONE, DONE]) == []
    [call] = client.say([request(2, "tools/call", name="wait")])
    assert isinstance(call, Call)
    call.drop()

    assert len(client.sent) == 1


@pytest.mark.parametrize("version", [version for version in HANDSHAKES if version != "2025-03-26"])
def test_the_other_revisions_refuse_batches(client: Client, version: str) -> None:
    """So they say in the protocol of each; before a handshake nothing is agreed on."""
    assert client.refused([request(1, "ping")]) == (None, jsonrpc.INVALID_REQUEST)
    client.ask(handshake(version))
    assert client.refused([request(1, "ping")]) == (None, jsonrpc.INVALID_REQUEST)


def test_the_newest_revision_refuses_batches(client: Client) -> None:
    """It has none."""
    client.ask(modern(1, "server/discover"))
    assert client.refused([modern(2, "tools/list")]) == (None, jsonrpc.INVALID_REQUEST)


# -- calls -----------------------------------------------------------------------------------------------


def test_a_call_knows_who_makes_it(client: Client) -> None:
    """The client's name comes with its handshake, or with each request."""
    client.ask(handshake())
    [older] = client.say(request(1, "tools/call", name="whoami", arguments=None, _meta={"claudecode/toolUseId": "t"}))
    assert isinstance(older, Call)
    assert (older.number, older.name, older.arguments, older.program) == (1, "whoami", {}, "test 1")
    assert older.meta == {"claudecode/toolUseId": "t"}

    [newer] = Client().say(modern("b", "tools/call", name="send", arguments={"to": "bob"}))
    assert isinstance(newer, Call)
    assert (newer.number, newer.name, newer.arguments, newer.program) == ("b", "send", {"to": "bob"}, "test 1")


def test_a_cancellation_names_a_request(opened: Client) -> None:
    """By a number or a text."""
    for number in (5, "five"):
        [found] = opened.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}})
        assert isinstance(found, Cancelled)
        assert found.number == number


# -- lines -----------------------------------------------------------------------------------------------


def cut(data: bytes, size: int, most: int = 100_000) -> Iterator[bytes]:
    lines = jsonrpc.Lines(most)
    for begin in range(0, len(data), size):
        yield from lines.feed(data[begin : begin + size])
    if rest := lines.rest():
        yield rest


@given(st.lists(st.binary(max_size=30)), st.integers(1, 50))
def test_a_stream_is_cut_into_its_lines(pieces: list[bytes], size: int) -> None:
    """Wherever it is torn."""
    data = b"\n".join(pieces)

    assert b"".join(cut(data, size)) == data
    assert list(cut(data, size)) == data.splitlines(keepends=True) or b"\r" in data


@pytest.mark.parametrize("shape", ['{{"jsonrpc":"2.0","id":{},"params":"{}"}}', '{{"params":"{1}","id":{0}}}'])
@pytest.mark.parametrize("number", ["7", '"seven"'])
def test_a_line_that_is_too_long_is_refused_by_its_id(client: Client, shape: str, number: str) -> None:
    """Without being kept: only its ends are, where clients write the id."""
    long = shape.format(number, 'x\\"id\\":3}' * 20_000).encode() + b"\n"
    [line] = cut(long, 4096)

    assert isinstance(line, jsonrpc.Overlong)
    assert len(line) < 5_000
    assert client.connection.receive(line) == []
    told = json.loads(client.sent[-1])
    assert (told["id"], told["error"]["code"]) == (json.loads(number), jsonrpc.INVALID_REQUEST)


def test_a_line_after_one_that_is_too_long_is_whole() -> None:
    """The stream goes on with the next newline."""
    first, second = cut(b"x" * 500_000 + b"\n{}\n", 4096)

    assert isinstance(first, jsonrpc.Overlong)
    assert second == b"{}\n"


# -- a server --------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Wire]:
    with wire(tmp_path / "bus.db") as running:
        yield running


def test_a_call_that_waits_keeps_nobody_waiting(server: Wire) -> None:
    """And it is not answered once it is cancelled; another cancellation of it changes nothing."""
    server.call("register", name="alice")
    waiting = server.post("tools/call", name="wait", arguments={"timeout": 60})
    assert server.call("whoami").text == "alice"
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": waiting}}

    server.write(cancelled)
    server.write(cancelled)
    ping = server.post("ping")

    assert server.read() == {"jsonrpc": "2.0", "id": ping, "result": {}}
    assert server.call("whoami").text == "alice"


def test_the_end_of_the_client_cancels_its_calls(server: Wire) -> None:
    """The server ends, and says of calls in flight that they were not carried through."""
    server.call("register", name="alice")
    waiting = server.post("tools/call", name="wait", arguments={"timeout": 60})
    server.ask("ping")
    assert server.process.stdin
    server.process.stdin.close()

    assert server.read() == {
        "jsonrpc": "2.0",
        "id": waiting,
        "error": {"code": -32000, "message": "Connection closed"},
    }
    assert server.process.wait(60) == 0


def test_answers_that_the_client_does_not_take_are_kept_for_it(server: Wire) -> None:
    """More than a pipe holds; the server goes on reading meanwhile, so no client can be locked out."""
    asked = [server.post("tools/list") for _ in range(200)]

    assert [server.read()["id"] for _ in asked] == asked


_PRINTING = """
import os, subprocess, sys
from claude_bus.mcp import session_server, stdio
def run(config, intake, output):
    print('stray', flush=True)
    subprocess.run([sys.executable, '-c', 'import sys; print(len(sys.stdin.read()))'], check=True)
    os._exit(0)
session_server.run = run
stdio.serve(lambda: None)
"""


class Printing(Wire):
    """A server whose session prints, and starts a program that reads."""

    program = ("-c", _PRINTING)


def test_stray_output_stays_off_the_wire(tmp_path: Path) -> None:
    """Whatever a library prints goes to stderr, and a child that reads stdin finds it empty."""
    running = Printing(tmp_path / "bus.db")
    try:
        said, complaints = running.process.communicate(timeout=60)
    finally:
        running.kill()
    assert said == b""
    assert complaints.split() == [b"stray", b"0"]


def test_a_call_in_the_first_moment_is_answered(tmp_path: Path) -> None:
    """Also one that is sent before the server has loaded what it needs for it."""
    server = Wire(tmp_path / "bus.db")
    try:
        server.post("initialize", **handshake()["params"])
        number = server.post("tools/call", name="whoami", arguments={})
        assert answer(next(told for told in iter(server.read, None) if told["id"] == number)).text
    finally:
        server.kill()


_LOADING = """
import sys, threading
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "claude_bus.mcp.session_server":
            threading.Event().wait()
sys.meta_path.insert(0, Slow())
sys.argv[1:] = ["stdio"]
from claude_bus.__main__ import main
main()
"""


class Loading(Wire):
    """A server that never has all that it needs for a session."""

    program = ("-c", _LOADING)


def test_the_opening_is_answered_before_all_is_loaded(tmp_path: Path) -> None:
    """A client that starts waits for the handshake and the tools, and for nothing else."""
    server = Loading(tmp_path / "bus.db")
    try:
        server.start()
        assert server.ask("tools/list")["result"]["tools"]
        assert server.ask("ping")["result"] == {}
    finally:
        server.kill()
