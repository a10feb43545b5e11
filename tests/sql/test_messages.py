"""Messages: who gets them, how far each is, and that none is lost, doubled or called read unseen."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from claude_bus import drafts, limits
from claude_bus.errors import InvalidInput, NotFound, TooLarge
from claude_bus.model.identity import Address
from claude_bus.model.messages import Message
from claude_bus.sql import bindings, deliveries, listeners, mailboxes, messages
from tests.support.store import NO_LIMIT, START, Store

DEFAULT = "default"


# -- who gets a message -----------------------------------------------------------


def test_a_direct_message_reaches_its_recipient_only(store: Store) -> None:
    """A message to a name is for that name."""
    alice, bob, carol = store.join("alice"), store.join("bob"), store.join("carol")

    sent = store.send(alice, "bob", "psst")

    assert (sent.id, sent.to) == (1, "bob")
    assert store.contents(bob) == ["psst"]
    assert store.contents(carol) == []
    assert store.contents(alice) == []


@pytest.mark.parametrize("word", ["all", "any", " all "])
def test_a_broadcast_reaches_everybody_but_its_sender(store: Store, word: str) -> None:
    """`all` and `any` are the same, and nobody hears an echo."""
    alice, bob, carol = store.join("alice"), store.join("bob"), store.join("carol")

    sent = store.send(alice, word, "hear")

    assert sent.to == "all"
    assert [store.contents(who) for who in (alice, bob, carol)] == [[], ["hear"], ["hear"]]


def test_a_late_joiner_gets_the_earlier_broadcasts(store: Store) -> None:
    """A session that registers later gets the earlier broadcasts, in order, and no direct mail of others."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "all", "one")
    store.send(alice, "bob", "direct")
    store.send(bob, "all", "two")

    assert store.contents(store.join("carol")) == ["one", "two"]


def test_registering_again_does_not_deliver_broadcasts_again(store: Store) -> None:
    """A broadcast that was read stays read, through renaming, leaving and coming back."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "all", "once")
    assert store.contents(bob) == ["once"]

    bob = store.rename(bob, "robert")
    assert store.contents(bob) == []
    store(bindings.leave, store.clients[bob].key)

    assert store.contents(store.join("robert")) == []


def test_a_broadcast_with_nobody_here_waits_for_the_first(store: Store) -> None:
    """Saying something to an empty room is fine; whoever comes in gets it."""
    alice = store.join("alice")

    sent = store.send(alice, "all", "anybody?")

    assert sent.expectations == ()
    assert store.contents(store.join("bob")) == ["anybody?"]


def test_mail_for_a_name_nobody_has_yet_waits_for_it(store: Store) -> None:
    """An unknown recipient is accepted, said to be unknown, and finds its mail when it comes."""
    alice = store.join("alice")

    sent = store.send(alice, "frontend", "hello")

    assert store.outlook(sent) == {"frontend": "unknown"}
    assert store.contents(store.join("frontend")) == ["hello"]


def test_a_list_is_one_message_with_a_delivery_for_each(store: Store) -> None:
    """Names, globs and repetitions in a list come to one delivery per agent."""
    alice, bob = store.join("alice"), store.join("bob")
    web1, web2 = store.join("web-1"), store.join("web-2")

    sent = store.send(alice, ("bob", "web-*", "web-1", "alice"), "you three")

    assert sent.to == "bob, web-*, web-1, alice"
    assert store.states(alice, sent.id) == {"bob": "queued", "web-1": "queued", "web-2": "queued"}
    assert [store.contents(who) for who in (bob, web1, web2, alice)] == [["you three"]] * 3 + [[]]


def test_a_glob_reaches_those_it_matches_now(store: Store) -> None:
    """A glob is no mailing list: who comes later is not meant."""
    alice, web = store.join("alice"), store.join("web-1")

    store.send(alice, "web-?", "now")

    assert store.contents(web) == ["now"]
    assert store.contents(store.join("web-2")) == []


@pytest.mark.parametrize("to", ["db-*", "alice", ("alice", "alice"), "al*"])
def test_a_message_to_nobody_else_is_refused(store: Store, to: str | tuple[str, ...]) -> None:
    """A glob without a match, or oneself alone, is a mistake and stores nothing."""
    alice = store.join("alice")

    with pytest.raises(InvalidInput):
        store.send(alice, to)

    assert store.rows("SELECT * FROM messages") == []


def test_a_name_on_another_channel_is_reached_and_can_answer(store: Store) -> None:
    """`name@channel` crosses over; the reader sees a sender it can write back to."""
    alice, bob = store.join("alice"), store.join("bob", channel="web")
    sent = store.send(alice, "bob@web", "over there?")

    [received] = store.read(bob)
    store.send(bob, received.sender, "here", reply_to=received.id)

    assert received.sender == "alice@default"
    assert store.contents(alice) == ["here"]
    assert store.states(alice, sent.id) == {"bob@web": "acked"}


def test_a_broadcast_on_another_channel_reaches_that_channel(store: Store) -> None:
    """`all@channel` is for everybody there, now and later, and nobody here."""
    alice, bob, there = store.join("alice"), store.join("bob"), store.join("carol", channel="web")

    store.send(alice, "all@web", "dear web")

    assert store.contents(bob) == []
    assert store.contents(there) == ["dear web"]
    assert store.contents(store.join("dave", channel="web")) == ["dear web"]


def test_one_message_is_broadcast_on_one_channel(store: Store) -> None:
    """Two channels at once would be two messages."""
    alice = store.join("alice")

    with pytest.raises(InvalidInput):
        store.send(alice, ("all", "all@web"))


def test_channels_do_not_hear_each_other(store: Store) -> None:
    """A broadcast stays on its channel, and a plain name is one of the sender's channel."""
    alice, other = store.join("alice"), store.join("bob", channel="web")

    store.send(alice, "all", "ours")
    sent = store.send(alice, "bob", "which bob?")

    assert store.contents(other) == []
    assert sent.expectations[0].hint == "that name is on channel 'web': 'bob@web'"


# -- what the sender is told ---------------------------------------------------------


def test_the_sender_learns_what_to_expect_for_each(store: Store) -> None:
    """Working, idle, being woken, offline since when, or never seen: each is told apart."""
    alice = store.join("alice")
    working, waking, idle, gone = (store.join(n) for n in ("working", "waking", "idle", "gone"))
    store(bindings.observe, store.clients[working].key, status="working")
    store(bindings.observe, store.clients[waking].key, bell=True)
    store.now += 50
    store.die(gone)

    sent = store.send(alice, ("working", "waking", "idle", "gone", "nobody"))

    assert store.outlook(sent) == {
        "working": "working",
        "waking": "waking",
        "idle": "idle",
        "gone": "offline",
        "nobody": "unknown",
    }
    assert next(e for e in sent.expectations if e.recipient == "gone").since == START
    assert idle.name == "idle"


@pytest.mark.parametrize(
    ("to", "more", "outlook"),
    [("bob", {}, "waking"), ("bob", {"kind": "fyi"}, "idle"), ("all", {}, "idle"), ("all", {"urgent": True}, "waking")],
)
def test_nobody_is_promised_to_be_woken_by_what_does_not_ring(
    store: Store, to: str, more: dict[str, Any], outlook: str
) -> None:
    """Direct mail wakes, an fyi never, a broadcast only if urgent."""
    alice, bob = store.join("alice"), store.join("bob")
    store(bindings.observe, store.clients[bob].key, bell=True)

    assert store.outlook(store.send(alice, to, **more)) == {"bob": outlook}


def test_a_mistyped_name_is_guessed(store: Store) -> None:
    """Mail for an unknown name is kept, with a hint at the one that was probably meant."""
    alice = store.join("alice")
    store.join("backend")

    assert store.send(alice, "bakcend").expectations[0].hint == "did you mean 'backend'?"
    assert store.send(alice, "zzz").expectations[0].hint == ""


# -- keys, replies, limits ---------------------------------------------------------------


def test_the_same_key_again_sends_nothing(store: Store) -> None:
    """A retry with a key is told of the first message and delivers nothing."""
    alice, bob = store.join("alice"), store.join("bob")
    first = store.send(alice, "bob", "once", key="k1")

    again = store.send(alice, "bob", "once more", key="k1")

    assert (again.id, again.duplicate) == (first.id, True)
    assert store.contents(bob) == ["once"]


def test_a_key_belongs_to_its_sender(store: Store) -> None:
    """Two senders may use one key."""
    alice, bob, carol = store.join("alice"), store.join("bob"), store.join("carol")

    ids = {store.send(who, "carol", key="k1").id for who in (alice, bob)}

    assert len(ids) == 2
    assert len(store.contents(carol)) == 2


def test_a_reply_acknowledges_what_it_answers(store: Store) -> None:
    """Answering is the explicit receipt, and the asker sees the answer's id."""
    alice, bob = store.join("alice"), store.join("bob")
    request = store.send(alice, "bob", "which port?", kind="request")
    store.hand_over(bob)

    answer = store.send(bob, "alice", "8080", reply_to=request.id)
    status = store(messages.status, alice, request.id)

    assert store.states(alice, request.id) == {"bob": "acked"}
    assert [(reply.id, reply.content) for reply in status.replies] == [(answer.id, "8080")]
    assert status.receipts[0].read_at == status.receipts[0].acked_at == store.now


@pytest.mark.parametrize("number", [99, 1])
def test_only_what_one_may_see_can_be_answered(store: Store, number: int) -> None:
    """A reply to a message that does not exist, or was between others, is refused and stores nothing."""
    alice, bob, eve = store.join("alice"), store.join("bob"), store.join("eve")
    store.send(alice, "bob", "secret")

    with pytest.raises(NotFound):
        store.send(eve, "alice", reply_to=number)

    assert store.contents(alice) == []
    assert store.contents(bob) == ["secret"]


def test_content_over_the_limit_is_refused_with_the_way_out(store: Store) -> None:
    """64 KB of UTF-8 are the limit, counted in bytes."""
    alice, bob = store.join("alice"), store.join("bob")

    store.send(alice, "bob", "x" * drafts.MAX_CONTENT_BYTES)
    with pytest.raises(TooLarge, match="sha256"):
        store.send(alice, "bob", "é" * (drafts.MAX_CONTENT_BYTES // 2 + 1))

    assert len(store.contents(bob)) == 1


# -- how far a message is ------------------------------------------------------------------


def test_a_message_goes_from_queued_over_handed_to_read(store: Store) -> None:
    """Each step is told to the sender with its time; handed is not yet read."""
    alice, bob = store.join("alice"), store.join("bob")
    sent = store.send(alice, "bob")
    seen = [store.states(alice, sent.id)["bob"]]

    store.now += 1
    store.hand_over(bob, via="prompt hook")
    seen.append(store.states(alice, sent.id)["bob"])
    store.now += 1
    store.by(store.clients[bob].process)(deliveries.confirm, bob, [sent.id])

    [receipt] = store(messages.status, alice, sent.id).receipts
    assert [*seen, receipt.state] == ["queued", "handed", "read"]
    assert (receipt.via, receipt.attempts) == ("prompt hook", 1)
    assert (receipt.handed_at, receipt.read_at) == (START + 1, START + 2)


def test_each_reader_of_a_broadcast_has_a_receipt_of_its_own(store: Store) -> None:
    """One agent's reading says nothing about another's."""
    alice, bob = store.join("alice"), store.join("bob")
    store.join("carol")
    sent = store.send(alice, "all")
    store.read(bob)

    assert store.states(alice, sent.id) == {"bob": "read", "carol": "queued"}


def test_what_was_handed_is_not_handed_again_while_it_may_still_be_read(store: Store) -> None:
    """As long as the process that handed it over lives, a message comes once."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", "once")

    assert [len(store.hand_over(bob).messages) for _ in range(3)] == [1, 0, 0]


def test_what_was_handed_without_proof_comes_again_marked(store: Store) -> None:
    """A hand-over by a process that died without a sign of its reading is repeated, as possibly seen."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", "lost?")
    first = store.process()
    store.hand_over(bob, by=first)
    store.kill(first)
    store.send(alice, "bob", "new")

    again = store.hand_over(bob).messages

    assert [(m.content, m.possibly_seen) for m in again] == [("lost?", True), ("new", False)]


def test_a_hand_over_of_another_living_process_is_left_to_it(store: Store) -> None:
    """Two servers of one session do not hand the same message over twice."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob")
    store.hand_over(bob, by=store.process())

    assert store.hand_over(bob).messages == ()


def test_only_the_process_that_handed_over_can_prove_or_take_back(store: Store) -> None:
    """A late proof of an earlier process does not count for a later hand-over."""
    alice, bob = store.join("alice"), store.join("bob")
    sent = store.send(alice, "bob")
    late = store.process()
    store.hand_over(bob)

    assert store.by(late)(deliveries.confirm, bob, [sent.id]) == 0
    assert store.by(late)(deliveries.withdraw, bob, [sent.id]) == 0
    assert store.states(alice, sent.id) == {"bob": "handed"}


def test_what_never_reached_the_conversation_waits_again(store: Store) -> None:
    """A withdrawn hand-over is unread, in its place, and marked when it comes again."""
    alice, bob = store.join("alice"), store.join("bob")
    first, second = store.send(alice, "bob", "1"), store.send(alice, "bob", "2")
    store.hand_over(bob)

    store.by(store.clients[bob].process)(deliveries.withdraw, bob, [first.id])

    assert [(m.content, m.possibly_seen) for m in store.hand_over(bob).messages] == [("1", True)]
    assert store.states(alice, second.id) == {"bob": "handed"}


def test_proof_is_final(store: Store) -> None:
    """Mail that is read or acknowledged is not withdrawn, requeued or handed again."""
    alice, bob = store.join("alice"), store.join("bob")
    sent = store.send(alice, "bob")
    store.read(bob)

    store.by(store.clients[bob].process)(deliveries.withdraw, bob, [sent.id])
    store(mailboxes.requeue, bob)

    assert store.states(alice, sent.id) == {"bob": "read"}
    assert store.contents(bob) == []


def test_peeking_changes_nothing(store: Store) -> None:
    """A peek shows what an inbox would, and how much is unread, as often as one likes."""
    alice, bob = store.join("alice"), store.join("bob")
    for n in range(3):
        store.send(alice, "bob", str(n))

    peeks = [store.hand_over(bob, peek=True, limit=2) for _ in range(2)]

    assert peeks[0] == peeks[1]
    assert ([m.content for m in peeks[0].messages], peeks[0].pending) == (["0", "1"], 3)
    assert store.contents(bob) == ["0", "1", "2"]


def test_pending_is_what_stays_after_this_hand_over(store: Store) -> None:
    """A hand-over with a limit tells how many are left and which comes next."""
    alice, bob = store.join("alice"), store.join("bob")
    ids = [store.send(alice, "bob").id for _ in range(5)]

    parts = [store.hand_over(bob, limit=2) for _ in range(3)]

    assert [(len(p.messages), p.pending) for p in parts] == [(2, 3), (2, 1), (1, 0)]
    assert [m.id for p in parts for m in p.messages] == ids


def test_a_message_that_does_not_fit_is_not_overtaken(store: Store) -> None:
    """Small messages wait behind a large one; order is kept, and nothing is cut."""
    alice, bob = store.join("alice"), store.join("bob")
    big = store.send(alice, "bob", "x" * 5000)
    store.send(alice, "bob", "small")

    found = store.hand_over(bob, max_chars=2000)
    at_least = store.hand_over(bob, max_chars=2000, at_least_one=True)

    assert (found.messages, found.pending, found.next_id) == ((), 2, big.id)
    assert ([m.id for m in at_least.messages], at_least.pending) == ([big.id], 1)


# -- lifetime ------------------------------------------------------------------------------


def test_a_message_expires_only_if_its_sender_said_so(store: Store) -> None:
    """After its ttl an unread message is no longer delivered; without a ttl it waits for ever."""
    alice, bob = store.join("alice"), store.join("bob")
    sent = store.send(alice, "bob", "short", ttl=10)
    store.send(alice, "bob", "long")
    store.now += 3600 * 24 * 400

    assert store.contents(bob) == ["long"]
    assert store.states(alice, sent.id) == {"bob": "expired"}


def test_the_sender_learns_that_a_message_expired_though_nobody_looked(store: Store) -> None:
    """A recipient that never comes does not keep an expired message queued in its sender's eyes."""
    alice = store.join("alice")
    sent = store.send(alice, "bob", ttl=10)
    store.now += 11

    assert store.states(alice, sent.id) == {"bob": "expired"}


def test_an_expired_message_neither_counts_nor_rings_nor_reaches_late_joiners(store: Store) -> None:
    """An expired message stays expired, in every way that it could still be noticed."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", ttl=10)
    store.send(alice, "all", ttl=10)
    store.now += 11

    waiting = store(deliveries.waiting, bob)

    assert (waiting.count, waiting.rings) == (0, False)
    assert store.contents(store.join("carol")) == []


def test_what_was_handed_in_time_can_still_be_proven(store: Store) -> None:
    """A ttl ends waiting, not reading."""
    alice, bob = store.join("alice"), store.join("bob")
    sent = store.send(alice, "bob", ttl=10)
    store.hand_over(bob)
    store.now += 11

    store.by(store.clients[bob].process)(deliveries.confirm, bob, [sent.id])

    assert store.states(alice, sent.id) == {"bob": "read"}


def test_pruning_keeps_what_is_unread_and_the_order_of_time(store: Store) -> None:
    """Old messages that everybody read go; unread ones stay, and later timestamps still increase."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", "read")
    store.read(bob)
    store.send(alice, "bob", "unread")
    store.send(alice, "bob", "handed")
    store.hand_over(bob, limit=1)
    last = store.send(alice, "bob", "last")
    store.now += 40 * 86_400

    gone = store(messages.prune, store.now - limits.RETENTION)
    store.now = START - 1000
    after = store.send(alice, "bob", "after")

    assert gone == 1
    assert [r[0] for r in store.rows("SELECT content FROM messages ORDER BY id")] == [
        "unread",
        "handed",
        "last",
        "after",
    ]
    assert after.id > last.id
    stamps = [r[0] for r in store.rows("SELECT ts FROM messages ORDER BY id")]
    assert stamps == sorted(set(stamps))


def test_pruning_forgets_what_expired_unread(store: Store) -> None:
    """An old message whose ttl is over keeps nobody waiting, and no space."""
    alice = store.join("alice")
    store.send(alice, "never-comes", "short", ttl=10)
    store.send(alice, "never-comes", "kept")
    store.now += 40 * 86_400

    assert store(messages.prune, store.now - limits.RETENTION) == 1
    assert store.rows("SELECT content FROM messages") == [("kept",)]


def test_ids_and_times_increase_strictly_whatever_the_clock_does(store: Store) -> None:
    """A clock that stands still or jumps back does not disturb the order of messages."""
    alice, bob = store.join("alice"), store.join("bob")
    for now in (START, START, START - 86_400, START - 86_400, START + 1, START):
        store.now = now
        store.send(alice, "bob")

    found = store.read(bob)

    assert len(found) == 6
    assert all(one.id < other.id and one.ts < other.ts for one, other in itertools.pairwise(found))


# -- requests ---------------------------------------------------------------------------------


def test_an_open_request_is_recalled_once(store: Store) -> None:
    """A request that was read and not answered is mentioned once before its reader goes idle."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", "answered", kind="request")
    store.send(alice, "bob", "open", kind="request")
    store.send(alice, "bob", "no request")
    store.send(alice, "bob", "unread", kind="request")
    store.hand_over(bob, limit=3)
    store.by(store.clients[bob].process)(deliveries.confirm, bob, [1, 2, 3])
    store.send(bob, "alice", "yes", reply_to=1)

    recalled = [[m.content for m in store.recall(bob)] for _ in range(2)]

    assert recalled == [["open"], []]


# -- the bell ------------------------------------------------------------------------------------


@pytest.fixture
def bell(store: Store) -> tuple[Address, str]:
    """An idle session that can be woken, and its client's key."""
    bob = store.join("bob")
    key = store.clients[bob].key
    store(bindings.observe, key, status="idle", bell=True)
    return bob, key


def test_a_batch_rings_once_then_twice_more_later(store: Store, bell: tuple[Address, str]) -> None:
    """Mail that stays unread rings again after a while, a few times at most."""
    alice = store.join("alice")
    store.send(alice, "bob")
    rang = []
    for wait in (0, 1, 28, 1, 60, 59, 1, 10_000, 100_000):
        store.now += wait
        rung = store(deliveries.ring, bell[1], idle=False)
        rang.append(None if rung is None else rung[1])

    assert rang == [0, None, None, 1, None, None, 2, None, None]


def test_mail_that_joins_an_unread_batch_does_not_ring_by_itself(store: Store, bell: tuple[Address, str]) -> None:
    """One ring is for all that waits; new mail after it was read is a new batch."""
    alice = store.join("alice")
    store.send(alice, "bob")
    first = store(deliveries.ring, bell[1], idle=False)
    store.send(alice, "bob")
    joined = store(deliveries.ring, bell[1], idle=False)
    store.read(bell[0])
    store.send(alice, "bob")
    third = store(deliveries.ring, bell[1], idle=False)

    assert first
    assert joined is None
    assert third
    assert (first[0].count, third[0].count, third[0].newest) == (1, 1, 3)


@pytest.mark.parametrize("status", ["working", "waiting"])
def test_a_session_that_is_not_idle_is_not_rung(store: Store, bell: tuple[Address, str], status: Any) -> None:
    """Never while it works or asks its user, unless the caller knows better."""
    alice = store.join("alice")
    store(bindings.observe, bell[1], status=status)
    store.send(alice, "bob")

    assert store(deliveries.ring, bell[1], idle=False) is None
    assert store(deliveries.ring, bell[1], idle=True) is not None


@pytest.mark.parametrize(
    ("to", "more", "rings"),
    [
        ("bob", {}, True),
        ("bob", {"kind": "request"}, True),
        ("bob", {"kind": "fyi"}, False),
        ("bob", {"kind": "fyi", "urgent": True}, False),
        ("all", {}, False),
        ("all", {"kind": "request"}, False),
        ("all", {"urgent": True}, True),
        ("b*", {}, True),
    ],
)
def test_what_rings(store: Store, bell: tuple[Address, str], to: str, more: dict[str, Any], rings: bool) -> None:
    """Direct mail and requests ring, broadcasts only if urgent, an fyi never."""
    store.send(store.join("alice"), to, **more)

    assert (store(deliveries.ring, bell[1], idle=False) is not None) == rings
    assert store(deliveries.waiting, bell[0]).count == 1


def test_a_bell_that_is_off_does_not_ring(store: Store, bell: tuple[Address, str]) -> None:
    """Nor does that of a session that is gone."""
    store.send(store.join("alice"), "bob")
    store(bindings.observe, bell[1], bell=False)

    assert store(deliveries.ring, bell[1], idle=True) is None
    assert store(deliveries.ring, "nobody", idle=True) is None


def test_listeners_are_told_of_their_own_mail_only(store: Store) -> None:
    """A send names the addresses that wait for its recipients, and those that wait for all mail."""
    from claude_bus.model.messages import Draft

    alice, bob, carol = store.join("alice"), store.join("bob"), store.join("carol")
    for who, port in ((bob, 1), (carol, 2)):
        store(listeners.listen, f"udp:127.0.0.1:{port}", store.clients[who].key, store.process())
    store(listeners.listen, "udp:127.0.0.1:3", "", store.process())

    def told(to: str) -> tuple[str, ...]:
        store(messages.send, alice, Draft((to,), "x"))
        return tuple(store.told)

    assert [told(to) for to in ("bob", "all", "nobody")] == [
        ("udp:127.0.0.1:1", "udp:127.0.0.1:3"),
        ("udp:127.0.0.1:1", "udp:127.0.0.1:2", "udp:127.0.0.1:3"),
        ("udp:127.0.0.1:3",),
    ]


# -- looking back ----------------------------------------------------------------------------------


@pytest.fixture
def talk(store: Store) -> dict[str, Address]:
    """Three agents that said a few things."""
    who = {name: store.join(name) for name in ("alice", "bob", "eve")}
    store.send(who["alice"], "bob", "Which port?", kind="request")
    store.send(who["bob"], "alice", "8080, 100%", reply_to=1)
    store.send(who["alice"], "all", "We use 8080_x")
    store.send(who["bob"], "alice", "thread again", reply_to=2)
    return who


def test_history_shows_what_one_may_see(store: Store, talk: dict[str, Address]) -> None:
    """One's own, what one was sent, and broadcasts; not the mail between others."""

    def ids(name: str) -> list[int]:
        return [m.id for m in store(messages.history, talk[name])]

    assert (ids("alice"), ids("bob"), ids("eve")) == ([1, 2, 3, 4], [1, 2, 3, 4], [3])


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({"search": "PORT"}, [1]),
        ({"search": "8080"}, [2, 3]),
        ({"search": "100%"}, [2]),
        ({"search": "8080_"}, [3]),
        ({"search": "!"}, []),
        ({"thread": 1}, [1, 2, 4]),
        ({"thread": 4}, [1, 2, 4]),
        ({"thread": 3}, [3]),
        ({"thread": 99}, []),
        ({"since": 2}, [3, 4]),
        ({"limit": 2}, [3, 4]),
        ({"thread": 2, "search": "again", "since": 1, "limit": 1}, [4]),
    ],
)
def test_history_finds(store: Store, talk: dict[str, Address], query: dict[str, Any], ids: list[int]) -> None:
    """By text taken literally, by conversation, by what came after, the newest first to be kept, oldest first shown."""
    assert [m.id for m in store(messages.history, talk["alice"], **query)] == ids


def test_history_consumes_nothing(store: Store, talk: dict[str, Address]) -> None:
    """Looking back leaves mail unread."""
    store(messages.history, talk["alice"])

    assert [m.id for m in store.read(talk["alice"])] == [2, 4]


def test_a_thread_does_not_show_what_is_not_ones_own(store: Store, talk: dict[str, Address]) -> None:
    """Knowing an id of a conversation opens no part of it."""
    assert store(messages.history, talk["eve"], thread=1) == []


def test_the_status_of_a_message_is_its_participants_to_see(store: Store, talk: dict[str, Address]) -> None:
    """Sender and readers may ask; for anybody else the message does not exist."""
    assert store(messages.status, talk["bob"], 1).receipts[0].recipient == "bob"
    with pytest.raises(NotFound, match="no message with id 1"):
        store(messages.status, talk["eve"], 1)
    with pytest.raises(NotFound, match="no message with id 99"):
        store(messages.status, talk["alice"], 99)


# -- nothing lost, nothing twice, nothing called read that was not proven -----------------------------


class Deliveries(RuleBasedStateMachine):
    """Two senders, one reader whose processes come and die, in any order of events."""

    @initialize()
    def start(self) -> None:
        import tempfile
        from pathlib import Path

        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.store = Store(Path(self.folder.name, "bus.db"))
        self.alice, self.carol, self.bob = (self.store.join(n) for n in ("alice", "carol", "bob"))
        self.process = self.store.process()
        self.handed: dict[int, bool] = {}
        self.proven: set[int] = set()
        self.seen: set[int] = set()
        self.sent: list[int] = []

    @rule(carol=st.booleans(), to=st.sampled_from(["bob", "all", "b*"]))
    def send(self, carol: bool, to: str) -> None:
        self.sent.append(self.store.send(self.carol if carol else self.alice, to, str(len(self.sent))).id)

    @rule(limit=st.integers(1, 4), size=st.sampled_from([200, 500, NO_LIMIT]))
    def take(self, limit: int, size: int) -> None:
        """Each message was not proven before, is not held by the process already, and is marked if seen before."""
        found = self.store.hand_over(self.bob, by=self.process, limit=limit, max_chars=size).messages
        ids = [m.id for m in found]
        open_before = [n for n in self.sent if n not in self.proven and n not in self.handed]
        assert ids == open_before[: len(ids)]
        assert [m.possibly_seen for m in found] == [n in self.seen for n in ids]
        self.handed |= dict.fromkeys(ids, True)
        self.seen |= set(ids)

    @precondition(lambda self: self.handed)
    @rule(data=st.data())
    def prove(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(sorted(self.handed)), unique=True))
        self.store.by(self.process)(deliveries.confirm, self.bob, some)
        self.proven |= set(some)
        for n in some:
            del self.handed[n]

    @precondition(lambda self: self.handed)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(sorted(self.handed)), unique=True))
        self.store.by(self.process)(deliveries.withdraw, self.bob, some)
        for n in some:
            del self.handed[n]

    @rule()
    def crash(self) -> None:
        """The process that hands over dies; the next one takes its place."""
        self.store.kill(self.process)
        self.process = self.store.process()
        self.handed.clear()

    @rule()
    def take_over(self) -> None:
        """The session dies, and another registers its name."""
        self.store.kill(self.process)
        self.store.die(self.bob)
        self.bob = self.store.join("bob")
        self.process = self.store.process()
        self.handed.clear()

    @rule(back=st.booleans())
    def jump(self, back: bool) -> None:
        self.store.now += -100 if back else 100

    @invariant()
    def every_receipt_is_true(self) -> None:
        for n in getattr(self, "sent", []):
            state = self.store.states(self.alice if n in self._by_alice() else self.carol, n)["bob"]
            assert (state == "read") == (n in self.proven)

    def _by_alice(self) -> set[int]:
        return {row[0] for row in self.store.rows("SELECT id FROM messages WHERE sender = 'alice'")}

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        self.store.kill(self.process)
        left: list[Message] = self.store.read(self.bob)
        assert [m.id for m in left] == [n for n in self.sent if n not in self.proven]
        self.store.connection.close()
        self.folder.cleanup()


Deliveries.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestDeliveries = Deliveries.TestCase


def test_asking_finds_out_that_a_reader_is_gone(store: Store) -> None:
    """A session that died after a hand-over counts as gone as soon as somebody asks, and the message waits again."""
    alice, bob = store.join("alice"), store.join("bob")
    sent = store.send(alice, "bob")
    store.hand_over(bob)
    store.die(bob)

    assert store.states(alice, sent.id) == {"bob": "queued"}


def test_asking_finds_out_that_a_server_is_gone(store: Store) -> None:
    """So does a hand-over whose server died, though its session lives."""
    alice, bob = store.join("alice"), store.join("bob")
    server = store.process()
    sent = store.send(alice, "bob")
    store.hand_over(bob, by=server)
    assert store.states(alice, sent.id) == {"bob": "handed"}

    store.kill(server)

    assert store.states(alice, sent.id) == {"bob": "queued"}


def test_the_status_shows_the_answers_one_may_see(store: Store) -> None:
    """The newest twenty, oldest first, as messages; an answer that went to others only is not shown."""
    alice, bob, carol = store.join("alice"), store.join("bob"), store.join("carol")
    question = store.send(alice, ("bob", "carol"), "who can?", kind="request")
    store.read(bob)
    store.read(carol)
    for number in range(25):
        store.send(bob, "alice", f"I {number}", reply_to=question.id)
    store.send(carol, "bob", "let us not tell", reply_to=question.id)

    replies = store(messages.status, alice, question.id).replies

    assert [reply.content for reply in replies] == [f"I {number}" for number in range(5, 25)]
