"""The embedded store: one SQLite file that many processes share. The synchronous core.

Every verb is one transaction, inside `BEGIN IMMEDIATE`; one that only looks takes no lock, so
that it waits for nobody who writes, and nobody for it. `worker` does this for an event loop.

Checkpoints: SQLite before 3.51.3 can corrupt a WAL database when two connections
checkpoint while a third writes (the "WAL-reset bug"). So automatic checkpoints are
off, and a checkpoint is made only by a process that holds the write lock meanwhile:
then nobody writes, and nobody else checkpoints.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from ..errors import (
    BusError,
    InvalidInput,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnsuitable,
)
from ..model.identity import Process
from ..sql.transaction import Cursor, Transaction, Value
from . import announcing, disk
from .migrate import migrate, refuse_foreign

P = ParamSpec("P")
T = TypeVar("T")
Step = Callable[Concatenate[Transaction, P], T]
"""A function that is run in a transaction: a verb, or one round it."""
Alive = Callable[[Process, float], bool]
"""Tells whether a process runs; see `Transaction`."""

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
FAILURES = (sqlite3.Error, OSError, UnicodeEncodeError, OverflowError)
"""Errors of connecting and of transactions besides the bus's own; `translate` makes one of those of each."""


def translate(error: Exception, path: Path) -> BusError:
    """The bus's error for one of `FAILURES`: one of SQLite's (by its primary code), the system's, or of a value."""
    if isinstance(error, UnicodeEncodeError):
        return InvalidInput("text holds half a surrogate pair; send valid Unicode text")
    if isinstance(error, OverflowError):
        return InvalidInput("a number is too large: no id or version is that high")
    return _of_the_store(error, path)


def _of_the_store(error: Exception, path: Path) -> StoreError:
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
    alive: Alive,
    verb: Step[P, T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run one verb in one write transaction: all of it happens, or nothing. Then tell those who are to be notified."""
    return _transact(Transaction(connection, now, alive), connection, lambda tx: verb(tx, *args, **kwargs))


def _transact(tx: Transaction, connection: sqlite3.Connection, step: Step[[], T]) -> T:
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = step(tx)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    announcing.announce(dict.fromkeys(tx.notified))
    return result


class _MustSync(Exception):
    """A relaxed transaction is about to write rows that have to survive a power cut."""


class _Relaxed(Transaction):
    """A transaction that a power cut may undo."""

    def durable(self) -> None:
        raise _MustSync


def transact_relaxed(connection: sqlite3.Connection, now: float, alive: Alive, step: Step[[], T]) -> T:
    """Run a step that notes what a power cut makes untrue: it need not be on the disk before it counts.

    All processes see it at once, and it survives the death of any; the next step that is run otherwise takes it along
    to the disk. If the step finds that what it writes has to survive, it begins anew as in `transact`.
    """
    connection.execute("PRAGMA synchronous = NORMAL")
    try:
        return _transact(_Relaxed(connection, now, alive), connection, step)
    except _MustSync:
        pass
    finally:
        connection.execute("PRAGMA synchronous = FULL")
    return transact(connection, now, alive, step)


class _Writes(Exception):
    """A step that was to look has something to write."""


class _Looking(Transaction):
    """A transaction that holds no lock, and can therefore not write."""

    def run(self, sql: str, *values: Value) -> Cursor:  # noqa: ARG002 - the base's signature
        raise _Writes


def look(connection: sqlite3.Connection, now: float, alive: Alive, step: Step[[], T], *, relaxed: bool = False) -> T:
    """Run a step that seldom writes. If it is about to, it begins anew in a write transaction, which may be relaxed."""
    connection.execute("BEGIN")
    try:
        return step(_Looking(connection, now, alive))
    except _Writes:
        pass
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return (transact_relaxed if relaxed else transact)(connection, now, alive, step)


class FileStore:
    """The part of a store in one file that is the same on any thread: where it is, and the facts of a transaction."""

    def __init__(
        self, path: Path, busy_timeout: float, *, alive: Alive, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = path
        self._real = disk.real(path)
        self._busy_timeout = busy_timeout
        self._alive = alive
        self._clock = clock

    def pulse(self) -> object:
        """A value that changes with every commit of any process; see `sqlite.pulse`."""
        return pulse(self._real)


def pulse(path: Path) -> object:
    """A cheap value that changes with every commit of any process: the state of the WAL file; see `follow_up`."""
    try:
        found = os.stat(f"{path}-wal")  # noqa: PTH116 - asked with every request
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def follow_up(connection: sqlite3.Connection, path: Path) -> None:
    """Do what follows a commit: change the pulse, and move a WAL that has grown into the database.

    The log changes when it is written, and the commit is seen by others only later, once it is on the disk. Somebody
    who looked in between has seen the new pulse and the old content, so the pulse changes once more now. The time is
    given in full: the system's own may be that of the write, as its clock for files moves in steps of milliseconds.
    """
    now = time.time_ns()
    with contextlib.suppress(OSError):  # it was removed, or belongs to another user
        os.utime(f"{path}-wal", ns=(now, now))
    checkpoint_if_large(connection, path)


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
