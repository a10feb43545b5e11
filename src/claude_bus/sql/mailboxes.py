"""Mail that waits for a name, whether or not a session has the name."""

from __future__ import annotations

from .. import delivery_states, limits, names
from ..delivery_states import Cause
from ..model.identity import Address
from .transaction import Transaction

UNREAD = "state IN ('queued', 'handed')"
"""Condition for deliveries that wait, or were handed over and are not proven read.

Use it word for word in every query for either: only then can SQLite use the index of unread
deliveries, so that the cost depends on what is unread and not on what is stored.
"""


def becomes(cause: Cause) -> str:
    """The assignment with which a statement moves a delivery for this cause."""
    return f"state = '{delivery_states.target(cause)}'"


def applies(cause: Cause) -> str:
    """The condition under which a delivery moves for this cause."""
    states = [f"'{state}'" for state in delivery_states.sources(cause)]
    return f"state = {states[0]}" if len(states) == 1 else f"state IN ({', '.join(states)})"


_NO_REQUEST = "CASE m.kind WHEN 'request' THEN 0 ELSE 1 END"
"""Initial value of `recalled`: only requests are ever recalled."""


def ensure(tx: Transaction, who: Address) -> None:
    """Create a row for `who`, so that mail can wait for a name that no agent has yet."""
    tx.run(
        "INSERT INTO agents (channel, name, registered) VALUES (?, ?, 0) ON CONFLICT DO NOTHING",
        who.channel,
        who.name,
    )


def expected(tx: Transaction, channel: str) -> int:
    """Return the number of names on the channel that have mail but were never used by an agent."""
    return int(tx.number("SELECT COUNT(*) FROM agents WHERE channel = ? AND registered = 0 AND last_seen = 0", channel))


def check_new(tx: Transaction, who: Address) -> None:
    """Raise `InvalidInput` if no agent has the name yet, and it could be mistaken for another agent's.

    Names from before this rule stay valid: they can be resumed, read and written to.
    """
    if not tx.number("SELECT COUNT(*) FROM agents WHERE channel = ? AND name = ? AND registered = 1", *_key(who)):
        names.check_new_name(who.name, names_in_use(tx, who.channel))


def names_in_use(tx: Transaction, channel: str) -> list[str]:
    """Return the names on the channel that an agent has or had, without those that were only written to."""
    return [row["name"] for row in tx.all("SELECT name FROM agents WHERE channel = ? AND last_seen > 0", channel)]


def _key(who: Address) -> tuple[str, str]:
    return who.channel, who.name


def forget_if_unused(tx: Transaction, who: Address) -> None:
    """Drop the row of a session that never registered, unless mail refers to it."""
    if not tx.one("SELECT 1 FROM deliveries WHERE channel = ? AND recipient = ?", who.channel, who.name):
        tx.run("DELETE FROM agents WHERE channel = ? AND name = ? AND registered = 0", who.channel, who.name)


def requeue(tx: Transaction, who: Address, by: str = "") -> int:
    """Make mail wait again that was handed to `who` without proof of having been read; return the number.

    `by` limits this to hand-overs made by that process. The next hand-over carries a
    "possibly seen" mark.
    """
    if by:
        return tx.run(
            f"UPDATE deliveries SET {becomes('requeue')} "
            f"WHERE channel = ? AND recipient = ? AND {UNREAD} AND {applies('requeue')} AND handed_by = ?",
            who.channel,
            who.name,
            by,
        ).rowcount
    return tx.run(
        f"UPDATE deliveries SET {becomes('requeue')} "
        f"WHERE channel = ? AND recipient = ? AND {UNREAD} AND {applies('requeue')}",
        who.channel,
        who.name,
    ).rowcount


def deliver(tx: Transaction, message: int, who: Address) -> None:
    """Make the message wait for `who`, unless it was delivered before."""
    tx.run(
        f"INSERT INTO deliveries (message, channel, recipient, recalled) SELECT m.id, ?, ?, {_NO_REQUEST} "
        "FROM messages m WHERE m.id = ? ON CONFLICT DO NOTHING",
        who.channel,
        who.name,
        message,
    )


def deliver_retained(tx: Transaction, who: Address) -> None:
    """Deliver earlier broadcasts of the channel to an agent that joins late, the newest `limits.MAX_RETAINED`.

    Those that are no longer news are marked.
    """
    tx.run(
        "INSERT INTO deliveries (message, channel, recipient, recalled, retained) "
        f"SELECT m.id, ?, ?, {_NO_REQUEST}, CASE WHEN m.ts < ? THEN 2 ELSE 1 END FROM messages m "
        "WHERE m.channel = ? AND m.broadcast = 1 "
        "AND NOT (m.sender = ? AND m.sender_channel = ?) AND (m.expires IS NULL OR m.expires > ?) "
        "ORDER BY m.id DESC LIMIT ? ON CONFLICT DO NOTHING",
        who.channel,
        who.name,
        tx.now - limits.NEWS,
        who.channel,
        who.name,
        who.channel,
        tx.now,
        limits.MAX_RETAINED,
    )
