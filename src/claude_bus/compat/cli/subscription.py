"""Reading an agent-bus endlessly: long polls one after another, in spite of network failures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import anyio

from ...errors import BusError, Forbidden, InvalidInput, NotFound, Unauthorized
from ..client import AgentBusClient, Batch, Mail
from .cursor import Cursor

PAUSE = 2.0
"""Seconds to wait after a failure, and after an empty answer that came at once."""
_AT_ONCE = 1.0


class Subscription:
    """The mail of `name` from the cursor on, up to `most` messages at a time."""

    def __init__(self, client: AgentBusClient, name: str, cursor: Cursor, most: int = 100) -> None:
        self._client = client
        self._name = name
        self._cursor = cursor
        self._most = most
        self._begun = time.monotonic(), time.time()
        self._refused = ""
        """The server's message when it refused the last request."""
        self._explained = ""

    async def next(self, polling: Callable[[], None] = lambda: None) -> tuple[Mail, ...]:
        """Return new mail as soon as there is some. The caller moves the cursor after handling it.

        `polling` is called before each request, and may raise `OSError`. Raises `Unauthorized` and `Forbidden`: the
        server runs, but gives this reader nothing.
        """
        while True:
            asked = time.monotonic()
            try:
                polling()
                batch = await self._poll()
            except (Unauthorized, Forbidden):  # not an outage: a person has to act
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
                await anyio.sleep(PAUSE)  # the server does not hold requests: avoid a busy loop

    def _explain(self, error: Exception) -> None:
        """Print the server's message once if it refuses twice in a row. One refusal may mean that it is starting."""
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
        """Return the time at which the program began, by the server's clock if it tells that, as cursors are."""
        monotonic, clock = self._begun
        now = await self._client.now()
        return clock if now is None else max(0.0, now - (time.monotonic() - monotonic))


def complain(error: Exception) -> None:
    """Print one line on stderr about a failure. Never the error's text, which may contain a password."""
    print(f"# transient: {type(error.__cause__ or error).__name__}", file=sys.stderr, flush=True)
