"""Mail for a name that has fallen silent: how long it waits, and what its sender is told."""

from __future__ import annotations

import math

import pytest

from claude_bus import limits
from claude_bus.compat.sql import feeds
from claude_bus.model.identity import Address
from claude_bus.model.tokens import UNRESTRICTED
from claude_bus.sql import agents, events, inboxes, messages, upkeep
from tests.support.store import Store

CI, TYPO = Address("ci", "default"), Address("typo", "default")
DAY = 86_400.0
MONTH, QUARTER = limits.READER_SILENCE + DAY, limits.SILENCE + DAY


@pytest.fixture
def store(store: Store) -> Store:
    """With ci, a program that sends."""
    store(agents.join_without_session, CI, "test")
    return store


def later(store: Store, seconds: float) -> None:
    """Time passes, in which ci does something every few days, and the server its upkeep."""
    steps = math.ceil(seconds / (5 * DAY))
    for _ in range(steps):
        store.now += seconds / steps
        store(agents.join_without_session, CI, "test")
        store(events.append, CI, "test")
        store(upkeep.prune)


def poll(store: Store, name: str = "typo") -> list[str]:
    """What `GET /recv?to=name` brings."""
    feed = store.by(grant=UNRESTRICTED)(feeds.received, name, "default", 0.0, 1000)
    return [found.message.content for found in feed.received]


def known(store: Store) -> set[str]:
    return {name for (name,) in store.rows("SELECT name FROM agents")}


def test_one_request_with_a_mistyped_name_keeps_nothing_for_good(store: Store) -> None:
    """The name and its broadcasts are forgotten, and so is what is sent afterwards."""
    for n in range(50):
        store.send(CI, "all", f"before {n}")
    poll(store)

    later(store, MONTH)
    for n in range(50):
        store.send(CI, "all", f"after {n}")
    later(store, MONTH)

    assert known(store) == {"ci"}
    assert store.rows("SELECT COUNT(*) FROM deliveries") == [(0,)]
    assert store.rows("SELECT COUNT(*) FROM messages") == [(1,)]


def test_a_reader_that_goes_on_reading_keeps_its_broadcasts(store: Store) -> None:
    """Each look is a sign of life; nothing of what waits is older than what it may still ask for."""
    poll(store)
    for n in range(8):
        store.send(CI, "all", str(n))
        later(store, 10 * DAY)
        assert str(n) in poll(store)

    assert "typo" in known(store)


def test_a_reader_that_comes_back_has_what_a_newcomer_has(store: Store) -> None:
    """It left when it was silent, and finds the broadcasts that are there."""
    poll(store)
    store.send(CI, "all", "old")
    later(store, MONTH)
    store.send(CI, "all", "new")

    assert poll(store) == ["new"]


def test_direct_mail_waits_longer_for_a_reader(store: Store) -> None:
    """Mail that was sent to it by name is not gone with the broadcasts."""
    poll(store)
    sent = store.send(CI, "typo", "for you")
    store.send(CI, "all", "for all")

    later(store, MONTH)
    assert store.states(CI, sent.id) == {"typo": "queued"}
    assert poll(store) == ["for you"]

    later(store, QUARTER)
    assert store.states(CI, sent.id) == {"typo": "expired"}


@pytest.mark.parametrize("to", ["bob", "all"])
def test_mail_waits_for_a_session_that_is_closed_for_long(store: Store, to: str) -> None:
    """After two months it is all there, and the name is as it was."""
    store.die(store.join("bob"))
    store(upkeep.prune)
    store.send(CI, to, "welcome back")

    later(store, 2 * MONTH)

    again = store.join("bob")
    assert store.contents(again) == ["welcome back"]


def test_mail_for_a_session_that_never_comes_back_expires(store: Store) -> None:
    """Its sender is told so, and not that it was read; a month later the message is forgotten too."""
    bob = store.join("bob")
    store.die(bob)
    sent = store.send(CI, "bob", "hello?")

    later(store, QUARTER)
    [receipt] = store(messages.status, CI, sent.id).receipts
    assert (receipt.state, receipt.read_at, receipt.attempts) == ("expired", None, 0)
    assert receipt.expired_at == store.now

    store.send(CI, "bob", "the newest stays")
    later(store, MONTH)
    assert sent.id not in [row[0] for row in store.rows("SELECT id FROM messages")]
    assert "bob" in known(store)


def test_a_clock_that_is_wrong_ends_nothing(store: Store) -> None:
    """Half a year ahead for some days, the server at its upkeep all the while, and then right again."""
    bob = store.join("bob")
    store.die(bob)
    sent = store.send(CI, "bob", "hello?")
    right = store.now

    store.now += 180 * DAY
    later(store, 5 * DAY)
    store.now = right + 5 * DAY
    store(upkeep.prune)

    assert store.states(CI, sent.id) == {"bob": "queued"}


def test_nobody_is_silent_while_the_bus_is_not_in_use(store: Store) -> None:
    """A session that comes back with all others after a long pause has a week to read its mail."""
    store.die(store.join("bob"))
    sent = store.send(CI, "bob", "until spring")
    store.now += 180 * DAY
    later(store, 6 * DAY)
    assert store.states(CI, sent.id) == {"bob": "queued"}

    later(store, 6 * DAY)
    assert store.states(CI, sent.id) == {"bob": "expired"}


def test_what_is_younger_waits_though_the_name_is_silent(store: Store) -> None:
    """Silence counts from when the message was sent, too: each has its whole time."""
    store.die(store.join("bob"))
    later(store, QUARTER)
    sent = store.send(CI, "bob", "still there?")
    later(store, 2 * MONTH)

    assert store.states(CI, sent.id) == {"bob": "queued"}


def test_a_session_that_runs_is_not_silent(store: Store) -> None:
    """However long nobody has said a word to it: its mail waits."""
    bob = store.join("bob")
    sent = store.send(CI, "bob", "when you have time")
    later(store, 2 * QUARTER)

    assert store.states(CI, sent.id) == {"bob": "queued"}
    assert store.contents(bob) == ["when you have time"]


def test_what_a_living_process_has_in_its_hands_does_not_expire(store: Store) -> None:
    """It may yet say that it was read; what a dead one had expires like the rest."""
    one, other = store.join("one"), store.join("other")
    sent = store.send(CI, ("one", "other"), "x")
    by, of_the_dead = store.process(), store.process()
    store.hand_over(one, by=by)
    store.hand_over(other, by=of_the_dead)
    store.kill(of_the_dead)
    store.connection.execute("DELETE FROM bindings")

    later(store, QUARTER)

    assert dict(store.rows("SELECT recipient, state FROM deliveries WHERE message = ?", sent.id)) == {
        "one": "handed",
        "other": "expired",
    }


def test_a_name_that_never_came_is_forgotten_with_its_mail(store: Store) -> None:
    """Somebody wrote to it; nobody was it."""
    sent = store.send(CI, "never", "hello?")
    later(store, 2 * MONTH)
    assert store.states(CI, sent.id) == {"never": "queued"}

    later(store, MONTH)
    assert store.states(CI, sent.id) == {"never": "expired"}

    store.send(CI, "other", "the newest stays")
    later(store, MONTH)
    assert known(store) == {"ci", "other"}


def test_a_program_of_the_api_has_a_quarter(store: Store) -> None:
    """It may be a person on leave."""
    who = Address("person", "default")
    store(agents.join_without_session, who, "api")
    store.send(CI, "all", "news")
    later(store, 2 * MONTH)
    assert [m.content for m in store(inboxes.peek, who, limit=9, max_chars=999).messages] == ["news"]
    assert "person" in known(store)

    later(store, QUARTER)
    store.send(CI, "ann", "the newest stays")
    later(store, QUARTER)
    assert "person" not in known(store)
