"""Who a session is: under which name it acts, and what it may do without one."""

from __future__ import annotations

import contextlib

from .. import claim_paths, grants, limits, names
from ..errors import NotRegistered, StoreFull
from ..model.identity import Address, Binding, Roster
from ..model.tokens import UNRESTRICTED, Grant
from ..sql import bindings, deliveries, sessions
from ..workspace import Workspace
from .presence import Presence


class Membership:
    """A client that takes part under the name it registered, or under one that it is listed as.

    `grant` limits which names and channels it may use, `surroundings` are where its client runs.
    """

    def __init__(self, presence: Presence, surroundings: Workspace, grant: Grant = UNRESTRICTED) -> None:
        self.bus = presence.bus
        self.presence = presence
        self.turn = presence.turn
        self.surroundings = surroundings
        self.grant = grant

    # -- a sign of life of its client

    async def called(self) -> Binding | None:
        """A tool was called, which is a sign of life. None for a session that left."""
        self.presence.heard()
        if self.presence.absent:
            return None
        try:
            binding = await self.presence.seen()
        except StoreFull:  # no room to note it: what only looks is answered all the same
            binding = await self.presence.attach()
        self.turn.call()
        if self.turn.proven or self.turn.lost:
            with contextlib.suppress(StoreFull):
                await self.confirm(binding)
        return binding

    async def confirm(self, binding: Binding) -> None:
        """Tell the store which messages the model has had, and which are lost."""
        if self.turn.lost:
            await self.bus.run(deliveries.withdraw, binding.address, self.turn.lost)
        await self.bus.run(deliveries.confirm, binding.address, self.turn.proven)
        self.turn.settle()

    async def follow(self, conversation: str) -> None:
        """An event of this conversation came; "" where the event does not tell. Nothing follows from it here."""

    async def introduce(self, program: str) -> None:
        """Its client said which program and version it is."""
        await self.presence.introduce(program)

    # -- for whom a call acts

    async def me(self) -> Address:
        """The registered name, or `NotRegistered`."""
        binding = await self.present()
        if not binding.registered:
            raise self.stranger()
        return binding.address

    async def anyone(self) -> Address:
        """The name for verbs that need none: "" where the session has not registered."""
        binding = await self.called()
        if not binding:
            return Address("", self.presence.config.channel)
        return binding.address if binding.registered else Address("", binding.address.channel)

    async def reader(self) -> Address:
        """The name for looking back, registered or only listed."""
        binding = await self.called()
        return binding.address if binding else Address("", self.presence.config.channel)

    async def present(self) -> Binding:
        """The binding, registered or not. A session that left is told to register."""
        binding = await self.called()
        if not binding:
            raise self.stranger()
        return binding

    async def mailbox(self) -> Binding:
        """The binding whose unread mail it may read."""
        return await self.present()

    async def claimant(self) -> Address:
        """The registered name that its claims belong to."""
        return await self.me()

    def stranger(self) -> NotRegistered:
        """What to tell it while it has no name."""
        return NotRegistered()

    # -- the name

    async def register(
        self, name: str, role: str = "", owns: list[str] | None = None, channel: str = ""
    ) -> tuple[Binding, Roster, int]:
        """Take a name; returns the binding, who else is here, and how much mail waits."""
        self.come_back()
        binding = await self.present()
        who = Address(
            names.check_name(name.strip()),
            names.check_name(channel, "channel") if channel else binding.address.channel,
        )
        grants.require(self.grant, who)
        globs = None if owns is None else claim_paths.check_owns(await self.surroundings.owned(owns))
        self.presence.take_warning()  # which is about another name
        return await self.bus.run(sessions.join, self.presence.client.key, who, limits.check_line(role, "role"), globs)

    def come_back(self) -> None:
        """Take part again, if it left."""
        self.presence.absent = False

    async def leave(self) -> Address:
        """Give up the name; returns it."""
        me = await self.me()
        await self.bus.run(bindings.leave, self.presence.client.key)
        self.presence.absent = True
        return me
