"""The whole bus against a model of it in plain Python: any verbs in any order, crashes and clock jumps among them.

After each verb its answer, and all that the database holds, must be what the model says.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from claude_bus.model.claims import ClaimTarget, Guard
from claude_bus.model.hooks import HookReport
from claude_bus.model.identity import Address, Status
from claude_bus.model.messages import Draft, File, Kind
from claude_bus.sql import agents, bindings, claims, deliveries, expiry, guard, messages, sessions, state, upkeep
from tests.support.effort import looks
from tests.support.model_machine import CHANNELS, NAMES, BothBuses, mail_exists, somebody_is_there, someone_runs
from tests.support.model_of_claims import FILES, REPOSITORY, WORLD, scope_of
from tests.support.model_of_state import Mode
from tests.support.model_of_the_bus import Running
from tests.support.store import NO_LIMIT

pytestmark = pytest.mark.slow

SUBAGENTS = ("a1", "a2")
ATTACHED = (File("/home/me/shop/a.py", 3, "a" * 64, "here"), File("/home/me/shop/b.py", 0, "b" * 64, "there"))
CONVERSATIONS = ("", "s1", "s2")
USUALLY_THE_SAME = ("", "", "", "s1")
TREES = ("/home/me/shop", "/home/me/shop-2")
SPACES = (0, 250, NO_LIMIT, NO_LIMIT)

which = st.integers(0, 9)
channels = st.sampled_from((*CHANNELS[:1], *CHANNELS))
addresses = st.builds(Address, st.sampled_from(NAMES), channels)
targets = st.sampled_from(
    (
        "alice",
        "bob",
        "carol",
        "dave",
        "all",
        "a*",
        "*",
        "shop*",
        "alice@ops",
        "bob@default",
        "all@ops",
        "*@ops",
        "a*@ops",
    )
)
recipients = st.lists(targets, min_size=1, max_size=2, unique=True).map(tuple)
paths = st.lists(st.sampled_from(sorted(WORLD)), min_size=1, max_size=2, unique=True)
lives = st.sampled_from((None, None, 20.0, 2_000.0))
sometimes = st.integers(0, 3).map(lambda n: n == 3)
usually = st.integers(0, 3).map(lambda n: n < 3)


class Sessions(BothBuses):
    """They come and go, are renamed, and time passes."""

    @precondition(lambda self: len(self.model.live()) < 5)
    @rule(channel=channels, conversation=st.sampled_from(CONVERSATIONS), wanted=st.none() | addresses, again=sometimes)
    def begin(self, channel: str, conversation: str, wanted: Address | None, again: bool) -> None:
        """A client starts; sometimes at the socket of one that died."""
        self._begin(channel, conversation, wanted, again=again)

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

    @someone_runs
    @rule(n=which, server=which, killed=st.booleans())
    def server_ends(self, n: int, server: int, killed: bool) -> None:
        """As it should, or without a word."""
        session = self.session(n)
        process = self.server(session, server)
        if not killed:
            self.store.by(process)(bindings.detach, session.client.key)
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

    @rule(channel=channels, within=st.none() | st.just(60.0))
    def look_around(self, channel: str, within: float | None) -> None:
        found = self.store(agents.listing, channel, within)
        assert {a.name: (a.status, a.registered) for a in found} == self.model.listed(channel, within)
        assert [a.status for a in found] == sorted((a.status for a in found), key=lambda status: status == "offline")
        for agent in found:
            here = self.model.holder(Address(agent.name, channel))
            expected = self.model.overlaps(here.who) if here else frozenset()
            assert {(o.name, path) for o in agent.overlaps for path in o.paths} == expected

    @rule(seconds=st.sampled_from((1, 31, 121, 700, 3_000, -1, -40, -1_000)))
    def pass_time(self, seconds: float) -> None:
        self.store.now += seconds
        self.model.now += seconds
        for session in self.model.live():
            self._ring(session, idle=False)

    @rule(days=st.sampled_from((0, 8, 8, 31, 95)))
    def prune(self, days: int) -> None:
        self.pass_time(days * 86_400)
        in_use = self.store(expiry.in_use)  # the model has no journal
        self.store(upkeep.prune)
        self.model.prune(in_use=in_use)


class Mail(Sessions):
    """The messages that they send one another, and what becomes of them."""

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
        n=which,
        to=which,
        count=st.integers(1, 3),
        kind=st.sampled_from(("message", "message", "request")),
        ttl=lives,
        hops=st.sampled_from((0, 0, 10)),
    )
    def talk(self, n: int, to: int, count: int, kind: Kind, ttl: float | None, hops: int) -> None:
        """One session says a few things to another, whose server hears of it."""
        me = self.session(n).who
        others = [session for session in self.model.live() if session.who != me]
        if others:
            other = others[to % len(others)]
            for _ in range(count):
                self._send(me, Draft((f"{other.who.name}@{other.who.channel}",), "hi", kind, ttl=ttl, hops=hops))
            self._ring(other, idle=False)

    @mail_exists
    @rule(n=which, to=st.sampled_from(NAMES))
    def answer(self, n: int, to: str) -> None:
        """Reply to something one was sent."""
        me = self.anybody(n)
        mine = [letter for letter in self.model.letters.values() if me in letter.slips]
        if mine:
            self._send(me, Draft((to,), "re", "message", mine[-1 - n % len(mine)].id))

    def _id(self, n: int | None) -> int | None:
        """An id of a message, or one that no message has."""
        known = [*self.model.letters, 99_999]
        return None if n is None else known[n % len(known)]

    @someone_runs
    @rule(
        n=which,
        server=which,
        limit=st.sampled_from((1, 2, 100)),
        space=st.sampled_from(SPACES),
        least=st.booleans(),
        peek=sometimes,
        proves=st.booleans(),
    )
    def take(self, n: int, server: int, limit: int, space: int, least: bool, peek: bool, proves: bool) -> None:
        """A server hands over what waits for its session; sometimes the proof follows at once."""
        session = self.with_mail(n, "queued")
        by = self.server(session, server)
        handed = self._take(session.who, by, limit, space, least, peek)
        if proves:
            self.receipts_only_go_on()
            self._settle(session.who, by, [m.id for m in handed.messages], read=True)

    @rule(who=addresses, proves=st.booleans(), space=st.sampled_from(SPACES))
    def person_reads(self, who: Address, proves: bool, space: int) -> None:
        """A command line reads somebody's mail; sometimes it is killed before it said so."""
        self._person_reads(who, proves=proves, space=space)

    @mail_exists
    @rule(n=which, server=which, bits=st.integers(1, 15), read=st.booleans())
    def settle(self, n: int, server: int, bits: int, read: bool) -> None:
        """A server proves hand-overs, its own or not, or takes them back."""
        session = self.with_mail(n, "handed")
        self._settle(session.who, self.server(session, server), self._to_settle(session, bits), read=read)

    def _to_settle(self, session: Running, bits: int) -> list[int]:
        """Messages that were handed over, whoever did; the newest of all among them, handed or not."""
        handed = [m.id for m in self.model.letters.values() if m.of(session.who, "handed")]
        return self.some([*handed[-3:], *list(self.model.letters)[-1:]], bits)

    @mail_exists
    @rule(n=which, server=which, bits=st.integers(1, 15))
    def program_reads(self, n: int, server: int, bits: int) -> None:
        """A program in the session's shell reads, and passes on what it printed: its server brings the proof."""
        session = self.with_mail(n, "queued")
        process, to = self.store.process(), self.server(session, server)
        handed = self._take(session.who, process, 10, NO_LIMIT, True, False).messages
        passed = self.some([m.id for m in handed], bits)
        assert self.store.by(process)(deliveries.transfer, session.who, passed, to) == len(passed)
        assert self.model.pass_on(session.who, passed, process, to) == len(passed)
        self._die(process)

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
        again=sometimes,
        reminded=st.integers(0, 15),
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
        again: bool,
        reminded: int,
    ) -> None:
        """A hook event of a session's client."""
        session = self.with_mail(n, "queued", "handed")
        by = self.server(session, server)
        settled = tuple(self._to_settle(session, bits))
        proven, given_up = ((), settled) if lost else (settled, ())
        oldest = next((m.id for m in self.model.waiting(session.who)), 0) if announced else 0
        happening = HookReport(
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
            again,
            tuple(self.some(list(self.model.open_requests(session.who)), reminded)),
        )
        found = self.store.by(by)(sessions.handle_hook_event, session.client, happening)
        expected = self.model.react(session, session.client.process, happening, by)
        assert (found is None) == (expected is None)
        if not (found and expected):
            return
        self._same_mail(found.mail, expected.mail)
        assert (found.address, found.registered) == (expected.who, expected.registered)
        assert (found.announce, found.introduce, found.earlier) == (
            expected.announce,
            expected.introduce,
            expected.earlier,
        )
        assert (found.roster.peers if found.roster else None) == expected.roster
        assert {(o.name, path) for o in found.overlaps for path in o.paths} == expected.overlaps
        assert tuple(m.id for m in found.requests) == expected.requests

    @someone_runs
    @rule(n=which, idle=usually)
    def look_up(self, n: int, idle: bool) -> None:
        """A server looks whether to ring, and what to remind of."""
        session = self.with_mail(n, "queued", "read")
        self._ring(session, idle=idle)
        for _ in range(2):  # each request is recalled once
            expected = self.model.open_requests(session.who)
            self.model.note_recalled(session.who, expected)
            assert tuple(message.id for message in self.store.recall(session.who)) == expected

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


class State(BothBuses):
    """The state that they share."""

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


class Claims(Sessions):
    """The paths that they claim and edit."""

    edited: tuple[Running, str] | None = None

    @somebody_is_there
    @rule(
        n=which,
        wanted=paths,
        tree=st.sampled_from(TREES),
        ttl=st.sampled_from((20.0, 2_000.0, 90_000.0)),
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
        ended = self.store(guard.force_release, me, [(scope_of(path), path) for path in asked], "hurry")
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
        again=st.booleans(),
        policy=st.sampled_from(("confirm", "confirm", "warn", "deny")),
    )
    def edit(self, n: int, file: str, tree: str, again: bool, policy: Guard) -> None:
        """The guard is asked about an edit, often the same as before."""
        session = self.session(n)
        if again and self.edited and self.edited[0] in self.model.live():
            session, file = self.edited
        self.edited = (session, file)
        verdict = self.store(guard.edit, session.client, ClaimTarget(REPOSITORY, file), tree, policy)
        action, against = self.model.claims.edit(session.who, session.client.key, file, tree, policy, self.model.now)
        assert verdict.action == ("override" if action == "go on" else action)
        assert verdict.claim.owner in {c.owner.name for c in against} if verdict.claim else not against
        if action == "override":
            assert verdict.claim
            self._told({verdict.claim.owner}, session.who, count=1)


class WholeBus(Mail, State, Claims):
    """All verbs together: a claim may end with a message, a message with a claim."""


# Few long examples: what takes many steps to come about is rare in short ones.
Mail.TestCase.settings = looks(30, steps=200)
Claims.TestCase.settings = looks(25, steps=200)
WholeBus.TestCase.settings = looks(20, steps=200)
TestMail, TestClaims, TestWholeBus = Mail.TestCase, Claims.TestCase, WholeBus.TestCase
