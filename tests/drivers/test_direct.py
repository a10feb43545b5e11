"""The connection of a command: it runs verbs without an event loop, with the same outcome as any other."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from claude_bus.drivers import announcing
from claude_bus.drivers.direct import DirectDatabase
from claude_bus.drivers.sqlite import CHECKPOINT_BYTES, connect, transact
from claude_bus.errors import InvalidInput, StoreBusy, StoreUnsuitable
from claude_bus.event_loop import run_without
from claude_bus.model.identity import Address
from claude_bus.sql import state
from claude_bus.sql.transaction import Transaction
from tests.support.store import START

ME = Address("alice", "default")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[DirectDatabase]:
    """The connection of a command to a new file."""
    database = DirectDatabase(tmp_path / "bus.db", 0.2, alive=lambda _process, _heartbeat: True)
    yield database
    run_without(database.close())


def put(tx: Transaction, value: str = "v") -> int:
    return state.set_state(tx, ME, "k", value)


def get(tx: Transaction) -> str | None:
    entry = state.get_state(tx, "default", "k")
    return entry.value if entry else None


@pytest.mark.parametrize("way", ["run", "write_relaxed", "read"])
def test_each_way_stores_for_all(database: DirectDatabase, tmp_path: Path, way: str) -> None:
    """A verb that only looks begins anew once it writes; another process sees the result at once."""
    assert run_without(getattr(database, way)(put, "w")) == 1

    other = connect(tmp_path / "bus.db", 1.0)
    assert transact(other, START, lambda _process, _heartbeat: True, get) == "w"
    other.close()
    assert run_without(database.run(lambda tx: tx.number("PRAGMA synchronous"))) == 2


def test_a_verb_that_fails_leaves_nothing_behind(database: DirectDatabase) -> None:
    """All of it happens, or nothing, also if Ctrl-C ends it; the next one works."""

    def half(tx: Transaction) -> None:
        put(tx)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_without(database.run(half))
    assert run_without(database.read(get)) is None
    assert run_without(database.run(put)) == 1


def test_a_locked_file_is_busy_and_works_again(database: DirectDatabase, tmp_path: Path) -> None:
    """The same errors as those of a server."""
    run_without(database.run(put))
    lock = sqlite3.connect(tmp_path / "bus.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="nothing was changed"):
        run_without(database.run(put, "w"))
    assert run_without(database.read(get)) == "v"
    lock.execute("ROLLBACK")
    lock.close()

    assert run_without(database.run(put, "w")) == 2


def test_what_cannot_be_stored_is_bad_input(database: DirectDatabase) -> None:
    """Half a surrogate pair, and a number that is too large for SQLite."""
    with pytest.raises(InvalidInput, match="surrogate"):
        run_without(database.run(put, "\ud800"))
    with pytest.raises(InvalidInput, match="too large"):
        run_without(database.read(lambda tx: tx.one("SELECT ?", 1 << 70)))


def test_a_path_below_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    """Where no bus can be, the error says so."""
    (tmp_path / "file").write_text("x")
    database = DirectDatabase(tmp_path / "file" / "bus.db", 0.1, alive=lambda _process, _heartbeat: True)
    with pytest.raises(StoreUnsuitable, match="file"):
        run_without(database.run(put))
    run_without(database.close())


def test_what_it_writes_keeps_the_log_bounded(database: DirectDatabase, tmp_path: Path) -> None:
    """A command may write much: an import, for one."""
    for _ in range(40):
        run_without(database.run(put, "x" * 200_000))
    assert Path(f"{tmp_path}/bus.db-wal").stat().st_size < 2 * CHECKPOINT_BYTES


def test_the_pulse_changes_with_each_commit(database: DirectDatabase) -> None:
    """As a server's does."""
    run_without(database.run(put))
    before = database.pulse()
    assert database.pulse() == before
    run_without(database.run(put, "w"))
    assert database.pulse() != before


def test_the_pulse_changes_after_a_commit_is_visible(database: DirectDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that looked between the last write to the log and its effect looks again."""
    between: list[object] = []
    monkeypatch.setattr(announcing, "announce", lambda _addresses: between.append(database.pulse()))
    run_without(database.run(put))
    assert database.pulse() != between[-1]
