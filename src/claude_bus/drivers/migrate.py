"""Bringing an SQLite file to the current schema, whatever version it has."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from ..errors import StoreCorrupt

VERSION = 7
_ADDITIONS = (
    (4, "migrations/0004_heartbeats_and_unread.sql"),
    (5, "migrations/0005_earlier_mail_and_wakes.sql"),
    (6, "migrations/0006_places_above.sql"),
    (7, "migrations/0007_bounds.sql"),
)
"""What each version since our first added."""
_TABLES = frozenset({"agents", "messages", "state"})


def refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreCorrupt` for a database of another program, before anything is changed."""
    tables = _tables(connection)
    if tables and not tables >= _TABLES:
        raise StoreCorrupt(
            f"{path} is an SQLite database of something else; set BUS_DB to another path", path=str(path)
        )


def migrate(connection: sqlite3.Connection) -> None:
    """Create or upgrade the tables, in one transaction, once among all processes.

    Versions 1 and 2 are the original claude-bus's files; a newer version than ours
    only added things, so it is left alone.
    """
    if _version(connection) >= VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for script in _scripts(connection):
            for statement in _statements(_read(script)):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {max(VERSION, _version(connection))}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _scripts(connection: sqlite3.Connection) -> list[str]:
    """The scripts that are missing, decided inside the write transaction."""
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
    return files("claude_bus.sql").joinpath(script).read_text(encoding="utf-8")


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: `executescript` would commit first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
