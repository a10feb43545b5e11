"""The way of each message to each of its recipients. `delivery_states` has the table that the drawing is of.

queued ──hand_over──▶ handed ──confirm──▶ read ──reply──▶ acked
   ▲                     │
   └───────requeue───────┘            queued ──expire──▶ expired
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Annotated, Literal

from .. import documents as answers
from .. import fence, limits, text, waking
from ..delivery_states import Cause
from ..model.identity import Address, Process
from ..model.messages import File, HandOver, Message, Waiting
from . import attachments, columns, listeners, mailboxes
from .arguments import Local, Me, MessageIds, SessionKey
from .mailboxes import UNREAD, applies, becomes
from .transaction import Row, Transaction, Unconfirmed, among, at_once, keys, listed, spread
from .verbs import verb

PRINTED = "command line"
"""The way of mail that a command prints, in the shell of a session or elsewhere."""

MESSAGE = "m.id, m.ts, m.sender, m.sender_channel, m.recipient, m.content, m.kind, m.reply_to, m.tags, m.urgent, m.hops"
"""The columns that `messages_of` needs."""
_WEIGHED = 1_000
"""Unread messages that decide whether and for whom a ring is due: the newest, of however many."""
EARLIER = 2
"""`retained` of a broadcast from long before its recipient joined: it is no news to it."""
SIZE = (
    "(LENGTH(m.content) + LENGTH(m.tags) + LENGTH(m.recipient) + "
    "COALESCE((SELECT SUM(LENGTH(f.path) + 200) FROM attachments f WHERE f.message = m.id), 0))"
)
"""Characters of a message, about."""


@verb("hand_over", with_unconfirmed=True)
def hand_over(
    tx: Transaction,
    me: Me,
    *,
    via: str,
    limit: int = 100,
    max_chars: int,
    at_least_one: bool = False,
    peek: bool = False,
    news_only: Annotated[bool, Local()] = False,
) -> HandOver:
    """The oldest unread messages, as many as fit, marked `handed`.

    `max_chars` bounds their fenced text. With `at_least_one` it bounds what they take in a
    tool's answer, and the first comes even if it is longer, up to `text.MOST_SHOWN`: what the
    client would not show must not count as handed. Neither `max_chars` nor `limit` is ever
    more than one answer carries. `peek` marks nothing. Mail that an earlier process handed
    over and did not live to see confirmed is unread again, and so is the mail of `requeue_unconfirmed`.
    `news_only` leaves broadcasts from long before `me` joined where they are, and uncounted.
    """
    by = tx.caller.process
    recover(tx, me)
    if tx.caller.held is not None:
        requeue_unconfirmed(tx, me, tx.caller.held, prints=via == PRINTED)
    expire(tx, "channel = ? AND recipient = ?", me.channel, me.name)
    below = EARLIER if news_only else EARLIER + 1
    limit, max_chars = limits.clamp(limit, limits.MAX_AT_ONCE), limits.clamp(max_chars, limits.MAX_ANSWER)
    rows = tx.all(
        f"SELECT m.id, {SIZE} AS size, d.attempts, d.retained FROM deliveries d JOIN messages m ON m.id = d.message "
        f"WHERE d.channel = ? AND d.recipient = ? AND d.{UNREAD} AND d.state = 'queued' AND d.retained < ? "
        "ORDER BY d.message LIMIT ?",
        me.channel,
        me.name,
        below,
        limit + 1,
    )
    unread = _first(tx, rows[:limit], me, max_chars)
    count = _answered(unread, max_chars) if at_least_one else len(fence.fitting(unread, fence.SAMPLE_LABEL, max_chars))
    handed = tuple(unread[:count])
    total = len(rows) if len(rows) <= limit else _count_queued(tx, me, "retained < ?", below)
    next_id = rows[count]["id"] if count < len(rows) else 0
    if peek:
        return HandOver(handed, total, next_id)
    unproven = tuple(_unproven(tx, me, by))
    if handed:
        tx.durable()  # after a power cut it waits again, and says that it may have been seen
    for some in at_once([message.id for message in handed]):
        tx.run(
            f"UPDATE deliveries SET {becomes('hand_over')}, attempts = attempts + 1, via = ?, handed_by = ?, "
            f"handed_at = ? WHERE message IN ({listed(len(some))}) AND channel = ? AND recipient = ?",
            via,
            str(by),
            tx.now,
            *some,
            me.channel,
            me.name,
        )
    return HandOver(handed, total - len(handed), next_id, unproven)


def _first(tx: Transaction, rows: Sequence[Row], me: Address, max_chars: int) -> list[Message]:
    """The messages of these rows that may fit, the first anyway: others are not even read.

    The text that is shown of one can be shorter than the stored one, but not by half.
    """
    sizes = list(accumulate(row["size"] for row in rows))
    some = rows[: max(1, sum(size <= 2 * max_chars for size in sizes))]
    found = by_id(tx, [row["id"] for row in some])
    tried = {row["id"] for row in some if row["attempts"]}
    messages = messages_of(tx, [found[row["id"]] for row in some], me)
    retained = {row["id"] for row in some if row["retained"]}
    return [
        replace(
            message,
            possibly_seen=message.id in tried,
            age=max(0.0, tx.now - message.ts) if message.id in retained else 0.0,
        )
        for message in messages
    ]


def _answered(unread: Sequence[Message], max_chars: int) -> int:
    """How many of these one answer of a tool carries."""
    sizes = list(accumulate(map(answers.shown_size, unread)))
    first = bool(sizes) and sizes[0] <= max(max_chars, text.MOST_SHOWN)
    return max(int(first), sum(size <= max_chars for size in sizes))


def by_id(tx: Transaction, ids: Sequence[int]) -> dict[int, Row]:
    """The messages with these ids, as `messages_of` needs them."""
    return {
        row["id"]: row
        for some in at_once(ids)
        for row in tx.all(f"SELECT {MESSAGE} FROM messages m WHERE m.id IN ({listed(len(some))})", *some)
    }


def sizes(tx: Transaction, ids: Sequence[int]) -> dict[int, int]:
    """About how many characters these messages have."""
    if not ids:
        return {}
    rows = tx.all(f"SELECT m.id, {SIZE} AS size FROM messages m WHERE m.id IN ({', '.join('?' * len(ids))})", *ids)
    return {row["id"]: row["size"] for row in rows}


def _unproven(tx: Transaction, me: Address, by: Process) -> dict[int, str]:
    """The hand-overs that `by` made and did not prove, each with its way."""
    rows = tx.all(
        f"SELECT message, via FROM deliveries WHERE channel = ? AND recipient = ? AND {UNREAD} AND state = 'handed' "
        "AND handed_by = ? ORDER BY message",
        me.channel,
        me.name,
        str(by),
    )
    return {row["message"]: row["via"] for row in rows}


def recover(tx: Transaction, me: Address) -> None:
    """Requeue what a process handed over that has died since, without proof."""
    recover_all(tx, [me])


def recover_all(tx: Transaction, whose: Sequence[Address]) -> None:
    """`recover` for several."""
    lost = [_Lost(row) for some in at_once(whose) for row in _handed(tx, some)]
    lost = [one for one in lost if not one.process or not tx.alive(one.process, one.at)]
    heard = listeners.heard_of(tx, {one.process for one in lost if one.process})
    lost = [one for one in lost if not one.process or not tx.alive(one.process, max(one.at, heard.get(one.process, 0)))]
    mailboxes.requeue_of(tx, [(one.who, one.by) for one in lost])


class _Lost:
    """Hand-overs to one agent that a process made which may be gone, and the time of the last."""

    def __init__(self, row: Row) -> None:
        self.who = Address(row["recipient"], row["channel"])
        self.by: str = row["handed_by"]
        self.process = _process(self.by)
        self.at: float = row["at"] or 0.0


def _handed(tx: Transaction, whose: Sequence[Address]) -> list[Row]:
    return tx.all(
        "SELECT channel, recipient, handed_by, MAX(handed_at) AS at FROM deliveries "
        f"WHERE {among('channel, recipient', len(whose))} AND {UNREAD} AND state = 'handed' "
        "GROUP BY channel, recipient, handed_by",
        *keys(whose),
    )


def requeue_unconfirmed(tx: Transaction, me: Address, held: Unconfirmed, *, prints: bool = False) -> int:
    """Requeue the hand-overs that the caller made and does not hold; returns how many.

    For a process elsewhere: an answer that got lost on its way carried mail that no model
    has seen, and the store alone cannot know. `held` is all that it does know to have. Mail
    that a program in the session's shell printed was passed on to it, and is not its to know,
    unless it is (`prints`) such a program itself.
    """
    theirs = [message for message, via in _unproven(tx, me, tx.caller.process).items() if prints or via != PRINTED]
    return withdraw(tx, me, [message for message in theirs if (me, message) not in held])


def _process(column: str) -> Process | None:
    """Parse `host:pid:started`; None if it is malformed."""
    try:
        host, pid, started = column.rsplit(":", 2)
        return Process(host, int(pid), float(started))
    except ValueError:
        return None


def expire(tx: Transaction, where: str, *values: str | int) -> None:
    """Deliveries whose message's ttl ran out while they were queued."""
    over = (
        f"{UNREAD} AND {applies('expire')} AND {where} "
        "AND EXISTS (SELECT 1 FROM messages m WHERE m.id = deliveries.message AND m.expires <= ?)"
    )
    if tx.one(f"SELECT 1 FROM deliveries WHERE {over} LIMIT 1", *values, tx.now):  # who only looks seldom has to write
        tx.run(f"UPDATE deliveries SET {becomes('expire')}, expired_at = ? WHERE {over}", tx.now, *values, tx.now)


def _count_queued(tx: Transaction, me: Address, which: str, retained: int) -> int:
    return int(
        tx.number(
            f"SELECT COUNT(*) FROM deliveries WHERE channel = ? AND recipient = ? AND {UNREAD} AND state = 'queued' "
            f"AND {which}",
            me.channel,
            me.name,
            retained,
        )
    )


def earlier(tx: Transaction, me: Address) -> int:
    """How many broadcasts from long before `me` joined are unread."""
    return _count_queued(tx, me, "retained = ?", EARLIER)


@verb("confirm")
def confirm(tx: Transaction, me: Me, message_ids: MessageIds) -> int:
    """The conversation demonstrably went on after these hand-overs of the caller: they are read."""
    return _settle(tx, me, message_ids, "confirm", "read_at = ?", tx.now)


@verb("withdraw")
def withdraw(tx: Transaction, me: Me, message_ids: MessageIds) -> int:
    """These hand-overs of the caller never reached the conversation: they wait again."""
    return _settle(tx, me, message_ids, "requeue")


@verb("pass_on")
def transfer(tx: Transaction, me: Me, message_ids: MessageIds, to: Process) -> int:
    """The caller's hand-overs reached the conversation that `to` serves, which has to prove them."""
    return _settle(tx, me, message_ids, "transfer", "handed_by = ?", str(to))


def _settle(
    tx: Transaction, me: Address, message_ids: Sequence[int], cause: Cause, more: str = "", *values: float | str
) -> int:
    """Move the hand-overs that the caller made of these messages; returns how many were still open."""
    change = f"{becomes(cause)}{f', {more}' if more else ''}"
    ids = list(dict.fromkeys(message_ids))
    return sum(
        tx.run(
            f"UPDATE deliveries SET {change} WHERE message IN ({listed(len(some))}) "
            f"AND channel = ? AND recipient = ? AND {applies(cause)} AND handed_by = ?",
            *values,
            *some,
            me.channel,
            me.name,
            str(tx.caller.process),
        ).rowcount
        for some in at_once(ids)
    )


Word = Literal["reply", "acknowledge", "import"]
"""The causes that are the recipient's own word."""


def acknowledge(tx: Transaction, me: Address, messages: Sequence[int], word: Word, via: str = "") -> set[int]:
    """Note that `me` says to have had the messages; returns those whose state permitted that.

    A message that nothing handed over before counts as handed over now, through `via`.
    """
    return {
        row["message"]
        for some in at_once(messages)
        for row in tx.run(
            f"UPDATE deliveries SET {_acknowledged(word)} WHERE message IN ({listed(len(some))}) "
            f"AND channel = ? AND recipient = ? AND {applies(word)} RETURNING message",
            tx.now,
            tx.now,
            tx.now,
            via,
            *some,
            me.channel,
            me.name,
        ).fetchall()
    }


def acknowledge_imported(tx: Transaction, said: Sequence[tuple[int, Address]]) -> None:
    """`acknowledge` what recipients of imported messages had said, each of one message."""
    for some in at_once(said):
        tx.run(
            f"UPDATE deliveries SET {_acknowledged('import')} "
            f"WHERE {among('message, channel, recipient', len(some))} AND {applies('import')}",
            tx.now,
            tx.now,
            tx.now,
            "import",
            *spread((message, who.channel, who.name) for message, who in some),
        )


def _acknowledged(word: Word) -> str:
    """The assignments with which a recipient's word moves a delivery; the values are the time, thrice, and the way."""
    return (
        f"{becomes(word)}, acked_at = ?, read_at = COALESCE(read_at, ?), handed_at = COALESCE(handed_at, ?), "
        "via = CASE WHEN state IN ('queued', 'expired') THEN ? ELSE via END, "
        "attempts = attempts + CASE WHEN state IN ('queued', 'expired') THEN 1 ELSE 0 END"
    )


# -- what waits ----------------------------------------------------------------------


@verb("waiting", mode="read", with_unconfirmed=True)
def waiting(tx: Transaction, me: Me) -> Waiting:
    """The unread mail of `me`, with that of `requeue_unconfirmed`, and whether it is a reason to ring."""
    if tx.caller.held is not None:
        requeue_unconfirmed(tx, me, tx.caller.held)
    return unread(tx, me)


def unread(tx: Transaction, me: Address) -> Waiting:
    """The unread mail of `me`, and whether it is a reason to ring."""
    return _waiting(tx, _unread(tx, me), me)


def _waiting(tx: Transaction, rows: Sequence[Row], me: Address) -> Waiting:
    news = _news(rows)
    count, earlier = len(news), len(rows) - len(news)
    if len(rows) == _WEIGHED:
        count, earlier = _count_lasting(tx, me)
    senders = dict.fromkeys(Address(r["sender"], r["sender_channel"]).seen_from(me.channel) for r in news)
    ringing = _ringing(news)
    return Waiting(
        count=count,
        newest=news[-1]["id"] if news else 0,
        senders=tuple(senders),
        rings=bool(ringing),
        by_program=all(row["by_program"] for row in ringing or news),
        earlier=earlier,
    )


_LASTING = (
    f"FROM deliveries d JOIN messages m ON m.id = d.message WHERE d.channel = ? AND d.recipient = ? AND d.{UNREAD} "
    "AND d.state = 'queued' AND (m.expires IS NULL OR m.expires > ?)"
)
"""Unread mail that has not run out."""


def _unread(tx: Transaction, me: Address) -> list[Row]:
    """The newest unread messages, as many as are weighed, oldest first."""
    rows = tx.all(
        "SELECT m.id, m.sender, m.sender_channel, m.kind, m.broadcast, m.urgent, m.by_program, m.hops, d.retained "
        f"{_LASTING} ORDER BY d.message DESC LIMIT ?",
        me.channel,
        me.name,
        tx.now,
        _WEIGHED,
    )
    return rows[::-1]


def _count_lasting(tx: Transaction, me: Address) -> tuple[int, int]:
    """How many messages are unread: those that are news, and the others."""
    row = tx.one(
        f"SELECT COUNT(*) AS n, SUM(CASE WHEN d.retained < ? THEN 1 ELSE 0 END) AS news {_LASTING}",
        EARLIER,
        me.channel,
        me.name,
        tx.now,
    )
    assert row
    return row["news"] or 0, row["n"] - (row["news"] or 0)


def _news(rows: Sequence[Row]) -> list[Row]:
    """All but broadcasts from long before the reader joined."""
    return [row for row in rows if row["retained"] < EARLIER]


def _ringing(news: Sequence[Row]) -> list[Row]:
    """Those that are a reason to wake a session."""
    return [r for r in news if waking.rings(r["kind"], bool(r["broadcast"]), bool(r["urgent"]), r["hops"])]


def continues(tx: Transaction, me: Address) -> bool:
    """Whether unread mail is a reason to go on with a turn that would end."""
    row = tx.one(
        "SELECT 1 FROM deliveries d JOIN messages m ON m.id = d.message "
        f"WHERE d.channel = ? AND d.recipient = ? AND d.{UNREAD} AND d.retained < ? AND m.hops < ? LIMIT 1",
        me.channel,
        me.name,
        EARLIER,
        waking.MAX_HOPS,
    )
    return row is not None


@verb("ring", mode="read")
def ring(tx: Transaction, client: SessionKey, *, idle: bool, owed: bool = False) -> tuple[Waiting, int] | None:
    """Take the right to ring for the client's unread mail, if a ring is due.

    Returns the mail and how often this batch rang before. Two servers of one session
    both ask; one gets it. `idle` says the caller knows the session is idle even
    though its last event said otherwise; `owed`, that its turn ended just now although it would
    have gone on for this mail: that rings whatever mail it is.
    """
    row = tx.one("SELECT * FROM bindings WHERE client = ?", client)
    if not row or not row["bell"]:
        return None
    me = Address(row["agent"], row["channel"])
    status = tx.one("SELECT status FROM agents WHERE channel = ? AND name = ?", me.channel, me.name)
    if not idle and status and status["status"] != "idle":
        return None
    rows = _unread(tx, me)
    mail, news = _waiting(tx, rows, me), _news(rows)
    if not (mail.rings or (owed and mail.count)):
        return None
    same_batch = any(each["id"] <= row["rung_upto"] for each in news)
    rings = row["rings"] if same_batch else 0
    if any(each["id"] > row["rung_upto"] for each in _ringing(news)):  # also behind what the session never reads
        rings = min(rings, len(waking.RING_AFTER) - 1)
    since = abs(tx.now - row["rung_at"])
    budget = "woken_by_programs" if mail.by_program else "woken_by_sessions"
    if not waking.ring_due(rings, since) or waking.wake_wait(row[budget], tx.now, by_program=mail.by_program):
        return None
    tx.run(
        f"UPDATE bindings SET rung_upto = ?, rung_at = ?, rings = ?, {budget} = ? WHERE client = ?",
        mail.newest,
        tx.now,
        rings + 1,
        waking.wake_spent(row[budget], tx.now, by_program=mail.by_program),
        client,
    )
    return mail, rings


def open_requests(tx: Transaction, me: Address) -> list[Message]:
    """Requests `me` has read and not answered, and was not reminded of (`note_recalled`); the oldest ten."""
    rows = tx.all(
        f"SELECT {MESSAGE} FROM deliveries d JOIN messages m ON m.id = d.message "
        "WHERE d.channel = ? AND d.recipient = ? AND d.state = 'read' AND d.recalled = 0 AND m.kind = 'request' "
        "ORDER BY d.message LIMIT 10",
        me.channel,
        me.name,
    )
    return messages_of(tx, rows, me)


def note_recalled(tx: Transaction, me: Address, message_ids: Sequence[int]) -> None:
    """Note that `me` was reminded of these, which happens once."""
    for some in at_once(message_ids):
        tx.run(
            f"UPDATE deliveries SET recalled = 1 WHERE message IN ({listed(len(some))}) "
            "AND channel = ? AND recipient = ?",
            *some,
            me.channel,
            me.name,
        )


def messages_of(tx: Transaction, rows: Sequence[Row], me: Address) -> list[Message]:
    """The messages in these rows, as `me` sees them."""
    return messages_seen(tx, [(row, me) for row in rows])


def messages_seen(tx: Transaction, rows: Sequence[tuple[Row, Address]]) -> list[Message]:
    """The messages in these rows, each as its reader sees it."""
    files = attachments.of(tx, list({row["id"] for row, _ in rows}))
    return [_message(row, reader, files.get(row["id"], ())) for row, reader in rows]


def _message(row: Row, me: Address, files: tuple[File, ...]) -> Message:
    return Message(
        id=row["id"],
        ts=row["ts"],
        sender=Address(row["sender"], row["sender_channel"]).seen_from(me.channel),
        to=row["recipient"],
        content=row["content"],
        kind=row["kind"],
        reply_to=row["reply_to"],
        tags=columns.load_list(row["tags"]),
        urgent=bool(row["urgent"]),
        hops=row["hops"],
        files=files,
    )
