"""The subagents of a session: which of them makes a call, and which take part under their own name.

A subagent calls the tools of its session's server, and nothing in a call tells which agent
made it. The hook before the call does (`tool_use_id` and `agent_id`, seen on 2.1.328).

A subagent without its own name speaks for its session and cannot read the session's mail.
A subagent with a name (by convention the session's name, a dash, its job) is an agent like
others: its mail arrives between its own tool calls. Claims and edits belong to the session
in either case.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

from .. import limits
from ..errors import BusError, NotRegistered
from ..model.hooks import Injection
from ..model.identity import Address, Binding, Roster
from ..sql import bindings, calls
from .conversation import REQUEST, Conversation
from .hook_event import HookEvent
from .membership import Membership, T, W
from .presence import Presence, SignedBus
from .session import Session
from .turn import Turn

_REMEMBERED = 100
"""Number of announced calls to remember; calls that never came (refused by the user, say) drop out."""
KNOWN = 100
"""Subagents of one session that its server remembers at once; it finds the others again in the store."""
_MAX_ID = 200
"""Characters of a client's id for a subagent or a call. Those of 2.1.328 have up to 30."""


class SubagentMembership(Membership):
    """The membership of a subagent: that of its session until it registers, then its own."""

    def __init__(self, session: Membership, agent_id: str) -> None:
        super().__init__(_presence(session.presence, agent_id), session.workspace, session.grant)
        self._session = session
        self._named: bool | None = None
        """None: the store has not been asked yet."""

    async def is_named(self) -> bool:
        """Return whether it has its own name, even one from before its server was killed."""
        if self._named is None:
            self._named = await self.bus.run(bindings.resume, self.presence.client) is not None
        return self._named

    async def starts(self) -> bool:
        """Handle its start, or its continuation after an end: it gets its name back. Return whether it has one."""
        self._named = None
        return await self.is_named()

    async def introduce(self, program: str) -> None:
        await self._session.introduce(program)  # the client is the session's

    async def _as(self, who: Callable[[Binding | None], W], act: Callable[[SignedBus, W], Awaitable[T]]) -> T:
        if await self.is_named():
            return await super()._as(who, act)
        return await self._session._as(who, act)  # noqa: SLF001 - its base's

    async def as_claimant(self, act: Callable[[SignedBus, Address], Awaitable[T]]) -> T:
        return await self._session.as_claimant(act)

    async def as_mailbox(self, act: Callable[[SignedBus, Binding], Awaitable[T]], *, registered: bool = False) -> T:
        await self._need_name()
        return await super().as_mailbox(act, registered=registered)

    async def register(
        self, name: str, role: str = "", owns: list[str] | None = None, channel: str = ""
    ) -> tuple[Binding, Roster, int]:
        if await self.is_named():
            return await super().register(name, role, owns, channel)
        whose = await self._session.whoami()
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
        self.come_back()  # it speaks for its session again
        return me

    async def _need_name(self) -> None:
        if not await self.is_named():
            whose = await self._session.whoami()
            name = whose.address.name if whose else "backend"
            raise NotRegistered(
                f"you are a subagent of '{name}', whose mail is for that session itself; "
                f"for mail of your own register under another name, such as '{name}-tests'"
            )

    async def end(self) -> None:
        """End it: its name is offline until it is started again, and unconfirmed mail waits."""
        if await self.is_named():
            await self.bus.run(bindings.detach, self.presence.client.key)
            self._named = False

    async def step_back(self) -> None:
        """Like `end`, but the next event or call makes it take part as before.

        Unconfirmed mail waits again, because nothing would be left here to report what becomes of it.
        """
        if self._named:
            await self.bus.run(bindings.detach, self.presence.client.key)
            self._named = None

    @property
    def is_forgettable(self) -> bool:
        """Whether this object can be dropped without loss: it has no name, or the store was not asked yet."""
        return not self._named


def _presence(session: Presence, agent_id: str) -> Presence:
    """Return the subagent's own presence, which only counts while it has a name."""
    key = f"{session.client.key}#{agent_id}"
    client = replace(
        session.client, key=key, session_id=agent_id, session=session.client.key, program="subagent", hooked=True
    )
    config = replace(session.config, name="", role="")
    return Presence(session.bus, config, client, turn=Turn(hooked=True))


class Subagent:
    """One subagent of a session, with its own conversation. It shares the waiting calls of its session."""

    def __init__(self, parent: Session, agent_id: str) -> None:
        self.membership = SubagentMembership(parent.membership, agent_id)
        self.conversation = Conversation(self.membership)
        self.session = Session(self.membership, self.conversation, parent.waiting)

    async def starts(self, event: HookEvent) -> Injection:
        """Handle its start, or its continuation after an end: it gets its name back, and waiting mail."""
        if not await self.membership.starts():
            return Injection()
        return await self.conversation.start_subagent(event.without_session())

    async def used_tools(self, event: HookEvent, *, worked: bool) -> Injection:
        """Handle the end of a batch of its tools: mail that arrived meanwhile goes into its next request."""
        if not await self.membership.is_named():
            return Injection()
        return await self.conversation.batch(event.without_session(), worked=worked)

    async def stops(self, event: HookEvent) -> Injection:
        """Handle the end of its turn; unread mail makes it continue."""
        if not await self.membership.is_named():
            return Injection()
        return await self.conversation.stop(event.without_session())


class SessionGroup:
    """A session with its subagents.

    A client may start any number of them, one after another, and reports their end only if it
    has hooks. The group remembers the latest ones; for the others the data in the store is enough.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.remark = ""
        """One line for the session's user, shown with the next prompt."""
        self._subagents: dict[str, Subagent] = {}
        """By id, the most recently active one last."""
        self._at_work: Counter[Session] = Counter()
        self._calls: dict[str, str] = {}
        """Calls announced to this server, which need no query of the store."""

    async def announce(self, call: str, agent_id: str) -> None:
        """Record which agent is about to make this call: a subagent, or ("") the session itself."""
        limits.check_line(call, "the id of a call", _MAX_ID)
        limits.check_line(agent_id, "the id of a subagent", _MAX_ID)
        self._calls[call] = agent_id
        if len(self._calls) > _REMEMBERED:
            del self._calls[next(iter(self._calls))]
        if agent_id:
            await self.session.bus.run(calls.announce, self.session.client.key, call, agent_id)

    async def caller(self, call: str) -> Session:
        """Return the session that makes a call: a subagent's if that was announced to any server, otherwise its own."""
        agent_id = self._calls.pop(call, None)
        if agent_id is None and call:
            agent_id = await self.session.bus.run(calls.caller, self.session.client.key, call)
        return (await self.subagent(agent_id)).session if agent_id else self.session

    @contextlib.contextmanager
    def at_work(self, session: Session) -> Iterator[None]:
        """Keep the session, or that of a subagent, from being forgotten while the context lasts."""
        self._at_work[session] += 1
        try:
            yield
        finally:
            self._at_work[session] -= 1
            self._at_work += Counter()  # drops the entries that are zero

    def answers(self, request: int | str | None) -> None:
        """Record that this task answers this request of the client."""
        REQUEST.set(_short(request))

    def gave_up(self, request: int | str) -> None:
        """Record that the client no longer wants the answer to this request."""
        for session in (self.session, *(subagent.session for subagent in self._subagents.values())):
            session.conversation.gave_up(_short(request))

    async def subagent(self, agent_id: str) -> Subagent:
        """Return the subagent with this id; it may be a new one."""
        limits.check_line(agent_id, "the id of a subagent", _MAX_ID)
        if agent_id not in self._subagents:
            await self._make_room()
        found = self._subagents.pop(agent_id, None) or Subagent(self.session, agent_id)
        self._subagents[agent_id] = found
        return found

    async def end(self, agent_id: str) -> None:
        """End the subagent; if it comes back, the store knows its name."""
        known = self._subagents.get(agent_id)
        await (known or Subagent(self.session, agent_id)).membership.end()
        self._subagents.pop(agent_id, None)

    async def _make_room(self) -> None:
        """Forget the subagents that were silent for longest; those with a name only if all others have one too."""
        while len(self._subagents) >= KNOWN:
            idle = [one for one in self._subagents.items() if not self._at_work[one[1].session]]
            if not idle:
                return  # no more of them than requests in flight
            agent_id, oldest = next((one for one in idle if one[1].membership.is_forgettable), idle[0])
            await oldest.membership.step_back()
            if not self._at_work[oldest.session] and oldest.membership.is_forgettable:
                self._subagents.pop(agent_id, None)


def _short(request: int | str | None) -> int:
    """Return the key under which a request is remembered: a client's id may have any length."""
    return request if isinstance(request, int) else hash(request)
