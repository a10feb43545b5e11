"""Notices of a bus that is served elsewhere: over a line that is kept open."""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from ..drivers.notices import Signal
from ..errors import BusError
from . import connection, http_client

_log = logging.getLogger(__name__)


class RemoteNoticeSocket:
    """Where this process is told that it should look; see `bus.NoticeSocket`."""

    def __init__(self) -> None:
        self.address = f"remote:{uuid.uuid4().hex}"
        self.bell = Signal()

    async def heard(self, patience: float) -> bool:
        return await self.bell.rung(patience)


@asynccontextmanager
async def notice_socket(over: connection.Connection, rang: Callable[[], None]) -> AsyncIterator[RemoteNoticeSocket]:
    """Be told over a line that is opened again when it breaks, for as long as the context lasts.

    `rang` is called at each notice.
    """
    made = RemoteNoticeSocket()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_keep_listening, over, made, rang)
        yield made
        tasks.cancel_scope.cancel()


async def _keep_listening(over: connection.Connection, made: RemoteNoticeSocket, rang: Callable[[], None]) -> None:
    failures = 0
    while True:
        try:
            async for _ in over.rings(made.address):
                failures = 0
                rang()
                made.bell.ring()
        except (*http_client.FAILURES, BusError):
            _log.debug("the ear's line broke")
        pause = connection.BACKOFF[min(failures, len(connection.BACKOFF) - 1)]
        failures += 1
        await over.outage.ends(pause * random.uniform(0.7, 1.3))  # noqa: S311 - not all at once
