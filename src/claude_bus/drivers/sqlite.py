"""The embedded store: one SQLite file that many processes share.

Every verb runs as one hop onto the connection's thread, inside `BEGIN IMMEDIATE`; one that
only looks takes no lock, so that it waits for nobody who writes, and nobody for it. Verbs
that have to wait for the thread, which waits for the disk, are then committed together:
all of each happens, or nothing, and none is answered before it is on the disk.

Checkpoints: SQLite before 3.51.3 can corrupt a WAL database when two connections
checkpoint while a third writes (the "WAL-reset bug"). So automatic checkpoints are
off, and a checkpoint is made only by a process that holds the write lock meanwhile:
then nobody writes, and nobody else checkpoints.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import aiosqlite
import anyio

from ..errors import (
    InvalidInput,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnsuitable,
)
from ..model.identity import Process
from ..sql import columns
from ..sql.transaction import Cursor, Transaction, Value
from . import disk, notices
from .migrate import migrate, refuse_foreign

P = ParamSpec("P")
T = TypeVar("T")
Step = Callable[Concatenate[Transaction, P], T]
"""A function that is run in a transaction: a verb, or one round it."""

AT_ONCE = 50
"""Verbs in one transaction at most: other processes wait for its end."""
CHECKPOINT_BYTES = 4 * 1024 * 1024
"""Size of the WAL from which a writer moves it into the database."""

_CODES: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreBusy, "another process is writing to {path}; nothing was changed, try again"),
    sqlite3.SQLITE_LOCKED: (StoreBusy, "another process is writing to {path}; nothing was changed, try again"),
    sqlite3.SQLITE_FULL: (StoreFull, "the disk with {path} is full; nothing was changed, free some space"),
    sqlite3.SQLITE_READONLY: (StoreReadOnly, "{path} may not be written; check its permissions, or set BUS_DB"),
    sqlite3.SQLITE_CANTOPEN: (StoreReadOnly, "{path} cannot be opened; check its folder's permissions, or set BUS_DB"),
    sqlite3.SQLITE_PERM: (StoreReadOnly, "{path} may not be written; check its permissions, or set BUS_DB"),
    sqlite3.SQLITE_CORRUPT: (StoreCorrupt, "{path} is damaged; move it away and start anew, or restore a copy"),
    sqlite3.SQLITE_NOTADB: (StoreCorrupt, "{path} is not a database; move it away, or set BUS_DB to another path"),
}
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


def translate(error: sqlite3.Error | OSError, path: Path) -> StoreError:
    """The bus's error for one of SQLite's (by its primary code) or the system's."""
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:  # no room for the index of the WAL
        code = sqlite3.SQLITE_FULL
    if code is not None and code & 0xFF in _CODES:
        kind, message = _CODES[code & 0xFF]
        return kind(message.format(path=path), path=str(path))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(_CODES[sqlite3.SQLITE_FULL][1].format(path=path), path=str(path))
    if isinstance(error, OSError) and (scarce := disk.out_of_files(error)):
        return StoreError(f"{path}: {scarce}", path=str(path))
    if isinstance(error, OSError):
        return StoreReadOnly(f"{path} cannot be created: {error.strerror}; set BUS_DB to another path", path=str(path))
    return StoreError(f"{path}: {error}; nothing was changed", path=str(path))


def connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """Open (or create, private to the user) the file, at the current schema.

    Raises `StoreUnsuitable` where no bus can be kept, besides the errors of SQLite and the system.
    """
    try:
        return _opened(disk.real(path), busy_timeout)
    except (sqlite3.Error, OSError) as error:
        if found := disk.obstacle(path):
            raise StoreUnsuitable(found, path=str(path)) from error
        raise


def _opened(path: Path, busy_timeout: float) -> sqlite3.Connection:
    _create_private(path)
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    try:
        connection.row_factory = sqlite3.Row
        connection.create_function("mentions", 2, columns.mentions, deterministic=True)
        refuse_foreign(connection, path)
        _restrict(path)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")  # a receipt must survive a power cut
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("PRAGMA journal_size_limit = 0")  # the WAL shrinks when it begins anew
        _switch_to_wal(connection, path, busy_timeout)
        migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _create_private(path: Path) -> None:
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _restrict(path: Path) -> None:
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with contextlib.suppress(OSError):  # not there, not ours to restrict, or a system without modes
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


def _switch_to_wal(connection: sqlite3.Connection, path: Path, patience: float) -> None:
    """Enter WAL mode. SQLite does not wait for a lock here, so this does; where it cannot, it says nothing."""
    end = time.monotonic() + patience
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise StoreUnsuitable(disk.no_log(path), path=str(path))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


def transact(
    connection: sqlite3.Connection,
    now: float,
    alive: Callable[[Process, float], bool],
    verb: Step[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run one verb in one write transaction: all of it happens, or nothing. Then tell those who are to be notified."""
    return _transact(Transaction(connection, now, alive), connection, verb, *args, **kwargs)


def _transact(
    tx: Transaction, connection: sqlite3.Connection, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = verb(tx, *args, **kwargs)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    notices.announce(dict.fromkeys(tx.notified))
    return result


class _Writes(Exception):
    """A verb that was to look has something to write."""


class _Looking(Transaction):
    """A transaction that holds no lock, and can therefore not write."""

    def run(self, sql: str, *values: Value) -> Cursor:  # noqa: ARG002 - the base's signature
        raise _Writes


class _MustSync(Exception):
    """A relaxed transaction is about to write rows that have to survive a power cut."""


class _Relaxed(Transaction):
    """A transaction that a power cut may undo."""

    def durable(self) -> None:
        raise _MustSync


def transact_relaxed(
    connection: sqlite3.Connection,
    now: float,
    alive: Callable[[Process, float], bool],
    verb: Step[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Like `transact`, but nothing waits for the disk, unless the verb finds that it has to: then it begins anew."""
    connection.execute("PRAGMA synchronous = NORMAL")
    try:
        return _transact(_Relaxed(connection, now, alive), connection, verb, *args, **kwargs)
    except _MustSync:
        pass
    finally:
        connection.execute("PRAGMA synchronous = FULL")
    return transact(connection, now, alive, verb, *args, **kwargs)


def look(
    connection: sqlite3.Connection,
    now: float,
    alive: Callable[[Process, float], bool],
    verb: Step[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run a verb that seldom writes. If it is about to, it begins anew in a write transaction."""
    try:
        return _look(connection, now, alive, verb, *args, **kwargs)
    except _Writes:
        return transact(connection, now, alive, verb, *args, **kwargs)


def look_relaxed(
    connection: sqlite3.Connection,
    now: float,
    alive: Callable[[Process, float], bool],
    verb: Step[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Like `look`; the write transaction is that of `transact_relaxed`."""
    try:
        return _look(connection, now, alive, verb, *args, **kwargs)
    except _Writes:
        return transact_relaxed(connection, now, alive, verb, *args, **kwargs)


def _look(
    connection: sqlite3.Connection,
    now: float,
    alive: Callable[[Process, float], bool],
    verb: Step[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    connection.execute("BEGIN")
    try:
        return verb(_Looking(connection, now, alive), *args, **kwargs)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def checkpoint_if_large(connection: sqlite3.Connection, path: Path) -> bool:
    """Move a WAL that has grown into the database, holding the write lock meanwhile."""
    try:
        if os.stat(f"{path}-wal").st_size < CHECKPOINT_BYTES:  # noqa: PTH116 - asked with every commit
            return False
    except OSError:
        return False
    return checkpoint(connection, path)


def checkpoint(connection: sqlite3.Connection, path: Path) -> bool:
    """Checkpoint now; False if another process is at work, which is no error."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=0)) as second:
        second.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("BEGIN IMMEDIATE")
        try:
            second.execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            connection.execute("ROLLBACK")
        return True
    return False


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
            outcomes = transact(connection, clock(), alive, _together, [job.verb for job in jobs])
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.outcome = outcome
            return
    for job in jobs:
        job.outcome = _outcome(transact, connection, clock(), alive, job.verb)


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
            checkpoint_if_large(connection, self._real)

        with anyio.CancelScope(shield=True):
            result: T = await self._call(lambda worker: worker.do(job, settled))
            return result
        raise AssertionError  # a shield swallows nothing; the type checker cannot know

    async def write_relaxed(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that notes what a power cut makes untrue: it need not be on the disk before it counts.

        All processes see it at once, and it survives the death of any; the next verb that
        is run otherwise takes it along to the disk.
        """

        def whole(connection: sqlite3.Connection) -> T:
            result = transact_relaxed(connection, self._clock(), self._alive, verb, *args, **kwargs)
            checkpoint_if_large(connection, self._real)
            return result

        with anyio.CancelScope(shield=True):
            return await self._call(lambda worker: worker.call(whole))
        raise AssertionError  # as above

    async def read(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that seldom writes; see `look`."""
        return await self._read(look, verb, *args, **kwargs)

    async def read_relaxed(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Like `read`; what it writes all the same is as with `write_relaxed`."""
        return await self._read(look_relaxed, verb, *args, **kwargs)

    async def _read(self, look: Callable[..., T], verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def whole(connection: sqlite3.Connection) -> T:
            before = connection.total_changes
            found = look(connection, self._clock(), self._alive, verb, *args, **kwargs)
            if connection.total_changes != before:  # a reader waits for nobody's lock
                checkpoint_if_large(connection, self._real)
            return found

        with anyio.CancelScope(shield=True):
            return await self._call(lambda worker: worker.call(whole))
        raise AssertionError  # as above

    async def _call(self, ask: Callable[[_Worker], Awaitable[T]]) -> T:
        try:
            return await ask(await self._connected())
        except UnicodeEncodeError as error:
            raise InvalidInput("text holds half a surrogate pair; send valid Unicode text") from error
        except OverflowError as error:
            raise InvalidInput("a number is too large: no id or version is that high") from error
        except (sqlite3.Error, OSError) as error:
            await self._look_again(error)
            raise translate(error, self.path) from error

    async def _look_again(self, error: sqlite3.Error | OSError) -> None:
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
        connection = await anyio.to_thread.run_sync(connect, self.path, self._busy_timeout)
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
