"""The whole bus against a model of it in plain Python: any verbs in any order, crashes and clock jumps among them.

After each verb its answer, and all that the database holds, must be what the model says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from claude_bus import bus
from claude_bus.drivers.sqlite import Verb
from claude_bus.errors import BusError
from claude_bus.model import (
    Address,
    Client,
    Draft,
    File,
    Folder,
    Guard,
    HandOver,
    Happening,
    Kind,
    Place,
    Process,
    Status,
)
from claude_bus.sql import agents, bindings, claims, deliveries, guard, messages, sessions, state
from effort import looks
from model_of_claims import FILES, REPOSITORY, WORLD, scope_of
from model_of_state import Mode
from model_of_the_bus import MOVES, Handed, Letter, ModelOfTheBus, Running, Slip
from model_refusals import Refused
from store_under_test import NO_LIMIT, START, Store

T = TypeVar("T")

CHANNELS = ("default", "ops")
NAMES = ("alice", "bob", "carol")
SUBAGENTS = ("a1", "a2")
RATE = 8
ATTACHED = (File("/work/shop/a.py", 3, "a" * 64, "here"), File("/work/shop/b.py", 0, "b" * 64, "there"))
CONVERSATIONS = ("", "s1", "s2")
USUALLY_THE_SAME = ("", "", "", "s1")
SHOP = Folder("/work/shop", "/work/shop", REPOSITORY, "main")
TREES = ("/work/shop", "/work/shop-2")
SPACES = (0, 250, 400, NO_LIMIT)

which = st.integers(0, 9)
channels = st.sampled_from((*CHANNELS[:1], *CHANNELS))
addresses = st.builds(Address, st.sampled_from(NAMES), channels)
targets = st.sampled_from(
    ("alice", "bob", "carol", "all", "a*", "*", "shop*", "alice@ops", "bob@default", "all@ops", "*@ops")
)
recipients = st.lists(targets, min_size=1, max_size=2, unique=True).map(tuple)
paths = st.lists(st.sampled_from(sorted(WORLD)), min_size=1, max_size=2, unique=True)
lives = st.sampled_from((None, None, 20.0, 2_000.0))
sometimes = st.integers(0, 3).map(lambda n: n == 3)
usually = st.integers(0, 3).map(lambda n: n < 3)


@dataclass(frozen=True)
class Outcome:
    """What a verb came to: the code of its error, or its answer."""

    code: str
    answer: Any = None


class WholeBus(RuleBasedStateMachine):
    """Sessions, people and their verbs; each does the same on the bus and on its model."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.store = Store(Path(self.folder.name, "bus.db"))
        self.model = ModelOfTheBus(START)
        self.ports = iter(range(1, 100_000))
        self.receipts: dict[Slip, str] = {}
        self.newest = 0
        for name in NAMES:
            self.begin("default", f"conversation of {name}", None, False)
            session = self.session(-1)
            self._register(session, Address(name, "default"), None)
            self.store(bindings.observe, session.client.key, bell=True)
            self.model.observe(session, None, "", True)

    def do(self, verb: Verb[..., T], *args: Any, **options: Any) -> Outcome:
        try:
            return Outcome("", self.store(verb, *args, **options))
        except BusError as error:
            return Outcome(error.code)

    def agree(self, real: Outcome, model: Callable[[], T]) -> T | None:
        """What the model says, if both let it happen; None if both refuse, for the same reason."""
        try:
            code, expected = "", model()
        except Refused as refused:
            code, expected = refused.code, None
        assert real.code == code
        return expected

    def session(self, n: int) -> Running:
        live = self.model.live()
        return live[n % len(live)]

    def server(self, session: Running, n: int = 0) -> Process:
        """One of its servers that runs; one is started if none does. A subagent has its session's."""
        session = self.model.sessions.get(session.client.session, session)
        alive = [process for process in session.servers.values() if process not in self.model.dead]
        return alive[n % len(alive)] if alive else self._serve(session)

    def _serve(self, session: Running) -> Process:
        process, address = self.store.process(), f"udp:127.0.0.1:{next(self.ports)}"
        self.store(sessions.listen, session.client.key, address, process)
        self.model.listen(session, address, process)
        return process

    def anybody(self, n: int) -> Address:
        """A session, or else somebody who has a name and none."""
        everybody = self.actors()
        return everybody[n % len(everybody)]

    def actors(self) -> list[Address]:
        model = self.model
        return [s.who for s in model.live()] or sorted((w for w in model.names if not model.died(w)), key=str)

    def some(self, items: Sequence[T], bits: int) -> list[T]:
        """Those whose bit is set."""
        return [item for i, item in enumerate(items) if bits >> (i % 4) & 1]

    someone_runs = precondition(lambda self: self.model.live())
    somebody_is_there = precondition(lambda self: self.actors())
    mail_exists = precondition(lambda self: self.model.letters and self.model.live())

    # -- sessions come and go

    @precondition(lambda self: len(self.model.live()) < 5)
    @rule(channel=channels, conversation=st.sampled_from(CONVERSATIONS), wanted=st.none() | addresses, again=sometimes)
    def begin(self, channel: str, conversation: str, wanted: Address | None, again: bool) -> None:
        """A client starts; sometimes at the socket of one that died. A server more of one that runs changes nothing."""
        process = self.store.process()
        died = [s.client.key for s in self.model.sessions.values() if not self.model.alive(s)]
        key = died[0] if died and again else f"client:{process}"
        for session in self.model.live()[:1]:
            self._attach(session.client, None, channel)
        if self._attach(Client(key, process, SHOP, conversation), wanted, channel):
            for _ in range(2):  # as where the plugin is installed and the bus added by hand as well
                self._serve(self.model.sessions[key])

    def _attach(self, client: Client, wanted: Address | None, channel: str) -> bool:
        real = self.do(bindings.attach, client, wanted, channel)
        chosen = real.answer.address if real.answer else Address("", channel)
        if real.code:
            assert wanted
            assert self.model.holder(wanted)
            return False
        self.model.attach(client, wanted, channel, chosen)
        return True

    @precondition(lambda self: self.model.live() and len(self.model.live()) < 6)
    @rule(n=which, agent=st.sampled_from(SUBAGENTS), who=addresses)
    def subagent(self, n: int, agent: str, who: Address) -> None:
        """A subagent takes part under a name of its own, or has the one it had when it was there before."""
        whose = self.session(n).client
        client = replace(whose, key=f"{whose.key}#{agent}", session_id=agent, session=whose.key, program="subagent")
        if whose.session or client.key in self.model.sessions:
            return
        found = self.store(bindings.resume, client)
        if found:
            self.model.attach(client, None, found.address.channel, found.address)
            return
        self._attach(client, None, "default")
        self._register(self.model.sessions[client.key], who, None)

    @someone_runs
    @rule(n=which, who=addresses, owns=st.none() | paths.map(lambda found: tuple(p for p in found if ":" not in p)))
    def register(self, n: int, who: Address, owns: tuple[str, ...] | None) -> None:
        """Join, rename, go to another channel, or take over what a name has waiting."""
        self._register(self.session(n), who, owns)

    def _register(self, session: Running, who: Address, owns: tuple[str, ...] | None) -> None:
        real = self.do(sessions.join, session.client.key, who, "", owns)
        self.agree(real, lambda: self.model.register(session, who, owns))
        if not real.code:
            binding, roster, unread = real.answer
            assert (binding.address, roster.peers, binding.registered) == (who, self.model.roster(who), True)
            assert unread == len(self.model.waiting(who))

    def _enlist(self, who: Address) -> None:
        """A person takes part, without a session."""
        self.agree(self.do(agents.enlist, who, "cli"), lambda: self.model.enlist(who))

    @someone_runs
    @rule(n=which, server=which, killed=st.booleans())
    def server_ends(self, n: int, server: int, killed: bool) -> None:
        """As it should, or without a word."""
        session = self.session(n)
        process = self.server(session, server)
        if not killed:
            self.store(bindings.detach, session.client.key, process)
            self.model.detach(session, process)
        if not session.client.session:
            self._die(process)

    @someone_runs
    @rule(n=which)
    def server_starts(self, n: int) -> None:
        """A session has several, or one again."""
        session = self.session(n)
        if not session.client.session:
            self._serve(session)

    def _die(self, *gone: Process) -> None:
        for process in gone:
            self.store.kill(process)
        self.model.dead |= set(gone)

    @someone_runs
    @rule(n=which, says_so=sometimes)
    def session_is_gone(self, n: int, says_so: bool) -> None:
        """It leaves, or a client and its servers die without a word."""
        session = self.session(n)
        if says_so:
            self.store(bindings.leave, session.client.key)
            self.model.leave(session)
        else:
            self._die(session.client.process, *session.servers.values())

    @someone_runs
    @rule(
        n=which,
        status=st.sampled_from((None, "working", "idle", "waiting")),
        conversation=st.sampled_from(USUALLY_THE_SAME),
        bell=st.sampled_from((None, True, True, False)),
        compacts=sometimes,
    )
    def observe(self, n: int, status: Status | None, conversation: str, bell: bool | None, compacts: bool) -> None:
        """A sign of life."""
        session = self.session(n)
        if compacts:
            self.store(bindings.forget, session.client.key)
            self.model.forget(session)
        self.store(bindings.observe, session.client.key, status=status, session_id=conversation, bell=bell)
        self.model.observe(session, status, conversation, bell)

    # -- messages

    @somebody_is_there
    @rule(
        n=which,
        to=recipients,
        size=st.sampled_from((1, 200)),
        kind=st.sampled_from(("message", "request", "fyi")),
        answers=st.none() | which,
        ttl=lives,
        key=st.sampled_from(("", "", "k1", "k2")),
        urgent=sometimes,
        hops=st.sampled_from((0, 0, 0, 9, 10, 30)),
    )
    def send(
        self,
        n: int,
        to: tuple[str, ...],
        size: int,
        kind: Kind,
        answers: int | None,
        ttl: float | None,
        key: str,
        urgent: bool,
        hops: int,
    ) -> None:
        self._send(
            self.anybody(n),
            Draft(to, "x" * size, kind, self._id(answers), (), urgent, ttl, key, hops, ATTACHED[: n % 3]),
        )

    @someone_runs
    @rule(
        n=which, to=which, count=st.integers(1, 3), kind=st.sampled_from(("message", "message", "request")), ttl=lives
    )
    def talk(self, n: int, to: int, count: int, kind: Kind, ttl: float | None) -> None:
        """One session says a few things to another, whose server hears of it."""
        me, other = self.session(n).who, self.session(to).who
        for _ in range(count if me != other else 0):
            self._send(me, Draft((f"{other.name}@{other.channel}",), "hi", kind, ttl=ttl))
        self._ring(self.session(to), idle=False)

    @mail_exists
    @rule(n=which, to=st.sampled_from(NAMES))
    def answer(self, n: int, to: str) -> None:
        """Reply to something one was sent."""
        me = self.anybody(n)
        mine = [letter for letter in self.model.letters.values() if me in letter.slips]
        if mine:
            self._send(me, Draft((to,), "re", "message", mine[-1 - n % len(mine)].id))

    def _id(self, n: int | None) -> int | None:
        """An id of a message, or one that is none."""
        known = [*self.model.letters, 99_999]
        return None if n is None else known[n % len(known)]

    def _send(self, me: Address, draft: Draft) -> Letter | None:
        real = self.do(messages.send, me, draft, RATE)
        if real.code:
            self.agree(real, lambda: self.model.send(me, draft, self.newest + 1, inf, RATE))
            return None
        sent, told = real.answer
        [(ts,)] = self.store.rows("SELECT ts FROM messages WHERE id = ?", sent.id)
        known = sent.id in self.model.letters
        letter = self.model.send(me, draft, sent.id, ts, RATE)
        assert (letter.id, sent.duplicate) == (sent.id, known)
        assert known or sent.id > self.newest, "ids of messages that were forgotten come again"
        self.newest = max(self.newest, sent.id)
        outlook = {e.recipient: (e.outlook, e.since) for e in sent.expectations}
        assert outlook == self.model.expected(letter, again=known)
        told_of = [self.model.sessions.get(s.client.session, s) for s in self.model.live() if s.who in letter.slips]
        ears = {at for s in told_of for at, process in s.servers.items() if process not in self.model.dead}
        assert known or ears <= set(told), "a server is not told of its session's mail"
        return letter

    @someone_runs
    @rule(
        n=which,
        server=which,
        limit=st.integers(1, 3),
        space=st.sampled_from(SPACES),
        least=st.booleans(),
        peek=sometimes,
        proves=sometimes,
    )
    def take(self, n: int, server: int, limit: int, space: int, least: bool, peek: bool, proves: bool) -> None:
        """A server hands over what waits for its session; sometimes the proof follows at once."""
        session = self.session(n)
        by = self.server(session, server)
        handed = self._take(session.who, by, limit, space, least, peek)
        if proves:
            self.receipts_only_go_on()
            self._settle(session.who, by, [m.id for m in handed.messages], read=True)

    def _take(self, me: Address, by: Process, limit: int, space: int, least: bool, peek: bool) -> Handed:
        found = self.store(
            deliveries.hand_over, me, limit=limit, max_chars=space, by=by, via="it", at_least_one=least, peek=peek
        )
        expected = self.model.hand_over(me, by, limit=limit, room=space, at_least_one=least, peek=peek)
        self._same_mail(found, expected)
        return expected

    def _same_mail(self, found: HandOver, expected: Handed) -> None:
        assert found == HandOver(expected.messages, expected.pending, expected.next_id, expected.unproven)

    @rule(who=addresses, proves=st.booleans(), space=st.sampled_from(SPACES))
    def person_reads(self, who: Address, proves: bool, space: int) -> None:
        """A command line reads somebody's mail; sometimes it is killed before it said so."""
        self._enlist(who)
        if self.model.holder(who):
            return
        process = self.store.process()
        found = self._take(who, process, 1_000, space, True, False)
        self.receipts_only_go_on()
        if proves:
            self._settle(who, process, [m.id for m in found.messages], read=True)
        self._die(process)

    @mail_exists
    @rule(n=which, server=which, bits=st.integers(1, 15), read=st.booleans())
    def settle(self, n: int, server: int, bits: int, read: bool) -> None:
        """A server proves hand-overs, its own or not, or takes them back."""
        session = self.session(n)
        self._settle(session.who, self.server(session, server), self._to_settle(session, bits), read=read)

    def _to_settle(self, session: Running, bits: int) -> list[int]:
        """Messages that were handed over, whoever did; the newest of all among them, handed or not."""
        handed = [m.id for m in self.model.letters.values() if m.of(session.who, "handed")]
        return self.some([*handed[-3:], *list(self.model.letters)[-1:]], bits)

    @mail_exists
    @rule(n=which, server=which, bits=st.integers(1, 15))
    def program_reads(self, n: int, server: int, bits: int) -> None:
        """A program in the session's shell reads, and passes on what it printed: its server brings the proof."""
        session = self.session(n)
        process, to = self.store.process(), self.server(session, server)
        handed = self._take(session.who, process, 10, NO_LIMIT, True, False).messages
        passed = self.some([m.id for m in handed], bits)
        assert self.store(deliveries.pass_on, session.who, passed, process, to) == len(passed)
        assert self.model.pass_on(session.who, passed, process, to) == len(passed)
        self._die(process)

    def _settle(self, me: Address, by: Process, ids: list[int], *, read: bool) -> None:
        verb, model = (deliveries.confirm, self.model.confirm) if read else (deliveries.withdraw, self.model.withdraw)
        assert self.store(verb, me, ids, by) == model(me, ids, by)

    @someone_runs
    @rule(
        n=which,
        server=which,
        space=st.sampled_from(SPACES),
        conversation=st.sampled_from(USUALLY_THE_SAME),
        bell=st.sampled_from((None, None, True, False)),
        bits=st.integers(0, 15),
        lost=sometimes,
        announced=st.booleans(),
        roster=usually,
        begins=sometimes,
        ends=st.booleans(),
    )
    def event(
        self,
        n: int,
        server: int,
        space: int,
        conversation: str,
        bell: bool | None,
        bits: int,
        lost: bool,
        announced: bool,
        roster: bool,
        begins: bool,
        ends: bool,
    ) -> None:
        """A hook event of a session's client."""
        session = self.session(n)
        by = self.server(session, server)
        settled = tuple(self._to_settle(session, bits))
        proven, given_up = ((), settled) if lost else (settled, ())
        oldest = next((m.id for m in self.model.waiting(session.who)), 0) if announced else 0
        happening = Happening(
            "hook",
            space,
            conversation,
            "p1" if roster else "",
            begins,
            bell,
            proven,
            given_up,
            oldest,
            roster,
            "busy" if roster else None,
            ends,
        )
        found = self.store(sessions.react, session.client, happening, by)
        expected = self.model.react(session, session.client.process, happening, by)
        assert (found is None) == (expected is None)
        if not (found and expected):
            return
        self._same_mail(found.mail, expected.mail)
        assert (found.address, found.registered) == (expected.who, expected.registered)
        assert (found.announce, found.introduce) == (expected.announce, expected.introduce)
        assert (found.roster.peers if found.roster else None) == expected.roster
        assert {(o.name, path) for o in found.overlaps for path in o.paths} == expected.overlaps
        assert tuple(m.id for m in found.requests) == expected.requests

    @someone_runs
    @rule(n=which, idle=usually)
    def look_up(self, n: int, idle: bool) -> None:
        """A server looks whether to ring, and what to remind of."""
        session = self.session(n)
        self._ring(session, idle=idle)
        for _ in range(2):  # each request is recalled once
            found = self.store(deliveries.recall_requests, session.who)
            assert tuple(message.id for message in found) == self.model.recall(session.who)

    def _ring(self, session: Running, *, idle: bool) -> None:
        rung = self.store(deliveries.ring, session.client.key, idle=idle)
        expected = self.model.ring(session, idle=idle)
        assert (rung[1] if rung else None) == expected
        assert not rung or rung[0].count == len(self.model.waiting(session.who))

    # -- looking

    @mail_exists
    @rule(n=which, message=which)
    def ask_status(self, n: int, message: int) -> None:
        """Of a message that is, or is not, one's own to see."""
        me, asked = self.anybody(n), self._id(message) or 0
        real = self.do(messages.status, me, asked)
        letter = self.agree(real, lambda: self.model.look_at(me, asked))
        if letter:
            found = real.answer
            assert found.replies == self.model.replies(me, asked)
            assert (found.sender, found.kind) == (letter.sender.seen_from(me.channel), letter.draft.kind)
            shown = {r.recipient: (r.state, r.attempts) for r in found.receipts}
            assert shown == {w.seen_from(me.channel): (s.state, s.attempts) for w, s in letter.slips.items()}

    @mail_exists
    @rule(
        n=which,
        search=st.sampled_from(("", "x", "XX", "re")),
        thread=st.none() | which,
        since=st.integers(0, 4),
        limit=st.integers(1, 6),
    )
    def look_back(self, n: int, search: str, thread: int | None, since: int, limit: int) -> None:
        me, of = self.anybody(n), self._id(thread)
        found = self.store(messages.history, me, search=search, thread=of, since=since, limit=limit)
        assert found == self.model.history(me, search, of, since, limit)

    @rule(channel=channels, within=st.none() | st.just(60.0))
    def look_around(self, channel: str, within: float | None) -> None:
        found = self.store(agents.listing, channel, within)
        assert {a.name: (a.status, a.registered) for a in found} == self.model.listed(channel, within)
        assert [a.status for a in found] == sorted((a.status for a in found), key=lambda status: status == "offline")
        for agent in found:
            here = self.model.holder(Address(agent.name, channel))
            expected = self.model.overlaps(here.who) if here else frozenset()
            assert {(o.name, path) for o in agent.overlaps for path in o.paths} == expected

    # -- state

    @rule(
        n=which,
        channel=channels,
        key=st.sampled_from(("k", "kl")),
        value=st.sampled_from(("", "1", "two")),
        expected=st.sampled_from((None, None, -1, 0, 1)),
        mode=st.sampled_from(("overwrite", "append", "delete")),
        ttl=st.sampled_from((None, None, 20.0)),
        json=sometimes,
    )
    def set_state(
        self,
        n: int,
        channel: str,
        key: str,
        value: str,
        expected: int | None,
        mode: Mode,
        ttl: float | None,
        json: bool,
    ) -> None:
        """`expected` is counted from the present version, 0 being that one."""
        entry = self.model.state.get(channel, key, self.model.now)
        version = None if expected is None else max(0, (entry.number if entry else 0) + expected)
        who = Address(NAMES[n % 3], channel)
        real = self.do(state.set_state, who, key, value, expected_version=version, mode=mode, ttl=ttl, json=json)
        written = self.agree(
            real,
            lambda: self.model.state.set(
                channel, who.name, key, value, self.model.now, expected=version, mode=mode, ttl=ttl, json=json
            ),
        )
        assert real.answer == written

    @rule(channel=channels, key=st.sampled_from(("k", "kl")), limit=st.integers(1, 4))
    def get_state(self, channel: str, key: str, limit: int) -> None:
        now = self.model.now
        found = self.store(state.get_state, channel, key)
        shown = (
            (found.version, found.value, found.json, found.updated_by, found.updated_at, found.expires)
            if found
            else None
        )
        entry = self.model.state.get(channel, key, now)
        expected = (entry.number, entry.value, entry.json, entry.by, entry.at, entry.expires) if entry else None
        assert shown == expected
        past = [
            (e.version, e.value, e.json, e.updated_by, e.updated_at)
            for e in self.store(state.history, channel, key, limit)
        ]
        assert past == [(v.number, v.value, v.json, v.by, v.at) for v in self.model.state.history(channel, key, limit)]
        listed = [(e.key, e.version) for e in self.store(state.list_state, channel, prefix=key)]
        assert listed == [(at, v.number) for at, v in self.model.state.listed(channel, key, now).items()]

    # -- claims

    @somebody_is_there
    @rule(
        n=which,
        wanted=paths,
        tree=st.sampled_from(TREES),
        ttl=st.sampled_from((20.0, 2_000.0)),
        shared=st.booleans(),
    )
    def claim(self, n: int, wanted: list[str], tree: str, ttl: float, shared: bool) -> None:
        me = self.anybody(n)
        places = [(scope_of(path), path) for path in wanted]
        real = self.do(claims.claim, me, places, ttl=ttl, shared=shared, reason="why", tree=tree)
        self.agree(
            real,
            lambda: self.model.claims.claim(me, wanted, tree, self.model.now, ttl=ttl, shared=shared, reason="why"),
        )

    @somebody_is_there
    @rule(n=which, asked=st.none() | paths)
    def release(self, n: int, asked: list[str] | None) -> None:
        me = self.anybody(n)
        places = None if asked is None else [(scope_of(path), path) for path in asked]
        real = self.do(claims.release, me, places)
        ended = self.agree(real, lambda: self.model.claims.release(me, asked, self.model.now))
        assert ended is None or {place.path for place in real.answer} == ended

    @someone_runs
    @rule(n=which, asked=paths)
    def take_away(self, n: int, asked: list[str]) -> None:
        me = self.session(n).who
        ended, _ = self.store(guard.take_away, me, [(scope_of(path), path) for path in asked], "hurry")
        expected = self.model.claims.take_away(me.channel, asked, self.model.now)
        assert sorted(place.path for place in ended) == sorted(path for _, path in expected)
        self._told(
            {owner.name for owner, _ in expected} - {me.name}, me, count=len([o for o, _ in expected if o != me])
        )

    @someone_runs
    @rule(
        n=which,
        file=st.sampled_from(FILES),
        tree=st.sampled_from(TREES),
        policy=st.sampled_from(("confirm", "confirm", "warn", "deny")),
    )
    def edit(self, n: int, file: str, tree: str, policy: Guard) -> None:
        """The guard is asked about an edit."""
        session = self.session(n)
        verdict, _ = self.store(guard.edit, session.client, Place(REPOSITORY, file), tree, policy)
        action, against = self.model.claims.edit(session.who, session.client.key, file, tree, policy, self.model.now)
        assert verdict.action == ("override" if action == "go on" else action)
        assert verdict.claim.owner in {c.owner.name for c in against} if verdict.claim else not against
        if action == "override":
            assert verdict.claim
            self._told({verdict.claim.owner}, session.who, count=1)

    def _told(self, owners: set[str], me: Address, *, count: int) -> None:
        """The bus sent so many fyi in the name of `me`, to these."""
        new = self.store.rows(
            "SELECT id, ts, recipient, content, kind FROM messages WHERE id > ? ORDER BY id", self.newest
        )
        assert ({row[2] for row in new}, len(new)) == (owners, count)
        for number, ts, to, content, kind in new:
            self.model.send(me, Draft((to,), content, kind), number, ts)
            self.newest = number

    # -- time and upkeep

    @rule(seconds=st.sampled_from((1, 31, 121, 700, 3_000, -1, -40, -1_000)))
    def pass_time(self, seconds: float) -> None:
        self.store.now += seconds
        self.model.now += seconds
        for session in self.model.live():
            self._ring(session, idle=False)

    @rule(days=st.sampled_from((0, 31)))
    def prune(self, days: int) -> None:
        self.pass_time(days * 86_400)
        self.store(bus._prune)
        self.model.prune()

    # -- what must hold after each step

    @invariant()
    def what_must_hold_holds(self) -> None:
        """One after the other, so that a failure names what does not."""
        self.sessions_are_who_they_are()
        self.nothing_is_lost_and_no_receipt_is_false()
        self.receipts_only_go_on()
        self.ids_and_times_increase()
        self.claims_are_those_of_the_living()
        self.nobody_holds_what_another_holds()
        self.versions_have_no_gaps()
        self.the_file_is_sound()

    def _notice_deaths(self) -> None:
        """The bus may notice a death at any time: the model learns it from the bindings."""
        bound = {row[0] for row in self.store.rows("SELECT client FROM bindings")}
        for session in list(self.model.sessions.values()):
            if session.client.key not in bound:
                assert not self.model.alive(session), "a live session was ended"
                self.model.over(session, session.heartbeat)

    def sessions_are_who_they_are(self) -> None:
        self._notice_deaths()
        found = self.store.rows("SELECT client, agent, channel, session_id, bell FROM bindings ORDER BY client")
        expected = [
            (s.client.key, s.who.name, s.who.channel, s.session_id, int(s.bell)) for s in self.model.sessions.values()
        ]
        assert found == sorted(expected)
        known = self.store.rows("SELECT name, channel, registered, last_seen, session_id FROM agents")
        names = [(w.name, w.channel, int(n.registered), n.seen, n.session_id) for w, n in self.model.names.items()]
        assert sorted(known) == sorted(names)

    def nothing_is_lost_and_no_receipt_is_false(self) -> None:
        found = self.store.rows(
            "SELECT message, recipient, channel, state, attempts FROM deliveries ORDER BY message, recipient, channel"
        )
        expected = [
            (m.id, who.name, who.channel, slip.state, slip.attempts)
            for m in self.model.letters.values()
            for who, slip in m.slips.items()
        ]
        assert found == sorted(expected)

    def receipts_only_go_on(self) -> None:
        for letter in self.model.letters.values():
            for slip in letter.slips.values():
                assert slip.state in MOVES[self.receipts.get(slip, slip.state)]
                self.receipts[slip] = slip.state

    def ids_and_times_increase(self) -> None:
        found = self.store.rows("SELECT id, ts FROM messages ORDER BY id")
        assert all(one[1] < next_[1] for one, next_ in pairwise(found))
        assert [row[0] for row in found] == list(self.model.letters)

    def claims_are_those_of_the_living(self) -> None:
        found = self.store.rows("SELECT owner, channel, path, shared, edit, tree, expires FROM claims")
        now = self.model.now
        live = [
            (c.owner.name, c.owner.channel, c.path, int(c.shared), int(c.edit), c.tree, c.expires)
            for c in self.model.claims.held
        ]
        assert sorted(row for row in found if row[6] > now) == sorted(row for row in live if row[6] > now)

    def nobody_holds_what_another_holds(self) -> None:
        for channel in CHANNELS:
            held = [c for c in self.model.claims.live(channel, self.model.now) if not c.edit]
            for one in held:
                for other in held:
                    both = one.owner != other.owner and WORLD[one.path] & WORLD[other.path]
                    assert not both or (one.shared and other.shared)

    def versions_have_no_gaps(self) -> None:
        for channel, key, low, high, count in self.store.rows(
            "SELECT channel, key, MIN(version), MAX(version), COUNT(*) FROM state_history GROUP BY channel, key"
        ):
            kept = self.model.state.versions[channel, key]
            assert (count, low, high) == (len(kept), kept[0].number, kept[-1].number)

    def the_file_is_sound(self) -> None:
        assert self.store.rows("PRAGMA foreign_key_check") == []
        assert self.store.rows("PRAGMA quick_check") == [("ok",)]

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        try:
            self._everything_that_waits_is_read()
        finally:
            self.store.connection.close()
            self.folder.cleanup()

    def _everything_that_waits_is_read(self) -> None:
        """In the end everybody comes back and reads; unless something is wrong already, which is said elsewhere."""
        try:
            self.what_must_hold_holds()
        except AssertionError:
            return
        for session in self.model.live():
            self._die(session.client.process, *session.servers.values())
        for who in list(self.model.names):
            if who in self.model.names:
                self.person_reads(who, proves=True, space=NO_LIMIT)
        states = {slip.state for m in self.model.letters.values() for slip in m.slips.values()}
        assert not states & {"queued", "handed"}
        assert self.store.rows("PRAGMA integrity_check") == [("ok",)]


WholeBus.TestCase.settings = looks(120, steps=50)
TestWholeBus = WholeBus.TestCase
