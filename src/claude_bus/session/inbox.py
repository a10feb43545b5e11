"""Unread mail in the answer of a tool."""

from __future__ import annotations

from dataclasses import replace

from .. import documents, limits, text
from ..model.identity import Address, Binding
from ..model.messages import HandOver
from ..sql import deliveries
from .conversation import REQUEST, Conversation
from .membership import Membership
from .presence import SignedBus

_AT_ONCE = 50
"""Messages that a call that waits for mail brings at most."""


class Inbox:
    """Hands unread mail over in the answer of a tool, which the model gets with its next request."""

    def __init__(self, membership: Membership, conversation: Conversation) -> None:
        self.bus = membership.bus
        self._membership = membership
        self._conversation = conversation
        self._turn = conversation.turn

    async def read(self, *, peek: bool, limit: int) -> HandOver:
        """Return unread mail, oldest first. Raises `NotRegistered` if the session has neither mail nor a name."""
        return await self._membership.as_mailbox(lambda bus, binding: self._read(bus, binding, peek=peek, limit=limit))

    async def read_registered(self) -> HandOver:
        """Return unread mail, oldest first. Raises `NotRegistered` if the session has no registered name."""
        return await self._membership.as_mailbox(
            lambda bus, binding: self._read(bus, binding, peek=False, limit=_AT_ONCE), registered=True
        )

    async def _read(self, bus: SignedBus, binding: Binding, *, peek: bool, limit: int) -> HandOver:
        found = await self._hand_over(bus, binding.address, peek=peek, limit=limit)
        if not binding.registered and not found.messages:
            raise self._membership.stranger()
        return found

    async def _hand_over(self, bus: SignedBus, me: Address, *, peek: bool, limit: int) -> HandOver:
        found = await bus.run(
            deliveries.hand_over, me, via="inbox", limit=limit, max_chars=text.INBOX_LIMIT, at_least_one=True, peek=peek
        )
        if found.pending and not found.messages:
            return await self._hand_over_part(me, peek=peek)
        if peek:
            return await self._peeked(found)
        return await self._carried(me, found)

    async def _carried(self, me: Address, found: HandOver) -> HandOver:
        """Return this mail, and record that the answer carries it."""
        found = await self._conversation.examined(me, found)
        self._turn.handed_by_tool(self._conversation.answered(found))
        return found

    async def _peeked(self, found: HandOver) -> HandOver:
        return replace(found, messages=await self._membership.workspace.examined(found.messages))

    async def _hand_over_part(self, me: Address, *, peek: bool) -> HandOver:
        """Return the next part of a message too large for one answer; the last part hands the message over."""
        found = await self._first(me, peek=True)
        if not found.messages:
            return found
        parts = documents.parts(found.messages[0])
        given = self._turn.parts_of(found.messages[0].id) % len(parts)
        if peek or given < len(parts) - 1:
            found = await self._peeked(found)
        else:
            found = await self._hand_over_last(me, found.messages[0].id)
        if not peek and found.messages:
            self._conversation.owes(found)
            self._turn.give_part(REQUEST.get(), found.messages[0].id)
        more = "; inbox() gives the next" if given < len(parts) - 1 else ""
        part = replace(parts[given], part=parts[given].part + more)
        return replace(found, messages=tuple(replace(part, files=m.files) for m in found.messages))

    async def _hand_over_last(self, me: Address, message: int) -> HandOver:
        found = await self._conversation.examined(me, await self._first(me, peek=False))
        if [m.id for m in found.messages] != [message]:  # it ran out meanwhile, and another one came
            await self.bus.run(deliveries.withdraw, me, [m.id for m in found.messages])
            return HandOver((), found.pending + len(found.messages))
        self._turn.handed_by_tool(self._conversation.answered(found))
        return found

    async def _first(self, me: Address, *, peek: bool) -> HandOver:
        return await self.bus.run(
            deliveries.hand_over, me, via="inbox", limit=1, max_chars=limits.MAX_ANSWER, at_least_one=True, peek=peek
        )
