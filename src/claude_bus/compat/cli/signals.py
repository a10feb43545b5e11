"""How a command that runs until it is told to end does end: as well by SIGTERM as by Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable

import anyio


async def until_terminated(work: Awaitable[None]) -> int:
    """Run `work` until SIGTERM, which ends it where it waits; 0 is its exit status then.

    What stands between two waits is never cut in two.
    """
    with anyio.CancelScope() as scope:
        with contextlib.suppress(NotImplementedError):  # Windows has no such signal
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, scope.cancel)
        await work
    return 0
