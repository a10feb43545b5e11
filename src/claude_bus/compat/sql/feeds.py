"""Messages as programs follow them: by a cursor of their own, by id, by what is not acknowledged yet.

These are the read models of the two earlier systems. A cursor belongs to its client and
marks nothing; an acknowledgement is a delivery's state, the same that every door sees.
A caller may read, and be, what its grant permits (`tx.caller`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ... import addresses, grants, limits
from ...errors import NotFound
from ...model.identity import Address
from ...model.messages import Draft, Feed, Message, Received, Search
from ...sql import agents, bindings, deliveries, inboxes, messages
from ...sql.expiry import WIRES
from ...sql.mailboxes import UNREAD
from ...sql.transaction import Row, Transaction, Value
from ...sql.verbs import verb

RECV_SEND, MESSAGES_ACK = WIRES
"""The client that agents lists for a program that uses `/recv`, or `/messages`."""

_LIVES = "(m.expires IS NULL OR m.expires > ?)"


@verb(checks="draft")
def post(tx: Transaction, me: Address, draft: Draft, program: str) -> Message:
    """Enlist `me`, send, and return the message as it is stored.

    Raises `NameTaken` if a live session bears the name, and what `messages.send` raises.
    """
    message, _ = send(tx, me, draft, program)
    rows = tx.all(f"SELECT {deliveries.MESSAGE} FROM messages m WHERE m.id = ?", message)
    [found] = deliveries.messages_of(tx, rows, me)
    return found


@verb(checks="draft")
def send(tx: Transaction, me: Address, draft: Draft, program: str) -> tuple[int, float]:
    """The same, but return only id and time of the message."""
    agents.join_without_session(tx, me, program)
    return messages.store_for_program(tx, me, draft)


# -- by a time cursor -----------------------------------------------------------


@verb(mode="read")
def received(tx: Transaction, to: str, channel: str | None, since: float, limit: int) -> Feed:
    """The messages delivered to `to` after `since`, oldest first, at most `limit`; marks nothing.

    On one channel, or (None) on all where the grant permits it. A name nobody knew is
    enlisted, so that broadcasts reach it from now on; one that is known is noted as seen
    now and then.

    `now` of the answer is the cursor to go on from, and nothing is lost to a client that
    takes `max(since, newest ts, now)`: it is no clock but the time of the newest message
    stored, of whoever, in this same transaction. Whatever comes later has a later time
    (`columns.next_ts`), which a clock does not promise. If more waits than the answer
    holds, `now` is the time of the last message in it.

    Nothing is later than what is stored: a `since` that is (a client whose clock is
    ahead) is one that has everything. A waiting client goes on from `now` and not from such a
    `since`, so that what comes meanwhile is found whatever the client's clock says.
    """
    note_reader(tx, Address(to, channel or addresses.DEFAULT_CHANNEL), RECV_SEND)
    newest = tx.number("SELECT ts FROM messages ORDER BY id DESC LIMIT 1")
    found = _delivered(tx, to, _channels(tx, to, channel), since, limit + 1)
    batch = found[: min(limit, limits.fit_count(row["size"] for row in found))]
    return Feed(_received(tx, batch), batch[-1]["ts"] if len(batch) < len(found) else newest)


def note_reader(tx: Transaction, who: Address, program: str) -> None:
    """Make `who` known, so that broadcasts reach it, unless it is, a live session bears the name, or it may not be."""
    if agents.known(tx, who, lately=tx.caller.touch) or not grants.permits(tx.caller.grant, who):
        return
    if not bindings.holder(tx, who):
        agents.join_without_session(tx, who, program)


def _channels(tx: Transaction, name: str, channel: str | None) -> list[str]:
    if channel is not None:
        return [channel]
    rows = tx.all("SELECT channel FROM agents WHERE name = ?", name)
    return [row["channel"] for row in rows if grants.permits(tx.caller.grant, Address(name, row["channel"]))]


def _delivered(tx: Transaction, to: str, channels: Sequence[str], since: float, limit: int) -> list[Row]:
    """Which messages, without their content: all of it might not fit."""
    return (
        tx.all(
            f"SELECT d.message, d.channel, m.ts, {deliveries.SIZE} AS size "
            "FROM deliveries d JOIN messages m ON m.id = d.message "
            f"WHERE d.channel IN ({_marks(channels)}) AND d.recipient = ? "
            "AND d.message > COALESCE((SELECT id FROM messages WHERE ts <= ? ORDER BY ts DESC LIMIT 1), 0) "
            f"AND d.state != 'expired' AND (d.state != 'queued' OR {_LIVES}) ORDER BY d.message LIMIT ?",
            *channels,
            to,
            since,
            tx.now,
            limit,
        )
        if channels
        else []
    )


def _received(tx: Transaction, batch: Sequence[Row]) -> tuple[Received, ...]:
    """The messages, each as its reader on that channel sees it."""
    rows = deliveries.by_id(tx, [row["message"] for row in batch])
    seen = [(rows[row["message"]], Address("", row["channel"])) for row in batch]
    return tuple(
        Received(row["channel"], message)
        for row, message in zip(batch, deliveries.messages_seen(tx, seen), strict=True)
    )


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


# -- by id, and by what is not acknowledged -------------------------------------


@verb(mode="read")
def posts(tx: Transaction, search: Search) -> list[Message]:
    """The messages of a channel that a search asks for, oldest first.

    A grant for some names only sees the broadcasts, and what is from or to one of its
    names. A new name in `unread_by` joins without a session, and has the retained
    broadcasts unread.
    """
    if search.unread_by:
        note_reader(tx, Address(search.unread_by, search.channel), MESSAGES_ACK)
    where, values = _condition(tx, search)
    oldest = search.since is not None or bool(search.unread_by)
    rows = tx.all(
        f"SELECT m.id, {deliveries.SIZE} AS size FROM messages m WHERE {' AND '.join(where)} "
        f"ORDER BY m.id {'' if oldest else 'DESC'} LIMIT ?",
        *values,
        search.limit,
    )
    ids = sorted(row["id"] for row in rows[: limits.fit_count(row["size"] for row in rows)])
    found = deliveries.by_id(tx, ids)
    return deliveries.messages_of(tx, [found[i] for i in ids], Address("", search.channel))


_ON_CHANNEL = "(m.channel = ? OR EXISTS (SELECT 1 FROM deliveries c WHERE c.message = m.id AND c.channel = ?))"
_DELIVERED_TO = "EXISTS (SELECT 1 FROM deliveries d WHERE d.message = m.id AND d.channel = ?"
_WAITING = "m.id IN (SELECT d.message FROM deliveries d WHERE d.channel = ? AND d.recipient = ? "
_BROADCAST = "(m.broadcast = 1 AND m.channel = ?)"


def _condition(tx: Transaction, search: Search) -> tuple[list[str], list[Value]]:
    """The conditions of a search, and their values."""
    channel, grant = search.channel, tx.caller.grant
    where: list[str] = ["m.id > ?", _ON_CHANNEL]
    values: list[Value] = [search.since or 0, channel, channel]
    if search.to == "all":
        where.append(_BROADCAST)
        values.append(channel)
    elif search.to:
        where.append(f"({_BROADCAST} OR {_DELIVERED_TO} AND d.recipient = ?))")
        values += [channel, channel, search.to]
    if search.sender:
        sender = addresses.parse_address(search.sender, channel, "from")
        where.append("m.sender = ? AND m.sender_channel = ?")
        values += [sender.name, sender.channel]
    if search.unread_by:
        where.append(f"{_WAITING}AND d.{UNREAD}) AND {_LIVES}")
        values += [channel, search.unread_by, tx.now]
    if "*" not in grant.names:
        sent = " OR ".join(["m.sender GLOB ?"] * len(grant.names))  # the patterns of a token have * and ? only
        got = " OR ".join(["d.recipient GLOB ?"] * len(grant.names))
        where.append(f"({_BROADCAST} OR (m.sender_channel = ? AND ({sent})) OR {_DELIVERED_TO} AND ({got})))")
        values += [channel, channel, *grant.names, channel, *grant.names]
    return where, values


@verb()
def ack(tx: Transaction, reader: Address, message: int) -> None:
    """`reader` has had the message. Once is as good as twice.

    Enlists the reader: raises `NameTaken` if a live session bears the name. Raises
    `NotFound` if the message is not the reader's to see.
    """
    agents.join_without_session(tx, reader, MESSAGES_ACK)
    if not (inboxes.acknowledge(tx, reader, [message], "ack") or _sent(tx, reader, message)):
        raise NotFound(f"no message with id {message}", message_id=message)


def _sent(tx: Transaction, who: Address, message: int) -> bool:
    row = tx.one(
        "SELECT 1 FROM messages WHERE id = ? AND sender = ? AND sender_channel = ?", message, who.name, who.channel
    )
    return row is not None


# -- how much there is ----------------------------------------------------------


@verb(mode="read")
def unread(tx: Transaction) -> dict[Address, int]:
    """How many messages are unread for whom, of those the grant may be."""
    rows = tx.all(
        "SELECT d.channel, d.recipient, COUNT(*) AS n FROM deliveries d JOIN messages m ON m.id = d.message "
        f"WHERE d.{UNREAD} AND {_LIVES} GROUP BY d.channel, d.recipient ORDER BY d.channel, d.recipient",
        tx.now,
    )
    found = {Address(row["recipient"], row["channel"]): int(row["n"]) for row in rows}
    return {who: count for who, count in found.items() if grants.permits(tx.caller.grant, who)}


@verb(mode="read")
def stored(tx: Transaction) -> int:
    """How many messages there are on the channels that the grant permits."""
    grant = tx.caller.grant
    if "*" in grant.channels:
        return int(tx.number("SELECT COUNT(*) FROM messages"))  # reads an index, not the messages
    rows = tx.all("SELECT channel, COUNT(*) AS n FROM messages GROUP BY channel")
    return sum(row["n"] for row in rows if grants.permits_channel(grant, row["channel"]))
