"""Files that came in pieces, one message each."""

from __future__ import annotations

from collections.abc import Sequence

from ... import text
from ...model.identity import Address
from ...model.messages import Message
from ...sql import deliveries, events
from ...sql.transaction import Transaction
from ...sql.verbs import verb


@verb(mode="read")
def chunks(tx: Transaction, me: Address, tag: str) -> list[Message]:
    """All messages to `me`, read or not, that begin with the tag and a space; oldest first. Marks nothing."""
    rows = tx.all(
        f"SELECT {deliveries.MESSAGE} FROM deliveries d JOIN messages m ON m.id = d.message "
        "WHERE d.channel = ? AND d.recipient = ? AND d.state != 'expired' AND SUBSTR(m.content, 1, ?) = ? "
        "ORDER BY d.message",
        me.channel,
        me.name,
        len(tag) + 1,
        f"{tag} ",
    )
    return deliveries.messages_of(tx, rows, me)


@verb()
def acknowledge(tx: Transaction, me: Address, messages: Sequence[int]) -> None:
    """The file that these messages to `me` carry is there: they are acknowledged, and no longer mail."""
    deliveries.acknowledge(tx, me, messages, "acknowledge", "recv-file")
    events.append(tx, me, "received", str(messages[-1]) if messages else "", text.plural(len(messages), "message"))
