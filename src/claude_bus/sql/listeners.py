"""Processes to tell when mail was stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..model.identity import Address, Process
from .arguments import Listener, Me, SessionKey
from .transaction import Row, Transaction, among, at_once, listed, spread
from .verbs import Rows, verb

MOST = 2_000
"""Addresses at which the programs of one token's owner may listen."""


def listen(tx: Transaction, address: str, client: str, process: Process) -> None:
    """Ask for a notice at `address` whenever mail for `client` ('' for anybody, see also `mailbox`) is stored."""
    tx.run("DELETE FROM listeners WHERE address = ?", address)
    tx.run(
        "INSERT INTO listeners (address, client, host, pid, started, heartbeat) VALUES (?, ?, ?, ?, ?, ?)",
        address,
        client,
        process.host,
        process.pid,
        process.started,
        tx.now,
    )


def mailbox(who: Address) -> str:
    """The value in place of a client's key for a process that listens for one name, whoever bears it."""
    return f"mail for {who.name}@{who.channel}"


def count(tx: Transaction, begins: str) -> int:
    """How many addresses there are that begin like this."""
    return int(
        tx.number("SELECT COUNT(*) FROM listeners WHERE address >= ? AND address < ?", begins, f"{begins}\U0010ffff")
    )


@verb("listen_for", rows=Rows(MOST, count))
def listen_for(tx: Transaction, address: Listener, me: Me) -> None:
    """Ask for a notice at `address` whenever mail for `me` is stored."""
    listen(tx, address, mailbox(me), tx.caller.process)


@verb("unlisten")
def unlisten(tx: Transaction, address: Listener) -> None:
    """Ask for no more notices at `address`."""
    unlisten_all(tx, [address])


def unlisten_all(tx: Transaction, addresses: Sequence[str]) -> None:
    """`unlisten` for several."""
    for some in at_once(addresses):
        tx.run(f"DELETE FROM listeners WHERE address IN ({listed(len(some))})", *some)


@verb("server_of", mode="read")
def server_of(tx: Transaction, client: SessionKey) -> Process | None:
    """A live server process of a client's session."""
    rows = tx.all("SELECT host, pid, started, heartbeat FROM listeners WHERE client = ?", client)
    return next((process_of(row) for row in rows if lives(tx, row)), None)


def lives(tx: Transaction, row: Row) -> bool:
    """Whether the process of a listener's row still runs."""
    return tx.alive(process_of(row), row["heartbeat"])


def heartbeat(tx: Transaction, client: str, process: Process) -> None:
    """The server `process` of a client lives."""
    tx.run(
        "UPDATE listeners SET heartbeat = ? WHERE client = ? AND host = ? AND pid = ? AND started = ?",
        tx.now,
        client,
        process.host,
        process.pid,
        process.started,
    )


def heard_of(tx: Transaction, processes: Collection[Process]) -> dict[Process, float]:
    """When each of these processes that listens last said that it lives."""
    return {
        process_of(row): row["heartbeat"]
        for some in at_once([*processes])
        for row in tx.all(
            "SELECT host, pid, started, MAX(heartbeat) AS heartbeat FROM listeners "
            f"WHERE {among('host, pid, started', len(some))} GROUP BY host, pid, started",
            *spread((process.host, process.pid, process.started) for process in some),
        )
    }


def of(tx: Transaction, recipients: Sequence[Address]) -> tuple[str, ...]:
    """Where to announce that these agents got mail."""
    if not recipients:
        return tuple(sorted({r["address"] for r in tx.all("SELECT address FROM listeners WHERE client = ''")}))
    found: set[str] = set()
    for some in at_once(recipients):
        rows = tx.all(
            f"WITH got (channel, name, mailbox) AS (VALUES {listed(len(some), 3)}) "
            "SELECT address FROM listeners WHERE client = '' "
            "UNION ALL SELECT l.address FROM got JOIN bindings b ON b.channel = got.channel AND b.agent = got.name "
            "JOIN listeners l ON l.client IN (b.client, b.session) WHERE l.client != '' "
            "UNION ALL SELECT l.address FROM got JOIN listeners l ON l.client = got.mailbox",
            *spread((who.channel, who.name, mailbox(who)) for who in some),
        )
        found.update(r["address"] for r in rows)
    return tuple(sorted(found))


def process_of(row: Row) -> Process:
    return Process(row["host"], row["pid"], row["started"])
