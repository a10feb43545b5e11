"""Messages: what is sent, who sees it, and what became of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .. import addresses, drafts, grants, limits, waking
from ..errors import InvalidInput, NotFound
from ..model.identity import Address, Binding
from ..model.messages import DeliveryState, Draft, Expectation, History, Message, MessageStatus, Receipt, Sent
from ..names import BROADCASTS
from . import attachments, bindings, columns, deliveries, events, listeners, mailboxes
from . import search as searching
from .arguments import Content, Me
from .transaction import Row, Transaction, Value, among, at_once, keys, listed, spread
from .verbs import verb
from .visibility import VISIBLE, visible_to

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
    message, _ = _deliver(tx, me, draft, list(recipients), broadcast_in, by_program=not session)
    rings = waking.rings(draft.kind, bool(broadcast_in), draft.urgent, draft.hops)
    outlook = _Outlook(rings=rings, quiet=draft.hops >= waking.MAX_HOPS, by_program=not session)
    expected = _expect(tx, me, recipients, outlook)
    return Sent(message, _addressed(draft.to), expected)


def store_for_program(tx: Transaction, me: Address, draft: Draft) -> tuple[int, float]:
    """`send` by a program, which takes part already and is not told what to expect; returns the message's id and time.

    It does not look for what only such an answer needs: who is there, and whom an unknown name may mean.
    """
    drafts.check_draft(draft)
    assert not draft.key, "who gives a key wants to be told of what was sent before"
    if draft.reply_to is not None:
        _require_visible(tx, me, draft.reply_to)
    recipients, broadcast_in = _resolve(tx, me, draft, hinting=False)
    waking.check_hops(draft.hops)
    return _deliver(tx, me, draft, list(recipients), broadcast_in, by_program=True)


def _deliver(
    tx: Transaction, me: Address, draft: Draft, recipients: list[Address], broadcast_in: str, *, by_program: bool
) -> tuple[int, float]:
    """Store a message for its recipients, and have it announced; returns its id and time."""
    [(message, ts)] = _insert(tx, me, [draft], broadcast_in, by_program=by_program)
    attachments.attach(tx, message, draft.files)
    mailboxes.deliver(tx, {message: recipients})
    if draft.reply_to is not None:
        deliveries.acknowledge(tx, me, [draft.reply_to], "reply")
    events.append(tx, me, "send", str(message), _addressed(draft.to))
    tx.notify(listeners.of(tx, recipients))
    return message, ts


def tell(tx: Transaction, me: Address, notes: Sequence[tuple[str, str]]) -> None:
    """Send each of these names on the channel a note of its own in the name of `me`, which needs no answer."""
    letters = [Draft((name,), content, kind="fyi") for name, content in notes]
    for draft in letters:
        drafts.check_draft(draft)
    where, _ = _mailboxes(tx, list({Address(name, me.channel): None for name, _ in notes}))
    to = [where[Address(name, me.channel)].who for name, _ in notes]
    messages = [i for i, _ in _insert(tx, me, letters, "", by_program=not bindings.holder(tx, me))]
    mailboxes.deliver(tx, {message: [who] for message, who in zip(messages, to, strict=True)})
    events.append_all(tx, [(me, "send", str(m), name) for m, (name, _) in zip(messages, notes, strict=True)])
    tx.notify(listeners.of(tx, list(dict.fromkeys(to))))


def _insert(
    tx: Transaction, me: Address, letters: Sequence[Draft], broadcast_in: str, *, by_program: bool
) -> list[tuple[int, float]]:
    """Store what the messages say, with increasing times; returns their ids and times."""
    tx.durable()
    last = tx.number("SELECT ts FROM messages ORDER BY id DESC LIMIT 1")
    times = [last := columns.next_ts(tx.now, last) for _ in letters]
    rows: list[tuple[Value, ...]] = [
        (
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
            int(by_program),
        )
        for ts, draft in zip(times, letters, strict=True)
    ]
    ids = {
        row["ts"]: row["id"]
        for some in at_once(rows)
        for row in tx.run(
            "INSERT INTO messages (ts, channel, sender, sender_channel, recipient, broadcast, content, kind, "
            f"reply_to, tags, urgent, expires, key, hops, by_program) VALUES {listed(len(some), 15)} RETURNING id, ts",
            *spread(some),
        ).fetchall()
    }
    return [(ids[ts], ts) for ts in times]


def _addressed(to: tuple[str, ...]) -> str:
    names = ["all" if name.strip() in BROADCASTS else name.strip() for name in to]
    return ", ".join(names)


def _check_rate(tx: Transaction, me: Address, recipients: list[Address], rate: int) -> None:
    window = (me.channel, me.name, tx.now - waking.RATE_WINDOW, tx.now)
    sends = "e.verb = 'send' AND e.channel = ? AND e.actor = ? AND e.ts > ? AND e.ts <= ?"
    all_sent = tx.one(f"SELECT COUNT(*) AS n, MIN(e.ts) AS oldest FROM events e WHERE {sends}", *window)
    assert all_sent
    waking.check_rate(all_sent["n"], rate, all_sent["oldest"] or tx.now, tx.now, "")
    if not all_sent["n"]:
        return
    to_each = {
        Address(row["recipient"], row["channel"]): row
        for some in at_once(recipients)
        for row in tx.all(
            "SELECT d.channel, d.recipient, COUNT(*) AS n, MIN(e.ts) AS oldest FROM events e "
            f"JOIN deliveries d ON d.message = CAST(e.subject AS INTEGER) WHERE {sends} "
            f"AND {among('d.channel, d.recipient', len(some))} GROUP BY d.channel, d.recipient",
            *window,
            *keys(some),
        )
    }
    for who in recipients:
        if to_one := to_each.get(who):
            waking.check_rate(to_one["n"], max(1, rate // 4), to_one["oldest"], tx.now, f" to '{who.name}'")


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
    expected = _expect(tx, me, {Address(r["recipient"], r["channel"]): "" for r in rows}, _Outlook())
    return Sent(row["id"], row["recipient"], expected, duplicate=True)


def _resolve(tx: Transaction, me: Address, draft: Draft, *, hinting: bool = True) -> tuple[dict[Address, str], str]:
    """Recipients with a hint where there is one, and the channel of the broadcast if it is one."""
    found: dict[Address, str] = {}
    broadcast_in = ""
    targets = [(part, addresses.parse_address(part, me.channel)) for part in draft.to]
    several = [target for _, target in targets if target.name == "all" or addresses.is_name_glob(target.name)]
    present = _present(tx, list(dict.fromkeys(target.channel for target in several if target.name != "all")))
    named = list({target: None for _, target in targets if target not in several})
    where, expected = _mailboxes(tx, named, hinting=hinting)
    for part, target in targets:
        if target.name == "all":
            if broadcast_in and broadcast_in != target.channel:
                raise InvalidInput("one message can be broadcast on one channel; send once per channel")
            found.update({} if broadcast_in else dict.fromkeys(_registered(tx, target.channel), ""))
            broadcast_in = target.channel
        elif target in where:
            found.setdefault(where[target].who, where[target].hint)
        else:
            names = addresses.matching_names(target.name, present.get(target.channel, []))
            if not [n for n in names if Address(n, target.channel) != me]:
                raise InvalidInput(f"no agent matches {part!r}; agents() lists who is here")
            found.update({Address(n, target.channel): "" for n in names})
    found.pop(me, None)
    for channel, count in mailboxes.expected(tx, expected).items():
        addresses.check_expected_count(count, channel)
    if not found and not broadcast_in:
        raise InvalidInput("that is yourself: name another recipient, or use set_state to keep a note")
    return found, broadcast_in


def _registered(tx: Transaction, channel: str) -> list[Address]:
    rows = tx.all("SELECT name FROM agents WHERE channel = ? AND registered = 1 ORDER BY name", channel)
    return [Address(row["name"], channel) for row in rows]


def _present(tx: Transaction, channels: list[str]) -> dict[str, list[str]]:
    """The names on each channel of agents that registered, or of sessions that are only present."""
    found: dict[str, list[str]] = {}
    for some in at_once(channels):
        for row in tx.all(
            f"SELECT channel, name FROM agents WHERE channel IN ({listed(len(some))}) "
            "AND (registered = 1 OR last_seen > 0) ORDER BY name",
            *some,
        ):
            found.setdefault(row["channel"], []).append(row["name"])
    return found


@dataclass(frozen=True, slots=True)
class _Mailbox:
    """Where mail for a name goes, and what its sender may be told of that."""

    who: Address
    hint: str = ""


def _mailboxes(
    tx: Transaction, targets: list[Address], *, hinting: bool = True
) -> tuple[dict[Address, _Mailbox], list[str]]:
    """Where mail for each name goes: itself, its new name, or a new mailbox; and the channels of new mailboxes."""
    seen = {
        Address(row["name"], row["channel"]): row["last_seen"]
        for some in at_once(targets)
        for row in tx.all(
            f"SELECT channel, name, last_seen FROM agents WHERE {among('channel, name', len(some))}",
            *keys(some),
        )
    }
    unheard = [target for target in targets if not seen.get(target)]
    if not unheard:
        return {target: _Mailbox(target) for target in targets}, []
    renamed = _renamed(tx, unheard)
    new = [target for target in unheard if target not in renamed and target not in seen]
    mailboxes.ensure_all(tx, new)
    hints = _hints(tx, [target for target in unheard if target not in renamed]) if hinting else {}
    found = {target: renamed.get(target) or _Mailbox(target, hints.get(target, "")) for target in targets}
    return found, list(dict.fromkeys(target.channel for target in new))


def _renamed(tx: Transaction, unheard: list[Address]) -> dict[Address, _Mailbox]:
    """Those that somebody was called before, with who that is: the one seen last."""
    found: dict[Address, _Mailbox] = {}
    for some in at_once(unheard):
        for row in tx.all(
            "SELECT channel, formerly, name FROM agents WHERE formerly <> '' "
            f"AND {among('channel, formerly', len(some))} ORDER BY last_seen DESC",
            *keys(some),
        ):
            before = Address(row["formerly"], row["channel"])
            found.setdefault(before, _Mailbox(Address(row["name"], row["channel"]), f"formerly '{before.name}'"))
    return found


def _hints(tx: Transaction, unknown: list[Address]) -> dict[Address, str]:
    """Hints for names that nobody ever had here: for the first few of a message, among the names seen last.

    Each costs a comparison with every candidate. Nothing is said of channels that the sender may not use.
    """
    some = unknown[: addresses.MAX_GUESSES]
    if not some:
        return {}
    elsewhere = tx.all(
        f"SELECT name, channel FROM agents WHERE name IN ({listed(len(some))}) AND last_seen > 0 "
        "ORDER BY last_seen DESC",
        *(target.name for target in some),
    )
    known: dict[str, list[str]] = {}
    return {target: _elsewhere(tx, target, elsewhere) or _similar(tx, target, known) for target in some}


def _elsewhere(tx: Transaction, target: Address, rows: Sequence[Row]) -> str:
    there = [row["channel"] for row in rows if row["name"] == target.name and row["channel"] != target.channel]
    usable = next((channel for channel in there if grants.permits_channel(tx.caller.grant, channel)), None)
    return f"that name is on channel '{usable}': '{target.name}@{usable}'" if usable else ""


def _similar(tx: Transaction, target: Address, known: dict[str, list[str]]) -> str:
    """A hint at a name of the channel; `known` holds those of the channels that were looked at."""
    if target.channel not in known:
        rows = tx.all(
            "SELECT name FROM agents WHERE channel = ? AND last_seen > 0 ORDER BY last_seen DESC, name LIMIT ?",
            target.channel,
            addresses.MAX_CANDIDATES,
        )
        known[target.channel] = [row["name"] for row in rows]
    guess = addresses.closest_name(target.name, iter(known[target.channel]))
    return f"did you mean '{guess}'?" if guess else ""


@dataclass(frozen=True, slots=True)
class _Outlook:
    """The properties of a message that decide what to expect: it may ring, ends a long talk, or is from a program."""

    rings: bool = False
    quiet: bool = False
    by_program: bool = False


def _expect(
    tx: Transaction, me: Address, recipients: Mapping[Address, str], outlook: _Outlook
) -> tuple[Expectation, ...]:
    """The expectation for each recipient, in their order; `recipients` has their hints."""
    held = bindings.holders(tx, list(recipients))
    absent = _absent(tx, [who for who in recipients if who not in held])
    return tuple(
        _expect_of_session(tx, who.seen_from(me.channel), held[who], hint, outlook)
        if who in held
        else _expect_of_absent(tx, who.seen_from(me.channel), absent.get(who), hint)
        for who, hint in recipients.items()
    )


def _expect_of_session(tx: Transaction, name: str, holder: Binding, hint: str, outlook: _Outlook) -> Expectation:
    if outlook.quiet:
        return Expectation(name, "quiet", hint=hint)
    if holder.status == "working" and holder.hooked:
        return Expectation(name, "working", hint=hint)
    if holder.bell and outlook.rings:
        wait = waking.wake_wait(holder.woken[outlook.by_program], tx.now, by_program=outlook.by_program)
        return Expectation(
            name, "waking", hint=hint or (f"in up to {math.ceil(wait)}s: it was woken often" if wait else "")
        )
    return Expectation(name, "idle" if holder.hooked else "inbox", hint=hint)


def _absent(tx: Transaction, whose: Sequence[Address]) -> dict[Address, Row]:
    """The rows of names that no session has, as `_expect_of_absent` needs them."""
    return {
        Address(row["name"], row["channel"]): row
        for some in at_once(whose)
        for row in tx.all(
            "SELECT channel, name, last_seen, registered AND session_id = '' AND cwd = '' AS program FROM agents "
            f"WHERE {among('channel, name', len(some))}",
            *keys(some),
        )
    }


def _expect_of_absent(tx: Transaction, name: str, row: Row | None, hint: str) -> Expectation:
    """The expectation for a name that no session has: a program reads when it asks, as long as it does."""
    seen = row["last_seen"] if row else 0.0
    if row and row["program"] and 0 <= tx.now - seen < limits.PROGRAM_PRESENT:
        return Expectation(name, "inbox", seen, hint)
    return Expectation(name, "offline" if seen else "unknown", seen, hint)


def _require_visible(tx: Transaction, me: Address, message: int) -> Row:
    row = tx.one(
        "SELECT m.id, m.ts, m.sender, m.sender_channel, m.recipient, m.kind FROM messages m "
        f"WHERE m.id = ? AND {VISIBLE}",
        message,
        *visible_to(me),
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
        f"SELECT m.id, {deliveries.SIZE} AS size FROM messages m WHERE m.reply_to = ? AND {VISIBLE} "
        "ORDER BY m.id DESC LIMIT ?",
        message_id,
        *visible_to(me),
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
    rows = tx.all(
        "SELECT channel, recipient FROM deliveries WHERE message = ? AND state = 'handed' LIMIT ?",
        message,
        limits.MAX_AT_ONCE,
    )
    handed = [Address(row["recipient"], row["channel"]) for row in rows]
    bindings.holders(tx, handed)
    deliveries.recover_all(tx, handed)


@verb("look_back", mode="read", nameless=True)
def look_back(
    tx: Transaction,
    me: Me,
    *,
    search: Content = "",
    thread: int | None = None,
    since: int = 0,
    before: int = 0,
    limit: int = 20,
) -> History:
    """The messages that `me` may see, oldest first: the newest `limit` that match, or as many as fit.

    `search` is looked for in the content, case-insensitively for ASCII; `thread` is any
    message of one conversation; `since` an id after which to look, and `before` one (0: none)
    before which: that of the first message of an answer brings those before them. A search that
    would take long ends before it is through, and says so. Consumes nothing.
    """
    return _look_back(tx, me, search, thread, since, before, limit, searching.BUDGET)


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
    """The messages of `look_back`, for programs that do not know of ends: it goes ten times further back."""
    return list(_look_back(tx, me, search, thread, since, before, limit, 10 * searching.BUDGET).messages)


def _look_back(
    tx: Transaction, me: Address, search: str, thread: int | None, since: int, before: int, limit: int, budget: int
) -> History:
    drafts.check_search(search)
    most = limits.clamp(limit, limits.MAX_AT_ONCE)
    if thread is None:
        found = searching.find(tx, me, search, since=since, before=before, limit=most, budget=budget)
    else:
        found = searching.among(tx, me, search, _thread(tx, thread), since=since, before=before, limit=most)
    sizes = deliveries.sizes(tx, found.ids)
    ids = sorted(found.ids[: limits.fit_count(sizes[message] for message in found.ids)])
    rows = deliveries.by_id(tx, ids)
    messages = tuple(deliveries.messages_of(tx, [rows[message] for message in ids], me))
    return History(messages, found.reached if len(ids) == len(found.ids) else 0)


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
