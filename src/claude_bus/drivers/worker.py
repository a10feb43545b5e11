"""The embedded store for an event loop: one connection on a thread of its own.

A verb is one hop onto that thread. Verbs that have to wait for the thread, which waits for
the disk, are then committed together: all of each happens, or nothing, and none is answered
before it is on the disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import aiosqlite
import anyio

from ..model.identity import Process
from ..sql.transaction import Transaction
from . import disk, sqlite
from .sqlite import Step

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 50
"""Verbs in one transaction at most: other processes wait for its end."""

_log = logging.getLogger(__name__)

_DELETED = "%s was deleted while it was in use: a new bus begins there, and what was on the old one is gone with it"
_REPLACED = "%s was replaced while it was in use: what is there now is the bus"
_LOG_GONE = "the log of %s was removed or replaced while it was in use; it is opened anew"
_INDEX_CUT = "the index of the log of %s was cut off while it was in use; it is made anew"

_CHANGES: dict[disk.Change, str] = {
    "deleted": _DELETED,
    "replaced": _REPLACED,
    "log": _LOG_GONE,
    "index": _INDEX_CUT,
}
_OF_THE_FILE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_READONLY)
"""Errors after which the file is opened anew: it may lie elsewhere now, or be mended."""


class _Job:
    """A verb to be run, and once it was committed or refused what came of it."""

    def __init__(self, verb: Callable[[Transaction], object]) -> None:
        self.verb = verb
        self.outcome: Future[Any] | None = None


def settle(
    connection: sqlite3.Connection,
    clock: Callable[[], float],
    alive: Callable[[Process, float], bool],
    jobs: Sequence[_Job],
) -> None:
    """Do several jobs in one transaction; each in one of its own if the store fails that."""
    if len(jobs) > 1:
        with contextlib.suppress(sqlite3.Error):
            outcomes = sqlite.transact(connection, clock(), alive, _together, [job.verb for job in jobs])
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.outcome = outcome
            return
    for job in jobs:
        job.outcome = _outcome(sqlite.transact, connection, clock(), alive, job.verb)


def _together(tx: Transaction, verbs: Sequence[Callable[[Transaction], object]]) -> list[Future[Any]]:
    return [_apart(tx, verb) for verb in verbs]


def _apart(tx: Transaction, verb: Callable[[Transaction], object]) -> Future[Any]:
    """Run a verb among others: all of it happens, or nothing."""
    own = replace(tx, notified=[])
    tx.run("SAVEPOINT verb")
    outcome = _outcome(verb, own)
    if outcome.exception():
        tx.run("ROLLBACK TO verb")  # where SQLite has given up the whole transaction this fails, and so do all
    else:
        tx.notify(own.notified)
    tx.run("RELEASE verb")
    return outcome


def _outcome(step: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Future[Any]:
    outcome: Future[Any] = Future()
    try:
        outcome.set_result(step(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 - whoever asked for it gets it
        outcome.set_exception(error)
    return outcome


class _Worker(aiosqlite.Connection):
    """aiosqlite's connection thread, running a whole verb in one hop."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(lambda: connection, iter_chunk_size=64)
        self._waiting: deque[_Job] = deque()

    async def do(self, job: _Job, settle: Callable[[sqlite3.Connection, Sequence[_Job]], None]) -> Any:
        """Have a job done by `settle`, with those that have come by then; its outcome."""
        self._waiting.append(job)

        def done(connection: sqlite3.Connection) -> Any:
            if not job.outcome:  # it was not taken along, so it is the first that waits
                settle(connection, [self._waiting.popleft() for _ in range(min(len(self._waiting), AT_ONCE))])
            assert job.outcome
            return job.outcome.result()

        return await self.call(done)

    async def call(self, function: Callable[[sqlite3.Connection], T]) -> T:
        result: T = await self._execute(function, self._conn)  # type: ignore[no-untyped-call]
        return result


class Database:
    """The asynchronous side: one connection with its thread, opened when first needed.

    Survives what happens to the file: if it is deleted or replaced, the next verb
    opens what is there now, or makes it anew, and the log says so. Every failure is a `StoreError` of that one verb.
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
        self._worker: _Worker | None = None
        self._files: disk.Files | None = None
        self._opening = anyio.Lock(fast_acquire=True)

    async def run(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb; it is never half done, also if the caller is cancelled."""
        job = _Job(lambda tx: verb(tx, *args, **kwargs))

        def settled(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
            settle(connection, self._clock, self._alive, jobs)
            sqlite.checkpoint_if_large(connection, self._real)

        with anyio.CancelScope(shield=True):
            result: T = await self._call(lambda worker: worker.do(job, settled))
            return result
        raise AssertionError  # a shield swallows nothing; the type checker cannot know

    async def write_relaxed(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb whose effect need not survive a power cut; see `sqlite.transact_relaxed`."""

        def whole(connection: sqlite3.Connection) -> T:
            result = sqlite.transact_relaxed(connection, self._clock(), self._alive, verb, *args, **kwargs)
            sqlite.checkpoint_if_large(connection, self._real)
            return result

        with anyio.CancelScope(shield=True):
            return await self._call(lambda worker: worker.call(whole))
        raise AssertionError  # as above

    async def read(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that seldom writes; see `sqlite.look`."""

        def whole(connection: sqlite3.Connection) -> T:
            before = connection.total_changes
            found = sqlite.look(connection, self._clock(), self._alive, verb, *args, **kwargs)
            if connection.total_changes != before:  # a reader waits for nobody's lock
                sqlite.checkpoint_if_large(connection, self._real)
            return found

        with anyio.CancelScope(shield=True):
            return await self._call(lambda worker: worker.call(whole))
        raise AssertionError  # as above

    async def _call(self, ask: Callable[[_Worker], Awaitable[T]]) -> T:
        try:
            return await ask(await self._connected())
        except sqlite.FAILURES as error:
            await self._look_again(error)
            raise sqlite.translate(error, self.path) from error

    async def _look_again(self, error: Exception) -> None:
        """Open the file anew next time if the error tells that it, or its log, is not what it was."""
        if not isinstance(error, sqlite3.DatabaseError):
            return
        code = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_IOERR_SHMSIZE:
            return
        if code == sqlite3.SQLITE_IOERR_SHORT_READ and self._files:
            self._files.forget_index()  # it tells of more than there is of the log
        if not isinstance(error, sqlite3.OperationalError) or code & 0xFF in _OF_THE_FILE:
            await self._disconnect()

    def pulse(self) -> object:
        """Changes with every commit of any process: the state of the WAL file."""
        try:
            found = os.stat(f"{self._real}-wal")  # noqa: PTH116 - asked with every request
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    async def close(self) -> None:
        """Give the connection and its thread back; a later verb opens anew."""
        with anyio.CancelScope(shield=True):
            await self._disconnect()

    async def _connected(self) -> _Worker:
        async with self._opening:
            if self._worker and self._files:
                await self._follow(self._worker, self._files, self._files.change(self.path))
            if not self._worker:
                await self._connect()
            assert self._worker
            return self._worker

    async def _follow(self, worker: _Worker, files: disk.Files, change: disk.Change) -> None:
        """Do what becomes necessary when somebody changed the files of the open database."""
        if change == "none":
            return
        _log.warning(_CHANGES[change], self.path)
        if change == "index":
            files.forget_index()
        elif change == "log":
            if files.lost:
                await worker.call(_rescue)
            await self._reopen(worker, files)
        else:
            await self._disconnect()

    async def _reopen(self, worker: _Worker, files: disk.Files) -> None:
        """Open the new log.

        SQLite would move the old one into the database once no connection has it open. So the new connection comes
        first, unless it would get the index of the old one.
        """
        if files.same_index:
            await self._connect()
            with contextlib.suppress(sqlite3.Error, ValueError):
                await worker.close()
        else:
            await self._disconnect()

    async def _connect(self) -> None:
        # Opened before aiosqlite has it: its thread does not survive a failure to open.
        self._real = disk.real(self.path)
        connection = await anyio.to_thread.run_sync(sqlite.connect, self.path, self._busy_timeout)
        worker = _Worker(connection)
        await worker
        self._worker, self._files = worker, disk.Files(self._real)

    async def _disconnect(self) -> None:
        worker, self._worker = self._worker, None
        if worker:
            with contextlib.suppress(sqlite3.Error, ValueError):
                await worker.close()


def _rescue(connection: sqlite3.Connection) -> None:
    """Move a log that no other process can open into the database."""
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
