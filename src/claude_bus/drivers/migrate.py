"""Bringing an SQLite file to the current schema, from any earlier version."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import StoreCorrupt

VERSION = 8
_ADDITIONS = (
    (4, "migrations/0004_heartbeats_and_unread.sql"),
    (5, "migrations/0005_earlier_mail_and_wakes.sql"),
    (6, "migrations/0006_places_above.sql"),
    (7, "migrations/0007_bounds.sql"),
    (8, "migrations/0008_search.sql"),
)
"""Scripts by the schema version that they lead to."""
OURS = 3
"""The first version that is not the original's."""
_TABLES = frozenset({"agents", "messages", "state"})


def has_tables(connection: sqlite3.Connection) -> bool:
    return bool(_tables(connection))


def is_foreign(connection: sqlite3.Connection) -> bool:
    """Return whether it is a database of another program."""
    tables = _tables(connection)
    return bool(tables) and not tables >= _TABLES


def refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreCorrupt` for a database of another program, before anything is changed."""
    if is_foreign(connection):
        raise StoreCorrupt(
            f"{path} is an SQLite database of something else; set BUS_DB to another path", path=str(path)
        )


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Create or upgrade the tables, in one transaction, once among all processes.

    Versions 1 and 2 are files of the original claude-bus; a copy of such a file is kept next to
    `path`. A version newer than `VERSION` only adds things, so it is not changed.
    """
    if _version(connection) >= VERSION:
        return
    from .original import keep_copy, rename_unusable

    copy: Path | None = None
    renamed: dict[str, str] = {}
    connection.execute("BEGIN IMMEDIATE")
    try:
        taken_over = _version(connection) < OURS and has_tables(connection)
        copy = keep_copy(path, _version(connection)) if taken_over else None
        for script in _scripts(connection):
            for statement in _statements(_read(script)):
                connection.execute(statement)
        renamed = rename_unusable(connection) if taken_over else {}
        connection.execute(f"PRAGMA user_version = {max(VERSION, _version(connection))}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if copy:
            copy.unlink(missing_ok=True)
        raise
    _tell(path, copy, renamed)


def _tell(path: Path, copy: Path | None, renamed: Mapping[str, str]) -> None:
    import logging

    log = logging.getLogger(__name__)
    if copy:
        log.warning("%s is the original claude-bus's and was taken over; a copy as it was is in %s", path, copy)
    for old, new in renamed.items():
        log.warning("%s: the name %a is not valid here, it is '%s' now, with its mail", path, old, new)


def _scripts(connection: sqlite3.Connection) -> list[str]:
    """Return the scripts still to run, decided inside the write transaction."""
    version = _version(connection)
    if version >= VERSION:
        return []  # another process was faster
    if version >= 3:
        return [script for since, script in _ADDITIONS if since > version]
    if not _tables(connection):
        return ["schema.sql"]
    first = [] if _has_column(connection, "state", "version") else ["migrations/0002_versioned_state.sql"]
    return [*first, "migrations/0003_set_aside.sql", "schema.sql", "migrations/0003_take_over.sql"]


def _tables(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite@_%' ESCAPE '@'"
    )
    return {row[0] for row in rows}


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _has_column(connection: sqlite3.Connection, table: str, column: str) -> bool:
    return any(row[1] == column for row in connection.execute(f"PRAGMA table_info({table})"))


def _read(script: str) -> str:
    from importlib.resources import files  # it loads much, and a start seldom needs it

    return files("claude_bus.sql").joinpath(script).read_text(encoding="utf-8")


def _statements(script: str) -> Iterator[str]:
    """Yield the statements of a script one by one, because `executescript` would commit first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
