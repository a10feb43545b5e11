"""Work that may hang, such as access to a file system that does not respond, on threads that block nothing else.

Python's own pools wait for their threads when the process ends. These threads are not waited for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from . import event_loop

GivenUp = Callable[[], bool]
"""Tells whether the caller has stopped waiting for the work."""


class Offload:
    """Runs work on separate threads. No work is started while `most` of them hang."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._hanging = 0
        self._lock = threading.Lock()

    async def run(self, work: Callable[[GivenUp], None], patience: float) -> bool:
        """Return whether the work was done within `patience` seconds. After that, `GivenUp` tells the work to end.

        The work must not raise. It may still run when this returns False, or is cancelled.
        """
        if self._hanging >= self._most:
            return False
        if event_loop.is_running():
            return await self._awaited(work, patience)
        done = threading.Event()
        over = threading.Event()
        thread = self._started(work, over, done.set)
        if not thread:
            return False
        try:
            done.wait(patience)
        finally:
            self._gives_up(over, thread)
        return done.is_set()

    async def _awaited(self, work: Callable[[GivenUp], None], patience: float) -> bool:
        import asyncio

        import anyio

        over, done, loop = threading.Event(), asyncio.Event(), asyncio.get_running_loop()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(done.set)

        thread = self._started(work, over, tell)
        if not thread:
            return False
        try:
            with anyio.move_on_after(patience):
                await done.wait()
        finally:
            self._gives_up(over, thread)
        return done.is_set()

    def _started(
        self, work: Callable[[GivenUp], None], over: threading.Event, tell: Callable[[], None]
    ) -> threading.Thread | None:
        """Start the work on a thread, which calls `tell` at its end; None if the system gives no more threads."""

        def go() -> None:
            try:
                work(over.is_set)
            finally:
                self._ends(over)
                tell()

        thread = threading.Thread(target=go, daemon=True, name="offload")
        try:
            thread.start()
        except RuntimeError:
            return None
        return thread

    def _gives_up(self, over: threading.Event, thread: threading.Thread) -> None:
        with self._lock:
            if not over.is_set() and thread.is_alive():
                over.set()
                self._hanging += 1

    def _ends(self, over: threading.Event) -> None:
        with self._lock:
            if over.is_set():
                self._hanging -= 1
            over.set()
