"""The bus: the one contract that every door (tools, hooks, CLI, HTTP) uses.

`local.LocalBus` runs the verbs of `sql/` on a database of this machine; `remote.bus` speaks
to one that is served elsewhere. `opening` makes either from a `Config`.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import ParamSpec, Protocol, Self, TypeVar

from .model.identity import SignOfLife
from .sql.verbs import Verb

P = ParamSpec("P")
T = TypeVar("T")


class NoticeSocket(Protocol):
    """Where a process can be told that it should look. Its address goes to `listen` and `watch`."""

    @property
    def address(self) -> str: ...

    async def heard(self, patience: float) -> bool:
        """Wait for a notice for at most `patience` seconds; whether one came."""
        ...


class Bus(Protocol):
    """Where verbs are run."""

    async def run(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb of `sql/` in one transaction. Raises what the verb raises, and `StoreError`.

        `me` is the address of the agent on whose behalf the caller acts: that the caller
        may do so is the caller's to know.
        """
        ...

    async def run_for(self, sign: SignOfLife | None, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb on behalf of a session, and in the same transaction, before it, note this sign of its life.

        Raises `Displaced` if the session is not what the sign says: nothing was done then.
        """
        ...

    def notice_socket(self) -> AbstractAsyncContextManager[NoticeSocket]:
        """A place where this process is told of mail; its address goes to `listen`."""
        ...

    def pulse(self) -> object:
        """A cheap value that changes when anybody stores something."""
        ...

    async def prune(self) -> None:
        """Forget what is past its retention. For a server to call now and then."""
        ...

    async def index(self) -> bool:
        """Index a few messages for search; whether there are more. For a server to call now and then."""
        ...

    async def close(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(self, *_error: object) -> None: ...
