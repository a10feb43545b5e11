"""The inbox of a name without a session: a program or a person, who says itself what it has had.

Looking marks nothing: an answer that was written may never arrive. A message
that its reader acknowledges is `acked`; until then it comes again at every look.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..model.identity import Address
from ..model.messages import DeliveryState, HandOver
from . import bindings, deliveries, events
from .transaction import Transaction
from .verbs import verb


@verb(mode="read")
def peek(tx: Transaction, me: Address, *, limit: int, max_chars: int) -> HandOver:
    """The oldest unread messages, as many as fit, at least one; `pending` counts all that are unread, these too.

    Raises `NameTaken` if a live session bears the name: its mail is its own.
    """
    bindings.refuse_if_held(tx, me, "")
    return deliveries.hand_over(tx, me, limit=limit, max_chars=max_chars, via="", at_least_one=True, peek=True)


@verb()
def acknowledge(tx: Transaction, me: Address, messages: Sequence[int], via: str) -> dict[int, DeliveryState]:
    """`me` has had these messages: they are `acked`, whatever came before; again changes nothing.

    Returns how each stands now: `acked`, or `expired` where its ttl ran out before. Messages
    that were never sent to `me` are left out. Raises `NameTaken` if a live session bears the name.
    """
    bindings.refuse_if_held(tx, me, "")
    deliveries.expire(tx, "channel = ? AND recipient = ?", me.channel, me.name)
    states = {message: _acknowledge(tx, me, message, via) for message in messages}
    return {message: state for message, state in states.items() if state}


def _acknowledge(tx: Transaction, me: Address, message: int, via: str) -> DeliveryState | None:
    if deliveries.acknowledge(tx, me, message, "acknowledge", via):
        events.append(tx, me, "ack", str(message))
    row = tx.one(
        "SELECT state FROM deliveries WHERE message = ? AND channel = ? AND recipient = ?",
        message,
        me.channel,
        me.name,
    )
    return row["state"] if row else None
