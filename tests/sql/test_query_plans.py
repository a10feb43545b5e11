"""A query for waiting mail costs what waits: neither a hook nor an inbox reads mail that was read before."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from claude_bus.compat.sql import feeds
from claude_bus.model.hooks import HookReport
from claude_bus.model.identity import Address
from claude_bus.model.messages import Search
from claude_bus.model.tokens import Grant
from claude_bus.sql import agents, bindings, deliveries, inboxes, mailboxes, messages, sessions
from tests.support.store import NO_LIMIT, Store

STORED = 300
"""Messages that each reader has read before; a search through them would show."""

SCRIPT = Address("script", "default")
ANN = Address("ann", "default")
ALL = Grant("anybody")


class Office:
    """A session, bob, and a program, script, that have read so much; then each has one new message."""

    def __init__(self, path: Path, stored: int) -> None:
        self.store = Store(path)
        self.bob = self.store.join("bob")
        self.by = self.store.clients[self.bob].process
        for who in (SCRIPT, ANN):
            self.store(agents.join_without_session, who, "script")
        for number in range(stored):
            kind = "request" if number % 10 == 0 else "message"
            self.store.send(ANN, ("bob", "script"), kind=kind, ttl=10 + number if number % 3 else None)
        read = self.store.read(self.bob)
        self.store(inboxes.acknowledge, SCRIPT, [m.id for m in read], "ack")
        while self.store.recall(self.bob):
            pass
        self.store.now += 1_000_000
        self.newest = self.store.send(ANN, ("bob", "script"), "new", kind="request").id

    def handed(self) -> Office:
        """The new mail was handed to bob, who has not proven it."""
        self.store.hand_over(self.bob)
        return self

    def orphaned(self) -> Office:
        """And then what gave it died."""
        self.store.kill(self.by)
        return self.handed()

    def react(self, **what: object) -> object:
        happening = HookReport("hook", NO_LIMIT, session_id="s", **what)  # type: ignore[arg-type]
        return self.store.by(self.by)(sessions.handle_hook_event, self.store.clients[self.bob], happening)

    def ring(self) -> object:
        self.store(bindings.observe, self.store.clients[self.bob].key, status="idle", bell=True)
        return self.store(deliveries.ring, self.store.clients[self.bob].key, idle=True)

    def recall(self) -> object:
        self.store.read(self.bob)
        return self.store.recall(self.bob)


ACTS: dict[str, Callable[[Office], object]] = {
    "a prompt": lambda o: o.react(begins=True, roster=True),
    "a tool batch": lambda o: o.react(),
    "the end of a turn": lambda o: o.react(ends=True),
    "a hook after a hand-over": lambda o: o.handed().react(),
    "a call of a bus elsewhere": lambda o: o.handed().store.by(o.by)(
        deliveries.requeue_unconfirmed, o.bob, frozenset()
    ),
    "an inbox": lambda o: o.store.read(o.bob),
    "a look": lambda o: o.store(inboxes.peek, SCRIPT, limit=100, max_chars=NO_LIMIT),
    "what waits": lambda o: o.store(deliveries.waiting, o.bob),
    "a ring": lambda o: o.ring(),
    "what a dead process had": lambda o: o.orphaned().store(deliveries.recover, o.bob),
    "what comes again": lambda o: o.handed().store(mailboxes.requeue, o.bob),
    "what comes again of a process": lambda o: o.handed().store(mailboxes.requeue, o.bob, str(o.by)),
    "open requests": lambda o: o.recall(),
    "what a program has not acknowledged": lambda o: o.store.by(grant=ALL)(
        feeds.posts, Search("default", unread_by="script")
    ),
    "what is unread by anybody": lambda o: o.store.by(grant=ALL)(feeds.unread),
    "what ran out": lambda o: o.store(messages.prune, 0.0),
}


@pytest.fixture
def offices(tmp_path: Path) -> tuple[Office, Office]:
    """One that has read much, and one that has read nothing."""
    return Office(tmp_path / "much.db", STORED), Office(tmp_path / "little.db", 0)


def plans(office: Office, act: Callable[[Office], object]) -> list[tuple[str, str]]:
    """Each step of the plan of each statement that an act runs on deliveries, and the statement."""
    connection = office.store.connection
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    act(office)
    connection.set_trace_callback(None)
    ours = dict.fromkeys(s for s in statements if "deliveries" in s and not s.startswith(("INSERT", "--")))
    return [(row[3], s) for s in ours for row in connection.execute(f"EXPLAIN QUERY PLAN {s}")]


def steps(office: Office, act: Callable[[Office], object]) -> int:
    """Instructions of SQLite's machine that an act takes."""
    counter = itertools.count()
    office.store.connection.set_progress_handler(lambda: next(counter) and None, 1)
    act(office)
    office.store.connection.set_progress_handler(None, 1)
    return next(counter)


_NO_TABLE = ("SUBQUERY", "TEMP", "CONSTANT ROW", "SCAN new", "SCAN those", "SCAN got")
"""Words of steps that go through what the statement itself made, or was given as a list."""


@pytest.mark.parametrize("name", ACTS)
def test_what_was_read_is_not_looked_at(name: str, offices: tuple[Office, Office]) -> None:
    """Deliveries are found among those that are open, or by their message; no table is gone through."""
    much, _ = offices
    found = plans(much, ACTS[name])
    bad = [
        (step, statement)
        for step, statement in found
        if "deliveries_recipient" in step
        or (step.startswith("SCAN") and not any(word in step for word in ("deliveries_un", *_NO_TABLE)))
    ]

    assert found
    assert not bad


@pytest.mark.parametrize("name", ACTS)
def test_it_costs_what_is_unread_not_what_is_stored(name: str, offices: tuple[Office, Office]) -> None:
    """The database does as much work after hundreds of read messages as after none."""
    much, little = offices

    assert steps(much, ACTS[name]) <= 1.2 * steps(little, ACTS[name]) + 20


@pytest.mark.parametrize("count", [1, 2, 20])
def test_recipients_are_looked_up_by_an_index(tmp_path: Path, count: int) -> None:
    """However many they are: neither all names of the bus are gone through, nor all its sessions."""
    store = Store(tmp_path / "bus.db")
    names = tuple(f"peer-{number}" for number in range(count))
    ann = store.join("ann")
    for name in names:
        store.join(name)
    statements: list[str] = []
    store.connection.set_trace_callback(statements.append)

    store.send(ann, names)
    store(deliveries.recover_all, [Address(name, "default") for name in names])
    store(bindings.end_dead, [Address(name, "default") for name in names])

    store.connection.set_trace_callback(None)
    found = [
        row[3]
        for sql in statements
        if sql.startswith(("SELECT", "UPDATE", "DELETE", "WITH", "\nSELECT"))
        for row in store.connection.execute(f"EXPLAIN QUERY PLAN {sql}")
    ]
    scanned = {step for step in found if step.startswith("SCAN") and not any(word in step for word in _NO_TABLE)}
    assert scanned == {"SCAN messages"}  # from its end, for the newest
