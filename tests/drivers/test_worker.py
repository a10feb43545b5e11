"""The connection of an event loop: verbs queue up, are committed together, and are done whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

from claude_bus.drivers import announcing, disk
from claude_bus.drivers.sqlite import CHECKPOINT_BYTES, connect, transact
from claude_bus.drivers.worker import Database
from claude_bus.errors import InvalidInput, StoreBusy, StoreError, StoreUnsuitable
from claude_bus.model.identity import Address
from claude_bus.sql import bindings, state
from claude_bus.sql.transaction import CallerContext, Transaction
from tests.support.processes import PATIENCE
from tests.support.store import START

pytestmark = pytest.mark.slow

ME = Address("alice", "default")


def put(tx: Transaction, value: str = "v") -> int:
    return state.set_state(tx, ME, "k", value)


def get(tx: Transaction) -> str | None:
    entry = state.get_state(tx, "default", "k")
    return entry.value if entry else None


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """The asynchronous side of a new file."""
    database = Database(tmp_path / "bus.db", 0.2, alive=lambda _process, _heartbeat: True)
    yield database
    await database.close()


@pytest.mark.anyio
async def test_a_cancelled_verb_happened_whole(database: Database) -> None:
    """Giving up waiting does not interrupt a write."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await database.run(put)

    assert await database.run(get) == "v"


@pytest.mark.anyio
async def test_all_are_answered_whatever_fails_on_the_thread(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever for verbs that were committed together, if something fails after that."""
    await database.run(get)

    def refuse(_addresses: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(announcing, "announce", refuse)
        asked = [asyncio.ensure_future(database.run(put)) for _ in range(40)]
        done, waiting = await asyncio.wait(asked, timeout=PATIENCE)

    assert not waiting
    assert {type(one.exception()) for one in done} == {MemoryError}
    assert await database.run(get) == "v"


@pytest.mark.anyio
async def test_verbs_of_one_process_queue_up(database: Database) -> None:
    """Many calls at once are one after the other."""
    async with anyio.create_task_group() as tasks:
        for n in range(40):
            tasks.start_soon(database.run, lambda tx, n=n: state.set_state(tx, ME, "log", str(n), mode="append"))

    value = await database.run(lambda tx: state.get_state(tx, "default", "log"))
    assert value
    assert sorted(map(int, str(value.value).split())) == list(range(40))


@pytest.mark.anyio
async def test_verbs_that_are_committed_together_succeed_and_fail_apart(database: Database) -> None:
    """Each that waited for the thread gets its own answer or error, and what failed left nothing behind."""
    started, go = threading.Event(), threading.Event()

    def occupy(_tx: Transaction) -> None:
        started.set()
        assert go.wait(PATIENCE)

    def add(tx: Transaction, number: int) -> tuple[int, float]:
        state.set_state(tx, ME, "log", str(number), mode="append")
        if number % 3 == 0:
            raise InvalidInput(f"{number} is not wanted")
        return number, tx.now

    outcomes: dict[int, object] = {}

    async def ask(number: int) -> None:
        try:
            outcomes[number] = await database.run(add, number)
        except InvalidInput as error:
            outcomes[number] = error.message

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.run, occupy)
        await anyio.to_thread.run_sync(started.wait, PATIENCE)
        for number in range(10):
            tasks.start_soon(ask, number)
        await anyio.wait_all_tasks_blocked()
        go.set()

    assert {n: said for n, said in outcomes.items() if n % 3 == 0} == {n: f"{n} is not wanted" for n in (0, 3, 6, 9)}
    good = [said for n, said in sorted(outcomes.items()) if n % 3]
    assert [said[0] for said in good if isinstance(said, tuple)] == [1, 2, 4, 5, 7, 8]
    assert len({said[1] for said in good if isinstance(said, tuple)}) == 1, "they were not committed together"
    entry = await database.run(state.get_state, "default", "log")
    assert entry
    assert entry.value == "1\n2\n4\n5\n7\n8"


@pytest.mark.anyio
@pytest.mark.parametrize("ask", [Database.run, Database.read])
async def test_a_verb_that_waits_for_the_thread_is_not_done_in_a_deleted_file(
    ask: Callable[..., Coroutine[Any, Any, object]], database: Database
) -> None:
    """Its files are looked at when it begins, however long it has waited until then."""
    started, go = threading.Event(), threading.Event()

    def occupy(_tx: Transaction) -> None:
        started.set()
        assert go.wait(PATIENCE)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.run, occupy)
        await anyio.to_thread.run_sync(started.wait)
        tasks.start_soon(ask, database, put)
        await anyio.wait_all_tasks_blocked()
        for end in ("", "-wal", "-shm"):
            Path(f"{database.path}{end}").unlink()  # noqa: ASYNC240 - all others wait
        tasks.start_soon(ask, database, put)
        await anyio.wait_all_tasks_blocked()
        go.set()

    with contextlib.closing(connect(database.path, 0.2)) as other:
        assert other.execute("SELECT version FROM state").fetchall()[0][0] == 2


@pytest.mark.anyio
async def test_files_that_change_all_the_time_are_an_error(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call does not try for ever."""
    await database.run(put)
    monkeypatch.setattr(disk.Files, "change", lambda *_: "replaced")

    with pytest.raises(StoreError, match="again and again"):
        await database.run(put)


@pytest.mark.anyio
async def test_listeners_are_told_of_what_was_committed_and_of_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once each, after the commit: also where verbs share one, where one of them fails, and where all begin anew."""
    told: list[str] = []
    monkeypatch.setattr("claude_bus.drivers.sqlite.announcing.announce", told.extend)
    started, go = threading.Event(), threading.Event()
    attempts: list[int] = []

    def occupy(_tx: Transaction) -> None:
        started.set()
        assert go.wait(PATIENCE)

    def tell(tx: Transaction, number: int) -> None:
        tx.notify([f"listener {number}"])
        tx.run("UPDATE agents SET role = '' WHERE name = 'nobody'")
        attempts.append(number)
        if number == 1:
            raise InvalidInput("not wanted")
        if number == 2 and attempts.count(number) == 1:
            tx.run("ROLLBACK")  # as SQLite does when it cannot go on: all begin anew
            raise sqlite3.OperationalError("disk I/O error")

    async def ask(number: int) -> None:
        with contextlib.suppress(InvalidInput, StoreError):
            await database.run(tell, number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.run, occupy)
        await anyio.to_thread.run_sync(started.wait)
        for number in range(3):
            tasks.start_soon(ask, number)
        await anyio.wait_all_tasks_blocked()
        go.set()
    assert attempts == [0, 1, 2, 0, 1, 2]
    assert sorted(told) == ["listener 0", "listener 2"]

    told.clear()
    assert await database.read(bindings.bound, "nobody") is None
    await database.read(tell, 5)
    assert told == ["listener 5"]


@pytest.mark.anyio
async def test_a_verb_that_the_store_fails_does_not_fail_those_beside_it(database: Database) -> None:
    """All that was to be committed together is begun anew, each on its own; nothing is done twice."""
    started, go = threading.Event(), threading.Event()

    def occupy(_tx: Transaction) -> None:
        started.set()
        assert go.wait(PATIENCE)

    def broken(tx: Transaction) -> None:
        """As SQLite does when it cannot go on: the whole transaction is gone."""
        put(tx, "broken")
        tx.run("ROLLBACK")
        raise sqlite3.OperationalError("disk I/O error")

    async def fail_to() -> None:
        with pytest.raises(StoreError, match="disk I/O error"):
            await database.run(broken)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(database.run, occupy)
        await anyio.to_thread.run_sync(started.wait, PATIENCE)
        tasks.start_soon(database.run, put, "first")
        tasks.start_soon(fail_to)
        tasks.start_soon(database.run, put, "second")
        await anyio.wait_all_tasks_blocked()
        go.set()

    entry = await database.run(state.get_state, "default", "k")
    assert entry
    assert (entry.value, entry.version) == ("second", 2)


@pytest.mark.anyio
async def test_the_pulse_changes_with_the_writes_of_others(database: Database, tmp_path: Path) -> None:
    """A process can see cheaply that another one stored something."""
    await database.run(put)
    before = database.pulse()
    assert database.pulse() == before

    other = connect(tmp_path / "bus.db", 1.0)
    transact(other, START, lambda _process, _heartbeat: True, put, "w")
    other.close()

    assert database.pulse() != before


@pytest.mark.anyio
async def test_a_locked_file_is_busy_and_works_again(database: Database, tmp_path: Path) -> None:
    """Another program that holds the write lock longer than the timeout costs one error, and changes nothing."""
    await database.run(put)
    lock = sqlite3.connect(tmp_path / "bus.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreBusy, match="nothing was changed"):
        await database.run(put, "w")
    lock.execute("ROLLBACK")
    lock.close()

    assert await database.run(get) == "v"
    assert await database.run(put, "w") == 2


@pytest.mark.anyio
async def test_who_only_looks_waits_for_nobody(database: Database, tmp_path: Path) -> None:
    """Another program writes, and holds its lock: what was stored before can be read all the while."""
    await database.run(put)
    lock = sqlite3.connect(tmp_path / "bus.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    lock.execute("DELETE FROM state")

    assert await database.read(get) == "v"
    with pytest.raises(StoreBusy, match="nothing was changed"):
        await database.read(put, "w")
    lock.execute("ROLLBACK")
    lock.close()
    assert await database.read(get) == "v"


@pytest.mark.anyio
async def test_a_look_that_has_to_write_is_one_transaction_all_the_same(database: Database) -> None:
    """It begins anew once it is about to write: what it decided on was read under the lock, and all or nothing is."""
    seen = []

    def look_and_write(tx: Transaction) -> None:
        seen.append(get(tx))
        put(tx, "w")
        if len(seen) == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await database.read(look_and_write)
    assert len(seen) == 2
    assert await database.read(get) is None

    await database.read(look_and_write)
    assert await database.read(get) == "w"


@pytest.mark.anyio
async def test_a_look_on_somebodys_behalf_takes_no_lock_either(database: Database) -> None:
    """The transaction that a caller's verb gets is of the same kind: it begins anew before it writes."""
    seen = []

    def look_and_write(tx: Transaction) -> None:
        seen.append(tx.now)
        put(tx.called_by(CallerContext()), "w")

    await database.read(look_and_write)
    assert len(seen) == 2


@pytest.mark.anyio
async def test_many_verbs_at_once_are_each_answered(database: Database) -> None:
    """The thread and the loop are woken for many at a time; every caller gets its own answer, or its own error."""

    def number(_tx: Transaction, given: int) -> int:
        if given % 7 == 0:
            raise InvalidInput(str(given))
        return given

    found: dict[int, object] = {}

    async def one(given: int) -> None:
        run = database.run if given % 2 else database.read
        try:
            found[given] = await run(number, given)
        except InvalidInput as error:
            found[given] = error.message

    with anyio.fail_after(PATIENCE):
        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                for given in range(200):
                    tasks.start_soon(one, given)
    assert found == {given: given if given % 7 else str(given) for given in range(200)}


@pytest.mark.anyio
async def test_what_need_not_be_on_the_disk_is_there_for_all(database: Database, tmp_path: Path) -> None:
    """Others see it as soon as it is noted; and what is stored after it waits for the disk again."""
    await database.run(put)
    await database.write_relaxed(put, "w")

    other = connect(tmp_path / "bus.db", 1.0)
    assert transact(other, START, lambda _process, _heartbeat: True, get) == "w"
    other.close()
    with pytest.raises(RuntimeError):
        await database.write_relaxed(fail)
    assert await database.run(lambda tx: tx.number("PRAGMA synchronous")) == 2


def fail(_tx: Transaction) -> None:
    raise RuntimeError


@pytest.mark.anyio
async def test_a_path_below_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A BUS_DB that cannot be a file says which path it was and what to set."""
    (tmp_path / "file").write_text("x")
    database = Database(tmp_path / "file" / "deeper" / "bus.db", 0.1, alive=lambda _process, _heartbeat: True)

    with pytest.raises(StoreUnsuitable, match=r"file/deeper/bus\.db.*BUS_DB"):
        await database.run(put)
    await database.close()


@pytest.mark.anyio
async def test_a_folder_in_its_place_is_an_error_that_names_it(tmp_path: Path) -> None:
    """A BUS_DB that is a folder is refused, and the folder stays."""
    (tmp_path / "bus.db").mkdir()
    database = Database(tmp_path / "bus.db", 0.1, alive=lambda _process, _heartbeat: True)

    with pytest.raises(StoreUnsuitable, match=r"bus\.db is a folder: let BUS_DB name a file in it"):
        await database.run(put)
    await database.close()
    assert (tmp_path / "bus.db").is_dir()


def test_a_file_that_cannot_be_opened_leaves_no_thread_in_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that ends after such an error ends quietly, without a traceback of a thread it knew nothing of."""
    troubles: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", troubles.append)
    (tmp_path / "file").write_text("x")

    async def attempt() -> None:
        database = Database(tmp_path / "file" / "bus.db", 0.1, alive=lambda _process, _heartbeat: True)
        with pytest.raises(StoreUnsuitable):
            await database.run(put)
        await database.close()

    before = set(threading.enumerate())
    for _ in range(30):
        anyio.run(attempt)
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)

    assert troubles == []


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["run", "write_relaxed", "read"])
async def test_whatever_writes_keeps_the_log_bounded(tmp_path: Path, way: str) -> None:
    """Verbs that seldom write as well: a server may be asked nothing else."""
    path = tmp_path / "bus.db"
    database = Database(path, 5.0, alive=lambda *_: True)
    for _ in range(80):
        await getattr(database, way)(put, "x" * 200_000)

    assert Path(f"{path}-wal").stat().st_size < 2 * CHECKPOINT_BYTES  # noqa: ASYNC240 - nobody else runs
    await database.close()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["run", "write_relaxed", "read"])
async def test_the_pulse_changes_after_a_commit_is_visible(
    database: Database, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look between the last write to the log and its effect keeps nobody from seeing the commit."""
    await database.run(put)
    between: list[object] = []

    def committed(addresses: object) -> None:
        between.append(database.pulse())

    monkeypatch.setattr(announcing, "announce", committed)
    for n in range(50):  # in one tick of the clock for files as well
        await getattr(database, kind)(put, str(n))
        assert database.pulse() != between[-1]
