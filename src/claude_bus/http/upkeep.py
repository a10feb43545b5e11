"""What a server does for its store now and then: without a session on this machine nobody else would."""

from __future__ import annotations

import logging

import anyio

from ..bus import LocalBus
from ..errors import BusError

AFTER = 60.0
"""Seconds after its start: first it answers."""
EVERY = 6 * 3600.0

_log = logging.getLogger(__name__)


async def run(bus: LocalBus) -> None:
    """Have the bus forget what is past its retention, for as long as the server runs."""
    await anyio.sleep(AFTER)
    while True:
        try:
            await bus.prune()
        except BusError as error:
            _log.warning("%s", error)
        await anyio.sleep(EVERY)
