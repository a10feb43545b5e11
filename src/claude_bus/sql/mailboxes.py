"""What waits for a name, whether or not anybody bears it."""

from __future__ import annotations

from ..model import Address
from .transaction import Transaction


def ensure(tx: Transaction, who: Address) -> None:
    """A row for `who`, so that mail can wait for a name nobody has yet."""
    tx.run(
        "INSERT INTO agents (channel, name, registered) VALUES (?, ?, 0) ON CONFLICT DO NOTHING",
        who.channel,
        who.name,
    )


def forget_if_unused(tx: Transaction, who: Address) -> None:
    """Drop the row of a session that never registered, unless mail refers to it."""
    if not tx.one("SELECT 1 FROM deliveries WHERE channel = ? AND recipient = ?", who.channel, who.name):
        tx.run("DELETE FROM agents WHERE channel = ? AND name = ? AND registered = 0", who.channel, who.name)


def requeue(tx: Transaction, who: Address, by: str = "") -> int:
    """What was handed to `who` without proof of having been read waits again.

    Limited to hand-overs made by the process `by`, if given. Returns how many. The
    next hand-over carries a "possibly seen" mark.
    """
    if by:
        return tx.run(
            "UPDATE deliveries SET state = 'queued' "
            "WHERE channel = ? AND recipient = ? AND state = 'handed' AND handed_by = ?",
            who.channel,
            who.name,
            by,
        ).rowcount
    return tx.run(
        "UPDATE deliveries SET state = 'queued' WHERE channel = ? AND recipient = ? AND state = 'handed'",
        who.channel,
        who.name,
    ).rowcount


def deliver_retained(tx: Transaction, who: Address) -> None:
    """A late joiner gets the channel's earlier broadcasts."""
    tx.run(
        "INSERT INTO deliveries (message, channel, recipient) "
        "SELECT m.id, ?, ? FROM messages m WHERE m.channel = ? AND m.broadcast = 1 "
        "AND NOT (m.sender = ? AND m.sender_channel = ?) AND (m.expires IS NULL OR m.expires > ?) "
        "ON CONFLICT DO NOTHING",
        who.channel,
        who.name,
        who.channel,
        who.name,
        who.channel,
        tx.now,
    )
