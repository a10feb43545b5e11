"""The membership of a session: the name it acts under, and what it may do without one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from .. import claim_paths, grants, limits, names
from ..errors import NotRegistered
from ..model.identity import Address, Binding, Roster
from ..model.tokens import UNRESTRICTED, Grant
from ..sql import bindings, sessions
from ..workspace import Workspace
from .presence import Presence, SignedBus

T = TypeVar("T")
W = TypeVar("W")


class Membership:
    """A client that takes part under the name it registered, or under one that it is listed as.

    `grant` limits the names and channels that it may use; `workspace` is where its client runs.
    """

    def __init__(self, presence: Presence, workspace: Workspace, grant: Grant = UNRESTRICTED) -> None:
        self.bus = presence.bus
        self.presence = presence
        self.turn = presence.turn
        self.workspace = workspace
        self.grant = grant

    # -- calls

    async def as_registered(self, act: Callable[[SignedBus, Address], Awaitable[T]]) -> T:
        """Run `act` as the registered name. Raises `NotRegistered` without one."""
        return await self._as(self._registered, act)

    async def as_anyone(self, act: Callable[[SignedBus, Address], Awaitable[T]]) -> T:
        """Run what needs no name: "" if the session is not registered."""
        return await self._as(self._anyone, act)

    async def as_reader(self, act: Callable[[SignedBus, Address], Awaitable[T]]) -> T:
        """Read earlier messages, as the name that is registered or only listed."""
        return await self._as(self._reader, act)

    async def as_answering(self, act: Callable[[SignedBus, Address], Awaitable[T]]) -> T:
        """Answer a message, as the name that is registered or only listed. Raises as `as_present`."""
        return await self.as_present(lambda bus, binding: act(bus, binding.address))

    async def as_present(self, act: Callable[[SignedBus, Binding], Awaitable[T]]) -> T:
        """Run `act` as the session, registered or not. Raises `NotRegistered` for a session that left."""
        return await self._as(self._present, act)

    async def as_mailbox(self, act: Callable[[SignedBus, Binding], Awaitable[T]], *, registered: bool = False) -> T:
        """Run `act` as the session whose unread mail this one may read. Raises as `as_present`, or `as_registered`."""
        return await self._as(self._registered_session if registered else self._present, act)

    async def as_claimant(self, act: Callable[[SignedBus, Address], Awaitable[T]]) -> T:
        """Run `act` as the registered name that owns the session's claims."""
        return await self.as_registered(act)

    async def whoami(self) -> Binding | None:
        """Return the binding; None for a session that left."""
        return await self._as(_itself, _look_again)

    async def _as(self, who: Callable[[Binding | None], W], act: Callable[[SignedBus, W], Awaitable[T]]) -> T:
        """Run `act` as what `who` makes of the binding. A call is a sign of life, which goes with its verb."""
        presence = self.presence
        presence.heard()
        if not presence.absent:
            self.turn.call()
            with presence.unless_it_leaves():
                return await self._acting(who, act)
        return await act(SignedBus(presence, None), who(None))

    async def _acting(self, who: Callable[[Binding | None], W], act: Callable[[SignedBus, W], Awaitable[T]]) -> T:
        if known := self.presence.known:
            try:
                who(known)
            except NotRegistered:
                await self.presence.seen()  # it may have registered through another server
        return await self.presence.acting(lambda bus, binding: act(bus, who(binding)))

    def _registered(self, binding: Binding | None) -> Address:
        if not binding or not binding.registered:
            raise self.stranger()
        return binding.address

    def _registered_session(self, binding: Binding | None) -> Binding:
        self._registered(binding)
        return self._present(binding)

    def _anyone(self, binding: Binding | None) -> Address:
        if not binding:
            return Address("", self.presence.config.channel)
        return binding.address if binding.registered else Address("", binding.address.channel)

    def _reader(self, binding: Binding | None) -> Address:
        return binding.address if binding else Address("", self.presence.config.channel)

    def _present(self, binding: Binding | None) -> Binding:
        if not binding:
            raise self.stranger()
        return binding

    async def follow(self, conversation: str) -> None:
        """Note that an event of this conversation came; "" if the event does not say. Does nothing here."""

    async def introduce(self, program: str) -> None:
        """Record the program and version that the client reported."""
        await self.presence.introduce(program)

    def stranger(self) -> NotRegistered:
        """Return the error for a session without a name."""
        return NotRegistered()

    # -- the name

    async def register(
        self, name: str, role: str = "", owns: list[str] | None = None, channel: str = ""
    ) -> tuple[Binding, Roster, int]:
        """Take a name; return the binding, the roster of the channel, and the number of unread messages."""
        self.come_back()

        async def join(bus: SignedBus, binding: Binding) -> tuple[Binding, Roster, int]:
            who = Address(
                names.check_name(name.strip()),
                names.check_name(channel, "channel") if channel else binding.address.channel,
            )
            grants.require(self.grant, who)
            globs = None if owns is None else claim_paths.check_owns(await self.workspace.owned(owns))
            self.presence.take_warning()  # which is about another name
            return await bus.run(sessions.join, self.presence.client.key, who, limits.check_line(role, "role"), globs)

        found = await self._as(self._present, join)
        self.presence.knows(found[0])
        return found

    def come_back(self) -> None:
        """Take part again, if the session left."""
        self.presence.absent = False

    async def leave(self) -> Address:
        """Give up the name; return it."""

        async def go(bus: SignedBus, me: Address) -> Address:
            self.presence.absent = True  # before it is true: no call at the same time may make it take part again
            try:
                await bus.run(bindings.leave, self.presence.client.key)
            except BaseException:
                self.presence.absent = False
                raise
            return me

        return await self._as(self._registered, go)


def _itself(binding: Binding | None) -> Binding | None:
    return binding


async def _look_again(bus: SignedBus, binding: Binding | None) -> Binding | None:
    return await bus.run(bindings.bound, bus.sign.client) if bus.sign else binding
