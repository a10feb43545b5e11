"""The membership of a session: the name it acts under, and what it may do without one."""

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

    `grant` limits the names and channels that it may use; `workspace` is where its client runs.
    """

    def __init__(self, presence: Presence, workspace: Workspace, grant: Grant = UNRESTRICTED) -> None:
        self.bus = presence.bus
        self.presence = presence
        self.turn = presence.turn
        self.workspace = workspace
        self.grant = grant

    # -- signs of life of the client

    async def called(self) -> Binding | None:
        """Record a tool call, which is a sign of life. Returns None for a session that left."""
        self.presence.heard()
        if self.presence.absent:
            return None
        try:
            binding = await self.presence.seen()
        except StoreFull:  # no room to record it: calls that only read are answered all the same
            binding = await self.presence.attach()
        self.turn.call()
        if self.turn.proven or self.turn.lost:
            with contextlib.suppress(StoreFull):
                await self.confirm(binding)
        return binding

    async def confirm(self, binding: Binding) -> None:
        """Report to the store which messages the model received, and which are lost."""
        if self.turn.lost:
            await self.bus.run(deliveries.withdraw, binding.address, self.turn.lost)
        await self.bus.run(deliveries.confirm, binding.address, self.turn.proven)
        self.turn.settle()

    async def follow(self, conversation: str) -> None:
        """Note that an event of this conversation came; "" if the event does not say. Does nothing here."""

    async def introduce(self, program: str) -> None:
        """Record the program and version that the client reported."""
        await self.presence.introduce(program)

    # -- the name that a call acts for

    async def me(self) -> Address:
        """Return the registered name. Raises `NotRegistered` without one."""
        binding = await self.present()
        if not binding.registered:
            raise self.stranger()
        return binding.address

    async def anyone(self) -> Address:
        """Return the name for operations that need none: "" if the session is not registered."""
        binding = await self.called()
        if not binding:
            return Address("", self.presence.config.channel)
        return binding.address if binding.registered else Address("", binding.address.channel)

    async def reader(self) -> Address:
        """Return the name for reading earlier messages, registered or only listed."""
        binding = await self.called()
        return binding.address if binding else Address("", self.presence.config.channel)

    async def present(self) -> Binding:
        """Return the binding, registered or not. Raises `NotRegistered` for a session that left."""
        binding = await self.called()
        if not binding:
            raise self.stranger()
        return binding

    async def mailbox(self) -> Binding:
        """Return the binding whose unread mail the session may read."""
        return await self.present()

    async def claimant(self) -> Address:
        """Return the registered name that owns the session's claims."""
        return await self.me()

    def stranger(self) -> NotRegistered:
        """Return the error for a session without a name."""
        return NotRegistered()

    # -- the name

    async def register(
        self, name: str, role: str = "", owns: list[str] | None = None, channel: str = ""
    ) -> tuple[Binding, Roster, int]:
        """Take a name; return the binding, the roster of the channel, and the number of unread messages."""
        self.come_back()
        binding = await self.present()
        who = Address(
            names.check_name(name.strip()),
            names.check_name(channel, "channel") if channel else binding.address.channel,
        )
        grants.require(self.grant, who)
        globs = None if owns is None else claim_paths.check_owns(await self.workspace.owned(owns))
        self.presence.take_warning()  # which is about another name
        return await self.bus.run(sessions.join, self.presence.client.key, who, limits.check_line(role, "role"), globs)

    def come_back(self) -> None:
        """Take part again, if the session left."""
        self.presence.absent = False

    async def leave(self) -> Address:
        """Give up the name; return it."""
        me = await self.me()
        await self.bus.run(bindings.leave, self.presence.client.key)
        self.presence.absent = True
        return me
