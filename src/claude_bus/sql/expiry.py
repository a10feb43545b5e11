"""Names that have been silent for long: mail for them does not wait forever.

A name is heard of when its session or program does anything, even if it only reads. Mail waits
for at least `limits.SILENCE` for a name that ever was a session's, or that an agent wrote to. A
program that reads by a cursor over one of the earlier protocols has broadcasts kept for
`limits.READER_SILENCE` only, because one request with a mistyped name creates such a reader.
"""

from __future__ import annotations

from .. import limits
from ..model.identity import Address
from . import deliveries, events
from .mailboxes import UNREAD, applies, becomes
from .transaction import Transaction, among, at_once, keys

WIRES = ("recv/send", "messages/ack")
"""Clients listed for programs that use the wire protocols of the two earlier systems."""

_SILENT = (
    "last_seen < ? AND NOT EXISTS (SELECT 1 FROM bindings b WHERE b.channel = agents.channel AND b.agent = agents.name)"
)
_NO_SESSION = "session_id = '' AND cwd = ''"
_ON_A_WIRE = f"({_NO_SESSION} AND client IN (?, ?))"


def settle(tx: Transaction) -> None:
    """Make programs leave that have been silent for too long, and expire mail that waited for too long."""
    if not in_use(tx):
        return
    readers, all_ = tx.now - limits.READER_SILENCE, tx.now - limits.SILENCE
    _leave(tx, _names(tx, f"registered = 1 AND {_ON_A_WIRE} AND {_SILENT}", *WIRES, readers))
    _leave(tx, _names(tx, f"registered = 1 AND {_NO_SESSION} AND {_SILENT}", all_))
    _expire(tx, _names(tx, f"{_ON_A_WIRE} AND {_SILENT}", *WIRES, readers), readers, broadcasts_only=True)
    _expire(tx, _names(tx, _SILENT, all_), all_)


def in_use(tx: Transaction) -> bool:
    """Return whether the journal shows that the bus has been in use for a week.

    If not, silence means nothing: no session was there to be heard, or the clock is wrong now but was
    right when the names were last heard of.
    """
    earliest, latest = tx.now - limits.RETENTION, tx.now - limits.IN_USE
    return tx.one("SELECT 1 FROM events WHERE ts BETWEEN ? AND ? LIMIT 1", earliest, latest) is not None


def forget(tx: Transaction) -> int:
    """Delete names that were no session's, have left or never came, and have no mail; return how many."""
    unused = " AND ".join(
        f"NOT EXISTS (SELECT 1 FROM {table} x WHERE x.channel = agents.channel AND x.{column} = agents.name)"
        for table, column in (("deliveries", "recipient"), ("claims", "owner"))
    )
    return sum(
        tx.run(f"DELETE FROM agents WHERE registered = 0 AND {which} AND {_SILENT} AND {unused}", *values).rowcount
        for which, values in (
            (_ON_A_WIRE, (*WIRES, tx.now - limits.READER_SILENCE)),
            (_NO_SESSION, (tx.now - limits.SILENCE,)),
        )
    )


def _names(tx: Transaction, where: str, *values: str | float) -> list[Address]:
    rows = tx.all(f"SELECT channel, name FROM agents WHERE {where} ORDER BY channel, name", *values)
    return [Address(row["name"], row["channel"]) for row in rows]


def _leave(tx: Transaction, gone: list[Address]) -> None:
    """Mark these names as left: broadcasts are no longer kept for them."""
    for some in at_once(gone):
        tx.run(f"UPDATE agents SET registered = 0 WHERE {among('channel, name', len(some))}", *keys(some))
    events.append_all(tx, [(who, "leave", "", "not heard of for long") for who in gone])


def _expire(tx: Transaction, silent: list[Address], before: float, *, broadcasts_only: bool = False) -> None:
    """Expire unread mail sent to these before the given time, except mail in the hands of a live process."""
    deliveries.recover_all(tx, silent)
    for some in at_once(silent):
        tx.run(
            f"UPDATE deliveries SET {becomes('expire')}, expired_at = ? WHERE {UNREAD} AND {applies('expire')} "
            f"AND {among('channel, recipient', len(some))} AND EXISTS "
            "(SELECT 1 FROM messages m WHERE m.id = deliveries.message AND m.ts < ? AND m.broadcast >= ?)",
            tx.now,
            *keys(some),
            before,
            int(broadcasts_only),
        )
