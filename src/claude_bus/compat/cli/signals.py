"""Ending a command that runs until it is stopped, by SIGTERM as well as by Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable

import anyio


async def until_terminated(work: Awaitable[None]) -> int:
    """Run `work` until SIGTERM, which ends it at its next wait; the exit status is 0 then.

    Code between two waits is never interrupted.
    """
    with anyio.CancelScope() as scope:
        with contextlib.suppress(NotImplementedError):  # Windows has no such signal
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, scope.cancel)
        await work
    return 0
