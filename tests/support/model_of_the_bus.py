"""The bus as its documentation describes it, in plain Python; the real bus is compared with it.

Written from docs/design/delivery.md, docs/guides/claims.md and docs/reference/; not from the SQL. A verb that
must be refused raises `Refused` and changes nothing. Where the bus may choose the moment (a session
whose process died is over as soon as somebody notices), the model is told what it chose: `over`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from claude_bus import documents, fence, quoting, text
from claude_bus.model.hooks import HookReport
from claude_bus.model.identity import Address, Client, Process, Status
from claude_bus.model.messages import Draft, Message
from tests.support.model_of_claims import ModelOfClaims, meet, scope_of
from tests.support.model_of_state import ModelOfState
from tests.support.model_refusals import Refused

RING_AGAIN = (0.0, 30.0, 120.0)
MAX_HOPS, MAX_TALK = 10, 30
RATE_WINDOW = 60.0
NEWS = 3_600.0
PROGRAM_PRESENT = 180.0
WAKES = ((6.0, 20), (60.0, 6))
"""How many seconds a wake-up costs and how many may follow in a row, for mail of sessions and of programs."""
RETENTION = 30 * 86_400.0
SILENCE = 90 * 86_400.0
UNPROVEN = ("queued", "handed")
STEPS = ("queued", "expired", "handed", "read", "acked")
"""Progress of a delivery, used when two names had the same message and one name takes over the other's."""
BUSY_FIRST = ("working", "idle", "waiting")
MOVES = {
    "queued": {"queued", "handed", "expired"},
    "handed": {"handed", "queued", "read", "acked", "expired"},
    "read": {"read", "acked"},
    "acked": {"acked"},
    "expired": {"expired"},
}
"""The states that may follow each state of a receipt. Only an unconfirmed hand-over goes back, and may then expire."""

State = Literal["queued", "handed", "read", "acked", "expired"]


@dataclass(eq=False)
class Name:
    """An agent as the bus knows it, whether or not a session bears its name."""

    registered: bool = False
    seen: float = 0.0
    status: Status = "offline"
    session_id: str = ""
    formerly: str = ""
    owns: tuple[str, ...] = ()
    was_session: bool = False


@dataclass(eq=False)
class Running:
    """A session: a client's process, and what its conversation was told."""

    client: Client
    who: Address
    session_id: str
    heartbeat: float
    prompt_id: str = ""
    bell: bool = False
    rung_upto: int = 0
    rung_at: float = 0.0
    rings: int = 0
    hooked: bool = False
    woken: list[float] = field(default_factory=lambda: [0.0, 0.0])
    introduced: bool = False
    roster: frozenset[str] = frozenset()
    overlaps: frozenset[tuple[str, str]] = frozenset()
    servers: dict[str, Process] = field(default_factory=dict)
    """Its bus servers, by the address at which each listens."""


@dataclass(eq=False)
class Slip:
    """One delivery."""

    state: State = "queued"
    attempts: int = 0
    by: Process | None = None
    recalled: bool = False
    retained: bool = False
    earlier: bool = False
    """Sent before its reader joined; sent long before."""
    expired: float = 0.0
    """When it expired because its reader was silent."""


@dataclass(eq=False)
class Letter:
    """A message with all its deliveries."""

    id: int
    ts: float
    sender: Address
    draft: Draft
    to: str
    broadcast: str
    """The channel to which a broadcast (`all`) is addressed, or ''."""
    expires: float | None
    key: str
    by_program: bool = False
    slips: dict[Address, Slip] = field(default_factory=dict)

    @property
    def rings(self) -> bool:
        loud = self.draft.urgent or not self.broadcast
        return self.draft.kind != "fyi" and loud and self.draft.hops < MAX_HOPS

    def over(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now

    def of(self, me: Address, *states: str) -> bool:
        """Tells whether the delivery to `me` is in one of these states."""
        return me in self.slips and self.slips[me].state in states

    def seen_by(self, me: Address) -> bool:
        return me == self.sender or me in self.slips or self.broadcast == me.channel

    def handed(self, me: Address, now: float) -> Message:
        """The message as handed over; one from before its reader joined says how old it is."""
        slip = self.slips[me]
        shown = self.shown(me, again=slip.attempts > 0)
        return replace(shown, age=max(0.0, now - self.ts) if slip.retained else 0.0)

    def shown(self, me: Address, *, again: bool = False) -> Message:
        draft = self.draft
        return Message(
            self.id,
            self.ts,
            self.sender.seen_from(me.channel),
            self.to,
            draft.content,
            draft.kind,
            draft.reply_to,
            draft.tags,
            draft.urgent,
            draft.hops,
            again,
            draft.files,
        )


@dataclass(frozen=True)
class Handed:
    """The expected outcome of a hand-over."""

    messages: tuple[Message, ...]
    pending: int
    next_id: int
    unproven: tuple[int, ...]


@dataclass(frozen=True)
class Reacted:
    """The expected outcome of a hook event."""

    who: Address
    registered: bool
    mail: Handed
    announce: bool
    roster: tuple[tuple[str, Status], ...] | None
    overlaps: frozenset[tuple[str, str]]
    requests: tuple[int, ...]
    introduce: bool
    earlier: int


class ModelOfTheBus:
    """The whole bus. `now` moves only when the test moves it."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.dead: set[Process] = set()
        self.names: dict[Address, Name] = {}
        self.sessions: dict[str, Running] = {}
        """By the client's key, including sessions that died unnoticed."""
        self.letters: dict[int, Letter] = {}
        self.sendings: list[tuple[Address, float, int]] = []
        """The sender, under its name at the time, and the time of each message."""
        self.state = ModelOfState()
        self.claims = ModelOfClaims(self.died)

    # -- identity

    def alive(self, session: Running) -> bool:
        return session.client.process not in self.dead

    def live(self) -> list[Running]:
        return [session for session in self.sessions.values() if self.alive(session)]

    def holder(self, who: Address) -> Running | None:
        """The live session that bears the name."""
        return next((session for session in self.live() if session.who == who), None)

    def died(self, who: Address) -> bool:
        """Tells whether the name belongs to a dead session whose death was not noticed yet."""
        return any(session.who == who and not self.alive(session) for session in self.sessions.values())

    def attach(self, client: Client, wanted: Address | None, channel: str, chosen: Address) -> None:
        """A client starts. `chosen` is the name that the bus gave it."""
        there = self.sessions.get(client.key)
        if there and self.alive(there):
            assert chosen == there.who
            return
        if wanted:
            self._refuse_if_held(wanted, client.key)
        if there:
            self.over(there, self.now)
        may_resume = self._resumed(client.session_id)
        if wanted or chosen in may_resume:
            assert chosen == (wanted or chosen)
        else:
            assert not may_resume or any(map(self.holder, may_resume)), "a conversation did not get its name back"
            assert chosen.channel == channel
            assert not self._is_registered(chosen), "a session that has not joined took another's name"
        assert not self.holder(chosen), "two sessions bear one name"
        self.noticed(chosen)
        name = self.names.setdefault(chosen, Name())
        name.status, name.seen, name.session_id, name.was_session = "idle", self.now, client.session_id, True
        self.sessions[client.key] = Running(client, chosen, client.session_id, self.now, hooked=client.hooked)

    def _is_registered(self, who: Address) -> bool:
        return who in self.names and self.names[who].registered

    def _resumed(self, session_id: str) -> list[Address]:
        """The name that the conversation bore last; several names if it was forked and both sessions ended at once."""
        bore = [who for who, name in self.names.items() if session_id and name.session_id == session_id]
        bore = [who for who in bore if self.names[who].registered]
        last = max((self.names[who].seen for who in bore), default=0.0)
        return [who for who in bore if self.names[who].seen == last]

    def _refuse_if_held(self, who: Address, client: str) -> None:
        holder = self.holder(who)
        if holder and holder.client.key != client:
            raise Refused("name_taken")

    def register(self, session: Running, who: Address, owns: tuple[str, ...] | None) -> None:
        self._refuse_if_held(who, session.client.key)
        self.noticed(who)
        if session.who != who:
            self._move(session, who)
        self._join(who, owns)
        session.roster, session.introduced = frozenset(name for name, _ in self.roster(who)), True

    def enlist(self, who: Address) -> None:
        """A person or a script takes part."""
        self._refuse_if_held(who, "")
        self.noticed(who)
        self.names.setdefault(who, Name())
        self._join(who, None)

    def _join(self, who: Address, owns: tuple[str, ...] | None) -> None:
        name = self.names[who]
        name.seen = self.now
        name.owns = name.owns if owns is None else owns
        if not name.registered:
            for letter in self.letters.values():
                if letter.broadcast == who.channel and letter.sender != who and not letter.over(self.now):
                    letter.slips.setdefault(who, Slip(retained=True, earlier=letter.ts < self.now - NEWS))
        name.registered = True

    def _move(self, session: Running, who: Address) -> None:
        """Register again. Within the channel, mail and claims follow; otherwise the old name stays, offline."""
        was = session.who
        session.who = who
        old = self.names[was]
        if was.channel != who.channel:
            new = self.names.setdefault(who, Name())
            new.status, new.session_id, new.was_session = old.status, old.session_id, True
            old.session_id = ""
            self._offline(was, self.now)
            self._forget_if_unused(was)
            return
        new = self.names.pop(who, old)
        new = new if new.seen else old
        new.status, new.session_id, new.was_session = old.status, old.session_id, True
        if old.registered:
            new.formerly = was.name
        del self.names[was]
        self.names[who] = new
        self.claims.rename(was, who)
        self._merge_mail(was, who)

    def _merge_mail(self, was: Address, who: Address) -> None:
        keys = {letter.key for letter in self.letters.values() if letter.sender == who}
        for letter in self.letters.values():
            if letter.sender == was:
                letter.key = "" if letter.key in keys else letter.key
                letter.sender = who
            mine = [slip for slip in (letter.slips.pop(who, None), letter.slips.pop(was, None)) if slip]
            if mine:
                letter.slips[who] = max(mine, key=lambda slip: (STEPS.index(slip.state), slip.attempts))
                if letter.sender == who and letter.slips[who].state in UNPROVEN:
                    del letter.slips[who]

    def over(self, session: Running, seen: float) -> None:
        """A session ended, or its death was noticed."""
        del self.sessions[session.client.key]
        self._offline(session.who, seen)
        self._forget_if_unused(session.who)

    def noticed(self, who: Address) -> None:
        """The name is wanted by another session, so its dead session must end first."""
        for session in list(self.sessions.values()):
            if session.who == who and not self.alive(session):
                self.over(session, session.heartbeat)

    def reap(self) -> None:
        for session in list(self.sessions.values()):
            self.noticed(session.who)

    def _offline(self, who: Address, seen: float) -> None:
        """Go offline: claims end, and unconfirmed hand-overs wait again."""
        name = self.names[who]
        name.status, name.seen = "offline", max(name.seen, seen)
        self.claims.end(who)
        for slip in self._slips(who, "handed"):
            slip.state = "queued"

    def _forget_if_unused(self, who: Address) -> None:
        mail = any(who in letter.slips for letter in self.letters.values())
        if not mail and not self.names[who].registered:
            del self.names[who]

    def leave(self, session: Running) -> None:
        name = self.names[session.who]
        name.registered, name.session_id = False, ""
        self.over(session, self.now)

    def detach(self, session: Running, by: Process) -> None:
        """A server ends. The last one ends the session and its subagents."""
        session.servers = {at: process for at, process in session.servers.items() if process != by}
        if not any(process not in self.dead for process in session.servers.values()):
            for subagent in [s for s in self.sessions.values() if s.client.session == session.client.key]:
                self.over(subagent, self.now)
            self.over(session, self.now)
            return
        for slip in self._slips(session.who, "handed"):
            slip.state = "queued" if slip.by == by else slip.state

    def listen(self, session: Running, address: str, by: Process) -> None:
        """A server begins to work: hand-overs that earlier servers did not live to see confirmed wait again."""
        session.servers[address] = by
        self._recover(session.who)

    def _recover(self, who: Address) -> None:
        for slip in self._slips(who, "handed"):
            slip.state = "queued" if slip.by in self.dead else slip.state

    def observe(self, session: Running, status: Status | None, session_id: str, bell: bool | None) -> None:
        """A sign of life from the session."""
        name = self.names[session.who]
        name.seen = session.heartbeat = self.now
        name.status = status or name.status
        session.bell = session.bell if bell is None else bell
        if session_id:
            name.session_id = session.session_id = session_id

    def forget(self, session: Running) -> None:
        """The conversation is new, or was summarized."""
        session.introduced, session.roster, session.overlaps = False, frozenset(), frozenset()

    def roster(self, me: Address) -> tuple[tuple[str, Status], ...]:
        here = {s.who for s in self.live() if s.who.channel == me.channel and s.who != me}
        peers = [(who.name, self.names[who].status) for who in here if self.names[who].registered]
        return tuple(sorted(peers, key=lambda peer: (BUSY_FIRST.index(peer[1]), peer[0])))

    def listed(self, channel: str, within: float | None) -> dict[str, tuple[Status, bool]]:
        found = {}
        for who, name in self.names.items():
            here = self.holder(who) is not None
            recent = within is None or here or self.now - name.seen <= within
            if who.channel == channel and name.seen and recent:
                found[who.name] = (name.status if here else "offline", name.registered)
        return found

    def overlaps(self, me: Address) -> frozenset[tuple[str, str]]:
        """The sessions whose files overlap with those of `me`, and where."""
        found = set()
        for other in {s.who for s in self.live() if s.who.channel == me.channel} - {me}:
            for mine in self._footprint(me):
                pairs = [(mine, theirs) for theirs in self._footprint(other) if meet(mine, theirs)]
                found |= {(other.name, theirs if "*" in one else one) for one, theirs in pairs}
        return frozenset(found)

    def _footprint(self, who: Address) -> set[str]:
        return {*self.names[who].owns, *(c.path for c in self.claims.of(who, self.now) if scope_of(c.path))}

    # -- messages

    def send(self, me: Address, draft: Draft, sent_id: int, ts: float, rate: int = 0) -> Letter:
        """Send a message. `sent_id` and `ts` are those that the bus chose; both are higher than all before."""
        earlier = [letter for letter in self.letters.values() if draft.key and letter.sender == me]
        for letter in earlier:
            if letter.key == draft.key:
                return letter
        if draft.reply_to is not None:
            self.visible(me, draft.reply_to)
        recipients, broadcast = self._resolve(me, draft.to)
        if draft.hops >= MAX_TALK or (rate and self.holder(me) and self._too_many(me, rate, recipients, broadcast)):
            raise Refused("rate_limited")
        for who in recipients:
            self.names.setdefault(who, Name())
        expires = None if draft.ttl is None else self.now + draft.ttl
        letter = Letter(sent_id, ts, me, draft, ", ".join(draft.to), broadcast, expires, draft.key, not self.holder(me))
        letter.slips = {who: Slip() for who in recipients}
        assert not self.letters or (sent_id > max(self.letters) and ts > max(m.ts for m in self.letters.values()))
        self.letters[sent_id] = letter
        self.sendings.append((me, self.now, sent_id))
        if draft.reply_to is not None:
            self._acknowledge(me, draft.reply_to)
        return letter

    def _too_many(self, me: Address, rate: int, recipients: set[Address], broadcast: str) -> bool:
        """The rate limit: a number of messages per minute, and a quarter of it to one recipient."""
        recent = [n for who, at, n in self.sendings if who == me and self.now - RATE_WINDOW < at <= self.now]
        known = [self.letters[n].slips for n in recent if n in self.letters]
        crowded = [who for who in recipients if sum(who in slips for slips in known) >= max(1, rate // 4)]
        return len(recent) >= rate or (not broadcast and bool(crowded))

    def visible(self, me: Address, message: int) -> Letter:
        letter = self.letters.get(message)
        if not letter or not letter.seen_by(me):
            raise Refused("not_found")
        return letter

    def _resolve(self, me: Address, to: Iterable[str]) -> tuple[set[Address], str]:
        found: set[Address] = set()
        broadcast = ""
        for part in to:
            name, _, channel = part.partition("@")
            channel = channel or me.channel
            if name == "all":
                if broadcast not in ("", channel):
                    raise Refused("invalid_input")
                broadcast = channel
                found |= {who for who, known in self.names.items() if who.channel == channel and known.registered}
            elif "*" in name:
                matching = {who for who in self._known(channel) if fnmatchcase(who.name, name)}
                if not matching - {me}:
                    raise Refused("invalid_input")
                found |= matching
            else:
                found.add(self._mailbox(Address(name, channel)))
        found.discard(me)
        if not found and not broadcast:
            raise Refused("invalid_input")
        return found, broadcast

    def _known(self, channel: str) -> list[Address]:
        return [who for who, name in self.names.items() if who.channel == channel and name.seen]

    def _mailbox(self, target: Address) -> Address:
        """The mailbox of a name: the name itself, what it is called now, or a name that may come to exist."""
        if target in self._known(target.channel):
            return target
        renamed = [w for w in self.names if w.channel == target.channel and self.names[w].formerly == target.name]
        return max(renamed, key=lambda who: self.names[who].seen, default=target)

    def expected(self, letter: Letter, *, again: bool) -> dict[str, tuple[str, float]]:
        """The outlook that the sender gets for each recipient; a repeated send reaches no recipient again."""
        rings, quiet = letter.rings and not again, letter.draft.hops >= MAX_HOPS and not again
        return {who.seen_from(letter.sender.channel): self._outlook(who, rings, quiet) for who in letter.slips}

    def _outlook(self, who: Address, rings: bool, quiet: bool) -> tuple[str, float]:
        holder, name = self.holder(who), self.names[who]
        if holder and quiet:
            return "quiet", 0.0
        if holder and name.status == "working" and holder.hooked:
            return "working", 0.0
        if holder and holder.bell and rings:
            return "waking", 0.0
        if holder:
            return ("idle" if holder.hooked else "inbox"), 0.0
        if name.registered and not name.was_session and 0 <= self.now - name.seen < PROGRAM_PRESENT:
            return "inbox", name.seen
        died = [s.heartbeat for s in self.sessions.values() if s.who == who]
        return ("offline", max(name.seen, *died, 0.0)) if name.seen else ("unknown", 0.0)

    def _slips(self, me: Address, *states: str) -> list[Slip]:
        return [letter.slips[me] for letter in self._with(me, *states)]

    def _with(self, me: Address, *states: str) -> list[Letter]:
        return [letter for letter in self.letters.values() if letter.of(me, *states)]

    def hand_over(
        self,
        me: Address,
        by: Process,
        *,
        limit: int,
        room: int,
        at_least_one: bool = False,
        peek: bool = False,
        news: bool = False,
    ) -> Handed:
        """Hand over the oldest messages, as many as fit. Hand-overs of a dead process wait again first."""
        self._recover(me)
        self._expire([letter for letter in self.letters.values() if me in letter.slips], me)
        waiting = [letter for letter in self._with(me, "queued") if not (news and letter.slips[me].earlier)]
        shown = [letter.handed(me, self.now) for letter in waiting]
        count = min(_answering(shown, room) if at_least_one else _fitting(shown, room), limit)
        unproven = tuple(m.id for m in self._with(me, "handed") if m.slips[me].by == by)
        rest = waiting[count].id if count < len(waiting) else 0
        if peek:
            return Handed(tuple(shown[:count]), len(waiting), rest, ())
        for letter in waiting[:count]:
            slip = letter.slips[me]
            slip.state, slip.by, slip.attempts = "handed", by, slip.attempts + 1
        return Handed(tuple(shown[:count]), len(waiting) - count, rest, unproven)

    def _expire(self, letters: Iterable[Letter], me: Address | None = None) -> None:
        """Expiry takes effect when a call looks at the message: from then on it is expired."""
        for letter in letters:
            for who, slip in letter.slips.items():
                if me in (None, who) and slip.state == "queued" and letter.over(self.now):
                    slip.state = "expired"

    def confirm(self, me: Address, messages: Iterable[int], by: Process) -> int:
        return self._settle(me, messages, by, "read")

    def withdraw(self, me: Address, messages: Iterable[int], by: Process) -> int:
        return self._settle(me, messages, by, "queued")

    def _settle(self, me: Address, messages: Iterable[int], by: Process, state: State) -> int:
        """Settle the hand-overs of `by` that are still open."""
        wanted = set(messages)
        mine = [letter.slips[me] for letter in self._with(me, "handed") if letter.id in wanted]
        made = [slip for slip in mine if slip.by == by]
        for slip in made:
            slip.state = state
        return len(made)

    def pass_on(self, me: Address, messages: Iterable[int], by: Process, to: Process) -> int:
        """The hand-overs of `by` reached the conversation that `to` serves."""
        wanted = set(messages)
        made = [m.slips[me] for m in self._with(me, "handed") if m.id in wanted and m.slips[me].by == by]
        for slip in made:
            slip.by = to
        return len(made)

    def _acknowledge(self, me: Address, message: int) -> None:
        slip = self.letters[message].slips.get(me)
        if slip and slip.state in ("handed", "read"):
            slip.state = "acked"

    def news(self, me: Address) -> list[Letter]:
        """Waiting mail, without broadcasts from long before the reader joined."""
        return [letter for letter in self.waiting(me) if not letter.slips[me].earlier]

    def waiting(self, me: Address) -> list[Letter]:
        return [letter for letter in self._with(me, "queued") if not letter.over(self.now)]

    def ring(self, session: Running, *, idle: bool) -> int | None:
        """How often the batch rang before, if the session should be rung now."""
        mail = self.news(session.who)
        status = self.names[session.who].status
        if not session.bell or not (idle or status == "idle") or not any(m.rings for m in mail):
            return None
        before = session.rings if any(m.id <= session.rung_upto for m in mail) else 0
        if any(m.rings and m.id > session.rung_upto for m in mail):
            before = min(before, len(RING_AGAIN) - 1)
        if before >= len(RING_AGAIN) or abs(self.now - session.rung_at) < RING_AGAIN[before]:
            return None
        programs = all(m.by_program for m in mail if m.rings)
        every, burst = WAKES[programs]
        ahead = session.woken[programs] - self.now
        if every * (burst - 1) < ahead <= every * burst:
            return None
        session.woken[programs] = self.now + every + (ahead if 0 <= ahead <= every * burst else 0)
        session.rung_upto, session.rung_at, session.rings = mail[-1].id, self.now, before + 1
        return before

    def open_requests(self, me: Address) -> tuple[int, ...]:
        """Open requests of which the session was not reminded yet."""
        found = [m for m in self._with(me, "read") if m.draft.kind == "request" and not m.slips[me].recalled]
        return tuple(letter.id for letter in found[:10])

    def note_recalled(self, me: Address, requests: Iterable[int]) -> None:
        for message in requests:
            if message in self.letters and me in self.letters[message].slips:
                self.letters[message].slips[me].recalled = True

    def look_at(self, me: Address, message: int) -> Letter:
        """Act as `message_status` does, which also notices sessions and servers that died after a hand-over."""
        letter = self.visible(me, message)
        self._expire([letter])
        for who in [who for who in letter.slips if letter.of(who, "handed")]:
            self.noticed(who)
            self._recover(who)
        return letter

    def replies(self, me: Address, message: int) -> tuple[Message, ...]:
        """The newest replies that the session may see."""
        found = [m for m in self.letters.values() if m.draft.reply_to == message and m.seen_by(me)]
        return tuple(letter.shown(me) for letter in found[-20:])

    def history(self, me: Address, search: str, thread: int | None, since: int, limit: int) -> list[Message]:
        found = [
            letter
            for letter in self.letters.values()
            if letter.id > since
            and letter.seen_by(me)
            and search.lower() in letter.draft.content.lower()
            and (thread is None or self._root(letter.id) == self._root(thread))
        ]
        return [letter.shown(me) for letter in found[-limit:]]

    def _root(self, message: int) -> int:
        """The first message of a conversation, even if it was deleted."""
        letter = self.letters.get(message)
        up = letter.draft.reply_to if letter else None
        return message if up is None else self._root(up)

    # -- hook events

    def react(self, session: Running, process: Process, happening: HookReport, by: Process) -> Reacted | None:
        if session.client.process != process:
            return None
        me = session.who
        registered = self.names[me].registered
        if happening.again or happening.session_id not in ("", session.session_id):
            self.forget(session)
        self.note_recalled(me, happening.recalled)
        self.confirm(me, happening.proven, by)
        self.withdraw(me, happening.lost, by)
        if happening.begins:
            self.withdraw(me, self.letters, by)
        mail = Handed((), 0, 0, ())
        unread = [m for m in self._with(me, *UNPROVEN) if not m.slips[me].earlier]
        if not happening.ends or any(m.draft.hops < MAX_HOPS for m in unread):
            mail = self.hand_over(me, by, limit=100, room=happening.space, news=True)
        announce = bool(mail.pending and happening.space) and mail.next_id != happening.announced
        roster = self._new_roster(session) if happening.roster and registered else None
        overlaps = self._new_overlaps(session) if happening.roster else frozenset()
        requests = self.open_requests(me) if happening.ends and not (mail.messages or announce) else ()
        old = [m for m in self._with(me, "queued") if m.slips[me].earlier]
        earlier = 0 if session.introduced else len(old)
        news = bool(mail.messages or announce or roster is not None or overlaps or earlier)
        introduce = news and not session.introduced
        session.introduced |= introduce
        self._note(session, happening, "working" if news or requests or not happening.ends else "idle")
        return Reacted(me, registered, mail, announce, roster, overlaps, requests, introduce, earlier)

    def _new_roster(self, session: Running) -> tuple[tuple[str, Status], ...] | None:
        peers = self.roster(session.who)
        names = frozenset(name for name, _ in peers)
        told, session.roster = session.roster, names
        return peers if names != told else None

    def _new_overlaps(self, session: Running) -> frozenset[tuple[str, str]]:
        told, session.overlaps = session.overlaps, self.overlaps(session.who)
        return session.overlaps - told

    def _note(self, session: Running, happening: HookReport, status: Status) -> None:
        """A sign of life that adds nothing new is not stored."""
        same = (
            happening.session_id in ("", session.session_id)
            and happening.prompt_id in ("", session.prompt_id)
            and happening.bell in (None, session.bell)
            and session.hooked
        )
        session.prompt_id = happening.prompt_id or session.prompt_id
        if not same or status != self.names[session.who].status or happening.doing is not None:
            self.observe(session, status, happening.session_id, happening.bell)
            session.hooked = True

    # -- upkeep

    def prune(self, *, in_use: bool) -> None:
        """End the sessions that died; delete messages that are older than the retention and read by all recipients.

        `in_use`: the bus has been in use for a week, so that silent agents count as gone.
        """
        self.reap()
        self.claims.prune(self.now)
        if in_use:
            self._settle_the_silent()
        before = self.now - RETENTION
        self._expire(self.letters.values())
        for letter in list(self.letters.values())[:-1]:
            unread = any(slip.state in UNPROVEN for slip in letter.slips.values())
            told = letter.broadcast or letter.expires is not None
            news = not told and any(
                slip.state == "expired" and slip.expired >= before for slip in letter.slips.values()
            )
            if letter.ts < before and not unread and not news:
                del self.letters[letter.id]
        self._forget_the_silent()
        self.state.prune(before, self.now)

    def _silent(self) -> list[Address]:
        """Names that have not been heard of for a quarter of a year, or ever."""
        return [who for who, name in self.names.items() if not self.holder(who) and name.seen < self.now - SILENCE]

    def _settle_the_silent(self) -> None:
        """Mail that waited too long expires; names that never were a session are removed."""
        for who in self._silent():
            self.names[who].registered &= self.names[who].was_session
            self._recover(who)
            for letter in self._with(who, "queued"):
                if letter.ts < self.now - SILENCE:
                    letter.slips[who].state, letter.slips[who].expired = "expired", self.now

    def _forget_the_silent(self) -> None:
        """Remove names that have no session, mail or claims."""
        for who in self._silent():
            name = self.names[who]
            used = any(who in m.slips for m in self.letters.values()) or any(c.owner == who for c in self.claims.held)
            if not (name.registered or name.was_session or used):
                del self.names[who]


def _fitting(messages: Iterable[Message], room: int) -> int:
    """How many of the first texts fit into this number of characters, each with a line break."""
    size: Callable[[Message], int] = lambda m: quoting.size(fence.message_block(m, fence.SAMPLE_LABEL)) + 1  # noqa: E731
    count = 0
    for message in messages:
        room -= size(message)
        if room < 0:
            break
        count += 1
    return count


def _answering(messages: Sequence[Message], room: int) -> int:
    """How many of the first items a tool's answer carries: those that fit as JSON, or one that the client can show."""
    sizes = [quoting.size(json.dumps(documents.message(m, for_model=True), ensure_ascii=False)) for m in messages]
    fitting = [n for n in range(1, len(sizes) + 1) if sum(sizes[:n]) <= room]
    return max([*fitting, int(bool(sizes) and sizes[0] <= text.MOST_SHOWN)])
