"""The transaction that a verb gets: its connection, the time, who is alive, and on whose behalf it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol, TypeVar

from ..model.identity import Address, Process
from ..model.tokens import UNRESTRICTED, Grant
from ..records import record

T = TypeVar("T")
Row = Mapping[str, Any]
Value = str | int | float | None

AT_ONCE = 500
"""Items that one statement is given: SQLite takes a few thousand values, on every system."""


def listed(count: int, width: int = 1) -> str:
    """The parameters of a list in a statement: `?, ?` for `IN (...)`, or rows `(?, ?), (?, ?)` for `VALUES`."""
    return ", ".join([f"({', '.join('?' * width)})" if width > 1 else "?"] * count)


def among(columns: str, count: int) -> str:
    """The condition that some columns are those of one of `count` rows of values.

    SQLite looks rows up by an index only if the list is a simple SELECT.
    """
    width = columns.count(",") + 1
    if count == 1:
        return f"({columns}) = {listed(1, width)}"
    return f"({columns}) IN (SELECT * FROM (VALUES {listed(count, width)}) AS those)"


def at_once(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """The items in lists that are short enough for one statement each."""
    if len(items) <= AT_ONCE:
        return iter([items] if items else [])
    return (items[at : at + AT_ONCE] for at in range(0, len(items), AT_ONCE))


def spread(rows: Iterable[Iterable[Value]]) -> list[Value]:
    """The values of the rows, one after the other, as `listed` counts them."""
    return [value for row in rows for value in row]


def keys(whose: Iterable[Address]) -> list[Value]:
    """The values of rows (channel, name)."""
    return [value for who in whose for value in (who.channel, who.name)]


class Cursor(Protocol):
    """The part of a DB-API cursor that verbs use."""

    @property
    def rowcount(self) -> int: ...
    @property
    def lastrowid(self) -> int | None: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """The part of a DB-API connection that verbs use; rows answer to column names."""

    @property
    def DatabaseError(self) -> type[Exception]: ...  # noqa: N802 - the DB-API's name
    @property
    def OperationalError(self) -> type[Exception]: ...  # noqa: N802

    def execute(self, sql: str, parameters: Sequence[Value] = ..., /) -> Cursor: ...


_NOBODY = Process("", 0, 0.0)
Unconfirmed = frozenset[tuple[Address, int]]
"""Hand-overs by recipient and message."""


@record(frozen=True, slots=True)
class CallerContext:
    """On whose behalf a verb is run."""

    process: Process = _NOBODY
    """The program that calls: what is handed over is in its hands."""
    grant: Grant = UNRESTRICTED
    """Consulted where a verb chooses a name itself. Callers have already checked the names they pass in."""
    held: Unconfirmed | None = None
    """The hand-overs that a process elsewhere holds; see `deliveries.requeue_unconfirmed`."""
    rate: int = 0
    """How many messages a session may send within a minute; 0 for any number."""
    first: Callable[[Transaction], None] | None = None
    """Done in the transaction of every verb, before it."""
    touch: bool = True
    """Whether it is noted that a known name was seen again: not on a disk that is full."""


@record(frozen=True, slots=True)
class Transaction:
    """One transaction. A driver opens it, runs one verb in it, commits, and tells those who are to be notified.

    `now` is the time of the whole transaction. `alive` tells whether a process still
    runs; for one that cannot be asked after, whether its heartbeat is recent.
    """

    connection: Connection
    now: float
    alive: Callable[[Process, float], bool]
    caller: CallerContext = CallerContext()
    notified: list[str] = field(default_factory=list)
    """Addresses of listeners to tell once this is committed; nobody is if it is not."""

    def called_by(self, caller: CallerContext) -> Transaction:
        """The same transaction, on behalf of this caller."""
        return type(self)(self.connection, self.now, self.alive, caller, self.notified)

    def durable(self) -> None:
        """Have this transaction survive a power cut, though its verb is declared as relaxed."""

    def notify(self, addresses: Iterable[str]) -> None:
        """Tell these listeners, once it is committed, that they should look."""
        self.notified.extend(addresses)

    def run(self, sql: str, *values: Value) -> Cursor:
        """Write. Queries that only read use one of the methods below, which need no lock."""
        return self.connection.execute(sql, values)

    def all(self, sql: str, *values: Value) -> list[Row]:
        return self.connection.execute(sql, values).fetchall()

    def each(self, sql: str, *values: Value) -> Iterator[Row]:
        """The rows one by one: what is not asked for is not looked for."""
        return iter(self.connection.execute(sql, values))

    def one(self, sql: str, *values: Value) -> Row | None:
        row: Row | None = self.connection.execute(sql, values).fetchone()
        return row

    def number(self, sql: str, *values: Value) -> float:
        """The single number a query yields; 0 for no row or NULL."""
        row = self.connection.execute(sql, values).fetchone()
        return (row[0] or 0) if row else 0
