"""Each tool call and each hook of a session that runs is one transaction, of a known number of statements."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from claude_bus.drivers import sqlite
from claude_bus.drivers.worker import Database
from claude_bus.mcp import hooks, tools
from claude_bus.session.doorbell import Doorbell
from claude_bus.session.hook_event import HookEvent
from claude_bus.session.session import Session
from claude_bus.session.subagents import SessionGroup
from tests.support.sessions import Party, say

pytestmark = pytest.mark.anyio


class Counter:
    """Counts the hops to the store, by kind, and the statements."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.hops: list[str] = []
        self.statements: list[str] = []
        for kind in ("run", "write_relaxed", "read", "read_relaxed"):
            patch.setattr(Database, kind, self._counted(kind, getattr(Database, kind)))
        connect = sqlite.connect

        def traced(path: Path, busy_timeout: float) -> sqlite3.Connection:
            connection = connect(path, busy_timeout)
            connection.set_trace_callback(lambda sql: None if sql.startswith("--") else self.statements.append(sql))
            return connection

        patch.setattr(sqlite, "connect", traced)

    def _counted(self, kind: str, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(database: Database, *args: Any, **kwargs: Any) -> Any:
            self.hops.append(kind)
            return await original(database, *args, **kwargs)

        return counted

    async def of(self, act: Awaitable[object]) -> tuple[list[str], int]:
        """The hops of an act, and the number of its statements, those of its transactions included."""
        self.hops.clear()
        self.statements.clear()
        await act
        return list(self.hops), len(self.statements)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


@pytest.fixture
async def party(tmp_path: Path, counter: Counter) -> AsyncIterator[Party]:
    party = Party(tmp_path / "bus.db")
    yield party
    await party.close()


async def settled(party: Party) -> Session:
    """A session that has registered, and whose hooks have reported a turn."""
    session = await party.join("alice", may_wake=lambda _mode: True)
    await party.join("bob")
    await tools.call(session, "set_state", {"key": "k", "value": "v"})
    await tools.call(session, "claim", {"path": "port:1"})
    await hook(session, "UserPromptSubmit", prompt_id="p0")
    await hook(session, "PostToolBatch", prompt_id="p0")
    return session


async def hook(session: Session, event: str, **fields: str) -> str:
    given = {"session_id": "s", "permission_mode": "default", **fields}
    return await hooks.handle(SessionGroup(session), HookEvent(event, **given))


TOOLS: Mapping[str, tuple[dict[str, Any], str, int]] = {
    "agents": ({}, "read_relaxed", 8),
    "claim": ({"path": ["port:80", "port:81"]}, "run", 10),
    "get_state": ({"key": "k"}, "read_relaxed", 4),
    "get_state of all": ({}, "read_relaxed", 5),
    "get_state with history": ({"key": "k", "history": 5}, "read_relaxed", 6),
    "history": ({}, "read_relaxed", 8),
    "inbox": ({}, "run", 7),
    "leave": ({}, "run", 14),
    "list_claims": ({}, "read_relaxed", 6),
    "list_state": ({}, "read_relaxed", 4),
    "message_status": ({"message_id": 1}, "run", 8),
    "register": ({"name": "alice"}, "run", 13),
    "release": ({"path": ["port:1"]}, "run", 11),
    "release of all": ({}, "run", 7),
    "send": ({"to": "bob", "content": "hello"}, "run", 11),
    "set_state": ({"key": "k", "value": "w"}, "run", 10),
    "wait": ({}, "run", 10),
    "whoami": ({}, "read_relaxed", 4),
}
"""Arguments, how the store is asked, and statements."""

HOOKS: Mapping[str, tuple[dict[str, str], list[str], int]] = {
    "UserPromptSubmit": ({"prompt_id": "p1"}, ["write_relaxed"], 16),
    "UserPromptSubmit joined": ({"prompt_id": "p0"}, ["write_relaxed"], 7),
    "PostToolBatch": ({"prompt_id": "p0"}, ["write_relaxed"], 9),
    "Stop": ({"prompt_id": "p0"}, ["write_relaxed"], 9),
    "StopFailure": ({}, ["write_relaxed"], 8),
    "Notification": ({"notification_type": "permission_prompt"}, ["write_relaxed"], 7),
    "PostCompact": ({}, ["run"], 3),
    "PreToolUse": ({"path": "/home/me/shop/a.py"}, ["write_relaxed"], 15),
    "PreToolUse of a bus tool": ({"tool_use_id": "t1"}, [], 0),
    "PreToolUse of a bus tool in a subagent": ({"tool_use_id": "t1", "agent_id": "a1"}, ["write_relaxed"], 5),
}


def first_word(case: str) -> str:
    return case.split(" ", maxsplit=1)[0]


@pytest.mark.parametrize("case", TOOLS)
async def test_a_tool_call_is_one_hop(party: Party, counter: Counter, case: str) -> None:
    """Its presence is noted, and its binding checked, in the transaction of the verb."""
    session = await settled(party)
    await say(session, "bob")
    name = first_word(case)
    arguments, kind, statements = TOOLS[case]
    if name == "wait":
        await say(await party.join("carol"), "alice")

    assert await counter.of(tools.call(session, name, arguments)) == ([kind], statements)


@pytest.mark.parametrize("case", HOOKS)
async def test_a_hook_is_one_hop(party: Party, counter: Counter, case: str) -> None:
    """It does not wait for the disk if it says only who is present."""
    session = await settled(party)
    fields, kinds, statements = HOOKS[case]

    assert await counter.of(hook(session, first_word(case), **fields)) == (kinds, statements)


async def test_every_tool_and_hook_is_counted() -> None:
    """A new one is written down above."""
    assert set(map(first_word, TOOLS)) == set(tools.TOOLS)
    assert set(map(first_word, HOOKS)) == {e for e in hooks.EVENTS if "Subagent" not in e}


async def test_a_start_is_one_hop(party: Party, counter: Counter) -> None:
    """With a name from the settings too, which it takes at once."""
    plain = party.session(may_wake=lambda _mode: True)
    named = party.session(name="carol", may_wake=lambda _mode: True)

    assert (await counter.of(plain.presence.listen_at("udp:127.0.0.1:1")))[0] == ["run"]
    assert (await counter.of(named.presence.listen_at("udp:127.0.0.1:2")))[0] == ["run"]


async def test_a_heartbeat_is_one_hop(party: Party, counter: Counter) -> None:
    session = await settled(party)

    assert (await counter.of(session.presence.beat()))[0] == ["write_relaxed"]


@pytest.mark.parametrize("mail", [0, 1])
async def test_a_look_of_the_doorbell_is_one_hop(party: Party, counter: Counter, mail: int) -> None:
    """Whether mail waits or not, and also if it rings."""
    session = await settled(party)
    bob = await party.join("carol")
    await hook(session, "Stop", prompt_id="p0")
    for _ in range(mail):
        await say(bob, "alice")
    rung: list[str] = []

    async def push(text: str, _sender: str) -> bool:
        rung.append(text)
        return True

    bell = Doorbell(session, session.bus, push, lambda: True)

    assert (await counter.of(bell._look(True)))[0] == ["read"]
    assert len(rung) == mail


async def test_a_call_is_noted_only_now_and_then(party: Party, counter: Counter) -> None:
    """Within a few seconds, a call that only reads does not write; then it does, without waiting for the disk."""
    session = await settled(party)
    await counter.of(tools.call(session, "whoami", {}))
    assert not [sql for sql in counter.statements if sql.startswith("UPDATE")]

    party.now += 20
    assert (await counter.of(tools.call(session, "whoami", {})))[0] == ["read_relaxed"]
    assert [sql.split()[1] for sql in counter.statements if sql.startswith("UPDATE")] == ["bindings", "agents"]
    assert "PRAGMA synchronous = NORMAL" in counter.statements


@pytest.mark.parametrize("what", ["renamed", "left", "given up"])
async def test_a_session_that_is_bound_anew_goes_on(party: Party, counter: Counter, what: str) -> None:
    """Another server of the same session renames it, or it was given up: the call finds out, and is not lost."""
    session = await settled(party)
    other = party.session(session.client)
    if what == "renamed":
        await other.register("alicia")
    elif what == "left":
        await other.leave()
    else:
        await other.presence.close()
        await session.presence.close()

    found = await session.whoami()

    assert found
    assert (found.address.name, found.registered) == {
        "renamed": ("alicia", True),
        "left": (found.address.name, False),
        "given up": ("alice", True),
    }[what]


async def test_a_call_without_hooks_proves_the_one_before_in_its_own_transaction(
    party: Party, counter: Counter
) -> None:
    """The mail that inbox brought is read once the next call comes."""
    alice, bob = await party.join("alice"), await party.join("bob")
    message = await say(alice, "bob")
    await bob.inbox()

    assert (await counter.of(bob.list_state("")))[0] == ["run"]
    assert (await alice.message_status(message)).receipts[0].state == "read"


async def test_mail_that_a_hook_hands_over_is_synced(party: Party, counter: Counter) -> None:
    """It begins as a relaxed write, finds mail, and begins anew as one that survives a power cut."""
    session = await settled(party)
    await say(await party.join("carol"), "alice")

    _, _ = await counter.of(hook(session, "UserPromptSubmit", prompt_id="p1"))

    [committed] = [at for at, sql in enumerate(counter.statements) if sql == "COMMIT"]
    synchronous = [sql for sql in counter.statements[:committed] if sql.startswith("PRAGMA")]
    assert synchronous == ["PRAGMA synchronous = NORMAL", "PRAGMA synchronous = FULL"]
