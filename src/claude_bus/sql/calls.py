"""Tool calls that subagents are about to make, as hooks announce them.

Noted in the store, as the server that gets the call may be another than the one its hook
was answered by: after a kill, or where a session has two.
"""

from __future__ import annotations

from .. import limits
from .arguments import SessionKey
from .transaction import Transaction
from .verbs import Rows, verb


def count(tx: Transaction, begins: str) -> int:
    """How many calls are noted of clients whose keys begin like this."""
    return int(tx.number("SELECT COUNT(*) FROM calls WHERE client >= ? AND client < ?", begins, f"{begins}\U0010ffff"))


@verb("announce_call", mode="relaxed", rows=Rows(100_000, count))
def announce(tx: Transaction, client: SessionKey, call: str, agent_id: str) -> None:
    """The subagent `agent_id` of this client's session is about to make this call."""
    tx.run(
        "INSERT INTO calls (client, call, agent_id, at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (client, call) DO UPDATE SET agent_id = excluded.agent_id",
        client,
        call,
        agent_id,
        tx.now,
    )


@verb("caller", mode="read")
def caller(tx: Transaction, client: SessionKey, call: str) -> str:
    """The subagent that makes a call; "" for the session itself."""
    row = tx.one("SELECT agent_id FROM calls WHERE client = ? AND call = ?", client, call)
    return row["agent_id"] if row else ""


def prune(tx: Transaction) -> int:
    """Forget calls that are long over, or never came; returns how many."""
    return tx.run("DELETE FROM calls WHERE at < ?", tx.now - limits.CALL_LASTS).rowcount
