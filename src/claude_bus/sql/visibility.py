"""Those who see a message: its sender, its recipients, and for a broadcast the whole channel."""

from __future__ import annotations

from collections.abc import Iterator

from ..model.identity import Address
from .transaction import Transaction

VISIBLE = """(
    (m.sender = ? AND m.sender_channel = ?)
    OR (m.broadcast = 1 AND m.channel = ?)
    OR EXISTS (SELECT 1 FROM deliveries v WHERE v.message = m.id AND v.channel = ? AND v.recipient = ?)
)"""
"""Whether somebody sees the message `m`; its values are those of `visible_to`."""

_OWN = """
SELECT d.message AS id, m.content AS content FROM deliveries d CROSS JOIN messages m ON m.id = d.message
    WHERE d.channel = ? AND d.recipient = ? AND d.message > ? AND d.message <= ?
UNION ALL SELECT m.id, m.content FROM messages m
    WHERE m.broadcast = 1 AND m.channel = ? AND m.id > ? AND m.id <= ?
UNION ALL SELECT m.id, m.content FROM messages m
    WHERE m.sender_channel = ? AND m.sender = ? AND m.id > ? AND m.id <= ?
ORDER BY id DESC
"""
"""The same the other way round, as three indexes that are read backwards side by side: a row costs the same
wherever it is, and however many messages there are that the reader does not see."""


def visible_to(me: Address) -> tuple[str, ...]:
    """The values for `VISIBLE`."""
    return me.name, me.channel, me.channel, me.channel, me.name


def seen_by(tx: Transaction, me: Address, low: int, high: int) -> Iterator[tuple[int, str]]:
    """Id and content of the messages that `me` sees with an id above `low` and up to `high`, newest first.

    They are read one by one, as the caller asks for them.
    """
    between = low, high
    values = (me.channel, me.name, *between, me.channel, *between, me.channel, me.name, *between)
    rows = tx.each(_OWN, *values)
    last = 0
    for row in rows:
        if row["id"] != last:  # one can be both sender and recipient, or a recipient of a broadcast
            last = row["id"]
            yield last, row["content"]
