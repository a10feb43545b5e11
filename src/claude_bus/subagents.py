"""The subagents of a session: who makes a call, and those that take part under a name of their own.

A subagent calls the tools of its session's server, and nothing in a call tells whose it
is. The hook before the call does (`tool_use_id` and `agent_id`, seen on 2.1.328).

Without a name of its own a subagent speaks for its session and leaves the mail alone
that is meant for it. With one (by convention the session's name, a dash, its job) it is
an agent like others: its mail comes between its own tool calls. Claims and edits are
the session's in either case.
"""

from __future__ import annotations

from dataclasses import replace

import anyio

from .errors import BusError, NotRegistered
from .model import Address, Binding, Claim, HandOver, Injection, Place, Roster, StateEntry
from .session import Session

_REMEMBERED = 1000
"""Calls announced by a hook that never came (refused by the user, say) are forgotten after so many."""


class Subagent(Session):
    """One subagent of a session; it takes part on its own once it has registered."""

    def __init__(self, session: Session, agent_id: str) -> None:
        key = session.client.key
        client = replace(session.client, key=f"{key}#{agent_id}", session_id=agent_id, session=key, program="subagent")
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
            self._takes_part = await self.bus.resume(self.client) is not None
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
        await self.bus.attach(self.client, None, whose.address.channel if whose else self.config.channel)
        self._takes_part = True
        try:
            found = await super().register(name, role, owns, channel)
        except BusError:
            await self.end()
            raise
        await self.bus.observe(self.client.key, status="working")
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
            self._takes_part = False
            await self.bus.detach(self.client.key)


class Participants:
    """A session with its subagents."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._subagents: dict[str, Subagent] = {}
        self._calls: dict[str, str] = {}
        """Announced to this server: the store need not be asked."""

    async def announce(self, call: str, agent_id: str) -> None:
        """A hook tells who is about to make this call: a subagent, or ("") the session itself."""
        self._calls[call] = agent_id
        if len(self._calls) > _REMEMBERED:
            del self._calls[next(iter(self._calls))]
        if agent_id:
            await self.session.bus.announce_call(self.session.client.key, call, agent_id)

    async def caller(self, call: str) -> Session:
        """Who makes a call: a subagent if that was announced, be it to another server; else the session."""
        agent_id = self._calls.pop(call, None)
        if agent_id is None and call:
            agent_id = await self.session.bus.caller(self.session.client.key, call)
        return self.subagent(agent_id) if agent_id else self.session

    def gave_up(self, request: int | str) -> None:
        """The client does not want the answer to this request any more."""
        for participant in (self.session, *self._subagents.values()):
            participant.gave_up(request)

    def subagent(self, agent_id: str) -> Subagent:
        """The subagent with this id."""
        return self._subagents.setdefault(agent_id, Subagent(self.session, agent_id))

    async def end(self, agent_id: str) -> None:
        """The subagent has ended; should it come back, the store knows its name."""
        await self.subagent(agent_id).end()
        del self._subagents[agent_id]
