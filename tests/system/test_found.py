"""The faults that the model (test_model) and the fuzzers (test_fuzz) found, each in its shortest form."""

from __future__ import annotations

from pathlib import Path

import pytest

from claude_bus import claude_settings, documents, worktree
from claude_bus.drivers import announcing
from claude_bus.model.claims import ClaimTarget
from claude_bus.model.hooks import HookReport
from claude_bus.model.identity import Address
from claude_bus.model.state import StateEntry
from claude_bus.sql import agents, bindings, claims, deliveries, guard, sessions
from tests.support.store import Store

# -- who is who ------------------------------------------------------------------------------------


def test_a_conversation_resumes_on_the_channel_it_went_to(store: Store) -> None:
    """This holds even if nothing happened since it went there: the name it left behind is no longer its name."""
    alice = store.join("alice")
    session_id = store.clients[alice].session_id
    store.die(store.rename(alice, "alice", "ops"))

    back = store.client(session_id=session_id)

    assert store(bindings.attach, back, None, "default").address == Address("alice", "ops")


def test_a_session_that_never_joined_leaves_nobody_behind(store: Store) -> None:
    """Where it was only listed it is listed no more once it registers on another channel."""
    store.rename(store.present("/home/me/shop"), "bob", "ops")

    assert store(agents.listing, "default", None) == []


def test_what_was_read_under_one_name_stays_read_under_the_next(store: Store) -> None:
    """Of a message that both names got, the delivery that is further counts."""
    alice, bob, carol = store.join("alice"), store.join("bob"), store.join("carol")
    sent = store.send(bob, ("alice", "carol")).id
    store.die(carol)
    assert store.contents(alice) == ["hello"]

    carol = store.rename(alice, "carol")

    assert store.states(bob, sent) == {"carol": "read"}
    assert store.contents(carol) == []


def test_a_glob_finds_ones_namesake_on_another_channel(store: Store) -> None:
    """The sender is left out by who it is, not by what it is called."""
    store.join("alice", channel="ops")

    assert store.outlook(store.send(store.join("alice"), "*@ops")) == {"alice@ops": "idle"}


def test_the_roster_is_not_told_again_because_somebody_got_busy(store: Store) -> None:
    """A change in the roster's order is no news."""
    me, zoe, _ = store.join("me"), store.join("zoe"), store.join("adam")
    event = HookReport("hook", 0, roster=True)
    client = store.clients[me]
    store.by(client.process)(sessions.handle_hook_event, client, event)
    store(bindings.observe, store.clients[zoe].key, status="working")

    found = store.by(client.process)(sessions.handle_hook_event, client, event)

    assert found
    assert found.roster is None


# -- messages ----------------------------------------------------------------------------------------


def test_mail_that_ran_out_does_not_keep_later_mail_from_ringing(store: Store) -> None:
    """A batch is what is still unread, and mail whose time is over is not."""
    alice, bob = store.join("alice"), store.join("bob")
    client = store.clients[bob].key
    store(bindings.observe, client, bell=True)
    store.send(alice, "bob", ttl=500)
    for _ in range(3):
        assert store(deliveries.ring, client, idle=False)
        store.now += 200
    store.send(alice, "bob")

    rung = store(deliveries.ring, client, idle=False)

    assert rung
    assert rung[1] == 0


def test_a_hand_over_names_the_oldest_that_stays_whatever_it_stopped_at(store: Store) -> None:
    """Also where the number of messages was the limit, not their size."""
    alice, bob = store.join("alice"), store.join("bob")
    for _ in range(3):
        store.send(alice, "bob")

    assert store.hand_over(bob, limit=1).next_id == 2


def test_a_hand_over_by_nobody_knows_whom_is_made_again(store: Store) -> None:
    """A value that another program wrote into the column is not a live process."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob")
    store.hand_over(bob)
    store.connection.execute("UPDATE deliveries SET handed_by = 'x'")

    assert [m.possibly_seen for m in store.read(bob)] == [True]


# -- claims ------------------------------------------------------------------------------------------

A = ("shop", "src/a.py")


def test_a_claim_that_another_had_the_place_of_does_not_come_back_with_the_clock(store: Store) -> None:
    """Two never hold one path, also if the clock goes back behind the first one's end."""
    alice, bob = store.join("alice"), store.join("bob")
    store(claims.claim, alice, [A], ttl=20)
    store.now += 31
    store(claims.claim, bob, [A], ttl=600)
    store.now -= 30

    assert [c.owner for c in store(claims.list_claims, "default")] == ["bob"]


def test_nothing_that_the_dead_claimed_stands_in_the_way(store: Store) -> None:
    """Not even the second of two claims that meet the path."""
    alice, bob = store.join("alice"), store.join("bob")
    store(claims.claim, bob, [("shop", "src"), ("shop", "src/*.py")], ttl=600)
    store.die(bob)

    assert store(claims.claim, alice, [A], ttl=600)


def test_a_release_knows_the_living_and_the_present_only(store: Store) -> None:
    """Claims of the dead are free, and an expired claim cannot be released."""
    alice, bob = store.join("alice"), store.join("bob")
    store(claims.claim, bob, [A], ttl=600)
    store.die(bob)
    assert store(claims.release, alice, [A]) == []

    store(claims.claim, alice, [A], ttl=20)
    store.now += 31
    assert store(claims.release, alice, None) == []


def test_an_owner_is_told_once_that_its_place_was_taken(store: Store) -> None:
    """Also if an edit claimed the path beside it; a release of all names it once as well."""
    alice, bob = store.join("alice"), store.join("bob")

    def claim_twice() -> None:
        store(guard.edit, store.clients[bob], ClaimTarget(*A), "/home/me/shop", "confirm")
        store(claims.claim, bob, [A], ttl=600)

    claim_twice()
    assert store(guard.force_release, alice, [A], "hurry") == [ClaimTarget(*A)]
    assert len(store.read(bob)) == 1

    claim_twice()
    assert store(claims.release, bob, None) == [ClaimTarget(*A)]


# -- foreign input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["gitdir: \0", f"gitdir: {'a' * 300}/b"])
def test_a_git_file_that_names_no_possible_folder_is_none(tmp_path: Path, content: str) -> None:
    """A session starts there all the same."""
    tmp_path.joinpath(".git").write_text(content, encoding="utf-8")

    assert worktree.folder(tmp_path).cwd == str(tmp_path.resolve())


def test_a_name_that_is_too_long_for_a_file_can_be_claimed(tmp_path: Path) -> None:
    """It is a path like others that do not exist."""
    where = worktree.folder(tmp_path)

    assert worktree.place(where, "a" * 300) == ("", f"{tmp_path.resolve()}/{'a' * 300}")


@pytest.mark.parametrize("address", ["udp:127.0.0.1:²", "udp:127.0.0.1:99999", "udp:127.0.0.1:" + "9" * 5_000])
def test_an_address_that_is_none_is_passed_over(address: str) -> None:
    """A message that is stored is not said to have failed because one listener is no listener."""
    announcing.announce([address])


def test_a_value_that_should_be_json_and_is_not_is_text() -> None:
    """One that another program wrote does not hide all others."""
    assert documents.entry(StateEntry("k", "{", 1, "x", 0.0, json=True))["value"] == "{"


@pytest.mark.parametrize("content", ['{"\\ud800": 1}', '{"a":' * 20_000])
def test_settings_that_cannot_be_written_back_are_left_alone(tmp_path: Path, content: str) -> None:
    """Refused with a sentence, not with a traceback, and before anything is changed."""
    tmp_path.joinpath("settings.json").write_text(content, encoding="utf-8")

    with pytest.raises(claude_settings.Refused, match="fix it"):
        claude_settings.install(tmp_path, Path(__file__).parents[2], [])

    assert [file.name for file in tmp_path.iterdir()] == ["settings.json"]


def test_settings_of_nothing_but_white_space_come_back(tmp_path: Path) -> None:
    """To the byte, as others do."""
    plugin, settings = Path(__file__).parents[2], tmp_path / "settings.json"
    settings.write_text("\t", encoding="utf-8")

    claude_settings.install(tmp_path, plugin, [])
    claude_settings.uninstall(tmp_path, [plugin])

    assert settings.read_text(encoding="utf-8") == "\t"
