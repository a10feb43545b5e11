"""What a verb gets: an open write transaction, the time, and who is alive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..model import Process

Row = Mapping[str, Any]
Value = str | int | float | None


class Cursor(Protocol):
    """The part of a DB-API cursor that verbs use."""

    @property
    def rowcount(self) -> int: ...
    @property
    def lastrowid(self) -> int | None: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """The part of a DB-API connection that verbs use; rows answer to column names."""

    def execute(self, sql: str, parameters: Sequence[Value] = ..., /) -> Cursor: ...


@dataclass(frozen=True, slots=True)
class Transaction:
    """One write transaction. A driver opens it, runs one verb in it, and commits.

    `now` is the time of the whole transaction. `alive` tells whether a process still
    runs; for one that cannot be asked after, whether its heartbeat is recent.
    """

    connection: Connection
    now: float
    alive: Callable[[Process, float], bool]

    def run(self, sql: str, *values: Value) -> Cursor:
        """Write. What only reads is asked with one of those below: they need no lock."""
        return self.connection.execute(sql, values)

    def all(self, sql: str, *values: Value) -> list[Row]:
        return self.connection.execute(sql, values).fetchall()

    def one(self, sql: str, *values: Value) -> Row | None:
        row: Row | None = self.connection.execute(sql, values).fetchone()
        return row

    def number(self, sql: str, *values: Value) -> float:
        """The single number a query yields; 0 for no row or NULL."""
        row = self.connection.execute(sql, values).fetchone()
        return (row[0] or 0) if row else 0
