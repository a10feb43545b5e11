"""The journal, and what came since somebody last looked."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.identity import Address
from ..model.journal import Changes, JournalEntry
from . import listeners
from .transaction import Row, Transaction, among, at_once, listed, spread
from .verbs import verb

_AT_ONCE = 1000
"""Rows that one look returns; the next goes on from there."""
_MAY_BRING_MAIL = ("join", "rename", "attach", "end", "leave")
"""Verbs after which mail may wait for their actor that it had not before: kept, handed on, or handed over in vain."""


def append(tx: Transaction, who: Address, verb: str, subject: str = "", detail: str = "") -> None:
    """Record that `who` did `verb` to `subject`, within the verb's own transaction."""
    append_all(tx, [(who, verb, subject, detail)])


def append_all(tx: Transaction, done: Sequence[tuple[Address, str, str, str]]) -> None:
    """Record several at once, in this order: who, verb, subject, detail."""
    for some in at_once(done):
        tx.run(
            f"INSERT INTO events (ts, channel, actor, verb, subject, detail) VALUES {listed(len(some), 6)}",
            *spread((tx.now, who.channel, who.name, *what) for who, *what in some),
        )


@verb(mode="read")
def last(tx: Transaction) -> int:
    """The newest event there is."""
    return int(tx.number("SELECT MAX(id) FROM events"))


@verb(mode="read")
def since(tx: Transaction, channel: str | None, after: int, limit: int = _AT_ONCE) -> list[JournalEntry]:
    """The oldest `limit` events after the one with this id, on one channel or (None) on all."""
    after = _known(tx, after)
    rows = tx.all(
        "SELECT * FROM events WHERE id > ? AND (? IS NULL OR channel = ?) ORDER BY id LIMIT ?",
        after,
        channel,
        channel,
        limit,
    )
    return [_event(row) for row in rows]


def _known(tx: Transaction, after: int) -> int:
    """An event later than all that there are is of another file, which is gone: then everything came after it."""
    return after if after <= last(tx) else 0


@verb(mode="read")
def changes(tx: Transaction, after: int) -> Changes:
    """The changes after an event, as many as one read takes, and whom they concern."""
    after = _known(tx, after)
    found = since(tx, None, after)
    mail = _recipients(tx, [int(event.subject) for event in found if event.verb == "send"])
    mail.update(Address(event.actor, event.channel) for event in found if event.verb in _MAY_BRING_MAIL)
    watching = _watching(tx, {(event.channel, event.subject) for event in found if event.verb.startswith("state_")})
    told = watching.union(listeners.of(tx, list(mail))) if mail else watching
    return Changes(
        found[-1].id if found else after, tuple(found), tuple(mail), tuple(sorted(told)), len(found) == _AT_ONCE
    )


def _watching(tx: Transaction, changed: set[tuple[str, str]]) -> set[str]:
    """The listeners that wait for one of these entries, each a channel and a key."""
    return {
        row["address"]
        for some in at_once(sorted(changed))
        for row in tx.all(f"SELECT address FROM watches WHERE {among('channel, key', len(some))}", *spread(some))
    }


def _recipients(tx: Transaction, messages: list[int]) -> set[Address]:
    return {
        Address(row["recipient"], row["channel"])
        for some in at_once(messages)
        for row in tx.all(
            f"SELECT DISTINCT channel, recipient FROM deliveries WHERE message IN ({listed(len(some))})", *some
        )
    }


def prune(tx: Transaction, before: float) -> int:
    """Forget journal rows older than `before`; returns how many."""
    return tx.run("DELETE FROM events WHERE ts < ?", before).rowcount


def _event(row: Row) -> JournalEntry:
    return JournalEntry(row["id"], row["ts"], row["channel"], row["actor"], row["verb"], row["subject"], row["detail"])
