"""The file system that a database lies on: whether a bus can be kept there, and what became of its files.

SQLite's log needs locks and memory that processes share through the file system. Where they are missing SQLite
says "locked" or "disk I/O error", or says nothing at all. So after a failure this module tries both in a file beside
the database.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import stat
import sys
from pathlib import Path
from typing import Literal

LONGEST_PATH = 500
"""Bytes of a path that SQLite opens on every system: its limit is 512, with the endings of its own files."""
NETWORKS = ("nfs", "cifs", "smb", "afpfs", "webdav", "sshfs", "9p", "virtiofs", "fuse", "ceph", "lustre", "gpfs", "afs")
"""How the names of file systems begin that other machines may write to as well."""
ELSEWHERE = "set BUS_DB to a file on a local disk, or BUS_URL to a bus that is served (claude-bus serve)"

_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
"""Errors for lack of memory, space or descriptors, which pass and say nothing of the file system."""

Identity = tuple[int, int]


def real(path: Path) -> Path:
    """The file itself, behind symbolic links: SQLite puts its log beside that."""
    return Path(os.path.realpath(path))


def identity(path: str | Path) -> Identity | None:
    """Device and inode, which a file keeps when it is renamed; None for one that is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116 - asked with every verb
    except OSError:
        return None
    return found.st_dev, found.st_ino


# -- whether a bus can be kept there ---------------------------------------------------------------


def obstacle(path: Path) -> str:
    """Why there can be no bus at `path`, with the way out; "" if nothing is found. Leaves nothing behind."""
    return no_file(path) or _lacking(path)


def no_file(path: Path) -> str:
    """Why `path` cannot be a database file, with the way out, as far as a look at it tells."""
    size = len(os.fsencode(real(path)))
    if size > LONGEST_PATH:
        return f"the path of the database has {size} bytes, and SQLite opens up to {LONGEST_PATH}: shorten BUS_DB"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return f"{path} cannot be looked at: {reason}; set BUS_DB to another path"
    if stat.S_ISDIR(mode):
        return f"{path} is a folder: let BUS_DB name a file in it, such as {path / 'bus.db'}"
    return "" if stat.S_ISREG(mode) else f"{path} is not a regular file: set BUS_DB to another path"


def may_be_made(path: Path) -> bool:
    """Whether this user may make a file there, with the folders that it needs."""
    above = next((folder for folder in path.parents if folder.exists()), path)
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def _lacking(path: Path) -> str:
    """The first need that the file system does not meet, tried in a file beside the database; "" if it meets all."""
    probe = f"{path}-probe-{secrets.token_hex(4)}"
    try:
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        return out_of_files(error)  # of anything else whoever wants to write there is told
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
    try:
        os.truncate(descriptor, mmap.PAGESIZE)
        mmap.mmap(descriptor, mmap.PAGESIZE).close()
    except OSError as error:
        return "" if error.errno in _SCARCE else f"has no memory that processes can share ({error.strerror})"
    return ""


def out_of_files(error: OSError) -> str:
    """The sentence for an error that tells of too many open files; "" for any other."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return ""
    return f"no more files can be opened here ({error.strerror}): close some, or raise the limit (ulimit -n)"


def no_log(path: Path) -> str:
    """The sentence for a file system where SQLite keeps no write-ahead log."""
    return f"SQLite keeps no write-ahead log on the file system of {path}, and the bus needs one: {ELSEWHERE}"


def network(path: Path) -> str:
    """The kind of the network file system that `path` lies on, such as "nfs4"; "" for a local one."""
    kind = _kind_of(real(path), _mounts())
    return kind if kind.lower().startswith(NETWORKS) else ""


def _mounts() -> list[tuple[str, str]]:
    """Where file systems are mounted, each with its kind."""
    import psutil

    try:
        return [(each.mountpoint, each.fstype) for each in psutil.disk_partitions(all=True)]
    except (OSError, RuntimeError, psutil.Error):
        return []


def _kind_of(path: Path, mounts: list[tuple[str, str]]) -> str:
    """The kind of the innermost file system; of two at one place the later."""
    above = [(len(Path(point).parts), number) for number, (point, _) in enumerate(mounts) if path.is_relative_to(point)]
    return mounts[max(above)[1]][1] if above else ""


# -- what became of the files of an open database ----------------------------------------------------

Change = Literal["none", "deleted", "replaced", "log", "index"]
"""`log`: the log or its index was removed or replaced. `index`: the index was cut off."""


class Files:
    """The files of a database that is open, as they were then. `path` is the file itself, no link to it."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._names = f"{path}-wal", f"{path}-shm"
        self._database, self._log, self._index = self._now()
        self._index_size = _size(self._names[1])

    def _now(self) -> tuple[Identity | None, Identity | None, Identity | None]:
        log, index = self._names
        return identity(self._path), identity(log), identity(index)

    def change(self, named: Path) -> Change:
        """The change to them since; `named` is the path that was set, which may be a link to another file now."""
        database, log, index = identity(named), *self._now()[1:]
        if database != self._database:
            return "replaced" if database else "deleted"
        if (log, index) != (self._log, self._index):
            return "log"
        size = _size(self._names[1])
        if size < self._index_size:
            return "index"
        self._index_size = size
        return "none"

    @property
    def lost(self) -> bool:
        """The log or its index has no name any more: only those who have it open can read it."""
        return None in self._now()[1:]

    @property
    def same_index(self) -> bool:
        return self._now()[2] == self._index

    def forget_index(self) -> None:
        """Make the index as long as it was, of zeros: SQLite makes it anew then, from the log.

        A process that touches the part cut off is killed (SIGBUS), and the rest alone is misleading.
        """
        with contextlib.suppress(OSError):
            os.truncate(self._names[1], 0)  # by its name: closing a file gives up SQLite's locks on it
            os.truncate(self._names[1], self._index_size)


def _size(path: str) -> int:
    """Bytes of a file; -1 for one that is not there."""
    try:
        return os.stat(path).st_size  # noqa: PTH116 - asked with every verb
    except OSError:
        return -1
