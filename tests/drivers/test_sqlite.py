"""The file: private, shared, bounded, and whatever happens to it, the server lives and nothing is lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from claude_bus.drivers.sqlite import CHECKPOINT_BYTES, Database, checkpoint_if_large, connect, transact
from claude_bus.errors import InvalidInput, StoreBusy, StoreError, StoreUnsuitable
from claude_bus.model.identity import Address
from claude_bus.sql import bindings, messages, sessions, state
from claude_bus.sql.transaction import Transaction
from tests.support.processes import PATIENCE, actor, together, wire
from tests.support.small_disk import on_small_disk
from tests.support.store import START, Store

pytestmark = pytest.mark.slow

ME = Address("alice", "default")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as db:
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Without root's privilege to ignore permissions, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """The asynchronous side of a new file."""
    database = Database(tmp_path / "bus.db", 0.2, alive=lambda _process, _heartbeat: True)
    yield database
    await database.close()


def put(tx: Transaction, value: str = "v") -> int:
    return state.set_state(tx, ME, "k", value)


def get(tx: Transaction) -> str | None:
    entry = state.get_state(tx, "default", "k")
    return entry.value if entry else None


# -- permissions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o000, 0o077])
def test_files_are_the_users_alone(tmp_path: Path, mask: int) -> None:
    """Whatever the umask, nobody else reads the bus: not the file, its log, its index, nor its folder."""
    with umask(mask):
        store = Store(tmp_path / "new" / "bus.db")
        store.join("alice")

    modes = {path.name: mode(path) for path in (tmp_path / "new").iterdir()}

    assert modes == {"bus.db": 0o600, "bus.db-wal": 0o600, "bus.db-shm": 0o600}
    assert mode(tmp_path / "new") == 0o700
    store.connection.close()


def test_a_file_that_was_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    """A database of an earlier version may have been created readable for all."""
    Store(tmp_path / "bus.db").connection.close()
    (tmp_path / "bus.db").chmod(0o644)

    store = Store(tmp_path / "bus.db")
    store.join("alice")

    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}
    store.connection.close()


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    """A user may have put the file into a folder of their own."""
    tmp_path.chmod(0o755)
    Store(tmp_path / "bus.db").connection.close()

    assert mode(tmp_path) == 0o755


# -- transactions -----------------------------------------------------------------------------------


def test_a_verb_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """All of a verb happens, or nothing; the next one works."""
    store = Store(tmp_path / "bus.db")

    def half(tx: Transaction) -> None:
        put(tx)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store(half)

    assert store(get) is None
    assert store(put) == 1
    store.connection.close()


@pytest.mark.anyio
async def test_a_cancelled_verb_happened_whole(database: Database) -> None:
    """Giving up waiting does not interrupt a write."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await database.run(put)

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
async def test_listeners_are_told_of_what_was_committed_and_of_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once each, after the commit: also where verbs share one, where one of them fails, and where all begin anew."""
    told: list[str] = []
    monkeypatch.setattr("claude_bus.drivers.sqlite.notices.announce", told.extend)
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


# -- locked --------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("existing", [True, False])
def test_a_server_on_a_locked_file_starts_says_so_and_lives(tmp_path: Path, existing: bool) -> None:
    """Also if the file was locked before the server first opened it, even before it had a schema."""
    path = tmp_path / "bus.db"
    if existing:
        Store(path).connection.close()
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with wire(path, BUS_BUSY_TIMEOUT="0.1") as server:
        refused = server.call("register", name="alice")
        hook = server.call("hook", event="UserPromptSubmit", session_id="s", prompt_id="p1")
        again = server.call("hook", event="UserPromptSubmit", session_id="s", prompt_id="p2")
        lock.execute("ROLLBACK")
        lock.close()
        accepted = server.call("register", name="alice")

    assert refused.failed
    assert "another process is writing" in refused.text
    assert "systemMessage" in hook.text
    assert again.text == "{}"
    assert accepted.text.startswith("registered 'alice'")


# -- damaged, gone, replaced ------------------------------------------------------------------------------


def test_a_damaged_file_is_an_error_not_an_end(tmp_path: Path) -> None:
    """A server on a file that was overwritten says so; after it was moved away, the server starts a new one."""
    path = tmp_path / "bus.db"
    store = Store(path)
    alice = store.join("alice")
    for _ in range(50):
        store.send(alice, "bob", "x" * 1000)
    store.connection.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))

    with wire(path) as server:
        refused = [server.call("register", name="alice"), server.call("inbox")]
        path.rename(tmp_path / "damaged.db")
        accepted = server.call("register", name="alice")

    assert all(one.failed and str(path) in one.text for one in refused)
    assert "damaged" in refused[0].text
    assert accepted.text.startswith("registered 'alice'")


@pytest.mark.parametrize("rest", [True, False], ids=["with its log", "alone"])
def test_a_deleted_file_is_made_anew(tmp_path: Path, rest: bool) -> None:
    """The next call of a running server works on a new file, sound and private; the log says so, once."""
    path = tmp_path / "bus.db"
    with wire(path) as server:
        server.call("register", name="alice")
        server.call("set_state", key="k", value="v" * 5000)
        path.unlink()
        if rest:
            Path(f"{path}-wal").unlink()
            Path(f"{path}-shm").unlink()
        found = server.call("get_state")
        written = server.call("set_state", key="k", value="new")
        kept = server.call("get_state", key="k")
        server.end()
        assert server.process.stderr
        said = server.process.stderr.read().decode()

    assert said.count(f"{path} was deleted while it was in use") == 1
    assert found.data == {"state": []}
    assert written.text == "state['k'] set (version 1)"
    assert kept.data["state"][0]["value"] == "new"
    assert integrity(path) == "ok"
    assert mode(path) == 0o600


def test_a_deleted_folder_is_made_anew(tmp_path: Path) -> None:
    """Nor does it matter if the whole folder went."""
    path = tmp_path / "bus" / "bus.db"
    with wire(path) as server:
        server.call("register", name="alice")
        path.parent.rename(tmp_path / "moved")
        again = server.call("register", name="alice")

    assert again.text.startswith("registered 'alice'")
    assert mode(path.parent) == 0o700


def test_a_replaced_file_is_what_counts(tmp_path: Path) -> None:
    """After a copy was restored in its place, a running server works on the copy, and does it no harm."""
    path = tmp_path / "bus.db"
    other = Store(tmp_path / "copy.db")
    other(put, "from the copy")
    other.connection.close()
    with wire(path) as server:
        server.call("set_state", key="k", value="from the old file")
        Path(f"{path}-wal").unlink()
        Path(f"{path}-shm").unlink()
        (tmp_path / "copy.db").rename(path)
        found = server.call("get_state", key="k")
        server.call("set_state", key="k", value="new", expected_version=1)
        server.end()

    assert found.data["state"][0]["value"] == "from the copy"
    assert integrity(path) == "ok"
    assert Store(path)(get) == "new"


# -- where nothing can be written ------------------------------------------------------------------------------


def test_a_folder_without_permission_is_an_error_that_names_it() -> None:
    """A file that may not be created is a clear error, and so is one that may not be written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bus.db")
        Path(folder).chmod(0o555)
        with as_ordinary_user(), pytest.raises((PermissionError, sqlite3.OperationalError)):
            connect(path, 0.1)
        Path(folder).chmod(0o755)
        connect(path, 0.1).close()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        with as_ordinary_user(), pytest.raises((PermissionError, sqlite3.OperationalError)):
            connect(path, 0.1)
        path.chmod(0o600)


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


def test_a_read_only_disk_is_an_error_and_works_once_it_is_writable(tmp_path: Path) -> None:
    """A server that starts where it cannot write says so in its answers, and needs no restart afterwards."""
    seen = on_small_disk("read_only", tmp_path / "disk")

    for refusal in (seen["no_file"], seen["no_write"]):
        assert "disk/bus.db" in refusal
        assert "BUS_DB" in refusal
    assert seen["accepted"].startswith("registered 'alice'")
    assert seen["at_last"].startswith("registered 'alice'")


def test_a_full_disk_refuses_and_loses_nothing(tmp_path: Path) -> None:
    """Accepted messages are there, refused ones are not, and the server goes on when there is room."""
    seen = on_small_disk("fill", tmp_path / "disk")

    assert seen["sent"] > 20
    assert "is full" in seen["refusal"]
    assert seen["inside"] == {"messages": seen["sent"], "integrity": "ok"}
    assert seen["after"].startswith("sent to 'bob'")
    assert seen["read"] == [str(n) for n in range(seen["sent"] + 1)]
    assert seen["exit"] == 0


@pytest.mark.parametrize("scenario", ["full_from_the_start", "full_at_a_restart", "full_for_a_moment"])
def test_a_server_outlives_a_full_disk(tmp_path: Path, scenario: str) -> None:
    """Full before the first start, before a later one, or for a moment: an error that says so, and then it works."""
    seen = on_small_disk(scenario, tmp_path / "disk")

    refusals = [text for _, text in seen["refusals"]] if "refusals" in seen else [seen["refusal"]]
    assert all("is full; nothing was changed, free some space" in text for text in refusals), refusals
    assert seen["after"].startswith(("registered 'alice'", "state['k'] set"))


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


# -- the write-ahead log ------------------------------------------------------------------------------------------


def test_a_log_that_grew_is_moved_into_the_file_once(tmp_path: Path) -> None:
    """A checkpoint is made when the log is large, and not again before it has grown once more."""
    store = Store(tmp_path / "bus.db")
    wal = Path(f"{store.path}-wal")
    while wal.stat().st_size < CHECKPOINT_BYTES:
        assert not checkpoint_if_large(store.connection, store.path)
        store(put, "x" * 200_000)

    first = checkpoint_if_large(store.connection, store.path)
    store(put, "small")
    later = [checkpoint_if_large(store.connection, store.path) for _ in range(5)]

    assert first
    assert later == [False] * 5
    assert store(get) == "small"
    store.connection.close()


def test_a_checkpoint_waits_for_nobody(tmp_path: Path) -> None:
    """While another process writes there is no checkpoint, and that is no error."""
    store = Store(tmp_path / "bus.db")
    wal = Path(f"{store.path}-wal")
    while wal.stat().st_size < CHECKPOINT_BYTES:
        store(put, "x" * 200_000)
    lock = sqlite3.connect(store.path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    store.connection.execute("PRAGMA busy_timeout = 0")

    assert not checkpoint_if_large(store.connection, store.path)

    lock.execute("ROLLBACK")
    lock.close()
    assert checkpoint_if_large(store.connection, store.path)
    store.connection.close()


def test_several_writers_keep_the_log_bounded_and_the_file_sound(tmp_path: Path) -> None:
    """Processes that write much more than the limit leave a short log and an intact file."""
    path = tmp_path / "bus.db"
    keeper = Store(path)  # the last to close would remove the log

    together([actor("write", path, f"w{n}", 80, 50_000) for n in range(3)])

    assert path.stat().st_size + Path(f"{path}-wal").stat().st_size > 3 * 80 * 50_000
    assert Path(f"{path}-wal").stat().st_size < 2 * CHECKPOINT_BYTES
    assert integrity(path) == "ok"
    assert keeper.rows("SELECT COUNT(*), SUM(LENGTH(content)) FROM messages") == [(240, 240 * 50_000)]
    keeper.connection.close()


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
async def test_a_clock_that_jumps_back_does_not_disturb_the_order(tmp_path: Path) -> None:
    """Messages sent after the jump come after those sent before it."""
    from claude_bus.config import Config
    from claude_bus.connect import open_local
    from claude_bus.model.identity import Client
    from claude_bus.model.messages import Draft
    from claude_bus.processes import this_process

    times = iter([START, START, START, START - 1e6, START - 1e6, START - 1e6, START - 2e6])
    now = START

    def clock() -> float:
        nonlocal now
        now = next(times, now)
        return now

    async with open_local(Config(tmp_path / "bus.db"), clock=clock) as bus:
        client = Client("c", this_process())
        await bus.run(bindings.attach, client, None, "default")
        await bus.run(sessions.join, "c", ME, "", None)
        for n in range(6):
            await bus.run(messages.send, ME, Draft(("bob",), str(n)))
        said = await bus.run(messages.history, ME)

    assert [m.content for m in said] == [str(n) for n in range(6)]
    assert all(one.ts < other.ts for one, other in itertools.pairwise(said))
