"""Shared state as sessions use it: any JSON, its history, waiting for a key, and competing writers."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from claude_bus import limits, state_values, text
from claude_bus.errors import InvalidInput, TooLarge
from claude_bus.mcp.server import create_server
from claude_bus.model.identity import Address
from claude_bus.model.state import StateEntry
from claude_bus.remote.bus import RemoteBus
from claude_bus.session.doorbell import Doorbell
from claude_bus.session.session import Session
from claude_bus.session.subagents import SessionGroup
from claude_bus.sql import state
from claude_bus.sql.verbs import Verb
from tests.support.processes import PATIENCE, actor, together
from tests.support.sessions import Party
from tests.support.store import START, Store

CHANNEL = "default"
ALICE, BOB = Address("alice", CHANNEL), Address("bob", CHANNEL)


# -- JSON, through the tools -------------------------------------------------------------------


async def calls(session: Session, *tools: tuple[str, dict[str, Any]]) -> list[Any]:
    """The outcome of each call as a model sees it: its structure, or its text."""
    async with Client(create_server(lambda _context: SessionGroup(session))) as client:
        found = [await client.call_tool(name, arguments) for name, arguments in tools]
    return [one.structured_content or getattr(one.content[0], "text", "") for one in found]


def rows(party: Party, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(party.path)) as connection:
        return connection.execute(sql).fetchall()


def contents(party: Party) -> list[list[tuple[Any, ...]]]:
    """The whole state, and the journal's entries about it."""
    events = "SELECT * FROM events WHERE verb LIKE 'state%'"
    return [rows(party, query) for query in ("SELECT * FROM state", "SELECT * FROM state_history", events)]


VALUES = [
    {"host": "db", "ports": [5432, 5433], "tls": {"on": True, "ca": None}},
    {},
    [],
    [1, "two", [3.5], None],
    0,
    -17,
    2**53,
    3.25,
    True,
    False,
    None,
    "",
    "null",
    "true",
    "17",
    '{"looks": "like JSON"}',
    '"quoted"',
    "two\nlines",
    "größer 🚌",
    {"größer": "🚌"},
]


@pytest.mark.anyio
@pytest.mark.parametrize("given", VALUES, ids=repr)
async def test_a_value_comes_back_as_it_was_given(party: Party, given: Any) -> None:
    """Any JSON keeps its type and content, also in a list and in the history; text that looks like JSON stays text."""
    alice = await party.join("alice")
    said, one, everything, past = await calls(
        alice,
        ("set_state", {"key": "k", "value": given}),
        ("get_state", {"key": "k"}),
        ("get_state", {}),
        ("get_state", {"key": "k", "history": 5}),
    )

    assert said == "state['k'] set (version 1)"
    found = [one["state"][0], everything["state"][0], past["history"][0]]
    assert [(row["value"], type(row["value"])) for row in found] == [(given, type(given))] * 3


@pytest.mark.anyio
async def test_a_value_may_change_between_text_and_json(party: Party) -> None:
    """Each version is returned with its own type."""
    alice = await party.join("alice")
    writes = [("set_state", {"key": "k", "value": value}) for value in ("[1]", [1], "1", 1)]
    *_, found = await calls(alice, *writes, ("get_state", {"key": "k", "history": 9}))

    assert [row["value"] for row in found["history"]] == [1, "1", [1], "[1]"]


@pytest.mark.anyio
async def test_nothing_is_appended_to_json_nor_json_to_anything(party: Party) -> None:
    """Append works on text only: the refusal says so, and the entry does not change."""
    alice = await party.join("alice")
    onto_json, of_json, neither, found = (
        await calls(
            alice,
            ("set_state", {"key": "json", "value": [1]}),
            ("set_state", {"key": "text", "value": "one"}),
            ("set_state", {"key": "json", "value": "x", "mode": "append"}),
            ("set_state", {"key": "text", "value": [2], "mode": "append"}),
            ("set_state", {"key": "new", "value": 3, "mode": "append"}),
            ("get_state", {}),
        )
    )[2:]

    assert all("overwrite it instead" in said for said in (onto_json, of_json, neither))
    assert [(row["key"], row["value"], row["version"]) for row in found["state"]] == [
        ("json", [1], 1),
        ("text", "one", 1),
    ]


@pytest.mark.anyio
async def test_a_value_over_the_limit_names_the_way_out_and_changes_nothing(party: Party) -> None:
    """262,144 bytes fit and one more does not, as text, as JSON or by appending; the limit counts bytes, not
    characters.
    """
    alice = await party.join("alice")
    assert await alice.set_state("full", "x" * state_values.MAX_VALUE_BYTES) == 1
    assert await alice.set_state("short", "x") == 1
    before = contents(party)

    attempts: list[tuple[str, str, state.Mode, bool]] = [
        ("full", "y", "append", False),
        ("short", "x" * (state_values.MAX_VALUE_BYTES + 1), "overwrite", False),
        ("short", "🚌" * (state_values.MAX_VALUE_BYTES // 4 + 1), "overwrite", False),
        ("short", f'"{"x" * state_values.MAX_VALUE_BYTES}"', "overwrite", True),
        ("new", "x" * (state_values.MAX_VALUE_BYTES + 1), "append", False),
    ]
    for key, value, mode, json in attempts:
        with pytest.raises(TooLarge, match=r"the limit is 262144: store a path and sha256 instead") as refused:
            await alice.set_state(key, value, mode=mode, json=json)
        assert refused.value.data["limit"] == state_values.MAX_VALUE_BYTES
    assert contents(party) == before


# -- the history of a key, and the journal ---------------------------------------------------------


def put(store: Store, me: Address, key: str, value: str = "", **more: Any) -> int:
    return store(state.set_state, me, key, value, **more)


def past(store: Store, key: str, limit: int = 100) -> list[StateEntry]:
    return store(state.history, CHANNEL, key, limit)


def test_the_history_tells_who_wrote_what_and_when(store: Store) -> None:
    """Newest first; a deletion has a version, a writer and a time, and no value."""
    for me, value, mode in (
        (ALICE, "a", "overwrite"),
        (BOB, "b", "append"),
        (ALICE, "", "delete"),
        (BOB, "c", "append"),
    ):
        store.now += 10
        put(store, me, "k", value, mode=mode)
    put(store, ALICE, "other", "x")

    found = [(e.version, e.value, e.updated_by, e.updated_at - START) for e in past(store, "k")]

    assert found == [(4, "c", "bob", 40), (3, None, "alice", 30), (2, "a\nb", "bob", 20), (1, "a", "alice", 10)]
    assert [e.version for e in past(store, "k", limit=2)] == [4, 3]
    assert past(store, "nobody's") == []


@pytest.mark.anyio
async def test_a_deletion_in_the_history_is_told_from_null(party: Party) -> None:
    """A deleted version has no value at all, which differs from the value null."""
    alice = await party.join("alice")
    *_, found = await calls(
        alice,
        ("set_state", {"key": "k", "value": None}),
        ("set_state", {"key": "k", "mode": "delete"}),
        ("get_state", {"key": "k", "history": 5}),
    )

    assert found["state"] == []
    assert ["value" in row for row in found["history"]] == [False, True]
    assert [(row["version"], row["updated_by"]) for row in found["history"]] == [(2, "alice"), (1, "alice")]


def test_the_journal_has_a_row_for_every_change(store: Store) -> None:
    """It records the writer, the key and the version of every write and deletion, and no failed or void calls."""
    put(store, ALICE, "k", "a")
    put(store, BOB, "k", "b", mode="append")
    put(store, BOB, "k", "[1]", json=True)
    put(store, ALICE, "k", mode="delete")
    put(store, ALICE, "k", mode="delete")
    with pytest.raises(InvalidInput):
        put(store, ALICE, "k", "1", mode="append", json=True)

    assert store.rows("SELECT actor, verb, subject, detail FROM events ORDER BY id") == [
        ("alice", "state_overwrite", "k", "version 1"),
        ("bob", "state_append", "k", "version 2"),
        ("bob", "state_overwrite", "k", "version 3"),
        ("alice", "state_delete", "k", "version 4"),
    ]
    assert len(past(store, "k")) == 4


def test_an_entry_past_its_time_is_as_if_it_were_not(store: Store) -> None:
    """It is neither read, listed nor appended to; create-only works again and continues the versions."""
    put(store, ALICE, "lock", "mine", ttl=30)
    store.now += 31

    assert store(state.get_state, CHANNEL, "lock") is None
    assert store(state.list_state, CHANNEL) == []
    assert put(store, ALICE, "lock", mode="delete") == 0
    assert put(store, BOB, "lock", "his", mode="append", expected_version=0) == 2
    entry = store(state.get_state, CHANNEL, "lock")
    assert entry
    assert (entry.value, entry.expires) == ("his", None)


@pytest.mark.anyio
async def test_keys_are_listed_by_prefix(party: Party) -> None:
    """A prefix is literal, even with characters that have a meaning in SQL; values are left out."""
    alice = await party.join("alice")
    keys = ["a%b", "a_b", "axb", "deploy/api", "deploy/web", "Deploy/x"]
    for key in keys:
        await alice.set_state(key, "1")
    prefixes = {"deploy/": ["deploy/api", "deploy/web"], "a%": ["a%b"], "a_": ["a_b"], "": sorted(keys), "z": []}

    found = await calls(alice, *(("list_state", {"prefix": prefix}) for prefix in prefixes))

    assert [[row["key"] for row in one["state"]] for one in found] == list(prefixes.values())
    assert not any("value" in row for one in found for row in one["state"])


@pytest.mark.anyio
async def test_as_many_keys_are_listed_as_a_model_is_shown(party: Party) -> None:
    """The remaining keys are counted; a longer prefix returns fewer."""
    alice = await party.join("alice")
    for number in range(250):
        await alice.set_state(f"{number:03}{'x' * 190}", "1")
    [cut, few] = await calls(alice, ("list_state", {}), ("list_state", {"prefix": "24"}))
    assert len(str(cut)) < text.INBOX_LIMIT + 1_000
    assert len(cut["state"]) + cut["more"] == 250
    assert (len(few["state"]), "more" in few) == (10, False)


# -- waiting for a key ------------------------------------------------------------------------------


async def until(holds: Callable[[], object]) -> None:
    """Return as soon as the condition holds."""
    with anyio.fail_after(PATIENCE):
        while True:
            if holds():
                return
            await anyio.sleep(0.01)


@contextlib.asynccontextmanager
async def served(session: Session) -> AsyncIterator[Session]:
    """The session along with its server's background work, which delivers notifications of changes."""
    bell = Doorbell(session, session.bus, None, lambda: False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bell.watch)
        await until(lambda: session.presence.address)
        yield session
        tasks.cancel_scope.cancel()


async def waited(party: Party, waiting: Session, changing: Session, **change: Any) -> list[StateEntry]:
    """The result of waiting for `k` when it is changed as soon as the wait has begun."""
    found: list[StateEntry] = []

    async def wait() -> None:
        found.extend(await waiting.wait_for_change("k", None, PATIENCE))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await until(lambda: rows(party, "SELECT * FROM watches"))
        await changing.set_state(**change)
    return found


@pytest.mark.anyio
async def test_waiting_for_a_key_ends_with_its_change(party: Party) -> None:
    """Creation, a new value and deletion each end the wait, which returns the present value and the writer."""
    alice = await party.join("alice")
    async with served(await party.join("bob")) as bob:
        created = await waited(party, bob, alice, key="k", value="one")
        changed = await waited(party, bob, alice, key="k", value="[2]", json=True)
        deleted = await waited(party, bob, alice, key="k", value="", mode="delete")

    found = [(e.version, e.value, e.json, e.updated_by) for e in (*created, *changed, *deleted)]
    assert found == [(1, "one", False, "alice"), (2, "[2]", True, "alice"), (3, None, False, "alice")]
    assert rows(party, "SELECT * FROM watches") == []


@pytest.mark.anyio
@pytest.mark.parametrize("after", [state.watch, state.get_state], ids=["watch", "look"])
async def test_a_change_while_a_wait_begins_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: Verb[..., Any]
) -> None:
    """Over HTTP a wait begins with several requests, and a change may come between any two."""
    party = Party(tmp_path / "bus.db", served=True)
    alice, bob = await party.join("alice"), await party.join("bob")
    assert isinstance(bob.bus, RemoteBus)
    call, changes = bob.bus._call, [alice.set_state]

    async def called(verb: Verb[..., Any], *args: Any) -> Any:
        found = await call(verb, *args)
        if changes and verb is after:
            await changes.pop()("k", "v")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(bob.bus, "_call", called)
        [found] = await bob.wait_for_change("k", None, PATIENCE)
    await party.close()

    assert found.value == "v"


@pytest.mark.anyio
async def test_a_wait_for_an_old_version_ends_at_once(party: Party) -> None:
    """A caller that names its known version misses no change from before the wait, not even a deletion."""
    alice, bob = await party.join("alice"), await party.join("bob")
    await alice.set_state("k", "one")
    await alice.set_state("k", "two")

    with anyio.fail_after(PATIENCE):
        [changed] = await bob.wait_for_change("k", 1, limits.MAX_WAIT)
        [there] = await bob.wait_for_change("k", 0, limits.MAX_WAIT)
        await alice.set_state("k", "", mode="delete")
        [deleted] = await bob.wait_for_change("k", 2, limits.MAX_WAIT)

    assert (changed.version, changed.value) == (there.version, there.value) == (2, "two")
    assert (deleted.version, deleted.value, deleted.updated_by) == (3, None, "alice")


@pytest.mark.anyio
async def test_waiting_in_vain_ends_empty(party: Party) -> None:
    """Without a change of that very key, on that channel, a wait returns nothing after its time, and leaves nothing
    behind.
    """
    alice, carol = await party.join("alice"), party.session()
    await carol.register("carol", channel="web")
    await alice.set_state("k", "one")
    async with served(await party.join("bob")) as bob:

        async def elsewhere() -> None:
            await alice.set_state("k2", "two")
            await carol.set_state("k", "there")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(elsewhere)
            assert await bob.wait_for_change("k", 1, 0.5) == []

    assert rows(party, "SELECT * FROM watches") == []


@pytest.mark.anyio
async def test_the_wait_tool_answers_like_get_state(party: Party) -> None:
    """With a key it returns the entry, nothing at the timeout, and a deletion without a value."""
    alice = await party.join("alice")
    _, at_once, nothing, _, deleted = await calls(
        alice,
        ("set_state", {"key": "k", "value": {"a": 1}}),
        ("wait", {"key": "k", "version": 0}),
        ("wait", {"key": "k", "timeout": 0.01}),
        ("set_state", {"key": "k", "mode": "delete"}),
        ("wait", {"key": "k", "version": 1}),
    )

    [found] = at_once["state"]
    assert (found["key"], found["value"], found["version"], found["updated_by"]) == ("k", {"a": 1}, 1, "alice")
    assert nothing == {"state": []}
    assert [("value" in row, row["version"]) for row in deleted["state"]] == [(False, 2)]


# -- competing writers --------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bus file that exists already, as it does for every session but the very first."""
    path = tmp_path / "bus.db"
    Store(path).connection.close()
    return path


def test_eight_processes_count_exactly(path: Path) -> None:
    """Eight processes count to 50 each by compare-and-set: value, versions and journal all reach 400."""
    versions = together([actor("increment", path, 50) for _ in range(8)])

    store = Store(path)
    entry = store(state.get_state, CHANNEL, "count")
    assert entry
    assert (entry.value, entry.version) == ("400", 400)
    assert sorted(int(version) for said in versions for version in said) == list(range(1, 401))
    assert [(e.version, e.value) for e in past(store, "count", 1000)] == [(n, str(n)) for n in range(400, 0, -1)]
    assert store.rows("SELECT COUNT(*) FROM events WHERE verb = 'state_overwrite'") == [(400,)]
    store.connection.close()


def test_eight_processes_append_exactly(path: Path) -> None:
    """Eight processes append 50 lines each to one list: all 400 are there, in order for each writer."""
    together([actor("append", path, 50) for _ in range(8)])

    store = Store(path)
    entry = store(state.get_state, CHANNEL, "lines")
    assert entry
    lines: dict[str, list[int]] = defaultdict(list)
    for line in str(entry.value).split("\n"):
        name, number = line.split()
        lines[name].append(int(number))
    assert list(lines.values()) == [list(range(50))] * 8
    assert entry.version == len(past(store, "lines", 1000)) == 400
    store.connection.close()
