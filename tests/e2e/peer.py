"""The other side of a conversation with a session: a program on the bus, in the test's process."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio

from claude_bus.addresses import DEFAULT_CHANNEL
from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.local import LocalBus
from claude_bus.model.claims import Claim
from claude_bus.model.identity import Address, Agent
from claude_bus.model.messages import Draft, Receipt, Sent
from claude_bus.sql import agents, claims, messages
from claude_bus.sql.transaction import Transaction

from .fake_anthropic import PATIENCE

T = TypeVar("T")


class Peer:
    """Sends as `name`, once it joined, and looks at what there is to see."""

    def __init__(self, db: Path, name: str) -> None:
        self.db = db
        self.me = Address(name, DEFAULT_CHANNEL)

    def join(self) -> None:
        self._do(lambda bus: bus.run(agents.join_without_session, self.me, "test"))

    def _do(self, verb: Callable[[LocalBus], Awaitable[T]]) -> T:
        async def run() -> T:
            bus = open_local(Config(db=self.db))
            try:
                return await verb(bus)
            finally:
                await bus.close()

        return anyio.run(run)

    def does(self, verb: Callable[[LocalBus], Awaitable[T]]) -> T:
        """Run any other verb of the bus, as this peer."""
        return self._do(verb)

    def send(self, to: str, content: str, **fields: Any) -> int:
        """Send a message; returns its id."""
        return self.sent(to, content, **fields).id

    def sent(self, to: str, content: str, **fields: Any) -> Sent:
        draft = Draft(to=(to,), content=content, **fields)
        return self._do(lambda bus: bus.run(messages.send, self.me, draft))

    def send_at_once(self, to: str, contents: list[str]) -> list[int]:
        """Send several messages in one transaction, so that nobody sees some of them first."""

        def send_all(tx: Transaction) -> list[Sent]:
            return [messages.send(tx, self.me, Draft(to=(to,), content=content)) for content in contents]

        async def run(bus: LocalBus) -> list[int]:
            return [sent.id for sent in await bus._db.run(send_all)]

        return self._do(run)

    def receipt(self, message: int) -> Receipt:
        """How far a message to one recipient is."""
        (receipt,) = self._do(lambda bus: bus.run(messages.status, self.me, message)).receipts
        return receipt

    def agents(self) -> dict[str, Agent]:
        return {agent.name: agent for agent in self._do(lambda bus: bus.run(agents.listing, DEFAULT_CHANNEL))}

    def status(self, name: str) -> str:
        found = self.agents().get(name)
        return found.status if found else ""

    def conversation(self, name: str) -> str:
        """The id of the conversation that bore a name last."""
        ((session_id,),) = self.rows("SELECT session_id FROM agents WHERE name = ?", name)
        return str(session_id)

    def server_pid(self, name: str) -> int:
        """The bus server of a running session, the newest if there are several."""
        query = "SELECT l.pid FROM listeners l JOIN bindings b USING (client) WHERE b.agent = ? ORDER BY l.started DESC"
        return int(self.rows(query, name)[0][0])

    def last_call(self, name: str) -> float:
        """When a session or subagent called a tool last, or reported something new."""
        ((when,),) = self.rows("SELECT heartbeat FROM bindings WHERE agent = ?", name)
        return float(when)

    def claims(self) -> list[Claim]:
        return self._do(lambda bus: bus.run(claims.list_claims, DEFAULT_CHANNEL))

    def wait_for_status(self, name: str, status: str, patience: float = PATIENCE) -> None:
        found = partial(self.status, name)
        eventually(lambda: found() == status, f"{name} is {status}", found, patience)

    def wait_for_state(self, message: int, state: str) -> Receipt:
        """The receipt of a message, once it is `state`."""
        receipt = partial(self.receipt, message)
        eventually(lambda: receipt().state == state, f"message {message} is {state}", receipt)
        return receipt()

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query; the file is only read."""
        with contextlib.closing(sqlite3.connect(f"file:{self.db}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(query, values).fetchall()


def eventually(
    holds: Callable[[], object], what: str, seen: Callable[[], object] = str, patience: float = PATIENCE
) -> None:
    """Return when something holds; fail, telling what was seen last, when it does not come to."""
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, f"not within {patience}s: {what}; last seen: {seen()}"
        time.sleep(0.1)
