"""The periodic work of a server: pruning, and the heartbeat."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from ..errors import BusError
from ..local import LocalBus
from ..session.doorbell import HEARTBEAT_EVERY, PRUNE_EVERY
from ..sql import sessions

_log = logging.getLogger(__name__)


AGAIN = 1.0
"""Seconds after which what failed begins anew."""
INDEXED_AT_ONCE = 100
"""Steps of the index for search between two heartbeats."""
PAUSE = 0.2
"""Seconds between two of them."""


async def run_for_good(run: Callable[[], Awaitable[None]]) -> None:
    """Run what goes on beside the requests, for as long as the server does.

    The edge of the process: what fails there, be it by a defect of ours, is for the log.
    It must end neither the rest, nor the server by halves: no session would be woken again.
    """
    while True:
        try:
            await run()
        except Exception:  # noqa: BLE001 - see above
            _log.exception("what goes on beside the requests failed; it begins anew")
        await anyio.sleep(AGAIN)


async def run_upkeep(bus: LocalBus, beat: float = HEARTBEAT_EVERY, prune: float = PRUNE_EVERY) -> None:
    """Run for as long as the server does; first when it has settled. Both intervals are seconds."""
    due = anyio.current_time() + beat
    while True:
        await anyio.sleep(beat)
        try:
            await bus.run(sessions.beat, "")  # of what listens for all mail, lest servers elsewhere take it for dead
            if anyio.current_time() >= due:
                due = anyio.current_time() + prune
                await bus.prune()
            await _index(bus)
        except BusError as error:
            _log.debug("upkeep: %s", error)  # the next round comes


async def _index(bus: LocalBus) -> None:
    """Index what was sent, with pauses in which others can write."""
    for _ in range(INDEXED_AT_ONCE):
        if not await bus.index():
            return
        await anyio.sleep(PAUSE)
