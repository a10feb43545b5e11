"""The embedded store for a command, without an event loop: verbs run at once, on a connection of the calling thread."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..model.identity import Process
from ..sql.transaction import Transaction
from . import disk, sqlite
from .sqlite import Step

P = ParamSpec("P")
T = TypeVar("T")


class DirectDatabase:
    """An `engine.Engine` whose coroutines never suspend. The connection is opened when first needed.

    It is for a process that soon ends: if the file is deleted or replaced meanwhile, the verbs
    that follow fail, or go to the file that was there.
    """

    def __init__(
        self,
        path: Path,
        busy_timeout: float,
        *,
        alive: Callable[[Process, float], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._real = disk.real(path)
        self._busy_timeout = busy_timeout
        self._alive = alive
        self._clock = clock
        self._connection: sqlite3.Connection | None = None

    async def run(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb in a transaction that survives a power cut."""
        return self._done(lambda db: sqlite.transact(db, self._clock(), self._alive, verb, *args, **kwargs))

    async def write_relaxed(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb whose effect need not survive a power cut; see `sqlite.transact_relaxed`."""
        return self._done(lambda db: sqlite.transact_relaxed(db, self._clock(), self._alive, verb, *args, **kwargs))

    async def read(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that seldom writes; see `sqlite.look`."""
        return self._done(lambda db: sqlite.look(db, self._clock(), self._alive, verb, *args, **kwargs))

    async def read_relaxed(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that seldom writes; see `sqlite.look_relaxed`."""
        return self._done(lambda db: sqlite.look_relaxed(db, self._clock(), self._alive, verb, *args, **kwargs))

    def _done(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if not self._connection:
                self._connection = sqlite.connect(self.path, self._busy_timeout)
            before = self._connection.total_changes
            result = work(self._connection)
            if self._connection.total_changes != before:
                sqlite.follow_up(self._connection, self._real)
        except sqlite.FAILURES as error:
            raise sqlite.translate(error, self.path) from error
        return result

    def pulse(self) -> object:
        """Changes with every commit of any process: the state of the WAL file."""
        return sqlite.pulse(self._real)

    def after_commits(self, step: Callable[[Transaction], None]) -> None:
        """Nothing that a command runs needs this."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connection; a later verb opens one anew."""
        connection, self._connection = self._connection, None
        if connection:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
