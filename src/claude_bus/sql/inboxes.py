"""The inbox of a name without a session: a program or a person, who says itself what it has had.

Looking marks nothing: an answer that was written may never arrive. A message
that its reader acknowledges is `acked`; until then it comes again at every look.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..model.identity import Address
from ..model.messages import DeliveryState, HandOver
from . import bindings, deliveries, events
from .transaction import Transaction, at_once, listed
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
    ids = list(dict.fromkeys(messages))
    acked = deliveries.acknowledge(tx, me, ids, "acknowledge", via)
    events.append_all(tx, [(me, "ack", str(message), "") for message in ids if message in acked])
    states = _states(tx, me, ids)
    return {message: states[message] for message in ids if message in states}


def _states(tx: Transaction, me: Address, messages: Sequence[int]) -> dict[int, DeliveryState]:
    return {
        row["message"]: row["state"]
        for some in at_once(messages)
        for row in tx.all(
            "SELECT message, state FROM deliveries "
            f"WHERE message IN ({listed(len(some))}) AND channel = ? AND recipient = ?",
            *some,
            me.channel,
            me.name,
        )
    }
