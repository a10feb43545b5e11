"""The file system of a database: whether it can hold a bus, and changes to the database's files.

SQLite's log needs locks and memory that processes share through the file system. Without them, SQLite reports
"locked" or "disk I/O error", or nothing at all. So after a failure this module tries both in a file next to the
database.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from pathlib import Path
from typing import Literal

LONGEST_PATH = 500
"""Bytes of a path that SQLite opens on every system: its limit is 512, with the endings of its own files."""
NETWORKS = ("nfs", "cifs", "smb", "afpfs", "webdav", "sshfs", "9p", "virtiofs", "fuse", "ceph", "lustre", "gpfs", "afs")
"""Prefixes of the names of file systems that other machines may also write to."""
ELSEWHERE = "set BUS_DB to a file on a local disk, or BUS_URL to a bus that is served (claude-bus serve)"

_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
"""Errors for lack of memory, space or descriptors, which are temporary and not the file system's fault."""

Identity = tuple[int, int]


def real(path: Path) -> Path:
    """Return the file behind symbolic links: SQLite puts its log next to that."""
    return Path(os.path.realpath(path))


def identity(path: str | Path) -> Identity | None:
    """Return device and inode, which a file keeps when it is renamed; None if it does not exist."""
    try:
        found = os.stat(path)  # noqa: PTH116 - called with every operation
    except OSError:
        return None
    return found.st_dev, found.st_ino


# -- whether a bus can be kept there ---------------------------------------------------------------


def obstacle(path: Path) -> str:
    """Return why there can be no bus at `path`, and what to do; "" if nothing is found. Leaves no file behind."""
    return no_file(path) or _lacking(path)


def no_file(path: Path) -> str:
    """Return why `path` cannot be a database file, and what to do, as far as its file information tells."""
    size = len(os.fsencode(real(path)))
    if size > LONGEST_PATH:
        return f"the path of the database has {size} bytes, and SQLite opens up to {LONGEST_PATH}: shorten BUS_DB"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f"{path} cannot be checked: {reason}; set BUS_DB to another path"
    if stat.S_ISDIR(mode):
        return f"{path} is a folder: let BUS_DB name a file in it, such as {path / 'bus.db'}"
    return "" if stat.S_ISREG(mode) else f"{path} is not a regular file: set BUS_DB to another path"


def may_be_made(path: Path) -> bool:
    """Return whether this user may create a file there, with the folders that it needs."""
    above = next((folder for folder in path.parents if folder.exists()), path)
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def _lacking(path: Path) -> str:
    """Return the first missing feature of the file system, tried in a file next to the database; "" if it has all."""
    probe = f"{path}-probe-{os.urandom(4).hex()}"
    try:
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        return out_of_files(error)  # any other problem is reported when the database is written
    try:
        missing = _locks(descriptor) or _mapping(descriptor)
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(probe)  # noqa: PTH108 - as it was opened
    return f"the file system of {path} {missing}: {ELSEWHERE}" if missing else ""


def _locks(descriptor: int) -> str:
    if sys.platform == "win32":
        return ""
    import fcntl

    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    except OSError as error:
        return (
            ""
            if error.errno in _SCARCE
            else f"has no locks, without which processes cannot share a database ({error.strerror})"
        )
    return ""


def _mapping(descriptor: int) -> str:
    import mmap

    try:
        os.truncate(descriptor, mmap.PAGESIZE)
        mmap.mmap(descriptor, mmap.PAGESIZE).close()
    except OSError as error:
        return "" if error.errno in _SCARCE else f"has no memory that processes can share ({error.strerror})"
    return ""


def out_of_files(error: OSError) -> str:
    """Return the sentence for an error of too many open files; "" for any other error."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return ""
    return f"no more files can be opened here ({error.strerror}): close some, or raise the limit (ulimit -n)"


def no_log(path: Path) -> str:
    """Return the sentence for a file system where SQLite keeps no write-ahead log."""
    return f"SQLite keeps no write-ahead log on the file system of {path}, and the bus needs one: {ELSEWHERE}"


def network(path: Path) -> str:
    """Return the kind of the network file system of `path`, such as "nfs4"; "" for a local one."""
    kind = _kind_of(real(path), _mounts())
    return kind if kind.lower().startswith(NETWORKS) else ""


def _mounts() -> list[tuple[str, str]]:
    """Return all mount points, each with the kind of its file system."""
    import psutil

    try:
        return [(each.mountpoint, each.fstype) for each in psutil.disk_partitions(all=True)]
    except (OSError, RuntimeError, psutil.Error):
        return []


def _kind_of(path: Path, mounts: list[tuple[str, str]]) -> str:
    """Return the kind of the innermost file system; of two at one mount point, the later."""
    above = [(len(Path(point).parts), number) for number, (point, _) in enumerate(mounts) if path.is_relative_to(point)]
    return mounts[max(above)[1]][1] if above else ""


# -- changes to the files of an open database -------------------------------------------------------

Change = Literal["none", "deleted", "replaced", "log", "index"]
"""`log`: the log or its index was removed or replaced. `index`: the index was truncated."""


class Files:
    """The files of an open database, as they were when it was opened. `path` is the file itself, not a link to it."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._names = f"{path}-wal", f"{path}-shm"
        self._database, self._log, self._index = self._now()
        self._index_size = _size(self._names[1])

    def _now(self) -> tuple[Identity | None, Identity | None, Identity | None]:
        log, index = self._names
        return identity(self._path), identity(log), identity(index)

    def change(self, named: Path) -> Change:
        """Return the change since then; `named` is the configured path, which may now be a link to another file."""
        database = identity(named)
        if database != self._database:
            return "replaced" if database else "deleted"
        try:
            index = os.stat(self._names[1])  # noqa: PTH116 - called with every operation
        except OSError:
            return "log" if self._index or identity(self._names[0]) != self._log else "none"
        if (index.st_dev, index.st_ino) != self._index or identity(self._names[0]) != self._log:
            return "log"
        if index.st_size < self._index_size:
            return "index"
        self._index_size = index.st_size
        return "none"

    @property
    def lost(self) -> bool:
        """Whether the log or its index was deleted: only processes that have it open can still read it."""
        return None in self._now()[1:]

    @property
    def same_index(self) -> bool:
        return self._now()[2] == self._index

    def forget_index(self) -> None:
        """Fill the index with zeros to its former length: SQLite then makes it anew from the log.

        A process that touches a truncated part is killed (SIGBUS), and the remaining part alone is misleading.
        """
        with contextlib.suppress(OSError):
            os.truncate(self._names[1], 0)  # by its name: closing the file would release SQLite's locks
            os.truncate(self._names[1], self._index_size)


def _size(path: str) -> int:
    """Return the bytes of a file; -1 if it does not exist."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - called with every operation
    except OSError:
        return -1
