"""Ways to break the bus on purpose, by name: what the judge must see. Applied to forked processes only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from claude_bus.drivers import sqlite
from claude_bus.model.identity import Address
from claude_bus.model.messages import Draft, HandOver, Sent
from claude_bus.remote.bus import RemoteBus
from claude_bus.sql import deliveries, messages
from claude_bus.sql.transaction import Connection, Cursor, Transaction, Value


def cursor_at_max() -> None:
    """A hand-over counts as handed all there is, not only what fitted."""
    original = deliveries.hand_over.function

    def hand_over(tx: Transaction, me: Address, *, peek: bool = False, **options: Any) -> HandOver:
        found = original(tx, me, peek=peek, **options)
        if peek or not found.messages:
            return found
        tx.run(
            "UPDATE deliveries SET state = 'handed', attempts = attempts + 1, handed_by = ?, handed_at = ? "
            "WHERE channel = ? AND recipient = ? AND state = 'queued'",
            *(str(tx.caller.process), tx.now, me.channel, me.name),
        )
        return replace(found, pending=0)

    deliveries.hand_over.function = hand_over


def receipt_before_answer() -> None:
    """A hand-over counts as read before the answer that carries it is even written."""
    original = deliveries.hand_over.function

    def hand_over(tx: Transaction, me: Address, *, peek: bool = False, **options: Any) -> HandOver:
        found = original(tx, me, peek=peek, **options)
        if not peek:
            deliveries.confirm(tx, me, [message.id for message in found.messages])
        return found

    deliveries.hand_over.function = hand_over


class _Hesitant:
    """A connection that thinks for a moment between deciding and writing."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._wrote = connection, False
        self.DatabaseError, self.OperationalError = connection.DatabaseError, connection.OperationalError

    def execute(self, sql: str, parameters: Sequence[Value] = (), /) -> Cursor:
        if not (self._wrote or sql.lstrip().startswith("SELECT")):
            self._wrote = True
            time.sleep(0.002)
        return self._connection.execute(sql, parameters)


def without_lock() -> None:
    """Verbs read, decide and then write, without a transaction round it."""

    def transact(connection: Any, now: float, alive: Any, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return verb(Transaction(_Hesitant(connection), now, alive), *args, **kwargs)

    sqlite.transact = transact


def unmarked() -> None:
    """A repetition does not say that it is one."""
    original = deliveries.hand_over.function

    def hand_over(tx: Transaction, me: Address, **options: Any) -> HandOver:
        found = original(tx, me, **options)
        return replace(found, messages=tuple(replace(message, possibly_seen=False) for message in found.messages))

    deliveries.hand_over.function = hand_over


def proof_of_all() -> None:
    """Proof of one hand-over proves all that the program was handed, arrived or not."""
    original = deliveries.confirm.function

    def confirm(tx: Transaction, me: Address, message_ids: Sequence[int]) -> int:
        if message_ids:
            message_ids = [
                row["message"]
                for row in tx.all(
                    "SELECT message FROM deliveries WHERE channel = ? AND recipient = ? AND state = 'handed' "
                    "AND handed_by = ?",
                    *(me.channel, me.name, str(tx.caller.process)),
                )
            ]
        return original(tx, me, message_ids)

    deliveries.confirm.function = confirm
    deliveries.requeue_unconfirmed = lambda *_args, **_options: 0


def keyless() -> None:
    """Calls to a remote bus carry no key by which a repetition could be recognized."""

    async def send(self: RemoteBus, me: Address, draft: Draft) -> Sent:
        return await self._call(messages.send, me, draft)

    setattr(RemoteBus, "_send", send)  # noqa: B010 - typed as what it replaces


SABOTAGES: dict[str, Callable[[], None]] = {
    "cursor-at-max": cursor_at_max,
    "without-lock": without_lock,
    "receipt-before-answer": receipt_before_answer,
    "unmarked": unmarked,
    "proof-of-all": proof_of_all,
    "keyless": keyless,
}
