"""The embedded store for an event loop: one connection on a thread of its own.

A verb is one hop onto that thread. Verbs that have to wait for the thread, which waits for
the disk, are then committed together: all of each happens, or nothing, and none is answered
before it is on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import aiosqlite
import anyio

from ..errors import StoreError
from ..sql.transaction import Transaction
from . import disk, sqlite
from .sqlite import Step

P = ParamSpec("P")
T = TypeVar("T")

AT_ONCE = 50
"""Verbs in one transaction at most: other processes wait for its end."""
_ATTEMPTS = 5
"""Attempts to run a verb on files that are removed or replaced meanwhile."""

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


@dataclass(slots=True)
class _Outcome:
    """The result of a step, or the error that it raised."""

    result: Any = None
    error: Exception | None = None


class _Job:
    """A step to be done on the thread; once it was done, committed or refused, its outcome."""

    def __init__(self, step: Callable[[Any], object]) -> None:
        self.step = step
        """Gets a transaction if it is committed together with others, else the connection."""
        self.outcome: _Outcome | None = None
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def tell(self) -> None:
        """Give the outcome to the one who waits for it, in the event loop."""
        assert self.outcome
        if self.answer.done():
            return
        if self.outcome.error:
            self.answer.set_exception(self.outcome.error)
        else:
            self.answer.set_result(self.outcome.result)


def settle(
    connection: sqlite3.Connection,
    clock: Callable[[], float],
    alive: sqlite.Alive,
    jobs: Sequence[_Job],
) -> None:
    """Do several jobs in one transaction; each in one of its own if the store fails that."""
    if len(jobs) > 1:
        with contextlib.suppress(sqlite3.Error):
            outcomes = sqlite.transact(connection, clock(), alive, _together, [job.step for job in jobs])
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.outcome = outcome
            return
    for job in jobs:
        job.outcome = _outcome(sqlite.transact, connection, clock(), alive, job.step)


def _together(tx: Transaction, verbs: Sequence[Callable[[Transaction], object]]) -> list[_Outcome]:
    return [_apart(tx, verb) for verb in verbs]


def _apart(tx: Transaction, verb: Callable[[Transaction], object]) -> _Outcome:
    """Run a verb among others: all of it happens, or nothing."""
    own = replace(tx, notified=[])
    tx.run("SAVEPOINT verb")
    outcome = _outcome(verb, own)
    if outcome.error:
        tx.run("ROLLBACK TO verb")  # where SQLite has given up the whole transaction this fails, and so do all
    else:
        tx.notify(own.notified)
    tx.run("RELEASE verb")
    return outcome


def _outcome(step: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> _Outcome:
    try:
        return _Outcome(step(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 - whoever asked for it gets it
        return _Outcome(error=error)


class _Changed(Exception):
    """The files are not those that are open; nothing was done."""


class _Worker(aiosqlite.Connection):
    """aiosqlite's connection thread, running a whole verb in one hop.

    Neither the thread nor the event loop is woken for each job: the thread does all that
    wait when it is called, and the loop takes all that is done by the time it wakes up.
    A job raises `_Changed` if `unchanged` is false right before it.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        settle: Callable[[sqlite3.Connection, Sequence[_Job]], None],
        unchanged: Callable[[], bool],
    ) -> None:
        super().__init__(lambda: connection, iter_chunk_size=64)
        self._loop = asyncio.get_running_loop()
        self._settle = settle
        self._unchanged = unchanged
        self._verbs: deque[_Job] = deque()
        """To be committed, together."""
        self._calls: deque[_Job] = deque()
        """To be done by themselves."""
        self._called = False
        """Whether jobs wait that the thread has not begun to do."""
        self._done: deque[_Job] = deque()
        self._waking = False

    async def run(self, step: Callable[[Transaction], object]) -> Any:
        """Run a step in a write transaction, together with those that wait by then."""
        return await self._do(self._verbs, _Job(step))

    async def call(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """Run a step by itself."""
        result: T = await self._do(self._calls, _Job(step))
        return result

    async def unchecked(self, step: Callable[[sqlite3.Connection], object]) -> None:
        """Run a step although the files have changed."""
        await self._execute(step, self._conn)  # type: ignore[no-untyped-call]

    async def _do(self, waiting: deque[_Job], job: _Job) -> Any:
        connection = self._conn  # raises `ValueError` once it is closed
        waiting.append(job)
        if not self._called:
            self._called = True
            self._tx.put_nowait((None, lambda: self._work(connection)))
        return await job.answer

    def _work(self, connection: sqlite3.Connection) -> None:
        """Do the jobs that wait. Runs on the thread; raises nothing, as nobody would hear of it."""
        self._called = False  # whoever comes from now on calls the thread again, perhaps in vain
        while self._calls or self._verbs:
            for job in _taken(self._calls):
                job.outcome = _outcome(self._checked, job.step, connection)
                self._finish([job])
            if jobs := _taken(self._verbs):
                failed = _outcome(self._checked, self._settle, connection, jobs)
                for job in jobs:
                    job.outcome = job.outcome or failed
                self._finish(jobs)

    def _checked(self, act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if not self._unchanged():
            raise _Changed
        return act(*args, **kwargs)

    def _finish(self, jobs: list[_Job]) -> None:
        self._done.extend(jobs)
        if not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and who waited with it
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        """Give out what is done. Runs in the event loop."""
        self._waking = False  # before it looks: the thread wakes it again for what is done from now on
        while self._done:
            self._done.popleft().tell()


def _taken(waiting: deque[_Job]) -> list[_Job]:
    """The jobs that wait, but not too many at once. Only this thread takes any; others come meanwhile."""
    return [waiting.popleft() for _ in range(min(len(waiting), AT_ONCE))]


class Database(sqlite.FileStore):
    """An `engine.Engine` for an event loop: one connection with its thread, opened when first needed.

    Survives what happens to the file: if it is deleted or replaced, the next verb
    opens what is there now, or makes it anew, and the log says so. Every failure is a `StoreError` of that one verb.
    """

    def __init__(
        self, path: Path, busy_timeout: float, *, alive: sqlite.Alive, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(path, busy_timeout, alive=alive, clock=clock)
        self._worker: _Worker | None = None
        self._files: disk.Files | None = None
        self._opening = anyio.Lock(fast_acquire=True)
        self._after: list[Step[[], None]] = []

    async def run(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb; it is never half done, also if the caller is cancelled."""

        def step(tx: Transaction) -> T:
            return verb(tx, *args, **kwargs)

        with anyio.CancelScope(shield=True):
            result: T = await self._call(lambda worker: worker.run(step))
            return result
        raise AssertionError  # a shield swallows nothing; the type checker cannot know

    async def write_relaxed(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb whose effect need not survive a power cut; see `sqlite.transact_relaxed`."""
        return await self._by_itself(sqlite.transact_relaxed, lambda tx: verb(tx, *args, **kwargs))

    async def read(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that seldom writes; see `sqlite.look`."""
        return await self._by_itself(sqlite.look, lambda tx: verb(tx, *args, **kwargs))

    async def read_relaxed(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that seldom writes, and whose effect need not survive a power cut then; see `sqlite.look`."""
        return await self._by_itself(partial(sqlite.look, relaxed=True), lambda tx: verb(tx, *args, **kwargs))

    async def _by_itself(self, way: Callable[..., Any], step: Step[[], T]) -> T:
        def whole(connection: sqlite3.Connection) -> T:
            before = connection.total_changes
            found: T = way(connection, self._clock(), self._alive, step)
            if connection.total_changes != before:  # a reader waits for nobody's lock
                self._committed(connection)
            return found

        with anyio.CancelScope(shield=True):
            return await self._call(lambda worker: worker.call(whole))
        raise AssertionError  # as above

    async def _call(self, ask: Callable[[_Worker], Awaitable[T]]) -> T:
        try:
            for _ in range(_ATTEMPTS):
                with contextlib.suppress(_Changed):
                    return await ask(await self._connected())
                await self._follow()
        except sqlite.FAILURES as error:
            await self._look_again(error)
            raise sqlite.translate(error, self.path) from error
        raise StoreError(f"{self.path} is removed or replaced again and again; nothing was changed")

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

    async def close(self) -> None:
        """Give the connection and its thread back; a later verb opens anew."""
        with anyio.CancelScope(shield=True):
            await self._disconnect()

    def after_commits(self, step: Step[[], None]) -> None:
        """Run a step that only reads, on the thread, after each commit of this process and before its answer."""
        self._after.append(step)

    def _settle(self, connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
        settle(connection, self._clock, self._alive, jobs)
        self._committed(connection)

    def _committed(self, connection: sqlite3.Connection) -> None:
        sqlite.follow_up(connection, self._real)
        for step in self._after:  # what was committed is true, whatever becomes of these
            _outcome(sqlite.look, connection, self._clock(), self._alive, step)

    async def _connected(self) -> _Worker:
        if not self._worker:
            async with self._opening:
                if not self._worker:
                    await self._connect()
        assert self._worker
        return self._worker

    async def _follow(self) -> None:
        """Do what becomes necessary when somebody changed the files of the open database."""
        async with self._opening:
            worker, files = self._worker, self._files
            change = files.change(self.path) if worker and files else "none"
            if not worker or not files or change == "none":  # another call has followed
                return
            _log.warning(_CHANGES[change], self.path)
            if change == "index":
                await worker.unchecked(lambda _: files.forget_index())
            elif change == "log":
                if files.lost:
                    await worker.unchecked(_rescue)
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
        files = disk.Files(self._real)
        worker = _Worker(connection, self._settle, lambda: files.change(self.path) == "none")
        await worker
        self._worker, self._files = worker, files

    async def _disconnect(self) -> None:
        worker, self._worker = self._worker, None
        if worker:
            with contextlib.suppress(sqlite3.Error, ValueError):
                await worker.close()


def _rescue(connection: sqlite3.Connection) -> None:
    """Move a log that no other process can open into the database."""
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
