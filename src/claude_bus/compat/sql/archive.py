"""Messages of other stores: taking them in, and giving ours out."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ... import addresses
from ...model.identity import Address
from ...model.messages import ArchivedMessage
from ...sql import columns, deliveries, events, mailboxes
from ...sql.transaction import Row, Transaction, Value, among, at_once, listed, spread
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
    senders = [addresses.parse_address(letter.sender, channel) for letter in letters]
    known = _known(tx, senders, letters)
    ids, new = _store_new(tx, channel, senders, letters, known)
    _answer(tx, letters, ids, new)
    everybody = [Address(row["name"], channel) for row in _registered(tx, channel)]
    to: dict[int, list[Address]] = defaultdict(list)
    for at in new:
        named = [addresses.parse_address(name, channel) for name in letters[at].to]
        to[ids[at]] += named or [who for who in everybody if who != senders[at]]
    said = [
        (message, addresses.parse_address(name, channel))
        for message, letter in zip(ids, letters, strict=True)
        for name in letter.acks
    ]
    for message, who in said:
        to[message].append(who)
    mailboxes.ensure_all(tx, list({who: None for whose in to.values() for who in whose}))
    mailboxes.deliver(tx, to)
    deliveries.acknowledge_imported(tx, list(dict.fromkeys(said)))
    if new:
        events.append(tx, Address("", channel), "import", str(ids[-1]), f"{len(new)} messages")
    return len(new)


def _registered(tx: Transaction, channel: str) -> list[Row]:
    return tx.all("SELECT name FROM agents WHERE channel = ? AND registered = 1 ORDER BY name", channel)


def _known(tx: Transaction, senders: Sequence[Address], letters: Sequence[ArchivedMessage]) -> dict[int, int]:
    """The messages that letters are which were taken in before, or come from this very bus, by the letters' places."""
    by_key = {
        (Address(row["sender"], row["sender_channel"]), row["key"]): row["id"]
        for some in at_once([*zip(senders, map(_key, letters), strict=True)])
        for row in tx.all(
            "SELECT id, sender_channel, sender, key FROM messages "
            f"WHERE key IS NOT NULL AND {among('sender_channel, sender, key', len(some))}",
            *spread((who.channel, who.name, key) for who, key in some),
        )
    }
    by_id = {
        row["id"]: row
        for some in at_once([letter.id for letter in letters if isinstance(letter.id, int)])
        for row in tx.all(
            "SELECT id, ts, sender_channel, sender, content, key FROM messages "
            f"WHERE id IN ({listed(len(some))}) AND (key IS NULL OR SUBSTR(key, 1, ?) != ?)",
            *some,
            len(_PREFIX),
            _PREFIX,
        )
    }
    found: dict[int, int] = {}
    for at, (who, letter) in enumerate(zip(senders, letters, strict=True)):
        row = by_id.get(letter.id) if isinstance(letter.id, int) else None
        if (message := by_key.get((who, _key(letter)))) or (row and _is(row, who, letter) and (message := row["id"])):
            found[at] = message
    return found


def _is(row: Row, sender: Address, letter: ArchivedMessage) -> bool:
    """Whether a message with the letter's id, which was not taken in, is the letter."""
    same_sender = Address(row["sender"], row["sender_channel"]) == sender
    return same_sender and row["content"] == letter.body and abs(row["ts"] - letter.ts) < 1e-5


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


def _store_new(
    tx: Transaction,
    channel: str,
    senders: Sequence[Address],
    letters: Sequence[ArchivedMessage],
    known: Mapping[int, int],
) -> tuple[list[int], list[int]]:
    """Store the letters that are not known, without what they answer; the ids of all, and the places of the new."""
    first: dict[tuple[Address, str], int] = {}
    for at, (who, letter) in enumerate(zip(senders, letters, strict=True)):
        if at not in known:
            first.setdefault((who, _key(letter)), at)
    new = list(first.values())
    last = tx.number("SELECT ts FROM messages ORDER BY id DESC LIMIT 1")
    times = [last := columns.next_ts(min(letters[at].ts, tx.now), last) for at in new]
    mailboxes.ensure_all(tx, list({senders[at]: None for at in new}))
    rows = [_row(channel, senders[at], letters[at], ts) for at, ts in zip(new, times, strict=True)]
    stored = {
        row["ts"]: row["id"]
        for some in at_once(rows)
        for row in tx.run(
            "INSERT INTO messages "
            "(ts, channel, sender, sender_channel, recipient, broadcast, content, kind, tags, key) "
            f"VALUES {listed(len(some), 10)} RETURNING id, ts",
            *spread(some),
        ).fetchall()
    }
    by_place = dict(known) | {at: stored[ts] for at, ts in zip(new, times, strict=True)}
    ids = [
        by_place[at] if at in by_place else by_place[first[who, _key(letter)]]
        for at, (who, letter) in enumerate(zip(senders, letters, strict=True))
    ]
    return ids, new


def _row(channel: str, sender: Address, letter: ArchivedMessage, ts: float) -> tuple[Value, ...]:
    return (
        ts,
        channel,
        sender.name,
        sender.channel,
        ", ".join(letter.to) or "all",
        int(not letter.to),
        letter.body,
        letter.kind,
        columns.dump_list(letter.tags),
        _key(letter),
    )


def _answer(tx: Transaction, letters: Sequence[ArchivedMessage], ids: Sequence[int], new: Sequence[int]) -> None:
    """Note what the new letters answer: the message that was taken in last with that id before them."""
    rows: dict[int | str, int] = {}
    here: dict[int, int] = {}
    elsewhere: dict[int, str] = {}
    places = set(new)
    for at, letter in enumerate(letters):
        if at in places and letter.reply_to in rows and letter.reply_to is not None:
            here[ids[at]] = rows[letter.reply_to]
        elif at in places and letter.reply_to is not None:
            elsewhere[ids[at]] = f"{_PREFIX}{json.dumps(letter.reply_to)}#"
        rows[letter.id] = ids[at]
    before = _taken_in(tx, list(dict.fromkeys(elsewhere.values())), {ids[at] for at in new})
    answers = here | {message: before[start] for message, start in elsewhere.items() if start in before}
    for some in at_once([*answers.items()]):
        tx.run(
            f"WITH answers (message, to_message) AS (VALUES {listed(len(some), 2)}) UPDATE messages "
            "SET reply_to = answers.to_message FROM answers WHERE messages.id = answers.message",
            *spread(some),
        )


def _taken_in(tx: Transaction, starts: Sequence[str], new: set[int]) -> dict[str, int]:
    """The last of the messages, but for the new ones, whose key begins with each of these."""
    oldest = min(new, default=0)
    return {
        row["start"]: row["id"]
        for some in at_once(starts)
        for row in tx.all(
            f"WITH wanted (start) AS (VALUES {', '.join(['(?)'] * len(some))}) "
            "SELECT wanted.start, MAX(m.id) AS id FROM wanted "
            "JOIN messages m ON SUBSTR(m.key, 1, LENGTH(wanted.start)) = wanted.start "
            "WHERE m.id < ? GROUP BY wanted.start",
            *some,
            oldest,
        )
    }


@verb(mode="read")
def export_messages(tx: Transaction, channel: str, after: int, limit: int) -> list[ArchivedMessage]:
    """The oldest `limit` messages of a channel after the one with this id; its readers count as acknowledging it."""
    rows = tx.all("SELECT * FROM messages WHERE channel = ? AND id > ? ORDER BY id LIMIT ?", channel, after, limit)
    delivered: dict[int, list[Row]] = defaultdict(list)
    for some in at_once([row["id"] for row in rows]):
        for row in tx.all(
            f"SELECT message, channel, recipient, state IN {_READ} AS seen FROM deliveries "
            f"WHERE message IN ({listed(len(some))}) ORDER BY message, channel, recipient",
            *some,
        ):
            delivered[row["message"]].append(row)
    keys = {
        row["id"]: row["key"]
        for some in at_once([row["reply_to"] for row in rows if row["reply_to"]])
        for row in tx.all(f"SELECT id, key FROM messages WHERE id IN ({listed(len(some))})", *some)
    }
    return [_letter(row, channel, delivered[row["id"]], keys) for row in rows]


def _letter(row: Row, channel: str, to: Sequence[Row], keys: Mapping[int, str | None]) -> ArchivedMessage:
    names = [Address(r["recipient"], r["channel"]).seen_from(channel) for r in to]
    answered = row["reply_to"] if row["reply_to"] in keys else None
    return ArchivedMessage(
        id=_old_id(row["key"], row["id"]),
        ts=row["ts"],
        sender=Address(row["sender"], row["sender_channel"]).seen_from(channel),
        to=() if row["broadcast"] else _addressed(row["recipient"], names),
        body=row["content"],
        tags=columns.load_list(row["tags"]),
        acks=tuple(name for name, r in zip(names, to, strict=True) if r["seen"]),
        kind=row["kind"],
        reply_to=_old_id(keys[answered], answered) if answered else None,
        row=row["id"],
    )


def _addressed(recipient: str, names: Sequence[str]) -> tuple[str, ...]:
    """The names that a message was sent to; whom a glob stood for is known from the deliveries."""
    given = tuple(recipient.split(", "))
    return tuple(names) if any(map(addresses.is_name_glob, given)) else given
