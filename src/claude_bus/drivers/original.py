"""Taking over a file of the original claude-bus: keeps a copy, and makes its names valid."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from pathlib import Path

from .. import addresses, names
from ..errors import InvalidInput

_NAMES = """
SELECT name FROM agents
UNION SELECT sender FROM messages WHERE sender <> ''
UNION SELECT owner FROM claims
ORDER BY 1
"""


def keep_copy(path: Path, version: int) -> Path:
    """Copy the database, as it was before the open transaction, into a file next to it; return the copy's path."""
    copy = _new_file(f"{path}.version-{version or 1}")
    try:
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.execute("PRAGMA wal_autocheckpoint = 0")
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE").fetchall()  # a single file, complete by itself
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    return copy


def _new_file(name: str) -> Path:
    """Create an empty file that only this user can read, under the name or the first free one like it."""
    for number in itertools.count():
        path = Path(f"{name}.{number}" if number else name)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            return path
    raise AssertionError  # the names never run out


def rename_unusable(connection: sqlite3.Connection) -> dict[str, str]:
    """Give agents with an invalid name a valid one, and update all that refers to them; return new names by old ones.

    A sender to the old name is told the new one, if the old name can be written at all (`formerly`).
    """
    taken = {row[0] for row in connection.execute(_NAMES)}
    renamed = {name: "" for name in sorted(taken) if not _is_valid(name)}
    for old in renamed:
        renamed[old] = new = _usable(old, taken)
        taken.add(new)
        connection.execute("UPDATE agents SET name = ?, formerly = ? WHERE name = ?", (new, old, old))
        connection.execute("UPDATE messages SET sender = ? WHERE sender = ?", (new, old))
        if old not in names.BROADCASTS:
            connection.execute("UPDATE messages SET recipient = ? WHERE recipient = ?", (new, old))
        connection.execute("UPDATE state SET updated_by = ? WHERE updated_by = ?", (new, old))
    return renamed


def _is_valid(name: str) -> bool:
    try:
        names.check_name(name)
    except InvalidInput:
        return False
    return True


def _usable(name: str, taken: set[str]) -> str:
    """Return a valid name like this one that is free."""
    base = addresses.folder_name(name, "")
    made = (base if number == 1 else f"{base[: names.MAX_NAME - 6]}-{number}" for number in itertools.count(1))
    return next(each for each in made if each not in taken and _is_valid(each))
