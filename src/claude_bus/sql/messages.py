"""Messages: what is sent, who sees it, and what became of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from .. import addresses, drafts, grants, limits, waking
from ..errors import InvalidInput, NotFound
from ..model.identity import Address
from ..model.messages import DeliveryState, Draft, Expectation, Message, MessageStatus, Receipt, Sent
from ..model.tokens import Grant
from ..names import BROADCASTS
from . import attachments, bindings, columns, deliveries, events, listeners, mailboxes
from .arguments import Content, Me
from .transaction import Row, Transaction
from .verbs import verb

# Those who see a message: its sender, its recipients, and for a broadcast the whole channel.
_VISIBLE = """(
    (m.sender = ? AND m.sender_channel = ?)
    OR (m.broadcast = 1 AND m.channel = ?)
    OR EXISTS (SELECT 1 FROM deliveries v WHERE v.message = m.id AND v.channel = ? AND v.recipient = ?)
)"""


def _visible_to(me: Address) -> tuple[str, ...]:
    """The values for `_VISIBLE`."""
    return me.name, me.channel, me.channel, me.channel, me.name


# -- sending --------------------------------------------------------------------


@verb("send", checks="draft")
def send(tx: Transaction, me: Me, draft: Draft) -> Sent:
    """Store a message and one delivery per recipient, whose listeners are notified.

    Returns what the sender may expect. A name nobody has gets a mailbox; what was
    probably meant is looked for where the caller's grant permits.
    The same `key` from the same sender again changes nothing.
    Raises `InvalidInput` for a glob without a match or a message to oneself only,
    `NotFound` for a `reply_to` that is not the sender's to see, `RateLimited` for a
    session that sent as many messages within a minute as its caller may, or a quarter of
    that to one of the recipients.
    """
    return store(tx, me, draft, rate=tx.caller.rate)


def store(tx: Transaction, me: Address, draft: Draft, *, rate: int = 0) -> Sent:
    """`send`, with a rate of its own (0: any number): what the bus itself says in somebody's name is not limited."""
    drafts.check_draft(draft)
    if draft.key and (earlier := _by_key(tx, me, draft.key)):
        return earlier
    if draft.reply_to is not None:
        _require_visible(tx, me, draft.reply_to)
    recipients, broadcast_in = _resolve(tx, me, draft)
    waking.check_hops(draft.hops)
    session = bindings.holder(tx, me)
    if rate and session:
        _check_rate(tx, me, [] if broadcast_in else list(recipients), rate)
    ts = columns.next_ts(tx.now, tx.number("SELECT ts FROM messages ORDER BY id DESC LIMIT 1"))
    cursor = tx.run(
        "INSERT INTO messages (ts, channel, sender, sender_channel, recipient, broadcast, content, kind, "
        "reply_to, tags, urgent, expires, key, hops, by_program) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ts,
        broadcast_in or me.channel,
        me.name,
        me.channel,
        _addressed(draft.to),
        int(bool(broadcast_in)),
        draft.content,
        draft.kind,
        draft.reply_to,
        columns.dump_list(draft.tags),
        int(draft.urgent),
        None if draft.ttl is None else tx.now + draft.ttl,
        draft.key or None,
        draft.hops,
        int(not session),
    )
    message = cursor.lastrowid
    assert message is not None
    attachments.attach(tx, message, draft.files)
    for who in recipients:
        mailboxes.deliver(tx, message, who)
    if draft.reply_to is not None:
        deliveries.acknowledge(tx, me, draft.reply_to, "reply")
    rings = waking.rings(draft.kind, bool(broadcast_in), draft.urgent, draft.hops)
    quiet = draft.hops >= waking.MAX_HOPS
    expected = [
        _expect(tx, me, who, hint, rings=rings, quiet=quiet, by_program=not session) for who, hint in recipients.items()
    ]
    events.append(tx, me, "send", str(message), _addressed(draft.to))
    tx.notify(listeners.of(tx, list(recipients)))
    return Sent(message, _addressed(draft.to), tuple(expected))


def _addressed(to: tuple[str, ...]) -> str:
    names = ["all" if name.strip() in BROADCASTS else name.strip() for name in to]
    return ", ".join(names)


def _check_rate(tx: Transaction, me: Address, recipients: list[Address], rate: int) -> None:
    window = (me.channel, me.name, tx.now - waking.RATE_WINDOW, tx.now)
    sends = "FROM events e WHERE e.verb = 'send' AND e.channel = ? AND e.actor = ? AND e.ts > ? AND e.ts <= ?"
    all_sent = tx.one(f"SELECT COUNT(*) AS n, MIN(e.ts) AS oldest {sends}", *window)
    assert all_sent
    waking.check_rate(all_sent["n"], rate, all_sent["oldest"] or tx.now, tx.now, "")
    for who in recipients:
        to_one = tx.one(
            f"SELECT COUNT(*) AS n, MIN(e.ts) AS oldest {sends} AND EXISTS (SELECT 1 FROM deliveries d "
            "WHERE d.message = CAST(e.subject AS INTEGER) AND d.channel = ? AND d.recipient = ?)",
            *window,
            who.channel,
            who.name,
        )
        assert to_one
        limit = max(1, rate // 4)
        waking.check_rate(to_one["n"], limit, to_one["oldest"] or tx.now, tx.now, f" to '{who.name}'")


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
    expected = [_expect(tx, me, Address(r["recipient"], r["channel"])) for r in rows]
    return Sent(row["id"], row["recipient"], tuple(expected), duplicate=True)


def _resolve(tx: Transaction, me: Address, draft: Draft) -> tuple[dict[Address, str], str]:
    """Recipients with a hint where there is one, and the channel of the broadcast if it is one."""
    found: dict[Address, str] = {}
    broadcast_in = ""
    guesses = _Guesses(tx.caller.grant)
    expected: set[str] = set()
    for part in draft.to:
        target = addresses.parse_address(part, me.channel)
        if target.name == "all":
            if broadcast_in and broadcast_in != target.channel:
                raise InvalidInput("one message can be broadcast on one channel; send once per channel")
            broadcast_in = target.channel
            found.update(dict.fromkeys(_everybody(tx, target.channel, registered=True), ""))
        elif addresses.is_name_glob(target.name):
            present = _everybody(tx, target.channel, registered=False)
            names = addresses.matching_names(target.name, [a.name for a in present])
            if not [n for n in names if Address(n, target.channel) != me]:
                raise InvalidInput(f"no agent matches {part!r}; agents() lists who is here")
            found.update({Address(n, target.channel): "" for n in names})
        else:
            who, hint = _mailbox(tx, target, guesses, expected)
            found.setdefault(who, hint)
    found.pop(me, None)
    for channel in expected:
        addresses.check_expected_count(mailboxes.expected(tx, channel), channel)
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


def _mailbox(tx: Transaction, target: Address, guesses: _Guesses, expected: set[str]) -> tuple[Address, str]:
    """Where mail for the name goes: itself, its new name, or a new mailbox, whose channel is noted in `expected`."""
    known = tx.one("SELECT last_seen FROM agents WHERE channel = ? AND name = ?", target.channel, target.name)
    if known and known["last_seen"]:
        return target, ""
    renamed = tx.one(
        "SELECT name FROM agents WHERE channel = ? AND formerly = ? AND formerly <> '' ORDER BY last_seen DESC LIMIT 1",
        target.channel,
        target.name,
    )
    if renamed:
        return Address(renamed["name"], target.channel), f"formerly '{target.name}'"
    if not known:
        mailboxes.ensure(tx, target)
        expected.add(target.channel)
    return target, guesses.hint(tx, target)


class _Guesses:
    """Hints for names that nobody ever had here: for the first few of a message, among the names seen last.

    Each costs a comparison with every candidate. Nothing is said of channels that the sender may not use.
    """

    def __init__(self, grant: Grant) -> None:
        self._grant = grant
        self._left = addresses.MAX_GUESSES

    def hint(self, tx: Transaction, target: Address) -> str:
        if not self._left:
            return ""
        self._left -= 1
        return self._elsewhere(tx, target) or self._similar(tx, target)

    def _elsewhere(self, tx: Transaction, target: Address) -> str:
        rows = tx.all(
            "SELECT channel FROM agents WHERE name = ? AND channel != ? AND last_seen > 0 ORDER BY last_seen DESC",
            target.name,
            target.channel,
        )
        there = next((r["channel"] for r in rows if grants.permits_channel(self._grant, r["channel"])), None)
        return f"that name is on channel '{there}': '{target.name}@{there}'" if there else ""

    def _similar(self, tx: Transaction, target: Address) -> str:
        known = tx.all(
            "SELECT name FROM agents WHERE channel = ? AND last_seen > 0 ORDER BY last_seen DESC, name LIMIT ?",
            target.channel,
            addresses.MAX_CANDIDATES,
        )
        guess = addresses.closest_name(target.name, (r["name"] for r in known))
        return f"did you mean '{guess}'?" if guess else ""


def _expect(
    tx: Transaction,
    me: Address,
    who: Address,
    hint: str = "",
    *,
    rings: bool = False,
    quiet: bool = False,
    by_program: bool = False,
) -> Expectation:
    name = who.seen_from(me.channel)
    holder = bindings.holder(tx, who)
    if not holder:
        return _expect_of_absent(tx, who, name, hint)
    if quiet:
        return Expectation(name, "quiet", hint=hint)
    if holder.status == "working" and holder.hooked:
        return Expectation(name, "working", hint=hint)
    if holder.bell and rings:
        wait = waking.wake_wait(holder.woken[by_program], tx.now, by_program=by_program)
        return Expectation(
            name, "waking", hint=hint or (f"in up to {math.ceil(wait)}s: it was woken often" if wait else "")
        )
    return Expectation(name, "idle" if holder.hooked else "inbox", hint=hint)


def _expect_of_absent(tx: Transaction, who: Address, name: str, hint: str) -> Expectation:
    """The expectation for a name that no session has: a program reads when it asks, as long as it does."""
    row = tx.one(
        "SELECT last_seen, registered AND session_id = '' AND cwd = '' AS program FROM agents "
        "WHERE channel = ? AND name = ?",
        who.channel,
        who.name,
    )
    seen = row["last_seen"] if row else 0.0
    if row and row["program"] and 0 <= tx.now - seen < limits.PROGRAM_PRESENT:
        return Expectation(name, "inbox", seen, hint)
    return Expectation(name, "offline" if seen else "unknown", seen, hint)


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


# -- looking back ---------------------------------------------------------------


@verb("message_status", nameless=True)
def status(tx: Transaction, me: Me, message_id: int) -> MessageStatus:
    """How far a message is with each recipient; only its sender and readers may ask.

    The first `limits.MAX_AT_ONCE` recipients by name; the others are counted.
    """
    row = _require_visible(tx, me, message_id)
    _look_after(tx, message_id)
    receipts = tx.all(
        "SELECT * FROM deliveries WHERE message = ? ORDER BY channel, recipient LIMIT ?", message_id, limits.MAX_AT_ONCE
    )
    replies = tx.all(
        f"SELECT m.id, {deliveries.SIZE} AS size FROM messages m WHERE m.reply_to = ? AND {_VISIBLE} "
        "ORDER BY m.id DESC LIMIT ?",
        message_id,
        *_visible_to(me),
        limits.MAX_REPLIES,
    )
    ids = sorted(reply["id"] for reply in replies[: limits.fit_count(reply["size"] for reply in replies)])
    found = deliveries.by_id(tx, ids)
    return MessageStatus(
        id=row["id"],
        ts=row["ts"],
        sender=Address(row["sender"], row["sender_channel"]).seen_from(me.channel),
        recipient=row["recipient"],
        kind=row["kind"],
        receipts=tuple(_receipt(r, me) for r in receipts),
        replies=tuple(deliveries.messages_of(tx, [found[reply] for reply in ids], me)),
        more=tuple(_others(tx, message_id, receipts)),
    )


def _others(tx: Transaction, message: int, shown: list[Row]) -> Iterator[tuple[DeliveryState, int]]:
    """The recipients that are not among those shown, counted by state."""
    if len(shown) < limits.MAX_AT_ONCE:
        return
    those = Counter(row["state"] for row in shown)
    for row in tx.all(
        "SELECT state, COUNT(*) AS n FROM deliveries WHERE message = ? GROUP BY state ORDER BY state", message
    ):
        if row["n"] > those[row["state"]]:
            yield row["state"], row["n"] - those[row["state"]]


def _look_after(tx: Transaction, message: int) -> None:
    """Note what nobody was there to note: a ttl that ran out, a session or server that died after a hand-over."""
    deliveries.expire(tx, "message = ?", message)
    for row in tx.all(
        "SELECT channel, recipient FROM deliveries WHERE message = ? AND state = 'handed' LIMIT ?",
        message,
        limits.MAX_AT_ONCE,
    ):
        who = Address(row["recipient"], row["channel"])
        bindings.holder(tx, who)
        deliveries.recover(tx, who)


@verb("history", mode="read", nameless=True)
def history(
    tx: Transaction,
    me: Me,
    *,
    search: Content = "",
    thread: int | None = None,
    since: int = 0,
    before: int = 0,
    limit: int = 20,
) -> list[Message]:
    """The messages that `me` may see, oldest first: the newest `limit` that match, or as many as fit.

    `search` is looked for in the content, case-insensitively for ASCII; `thread` is any
    message of one conversation; `since` an id after which to look, and `before` one (0: none)
    before which: that of the first message of an answer brings those before them. Consumes nothing.
    """
    where: list[str] = ["m.id > ?", "(? = 0 OR m.id < ?)", _VISIBLE]
    values: list[str | int] = [since, before, before, *_visible_to(me)]
    if search:
        where.append("mentions(m.content, ?)")
        values.append(drafts.check_search(search))
    if thread is not None:
        ids = _thread(tx, thread)
        where.append(f"m.id IN ({', '.join('?' * len(ids))})")
        values.extend(ids)
    rows = tx.all(
        f"SELECT m.id, {deliveries.SIZE} AS size FROM messages m WHERE {' AND '.join(where)} "
        "ORDER BY m.id DESC LIMIT ?",
        *values,
        limits.clamp(limit, limits.MAX_AT_ONCE),
    )
    ids = sorted(row["id"] for row in rows[: limits.fit_count(row["size"] for row in rows)])
    found = deliveries.by_id(tx, ids)
    return deliveries.messages_of(tx, [found[message] for message in ids], me)


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

    The newest stays whatever its age: the order of timestamps hangs on it. Mail that expired
    after that though its sender set no ttl stays too, for the sender to learn it.
    """
    deliveries.expire(tx, "message <= (SELECT MAX(id) FROM messages)")
    return tx.run(
        "DELETE FROM messages WHERE ts < ? AND +id < (SELECT MAX(id) FROM messages) AND NOT EXISTS "  # by time
        "(SELECT 1 FROM deliveries d WHERE d.message = messages.id AND d.state IN ('queued', 'handed')) "
        "AND NOT (broadcast = 0 AND expires IS NULL AND EXISTS (SELECT 1 FROM deliveries d "
        "WHERE d.message = messages.id AND d.state = 'expired' AND d.expired_at >= ?))",
        before,
        before,
    ).rowcount


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
