"""How a verb of the bus is declared: once, on the function that does it.

`bus.run(messages.send, me, draft)` runs it, wherever the bus is. All that a bus, the wire
between two programs, and the server must know of a verb stands in its declaration.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Generic, Literal, ParamSpec, TypeVar

from ..records import record
from .transaction import Transaction

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Mode = Literal["write", "read", "relaxed"]
"""`read`: seldom writes, and takes no lock until it does. `relaxed`: says who is present, which need not survive a
power cut; where a verb does more than that, it says so, see `Transaction.durable`."""
Checks = Literal["", "draft", "value"]


@record(frozen=True, slots=True)
class Rows:
    """A limit on the rows that a verb makes for the programs of one token's owner."""

    most: int
    count: Callable[[Transaction, str], int]
    """Counts the rows of those whose keys or addresses begin like this."""


@dataclass(eq=False)
class Verb(Generic[P, T_co]):
    """A verb: a function over one open transaction. Called with a transaction, it runs in that."""

    function: Callable[Concatenate[Transaction, P], T_co]
    wire: str = ""
    """Its name between two programs, which never changes; "" for a verb that only the machine of the bus runs.

    The names of its parameters go over the wire as well."""
    mode: Mode = "write"
    repeatable: bool = True
    """Whether it may be repeated when its answer got lost: the second time it does, and says, the same."""
    nameless: bool = False
    """Whether a session that has not registered may call it."""
    begins: bool = False
    """Whether a session may begin with it."""
    with_unconfirmed: bool = False
    """Whether it needs to know which hand-overs its caller holds; see `deliveries.requeue_unconfirmed`."""
    rows: Rows | None = None
    checks: Checks = ""
    """The argument that is checked before the transaction, as that takes its time; see `local`."""

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.function)

    def __call__(self, tx: Transaction, /, *args: P.args, **kwargs: P.kwargs) -> T_co:
        return self.function(tx, *args, **kwargs)


def verb(
    wire: str = "",
    *,
    mode: Mode = "write",
    repeatable: bool = True,
    nameless: bool = False,
    begins: bool = False,
    with_unconfirmed: bool = False,
    rows: Rows | None = None,
    checks: Checks = "",
) -> Callable[[Callable[Concatenate[Transaction, P], T]], Verb[P, T]]:
    """Declare the function below as a verb; see `Verb` for what is declared."""

    def declare(function: Callable[Concatenate[Transaction, P], T]) -> Verb[P, T]:
        return Verb(function, wire, mode, repeatable, nameless, begins, with_unconfirmed, rows, checks)

    return declare
