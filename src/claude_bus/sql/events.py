"""The journal."""

from __future__ import annotations

from ..model import Address
from .transaction import Transaction


def append(tx: Transaction, who: Address, verb: str, subject: str = "", detail: str = "") -> None:
    """Record that `who` did `verb` to `subject`, within the verb's own transaction."""
    tx.run(
        "INSERT INTO events (ts, channel, actor, verb, subject, detail) VALUES (?, ?, ?, ?, ?, ?)",
        tx.now,
        who.channel,
        who.name,
        verb,
        subject,
        detail,
    )


def prune(tx: Transaction, before: float) -> int:
    """Forget journal rows older than `before`; returns how many."""
    return tx.run("DELETE FROM events WHERE ts < ?", before).rowcount
