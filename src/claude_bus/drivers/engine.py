"""The contract of a store: the operations by which a bus runs its verbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from ..sql.transaction import Transaction
from .sqlite import Step

P = ParamSpec("P")
T = TypeVar("T")


class Engine(Protocol):
    """Where verbs run, each in one transaction. Every failure is an error of the bus, for that one verb."""

    async def run(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb. Its effect survives a power cut."""
        ...

    async def write_relaxed(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb whose effect all see at once, and which a power cut may undo."""
        ...

    async def read(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that seldom writes. It holds no lock until it does."""
        ...

    async def read_relaxed(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that seldom writes, and whose effect a power cut may undo then."""
        ...

    def pulse(self) -> object:
        """A cheap value that changes with every commit of any process."""
        ...

    def after_commits(self, step: Callable[[Transaction], None]) -> None:
        """From now on run a step that only reads after what this process commits, before that is answered for."""
        ...

    async def close(self) -> None: ...
