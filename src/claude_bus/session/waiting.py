"""How a session waits for mail, or for a state entry to change."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio

from .. import limits, state_values
from ..errors import StoreFull
from ..model.messages import HandOver
from ..model.state import StateEntry
from ..sql import state
from .membership import Membership
from .presence import SignedBus

_LOOK_EVERY = 2.0
"""Seconds after which a waiting call polls: no notice tells that an entry expired."""


class WaitingCalls:
    """Calls of a session that wait. They are woken by `mail_arrived`."""

    def __init__(self, membership: Membership) -> None:
        self.bus = membership.bus
        self._membership = membership
        self._arrived = anyio.Event()
        self._watched: Counter[tuple[str, str, str]] = Counter()

    def mail_arrived(self) -> None:
        """Make all waiting calls check again, after a notice that mail was stored or an entry changed."""
        self._arrived.set()
        self._arrived = anyio.Event()

    async def for_mail(self, read: Callable[[], Awaitable[HandOver]], timeout: float) -> HandOver:
        """Return the result of `read` as soon as it has messages; nothing after `timeout` seconds."""
        with anyio.move_on_after(timeout):
            while True:
                arrived = self._arrived
                found = await read()
                if found.messages:
                    return found
                await arrived.wait()
        return HandOver((), 0)

    async def for_change(self, key: str, version: int | None, timeout: float) -> list[StateEntry]:
        """Return the entry as soon as its version differs from `version` (by default the current one).

        Returns nothing after `timeout` seconds. An entry that was deleted or expired has no value.
        """
        limits.check_seconds(timeout, "timeout", limits.MAX_WAIT)
        state_values.check_key(key)
        return await self._membership.as_anyone(lambda bus, me: self._changed(bus, me.channel, key, version, timeout))

    async def _changed(
        self, bus: SignedBus, channel: str, key: str, version: int | None, timeout: float
    ) -> list[StateEntry]:
        watched = self._membership.presence.address, channel, key
        self._watched[watched] += 1  # before the first await: a call that ends meanwhile must not remove the watch
        arrived = self._arrived
        try:
            entry = await self._watch(bus, watched)
            if version is not None and entry.version != version:
                return [entry]
            with anyio.move_on_after(timeout):
                return [await self._another(entry, channel, arrived)]
        finally:
            await self._unwatch(watched)
        return []

    async def _watch(self, bus: SignedBus, watched: tuple[str, str, str]) -> StateEntry:
        """Return the entry as it is, and have its changes announced from now on."""
        try:
            return await bus.run(state.watch_from, *watched)
        except StoreFull:  # no room to note it: this looks by itself
            return await bus.run(state.latest, *watched[1:])

    async def _unwatch(self, watched: tuple[str, str, str]) -> None:
        self._watched[watched] -= 1
        if not self._watched[watched]:
            del self._watched[watched]
            with anyio.CancelScope(shield=True), contextlib.suppress(StoreFull):
                await self.bus.run(state.unwatch, *watched)

    async def _another(self, known: StateEntry, channel: str, arrived: anyio.Event) -> StateEntry:
        """Return the entry once its version differs from the known one; `arrived` is set if it may since that look."""
        while True:
            with anyio.move_on_after(_LOOK_EVERY):
                await arrived.wait()
            arrived = self._arrived
            entry = await self.bus.run(state.latest, channel, known.key)
            if entry.version != known.version:
                return entry
