"""The conversation of one session: the mail that its model has received, and the mail that a hook event brings."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import replace

import anyio

from .. import fence, limits, quoting, text, waking
from ..errors import BusError, Unreachable
from ..model.hooks import HookReport, HookResult, Injection
from ..model.identity import Address
from ..model.messages import HandOver
from ..sql import bindings, deliveries, sessions
from .hook_event import HookEvent
from .injection import injection
from .membership import Membership

REQUEST: ContextVar[int | str | None] = ContextVar("REQUEST", default=None)
"""The client's request that is being answered."""

_NOTHING = Injection()


class Conversation:
    """The conversation of a session, as the hook events of its client report it.

    Events in subagents must not come here: each subagent has its own conversation.
    """

    def __init__(self, membership: Membership) -> None:
        self.bus = membership.bus
        self.turn = membership.turn
        self._membership = membership
        self._presence = membership.presence
        self._wakeup = membership.presence.wakeup
        self._hops = 0
        self._continuations = 0
        self._prolonged = False
        """The turn ended so that the doorbell can continue it with mail."""
        self._announced = 0
        """The oldest message that the model was told about but that did not fit."""
        self._left_over = False
        """Mail was left over at the last event."""
        self._problem = ""

    # -- hook events

    async def prompt(self, event: HookEvent, *, typed: bool = True) -> Injection:
        """Handle a submitted prompt, `typed` by the user or pushed: new mail goes with it.

        The text of the prompt goes nowhere unless the user shares prompts.
        """
        if self._presence.absent:
            return _NOTHING
        await self._presence.ensure_resumed()
        begins = self.turn.begins(event.session_id, event.prompt_id)
        found = await (self._begin(event, typed=typed) if begins else self._join(event))
        self._hops = 0 if typed else self._hops
        self._problem = ""
        return found

    async def _join(self, event: HookEvent) -> Injection:
        """Join a prompt to the running turn, which brings new mail itself."""
        await self._presence.became("working", event.session_id)
        return _NOTHING

    async def _begin(self, event: HookEvent, *, typed: bool) -> Injection:
        self._continuations = self._continuations if self._prolonged and not typed else 0
        self._prolonged = self._wakeup.owed = False
        self.turn.begin(event.session_id, event.prompt_id)
        doing = quoting.one_line(event.prompt, limits.MAX_DOING) if self._presence.config.share_prompts else None
        report = HookReport("prompt hook", fence.MAIL_SPACE, begins=True, roster=True, doing=doing)
        return await self._report(event, report)

    async def batch(self, event: HookEvent, *, worked: bool = True) -> Injection:
        """Handle the end of a batch of tools: mail that arrived meanwhile goes into the next request.

        `worked`: at least one of its tools did work other than messaging.
        """
        if self._presence.absent:
            return _NOTHING
        self._wakeup.owed = False
        begins = await self._catch_up(event)
        self.turn.batch()
        self._hops = 0 if worked else self._hops
        return await self._report(event, HookReport("tool hook", fence.MAIL_SPACE, begins=begins))

    async def _catch_up(self, event: HookEvent) -> bool:
        """Begin a turn whose prompt this server did not see; it confirms nothing of earlier turns."""
        await self._presence.ensure_resumed()
        missed = bool(event.prompt_id) and self.turn.begins(event.session_id, event.prompt_id)
        if missed:
            self._continuations = 0
            self.turn.begin(event.session_id, event.prompt_id)
        return missed

    async def stop(self, event: HookEvent) -> Injection:
        """Handle the end of a turn: unread mail continues it, a few times at most.

        The client prints the text that continues a turn. If a user would read that and the session may be woken, the
        turn ends and the doorbell rings for the mail at once. If it may not be woken, the text is kept short.
        """
        if self._presence.absent:
            return _NOTHING
        begins = await self._catch_up(event)
        self.turn.stop()
        if self._continuations >= waking.MAX_CONTINUATIONS:
            await self._end(event)
            return _NOTHING
        rings = self._wakeup.may_bring_mail(event.permission_mode)
        report = HookReport("stop hook", self._space_at_end(rings=rings), begins=begins, ends=True)
        result = await self._result(event, report)
        if rings and result and result.mail.pending and not await self._wakeup.lets_in():
            rings = False
            if result.told_once:
                self.turn.one_time.retry()
            result = await self._result(event, replace(report, space=self._space_at_end(rings=False)))
        found = self._carried(result) if result else _NOTHING
        self._prolonged = self._wakeup.owed = rings and not found and self._left_over
        self._continuations += bool(found) or self._prolonged
        if self._prolonged:
            self._wakeup.owe()
        return found

    def _space_at_end(self, *, rings: bool) -> int:
        """Return how many characters of mail may continue a turn."""
        if rings:
            return 0
        return text.STOP_SPACE if self._wakeup.attended else fence.MAIL_SPACE

    async def failed(self, event: HookEvent) -> None:
        """Handle a failed request to the model: the mail that it carried waits again, and may ring again."""
        if not self._presence.absent:
            self.turn.fail()
            await self._end(event)

    async def _end(self, event: HookEvent) -> None:
        """End the turn without handing over any mail."""
        key = self._presence.client.key
        self._presence.heard()
        with self._presence.unless_it_leaves():
            await self._presence.acting(
                lambda bus, _binding: bus.run(bindings.observe, key, status="idle", session_id=event.session_id)
            )

    async def compacted(self) -> None:
        """The conversation was summarized; it may have lost who it is."""
        await self.bus.run(bindings.forget, self._presence.client.key)

    async def start_subagent(self, event: HookEvent) -> Injection:
        """Handle the start of the subagent that has this conversation, or its continuation after it had ended."""
        self._continuations = 0
        self.turn.begin(self._presence.client.session_id, "")
        return await self._report(event, HookReport("subagent hook", fence.MAIL_SPACE))

    def first_time(self, error: BusError) -> bool:
        """Return whether the user was not yet told of this problem. A prompt that goes through resets it."""
        problem = error.code if isinstance(error, Unreachable) else error.message  # its message varies
        new, self._problem = problem != self._problem, problem
        return new

    # -- an event, told to the store

    async def _report(self, event: HookEvent, report: HookReport) -> Injection:
        """Complete the report of an event, send it to the store, and return the news as text for the model."""
        result = await self._result(event, report)
        return self._carried(result) if result else _NOTHING

    async def _result(self, event: HookEvent, report: HookReport) -> HookResult | None:
        await self._membership.follow(event.session_id)
        self._presence.heard()
        try:
            return await self._told(self._completed(report, event))
        except BaseException:  # the store may have done all of it
            self.turn.one_time.retry()
            raise

    def _completed(self, report: HookReport, event: HookEvent) -> HookReport:
        return replace(
            report,
            session_id=event.session_id,
            prompt_id=event.prompt_id,
            bell=self._wakeup.note(event.permission_mode),
            proven=tuple(self.turn.proven),
            lost=tuple(self.turn.lost),
            announced=self._announced,
            again=self.turn.one_time.again,
            recalled=tuple(self.turn.one_time.recalled),
        )

    async def _told(self, report: HookReport) -> HookResult | None:
        """Send the report to the store; return the result, with the attached files of its mail checked."""
        client = self._presence.client
        result = await self.bus.run(sessions.handle_hook_event, client, report)
        if not result:
            with self._presence.unless_it_leaves():
                await self._presence.attach()
                result = await self.bus.run(sessions.handle_hook_event, client, report)
        if not result:
            return None
        self.turn.settle()
        self.turn.one_time.reported()
        return replace(result, mail=await self.examined(result.address, result.mail))

    def _carried(self, result: HookResult) -> Injection:
        """Return the result as the hook's answer, and record what it carries."""
        mail = result.mail
        self._left_over = mail.pending > 0
        self.turn.handed_by_hook([*mail.unproven, *self.answered(mail, told_once=result.told_once)])
        if result.told_once:
            self.turn.one_time.attach([request.id for request in result.requests])
        self._announced = mail.next_id if mail.messages or result.announce else self._announced
        return injection(result, self._presence.take_warning())

    # -- mail in an answer

    @property
    def hops(self) -> int:
        """How many messages in a row led to the session's next message; 0 if hooks do not report its work."""
        return self._hops if self.turn.hooked else 0

    def answered(self, found: HandOver, *, told_once: bool = False) -> list[int]:
        """Record that the request is answered with this mail. Later messages of the session may be replies to it."""
        self.owes(found)
        messages = [message.id for message in found.messages]
        if messages or told_once:
            self.turn.answer(REQUEST.get(), messages)
        return messages

    def owes(self, found: HandOver) -> None:
        """Record that the session may reply to this mail."""
        self._hops = max([self._hops, *(message.hops + 1 for message in found.messages)])

    async def examined(self, me: Address, found: HandOver) -> HandOver:
        """Return the mail with its files checked; withdraw the hand-over if the answer is cancelled."""
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
            return replace(found, messages=await self._membership.workspace.examined(found.messages))
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.bus.run(deliveries.withdraw, me, [message.id for message in found.messages])
            raise

    def gave_up(self, request: int | str) -> None:
        """Record that the client had given this request up when its answer came."""
        self.turn.give_up(request)
