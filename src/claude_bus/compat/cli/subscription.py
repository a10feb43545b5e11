"""Reading an agent-bus without an end: long polls one after the other, whatever the network does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import anyio

from ...errors import BusError, Forbidden, InvalidInput, NotFound, Unauthorized
from ..client import AgentBusClient, Batch, Mail
from .cursor import Cursor

PAUSE = 2.0
"""Seconds after a failure, and after an answer that brought nothing although it came at once."""
_AT_ONCE = 1.0


class Subscription:
    """The mail of `name` from the cursor on, again and again `most` at a time."""

    def __init__(self, client: AgentBusClient, name: str, cursor: Cursor, most: int = 100) -> None:
        self._client = client
        self._name = name
        self._cursor = cursor
        self._most = most
        self._begun = time.monotonic(), time.time()
        self._refused = ""
        """What the server said when it refused the last request."""
        self._explained = ""

    async def next(self, polling: Callable[[], None] = lambda: None) -> tuple[Mail, ...]:
        """What is new, as soon as there is something. Whoever has handed it on moves the cursor.

        `polling` is called before each request, and may raise `OSError`. Raises `Unauthorized` and `Forbidden`:
        the server is there, and lets this reader have nothing.
        """
        while True:
            asked = time.monotonic()
            try:
                polling()
                batch = await self._poll()
            except (Unauthorized, Forbidden):  # no outage: somebody must do something about it
                raise
            except (BusError, OSError) as error:
                complain(error)
                self._explain(error)
                await anyio.sleep(PAUSE)
                continue
            self._refused = ""
            if batch.unusable:
                print(f"# skipped: {batch.unusable} without a time", file=sys.stderr, flush=True)
            if batch.mail:
                return batch.mail
            if time.monotonic() - asked < _AT_ONCE:
                await anyio.sleep(PAUSE)  # a server that does not hold the request: no busy loop

    def _explain(self, error: Exception) -> None:
        """Say once in full what the server refuses twice in a row. Once it may do so because it is just starting."""
        refused = error.message if isinstance(error, NotFound | InvalidInput) else ""
        if refused and refused == self._refused != self._explained:
            self._explained = refused
            print(f"# {refused}", file=sys.stderr, flush=True)
        self._refused = refused

    async def _poll(self) -> Batch:
        if self._cursor.since is None:
            self._cursor.move(await self._beginning())
        assert self._cursor.since is not None
        return await self._client.recv(self._name, self._cursor.since, block=True, most=self._most)

    async def _beginning(self) -> float:
        """The moment the program began, by the server's clock if it tells: the cursor is compared with that one."""
        monotonic, clock = self._begun
        now = await self._client.now()
        return clock if now is None else max(0.0, now - (time.monotonic() - monotonic))


def complain(error: Exception) -> None:
    """One line on stderr about what may pass. Never what the error says: it may name an address with its password."""
    print(f"# transient: {type(error.__cause__ or error).__name__}", file=sys.stderr, flush=True)
