"""The presence of a session on the bus: its binding, its listener, its heartbeat."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

from .. import quoting, worktree
from ..bus import Bus
from ..config import Config
from ..errors import Forbidden, InvalidInput, NameTaken, StoreFull, TooLarge
from ..model.identity import Address, Binding, Client, Status
from ..sql import bindings, sessions
from .turn import Turn
from .wakeup import Wakeup


class Presence:
    """One server process of a client, through which the client takes part.

    Mail is announced at `address`; if that is empty, it is not announced. The store knows the client's current
    turn; `turn` continues from there.
    """

    def __init__(
        self,
        bus: Bus,
        config: Config,
        client: Client,
        *,
        turn: Turn | None = None,
        wakeup: Wakeup | None = None,
        address: str = "",
    ) -> None:
        self.bus = bus
        self.config = config
        self.client = replace(client, folder=worktree.presented(client.folder))
        self.turn = turn or Turn()
        self.wakeup = wakeup or Wakeup()
        self.address = address
        self.absent = False
        """The session left, or never takes part: no sign of life makes it take part."""
        self._listens = False
        """The bus knows that this server of the session runs, and where it listens."""
        self._resumed = False
        self._warning = ""
        self._program = ""
        self._heard = time.monotonic()

    # -- taking part

    async def attach(self) -> Binding:
        """Take part, or find out that it already does. Called by whatever comes first."""
        binding = await self.bus.run(bindings.bound, self.client.key)
        if not binding or binding.process != self.client.process:
            binding = await self._attach_anew()
        if not self._listens:
            await self._listen()
        self._resume(binding)
        return binding

    async def ensure_resumed(self) -> None:
        """Resume the turn that an earlier, killed server of this session was in, unless that was done."""
        if not self._resumed:
            await self.attach()

    async def _attach_anew(self) -> Binding:
        self._listens = False
        binding = await self._bind()
        if self.wakeup.allowed_last:  # it was given up; working until it says otherwise, as a working one is not rung
            await self.bus.run(bindings.observe, self.client.key, status="working", bell=True)
        elif self.wakeup.allowed(""):
            await self.bus.run(bindings.observe, self.client.key, bell=True)
        return binding

    async def _bind(self) -> Binding:
        wanted = self._wanted()
        client = replace(self.client, session_id=self.turn.session_id or self.client.session_id)
        try:
            binding = await self.bus.run(bindings.attach, client, wanted, self.config.channel)
        except (NameTaken, InvalidInput) as refused:
            self._warning = quoting.one_line(f"BUS_NAME: {refused.message}; register(name) to take part.", 400)
            return await self.bus.run(bindings.attach, client, None, self.config.channel)
        return await self._take(wanted) if wanted else binding

    async def _take(self, wanted: Address) -> Binding:
        binding, _, _ = await self.bus.run(sessions.join, self.client.key, wanted, self.config.role, None)
        await self.bus.run(bindings.forget, self.client.key)  # nobody told the model
        return binding

    def _wanted(self) -> Address | None:
        """Return the name that the settings give the session."""
        return Address(self.config.name, self.config.channel) if self.config.name else None

    def take_warning(self) -> str:
        """Return, once, why the session does not have the name that the settings give it."""
        warning, self._warning = self._warning, ""
        return warning

    def _resume(self, binding: Binding) -> None:
        if not self._resumed:
            self._resumed = True
            self.turn.take_up(binding.session_id, binding.prompt_id)

    async def close(self) -> None:
        """The client ended."""
        await self.bus.run(bindings.detach, self.client.key)

    # -- listening

    async def _listen(self) -> None:
        with contextlib.suppress(StoreFull):  # no room to note it now
            await self.bus.run(sessions.listen, self.address, self.client.key)
            self._listens = True

    async def listen_at(self, address: str) -> None:
        """Attach, and have mail announced at `address` from now on; "" for no announcements."""
        self.address, self._listens = address, False
        await self.attach()

    async def go_on_listening(self) -> None:
        """Listen, if that failed earlier, for example because the bus was unreachable."""
        if not self._listens and not self.absent:
            await self.attach()

    # -- signs of life

    async def beat(self) -> None:
        """Send a heartbeat. If other processes gave the session up (it was suspended for long, say), it comes back."""
        if self.absent:
            return
        binding = await self.bus.run(bindings.bound, self.client.key)
        if not binding:
            await self.attach()
            return
        await self.bus.run(sessions.beat, self.client.key)
        if not binding.registered:
            await self._take_due_name()

    async def _take_due_name(self) -> None:
        """Take the name that the settings give, if it was refused at the start and is free now."""
        wanted = self._wanted()
        with contextlib.suppress(NameTaken, Forbidden, InvalidInput, TooLarge):  # as at the start
            if wanted:
                await self._take(wanted)
                self._warning = ""

    async def seen(self, *, status: Status | None = None, session_id: str = "", program: str = "") -> Binding:
        """Record a sign of life and what the client reports with it. Attach if the session does not take part yet."""

        async def observe() -> Binding | None:
            return await self.bus.run(
                bindings.observe, self.client.key, status=status, session_id=session_id, program=program
            )

        binding = await observe()
        if binding and binding.process == self.client.process and self._listens:
            self._resume(binding)
            return binding
        binding = await self.attach()
        await observe()
        return binding

    async def became(self, status: Status, session_id: str = "") -> None:
        """Record another status that the client reported."""
        if not self.absent:
            self.heard()
            await self.seen(status=status, session_id=session_id)

    async def introduce(self, program: str) -> None:
        """Record the program and version that the client reported."""
        if program != self._program and not self.absent:
            self._program = program
            await self.seen(program=program)

    def heard(self) -> None:
        """Note the time of a call or an event; the next operation tells the store."""
        self._heard = time.monotonic()

    def silent_for(self) -> float:
        """Return the seconds since the last call or event."""
        return time.monotonic() - self._heard
