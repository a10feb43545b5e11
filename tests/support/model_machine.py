"""The steps done on the bus and on its model at once, and what must hold after each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition

from claude_bus.drivers.sqlite import Step
from claude_bus.errors import BusError
from claude_bus.model.identity import Address, Client, Folder, Process
from claude_bus.model.messages import Draft, HandOver
from claude_bus.sql import agents, bindings, deliveries, messages, sessions
from tests.support.model_of_claims import REPOSITORY, WORLD
from tests.support.model_of_the_bus import MOVES, Handed, Letter, ModelOfTheBus, Running, Slip
from tests.support.model_refusals import Refused
from tests.support.store import NO_LIMIT, START, Store

T = TypeVar("T")

CHANNELS = ("default", "ops")
NAMES = ("alice", "bob", "carol", "dave")
"""All but the last run from the start."""
RATE = 8
SHOP = Folder("/home/me/shop", "/home/me/shop", REPOSITORY, "main")

someone_runs = precondition(lambda self: self.model.live())
somebody_is_there = precondition(lambda self: self.actors())
mail_exists = precondition(lambda self: self.model.letters and self.model.live())


@dataclass(frozen=True)
class Outcome:
    """The outcome of a verb: the code of its error, or its answer."""

    code: str
    answer: Any = None


class BothBuses(RuleBasedStateMachine):
    """The real one and its model, with three sessions on them."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.store = Store(Path(self.folder.name, "bus.db"))
        self.model = ModelOfTheBus(START)
        self.ports = iter(range(1, 100_000))
        self.receipts: dict[Slip, str] = {}
        self.newest = 0
        for name in NAMES[:-1]:
            self._begin("default", f"conversation of {name}", None, again=False)
            session = self.session(-1)
            self._register(session, Address(name, "default"), None)
            self.store(bindings.observe, session.client.key, bell=True)
            self.model.observe(session, None, "", True)

    def do(self, verb: Step[..., T], *args: Any, **options: Any) -> Outcome:
        return self.do_in(self.store, verb, *args, **options)

    def do_in(self, store: Store, verb: Step[..., T], *args: Any, **options: Any) -> Outcome:
        try:
            return Outcome("", store(verb, *args, **options))
        except BusError as error:
            return Outcome(error.code)

    def agree(self, real: Outcome, model: Callable[[], T]) -> T | None:
        """Return the model's answer if both let it happen; None if both refuse, for the same reason."""
        try:
            code, expected = "", model()
        except Refused as refused:
            code, expected = refused.code, None
        assert real.code == code
        return expected

    # -- who does it

    def session(self, n: int) -> Running:
        live = self.model.live()
        return live[n % len(live)]

    def with_mail(self, n: int, *states: str) -> Running:
        """A session with a delivery in one of these states; any session if no delivery is in one."""
        having = [s for s in self.model.live() if any(m.of(s.who, *states) for m in self.model.letters.values())]
        return having[n % len(having)] if having else self.session(n)

    def server(self, session: Running, n: int = 0) -> Process:
        """One of its servers that runs; one is started if none does. A subagent has its session's."""
        session = self.model.sessions.get(session.client.session, session)
        alive = [process for process in session.servers.values() if process not in self.model.dead]
        return alive[n % len(alive)] if alive else self._serve(session)

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

    # -- sessions

    def _begin(self, channel: str, conversation: str, wanted: Address | None, *, again: bool) -> None:
        """A client starts. A server more of one that runs changes nothing."""
        process = self.store.process()
        died = [s.client.key for s in self.model.sessions.values() if not self.model.alive(s)]
        key = died[0] if died and again else f"client:{process}"
        for session in self.model.live()[:1]:
            self._attach(session.client, None, channel)
        if self._attach(Client(key, process, SHOP, conversation, hooked=True), wanted, channel):
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

    def _serve(self, session: Running) -> Process:
        process, address = self.store.process(), f"udp:127.0.0.1:{next(self.ports)}"
        self.store.by(process)(sessions.listen, address, session.client.key)
        self.model.listen(session, address, process)
        return process

    def _register(self, session: Running, who: Address, owns: tuple[str, ...] | None) -> None:
        real = self.do(sessions.join, session.client.key, who, "", owns)
        self.agree(real, lambda: self.model.register(session, who, owns))
        if not real.code:
            binding, roster, unread = real.answer
            assert (binding.address, roster.peers, binding.registered) == (who, self.model.roster(who), True)
            assert unread == len(self.model.waiting(who))

    def _enlist(self, who: Address) -> None:
        """A person takes part, without a session."""
        self.agree(self.do(agents.join_without_session, who, "cli"), lambda: self.model.enlist(who))

    def _die(self, *gone: Process) -> None:
        for process in gone:
            self.store.kill(process)
        self.model.dead |= set(gone)

    # -- messages

    def _send(self, me: Address, draft: Draft) -> Letter | None:
        store = self.store.by(rate=RATE)
        real = self.do_in(store, messages.send, me, draft)
        if real.code:
            self.agree(real, lambda: self.model.send(me, draft, self.newest + 1, inf, RATE))
            return None
        sent, told = real.answer, store.told
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

    def _told(self, owners: set[str], me: Address, *, count: int) -> None:
        """The bus sent so many fyi in the name of `me`, to these."""
        new = self.store.rows(
            "SELECT id, ts, recipient, content, kind FROM messages WHERE id > ? ORDER BY id", self.newest
        )
        assert ({row[2] for row in new}, len(new)) == (owners, count)
        for number, ts, to, content, kind in new:
            self.model.send(me, Draft((to,), content, kind), number, ts)
            self.newest = number

    def _take(self, me: Address, by: Process, limit: int, space: int, least: bool, peek: bool) -> Handed:
        found = self.store.by(by)(
            deliveries.hand_over, me, limit=limit, max_chars=space, via="it", at_least_one=least, peek=peek
        )
        expected = self.model.hand_over(me, by, limit=limit, room=space, at_least_one=least, peek=peek)
        self._same_mail(found, expected)
        return expected

    def _same_mail(self, found: HandOver, expected: Handed) -> None:
        assert found == HandOver(expected.messages, expected.pending, expected.next_id, expected.unproven)

    def _person_reads(self, who: Address, *, proves: bool, space: int) -> None:
        """A person takes part, and gets all there is through a process that ends then."""
        self._enlist(who)
        if self.model.holder(who):
            return
        process = self.store.process()
        found = self._take(who, process, 1_000, space, True, False)
        self.receipts_only_go_on()
        if proves:
            self._settle(who, process, [m.id for m in found.messages], read=True)
        self._die(process)

    def _settle(self, me: Address, by: Process, ids: list[int], *, read: bool) -> None:
        verb, model = (deliveries.confirm, self.model.confirm) if read else (deliveries.withdraw, self.model.withdraw)
        assert self.store.by(by)(verb, me, ids) == model(me, ids, by)

    def _ring(self, session: Running, *, idle: bool) -> None:
        rung = self.store(deliveries.ring, session.client.key, idle=idle)
        expected = self.model.ring(session, idle=idle)
        assert (rung[1] if rung else None) == expected
        assert not rung or rung[0].count == len(self.model.news(session.who))

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
                self._person_reads(who, proves=True, space=NO_LIMIT)
        states = {slip.state for m in self.model.letters.values() for slip in m.slips.values()}
        assert not states & {"queued", "handed"}
        assert self.store.rows("PRAGMA integrity_check") == [("ok",)]
