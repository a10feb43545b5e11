"""Processes to tell when mail was stored."""

from __future__ import annotations

from ..model import Address, Process
from .transaction import Row, Transaction


def listen(tx: Transaction, address: str, client: str, process: Process) -> None:
    """Ask for a notice at `address` whenever mail for `client` ('' for anybody) is stored."""
    tx.run("DELETE FROM listeners WHERE address = ?", address)
    tx.run(
        "INSERT INTO listeners (address, client, host, pid, started) VALUES (?, ?, ?, ?, ?)",
        address,
        client,
        process.host,
        process.pid,
        process.started,
    )


def unlisten(tx: Transaction, address: str) -> None:
    """Ask for no more notices at `address`."""
    tx.run("DELETE FROM listeners WHERE address = ?", address)


def server_of(tx: Transaction, client: str) -> Process | None:
    """A live server process of a client's session."""
    rows = tx.all("SELECT host, pid, started FROM listeners WHERE client = ?", client)
    return next((p for p in map(process_of, rows) if tx.alive(p, tx.now)), None)


def of(tx: Transaction, recipients: list[Address]) -> tuple[str, ...]:
    """Where to announce that these agents got mail."""
    found = {r["address"] for r in tx.all("SELECT address FROM listeners WHERE client = ''")}
    for who in recipients:
        rows = tx.all(
            "SELECT l.address FROM listeners l JOIN bindings b ON l.client IN (b.client, b.session) "
            "WHERE l.client != '' AND b.channel = ? AND b.agent = ?",
            who.channel,
            who.name,
        )
        found.update(r["address"] for r in rows)
    return tuple(sorted(found))


def process_of(row: Row) -> Process:
    return Process(row["host"], row["pid"], row["started"])
