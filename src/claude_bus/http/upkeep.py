"""What a server does now and then, whoever calls: it forgets what is over, and says that it lives."""

from __future__ import annotations

import logging

import anyio

from ..doorbell import HEARTBEAT_EVERY, PRUNE_EVERY
from ..errors import BusError
from ..local import LocalBus

_log = logging.getLogger(__name__)


async def keep_up(bus: LocalBus, beat: float = HEARTBEAT_EVERY, prune: float = PRUNE_EVERY) -> None:
    """Run for as long as the server does; first when it has settled. Both intervals are seconds."""
    due = anyio.current_time() + beat
    while True:
        await anyio.sleep(beat)
        try:
            await bus.heartbeat("")  # of what listens for all mail, lest servers elsewhere take it for dead
            if anyio.current_time() >= due:
                due = anyio.current_time() + prune
                await bus.prune()
        except BusError as error:
            _log.debug("upkeep: %s", error)  # the next round comes
