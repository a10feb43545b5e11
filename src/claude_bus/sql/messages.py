"""Messages, and the way of each to each of its recipients.

queued ──hand_over──▶ handed ──confirm──▶ read ──reply──▶ acked
   ▲                     │
   └──────requeue────────┘            queued ──ttl──▶ expired
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import rules, text
from ..errors import InvalidInput, NotFound
from ..model import (
    Address,
    Draft,
    Expectation,
    HandOver,
    Message,
    MessageStatus,
    Process,
    Receipt,
    Sent,
    Waiting,
)
from . import bindings, events, listeners, mailboxes
from .transaction import Row, Transaction

_MESSAGE = "m.id, m.ts, m.sender, m.sender_channel, m.recipient, m.content, m.kind, m.reply_to, m.tags, m.urgent"

# Who sees a message: its sender, its recipients, and for a broadcast the whole channel.
_VISIBLE = """(
    (m.sender = ? AND m.sender_channel = ?)
    OR (m.broadcast = 1 AND m.channel = ?)
    OR EXISTS (SELECT 1 FROM deliveries v WHERE v.message = m.id AND v.channel = ? AND v.recipient = ?)
)"""


def _visible_to(me: Address) -> tuple[str, ...]:
    """The values for `_VISIBLE`."""
    return me.name, me.channel, me.channel, me.channel, me.name


# -- sending --------------------------------------------------------------------


def send(tx: Transaction, me: Address, draft: Draft) -> tuple[Sent, tuple[str, ...]]:
    """Store a message and one delivery per recipient.

    Returns what the sender may expect, and the listeners to tell. A name nobody has
    gets a mailbox. The same `key` from the same sender again changes nothing.
    Raises `InvalidInput` for a glob without a match or a message to oneself only,
    `NotFound` for a `reply_to` that is not the sender's to see.
    """
    rules.check_draft(draft)
    if draft.key and (earlier := _by_key(tx, me, draft.key)):
        return earlier, ()
    if draft.reply_to is not None:
        _require_visible(tx, me, draft.reply_to)
    recipients, broadcast_in = _resolve(tx, me, draft)
    ts = rules.next_ts(tx.now, tx.number("SELECT ts FROM messages ORDER BY id DESC LIMIT 1"))
    cursor = tx.run(
        "INSERT INTO messages (ts, channel, sender, sender_channel, recipient, broadcast, content, kind, "
        "reply_to, tags, urgent, expires, key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ts,
        broadcast_in or me.channel,
        me.name,
        me.channel,
        _addressed(draft.to),
        int(bool(broadcast_in)),
        draft.content,
        draft.kind,
        draft.reply_to,
        rules.dump_list(draft.tags),
        int(draft.urgent),
        None if draft.ttl is None else tx.now + draft.ttl,
        draft.key or None,
    )
    message = cursor.lastrowid
    assert message is not None
    for who in recipients:
        tx.run("INSERT INTO deliveries (message, channel, recipient) VALUES (?, ?, ?)", message, who.channel, who.name)
    if draft.reply_to is not None:
        _acknowledge(tx, me, draft.reply_to)
    rings = rules.rings(draft.kind, bool(broadcast_in), draft.urgent)
    expected = [_expect(tx, me, who, rings, hint) for who, hint in recipients.items()]
    events.append(tx, me, "send", str(message), _addressed(draft.to))
    sent = Sent(message, _addressed(draft.to), tuple(expected))
    return sent, listeners.of(tx, list(recipients))


def _addressed(to: tuple[str, ...]) -> str:
    names = ["all" if name.strip() in rules.BROADCASTS else name.strip() for name in to]
    return ", ".join(names)


def _by_key(tx: Transaction, me: Address, key: str) -> Sent | None:
    row = tx.one(
        "SELECT id, recipient FROM messages WHERE sender_channel = ? AND sender = ? AND key = ?",
        me.channel,
        me.name,
        key,
    )
    if not row:
        return None
    rows = tx.all("SELECT channel, recipient FROM deliveries WHERE message = ? ORDER BY recipient", row["id"])
    expected = [_expect(tx, me, Address(r["recipient"], r["channel"]), False, "") for r in rows]
    return Sent(row["id"], row["recipient"], tuple(expected), duplicate=True)


def _resolve(tx: Transaction, me: Address, draft: Draft) -> tuple[dict[Address, str], str]:
    """Recipients with a hint each, and the channel of the broadcast if it is one."""
    found: dict[Address, str] = {}
    broadcast_in = ""
    for part in draft.to:
        target = rules.parse_address(part, me.channel)
        if target.name == "all":
            if broadcast_in and broadcast_in != target.channel:
                raise InvalidInput("one message can be broadcast on one channel; send once per channel")
            broadcast_in = target.channel
            found.update(dict.fromkeys(_everybody(tx, target.channel, registered=True), ""))
        elif rules.is_name_glob(target.name):
            present = _everybody(tx, target.channel, registered=False)
            names = rules.select(target.name, [a.name for a in present])
            if not [n for n in names if n != me.name]:
                raise InvalidInput(f"no agent matches {part!r}; agents() lists who is here")
            found.update({Address(n, target.channel): "" for n in names})
        else:
            who, hint = _mailbox(tx, target)
            found.setdefault(who, hint)
    found.pop(me, None)
    if not found and not broadcast_in:
        raise InvalidInput("that is yourself: name another recipient, or use set_state to keep a note")
    return found, broadcast_in


def _everybody(tx: Transaction, channel: str, *, registered: bool) -> list[Address]:
    """Registered agents; with `registered=False` also sessions that are only present."""
    rows = tx.all(
        "SELECT name FROM agents WHERE channel = ? AND (registered = 1 OR (? = 0 AND last_seen > 0)) ORDER BY name",
        channel,
        int(registered),
    )
    return [Address(r["name"], channel) for r in rows]


def _mailbox(tx: Transaction, target: Address) -> tuple[Address, str]:
    """Where mail for the name goes: itself, its new name, or a new mailbox."""
    known = tx.one("SELECT last_seen FROM agents WHERE channel = ? AND name = ?", target.channel, target.name)
    if known and known["last_seen"]:
        return target, ""
    renamed = tx.one(
        "SELECT name FROM agents WHERE channel = ? AND formerly = ? ORDER BY last_seen DESC LIMIT 1",
        target.channel,
        target.name,
    )
    if renamed:
        return Address(renamed["name"], target.channel), f"formerly '{target.name}'"
    mailboxes.ensure(tx, target)
    return target, _meant(tx, target)


def _meant(tx: Transaction, target: Address) -> str:
    """A hint for a name nobody ever had here."""
    elsewhere = tx.one(
        "SELECT channel FROM agents WHERE name = ? AND channel != ? AND last_seen > 0 ORDER BY last_seen DESC LIMIT 1",
        target.name,
        target.channel,
    )
    if elsewhere:
        return f"that name is on channel '{elsewhere['channel']}': '{target.name}@{elsewhere['channel']}'"
    known = tx.all("SELECT name FROM agents WHERE channel = ? AND last_seen > 0", target.channel)
    guess = rules.similar(target.name, (r["name"] for r in known))
    return f"did you mean '{guess}'?" if guess else ""


def _expect(tx: Transaction, me: Address, who: Address, rings: bool, hint: str) -> Expectation:
    name = who.seen_from(me.channel)
    holder = bindings.holder(tx, who)
    if not holder:
        seen = tx.number("SELECT last_seen FROM agents WHERE channel = ? AND name = ?", who.channel, who.name)
        return Expectation(name, "offline" if seen else "unknown", seen, hint)
    if holder.status == "working":
        return Expectation(name, "working", hint=hint)
    bell = tx.number("SELECT bell FROM bindings WHERE client = ?", holder.client)
    return Expectation(name, "waking" if bell and rings else "idle", hint=hint)


def _require_visible(tx: Transaction, me: Address, message: int) -> Row:
    row = tx.one(
        "SELECT m.id, m.ts, m.sender, m.sender_channel, m.recipient, m.kind FROM messages m "
        f"WHERE m.id = ? AND {_VISIBLE}",
        message,
        *_visible_to(me),
    )
    if not row:
        raise NotFound(f"no message with id {message}", message_id=message)
    return row


def _acknowledge(tx: Transaction, me: Address, message: int) -> None:
    """An answer is the explicit acknowledgement of what it answers."""
    tx.run(
        "UPDATE deliveries SET state = 'acked', acked_at = ?, read_at = COALESCE(read_at, ?) "
        "WHERE message = ? AND channel = ? AND recipient = ? AND state IN ('handed', 'read')",
        tx.now,
        tx.now,
        message,
        me.channel,
        me.name,
    )


# -- reading --------------------------------------------------------------------


def hand_over(
    tx: Transaction,
    me: Address,
    *,
    limit: int,
    max_chars: int,
    by: Process,
    via: str,
    at_least_one: bool = False,
    peek: bool = False,
) -> HandOver:
    """The oldest unread messages, as many as fit, marked `handed`.

    `max_chars` bounds their fenced text; with `at_least_one` the first comes whatever
    its size. `peek` marks nothing. What an earlier process handed over and did not
    live to see confirmed is unread again.
    """
    _recover(tx, me, by)
    _expire(tx, "channel = ? AND recipient = ?", me.channel, me.name)
    rows = tx.all(
        f"SELECT {_MESSAGE}, d.attempts FROM deliveries d JOIN messages m ON m.id = d.message "
        "WHERE d.channel = ? AND d.recipient = ? AND d.state = 'queued' ORDER BY d.message LIMIT ?",
        me.channel,
        me.name,
        limit,
    )
    unread = [_message(row, me, row["attempts"] > 0) for row in rows]
    count = len(text.fitting(unread, text.SAMPLE_LABEL, max_chars))
    count = max(count, int(at_least_one and bool(unread)))
    handed = tuple(unread[:count])
    total = int(_count_queued(tx, me))
    next_id = unread[count].id if count < len(unread) else 0
    if peek:
        return HandOver(handed, total, next_id)
    unproven = _unproven(tx, me, by)
    for message in handed:
        tx.run(
            "UPDATE deliveries SET state = 'handed', attempts = attempts + 1, via = ?, handed_by = ?, handed_at = ? "
            "WHERE message = ? AND channel = ? AND recipient = ?",
            via,
            str(by),
            tx.now,
            message.id,
            me.channel,
            me.name,
        )
    return HandOver(handed, total - len(handed), next_id, unproven)


def _unproven(tx: Transaction, me: Address, by: Process) -> tuple[int, ...]:
    rows = tx.all(
        "SELECT message FROM deliveries WHERE channel = ? AND recipient = ? AND state = 'handed' AND handed_by = ? "
        "ORDER BY message",
        me.channel,
        me.name,
        str(by),
    )
    return tuple(r["message"] for r in rows)


def _recover(tx: Transaction, me: Address, by: Process) -> None:
    """Requeue what a process handed over that has died since, without proof."""
    rows = tx.all(
        "SELECT DISTINCT handed_by FROM deliveries "
        "WHERE channel = ? AND recipient = ? AND state = 'handed' AND handed_by != ?",
        me.channel,
        me.name,
        str(by),
    )
    for row in rows:
        host, pid, started = row["handed_by"].rsplit(":", 2)
        if not tx.alive(Process(host, int(pid), float(started)), tx.now):
            mailboxes.requeue(tx, me, row["handed_by"])


def _expire(tx: Transaction, where: str, *values: str | int) -> None:
    """Deliveries whose message's ttl ran out while they were queued."""
    tx.run(
        f"UPDATE deliveries SET state = 'expired', expired_at = ? WHERE state = 'queued' AND {where} "
        "AND message IN (SELECT id FROM messages WHERE expires <= ?)",
        tx.now,
        *values,
        tx.now,
    )


def _count_queued(tx: Transaction, me: Address) -> float:
    return tx.number(
        "SELECT COUNT(*) FROM deliveries WHERE channel = ? AND recipient = ? AND state = 'queued'",
        me.channel,
        me.name,
    )


def confirm(tx: Transaction, me: Address, messages: Sequence[int], by: Process) -> int:
    """The conversation demonstrably went on after these hand-overs of `by`: they are read."""
    return _settle(tx, me, messages, by, "state = 'read', read_at = ?", tx.now)


def withdraw(tx: Transaction, me: Address, messages: Sequence[int], by: Process) -> int:
    """These hand-overs of `by` never reached the conversation: they wait again."""
    return _settle(tx, me, messages, by, "state = 'queued'")


def _settle(tx: Transaction, me: Address, messages: Sequence[int], by: Process, change: str, *values: float) -> int:
    """End the hand-overs that `by` made of these messages and that are still open; returns how many."""
    return sum(
        tx.run(
            f"UPDATE deliveries SET {change} WHERE message = ? AND channel = ? AND recipient = ? "
            "AND state = 'handed' AND handed_by = ?",
            *values,
            message,
            me.channel,
            me.name,
            str(by),
        ).rowcount
        for message in messages
    )


def waiting(tx: Transaction, me: Address) -> Waiting:
    """What is unread for `me`, and whether it is a reason to ring."""
    rows = tx.all(
        "SELECT m.id, m.sender, m.sender_channel, m.kind, m.broadcast, m.urgent FROM deliveries d "
        "JOIN messages m ON m.id = d.message WHERE d.channel = ? AND d.recipient = ? AND d.state = 'queued' "
        "AND (m.expires IS NULL OR m.expires > ?) ORDER BY d.message",
        me.channel,
        me.name,
        tx.now,
    )
    senders = dict.fromkeys(Address(r["sender"], r["sender_channel"]).seen_from(me.channel) for r in rows)
    return Waiting(
        count=len(rows),
        newest=rows[-1]["id"] if rows else 0,
        senders=tuple(senders),
        rings=any(rules.rings(r["kind"], bool(r["broadcast"]), bool(r["urgent"])) for r in rows),
    )


def ring(tx: Transaction, client: str, *, idle: bool) -> tuple[Waiting, int] | None:
    """Take the right to ring for the client's unread mail, if a ring is due.

    Returns the mail and how often this batch rang before. Two servers of one session
    both ask; one gets it. `idle` says the caller knows the session is idle even
    though its last event said otherwise.
    """
    row = tx.one("SELECT channel, agent, bell, rung_upto, rung_at, rings FROM bindings WHERE client = ?", client)
    if not row or not row["bell"]:
        return None
    me = Address(row["agent"], row["channel"])
    status = tx.one("SELECT status FROM agents WHERE channel = ? AND name = ?", me.channel, me.name)
    if not idle and status and status["status"] != "idle":
        return None
    mail = waiting(tx, me)
    if not mail.rings:
        return None
    same_batch = tx.one(
        "SELECT 1 FROM deliveries WHERE channel = ? AND recipient = ? AND state = 'queued' AND message <= ?",
        me.channel,
        me.name,
        row["rung_upto"],
    )
    rings = row["rings"] if same_batch else 0
    since = abs(tx.now - row["rung_at"])
    if not rules.ring_due(rings, since):
        return None
    tx.run(
        "UPDATE bindings SET rung_upto = ?, rung_at = ?, rings = ? WHERE client = ?",
        mail.newest,
        tx.now,
        rings + 1,
        client,
    )
    return mail, rings


def recall_requests(tx: Transaction, me: Address) -> list[Message]:
    """Requests `me` has read and not answered, each returned once."""
    rows = tx.all(
        f"SELECT {_MESSAGE} FROM deliveries d JOIN messages m ON m.id = d.message "
        "WHERE d.channel = ? AND d.recipient = ? AND d.state = 'read' AND d.recalled = 0 AND m.kind = 'request' "
        "ORDER BY d.message LIMIT 10",
        me.channel,
        me.name,
    )
    for row in rows:
        tx.run(
            "UPDATE deliveries SET recalled = 1 WHERE message = ? AND channel = ? AND recipient = ?",
            row["id"],
            me.channel,
            me.name,
        )
    return [_message(row, me, False) for row in rows]


# -- looking back ---------------------------------------------------------------


def status(tx: Transaction, me: Address, message: int) -> MessageStatus:
    """How far a message is with each recipient; only its sender and readers may ask."""
    row = _require_visible(tx, me, message)
    _expire(tx, "message = ?", message)
    receipts = tx.all("SELECT * FROM deliveries WHERE message = ? ORDER BY channel, recipient", message)
    replies = tx.all("SELECT id FROM messages WHERE reply_to = ? ORDER BY id", message)
    return MessageStatus(
        id=row["id"],
        ts=row["ts"],
        sender=Address(row["sender"], row["sender_channel"]).seen_from(me.channel),
        recipient=row["recipient"],
        kind=row["kind"],
        receipts=tuple(_receipt(r, me) for r in receipts),
        replies=tuple(r["id"] for r in replies),
    )


def history(
    tx: Transaction, me: Address, *, search: str = "", thread: int | None = None, since: int = 0, limit: int = 20
) -> list[Message]:
    """What `me` may see of what was said, oldest first: the newest `limit` that match.

    `search` is looked for in the content, case-insensitively for ASCII; `thread` is any
    message of one conversation; `since` an id after which to look. Consumes nothing.
    """
    where: list[str] = ["m.id > ?", _VISIBLE]
    values: list[str | int] = [since, *_visible_to(me)]
    if search:
        pattern = search.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        where.append("LOWER(m.content) LIKE LOWER(?) ESCAPE '!'")
        values.append(f"%{pattern}%")
    if thread is not None:
        ids = _thread(tx, thread)
        where.append(f"m.id IN ({', '.join('?' * len(ids))})")
        values.extend(ids)
    rows = tx.all(
        f"SELECT {_MESSAGE} FROM messages m WHERE {' AND '.join(where)} ORDER BY m.id DESC LIMIT ?", *values, limit
    )
    return [_message(row, me, False) for row in reversed(rows)]


def _thread(tx: Transaction, message: int) -> list[int]:
    """Ids of the conversation a message belongs to: its root and all answers below."""
    root, climbed = message, {message}
    while (up := int(tx.number("SELECT reply_to FROM messages WHERE id = ?", root))) and up not in climbed:
        climbed.add(root := up)
    rows = tx.all(
        "WITH RECURSIVE t (id) AS (SELECT ? UNION SELECT m.id FROM messages m JOIN t ON m.reply_to = t.id) "
        "SELECT id FROM t LIMIT 10000",
        root,
    )
    return [r["id"] for r in rows]


def prune(tx: Transaction, before: float) -> int:
    """Forget messages older than `before` that nobody has unread; returns how many.

    The newest stays whatever its age: the order of timestamps hangs on it.
    """
    _expire(tx, "message <= (SELECT MAX(id) FROM messages)")
    return tx.run(
        "DELETE FROM messages WHERE ts < ? AND id < (SELECT MAX(id) FROM messages) AND NOT EXISTS "
        "(SELECT 1 FROM deliveries d WHERE d.message = messages.id AND d.state IN ('queued', 'handed'))",
        before,
    ).rowcount


# -- rows -----------------------------------------------------------------------


def _message(row: Row, me: Address, possibly_seen: bool) -> Message:
    return Message(
        id=row["id"],
        ts=row["ts"],
        sender=Address(row["sender"], row["sender_channel"]).seen_from(me.channel),
        to=row["recipient"],
        content=row["content"],
        kind=row["kind"],
        reply_to=row["reply_to"],
        tags=rules.load_list(row["tags"]),
        urgent=bool(row["urgent"]),
        possibly_seen=possibly_seen,
    )


def _receipt(row: Row, me: Address) -> Receipt:
    return Receipt(
        recipient=Address(row["recipient"], row["channel"]).seen_from(me.channel),
        state=row["state"],
        via=row["via"],
        attempts=row["attempts"],
        handed_at=row["handed_at"],
        read_at=row["read_at"],
        acked_at=row["acked_at"],
        expired_at=row["expired_at"],
    )
