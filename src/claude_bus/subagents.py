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

import anyio

from . import rules
from .errors import BusError, NotRegistered
from .model import Address, Binding, Claim, HandOver, Injection, Place, Roster, StateEntry
from .session import REQUEST, Session
from .sql import bindings, calls

_REMEMBERED = 100
"""Calls announced by a hook that never came (refused by the user, say) are forgotten after so many."""
KNOWN = 100
"""Subagents of one session that its server knows of at once; the others it knows again once it hears of them."""
_MAX_ID = 200
"""Of what a client calls a subagent or a call. Those of 2.1.328 have up to 30 characters."""


class Subagent(Session):
    """One subagent of a session; it takes part on its own once it has registered."""

    def __init__(self, session: Session, agent_id: str) -> None:
        key = session.client.key
        client = replace(
            session.client, key=f"{key}#{agent_id}", session_id=agent_id, session=key, program="subagent", hooked=True
        )
        config = replace(session.config, name="", role="")
        super().__init__(
            session.bus,
            config,
            client,
            lambda _mode: False,
            hooked=True,
            grant=session.grant,
            surroundings=session.surroundings,
        )
        self._session = session
        self._takes_part: bool | None = None

    async def takes_part(self) -> bool:
        """Whether it has a name of its own, be it from before its server was killed."""
        if self._takes_part is None:
            self._takes_part = await self.bus.run(bindings.resume, self.client) is not None
        return self._takes_part

    async def introduce_client(self, program: str) -> None:
        """Of its session, whose client it is."""
        await self._session.introduce_client(program)

    # -- the verbs, where they are not those of its session

    async def _called(self) -> Binding | None:
        return await (super()._called() if await self.takes_part() else self._session._called())  # noqa: SLF001

    async def register(
        self, name: str, role: str = "", owns: list[str] | None = None, channel: str = ""
    ) -> tuple[Binding, Roster, int]:
        if await self.takes_part():
            return await super().register(name, role, owns, channel)
        whose = await self._session.whoami()
        await self.bus.run(bindings.attach, self.client, None, whose.address.channel if whose else self.config.channel)
        self._takes_part = True
        try:
            found = await super().register(name, role, owns, channel)
        except BusError:
            await self.end()
            raise
        await self.bus.run(bindings.observe, self.client.key, status="working")
        return found

    async def leave(self) -> Address:
        await self._need_name()
        me = await super().leave()
        self._left = self._takes_part = False
        return me

    async def inbox(self, *, peek: bool = False, limit: int = 50) -> HandOver:
        await self._need_name()
        return await super().inbox(peek=peek, limit=limit)

    async def _need_name(self) -> None:
        if not await self.takes_part():
            whose = await self._session.whoami()
            name = whose.address.name if whose else "backend"
            raise NotRegistered(
                f"you are a subagent of '{name}', whose mail is for that session itself; "
                f"for mail of your own register under another name, such as '{name}-tests'"
            )

    async def wait_for_change(self, key: str, version: int | None, timeout: float) -> list[StateEntry]:
        return await self._session.wait_for_change(key, version, timeout)

    async def claim(self, paths: list[str], *, ttl: float, shared: bool, reason: str) -> list[Claim]:
        return await self._session.claim(paths, ttl=ttl, shared=shared, reason=reason)

    async def release(self, paths: list[str] | None, force: str = "") -> list[Place]:
        return await self._session.release(paths, force)

    def arrival(self) -> anyio.Event:
        return self._session.arrival()

    # -- its hook events

    async def starts(self) -> Injection:
        """It begins, or goes on after it had ended: then it gets its name back, and what waits for it."""
        self._takes_part, self._continuations = None, 0
        if not await self.takes_part():
            return Injection()
        self.turn.begin(self.client.session_id, "")
        return await self._react("subagent hook", "", "")

    async def used_tools(self, *, worked: bool) -> Injection:
        """A batch of its tools is over: what came meanwhile goes into its next request."""
        return await super().batch("", "", worked=worked) if await self.takes_part() else Injection()

    async def stops(self) -> Injection:
        """It is about to end, unless unread mail makes it go on."""
        return await super().stop("", "") if await self.takes_part() else Injection()

    async def end(self) -> None:
        """It has ended: its name is offline until it is started again, and what was not proven waits."""
        if await self.takes_part():
            await self.bus.run(bindings.detach, self.client.key)
            self._takes_part = False

    @property
    def is_nobody(self) -> bool:
        """Whether nothing is lost with what is known here of it: it has no name, or nobody asked yet."""
        return not self._takes_part

    async def step_back(self) -> None:
        """Like `end`, until it is heard of again: then it takes part as before.

        What it was handed without proof waits again, as nobody is left to tell what becomes of it.
        """
        if self._takes_part:
            await self.bus.run(bindings.detach, self.client.key)
            self._takes_part = None


class Participants:
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
        rules.check_line(call, "the id of a call", _MAX_ID)
        rules.check_line(agent_id, "the id of a subagent", _MAX_ID)
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
        return await self.subagent(agent_id) if agent_id else self.session

    @contextlib.contextmanager
    def at_work(self, participant: Session) -> Iterator[None]:
        """It is not forgotten while the context lasts."""
        self._at_work[participant] += 1
        try:
            yield
        finally:
            self._at_work[participant] -= 1
            self._at_work += Counter()  # forgets those that are done

    def answers(self, request: int | str | None) -> None:
        """What this task does is the answer to this request of the client."""
        REQUEST.set(_short(request))

    def gave_up(self, request: int | str) -> None:
        """The client does not want the answer to this request any more."""
        for participant in (self.session, *self._subagents.values()):
            participant.gave_up(_short(request))

    async def subagent(self, agent_id: str) -> Subagent:
        """The subagent with this id."""
        rules.check_line(agent_id, "the id of a subagent", _MAX_ID)
        if agent_id not in self._subagents:
            await self._make_room()
        found = self._subagents.pop(agent_id, None) or Subagent(self.session, agent_id)
        self._subagents[agent_id] = found
        return found

    async def end(self, agent_id: str) -> None:
        """The subagent has ended; should it come back, the store knows its name."""
        known = self._subagents.get(agent_id)
        await (known or Subagent(self.session, agent_id)).end()
        self._subagents.pop(agent_id, None)

    async def _make_room(self) -> None:
        """Forget who was not heard of for longest; those that take part only if all do."""
        while len(self._subagents) >= KNOWN:
            idle = [one for one in self._subagents.items() if not self._at_work[one[1]]]
            if not idle:
                return  # no more than there are requests under way
            agent_id, oldest = next((one for one in idle if one[1].is_nobody), idle[0])
            await oldest.step_back()
            if not self._at_work[oldest] and oldest.is_nobody:
                self._subagents.pop(agent_id, None)


def _short(request: int | str | None) -> int:
    """What a request is remembered by: its client chose its id, as long as it liked."""
    return request if isinstance(request, int) else hash(request)
