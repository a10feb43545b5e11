"""Who a session is: how it takes part, under which name, and that it lives."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

from .. import rules, text, worktree
from ..bus import Bus
from ..config import Config
from ..errors import Forbidden, InvalidInput, NameTaken, NotRegistered, StoreFull, TooLarge
from ..model import ANYBODY, Address, Binding, Client, Grant, Roster, Status
from ..surroundings import Surroundings
from .turn import Turn
from .wakeup import Wakeup


class Membership:
    """A client process that takes part, under the name it registered or one that it is listed as.

    `grant` limits which names and channels it may use, `surroundings` are where its client
    runs. Mail is announced at `address`, or nowhere. `turn` is told of tool calls; the
    proof that it has of messages is passed on to the store.
    """

    def __init__(
        self,
        bus: Bus,
        config: Config,
        client: Client,
        *,
        turn: Turn | None = None,
        wakeup: Wakeup | None = None,
        grant: Grant = ANYBODY,
        surroundings: Surroundings | None = None,
        address: str = "",
    ) -> None:
        self.bus = bus
        self.config = config
        self.client = replace(client, folder=worktree.presented(client.folder))
        self.turn = turn or Turn()
        self.wakeup = wakeup or Wakeup()
        self.grant = grant
        self.surroundings = surroundings or Surroundings(client.folder)
        self.address = address
        self._listens = False
        """The bus knows that this server of the session runs, and where it listens."""
        self._left = False
        self._resumed = False
        self._warning = ""
        self._program = ""
        self._heard = time.monotonic()

    @property
    def absent(self) -> bool:
        """It left, and takes part again only by registering."""
        return self._left

    # -- taking part

    async def attach(self) -> Binding:
        """Take part, or find out that it already does. Called by whatever comes first."""
        binding = await self.bus.binding(self.client.key)
        if not binding or binding.process != self.client.process:
            binding = await self._attach_anew()
        if not self._listens:
            await self._listen()
        self._resume(binding)
        return binding

    async def ensure_resumed(self) -> None:
        """Go on where an earlier server of this session was killed, if that was not done yet."""
        if not self._resumed:
            await self.attach()

    async def _attach_anew(self) -> Binding:
        self._listens = False
        binding = await self._bind()
        if self.wakeup.allowed_last:  # it was given up; working until it says otherwise, as a working one is not rung
            await self.bus.observe(self.client.key, status="working", bell=True)
        elif self.wakeup.allowed(""):
            await self.bus.observe(self.client.key, bell=True)
        return binding

    async def _bind(self) -> Binding:
        wanted = self._wanted()
        client = replace(self.client, session_id=self.turn.session_id or self.client.session_id)
        try:
            binding = await self.bus.attach(client, wanted, self.config.channel)
        except (NameTaken, InvalidInput) as refused:
            self._warning = text.one_line(f"BUS_NAME: {refused.message}; register(name) to take part.", 400)
            return await self.bus.attach(client, None, self.config.channel)
        return await self._take_wanted(wanted) if wanted else binding

    async def _take_wanted(self, wanted: Address) -> Binding:
        binding, _, _ = await self.bus.register(self.client.key, wanted, self.config.role, None)
        await self.bus.forget(self.client.key)  # nobody told the model
        return binding

    def _wanted(self) -> Address | None:
        """The name that the settings give the session."""
        return Address(self.config.name, self.config.channel) if self.config.name else None

    async def _listen(self) -> None:
        with contextlib.suppress(StoreFull):  # no room to note it now
            await self.bus.listen(self.address, self.client.key)
            self._listens = True

    def _resume(self, binding: Binding) -> None:
        if not self._resumed:
            self._resumed = True
            self.turn.take_up(binding.session_id, binding.prompt_id)

    async def listen_at(self, address: str) -> None:
        """Attach, and have mail announced at `address` from now on; "" for nowhere."""
        self.address, self._listens = address, False
        await self.attach()

    async def go_on_listening(self) -> None:
        """Listen, if that failed when it was due: the bus could not be reached, say."""
        if not self._listens and not self.absent:
            await self.attach()

    async def follow(self, conversation: str) -> None:
        """An event of this conversation came; "" where the event does not tell. Nothing follows from it here."""

    async def close(self) -> None:
        """The client ended."""
        await self.bus.detach(self.client.key)

    # -- signs of life

    async def beat(self) -> None:
        """Say that it lives. If others gave it up meanwhile (it was suspended for long, say), it comes back."""
        if self.absent:
            return
        binding = await self.bus.binding(self.client.key)
        if not binding:
            await self.attach()
            return
        await self.bus.heartbeat(self.client.key)
        if not binding.registered:
            await self._take_due_name()

    async def _take_due_name(self) -> None:
        """Take the name that the settings give and that was refused when the session began, if it is free now."""
        wanted = self._wanted()
        with contextlib.suppress(NameTaken, Forbidden, InvalidInput, TooLarge):  # as when it began
            if wanted:
                await self._take_wanted(wanted)
                self._warning = ""

    async def seen(self, *, status: Status | None = None, session_id: str = "", program: str = "") -> Binding:
        """It gives a sign of life, and may say more of itself. If it does not take part yet, it does now."""

        async def observe() -> Binding | None:
            return await self.bus.observe(self.client.key, status=status, session_id=session_id, program=program)

        binding = await observe()
        if binding and binding.process == self.client.process and self._listens:
            self._resume(binding)
            return binding
        binding = await self.attach()
        await observe()
        return binding

    async def became(self, status: Status, session_id: str = "") -> None:
        """The client reported another presence."""
        if not self.absent:
            self.heard()
            await self.seen(status=status, session_id=session_id)

    async def introduce(self, program: str) -> None:
        """The client said which program and version it is."""
        if program != self._program and not self.absent:
            self._program = program
            await self.seen(program=program)

    def heard(self) -> None:
        """A call or an event came; the store is told by what follows."""
        self._heard = time.monotonic()

    def silent_for(self) -> float:
        """Seconds since the last call or event."""
        return time.monotonic() - self._heard

    # -- a call of a tool, and for whom it acts

    async def called(self) -> Binding | None:
        """A tool was called, which is a sign of life. None for a session that left."""
        self.heard()
        if self.absent:
            return None
        try:
            binding = await self.seen()
        except StoreFull:  # no room to note it: what only looks is answered all the same
            binding = await self.attach()
        self.turn.call()
        if self.turn.proven or self.turn.lost:
            with contextlib.suppress(StoreFull):
                await self.confirm(binding)
        return binding

    async def confirm(self, binding: Binding) -> None:
        """Tell the store which messages the model has had, and which are lost."""
        if self.turn.lost:
            await self.bus.withdraw(binding.address, self.turn.lost)
        await self.bus.confirm(binding.address, self.turn.proven)
        self.turn.settle()

    def stranger(self) -> NotRegistered:
        """What to tell it while it has no name."""
        return NotRegistered()

    async def present(self) -> Binding:
        """The binding of a session that calls and did not leave, registered or not."""
        binding = await self.called()
        if not binding:
            raise self.stranger()
        return binding

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
            return Address("", self.config.channel)
        return binding.address if binding.registered else Address("", binding.address.channel)

    async def reader(self) -> Address:
        """The name for looking back, registered or only listed."""
        binding = await self.called()
        return binding.address if binding else Address("", self.config.channel)

    async def mailbox(self) -> Binding:
        """The binding whose unread mail it may read."""
        return await self.present()

    async def claimant(self) -> Address:
        """The registered name that its claims belong to."""
        return await self.me()

    # -- the name

    async def register(
        self, name: str, role: str = "", owns: list[str] | None = None, channel: str = ""
    ) -> tuple[Binding, Roster, int]:
        """Take a name; returns the binding, who else is here, and how much mail waits."""
        self._left = False
        binding = await self.present()
        who = Address(
            rules.check_name(name.strip()),
            rules.check_name(channel, "channel") if channel else binding.address.channel,
        )
        rules.require(self.grant, who)
        globs = None if owns is None else rules.check_owns(self.surroundings.owned(owns))
        self._warning = ""
        return await self.bus.register(self.client.key, who, rules.check_line(role, "role"), globs)

    async def leave(self) -> Address:
        """Give up the name; returns it."""
        me = await self.me()
        await self.bus.leave(self.client.key)
        self._left = True
        return me

    def take_warning(self) -> str:
        """Why it does not have the name that the settings give; told once."""
        warning, self._warning = self._warning, ""
        return warning
