"""Deliveries: every state and every cause is walked through on a real file, and the table says what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import get_args

import pytest

from claude_bus.delivery_states import TRANSITIONS, Cause, sources, target
from claude_bus.model.identity import Address
from claude_bus.model.messages import DeliveryState
from claude_bus.sql import deliveries, inboxes
from tests.support.store import START, Store

TTL = 60.0


class Delivery:
    """One message from ann to bob, which expires after a minute."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sender, self.recipient = store.join("ann"), store.join("bob")
        self.process = store.clients[self.recipient].process
        self.message = store.send(self.sender, "bob", ttl=TTL).id

    @property
    def state(self) -> str:
        [(state,)] = self.store.rows("SELECT state FROM deliveries WHERE message = ?", self.message)
        return str(state)

    def bring_to(self, state: DeliveryState) -> None:
        """The shortest way to a state."""
        for cause in WAYS[state]:
            CAUSES[cause](self)
        assert self.state == state


def _hand_over(it: Delivery) -> None:
    it.store.hand_over(it.recipient, by=it.process)


def _confirm(it: Delivery) -> None:
    it.store.by(it.process)(deliveries.confirm, it.recipient, [it.message])


def _requeue(it: Delivery) -> None:
    it.store.by(it.process)(deliveries.withdraw, it.recipient, [it.message])


def _transfer(it: Delivery) -> None:
    it.store.by(it.process)(deliveries.transfer, it.recipient, [it.message], it.store.process())


def _expire(it: Delivery) -> None:
    it.store.now = START + TTL + 1
    it.store(deliveries.expire, "channel = ? AND recipient = ?", it.recipient.channel, it.recipient.name)


def _reply(it: Delivery) -> None:
    it.store.send(it.recipient, "ann", reply_to=it.message)


def _acknowledge(it: Delivery) -> None:
    it.store(deliveries.acknowledge, it.recipient, [it.message], "acknowledge")


def _import(it: Delivery) -> None:
    it.store(deliveries.acknowledge, it.recipient, [it.message], "import")


CAUSES: dict[Cause, Callable[[Delivery], None]] = {
    "hand_over": _hand_over,
    "confirm": _confirm,
    "requeue": _requeue,
    "transfer": _transfer,
    "expire": _expire,
    "reply": _reply,
    "acknowledge": _acknowledge,
    "import": _import,
}
WAYS: dict[DeliveryState, tuple[Cause, ...]] = {
    "queued": (),
    "handed": ("hand_over",),
    "read": ("hand_over", "confirm"),
    "acked": ("hand_over", "confirm", "reply"),
    "expired": ("expire",),
}


@pytest.mark.parametrize(("state", "cause"), list(product(get_args(DeliveryState), get_args(Cause))))
def test_a_cause_leads_where_the_table_says(store: Store, state: DeliveryState, cause: Cause) -> None:
    """From each state each cause leads to the table's state, or changes nothing."""
    it = Delivery(store)
    it.bring_to(state)

    CAUSES[cause](it)

    assert it.state == TRANSITIONS.get((state, cause), state)


def test_every_state_can_be_reached_and_every_cause_applies() -> None:
    """The table has no state that nothing leads to, and no cause that leads nowhere."""
    assert {"queued", *TRANSITIONS.values()} == set(get_args(DeliveryState))
    assert all(sources(cause) and target(cause) for cause in get_args(Cause))


def test_nothing_leads_back_from_what_is_known() -> None:
    """A message that was read is never unread again, and one that was acknowledged stays so."""
    settled = {"read", "acked"}
    assert all(after in settled for (state, _), after in TRANSITIONS.items() if state in settled)


def test_a_silent_recipient_s_word_counts_after_the_ttl(store: Store) -> None:
    """Through an inbox an acknowledgement that comes too late says that the message expired."""
    it = Delivery(store)
    it.store.die(it.recipient)
    it.store.now = START + TTL + 1

    found = store(inboxes.acknowledge, Address("bob", "default"), [it.message], "test")

    assert found == {it.message: "expired"}
