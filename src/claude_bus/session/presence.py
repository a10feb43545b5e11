"""The presence of a session on the bus: its binding, its listener, its heartbeat."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from .. import quoting, worktree
from ..bus import Bus
from ..config import Config
from ..errors import Displaced, Forbidden, InvalidInput, NameTaken, StoreFull, TooLarge
from ..model.identity import Address, Binding, Client, SignOfLife, Status
from ..sql import bindings, sessions
from ..sql.verbs import Verb
from .turn import Turn
from .wakeup import Wakeup

P = ParamSpec("P")
T = TypeVar("T")

_ATTEMPTS = 2
"""How often a call is tried again because the session was bound anew meanwhile."""


class SignedBus:
    """The bus on behalf of a session: with each verb goes a sign of life."""

    def __init__(self, presence: Presence, sign: SignOfLife | None) -> None:
        self._presence = presence
        self.sign = sign

    async def run(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb. Raises `Displaced`, having done nothing, if the session is not bound as the sign says."""
        found = await self._presence.bus.run_for(self.sign, verb, *args, **kwargs)
        if self.sign:
            self._presence.told(self.sign)
            if self.sign.program or self.sign.proven or self.sign.lost:
                self.sign = replace(self.sign, program="", proven=(), lost=())
        return found


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
        self._binding: Binding | None = None
        """As the store had it last."""
        self._listens = False
        """The bus knows that this server of the session runs, and where it listens."""
        self._resumed = False
        self._warning = ""
        self._program = ""
        self._unsaid = ""
        """The client's program, until the store knows it."""
        self._heard = time.monotonic()

    # -- taking part

    async def attach(self) -> Binding:
        """Take part, or find out that it already does. Called by whatever comes first.

        Raises `Displaced` for a session that left, also while this was under way.
        """
        binding = await self.bus.run(bindings.bound, self.client.key) if self._listens else None
        if not binding or binding.process != self.client.process:
            if self.absent:
                raise Displaced
            binding = await self._begin()
        self._resume(binding)
        return self.knows(binding)

    def knows(self, binding: Binding) -> Binding:
        """Record the binding as the store has it; return it."""
        self._binding = binding
        return binding

    @property
    def known(self) -> Binding | None:
        """The binding as the store had it last, for a session that takes part; whoever uses it has that checked."""
        return self._binding if self._listens and self._resumed and not self.absent else None

    async def ensure_resumed(self) -> None:
        """Resume the turn that an earlier, killed server of this session was in, unless that was done."""
        if not self._resumed:
            await self.attach()

    async def _begin(self) -> Binding:
        """Take part anew, or listen."""
        wanted = self._wanted()
        try:
            return await self._begin_as(wanted)
        except (NameTaken, InvalidInput) as refused:
            if not wanted:
                raise
            self._warning = quoting.one_line(f"BUS_NAME: {refused.message}; register(name) to take part.", 400)
            return await self._begin_as(None)

    async def _begin_as(self, wanted: Address | None) -> Binding:
        client = replace(self.client, session_id=self.turn.session_id or self.client.session_id)
        said: dict[str, Any] = {}
        if self.wakeup.allowed_last:  # it was given up; working until it says otherwise, as a working one is not rung
            said = {"status": "working", "bell": True}
        elif self.wakeup.allowed(""):
            said = {"bell": True}
        role = self.config.role if wanted else ""
        try:
            binding = await self.bus.run(
                sessions.begin, client, wanted, self.config.channel, role=role, address=self.address, **said
            )
        except StoreFull:  # no room to note that it listens: it may take part all the same
            found = await self.bus.run(bindings.bound, self.client.key)
            if not found or found.process != self.client.process:
                raise
            return found
        self._listens = True
        return binding

    async def _take(self, wanted: Address) -> Binding:
        binding, _, _ = await self.bus.run(sessions.join, self.client.key, wanted, self.config.role, None)
        await self.bus.run(bindings.forget, self.client.key)  # nobody told the model
        return self.knows(binding)

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

    async def listen_at(self, address: str) -> None:
        """Attach, and have mail announced at `address` from now on; "" for no announcements."""
        self.address, self._listens = address, self._listens and address == self.address
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
        known = self.known
        with self.unless_it_leaves():
            binding = await self.acting(self._beat)
            if known and not binding.registered:
                await self._take_due_name()

    async def _beat(self, bus: SignedBus, binding: Binding) -> Binding:
        await bus.run(sessions.beat, self.client.key)
        return binding

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
            return self.knows(binding)
        binding = await self.attach()
        await observe()
        return binding

    def _sign(self, binding: Binding, *, noted: bool = True) -> SignOfLife:
        return SignOfLife(
            self.client.key,
            self.client.process,
            binding.address,
            binding.registered,
            program=self._unsaid,
            proven=tuple(self.turn.proven),
            lost=tuple(self.turn.lost),
            noted=noted,
        )

    async def acting(self, act: Callable[[SignedBus, Binding], Awaitable[T]]) -> T:
        """Run `act` with the binding, and with a bus that notes a sign of life in the transaction of what it runs.

        That transaction is given up if the store has another binding than was known here. Then `act` is run
        again, with that one. Raises `Displaced` if the session left meanwhile.
        """
        binding = self.known or await self.attach()
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(Displaced):
                return await self._acting_as(binding, act)
            binding = await self.attach()
        return await self._acting_as(binding, act)

    async def _acting_as(self, binding: Binding, act: Callable[[SignedBus, Binding], Awaitable[T]]) -> T:
        try:
            return await act(SignedBus(self, self._sign(binding)), binding)
        except StoreFull:  # no room to note it: calls that only read are answered all the same
            return await act(SignedBus(self, self._sign(binding, noted=False)), binding)

    async def became(self, status: Status, session_id: str = "") -> None:
        """Record another status that the client reported."""
        if not self.absent:
            self.heard()
            with self.unless_it_leaves():
                await self.seen(status=status, session_id=session_id)

    @contextlib.contextmanager
    def unless_it_leaves(self) -> Iterator[None]:
        """Give up what is told of the session if the session leaves at the same time."""
        try:
            yield
        except Displaced:
            if not self.absent:
                raise

    async def introduce(self, program: str) -> None:
        """Record the program and version that the client reported; the next sign of life has it."""
        if program != self._program and not self.absent:
            self._program = self._unsaid = program

    def told(self, sign: SignOfLife) -> None:
        """Record that the store knows this sign of life."""
        if sign.noted:
            self.turn.settle_these(sign.proven, sign.lost)
            if sign.program == self._unsaid:
                self._unsaid = ""

    def heard(self) -> None:
        """Note the time of a call or an event; the next operation tells the store."""
        self._heard = time.monotonic()

    def silent_for(self) -> float:
        """Return the seconds since the last call or event."""
        return time.monotonic() - self._heard
