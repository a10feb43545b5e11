"""Mail that waits for a name, whether or not a session has the name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from .. import delivery_states, limits, names
from ..delivery_states import Cause
from ..model.identity import Address
from .transaction import Transaction, Value, among, at_once, keys, listed, spread

UNREAD = "state IN ('queued', 'handed')"
"""Condition for deliveries that wait, or were handed over and are not proven read.

Use it word for word in every query for either: only then can SQLite use the index of unread
deliveries, so that the cost depends on what is unread and not on what is stored.
"""


@cache
def becomes(cause: Cause) -> str:
    """The assignment with which a statement moves a delivery for this cause."""
    return f"state = '{delivery_states.target(cause)}'"


@cache
def applies(cause: Cause) -> str:
    """The condition under which a delivery moves for this cause."""
    states = [f"'{state}'" for state in delivery_states.sources(cause)]
    return f"state = {states[0]}" if len(states) == 1 else f"state IN ({', '.join(states)})"


_NO_REQUEST = "CASE m.kind WHEN 'request' THEN 0 ELSE 1 END"
"""Initial value of `recalled`: only requests are ever recalled."""


def ensure(tx: Transaction, who: Address) -> None:
    """Create a row for `who`, so that mail can wait for a name that no agent has yet."""
    ensure_all(tx, [who])


def ensure_all(tx: Transaction, whose: Sequence[Address]) -> None:
    """`ensure` for several."""
    for some in at_once(whose):
        tx.run(
            f"INSERT INTO agents (channel, name, registered) VALUES {listed(len(some), 3)} ON CONFLICT DO NOTHING",
            *spread((who.channel, who.name, 0) for who in some),
        )


def expected(tx: Transaction, channels: Sequence[str]) -> dict[str, int]:
    """Return the number of names on each of the channels that have mail but were never used by an agent."""
    return {
        row["channel"]: row["n"]
        for some in at_once(channels)
        for row in tx.all(
            f"SELECT channel, COUNT(*) AS n FROM agents WHERE channel IN ({listed(len(some))}) "
            "AND registered = 0 AND last_seen = 0 GROUP BY channel",
            *some,
        )
    }


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


def forget_if_unused(tx: Transaction, whose: Sequence[Address]) -> None:
    """Drop the rows of sessions that never registered, unless mail refers to them."""
    for some in at_once(whose):
        tx.run(
            f"DELETE FROM agents WHERE {among('channel, name', len(some))} AND registered = 0 "
            "AND NOT EXISTS "
            "(SELECT 1 FROM deliveries d WHERE d.channel = agents.channel AND d.recipient = agents.name)",
            *keys(some),
        )


def requeue(tx: Transaction, who: Address, by: str = "") -> int:
    """Make mail wait again that was handed to `who` without proof of having been read; return the number.

    `by` limits this to hand-overs made by that process. The next hand-over carries a
    "possibly seen" mark.
    """
    return requeue_of(tx, [(who, by)]) if by else requeue_all(tx, [who])


def requeue_all(tx: Transaction, whose: Sequence[Address]) -> int:
    """`requeue` for several."""
    return sum(
        tx.run(
            f"UPDATE deliveries SET {becomes('requeue')} WHERE {among('channel, recipient', len(some))} "
            f"AND {UNREAD} AND {applies('requeue')}",
            *keys(some),
        ).rowcount
        for some in at_once(whose)
    )


def requeue_of(tx: Transaction, handed: Sequence[tuple[Address, str]]) -> int:
    """`requeue` for several, each with the process that handed over to it."""
    return sum(
        tx.run(
            f"UPDATE deliveries SET {becomes('requeue')} WHERE {among('channel, recipient', len(some))} "
            f"AND {UNREAD} AND {applies('requeue')} "
            f"AND {among('channel, recipient, handed_by', len(some))}",
            *keys(who for who, _ in some),
            *spread((who.channel, who.name, by) for who, by in some),
        ).rowcount
        for some in at_once(handed)
    )


def deliver(tx: Transaction, messages: Mapping[int, Sequence[Address]]) -> None:
    """Make the messages wait for their recipients, unless they were delivered before."""
    rows: list[tuple[Value, ...]] = [
        (message, who.channel, who.name) for message, whose in messages.items() for who in whose
    ]
    for some in at_once(rows):
        tx.run(
            f"WITH new (message, channel, recipient) AS (VALUES {listed(len(some), 3)}) "
            "INSERT INTO deliveries (message, channel, recipient, recalled) "
            f"SELECT m.id, new.channel, new.recipient, {_NO_REQUEST} FROM new JOIN messages m ON m.id = new.message "
            "WHERE true ON CONFLICT DO NOTHING",  # without a condition SQLite takes ON for the join's
            *spread(some),
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
