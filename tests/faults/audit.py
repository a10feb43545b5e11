"""The changes in the store, in order: triggers record each one within the transaction that makes it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from claude_bus.drivers import sqlite

_NOW = "(julianday('now') - 2440587.5) * 86400.0"
"""The machine's own clock, which the campaign does not falsify; accurate to about a millisecond."""

_BY = "CASE COALESCE({row}.handed_by, '') WHEN '' THEN 'retained ' || {row}.retained ELSE {row}.handed_by END"
"""Of a delivery: the process that handed it over, or before that, whether it is news to its recipient."""
_DELIVERY = f"{{row}}.message, {{row}}.recipient, {{row}}.state, {{row}}.attempts, {_BY}"
_CLAIM = "{row}.shared, {row}.owner, {row}.path, 0, {row}.scope"
_BINDING = "{row}.pid, {row}.agent, '', 0, {row}.client"
_LISTENER = "{row}.pid, {row}.client, '', 0, {row}.host || ':' || {row}.pid || ':' || printf('%.2f', {row}.started)"
_WATCHED = {
    "deliveries": (_DELIVERY, "state, recipient, attempts"),
    "claims": (_CLAIM, "owner, shared"),
    "bindings": (_BINDING, "agent"),
    "listeners": (_LISTENER, "client"),
}


_MARK = re.compile("^@[^@]*@")


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one row. The meaning of `number` to `by` depends on the table; see above."""

    n: int
    t: float
    table: str
    change: str
    row: int
    number: int
    name: str
    state: str
    attempts: int
    by: str


def install(path: Path) -> None:
    """Create the bus file with the triggers that record its changes."""
    with closing(sqlite.connect(path, 10.0)) as connection:
        connection.execute(
            "CREATE TABLE faults_audit (n INTEGER PRIMARY KEY AUTOINCREMENT, t REAL, tbl TEXT, change TEXT, "
            "row INTEGER, number INTEGER, name TEXT, state TEXT, attempts INTEGER, by TEXT)"
        )
        for table, (columns, updated) in _WATCHED.items():
            for change, row in (("INSERT", "NEW"), (f"UPDATE OF {updated}", "NEW"), ("DELETE", "OLD")):
                word = change.split()[0].lower()
                connection.execute(
                    f"CREATE TRIGGER faults_{table}_{word} AFTER {change} ON {table} BEGIN "
                    "INSERT INTO faults_audit (t, tbl, change, row, number, name, state, attempts, by) "
                    f"VALUES ({_NOW}, '{table}', '{word}', {row}.rowid, {columns.format(row=row)}); END"
                )


@dataclass(frozen=True)
class Evidence:
    """The contents of the file at the end of the round."""

    steps: list[Step]
    messages: dict[int, sqlite3.Row]
    deliveries: list[sqlite3.Row]
    history: list[sqlite3.Row]
    state: list[sqlite3.Row]
    problems: list[str]


def collect(path: Path) -> Evidence:
    with closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        return Evidence(
            steps=_in_order([_step(row) for row in db.execute("SELECT * FROM faults_audit ORDER BY n")]),
            messages={row["id"]: row for row in db.execute("SELECT * FROM messages")},
            deliveries=_all(db, "SELECT rowid AS row, * FROM deliveries ORDER BY message, recipient"),
            history=_all(db, "SELECT * FROM state_history ORDER BY key, version"),
            state=_all(db, "SELECT * FROM state"),
            problems=_problems(db),
        )


def _in_order(steps: Sequence[Step]) -> list[Step]:
    """Return the steps, those of one statement by their numbers: SQLite updates its rows in an order of its own.

    Within a statement the time does not change.
    """
    groups = groupby(steps, key=lambda step: (step.t, step.table, step.change))
    return [step for _, group in groups for step in sorted(group, key=lambda step: step.number or 0)]


def _step(row: sqlite3.Row) -> Step:
    """Build a step. Remote agents get the same identifiers as local ones, without the prefix that the served bus
    adds.
    """
    found = Step(*row)
    return replace(found, by=_MARK.sub("", found.by or ""))


def _all(db: sqlite3.Connection, sql: str) -> list[sqlite3.Row]:
    found: Sequence[sqlite3.Row] = db.execute(sql).fetchall()
    return list(found)


def _problems(db: sqlite3.Connection) -> list[str]:
    """Faults that SQLite's own checks find in the file."""
    integrity = [row[0] for row in db.execute("PRAGMA integrity_check")]
    keys = [f"a row of {row[0]} refers to no row of {row[2]}" for row in db.execute("PRAGMA foreign_key_check")]
    return [problem for problem in integrity if problem != "ok"] + keys
