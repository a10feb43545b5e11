"""MCP over HTTP: a server process, called as clients of both eras call it."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import signal
import sqlite3
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.client.client import Client

from claude_bus.http.response_headers import Discreet
from claude_bus.mcp import http as mcp_http
from claude_bus.mcp.tools import TOOLS
from tests.support.mcp_clients import ACCEPT, LEGACY, MODERN, Caller, ModernCaller
from tests.support.processes import PATIENCE, Peer, eventually, wire
from tests.support.served_bus import Served, served
from tests.support.tokens import revoke, token

pytestmark = pytest.mark.slow


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture(autouse=True)
def _all_hang_up() -> Iterator[None]:
    yield
    Caller.close_all()


@pytest.fixture
def server(db: Path) -> Iterator[Served]:
    with served(db) as running:
        yield running


def joined(url: str, name: str, **more: str) -> Caller:
    caller = Caller(url, **more).open()
    said = caller.call("register", name=name)
    assert not said.failed, said.text
    return caller


def ids(found: Any) -> list[int]:
    return [message["id"] for message in found.data["messages"]]


def sent_id(text: str) -> int:
    """The message id in the answer of `send`."""
    found = re.search(r"\(id (\d+)\)", text)
    assert found, text
    return int(found[1])


# -- with the library's own client ---------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("mode", "query", "version"),
    [
        ("legacy", "", LEGACY),
        ("auto", "", LEGACY),
        ("auto", "?session=me", MODERN),
        (MODERN, "?session=me", MODERN),
    ],
)
async def test_both_eras(server: Served, mode: str, query: str, version: str) -> None:
    """Clients of either era list and use the tools; a newer client without a handle falls back to the older era."""
    async with Client(f"{server.url}/mcp{query}", mode=mode) as client:
        assert client.protocol_version == version
        assert {tool.name for tool in (await client.list_tools()).tools} == {*TOOLS, "hook"}
        assert (mode == MODERN) or "claude-bus connects" in str(
            client.instructions
        )  # a client that pins its version does not probe
        await client.call_tool("register", {"name": "backend"})
        who = await client.call_tool("whoami", {})
        assert who.content[0].model_dump()["text"] == "backend"


@pytest.mark.anyio
async def test_the_prefix(db: Path) -> None:
    """Under a prefix the endpoint is below that prefix only."""
    with served(db, BUS_PREFIX="/agent-bus") as server:
        for path in ("/mcp", "/mcp/"):
            async with Client(f"{server.url}{path}") as client:
                assert (await client.list_tools()).tools
        assert httpx2.post(f"{server.url.removesuffix('/agent-bus')}/mcp").status_code == 404


# -- one bus ---------------------------------------------------------------------------------


def test_http_and_stdio_are_one_bus(db: Path, server: Served) -> None:
    """Two sessions over HTTP and one over stdio see each other, exchange mail with true receipts, and collide on
    claims.
    """
    alice, bob = joined(server.url, "alice"), ModernCaller(server.url, handle="b")
    bob.call("register", name="bob")
    with wire(db) as carol:
        carol.call("register", name="carol")
        for session in (alice, bob, carol):
            assert {agent["name"] for agent in session.call("agents").data["agents"]} == {"alice", "bob", "carol"}

        to_bob = sent_id(alice.call("send", to="bob", content="hi bob").text)
        to_carol = sent_id(bob.call("send", to="carol", content="hi carol").text)
        to_alice = sent_id(carol.call("send", to="alice", content="hi alice").text)
        for session, message in ((alice, to_alice), (bob, to_bob), (carol, to_carol)):
            assert ids(session.call("inbox")) == [message]

        def receipt(sender: Any, message: int) -> str:
            return str(sender.call("message_status", message_id=message).data["deliveries"][0]["state"])

        assert receipt(alice, to_bob) == "handed"
        bob.call("whoami")
        assert receipt(alice, to_bob) == "read"
        assert receipt(carol, to_alice) == "read"  # alice has asked for a status meanwhile

        assert not alice.call("claim", path="port:8080").failed
        assert "claimed by 'alice'" in carol.call("claim", path="port:8080").text
        assert "claimed by 'alice'" in bob.call("claim", path="port:8080").text

        assert not bob.call("set_state", key="k", value="1", expected_version=0).failed
        stale = [s.call("set_state", key="k", value="2", expected_version=0) for s in (alice, carol)]
        assert all("stale write" in said.text for said in stale)


def test_each_mcp_session_is_somebody_else(server: Served) -> None:
    """Two MCP sessions are two participants, and so are two handles; one handle is one participant, on any
    connection.
    """
    first, second = joined(server.url, "first"), Caller(server.url).open()
    assert "not registered" in second.call("whoami").text
    taken = second.call("register", name="first")
    assert taken.failed
    assert "held by a live session" in taken.text

    ModernCaller(server.url, handle="x").call("register", name="x")
    assert ModernCaller(server.url, handle="x").call("whoami").text == "x"
    assert "not registered" in ModernCaller(server.url, handle="y").call("whoami").text
    assert first.call("whoami").text == "first"


def test_the_handle_may_stand_in_the_address(server: Served) -> None:
    """Header and query parameter are equivalent."""
    ModernCaller(server.url, handle="x").call("register", name="x")
    in_query = ModernCaller(server.url)
    in_query.url += "?session=x"
    assert in_query.call("whoami").text == "x"
    assert in_query.ask("server/discover")["result"]["supportedVersions"] == [MODERN]


def test_without_an_identity(server: Served) -> None:
    """Without a handle the newer era is referred to the older; a call without one may only read, and is told how to
    do more.
    """
    nobody = ModernCaller(server.url)
    refused = nobody.post("server/discover")
    assert refused.json()["error"]["code"] == -32601
    for tool, arguments in (
        ("register", {"name": "x"}),
        ("send", {"to": "all", "content": "x"}),
        ("inbox", {}),
        ("claim", {"path": "a"}),
        ("wait", {"timeout": 1}),
    ):
        said = nobody.call(tool, **arguments)
        assert said.failed
        assert "Bus-Session" in said.text
    assert nobody.call("agents").data == {"agents": []}
    assert not nobody.call("set_state", key="k", value="v").failed
    assert nobody.call("get_state", key="k").data["state"][0]["value"] == "v"
    assert nobody.call("hook", event="UserPromptSubmit", session_id="s").text == "{}"


def test_a_session_that_has_no_name_yet(server: Served) -> None:
    """It is listed under a neutral name, can receive mail, and keeps its mail when it takes a name."""
    alice, other = joined(server.url, "alice"), Caller(server.url).open()
    assert other.call("whoami").text == "not registered (call register); listed as 'http' until then"
    assert "reads it when it calls inbox" in alice.call("send", to="http", content="who are you?").text
    assert len(ids(other.call("inbox", peek=True))) == 1
    other.call("register", name="bob")
    assert [m["content"] for m in other.call("inbox").data["messages"]] == ["who are you?"]


def test_what_is_the_servers_own_is_no_clients(db: Path) -> None:
    """HTTP participants get neither name nor role from the server's environment, nor see the prompts of its users."""
    with served(db, BUS_NAME="server", BUS_ROLE="serves", BUS_SHARE_PROMPTS="1") as server:
        caller = Caller(server.url).open()
        assert "not registered" in caller.call("whoami").text
        caller.call("hook", event="UserPromptSubmit", session_id="s", prompt_id="p", prompt="my secret plan")
        [agent] = caller.call("agents").data["agents"]
        assert agent["name"] == "http"
        assert "secret plan" not in json.dumps(agent)


# -- files and folders -------------------------------------------------------------------------


def test_no_file_of_the_server_is_looked_at(db: Path, server: Served, tmp_path: Path) -> None:
    """A remote caller cannot measure files, learn whether they exist, or claim them by their identity."""
    there = tmp_path / "there.txt"
    there.write_text("secret")
    alice = joined(server.url, "alice")
    said = alice.call("send", to="bob", content="see", files=[str(there)])
    assert said.failed
    assert "BUS_URL" in said.text
    assert alice.call("send", to="bob", content="see", files=["/nowhere"]).text == said.text

    with wire(db) as carol:
        carol.call("register", name="carol")
        carol.call("send", to="alice", content="look", files=[str(there)])
        there.unlink()
        [message] = alice.call("inbox").data["messages"]
        assert [file["state"] for file in message["files"]] == ["unchecked"]

    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert alice.call("claim", path=f"{link}/x").text == f"claimed '{link}/x' for 1800s"


def test_edits_over_http(server: Served) -> None:
    """The guard refuses an edit of a path that another agent claims, by the path on the client's machine."""
    alice, bob = joined(server.url, "alice"), joined(server.url, "bob")
    alice.call("claim", path="/home/me/shop/app.py", reason="moving it")

    def edit(path: str) -> str:
        return bob.call("hook", event="PreToolUse", session_id="s", path=path).text

    refused = json.loads(edit("/home/me/shop/app.py"))["hookSpecificOutput"]
    assert refused["permissionDecision"] == "deny"
    assert "alice" in refused["permissionDecisionReason"]
    assert edit("/home/me/shop/app.py") == "{}"  # the repeated edit goes through
    assert edit("/home/me/shop/other.py") == "{}"
    assert edit("x" * 5000) == "{}"


# -- injected mail ------------------------------------------------------------------------------


def test_hooks_over_http(db: Path, server: Served) -> None:
    """Hook events on the session's connection bring its mail and prove it read."""
    alice = joined(server.url, "alice")
    peer = Peer(db, "backend")
    assert peer.send("alice", "the schema changed") == "inbox"  # no hook of the session has come yet
    assert "the schema changed" in alice.hook("UserPromptSubmit")
    assert peer.state(1) == "handed"
    assert alice.hook("PostToolBatch") == ""
    assert peer.state(1) == "read"
    assert peer.send("alice", "again", kind="request") == "working"
    assert "again" in alice.hook("Stop")


@pytest.mark.parametrize("caller", [Caller, ModernCaller])
def test_waiting(db: Path, server: Served, caller: type[Caller]) -> None:
    """A waiting call is answered as soon as any process stores mail, or changes a state entry."""
    alice = ModernCaller(server.url, handle="a") if caller is ModernCaller else Caller(server.url).open()
    alice.call("register", name="alice")
    peer = Peer(db, "backend")
    with ThreadPoolExecutor(2) as pool:
        mail = pool.submit(alice.call, "wait", timeout=PATIENCE)
        change = pool.submit(alice.call, "wait", timeout=PATIENCE, key="build")
        assert peer.send("alice", "here I am") in ("inbox", "idle", "working")
        assert [m["content"] for m in mail.result(PATIENCE).data["messages"]] == ["here I am"]
        assert not change.done()
        Caller(server.url).open().call("set_state", key="build", value="green")
        assert change.result(PATIENCE).data["state"][0]["value"] == "green"


def gone_while(caller: Caller, **arguments: Any) -> None:
    """Call `wait`, and close the connection once the server has the request."""
    if not isinstance(caller, ModernCaller):
        with caller.calling("wait", timeout=600, **arguments):
            return
    request = caller.request("tools/call", name="wait", arguments={"timeout": 600, **arguments})
    headers = {**caller.headers, **caller.routing("tools/call", "wait")}
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(caller.url, json=request, headers=headers, timeout=1.0)


@pytest.mark.parametrize("caller", [Caller, ModernCaller])
def test_a_call_ends_with_its_connection(db: Path, server: Served, caller: type[Caller]) -> None:
    """No call keeps waiting for a disconnected client."""
    alice = ModernCaller(server.url, handle="a") if caller is ModernCaller else Caller(server.url).open()
    alice.call("register", name="alice")

    def watched() -> int:
        with contextlib.closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT COUNT(*) FROM watches").fetchone()[0])

    with ThreadPoolExecutor(1) as pool:
        gone = pool.submit(gone_while, alice, key="build")
        gone.result(PATIENCE)
    eventually(lambda: not watched(), "nobody waits")


@pytest.mark.parametrize("caller", [Caller, ModernCaller])
def test_mail_for_who_went_away(db: Path, server: Served, caller: type[Caller]) -> None:
    """Mail that came about when the connection of a waiting call was closed is returned by a later call."""
    alice = ModernCaller(server.url, handle="a") if caller is ModernCaller else Caller(server.url).open()
    alice.call("register", name="alice")
    for number in range(1, 6):
        gone_while(alice)
        Peer(db, "backend").send("alice", f"still there? {number}")
        [found] = eventually(lambda: alice.call("inbox").data["messages"], "the mail comes")
        assert found["content"] == f"still there? {number}"


@pytest.mark.anyio
@pytest.mark.parametrize("stays", [True, False])
async def test_a_client_that_leaves_at_once_has_no_answer(stays: bool) -> None:
    """A call that is answered before anybody watches its client counts as answered only if the client is there."""
    gone = anyio.Event()

    async def receive() -> dict[str, Any]:
        if not read:
            read.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        if not gone.is_set():  # as servers have it: what is known already needs no waiting
            await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None: ...

    read: list[bool] = []
    line = mcp_http._Line(receive, send)
    await line.receive()
    line.serve(anyio.CancelScope(), lambda: None)
    if not stays:
        gone.set()
    await line.send({"type": "http.response.start", "status": 200, "headers": []})
    await line.send({"type": "http.response.body", "body": b"{}"})
    assert line.answered == stays


@pytest.mark.anyio
async def test_a_body_in_pieces_is_received_whole() -> None:
    """Whether the client is still there is watched only after its last piece."""
    pieces = [{"type": "http.request", "body": body, "more_body": body != b"c"} for body in (b"a", b"b", b"c")]

    async def receive() -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        if not pieces:
            await anyio.sleep_forever()
        return pieces.pop(0)

    async def send(_message: Any) -> None: ...

    line = mcp_http._Line(receive, send)
    received = []
    with anyio.move_on_after(PATIENCE):
        for _ in range(3):
            received.append((await line.receive())["body"])
            await anyio.lowlevel.checkpoint()
    line.done()
    assert received == [b"a", b"b", b"c"]


def test_a_cancelled_call_is_not_handed_mail(db: Path, server: Served) -> None:
    """In the older era, the notification of a cancellation ends the call."""
    alice = joined(server.url, "alice")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(alice.post, "tools/call", name="wait", arguments={"timeout": 600})
        number = 2 + 1  # initialize, register, wait

        def cancelled() -> bool:
            note = {"requestId": number, "reason": "user"}
            alice.http.post(
                alice.url, json={"jsonrpc": "2.0", "method": "notifications/cancelled", "params": note}
            ).raise_for_status()
            return waiting.done()

        eventually(cancelled, "the call ends")
        assert "cancelled" in waiting.result(PATIENCE).text
    Peer(db, "backend").send("alice", "still there?")
    assert [m["content"] for m in alice.call("inbox").data["messages"]] == ["still there?"]


def test_parallel_calls(server: Served) -> None:
    """Each of several parallel calls of one session gets its own answer."""
    alice = joined(server.url, "alice")
    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(lambda n: alice.call("set_state", key=f"k{n}", value=str(n)).text, range(64)))
    assert said == [f"state['k{n}'] set (version 1)" for n in range(64)]


def test_too_many_calls_that_wait(server: Served) -> None:
    """A session has a limit of requests in flight; other sessions are served all the same."""
    alice = joined(server.url, "alice")
    with contextlib.ExitStack() as open_calls:
        for _ in range(100):
            open_calls.enter_context(alice.calling("wait", timeout=600))
        assert alice.post("tools/call", name="whoami", arguments={}).status_code == 429
        assert joined(server.url, "bob").call("whoami").text == "bob"
    eventually(lambda: alice.post("tools/call", name="whoami", arguments={}).status_code == 200, "alice is served")


@pytest.mark.anyio
async def test_the_connection_of_a_long_call_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces before the answer keep proxies from giving the connection up, and it is the same JSON document."""
    monkeypatch.setattr(mcp_http, "KEEP_ALIVE", 0.001)
    sent: list[Any] = []
    waited = anyio.Event()

    async def receive() -> Any:
        if not sent:
            sent.append({"type": "begun"})
            return {"type": "http.request", "body": b"", "more_body": False}
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 4:
            waited.set()

    line = mcp_http._Line(receive, send)
    await line.receive()
    with anyio.fail_after(PATIENCE):
        await waited.wait()
    await line.send({"type": "http.response.start", "status": 200, "headers": []})
    await line.send({"type": "http.response.body", "body": b'{"id": 1}'})
    _, start, *parts = sent
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert {part["type"] for part in parts} == {"http.response.body"}
    assert [part.get("more_body", False) for part in parts] == [True] * (len(parts) - 1) + [False]
    body = b"".join(part["body"] for part in parts)
    assert body.startswith(b"  ")
    assert json.loads(body) == {"id": 1}


# -- identity with tokens --------------------------------------------------------------------------


@pytest.fixture
def secrets(db: Path) -> dict[str, str]:
    return {
        "alice": token(db, "alice", "alice-*", owner="alice")[1],
        "bob": token(db, "bob", owner="bob", channels=("default", "shop"))[1],
    }


def test_a_token_is_for_its_names(secrets: dict[str, str], server: Served) -> None:
    """No session registers or is listed under a foreign name, or sees a foreign channel."""
    alice, bob = Caller(server.url, secrets["alice"]).open(), Caller(server.url, secrets["bob"]).open()
    assert alice.call("whoami").text == "not registered (call register); listed as 'alice-http' until then"
    refused = alice.call("register", name="bob")
    assert refused.failed
    assert "not for the name 'bob'" in refused.text
    assert not alice.call("register", name="alice-ci").failed

    assert "listed as '(http)'" in bob.call("whoami").text  # a name that cannot be addressed, as the token permits none
    assert alice.call("send", to="(http)", content="x").failed
    for tool, arguments in (
        ("register", {"name": "bob", "channel": "secret"}),
        ("agents", {"channel": "secret"}),
    ):
        said = bob.call(tool, **arguments)
        assert said.failed
        assert "not for the channel 'secret'" in said.text
    assert not bob.call("register", name="bob", channel="shop").failed
    assert "not for the channel 'secret'" in bob.call("send", to=["alice", "x@secret"], content="x").text
    assert not bob.call("send", to="alice-ci@default", content="x").failed


def test_a_subagent_is_bound_by_its_sessions_token(secrets: dict[str, str], server: Served) -> None:
    """A subagent has access to no more names and files than its session."""
    alice = Caller(server.url, secrets["alice"]).open()
    alice.call("register", name="alice")

    def as_subagent(tool: str, **arguments: Any) -> Any:
        alice.call("hook", event="PreToolUse", agent_id="a1", tool_use_id="t1")
        meta = {"claudecode/toolUseId": "t1"}
        found = alice.ask("tools/call", name=tool, arguments=arguments, _meta=meta)["result"]
        return found["content"][0]["text"]

    assert "not for the name 'bob'" in as_subagent("register", name="bob")
    assert "registered 'alice-tests'" in as_subagent("register", name="alice-tests")
    assert as_subagent("whoami") == "alice-tests"
    assert alice.call("whoami").text == "alice"
    assert "BUS_URL" in as_subagent("send", to="alice", content="x", files=["/etc/hostname"])


def test_ids_of_sessions_are_in_no_log(db: Path) -> None:
    """Even the most verbose log does not contain the ids of sessions that begin, are requested, end, or never
    existed.
    """
    handle, unknown = "a-handle-of-mine", "f" * 32
    with served(db, "-vv") as server:
        alice = joined(server.url, "alice")
        assert Caller(server.url).adopt(unknown).post("tools/list").status_code == 404
        ModernCaller(server.url, handle=handle).call("whoami")
        with alice.http.stream("GET", alice.url) as stream:
            assert stream.status_code == 200
        assert alice.end() == 200
        assert alice.post("tools/list").status_code == 404
        abandoned = joined(server.url, "bob")
    log = server.log.read_text(encoding="utf-8")
    assert "/mcp 404" in log
    assert not [secret for secret in (alice.session, abandoned.session, unknown, handle) if secret[:16] in log]


def test_a_session_that_failed_is_not_named_in_the_log() -> None:
    """Log records of libraries, with their tracebacks, do not contain it either."""
    session = "0123456789abcdef" * 2
    try:
        raise ValueError(f"in {session}")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, f"Session {session} crashed", None, sys.exc_info())
    assert "0123456789abcdef" not in Discreet("%(message)s").format(record)


def test_a_session_answers_only_to_its_token(secrets: dict[str, str], server: Served) -> None:
    """Another token, or none, finds no session under a leaked id, and no participant under a leaked handle."""
    alice = Caller(server.url, secrets["alice"]).open()
    alice.call("register", name="alice")
    thief = Caller(server.url, secrets["bob"]).adopt(alice.session)
    assert thief.post("tools/call", name="inbox", arguments={}).status_code == 404
    assert thief.end() == 404
    assert Caller(server.url).adopt(alice.session).post("tools/list").status_code == 401
    log = server.log.read_text(encoding="utf-8")
    assert not [secret for secret in (alice.session, *secrets.values()) if secret in log]
    assert alice.call("whoami").text == "alice"

    mine = ModernCaller(server.url, secrets["alice"], handle="x")
    mine.call("register", name="alice-x")
    assert "not registered" in ModernCaller(server.url, secrets["bob"], handle="x").call("whoami").text
    by_token = ModernCaller(server.url, secrets["alice"])
    assert not by_token.call("register", name="alice-script").failed
    assert ModernCaller(server.url, secrets["alice"]).call("whoami").text == "alice-script"


@pytest.mark.parametrize("caller", [Caller, ModernCaller])
def test_a_session_ends_with_its_token(db: Path, server: Served, caller: type[Caller]) -> None:
    """After a revocation a waiting call ends, later mail is not handed over, and the session's name and claims
    become free.
    """
    number, secret = token(db, "alice", owner="alice")
    bob = Caller(server.url, token(db, owner="bob")[1]).open()
    bob.call("register", name="bob")
    alice = (
        ModernCaller(server.url, secret, handle="a") if caller is ModernCaller else caller(server.url, secret).open()
    )
    alice.call("register", name="alice")
    alice.call("claim", path="gpu:0")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(alice.post, "tools/call", name="wait", arguments={"timeout": 600})
        eventually(lambda: under_way(server, secret) > 1, "alice waits")
        revoke(db, number)
        assert "result" not in waiting.result(PATIENCE).text

    assert "id 1" in bob.call("send", to="alice", content="for whom?").text
    assert bob.call("message_status", message_id=1).data["deliveries"][0]["state"] == "queued"
    eventually(lambda: not bob.call("claim", path="gpu:0").failed, "what alice claimed is free")
    assert not bob.call("register", name="alice").failed


def under_way(server: Served, secret: str) -> float:
    """The number of requests in flight, including this one."""
    answer = httpx2.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {secret}"})
    found = re.search(r"^claude_bus_requests_under_way (\S+)$", answer.text, re.MULTILINE)
    assert found
    return float(found[1])


def test_a_conversation_cannot_be_claimed_by_its_id(secrets: dict[str, str], server: Served) -> None:
    """A hook event that names another agent's conversation does not give its sender that agent's identity."""
    alice = Caller(server.url, secrets["alice"]).open()
    alice.call("register", name="alice")
    alice.hook("UserPromptSubmit", session="conversation")
    assert alice.end() == 200
    thief = Caller(server.url, secrets["bob"]).open()
    thief.hook("UserPromptSubmit", session="conversation")
    assert "not registered" in thief.call("whoami").text
    again = Caller(server.url, secrets["alice"]).open()
    again.hook("UserPromptSubmit", session="conversation")
    assert again.call("whoami").text == "alice"


def test_no_id_of_a_session_is_to_be_read(db: Path, server: Served) -> None:
    """The database, whose journal others can read, contains nothing that grants access to a session."""
    alice = joined(server.url, "alice")
    ModernCaller(server.url, handle="my-own-handle").call("register", name="bob")
    stored = b"".join(path.read_bytes() for path in db.parent.glob("bus.*"))
    assert alice.session.encode() not in stored
    assert b"my-own-handle" not in stored


# -- coming and going ------------------------------------------------------------------------------


def test_a_closed_session_is_over(db: Path, server: Served) -> None:
    """After it is closed, its name is free, its claims have ended, and unconfirmed hand-overs wait again."""
    alice = joined(server.url, "alice")
    alice.call("claim", path="port:8080")
    peer = Peer(db, "backend")
    peer.send("alice", "first")
    assert len(ids(alice.call("inbox"))) == 1
    assert alice.end() == 200
    assert alice.post("tools/list").status_code == 404
    assert peer.state(1) == "queued"
    assert peer.send("alice", "second") == "offline"
    again = joined(server.url, "alice")
    assert again.call("list_claims").data == {"claims": []}
    assert [m.get("possibly_seen", False) for m in again.call("inbox").data["messages"]] == [True, False]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_starts_again(db: Path, how: signal.Signals) -> None:
    """After a restart, orderly or not, the old session is unknown, and the conversation gets its agent back."""
    with served(db) as first:
        alice = joined(first.url, "alice")
        alice.hook("UserPromptSubmit", session="conversation")
        Peer(db, "backend").send("alice", "before")
        assert len(ids(alice.call("inbox"))) == 1
        bob = ModernCaller(first.url, handle="b")
        bob.call("register", name="bob")
        first.process.send_signal(how)
        first.process.wait(PATIENCE)
    with served(db) as second:
        alice.url = f"{second.url}/mcp"
        assert alice.post("tools/list").status_code == 404
        anew = Caller(second.url).open()
        context = anew.hook("UserPromptSubmit", session="conversation")
        assert "alice" in context
        assert "before" in context
        assert 'possibly_seen="true"' in context
        assert anew.call("whoami").text == "alice"
        assert ModernCaller(second.url, handle="b").call("whoami").text == "bob"


def test_a_conversation_that_goes_on_in_another_session(server: Served) -> None:
    """A client that opens a new MCP session for the same conversation is the same agent at once."""
    alice = joined(server.url, "alice")
    with alice.listening():
        alice.hook("UserPromptSubmit", session="conversation")
        other = Caller(server.url).open()
        other.hook("UserPromptSubmit", session="conversation")
        assert "not registered" in other.call("whoami").text  # the first one still exists
    other = Caller(server.url).open()

    def taken_up() -> bool:
        other.hook("UserPromptSubmit", session="conversation")
        return other.call("whoami").text == "alice"

    eventually(taken_up, "it is alice again")


def test_a_method_that_is_not_there_ends_nothing(server: Served) -> None:
    """A client that calls an unsupported method keeps its identity and its claims."""
    for caller in (ModernCaller(server.url, handle="x"), Caller(server.url).open()):
        name = type(caller).__name__
        caller.call("register", name=name)
        caller.call("claim", path=f"{name}:1")
        assert caller.ask("prompts/list")["error"]["code"] == -32601
        assert caller.call("whoami").text == name
        assert f"{name}:1" in [claim["path"] for claim in caller.call("list_claims").data["claims"]]


# -- errors -------------------------------------------------------------------------------------------


def test_an_unknown_session(server: Served) -> None:
    """The answer is 404, after which a client opens a new session."""
    stranger = Caller(server.url).adopt("0123456789abcdef")
    assert stranger.post("tools/list").status_code == 404
    assert stranger.end() == 404
    with stranger.http.stream("GET", stranger.url) as response:
        assert response.status_code == 404


def test_a_session_that_was_never_opened(server: Served) -> None:
    """A request that needs a session and names none is a bad request, not a missing session."""
    caller = Caller(server.url)
    assert caller.post("tools/call", name="whoami", arguments={}).status_code == 400


@pytest.mark.parametrize("handle", [b"x" * 201, b"tab\there", b"\x80"])
def test_a_handle_that_is_none(server: Served, handle: bytes) -> None:
    """A handle must be one short, printable line."""
    caller = ModernCaller(server.url)
    response = caller.http.post(
        caller.url,
        json=caller.request("tools/call", name="whoami", arguments={}),
        headers={
            **{key.encode(): value.encode() for key, value in caller.routing("tools/call", "whoami").items()},
            b"Bus-Session": handle,
        },
    )
    assert response.status_code == 400


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
_MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "1.0"]),
        "id": st.integers() | st.text(max_size=5) | st.none() | st.floats(),
        "method": st.sampled_from(["initialize", "tools/list", "tools/call", "ping", "server/discover", "x"]) | _JSON,
        "params": st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from([*TOOLS, "hook", "no-such-tool"]) | _JSON,
                "arguments": st.dictionaries(
                    st.sampled_from(["name", "to", "content", "key", "value", "path", "event", "session_id"]), _JSON
                )
                | _JSON,
                "_meta": _JSON,
            },
        )
        | _JSON,
    },
)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for many requests."""
    with served(tmp_path_factory.mktemp("bus") / "bus.db") as running:
        yield running


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=60) | (_MESSAGES | _JSON).map(lambda value: json.dumps(value).encode()),
    era=st.integers(0, 3),
)
def test_no_body_breaks_the_server(lasting: Served, body: bytes, era: int) -> None:
    """Any body, from any caller, gets an answer and never causes a failure of the server."""
    caller = Caller(lasting.url)
    try:
        if b'"wait"' in body:
            return
        if era == 1:
            caller.open()
        elif era > 1:
            caller.http.headers.update(ModernCaller(lasting.url, handle="h" * (era - 2)).http.headers)
            caller.http.headers.update({"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call"})
        response = caller.http.post(caller.url, content=body)
        assert response.status_code < 500, response.text
    finally:
        if era == 1:
            caller.end()
        caller.http.close()


def test_a_stream_is_not_resumed(server: Served) -> None:
    """A client that asks for a stream's earlier events gets a new stream, because no events are kept."""
    caller = Caller(server.url).open()
    with caller.http.stream("GET", caller.url, headers={"Last-Event-ID": "5"}) as stream:
        assert (stream.status_code, stream.headers["content-type"]) == (200, "text/event-stream")
    assert not caller.call("register", name="resumed").failed


def test_other_methods_and_types(server: Served) -> None:
    """They are refused with the status that HTTP prescribes."""
    alice = Caller(server.url).open()
    assert alice.http.put(alice.url, content=b"{}").status_code == 405
    assert alice.http.post(alice.url, content=b"{}", headers={"Content-Type": "text/plain"}).status_code in (400, 415)
    assert alice.http.post(alice.url, content=b"{}", headers={"Accept": "text/html"}).status_code == 406
    assert alice.http.post(alice.url, content=b" " * 5_000_000).status_code == 413
    assert ACCEPT in str(alice.http.headers)
