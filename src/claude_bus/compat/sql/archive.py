"""Messages of other stores: taking them in, and giving ours out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from ... import addresses
from ...model.identity import Address
from ...model.messages import ArchivedMessage
from ...sql import columns, deliveries, events, mailboxes
from ...sql.transaction import Row, Transaction
from ...sql.verbs import verb

_PREFIX = "import:"
_READ = "('read', 'acked')"


@verb()
def import_messages(tx: Transaction, channel: str, letters: Sequence[ArchivedMessage]) -> int:
    """Store the letters in their order; returns how many were not there yet.

    Recipients who acknowledged one have it acknowledged, for the others it waits. One that
    was taken in before only gets the acknowledgements it lacks. A time that is not later
    than that of the message before it (or lies ahead) gives way: times only increase here.
    """
    new = 0
    rows: dict[int | str, int] = {}
    last = tx.number("SELECT ts FROM messages ORDER BY id DESC LIMIT 1")
    everybody = [Address(row["name"], channel) for row in _registered(tx, channel)]
    for letter in letters:
        sender = addresses.parse_address(letter.sender, channel)
        message = _known(tx, sender, letter)
        if message is None:
            last = columns.next_ts(min(letter.ts, tx.now), last)
            message = _insert(tx, channel, sender, letter, last, _answered(tx, letter, rows))
            to = [addresses.parse_address(name, channel) for name in letter.to] or [a for a in everybody if a != sender]
            for who in to:
                _deliver(tx, message, who)
            new += 1
        rows[letter.id] = message
        for name in letter.acks:
            _acknowledge(tx, message, addresses.parse_address(name, channel))
    if new:
        events.append(tx, Address("", channel), "import", str(message), f"{new} messages")
    return new


def _registered(tx: Transaction, channel: str) -> list[Row]:
    return tx.all("SELECT name FROM agents WHERE channel = ? AND registered = 1 ORDER BY name", channel)


def _known(tx: Transaction, sender: Address, letter: ArchivedMessage) -> int | None:
    """The message that the letter is, if it was taken in before, or comes from this very bus."""
    row = tx.one(
        "SELECT id FROM messages WHERE sender_channel = ? AND sender = ? AND key = ?",
        sender.channel,
        sender.name,
        _key(letter),
    ) or tx.one(
        "SELECT id FROM messages WHERE id = ? AND sender_channel = ? AND sender = ? AND content = ? "
        "AND ABS(ts - ?) < 1e-5 AND (key IS NULL OR SUBSTR(key, 1, ?) != ?)",
        letter.id if isinstance(letter.id, int) else None,
        sender.channel,
        sender.name,
        letter.body,
        letter.ts,
        len(_PREFIX),
        _PREFIX,
    )
    return row["id"] if row else None


def _key(letter: ArchivedMessage) -> str:
    """From the old id, and from what the message says: another store may have given that id to another one."""
    whole = json.dumps([letter.id, letter.sender, letter.to, letter.body])
    digest = hashlib.sha256(whole.encode()).hexdigest()[:16]
    return f"{_PREFIX}{json.dumps(letter.id)}#{digest}"


def _old_id(key: str | None, message: int) -> int | str:
    """The id that a message was taken in with, else its own."""
    if not key or not key.startswith(_PREFIX):
        return message
    try:
        found = json.loads(key.removeprefix(_PREFIX).rpartition("#")[0])
    except ValueError:  # a sender's own key that begins like this
        return message
    return found if isinstance(found, int | str) else message


def _insert(
    tx: Transaction, channel: str, sender: Address, letter: ArchivedMessage, ts: float, answered: int | None
) -> int:
    mailboxes.ensure(tx, sender)
    cursor = tx.run(
        "INSERT INTO messages (ts, channel, sender, sender_channel, recipient, broadcast, content, kind, reply_to, "
        "tags, key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ts,
        channel,
        sender.name,
        sender.channel,
        ", ".join(letter.to) or "all",
        int(not letter.to),
        letter.body,
        letter.kind,
        answered,
        columns.dump_list(letter.tags),
        _key(letter),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _answered(tx: Transaction, letter: ArchivedMessage, rows: Mapping[int | str, int]) -> int | None:
    """The message that the letter answers: the last one that was taken in with that id."""
    if letter.reply_to is None:
        return None
    if letter.reply_to in rows:
        return rows[letter.reply_to]
    start = f"{_PREFIX}{json.dumps(letter.reply_to)}#"
    row = tx.one("SELECT id FROM messages WHERE SUBSTR(key, 1, ?) = ? ORDER BY id DESC LIMIT 1", len(start), start)
    return row["id"] if row else None


def _deliver(tx: Transaction, message: int, who: Address) -> None:
    mailboxes.ensure(tx, who)
    mailboxes.deliver(tx, message, who)


def _acknowledge(tx: Transaction, message: int, who: Address) -> None:
    _deliver(tx, message, who)
    deliveries.acknowledge(tx, who, message, "import", "import")


@verb(mode="read")
def export_messages(tx: Transaction, channel: str, after: int, limit: int) -> list[ArchivedMessage]:
    """The oldest `limit` messages of a channel after the one with this id; its readers count as acknowledging it."""
    rows = tx.all("SELECT * FROM messages WHERE channel = ? AND id > ? ORDER BY id LIMIT ?", channel, after, limit)
    return [_letter(tx, row, channel) for row in rows]


def _letter(tx: Transaction, row: Row, channel: str) -> ArchivedMessage:
    to = tx.all(
        f"SELECT channel, recipient, state IN {_READ} AS seen FROM deliveries WHERE message = ? "
        "ORDER BY channel, recipient",
        row["id"],
    )
    names = [Address(r["recipient"], r["channel"]).seen_from(channel) for r in to]
    answered = tx.one("SELECT id, key FROM messages WHERE id = ?", row["reply_to"]) if row["reply_to"] else None
    return ArchivedMessage(
        id=_old_id(row["key"], row["id"]),
        ts=row["ts"],
        sender=Address(row["sender"], row["sender_channel"]).seen_from(channel),
        to=() if row["broadcast"] else _addressed(row["recipient"], names),
        body=row["content"],
        tags=columns.load_list(row["tags"]),
        acks=tuple(name for name, r in zip(names, to, strict=True) if r["seen"]),
        kind=row["kind"],
        reply_to=_old_id(answered["key"], answered["id"]) if answered else None,
        row=row["id"],
    )


def _addressed(recipient: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names that a message was sent to; whom a glob stood for is known from the deliveries."""
    given = tuple(recipient.split(", "))
    return tuple(names) if any(map(addresses.is_name_glob, given)) else given
