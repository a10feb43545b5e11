"""Names: who is who, who is here, and what happens to a name whose session ends."""

from __future__ import annotations

import pytest

from claude_bus.errors import InvalidInput, NameTaken
from claude_bus.model.identity import Address, Agent, Folder
from claude_bus.sql import agents, bindings, claims, events, listeners, messages, state
from tests.support.store import Store

DEFAULT = "default"


def listed(store: Store, channel: str = DEFAULT, within: float | None = None) -> dict[str, Agent]:
    return {agent.name: agent for agent in store(agents.listing, channel, within)}


# -- programs -------------------------------------------------------------------


def test_a_program_that_acts_again_at_once_is_not_noted_again(store: Store) -> None:
    """The time it was seen is right to a second; one that left, or uses another program, is noted in any case."""
    carol = Address("carol", DEFAULT)

    def noted() -> tuple[float, str, int]:
        [row] = store.rows("SELECT last_seen, client, registered FROM agents WHERE name = 'carol'")
        return row[0], row[1], row[2]

    store(agents.join_without_session, carol, "http")
    first = store.now
    store.now += 0.5
    store(agents.join_without_session, carol, "http")
    assert noted() == (first, "http", 1)
    store(agents.join_without_session, carol, "cli")
    assert noted() == (store.now, "cli", 1)
    store.now += 1.0
    store(agents.join_without_session, carol, "cli")
    assert noted() == (store.now, "cli", 1)
    store(agents.leave_without_session, carol)
    store(agents.join_without_session, carol, "cli")
    assert noted() == (store.now, "cli", 1)


# -- registering ----------------------------------------------------------------


def test_registering_binds_the_session_to_the_name(store: Store) -> None:
    """A session that registered is that name, with its role, for whoever looks."""
    alice = store.join("alice", role="api", owns=("src/**",))

    binding = store(bindings.bound, store.clients[alice].key)

    assert binding
    assert (binding.address, binding.registered, binding.role) == (alice, True, "api")
    assert listed(store)["alice"].owns == ("src/**",)


def test_an_empty_role_and_no_globs_keep_what_the_name_had(store: Store) -> None:
    """Registering again without role and globs changes neither."""
    alice = store.join("alice", role="api", owns=("src/**",))

    store(agents.register, store.clients[alice].key, alice, "", None)

    assert (listed(store)["alice"].role, listed(store)["alice"].owns) == ("api", ("src/**",))


def test_a_role_and_globs_can_be_replaced(store: Store) -> None:
    """Registering again with a role and globs, even an empty list of them, replaces both."""
    alice = store.join("alice", role="api", owns=("src/**",))

    store(agents.register, store.clients[alice].key, alice, "web", ())

    assert (listed(store)["alice"].role, listed(store)["alice"].owns) == ("web", ())


def test_a_name_of_a_live_session_is_refused_with_a_free_suggestion(store: Store) -> None:
    """A second live session cannot take a name; it is told who holds it and which name is free."""
    store.join("alice")
    store.join("alice-2")
    other = store.present("/home/me/site")

    with pytest.raises(NameTaken) as refused:
        store(agents.register, store.clients[other].key, Address("alice", DEFAULT), "", None)

    assert refused.value.data["suggestion"] == "alice-3"
    assert "idle" in str(refused.value.data["holder"])
    binding = store(bindings.bound, store.clients[other].key)
    assert binding
    assert binding.address == other


def test_the_same_name_on_another_channel_is_somebody_else(store: Store) -> None:
    """Names are unique within a channel only."""
    here, there = store.join("alice"), store.join("alice", channel="web")

    assert here != there
    assert (list(listed(store)), list(listed(store, "web"))) == (["alice"], ["alice"])


def test_a_name_whose_session_died_is_taken_over_with_its_mail(store: Store) -> None:
    """A session that registers a dead session's name gets its waiting mail, in order, marked if it was handed over."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", "one")
    store.hand_over(bob)
    store.send(alice, "bob", "two")
    store.die(bob)

    heir = store.join("bob")

    found = store.read(heir)
    assert [(m.content, m.possibly_seen) for m in found] == [("one", True), ("two", False)]


def test_a_resumed_conversation_gets_its_name_back(store: Store) -> None:
    """A client that resumes a conversation is the name which that conversation bore."""
    alice = store.join("alice")
    store.die(alice)

    resumed = store(bindings.attach, store.client(session_id="conversation of alice"), None, DEFAULT)

    assert (resumed.address, resumed.registered) == (alice, True)


def test_a_resumed_conversation_does_not_take_a_name_that_is_held(store: Store) -> None:
    """If another session has taken the name, the resumed conversation gets a name of its own."""
    alice = store.join("alice")
    store.die(alice)
    store.join("alice")

    resumed = store(bindings.attach, store.client(session_id="conversation of alice"), None, DEFAULT)

    assert resumed.address != alice
    assert not resumed.registered


def test_attaching_twice_is_the_same_binding(store: Store) -> None:
    """A second server of one session finds the binding of the first."""
    client = store.client()
    first = store(bindings.attach, client, None, DEFAULT)

    assert store(bindings.attach, client, Address("other", DEFAULT), DEFAULT) == first


def test_a_wanted_name_that_is_held_binds_nothing(store: Store) -> None:
    """A client that asks for a held name at its start is refused and bound to nothing."""
    store.join("alice")
    client = store.client()

    with pytest.raises(NameTaken):
        store(bindings.attach, client, Address("alice", DEFAULT), DEFAULT)

    assert store(bindings.bound, client.key) is None


# -- unregistered presence --------------------------------------------------------


def test_a_session_that_did_not_register_is_listed_under_its_folder_and_branch(store: Store) -> None:
    """Presence needs no registering; the name says where the session works."""
    store.present("/home/me/shop", branch="checkout")

    found = listed(store)["shop-checkout"]

    assert (found.registered, found.cwd, found.branch) == (False, "/home/me/shop", "checkout")


def test_two_sessions_in_one_folder_get_different_names(store: Store) -> None:
    """A folder name that is taken gets a number."""
    names = [store.present("/home/me/shop").name for _ in range(3)]

    assert names == ["shop", "shop-2", "shop-3"]


def test_a_session_that_did_not_register_gets_direct_mail_and_no_broadcast(store: Store) -> None:
    """It may be written to, but is not on the mailing list."""
    alice, shop = store.join("alice"), store.present("/home/me/shop")

    store.send(alice, "all", "to everybody")
    store.send(alice, "shop", "to you")

    assert store.contents(shop) == ["to you"]


def test_registering_takes_the_mail_of_the_folder_name_along(store: Store) -> None:
    """Mail to a session from before it registered is still its mail."""
    alice, shop = store.join("alice"), store.present("/home/me/shop")
    store.send(alice, "shop", "are you there?")

    frontend = store.rename(shop, "frontend")

    assert store.contents(frontend) == ["are you there?"]
    assert "shop" not in listed(store)


def test_an_unregistered_session_that_ends_leaves_nothing_behind(store: Store) -> None:
    """Without mail there is no reason to remember a folder name."""
    shop = store.present("/home/me/shop")
    client = store.clients[shop]

    store.by(client.process)(bindings.detach, client.key)

    assert listed(store) == {}


# -- renaming -----------------------------------------------------------------------


def test_registering_under_another_name_takes_mail_and_claims_along(store: Store) -> None:
    """A renamed agent keeps its unread mail, its claims, and its standing as sender."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", "for bob")
    sent = store.send(bob, "alice", "from bob")
    store(claims.claim, bob, [("", "a.py")], ttl=60)

    robert = store.rename(bob, "robert")

    assert store.contents(robert) == ["for bob"]
    assert [c.owner for c in store(claims.list_claims, DEFAULT)] == ["robert"]
    assert store(messages.status, robert, sent.id).sender == "robert"
    assert sorted(listed(store)) == ["alice", "robert"]


def test_mail_to_the_former_name_follows(store: Store) -> None:
    """A message to the old name reaches the new one, and its sender is told so."""
    alice, bob = store.join("alice"), store.join("bob")
    robert = store.rename(bob, "robert")

    sent = store.send(alice, "bob", "still you?")

    assert [(e.recipient, e.hint) for e in sent.expectations] == [("robert", "formerly 'bob'")]
    assert store.contents(robert) == ["still you?"]


def test_a_former_name_that_somebody_takes_is_that_somebody(store: Store) -> None:
    """A name in use wins over one of the past."""
    alice, bob = store.join("alice"), store.join("bob")
    store.rename(bob, "robert")
    second = store.join("bob")

    store.send(alice, "bob", "hi")

    assert store.contents(second) == ["hi"]


def test_renaming_into_a_name_that_waits_merges_both_mailboxes(store: Store) -> None:
    """Mail for the new name, kept while nobody had it, comes together with the session's own, in order."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", "one")
    store.send(alice, "robert", "two")
    store.send(alice, ("bob", "robert"), "three")

    robert = store.rename(bob, "robert")

    assert store.contents(robert) == ["one", "two", "three"]


def test_renaming_into_a_name_that_used_the_same_key_works(store: Store) -> None:
    """Idempotency keys of two names that become one do not stand in the way, and go on working."""
    alice, bob = store.join("alice"), store.join("bob")
    carol = store.join("carol")
    first = store.send(alice, "carol", "from alice", key="daily")
    store.send(bob, "carol", "from bob", key="daily")
    store.die(alice)

    alice = store.rename(bob, "alice")

    assert store.send(alice, "carol", "again", key="daily").duplicate
    assert store.contents(carol) == ["from alice", "from bob"]
    assert first.id == 1


def test_what_a_session_wrote_to_the_name_it_takes_is_not_echoed_to_it(store: Store) -> None:
    """After taking a name over, a session does not get its own earlier messages to that name."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", "from alice herself")
    store.die(bob)

    bob = store.rename(alice, "bob")

    assert store.contents(bob) == []


def test_moving_to_another_channel_leaves_the_old_name_offline_with_its_mail(store: Store) -> None:
    """A channel is a place of its own: the mail of the name there stays there."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", "stays")

    there = store.rename(bob, "bob", channel="web")

    assert store.contents(there) == []
    assert listed(store)["bob"].status == "offline"
    assert store.contents(store.join("bob")) == ["stays"]


# -- going --------------------------------------------------------------------------


def test_a_dead_session_is_offline_without_a_word(store: Store) -> None:
    """Presence is what runs, not what said goodbye."""
    alice = store.join("alice")
    store.die(alice)

    assert listed(store)["alice"].status == "offline"


def test_the_session_ends_with_its_last_server(store: Store) -> None:
    """Of two servers of one session the first to go takes only its own unproven hand-overs back."""
    alice, bob = store.join("alice"), store.join("bob")
    key, one, two = store.clients[bob].key, store.process(), store.process()
    store(listeners.listen, "udp:127.0.0.1:1", key, one)
    store(listeners.listen, "udp:127.0.0.1:2", key, two)
    store.send(alice, "bob", "via one")
    store.hand_over(bob, by=one)
    store.send(alice, "bob", "via two")
    store.hand_over(bob, by=two)

    store.by(one)(bindings.detach, key)
    still = listed(store)["bob"].status
    found = store.hand_over(bob, by=two).messages
    store.by(two)(bindings.detach, key)

    assert still == "idle"
    assert [(m.content, m.possibly_seen) for m in found] == [("via one", True)]
    assert listed(store)["bob"].status == "offline"


def test_leaving_ends_claims_and_broadcasts_but_keeps_direct_mail(store: Store) -> None:
    """A session that left holds nothing, is on no list, and finds direct mail when it registers again."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", "before")
    store(claims.claim, bob, [("", "a.py")], ttl=60)

    store(bindings.leave, store.clients[bob].key)
    store.send(alice, "all", "broadcast")
    store.send(alice, "bob", "direct")

    assert store(claims.list_claims, DEFAULT) == []
    waiting = store.rows("SELECT message FROM deliveries WHERE recipient = 'bob' ORDER BY message")
    assert waiting == [(1,), (3,)]
    assert store.contents(store.join("bob")) == ["before", "broadcast", "direct"]


def test_leaving_twice_or_without_a_binding_is_no_error(store: Store) -> None:
    """There is nothing wrong with being gone already."""
    alice = store.join("alice")
    for _ in range(2):
        store(bindings.leave, store.clients[alice].key)
    store.by(store.process())(bindings.detach, "nobody")

    assert store(bindings.bound, store.clients[alice].key) is None


# -- a participant without a session ----------------------------------------------------


def test_a_person_or_script_takes_part_without_a_session(store: Store) -> None:
    """An enlisted name gets broadcasts and is listed, offline."""
    alice = store.join("alice")
    store.send(alice, "all", "early")

    store(agents.join_without_session, Address("ci", DEFAULT), "cli")

    found = store.hand_over(Address("ci", DEFAULT), by=store.process())
    assert [m.content for m in found.messages] == ["early"]
    assert (listed(store)["ci"].status, listed(store)["ci"].client) == ("offline", "cli")


def test_nobody_is_enlisted_under_the_name_of_a_live_session(store: Store) -> None:
    """A script cannot speak as somebody who is here."""
    store.join("alice")

    with pytest.raises(NameTaken):
        store(agents.join_without_session, Address("alice", DEFAULT), "cli")


# -- the listing ------------------------------------------------------------------------


def test_the_listing_shows_who_runs_first_then_the_latest(store: Store) -> None:
    """Sessions that run come before those that are gone, and the latest first among each."""
    for name in ("old", "gone", "here", "now"):
        store.now += 10
        store.join(name)
    for name in ("old", "gone"):
        store.die(Address(name, DEFAULT))

    assert list(listed(store)) == ["now", "here", "gone", "old"]


def test_the_listing_can_be_limited_to_those_seen_lately(store: Store) -> None:
    """With a window only those are listed who run or were seen within it."""
    idle, gone = store.join("idle"), store.join("gone")
    store.die(gone)
    store.now += 200

    assert list(listed(store, within=180)) == [idle.name]
    assert list(listed(store, within=300)) == ["idle", "gone"]


def test_a_name_that_was_only_written_to_is_not_listed(store: Store) -> None:
    """A mailbox is not a participant."""
    alice = store.join("alice")
    store.send(alice, "nobody-yet")

    assert list(listed(store)) == ["alice"]


def overlaps(store: Store) -> dict[str, dict[str, tuple[str, ...]]]:
    """For each agent with whom it overlaps, and where."""
    return {name: {o.name: o.paths for o in agent.overlaps} for name, agent in listed(store).items()}


@pytest.mark.parametrize(
    ("mine", "theirs", "where"),
    [
        (("src/api/**",), ("src/**/*.py",), True),
        (("src/api",), ("src/api/users.py",), True),
        (("src/api/**",), ("src/web/**",), False),
        (("./docs/",), ("docs/*.md",), True),
        ((), ("src/**",), False),
    ],
)
def test_overlaps_tell_whose_globs_meet(
    store: Store, mine: tuple[str, ...], theirs: tuple[str, ...], where: bool
) -> None:
    """Each of two agents whose globs share a path is told of the other, and nobody else is."""
    store.join("alice", owns=mine)
    store.join("bob", owns=theirs)
    store.join("carol")

    found = {name: set(others) for name, others in overlaps(store).items()}

    assert found == {"alice": {"bob"} if where else set(), "bob": {"alice"} if where else set(), "carol": set()}


def test_live_claims_count_for_overlaps_and_expired_ones_do_not(store: Store) -> None:
    """Files that an agent is editing are part of its footprint, for as long as the claim lives."""
    store.join("alice", owns=("src/**",))
    bob = store.join("bob")
    store(claims.claim, bob, [("", "src/a.py")], ttl=60)

    during = overlaps(store)
    store.now += 61

    assert (during["alice"], during["bob"]) == ({"bob": ("src/a.py",)}, {"alice": ("src/a.py",)})
    assert overlaps(store) == {"alice": {}, "bob": {}}


def test_the_roster_names_the_other_registered_sessions_busy_ones_first(store: Store) -> None:
    """The one line about who is here leaves out oneself, the unregistered, and the gone."""
    me, busy, gone = store.join("me"), store.join("zoe"), store.join("gone")
    store.join("adam")
    store.present("/home/me/shop")
    store(bindings.observe, store.clients[busy].key, status="working")
    store.die(gone)

    assert store(agents.roster, me).peers == (("zoe", "working"), ("adam", "idle"))


def test_a_sign_of_life_changes_only_what_it_says(store: Store) -> None:
    """Status, conversation and bell stay as they were where nothing is said of them."""
    alice = store.join("alice")
    key = store.clients[alice].key
    store(bindings.observe, key, status="working", session_id="s2", bell=True)
    store.now += 5

    before = store(bindings.observe, key)

    assert before
    assert (before.status, before.session_id) == ("working", "s2")
    assert listed(store)["alice"].last_seen == store.now
    assert store.rows("SELECT bell, heartbeat FROM bindings") == [(1, store.now)]
    assert store(bindings.observe, "nobody") is None


def test_a_verb_with_a_bad_name_changes_nothing(store: Store) -> None:
    """A send to an impossible name leaves no row behind."""
    alice = store.join("alice")

    with pytest.raises(InvalidInput):
        store.send(alice, ("bob", "b\x07b"))

    assert store.rows("SELECT name FROM agents") == [("alice",)]
    assert store.rows("SELECT id FROM messages") == []


def test_where_a_session_works_is_known(store: Store) -> None:
    """The folder and branch that a client reports are shown for its agent."""
    client = store.client(folder=Folder("/home/me/shop/web", "/home/me/shop", "r", "checkout"))
    store(bindings.attach, client, Address("alice", DEFAULT), DEFAULT)

    found = listed(store)["alice"]

    assert (found.cwd, found.branch, found.client) == ("/home/me/shop/web", "checkout", "claude-code")


def test_every_change_is_in_the_journal(store: Store) -> None:
    """Each verb that changes something appends who did what to what, in its own transaction."""
    alice, bob = store.join("alice", role="api"), store.join("bob")
    store.send(alice, "bob")
    store(claims.claim, alice, [("", "a.py")], ttl=60, reason="fix")
    store(claims.release, alice, None)
    store(state.set_state, alice, "k", "v")
    store(state.set_state, alice, "k", "", mode="delete")
    store.now += 10
    carol = store.rename(bob, "carol")
    store(bindings.leave, store.clients[carol].key)

    journal = store.rows("SELECT actor, verb, subject FROM events WHERE verb != 'attach' ORDER BY id")

    assert [row for row in journal if row[0] == "alice"] == [
        ("alice", "join", ""),
        ("alice", "send", "1"),
        ("alice", "claim", "a.py"),
        ("alice", "release", "a.py"),
        ("alice", "state_overwrite", "k"),
        ("alice", "state_delete", "k"),
    ]
    assert [row[1:] for row in journal if row[0] == "carol"][:1] == [("rename", "bob")]
    assert ("carol", "leave", "") in journal
    assert store(events.prune, store.now) > 5
    assert store.rows("SELECT DISTINCT actor FROM events") == [("carol",)]
