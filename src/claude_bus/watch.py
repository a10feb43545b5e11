"""How a session waits for a state entry to change."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable

import anyio

from .bus import Bus
from .errors import StoreFull
from .model import StateEntry
from .sql import state

_LOOK_EVERY = 2.0
"""Seconds after which one who waits looks by itself: nobody tells when an entry runs out."""


class Watch:
    """The entries that one session waits for. `arrival` is what is set when it is told that something changed."""

    def __init__(self, bus: Bus, arrival: Callable[[], anyio.Event]) -> None:
        self._bus = bus
        self._arrival = arrival
        self._waiting: Counter[tuple[str, str, str]] = Counter()

    async def change(
        self, address: str, channel: str, key: str, version: int | None, timeout: float
    ) -> list[StateEntry]:
        """See `Session.wait_for_change`; a change is announced at `address`."""
        known = (await self._entry(channel, key)).version if version is None else version
        watched = address, channel, key
        self._waiting[watched] += 1  # before anything is awaited: whoever ends meanwhile leaves the watch alone
        try:
            with contextlib.suppress(StoreFull):  # no room to note it: this looks by itself
                await self._bus.run(state.watch, *watched)
            with anyio.move_on_after(timeout):
                return [await self._another(channel, key, known)]
        finally:
            self._waiting[watched] -= 1
            if not self._waiting[watched]:
                del self._waiting[watched]
                with anyio.CancelScope(shield=True), contextlib.suppress(StoreFull):
                    await self._bus.run(state.unwatch, *watched)
        return []

    async def _another(self, channel: str, key: str, known: int) -> StateEntry:
        """The entry, once its version is another than `known`."""
        while True:
            arrived = self._arrival()
            entry = await self._entry(channel, key)
            if entry.version != known:
                return entry
            with anyio.move_on_after(_LOOK_EVERY):
                await arrived.wait()

    async def _entry(self, channel: str, key: str) -> StateEntry:
        """The entry; for a deleted one its deletion, for one that ran out or never was version 0."""
        entry = await self._bus.run(state.get_state, channel, key)
        last = [] if entry else await self._bus.run(state.history, channel, key, 1)
        deleted = last[0] if last and last[0].value is None else None
        return entry or deleted or StateEntry(key, None, 0, "", 0.0)
