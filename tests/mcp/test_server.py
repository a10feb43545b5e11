"""The MCP door: what a model is given, what each tool answers, and that no call ends the server."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters

from claude_bus import text, worktree
from claude_bus.config import Config
from claude_bus.mcp import hooks
from claude_bus.mcp.server import create_server
from claude_bus.model.claims import ClaimTarget
from claude_bus.model.identity import Address
from claude_bus.session.session import Session
from claude_bus.session.subagents import SessionGroup
from claude_bus.sql import agents, claims, sessions
from tests.support.processes import PATIENCE, Answer, Peer, Wire, answer, environment, wire
from tests.support.sessions import Party
from tests.support.store import Store
from tests.support.verbs import running
from tests.support.working_trees import repository

ERAS = {"legacy": "2025-11-25", "auto": "2026-07-28"}
TOOLS = {
    *("register", "whoami", "agents", "send", "inbox", "message_status", "set_state", "get_state", "list_state"),
    *("claim", "release", "list_claims", "leave", "history", "wait"),
}
BUDGET = 6 * 1024
QUIET = "{}"
"""The answer of a hook that has nothing to say: JSON, so that the client tells the model nothing."""


class Model:
    """A client that calls tools as a model would."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> Answer:
        found = await self.client.call_tool(tool, arguments)
        text = "".join(getattr(block, "text", "") for block in found.content)
        return Answer(text, bool(found.is_error), found.structured_content)

    async def said(self, tool: str, **arguments: Any) -> str:
        """The text of a call that works and answers in plain text."""
        found = await self.call(tool, **arguments)
        assert not found.failed, found.text
        assert found.data is None
        return found.text

    async def told(self, tool: str, **arguments: Any) -> Any:
        """The structure that a call answers, which its text repeats."""
        found = await self.call(tool, **arguments)
        assert not found.failed, found.text
        assert json.loads(found.text) == found.data
        return found.data


Connect = Callable[[Session], contextlib.AbstractAsyncContextManager[Model]]


@pytest.fixture(params=ERAS)
def connect(request: pytest.FixtureRequest) -> Connect:
    """Connect a client of either era of the protocol to a session's server, in memory."""

    @contextlib.asynccontextmanager
    async def connect(session: Session) -> AsyncIterator[Model]:
        async with Client(create_server(lambda _context: SessionGroup(session)), mode=request.param) as client:
            assert client.protocol_version == ERAS[request.param]
            yield Model(client)

    return connect


@pytest.fixture
async def client(party: Party) -> AsyncIterator[Client]:
    """A connected client, for what does not depend on the era."""
    async with Client(create_server(lambda _context: SessionGroup(party.session()))) as client:
        yield client


# -- what a model is given ---------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_tools_are_those_of_the_original_and_three_more(party: Party, connect: Connect) -> None:
    """The same names in both eras, and none that the client's own messaging uses."""
    async with connect(party.session()) as model:
        found = {tool.name for tool in (await model.client.list_tools()).tools}

    assert found == TOOLS | {"hook"}


@pytest.mark.anyio
async def test_what_every_session_pays_for_stays_small(client: Client) -> None:
    """Names, descriptions and schemas that the model sees are at most 6 KB; the instructions are not cut."""
    tools = (await client.list_tools()).tools
    given = [
        {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}
        for tool in tools
        if tool.name != "hook"
    ]

    assert len(json.dumps(given, separators=(",", ":"), ensure_ascii=False).encode()) <= BUDGET
    assert client.instructions
    assert len(client.instructions) < 4096


@pytest.mark.anyio
async def test_the_instructions_say_what_a_model_must_know(client: Client) -> None:
    """How to join, how to answer, that peers have no authority, and what not to use."""
    for word in ("register(name)", "send(to, content, reply_to=", "not with the built-in SendMessage", "peers"):
        assert word in (client.instructions or "")


@pytest.mark.anyio
async def test_the_hook_tool_is_kept_from_the_model(client: Client) -> None:
    """It alone is for the client; the others are loaded at once and say what they change."""
    tools = {tool.name: tool for tool in (await client.list_tools()).tools}

    assert (tools["hook"].meta or {})["ui"] == {"visibility": ["app"]}
    for name in TOOLS:
        tool = tools[name]
        meta = tool.meta or {}
        assert "ui" not in meta
        assert meta["anthropic/alwaysLoad"] is True
        assert tool.description
        assert tool.annotations
        assert bool(tool.annotations.read_only_hint) == (
            name in ("whoami", "agents", "message_status", "history", "get_state", "list_state", "list_claims")
        )


@pytest.mark.anyio
async def test_every_schema_is_one_a_client_understands(client: Client) -> None:
    """An object whose properties say what they take; what is required is there."""
    for tool in (await client.list_tools()).tools:
        schema = tool.input_schema
        assert schema["type"] == "object"
        assert set(schema.get("required", [])) <= set(schema.get("properties", {}))
        for name, field in schema.get("properties", {}).items():
            assert {"type", "anyOf", "enum"} & set(field) or (tool.name, name) == ("set_state", "value")


# -- the tools, as the original's -----------------------------------------------------------------


@pytest.mark.anyio
async def test_joining(party: Party, connect: Connect) -> None:
    """register, whoami, agents, leave: the words and fields of the original, and what is new beside them."""
    async with connect(party.session()) as alice, connect(party.session()) as bob:
        assert (await alice.said("whoami")).startswith("not registered (call register)")
        assert (await alice.said("register", name="alice", role="api", owns=["src/**"])).startswith(
            "registered 'alice' (api)"
        )
        assert await alice.said("whoami") == "alice"
        assert (await bob.said("register", name="bob", owns=["src/a.py"])).startswith("registered 'bob'")
        rows = (await bob.told("agents", active_within=180.0))["agents"]
        taken = await bob.call("register", name="alice")
        await alice.said("leave")
        left = (await bob.told("agents"))["agents"]

    assert {row["name"] for row in rows} == {"alice", "bob"}
    [row] = [row for row in rows if row["name"] == "alice"]
    assert row["role"] == "api"
    assert row["owns"] == ["src/**"]
    assert row["overlaps"] == ["bob"]
    assert row["seconds_ago"] >= 0
    assert row["status"] == "idle"
    assert [row["name"] for row in rows if row.get("you")] == ["bob"]
    assert taken.failed
    assert "'alice-2' is free" in taken.text
    assert "alice" not in {row["name"] for row in left if row["status"] != "offline"}


@pytest.mark.anyio
async def test_of_a_crowd_those_are_listed_who_run(
    party: Party, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is counted: a model need not read hundreds of names."""
    monkeypatch.setattr(text, "MOST_TOLD", 1)
    await party.join("bob")
    gone = await party.join("carol")
    await gone.presence.close()
    async with connect(party.session()) as alice:
        await alice.said("register", name="alice")
        found = await alice.told("agents")

    assert [(row["name"], row["status"]) for row in found["agents"]] == [("alice", "idle")]
    assert found["more"] == 2


@pytest.mark.anyio
async def test_messages(party: Party, connect: Connect) -> None:
    """send, inbox, message_status, history: by the fields of the original."""
    async with connect(party.session()) as alice, connect(party.session()) as bob:
        await alice.said("register", name="alice")
        await bob.said("register", name="bob")
        assert (await alice.said("send", to="bob", content="hi")).startswith("sent to 'bob' (id 1)")
        assert (await alice.said("send", to="all", content="all of you")).startswith("sent to 'all' (id 2)")
        assert (await alice.said("send", to=["bob", "carol"], content="you two", kind="request")).startswith(
            "sent to 'bob, carol' (id 3)"
        )
        peeked = await bob.told("inbox", peek=True)
        unconsumed = await bob.told("inbox", consume=False)
        first = await bob.told("inbox", limit=2)
        rest = await bob.told("inbox")
        await bob.said("send", to="alice", content="yes", reply_to=3)
        status = await alice.told("message_status", message_id=3)
        answer = await alice.told("inbox")
        history = await alice.told("history", thread=3)

    assert peeked == unconsumed
    assert ([m["id"] for m in peeked["messages"]], peeked["pending_count"]) == ([1, 2, 3], 3)
    assert ([m["id"] for m in first["messages"]], first["pending_count"]) == ([1, 2], 1)
    assert ([m["id"] for m in rest["messages"]], rest["pending_count"]) == ([3], 0)
    assert {"id", "from", "to", "content", "reply_to"} <= set(first["messages"][0])
    assert (first["messages"][0]["from"], first["messages"][0]["to"]) == ("alice", "bob")
    assert (status["message_id"], status["sender"], status["recipient"]) == (3, "alice", "bob, carol")
    assert [reader["recipient"] for reader in status["readers"]] == ["bob"]
    assert status["readers"][0]["read_ts"] > 0
    assert {row["recipient"]: row["state"] for row in status["deliveries"]} == {"bob": "acked", "carol": "queued"}
    assert [(reply["id"], reply["from"]) for reply in status["replies"]] == [(4, "bob")]
    assert [(m["content"], m["reply_to"]) for m in answer["messages"]] == [("yes", 3)]
    assert [m["id"] for m in history["messages"]] == [3, 4]


@pytest.mark.anyio
async def test_state(party: Party, connect: Connect) -> None:
    """set_state, get_state, list_state: versions, conflicts and modes as in the original."""
    async with connect(party.session()) as alice:
        await alice.said("register", name="alice")
        assert await alice.said("set_state", key="k", value="a") == "state['k'] set (version 1)"
        assert await alice.said("set_state", key="k", value="b", mode="append") == "state['k'] set (version 2)"
        stale = await alice.call("set_state", key="k", value="c", expected_version=1)
        exists = await alice.call("set_state", key="k", value="c", expected_version=0)
        assert await alice.said("set_state", key="k2", value="", ttl="1h") == "state['k2'] set (version 1)"
        [entry] = (await alice.told("get_state", key="k"))["state"]
        everything = (await alice.told("get_state"))["state"]
        nothing = (await alice.told("get_state", key="nope"))["state"]
        listed = (await alice.told("list_state"))["state"]
        assert await alice.said("set_state", key="k", mode="delete") == "state['k'] deleted"

    assert stale.failed
    assert "expected_version 1 != current 2; re-read 'k' and retry" in stale.text
    assert exists.failed
    assert (entry["key"], entry["value"], entry["version"], entry["updated_by"]) == ("k", "a\nb", 2, "alice")
    assert entry["updated_at"] > 0
    assert [row["key"] for row in everything] == ["k", "k2"]
    assert everything[1]["value"] == ""
    assert nothing == []
    assert [set(row) >= {"key", "version", "updated_by", "updated_at"} for row in listed] == [True, True]
    assert not [row for row in listed if "value" in row]


@pytest.mark.anyio
async def test_paths_and_names_are_understood_as_models_write_them(
    party: Party, connect: Connect, tmp_path: Path
) -> None:
    """And the answers show as what: lists in a string, line numbers, mentions, remarks."""
    party.now = time.time()
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.ts").write_text("1")
    where = worktree.folder(tmp_path)
    async with connect(party.session(folder=where)) as alice, connect(party.session(folder=where)) as bob:
        joined = await alice.said("register", name="alice", owns=f'["{tmp_path}/src/{{a,b}}.ts"]')
        await bob.said("register", name="bob")
        claimed = await alice.said("claim", path='["src/{a,b}.ts:10-20", "@src/c.ts#L1"]')
        unclear = await alice.call("claim", path="src/a.ts the login form")
        held = await bob.call("claim", path="`src/b.ts` (the login)")
        others = await bob.call("release", path="`src/b.ts`")
        released = await alice.said("release", path="src/a.ts - done, src/b.ts")
        sent = await alice.said("send", to='["@bob", "carol"]', content="look", files="src/a.ts:1")
        [mail] = (await bob.told("inbox"))["messages"]

    assert "owning 'src/a.ts', 'src/b.ts'" in joined
    assert claimed == "claimed 'src/a.ts', 'src/b.ts', 'src/c.ts' for 1800s"
    assert unclear.failed
    assert "write only 'src/a.ts'" in unclear.text
    assert "'src/b.ts' is claimed by 'alice'" in held.text.replace(f"{tmp_path}/", "")
    assert "alice" in others.text
    assert released == "released 'src/a.ts', 'src/b.ts'"
    assert "bob" in sent
    assert "carol" in sent
    assert [file["path"] for file in mail["files"]] == [str(tmp_path / "src" / "a.ts")]


@pytest.mark.anyio
async def test_a_claim_is_released_as_it_is_shown(party: Party, connect: Connect, tmp_path: Path) -> None:
    """From a folder below the root, and of a path that nobody would write by hand."""
    party.now = time.time()
    shop = repository(tmp_path / "shop")
    (shop / "web").mkdir()
    async with connect(party.session(folder=worktree.folder(shop / "web"))) as alice:
        await alice.said("register", name="alice")
        for written in ("app.ts", "a b, c (d).ts"):
            await party.bus(Config(party.path)).run(
                claims.claim,
                Address("alice", "default"),
                [ClaimTarget(worktree.folder(shop).repository, f"web/{written}")],
                ttl=60,
            )
            [shown] = (await alice.told("list_claims"))["claims"]
            assert shown["path"] == f"web/{written}"
            assert await alice.said("release", path=shown["path"]) == f"released 'web/{written}'"


@pytest.mark.anyio
async def test_claims(party: Party, connect: Connect) -> None:
    """claim, release, list_claims: grants, refusals and releases as in the original."""
    party.now = time.time()
    async with connect(party.session()) as alice, connect(party.session()) as bob:
        await alice.said("register", name="alice")
        await bob.said("register", name="bob")
        assert await alice.said("claim", path="a.py") == "claimed 'a.py' for 1800s"
        assert await alice.said("claim", path="port:8080", ttl="30m") == "claimed 'port:8080' for 1800s"
        refused = await bob.call("claim", path=["x.py", "a.py"])
        stolen = await bob.call("release", path="a.py")
        rows = (await bob.told("list_claims"))["claims"]
        assert await bob.said("release", path="nothing.py") == "no claim on 'nothing.py'"
        assert await alice.said("release", path="a.py") == "released 'a.py'"
        assert await alice.said("release") == "released 'port:8080'"
        assert (await bob.told("list_claims"))["claims"] == []

    assert refused.failed
    assert "'alice'" in refused.text
    assert "1800s" in refused.text
    assert stolen.failed
    assert sorted((row["path"], row["owner"]) for row in rows) == [("a.py", "alice"), ("port:8080", "alice")]
    assert all(0 < row["ttl_remaining"] <= 1800 for row in rows)


@pytest.mark.anyio
async def test_waiting(party: Party, connect: Connect) -> None:
    """wait returns what is there at once, and nothing after its time."""
    async with connect(party.session()) as alice, connect(party.session()) as bob:
        await alice.said("register", name="alice")
        await bob.said("register", name="bob")
        await alice.said("send", to="bob", content="now")
        found = await bob.told("wait", timeout="5s")
        nothing = await bob.told("wait", timeout=0.01)

    assert [m["content"] for m in found["messages"]] == ["now"]
    assert nothing == {"messages": [], "pending_count": 0}


@pytest.mark.anyio
async def test_before_registering_the_way_is_told(party: Party, connect: Connect) -> None:
    """Verbs that need a name say how to get one."""
    async with connect(party.session()) as model:
        for tool, arguments in (
            ("send", {"to": "bob", "content": "x"}),
            ("inbox", {}),
            ("wait", {}),
            ("claim", {"path": "a"}),
            ("release", {"path": "a"}),
            ("leave", {}),
        ):
            found = await model.call(tool, **arguments)
            assert found.failed
            assert found.text.startswith("register first: call register(name)")


# -- malformed calls --------------------------------------------------------------------------------

HUGE = 10**30
MALFORMED: list[tuple[str, dict[str, Any]]] = [
    ("register", {}),
    ("register", {"name": 7}),
    ("register", {"name": "a\x07b"}),
    ("register", {"name": "a\u202eb"}),
    ("register", {"name": "\ud800"}),
    ("register", {"name": "x" * 65}),
    ("register", {"name": "all"}),
    ("register", {"name": "bob", "role": "a\nb"}),
    ("register", {"name": "bob", "owns": {"path": "src"}}),
    ("register", {"name": "bob", "owns": ["a\x00"]}),
    ("register", {"name": "bob", "channel": "a/b"}),
    ("whoami", {"who": "me"}),
    ("leave", {"now": True}),
    ("agents", {"active_within": "soon"}),
    ("agents", {"active_within": "nan"}),
    ("agents", {"channel": "a b"}),
    ("send", {"to": "bob"}),
    ("send", {"content": "x"}),
    ("send", {"to": "bob", "content": ""}),
    ("send", {"to": "bob", "content": None}),
    ("send", {"to": "bob", "content": "x", "sender": "eve"}),
    ("send", {"to": [], "content": "x"}),
    ("send", {"to": ["bob"] * 201, "content": "x"}),
    ("send", {"to": {"name": "bob"}, "content": "x"}),
    ("send", {"to": "b\x1bb", "content": "x"}),
    ("send", {"to": "b*\x1b", "content": "x"}),
    ("send", {"to": "nobody-*", "content": "x"}),
    ("send", {"to": "alice", "content": "to myself"}),
    ("send", {"to": "bob", "content": "\ud800"}),
    ("send", {"to": "bob", "content": "x" * 65_537}),
    ("send", {"to": "bob", "content": "x", "kind": "shout"}),
    ("send", {"to": "bob", "content": "x", "reply_to": 99}),
    ("send", {"to": "bob", "content": "x", "reply_to": HUGE}),
    ("send", {"to": "bob", "content": "x", "reply_to": "first"}),
    ("send", {"to": "bob", "content": "x", "ttl": -1}),
    ("send", {"to": "bob", "content": "x", "ttl": "1y"}),
    ("send", {"to": "bob", "content": "x", "tags": ["a\nb"]}),
    ("send", {"to": "bob", "content": "x", "key": "k\n"}),
    ("inbox", {"limit": 0}),
    ("inbox", {"limit": HUGE}),
    ("inbox", {"peek": "perhaps"}),
    ("wait", {"timeout": 0}),
    ("wait", {"timeout": "nan"}),
    ("wait", {"timeout": 10**9}),
    ("message_status", {}),
    ("message_status", {"message_id": 99}),
    ("message_status", {"message_id": -HUGE}),
    ("message_status", {"message_id": "one"}),
    ("history", {"limit": 0}),
    ("history", {"since": HUGE}),
    ("history", {"thread": HUGE}),
    ("history", {"thread": "x"}),
    ("history", {"search": "\ud800"}),
    ("set_state", {}),
    ("set_state", {"key": ""}),
    ("set_state", {"key": "a\nb", "value": "x"}),
    ("set_state", {"key": 5, "value": "x"}),
    ("set_state", {"key": "k", "value": "x", "mode": "replace"}),
    ("set_state", {"key": "k", "value": "x", "expected_version": -1}),
    ("set_state", {"key": "k", "value": "x", "expected_version": 3}),
    ("set_state", {"key": "k", "value": "x", "ttl": "0s"}),
    ("set_state", {"key": "k", "value": "x" * 262_145}),
    ("get_state", {"keys": []}),
    ("get_state", {"key": "\ud800"}),
    ("list_state", {"prefix": 3}),
    ("list_state", {"prefix": "\ud800"}),
    ("claim", {}),
    ("claim", {"path": []}),
    ("claim", {"path": ""}),
    ("claim", {"path": "a\nb"}),
    ("claim", {"path": ["a", ""]}),
    ("claim", {"path": "a", "ttl": "for ever"}),
    ("claim", {"path": "a", "ttl": 10**12}),
    ("claim", {"path": "a", "reason": "a\nb"}),
    ("release", {"path": 3}),
    ("release", {"path": "x" * 1001}),
    ("list_claims", {"all": True}),
    ("no_such_tool", {}),
    ("hook", {}),
    ("hook", {"event": ["Stop"]}),
]


@pytest.mark.anyio
async def test_a_malformed_call_is_a_clear_error_and_changes_nothing(party: Party, connect: Connect) -> None:
    """Each is answered as an error that says what is wrong, in one printable text, and the server goes on."""
    async with connect(party.session()) as model:
        await model.said("register", name="alice")
        before = state_of_file(party.path)
        for tool, arguments in MALFORMED:
            found = await model.call(tool, **arguments)
            assert found.failed, (tool, arguments, found)
            assert found.text, (tool, arguments)
            assert "unexpectedly" not in found.text, (tool, arguments, found.text)
            assert found.text.replace("\n", " ").isprintable(), (tool, arguments, found.text)
            assert len(found.text) < 1500, (tool, arguments)
        assert await model.said("whoami") == "alice"
        assert state_of_file(party.path) == before


def state_of_file(path: Path) -> list[tuple[Any, ...]]:
    """Return the state that a malformed call must not change."""
    store = Store(path)
    tables = ("messages", "deliveries", "state", "claims")
    found = [row for table in tables for row in store.rows(f"SELECT * FROM {table}")]
    found += store.rows("SELECT channel, name, registered, role, owns FROM agents")
    store.connection.close()
    return found


@pytest.mark.anyio
async def test_an_unknown_argument_is_named_with_those_there_are(party: Party, connect: Connect) -> None:
    """A model can put its call right from the error alone."""
    async with connect(party.session()) as model:
        found = await model.call("send", to="bob", content="x", message="y")

    assert "message" in found.text
    assert "Accepted arguments: to, content, reply_to, kind" in found.text


@pytest.mark.anyio
async def test_content_over_the_limit_names_the_way_out(party: Party, connect: Connect) -> None:
    """65 KB are refused with what to do instead; 64 KB arrive whole."""
    async with connect(party.session()) as alice, connect(party.session()) as bob:
        await alice.said("register", name="alice")
        await bob.said("register", name="bob")
        refused = await alice.call("send", to="bob", content="é" * 33_000)
        await alice.said("send", to="bob", content="é" * 32_768)
        found = await bob.told("inbox")

    assert refused.failed
    assert "66000 bytes, the limit is 65536" in refused.text
    assert "sha256" in refused.text
    assert found["messages"][0]["content"] == "é" * 32_768


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("written", "seconds"),
    [(90, "90s"), ("90", "90s"), ("90s", "90s"), ("30m", "1800s"), ("2h", "7200s"), ("1D", "86400s")],
)
async def test_durations_are_read_as_people_write_them(party: Party, written: object, seconds: str) -> None:
    """Seconds, or a number with a unit."""
    async with Client(create_server(lambda _context: SessionGroup(session))) as client:
        session = party.session()
        model = Model(client)
        await model.said("register", name="alice")
        assert (await model.said("claim", path="gpu:0", ttl=written)).endswith(f"for {seconds}")


@pytest.mark.anyio
async def test_a_fault_of_our_own_is_one_failed_answer(
    party: Party, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a verb raises, the call fails, the log has it, a hook stays silent, and the server goes on."""
    session = party.session()

    async def broken(*_arguments: object, **_more: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(
        session.bus, "run_for", running(session.bus, {claims.list_claims: broken, sessions.handle_hook_event: broken})
    )
    async with connect(session) as model:
        found = await model.call("list_claims")
        hook = await model.call("hook", event="UserPromptSubmit", session_id="s", prompt_id="p")
        assert (await model.said("register", name="alice")).startswith("registered")

    assert found.failed
    assert "RuntimeError: a bug" in found.text
    assert (hook.text, hook.failed) == (QUIET, False)
    assert caplog.text.count("RuntimeError: a bug") == 2


# -- hooks -----------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_hook_answers_in_the_clients_json(party: Party, connect: Connect) -> None:
    """Context under the event's name, which the client prints at the end of a turn only; for the other events there is
    a line for the user; nothing where nothing is new."""
    alice = await party.join("alice")
    async with connect(await party.join("bob")) as client:
        seen = {}
        for event in ("UserPromptSubmit", "PostToolBatch", "Stop"):
            from claude_bus.model.messages import Draft

            await alice.send(Draft(("bob",), f"for {event}"))
            found = await client.call("hook", event=event, session_id="s", prompt_id="p", permission_mode="default")
            seen[event] = json.loads(found.text)
            again = await client.call("hook", event="PostToolBatch", session_id="s", prompt_id="p")
            assert (again.text, again.failed) == (QUIET, False)

    for order, (event, reply) in enumerate(seen.items(), 1):
        assert reply["hookSpecificOutput"]["hookEventName"] == event
        assert f"for {event}" in reply["hookSpecificOutput"]["additionalContext"]
        assert reply.get("systemMessage", "") == ("" if event == "Stop" else f'bus: #{order} alice: "for {event}"')


@pytest.mark.anyio
async def test_the_events_of_subagents_are_not_ours(party: Party, connect: Connect) -> None:
    """Inside a subagent nothing is injected, and mail stays for its parent."""
    alice, bob = await party.join("alice"), await party.join("bob")
    from claude_bus.model.messages import Draft

    await alice.send(Draft(("bob",), "for the parent"))
    async with connect(bob) as client:
        for event in hooks.EVENTS:
            found = await client.call("hook", event=event, session_id="s", prompt_id="p", agent_id="a1")
            assert (found.text, found.failed) == ("" if event == "PostCompact" else QUIET, False)
        found = await client.call("hook", event="UserPromptSubmit", session_id="s", prompt_id="p")

    assert "for the parent" in found.text


@pytest.mark.anyio
@pytest.mark.parametrize("event", ["SomethingNew", "SessionStart", ""])
async def test_an_event_we_do_not_know_is_no_error(client: Client, event: str) -> None:
    """A newer client may send more; it gets an empty answer."""
    found = await Model(client).call("hook", event=event, session_id="s", more="fields")

    assert (found.text, found.failed) == (QUIET, False)


@pytest.mark.anyio
async def test_after_a_compaction_there_is_no_text_at_all(client: Client) -> None:
    """There the client would quote even an empty object to the model."""
    found = await client.call_tool("hook", {"event": "PostCompact", "session_id": "s"})

    assert (found.content, bool(found.is_error)) == ([], False)


def test_the_plugin_registers_the_events_that_the_server_reacts_to() -> None:
    """The plugin's hooks and the server's reactions are the same list."""
    declared = json.loads(Path(__file__).parents[2].joinpath("hooks", "hooks.json").read_text(encoding="utf-8"))

    assert set(declared["hooks"]) == set(hooks.EVENTS)
    for event, entries in declared["hooks"].items():
        [hook] = entries[0]["hooks"]
        assert (hook["type"], hook["tool"], hook["input"]["event"]) == ("mcp_tool", hooks.NAME, event)


# -- a real process ----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_real_server_speaks_the_newest_protocol(tmp_path: Path) -> None:
    """The SDK's own client discovers the server over its pipes, and calls it."""
    env = environment(tmp_path / "bus.db")
    server = StdioServerParameters(command=sys.executable, args=["-m", "claude_bus"], env=env)
    with anyio.fail_after(PATIENCE):
        async with Client(server) as client:
            assert client.protocol_version == ERAS["auto"]
            assert (await Model(client).said("register", name="alice")).startswith("registered 'alice'")


def test_many_calls_at_once_are_all_answered(tmp_path: Path) -> None:
    """Twenty calls in flight each get their own answer, and none is lost or doubled."""
    with wire(tmp_path / "bus.db") as server:
        server.call("register", name="alice")
        asked = {
            server.post("tools/call", name="set_state", arguments={"key": "log", "value": str(n), "mode": "append"}): n
            for n in range(20)
        }
        answers = {found["id"]: answer(found).text for found in (server.read() for _ in asked)}
        lines = server.call("get_state", key="log").data["state"][0]["value"].split("\n")

    assert set(answers) == set(asked)
    assert sorted(answers.values()) == sorted(f"state['log'] set (version {n})" for n in range(1, 21))
    assert sorted(lines, key=int) == [str(n) for n in range(20)]


def test_a_waiting_call_holds_nothing_up(tmp_path: Path) -> None:
    """While one call waits for mail others are answered, and mail ends the wait."""
    alice = Peer(tmp_path / "bus.db", "alice")
    with wire(tmp_path / "bus.db") as bob:
        bob.call("register", name="bob")
        waiting = bob.post("tools/call", name="wait", arguments={"timeout": 600})
        assert bob.call("whoami").text == "bob"
        alice.send("bob", "at last")
        found = bob.read()

    assert found["id"] == waiting
    assert [m["content"] for m in answer(found).data["messages"]] == ["at last"]


def test_a_wait_that_was_given_up_takes_nothing(tmp_path: Path) -> None:
    """After the client cancelled it, mail that comes is still in the inbox."""
    alice = Peer(tmp_path / "bus.db", "alice")
    with wire(tmp_path / "bus.db") as bob:
        bob.call("register", name="bob")
        waiting = bob.post("tools/call", name="wait", arguments={"timeout": 600})
        bob.write({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": waiting}})
        bob.call("whoami")
        alice.send("bob", "hello")
        found = bob.call("inbox")

    assert [m["content"] for m in found.data["messages"]] == ["hello"]


GARBAGE = [
    b"",
    b"not json",
    b'{"jsonrpc": "2.0", "id": 1',
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"jsonrpc": "2.0", "method": "no/such/notification"}',
    b'{"jsonrpc": "2.0", "id": 5}',
    b'{"id": {}, "method": 3}',
    b'{"jsonrpc": "2.0", "id": "x", "method": "no/such/method"}',
    b'{"jsonrpc": "2.0", "id": "y", "method": "tools/call", "params": 3}',
    b'{"jsonrpc": "2.0", "id": "z", "method": "tools/call", "params": {"name": "whoami", "arguments": []}}',
    b"x" * 200_000,
]


def test_garbage_on_its_input_does_not_end_it(tmp_path: Path) -> None:
    """Lines that are no requests are survived, and what is answered to them is JSON too."""
    with wire(tmp_path / "bus.db") as server:
        for line in GARBAGE:
            server.write(line)
        found = server.call("register", name="alice")
        status = server.end()

    assert found.text.startswith("registered 'alice'")
    assert status == 0


def status_of(path: Path, name: str) -> str:
    """How an agent is listed, as another process sees it."""
    store = Store(path)
    found = {row[0]: row[1] for row in store.rows("SELECT name, status FROM agents")}
    bound = store.rows("SELECT client FROM bindings WHERE agent = ?", name)
    store.connection.close()
    assert not bound
    return str(found[name])


@pytest.mark.parametrize(
    "end",
    [
        pytest.param((), id="end of input"),
        pytest.param((signal.SIGINT,), id="interrupted"),
        pytest.param((signal.SIGTERM,), id="terminated"),
        pytest.param((signal.SIGINT, signal.SIGTERM), id="as the client does"),
    ],
)
def test_it_ends_cleanly_and_its_session_with_it(tmp_path: Path, end: tuple[signal.Signals, ...]) -> None:
    """However the client ends it, in the middle of a wait, it exits with 0, its name is free and its mail kept."""
    path = tmp_path / "bus.db"
    with wire(path) as bob:
        bob.call("register", name="bob")
        bob.call("claim", path="a.py")
        bob.post("tools/call", name="wait", arguments={"timeout": 600})
        assert bob.call("whoami").text == "bob"
        for number in end:
            bob.process.send_signal(number)
        status = bob.process.wait(PATIENCE) if end else bob.end()
        complaints = bob.process.stderr.read() if bob.process.stderr else b""

    assert status == 0
    assert b"Traceback" not in complaints
    assert status_of(path, "bob") == "offline"
    store = Store(path)
    assert [a.name for a in store(agents.listing, "default", None)] == ["bob"]
    assert store.rows("SELECT * FROM claims") == []
    store.connection.close()


def test_it_ends_though_the_file_is_locked(tmp_path: Path) -> None:
    """A server that cannot say goodbye to the store still ends, and the next to look finds it gone."""
    path = tmp_path / "bus.db"
    with wire(path, BUS_BUSY_TIMEOUT="0.1") as bob:
        bob.call("register", name="bob")
        lock = Store(path)
        lock.connection.execute("BEGIN IMMEDIATE")
        status = bob.end()
        lock.connection.execute("ROLLBACK")
        lock.connection.close()
    with wire(path) as heir:
        taken = heir.call("register", name="bob")

    assert status == 0
    assert taken.text.startswith("registered 'bob'")


def test_its_output_is_nothing_but_json(tmp_path: Path) -> None:
    """Not a word of anything else goes to a client's pipe, and nothing to its log where all is well."""
    server = Wire(tmp_path / "bus.db")
    try:
        server.start()
        for tool in ("whoami", "agents", "list_claims", "get_state"):
            server.call(tool)
        server.call("nope")
        assert server.end() == 0
        assert server.process.stdout
        assert server.process.stderr
        assert server.process.stdout.read() == b""
        assert server.process.stderr.read() == b""
    finally:
        server.kill()


def test_a_wrong_setting_is_told_before_it_starts(tmp_path: Path) -> None:
    """A server that cannot start says why, and names the variable."""
    server = Wire(tmp_path / "bus.db", BUS_NAME="not a name")
    try:
        assert server.process.wait(PATIENCE) == 2
        assert server.process.stderr
        complaint = server.process.stderr.read().decode()
        assert "BUS_NAME" in complaint
        assert "Traceback" not in complaint
    finally:
        server.kill()


def test_an_answer_that_came_too_late_hands_nothing_over(tmp_path: Path) -> None:
    """A client that gave a hook up drops its answer: what comes next proves nothing of it, and the mail comes again."""
    with wire(tmp_path / "bus.db") as server:
        server.call("register", name="alice")
        peer = Peer(tmp_path / "bus.db", "bob")
        peer.send("alice", "too late")
        event = {"event": "UserPromptSubmit", "session_id": "s1", "prompt_id": "p1", "permission_mode": "default"}
        late = server.ask("tools/call", name="hook", arguments=event)
        assert "too late" in answer(late).text
        server.write({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": late["id"]}})

        again = server.hook("PostToolBatch")

        assert "too late" in again
        assert 'possibly_seen="true"' in again
        assert peer.state(1) == "handed"


def test_a_plugins_server_knows_of_its_hooks_before_they_come(tmp_path: Path) -> None:
    """With hooks a later call proves nothing; a server that the plugin did not start may have none."""
    for env, state in (({"CLAUDE_PLUGIN_ROOT": "/plugin"}, "handed"), ({}, "read")):
        db = tmp_path / f"{state}.db"
        with wire(db, **env) as server:
            server.call("register", name="alice")
            peer = Peer(db, "bob")
            peer.send("alice")
            [message] = server.call("inbox").data["messages"]
            server.call("whoami")
            assert peer.state(message["id"]) == state
