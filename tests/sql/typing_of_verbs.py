"""The types that callers of verbs rely on, for mypy alone: nothing here is ever run."""

from __future__ import annotations

from typing import assert_type

from claude_bus.bus import Bus
from claude_bus.local import LocalBus
from claude_bus.model.claims import ClaimTarget
from claude_bus.model.identity import Address, Binding, Roster
from claude_bus.model.messages import Draft, HandOver, Message, Sent
from claude_bus.remote.bus import RemoteBus
from claude_bus.sql import claims, deliveries, messages, sessions, state
from claude_bus.sql.state import Options
from claude_bus.sql.transaction import Transaction


async def what_comes_back(bus: Bus, me: Address, draft: Draft, options: Options) -> None:
    """The verb's own type, whichever bus it is."""
    assert_type(await bus.run(messages.history, me), list[Message])
    assert_type(await bus.run(messages.send, me, draft), Sent)
    assert_type(await bus.run(deliveries.hand_over, me, via="inbox", max_chars=1), HandOver)
    assert_type(await bus.run(sessions.join, "key", me, "", None), tuple[Binding, Roster, int])
    assert_type(await bus.run(state.set_state, me, "key", "value", **options), int)
    assert_type(await bus.run(claims.release, me, [("", "src")]), list[ClaimTarget])


def within_a_transaction(tx: Transaction, me: Address, draft: Draft) -> None:
    """Called with a transaction, a verb is its function."""
    assert_type(messages.send(tx, me, draft), Sent)
    messages.send(tx, me)  # type: ignore[call-arg]
    messages.send(tx, me, "hello")  # type: ignore[arg-type]


async def what_is_no_call(bus: Bus, me: Address, draft: Draft) -> None:
    """A wrong argument, one too many, one that is missing, one of another name."""
    await bus.run(messages.history, "me")  # type: ignore[arg-type]
    await bus.run(messages.history, me, limit="20")  # type: ignore[arg-type]
    await bus.run(messages.send, me, draft, 1)  # type: ignore[call-arg]
    await bus.run(messages.send, me)  # type: ignore[call-arg]
    await bus.run(deliveries.hand_over, me, via="inbox", most=1)  # type: ignore[call-arg]
    await bus.run(messages.store, me, draft)  # type: ignore[arg-type]


def each_is_a_bus(local: LocalBus, remote: RemoteBus) -> tuple[Bus, Bus]:
    """Both keep the contract."""
    return local, remote
