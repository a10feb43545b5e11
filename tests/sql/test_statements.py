"""How many statements a verb runs does not depend on how many recipients, messages, paths or names it is about."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from claude_bus.compat.sql import archive, chunks, feeds
from claude_bus.model.claims import ClaimTarget
from claude_bus.model.hooks import HookReport
from claude_bus.model.identity import Address
from claude_bus.model.messages import ArchivedMessage, Draft, File
from claude_bus.model.tokens import Grant
from claude_bus.sql import (
    agents,
    bindings,
    claims,
    deliveries,
    events,
    guard,
    inboxes,
    messages,
    sessions,
    state,
    upkeep,
)
from claude_bus.sql.transaction import Value
from tests.support.store import NO_LIMIT, Store

ANN = Address("ann", "default")
BOB = Address("bob", "default")
ALL = Grant("anybody")
Act = Callable[[], object]
Case = Callable[[Store, int], Act]


class Counting:
    """A connection that counts its statements; a trace would count those of foreign keys as well."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.count = 0

    def execute(self, sql: str, values: Sequence[Value] = ()) -> sqlite3.Cursor:
        self.count += 1
        return self._connection.execute(sql, values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def statements(store: Store, act: Act) -> int:
    """Run the act; return how many statements it took, those of the transaction included."""
    connection = store.connection
    counting = Counting(connection)
    store.connection = counting  # type: ignore[assignment]
    act()
    store.connection = connection
    return counting.count


def names(count: int, stem: str = "peer") -> tuple[str, ...]:
    return tuple(f"{stem}-{number}" for number in range(count))


def places(count: int) -> list[ClaimTarget]:
    return [ClaimTarget("shop", f"src/{n}.py", "", (("host:x", f"/shop/src/{n}.py"),)) for n in range(count)]


def mail(store: Store, count: int, **more: Any) -> list[int]:
    """So many messages to bob, each with a file."""
    files = (File("/a", 1, "0" * 64, "here"),)
    return [store.send(ANN, "bob", f"tag {n}", files=files, **more).id for n in range(count)]


# -- sending


def sends_to_sessions(store: Store, count: int) -> Act:
    for name in names(count):
        store.join(name)
    return lambda: store.send(ANN, names(count))


def sends_to_programs(store: Store, count: int) -> Act:
    for name in names(count):
        store(agents.join_without_session, Address(name, "default"), "test")
    return lambda: store.send(ANN, names(count))


def sends_to_unknown(store: Store, count: int) -> Act:
    return lambda: store.send(ANN, names(count))


def sends_for_a_program(store: Store, count: int) -> Act:
    """It is told of nothing but the message, so hints and outlooks are not looked for."""
    return lambda: store(feeds.send, ANN, Draft(names(count), "hello"), "test")


def sends_to_renamed(store: Store, count: int) -> Act:
    for name in names(count):
        store.rename(store.join(name), f"new-{name}")
    return lambda: store.send(ANN, names(count))


def sends_to_channels(store: Store, count: int) -> Act:
    for number in range(count):
        store.join("carol", channel=f"channel-{number}")
    return lambda: store.send(ANN, tuple(f"carol@channel-{number}" for number in range(count)))


def sends_to_dead(store: Store, count: int) -> Act:
    for name in names(count):
        store.die(store.join(name))
    return lambda: store.send(ANN, names(count))


def sends_at_a_rate(store: Store, count: int) -> Act:
    carol = store.join("carol")
    for name in names(count):
        store.join(name)
    store.send(carol, names(count))
    return lambda: store.by(rate=1000)(messages.send, carol, Draft(names(count), "hello"))


def sends_again(store: Store, count: int) -> Act:
    for name in names(count):
        store.join(name)
    store.send(ANN, names(count), key="k")
    return lambda: store.send(ANN, names(count), key="k")


def broadcasts(store: Store, count: int) -> Act:
    for name in names(count):
        store.join(name)
    return lambda: store.send(ANN, "all")


def sends_to_a_glob(store: Store, count: int) -> Act:
    for name in names(count):
        store.join(name)
    return lambda: store.send(ANN, "peer-*")


def asks_how_far(store: Store, count: int) -> Act:
    for name in names(count):
        store.join(name)
    sent = store.send(ANN, names(count))
    for name in names(count):
        store.hand_over(Address(name, "default"))
    return lambda: store(messages.status, ANN, sent.id)


def sends_files(store: Store, count: int) -> Act:
    files = tuple(File(f"/{n}", 1, "0" * 64, "here") for n in range(min(count, 20)))
    return lambda: store.send(ANN, "bob", files=files)


# -- reading


def hands_over(store: Store, count: int) -> Act:
    mail(store, count)
    return lambda: store.hand_over(BOB)


def prompts(store: Store, count: int) -> Act:
    mail(store, count)
    report = HookReport("hook", NO_LIMIT, session_id="s", begins=True, roster=True)
    client = store.clients[BOB]
    return lambda: store.by(client.process)(sessions.handle_hook_event, client, report)


def settles(store: Store, count: int) -> Act:
    mail(store, count)
    found = [message.id for message in store.hand_over(BOB).messages]
    report = HookReport("hook", 0, session_id="s", proven=tuple(found), recalled=tuple(found))
    client = store.clients[BOB]
    return lambda: store.by(client.process)(sessions.handle_hook_event, client, report)


def recovers(store: Store, count: int) -> Act:
    mail(store, count)
    for _ in range(count):
        by = store.process()
        store.hand_over(BOB, by=by, limit=1)
        store.kill(by)
    return lambda: store(deliveries.recover, BOB)


def acknowledges(store: Store, count: int) -> Act:
    store(agents.join_without_session, Address("script", "default"), "test")
    sent = [store.send(ANN, "script").id for _ in range(count)]
    return lambda: store(inboxes.acknowledge, Address("script", "default"), sent, "ack")


def receives(store: Store, count: int) -> Act:
    mail(store, count)
    return lambda: store.by(grant=ALL)(feeds.received, "bob", "default", 0.0, 1000)


def collects_a_file(store: Store, count: int) -> Act:
    mail(store, count)
    return lambda: store(chunks.chunks, BOB, "tag")


def has_a_file(store: Store, count: int) -> Act:
    sent = mail(store, count)
    return lambda: store(chunks.acknowledge, BOB, sent)


def looks_back(store: Store, count: int) -> Act:
    mail(store, count)
    return lambda: store(messages.history, ANN, limit=count)


def rings(store: Store, count: int) -> Act:
    mail(store, count)
    store(bindings.observe, store.clients[BOB].key, status="idle", bell=True)
    return lambda: store(deliveries.ring, store.clients[BOB].key, idle=True)


# -- claims, state, the journal


def claims_paths(store: Store, count: int) -> Act:
    return lambda: store(claims.claim, ANN, places(count), ttl=600)


def claims_among_dead(store: Store, count: int) -> Act:
    for name in names(count):
        who = store.join(name)
        store(claims.claim, who, [ClaimTarget("shop", "src/*.py")], ttl=600, shared=True)
        store.die(who)
    return lambda: store(claims.claim, ANN, places(3), ttl=600)


def releases(store: Store, count: int) -> Act:
    store(claims.claim, ANN, places(count), ttl=600)
    return lambda: store(claims.release, ANN, places(count))


def releases_all(store: Store, count: int) -> Act:
    store(claims.claim, ANN, places(count), ttl=600)
    return lambda: store(claims.release, ANN, None)


def releases_by_force(store: Store, count: int) -> Act:
    for name, place in zip(names(count), places(count), strict=True):
        store(claims.claim, store.join(name), [place], ttl=600)
    return lambda: store(guard.force_release, ANN, places(count), "stale")


def lists_claims(store: Store, count: int) -> Act:
    for name, place in zip(names(count), places(count), strict=True):
        store(claims.claim, store.join(name), [place], ttl=600)
    return lambda: store(claims.list_claims, "default")


def asks_what_stands(store: Store, count: int) -> Act:
    for name, place in zip(names(count), places(count), strict=True):
        store(claims.claim, store.join(name), [place], ttl=600)
    return lambda: store(guard.conflicting_claims, ANN, places(count), "")


def lists_agents(store: Store, count: int) -> Act:
    for name in names(count):
        store.join(name, owns=(f"{name}/*",))
    return lambda: store(agents.listing, "default")


def lists_state(store: Store, count: int) -> Act:
    for name in names(count):
        store(state.set_state, ANN, name, "x")
    return lambda: store(state.list_state, "default", values=True)


def looks_at_the_journal(store: Store, count: int) -> Act:
    for name in names(count):
        store.join(name)
        store.send(ANN, name)
        store(state.set_state, ANN, name, "x")
    return lambda: store(events.changes, 0)


def enlists_under_a_token(store: Store, count: int) -> Act:
    grant = Grant("ann", names=tuple(f"{name}-*" for name in names(count)), channels=("default",))
    return lambda: store.by(grant=grant)(agents.join_without_session, Address("peer-0-x", "default"), "test")


# -- upkeep


def ends_subagents(store: Store, count: int) -> Act:
    session = store.clients[BOB]
    for _ in range(count):
        client = store.client()
        store(bindings.attach, client, None, "default")
        store.connection.execute("UPDATE bindings SET session = ? WHERE client = ?", (session.key, client.key))
    return lambda: store.by(session.process)(bindings.detach, session.key)


def prunes(store: Store, count: int) -> Act:
    week = 7 * 24 * 3600.0
    for name in names(count):
        store.die(store.join(name))
        store(agents.join_without_session, Address(f"script-{name}", "default"), "recv/send")
        store.send(ANN, f"script-{name}")
        store(state.set_state, ANN, name, "x", ttl=60)
        by = store.process()
        store.hand_over(Address(f"script-{name}", "default"), by=by)
        store.kill(by)
    store.now += 15 * week
    store.send(ANN, "bob")
    store.now += 1.5 * week
    return lambda: store(upkeep.prune)


# -- archives


def letters(count: int) -> list[ArchivedMessage]:
    return [
        ArchivedMessage(n, 100.0 + n, f"from-{n}", (f"to-{n}",), "text", acks=(f"to-{n}",), reply_to=n - 1 if n else 99)
        for n in range(count)
    ]


def imports(store: Store, count: int) -> Act:
    return lambda: store(archive.import_messages, "default", letters(max(count, 2)))


def exports(store: Store, count: int) -> Act:
    store(archive.import_messages, "default", letters(max(count, 2)))
    return lambda: store(archive.export_messages, "default", 0, 1000)


MOST: Mapping[Case, int] = {
    sends_to_sessions: 10,
    sends_to_programs: 11,
    sends_to_unknown: 16,
    sends_for_a_program: 13,
    sends_to_renamed: 11,
    sends_to_channels: 10,
    sends_to_dead: 17,
    sends_at_a_rate: 12,
    sends_again: 5,
    broadcasts: 10,
    sends_to_a_glob: 10,
    asks_how_far: 9,
    sends_files: 11,
    hands_over: 9,
    prompts: 19,
    settles: 13,
    recovers: 5,
    acknowledges: 7,
    receives: 7,
    collects_a_file: 4,
    has_a_file: 4,
    looks_back: 7,
    rings: 6,
    claims_paths: 10,
    claims_among_dead: 17,
    releases: 6,
    releases_all: 5,
    releases_by_force: 13,
    lists_claims: 5,
    asks_what_stands: 5,
    lists_agents: 7,
    lists_state: 4,
    looks_at_the_journal: 8,
    enlists_under_a_token: 18,
    ends_subagents: 13,
    prunes: 41,
    imports: 14,
    exports: 5,
}
"""The number for each verb, with BEGIN and COMMIT."""


@pytest.mark.parametrize("case", MOST, ids=lambda case: case.__name__)
def test_a_hundred_take_as_many_statements_as_one(tmp_path: Path, case: Case) -> None:
    """Only beyond `AT_ONCE` there are more."""
    counts = {}
    for count in (1, 10, 100):
        store = Store(tmp_path / f"{count}.db")
        store(agents.join_without_session, ANN, "test")
        store.join("bob")
        counts[count] = statements(store, case(store, count))

    assert counts == dict.fromkeys((1, 10, 100), MOST[case])
