"""The embedded store for a command, without an event loop: verbs run at once, on a connection of the calling thread."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from . import sqlite
from .sqlite import Step

P = ParamSpec("P")
T = TypeVar("T")


class DirectDatabase(sqlite.FileStore):
    """An `engine.Engine` whose coroutines never suspend. The connection is opened when first needed.

    It is for a process that soon ends: if the file is deleted or replaced meanwhile, the verbs
    that follow fail, or go to the file that was there.
    """

    _connection: sqlite3.Connection | None = None

    async def run(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb in a transaction that survives a power cut."""
        return self._done(sqlite.transact, lambda tx: verb(tx, *args, **kwargs))

    async def write_relaxed(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb whose effect need not survive a power cut; see `sqlite.transact_relaxed`."""
        return self._done(sqlite.transact_relaxed, lambda tx: verb(tx, *args, **kwargs))

    async def read(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that seldom writes; see `sqlite.look`."""
        return self._done(sqlite.look, lambda tx: verb(tx, *args, **kwargs))

    async def read_relaxed(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that seldom writes, and whose effect need not survive a power cut then; see `sqlite.look`."""
        return self._done(partial(sqlite.look, relaxed=True), lambda tx: verb(tx, *args, **kwargs))

    def _done(self, way: Callable[..., Any], step: Step[[], T]) -> T:
        try:
            if not self._connection:
                self._connection = sqlite.connect(self.path, self._busy_timeout)
            before = self._connection.total_changes
            result: T = way(self._connection, self._clock(), self._alive, step)
            if self._connection.total_changes != before:
                sqlite.follow_up(self._connection, self._real)
        except sqlite.FAILURES as error:
            raise sqlite.translate(error, self.path) from error
        return result

    def after_commits(self, step: Step[[], None]) -> None:
        """Nothing that a command runs needs this."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connection; a later verb opens one anew."""
        connection, self._connection = self._connection, None
        if connection:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
