"""The inbox of a name without a session: looking marks nothing, acknowledging does."""

from __future__ import annotations

import pytest

from claude_bus.errors import NameTaken, NotFound
from claude_bus.model.identity import Address
from claude_bus.sql import agents, claims, deliveries, inboxes, messages
from tests.support.store import Store

CI = Address("ci", "default")


def test_looking_marks_nothing(store: Store) -> None:
    """The same messages come again, not marked as seen, and their sender sees them queued."""
    ann = store.join("ann")
    sent = store.send(ann, "ci").id

    first, again = (store(inboxes.peek, CI, limit=10, max_chars=10_000) for _ in range(2))

    assert [message.id for message in first.messages] == [sent]
    assert first == again
    assert not first.messages[0].possibly_seen
    assert store.states(ann, sent) == {"ci": "queued"}


def test_what_is_acknowledged_is_acked_with_all_its_times(store: Store) -> None:
    """One statement of the reader says that it was handed over, read and acknowledged; again says nothing new."""
    ann = store.join("ann")
    sent = store.send(ann, "ci").id
    store.now += 5
    assert store(inboxes.acknowledge, CI, [sent], "http") == {sent: "acked"}
    store.now += 5
    assert store(inboxes.acknowledge, CI, [sent], "http") == {sent: "acked"}

    [receipt] = store(messages.status, ann, sent).receipts
    times = (receipt.handed_at, receipt.read_at, receipt.acked_at)
    assert times == (store.now - 5,) * 3
    assert (receipt.state, receipt.via, receipt.attempts) == ("acked", "http", 1)
    assert store(inboxes.peek, CI, limit=10, max_chars=10_000).messages == ()
    assert store.rows("SELECT COUNT(*) FROM events WHERE verb = 'ack'") == [(1,)]


def test_what_was_read_otherwise_can_be_acknowledged(store: Store) -> None:
    """How it was handed over stays what it was."""
    ann = store.join("ann")
    sent = store.send(ann, "ci").id
    by = store.process()
    store.hand_over(CI, by=by, via="command line")
    store.by(by)(deliveries.confirm, CI, [sent])

    assert store(inboxes.acknowledge, CI, [sent], "http") == {sent: "acked"}
    [receipt] = store(messages.status, ann, sent).receipts
    assert (receipt.via, receipt.attempts) == ("command line", 1)


def test_nobody_acknowledges_what_is_not_theirs(store: Store) -> None:
    """Ids of others' messages, and of none, are left out and change nothing."""
    ann = store.join("ann")
    to_bob = store.send(ann, "bob").id

    assert store(inboxes.acknowledge, CI, [to_bob, 77], "http") == {}
    assert store.states(ann, to_bob) == {"bob": "queued"}


def test_what_expired_stays_so(store: Store) -> None:
    """Its sender may have been told already that its time ran out."""
    ann = store.join("ann")
    sent = store.send(ann, "ci", ttl=10).id
    assert store(inboxes.peek, CI, limit=10, max_chars=10_000).messages
    store.now += 11

    assert store(inboxes.acknowledge, CI, [sent], "http") == {sent: "expired"}
    assert store.states(ann, sent) == {"ci": "expired"}


def test_the_mail_of_a_live_session_is_its_own(store: Store) -> None:
    """Nobody looks into its inbox from outside, acknowledges for it, or makes it leave."""
    ann, bob = store.join("ann"), store.join("bob")
    sent = store.send(ann, "bob").id

    with pytest.raises(NameTaken):
        store(inboxes.peek, bob, limit=10, max_chars=10_000)
    with pytest.raises(NameTaken):
        store(inboxes.acknowledge, bob, [sent], "http")
    with pytest.raises(NameTaken):
        store(agents.leave_without_session, bob)
    assert store.states(ann, sent) == {"bob": "queued"}


def test_who_leaves_without_a_session_keeps_its_direct_mail_only(store: Store) -> None:
    """Its claims end, and broadcasts are not kept for it; who comes back has what was kept before and since."""
    ann = store.join("ann")
    store(agents.join_without_session, CI, "test", "builds")
    store(claims.claim, CI, [("", "port:1")], ttl=100)
    before = store.send(ann, "ci").id
    store(agents.leave_without_session, CI)
    after = store.send(ann, "ci").id
    with pytest.raises(NotFound):
        store(agents.leave_without_session, CI)

    assert store(claims.list_claims, "default") == []
    assert [agent.role for agent in store(agents.listing, "default", None) if not agent.registered] == ["builds"]
    found = store(inboxes.peek, CI, limit=10, max_chars=10_000)
    assert [message.id for message in found.messages] == [before, after]
