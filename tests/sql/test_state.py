"""Shared state: versioned values on which several writers can rely."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from claude_bus import limits, state_values
from claude_bus.errors import InvalidInput, TooLarge, VersionConflict
from claude_bus.model.identity import Address
from claude_bus.sql import state
from tests.support.store import Store

ME = Address("alice", "default")
NOBODY = Address("", "default")


def put(store: Store, key: str, value: str = "", **more: Any) -> int:
    return store(state.set_state, ME, key, value, **more)


def value(store: Store, key: str) -> str | None:
    entry = store(state.get_state, "default", key)
    return entry.value if entry else None


def test_a_new_entry_has_version_1_and_each_write_one_more(store: Store) -> None:
    """Each write adds one to the version."""
    assert [put(store, "k", v) for v in "abc"] == [1, 2, 3]
    assert value(store, "k") == "c"


def test_an_entry_tells_who_wrote_it_and_when(store: Store) -> None:
    """The entry has the last writer's name; an anonymous writer's is ''."""
    put(store, "k", "v")
    store.now += 5
    store(state.set_state, NOBODY, "n", "v")

    one, other = (store(state.get_state, "default", key) for key in "kn")

    assert one
    assert other
    assert (one.updated_by, one.updated_at) == ("alice", store.now - 5)
    assert (other.updated_by, other.updated_at) == ("", store.now)


def test_a_write_on_the_expected_version_goes_through(store: Store) -> None:
    """Compare-and-set on the current version writes the next one."""
    put(store, "k", "a")

    assert put(store, "k", "b", expected_version=1) == 2


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_a_stale_write_is_refused_naming_both_versions(store: Store, expected: int) -> None:
    """A write based on another version than the current one changes nothing, and the error says how to go on."""
    put(store, "k", "a")
    put(store, "k", "b")

    with pytest.raises(VersionConflict, match=rf"expected_version {expected} != current 2; re-read 'k' and retry"):
        put(store, "k", "c", expected_version=expected)

    assert value(store, "k") == "b"


def test_version_0_means_create_only(store: Store) -> None:
    """Expecting version 0 creates an entry and never overwrites one."""
    assert put(store, "k", "a", expected_version=0) == 1
    with pytest.raises(VersionConflict):
        put(store, "k", "b", expected_version=0)


def test_append_adds_a_line(store: Store) -> None:
    """Appending to a missing entry creates it; to an existing one, adds a line."""
    versions = [put(store, "log", line, mode="append") for line in ("one", "two", "three")]

    assert versions == [1, 2, 3]
    assert value(store, "log") == "one\ntwo\nthree"


def test_append_can_be_conditional(store: Store) -> None:
    """Append checks the expected version like any write."""
    put(store, "log", "one")
    with pytest.raises(VersionConflict):
        put(store, "log", "two", mode="append", expected_version=7)


def test_delete_removes_and_tells_whether_there_was_something(store: Store) -> None:
    """Deleting an existing entry counts as a write, deleting a missing one does not."""
    put(store, "k", "a")

    assert [put(store, "k", mode="delete") for _ in range(2)] == [2, 0]
    assert value(store, "k") is None


@pytest.mark.parametrize("end", ["delete", "expire", "prune"])
def test_versions_never_repeat(store: Store, end: str) -> None:
    """However an entry ended, a later one of the same key continues the numbers."""
    put(store, "k", "a")
    put(store, "k", "b", ttl=None if end == "delete" else 10)
    if end == "delete":
        put(store, "k", mode="delete")
    store.now += 100 * 86_400
    if end == "prune":
        store(state.prune, store.now - limits.RETENTION)

    assert value(store, "k") is None
    assert put(store, "k", "c", expected_version=0) > 2


def test_an_entry_with_a_ttl_vanishes_by_itself(store: Store) -> None:
    """After its ttl it is neither read nor listed; a write without a ttl keeps the expiry."""
    put(store, "a", "x", ttl=10)
    put(store, "b", "x", ttl=10)
    put(store, "b", "y")
    store.now += 11

    assert [e.key for e in store(state.list_state, "default")] == ["b"]
    assert (value(store, "a"), value(store, "b")) == (None, "y")


def test_listing_shows_keys_by_prefix_and_values_only_if_asked(store: Store) -> None:
    """A prefix is literal, and keys are sorted."""
    for key in ("db/b", "db/a", "dbx", "d_", "web"):
        put(store, key, key)

    assert [(e.key, e.value) for e in store(state.list_state, "default", prefix="db/")] == [
        ("db/a", None),
        ("db/b", None),
    ]
    assert [e.key for e in store(state.list_state, "default", prefix="d_")] == ["d_"]
    assert [e.value for e in store(state.list_state, "default", prefix="web", values=True)] == ["web"]
    assert len(store(state.list_state, "default")) == 5


def test_an_unknown_key_is_nothing(store: Store) -> None:
    """Reading a key that was never written is not an error."""
    assert store(state.get_state, "default", "nope") is None


def test_channels_have_states_of_their_own(store: Store) -> None:
    """The same key on two channels means two entries."""
    put(store, "k", "here")
    store(state.set_state, Address("bob", "web"), "k", "there")

    assert value(store, "k") == "here"
    assert [e.value for e in store(state.list_state, "web", values=True)] == ["there"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": ""},
        {"key": "a\nb"},
        {"key": "k" * 201},
        {"key": "k", "mode": "replace"},
        {"key": "k", "ttl": 0},
        {"key": "k", "ttl": float("nan")},
        {"key": "k", "value": "\ud800"},
    ],
)
def test_malformed_input_is_refused(store: Store, wrong: dict[str, Any]) -> None:
    """An invalid key, mode, ttl or value is the caller's error and writes nothing."""
    with pytest.raises(InvalidInput):
        store(state.set_state, ME, **{"value": "v"} | wrong)

    assert store.rows("SELECT * FROM state") == []


def test_a_value_has_a_limit_also_when_appended_to(store: Store) -> None:
    """A write or append that would exceed the limit is refused, and the entry does not change."""
    put(store, "k", "x" * state_values.MAX_VALUE_BYTES)

    with pytest.raises(TooLarge):
        put(store, "k", "y", mode="append")

    assert value(store, "k") == "x" * state_values.MAX_VALUE_BYTES


def test_the_history_of_a_key_tells_every_version(store: Store) -> None:
    """Each write is kept with its version, a deletion as an entry without value."""
    put(store, "k", "a")
    put(store, "k", "b", mode="append")
    put(store, "k", mode="delete")

    assert store.rows("SELECT version, value, by FROM state_history ORDER BY version") == [
        (1, "a", "alice"),
        (2, "a\nb", "alice"),
        (3, None, "alice"),
    ]


class Entries(RuleBasedStateMachine):
    """Any sequence of writes, compared with a model of one key."""

    @initialize()
    def start(self) -> None:
        import tempfile
        from pathlib import Path

        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm")
        self.store = Store(Path(self.folder.name, "bus.db"))
        self.value: str | None = None
        self.current = 0
        self.last = 0

    @rule(
        text=st.text(st.characters(codec="utf-8"), max_size=5),
        mode=st.sampled_from(["overwrite", "append", "delete"]),
        guess=st.sampled_from(["none", "right", "wrong"]),
    )
    def write(self, text: str, mode: Any, guess: str) -> None:
        """A write with the right or no expectation succeeds, with a wrong one it does not; versions only rise."""
        expected = {"none": None, "right": self.current, "wrong": self.current + 1}[guess]
        if guess == "wrong":
            with pytest.raises(VersionConflict):
                put(self.store, "k", text, mode=mode, expected_version=expected)
            return
        version = put(self.store, "k", text, mode=mode, expected_version=expected)
        if mode == "delete":
            assert version == (self.last + 1 if self.value is not None else 0)
            self.last = max(self.last, version)
            self.value, self.current = None, 0
            return
        assert version == self.last + 1
        self.value = f"{self.value}\n{text}" if mode == "append" and self.value else text
        self.current = self.last = version

    @rule()
    def read(self) -> None:
        entry = self.store(state.get_state, "default", "k")
        assert (entry.value if entry else None) == self.value
        assert (entry.version if entry else 0) == self.current

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.connection.close()
            self.folder.cleanup()


Entries.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestEntries = Entries.TestCase
