"""The subagents of a session: who makes a call, and those that take part under a name of their own.

A subagent calls the tools of its session's server, and nothing in a call tells whose it
is. The hook before the call does (`tool_use_id` and `agent_id`, seen on 2.1.328).

Without a name of its own a subagent speaks for its session and leaves the mail alone
that is meant for it. With one (by convention the session's name, a dash, its job) it is
an agent like others: its mail comes between its own tool calls. Claims and edits are
the session's in either case.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from .. import limits
from ..errors import BusError, NotRegistered
from ..model.hooks import Injection
from ..model.identity import Address, Binding, Roster
from ..sql import bindings, calls
from .conversation import REQUEST, Conversation
from .hook_event import HookEvent
from .membership import Membership
from .presence import Presence
from .session import Session
from .turn import Turn

_REMEMBERED = 100
"""Calls announced by a hook that never came (refused by the user, say) are forgotten after so many."""
KNOWN = 100
"""Subagents of one session that its server knows of at once; the others it knows again once it hears of them."""
_MAX_ID = 200
"""Of what a client calls a subagent or a call. Those of 2.1.328 have up to 30 characters."""


class SubagentMembership(Membership):
    """Who a subagent is: its session until it registers, an agent of its own from then on."""

    def __init__(self, session: Membership, agent_id: str) -> None:
        super().__init__(_presence(session.presence, agent_id), session.surroundings, session.grant)
        self._session = session
        self._named: bool | None = None
        """None: nobody asked the store yet."""

    async def is_named(self) -> bool:
        """Whether it has a name of its own, be it from before its server was killed."""
        if self._named is None:
            self._named = await self.bus.run(bindings.resume, self.presence.client) is not None
        return self._named

    async def starts(self) -> bool:
        """It begins, or goes on after it had ended: then it gets its name back. Whether it has one."""
        self._named = None
        return await self.is_named()

    async def introduce(self, program: str) -> None:
        await self._session.introduce(program)  # whose client it is

    async def called(self) -> Binding | None:
        return await (super().called() if await self.is_named() else self._session.called())

    async def claimant(self) -> Address:
        return await self._session.claimant()

    async def mailbox(self) -> Binding:
        await self._need_name()
        return await super().mailbox()

    async def register(
        self, name: str, role: str = "", owns: list[str] | None = None, channel: str = ""
    ) -> tuple[Binding, Roster, int]:
        if await self.is_named():
            return await super().register(name, role, owns, channel)
        whose = await self._session.called()
        await self.bus.run(
            bindings.attach,
            self.presence.client,
            None,
            whose.address.channel if whose else self.presence.config.channel,
        )
        self._named = True
        try:
            found = await super().register(name, role, owns, channel)
        except BusError:
            await self.end()
            raise
        await self.bus.run(bindings.observe, self.presence.client.key, status="working")
        return found

    async def leave(self) -> Address:
        await self._need_name()
        me = await super().leave()
        self._named = False
        self.come_back()  # as one that speaks for its session
        return me

    async def _need_name(self) -> None:
        if not await self.is_named():
            whose = await self._session.called()
            name = whose.address.name if whose else "backend"
            raise NotRegistered(
                f"you are a subagent of '{name}', whose mail is for that session itself; "
                f"for mail of your own register under another name, such as '{name}-tests'"
            )

    async def end(self) -> None:
        """It has ended: its name is offline until it is started again, and what was not proven waits."""
        if await self.is_named():
            await self.bus.run(bindings.detach, self.presence.client.key)
            self._named = False

    async def step_back(self) -> None:
        """Like `end`, until it is heard of again: then it takes part as before.

        What it was handed without proof waits again, as nobody is left to tell what becomes of it.
        """
        if self._named:
            await self.bus.run(bindings.detach, self.presence.client.key)
            self._named = None

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing is lost with what is known here of it: it has no name, or nobody asked yet."""
        return not self._named


def _presence(session: Presence, agent_id: str) -> Presence:
    """The subagent's own, which only counts while it has a name."""
    key = f"{session.client.key}#{agent_id}"
    client = replace(
        session.client, key=key, session_id=agent_id, session=session.client.key, program="subagent", hooked=True
    )
    config = replace(session.config, name="", role="")
    return Presence(session.bus, config, client, turn=Turn(hooked=True))


class Subagent:
    """One subagent of a session, with a conversation of its own. It waits where its session does."""

    def __init__(self, parent: Session, agent_id: str) -> None:
        self.membership = SubagentMembership(parent.membership, agent_id)
        self.conversation = Conversation(self.membership)
        self.session = Session(self.membership, self.conversation, parent.waiting)

    async def starts(self, event: HookEvent) -> Injection:
        """It begins, or goes on after it had ended: then it gets its name back, and what waits for it."""
        if not await self.membership.starts():
            return Injection()
        return await self.conversation.start_subagent(event.without_session())

    async def used_tools(self, event: HookEvent, *, worked: bool) -> Injection:
        """A batch of its tools is over: what came meanwhile goes into its next request."""
        if not await self.membership.is_named():
            return Injection()
        return await self.conversation.batch(event.without_session(), worked=worked)

    async def stops(self, event: HookEvent) -> Injection:
        """It is about to end, unless unread mail makes it go on."""
        if not await self.membership.is_named():
            return Injection()
        return await self.conversation.stop(event.without_session())


class SessionGroup:
    """A session with its subagents.

    A client may have any number of those, one after the other, and tells of their end only
    where it has hooks. Known are the last ones; what the store has of the others is enough.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._subagents: dict[str, Subagent] = {}
        """The one that was heard of last is the last."""
        self._at_work: Counter[Session] = Counter()
        self._calls: dict[str, str] = {}
        """Announced to this server: the store need not be asked."""

    async def announce(self, call: str, agent_id: str) -> None:
        """A hook tells who is about to make this call: a subagent, or ("") the session itself."""
        limits.check_line(call, "the id of a call", _MAX_ID)
        limits.check_line(agent_id, "the id of a subagent", _MAX_ID)
        self._calls[call] = agent_id
        if len(self._calls) > _REMEMBERED:
            del self._calls[next(iter(self._calls))]
        if agent_id:
            await self.session.bus.run(calls.announce, self.session.client.key, call, agent_id)

    async def caller(self, call: str) -> Session:
        """Who makes a call: a subagent if that was announced, be it to another server; else the session."""
        agent_id = self._calls.pop(call, None)
        if agent_id is None and call:
            agent_id = await self.session.bus.run(calls.caller, self.session.client.key, call)
        return (await self.subagent(agent_id)).session if agent_id else self.session

    @contextlib.contextmanager
    def at_work(self, session: Session) -> Iterator[None]:
        """The session, or that of a subagent, is not forgotten while the context lasts."""
        self._at_work[session] += 1
        try:
            yield
        finally:
            self._at_work[session] -= 1
            self._at_work += Counter()  # forgets those that are done

    def answers(self, request: int | str | None) -> None:
        """What this task does is the answer to this request of the client."""
        REQUEST.set(_short(request))

    def gave_up(self, request: int | str) -> None:
        """The client does not want the answer to this request any more."""
        for session in (self.session, *(subagent.session for subagent in self._subagents.values())):
            session.conversation.gave_up(_short(request))

    async def subagent(self, agent_id: str) -> Subagent:
        """The subagent with this id."""
        limits.check_line(agent_id, "the id of a subagent", _MAX_ID)
        if agent_id not in self._subagents:
            await self._make_room()
        found = self._subagents.pop(agent_id, None) or Subagent(self.session, agent_id)
        self._subagents[agent_id] = found
        return found

    async def end(self, agent_id: str) -> None:
        """The subagent has ended; should it come back, the store knows its name."""
        known = self._subagents.get(agent_id)
        await (known or Subagent(self.session, agent_id)).membership.end()
        self._subagents.pop(agent_id, None)

    async def _make_room(self) -> None:
        """Forget who was not heard of for longest; those that take part only if all do."""
        while len(self._subagents) >= KNOWN:
            idle = [one for one in self._subagents.items() if not self._at_work[one[1].session]]
            if not idle:
                return  # no more than there are requests under way
            agent_id, oldest = next((one for one in idle if one[1].membership.is_forgettable), idle[0])
            await oldest.membership.step_back()
            if not self._at_work[oldest.session] and oldest.membership.is_forgettable:
                self._subagents.pop(agent_id, None)


def _short(request: int | str | None) -> int:
    """What a request is remembered by: its client chose its id, as long as it liked."""
    return request if isinstance(request, int) else hash(request)
