"""The file: private, shared, bounded, and whatever happens to it, the server lives and nothing is lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from claude_bus.drivers.sqlite import CHECKPOINT_BYTES, checkpoint_if_large, connect
from claude_bus.model.identity import Address
from claude_bus.sql import bindings, messages, sessions, state
from claude_bus.sql.transaction import Transaction
from tests.support.processes import actor, together, wire
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


# -- locked --------------------------------------------------------------------------------------------


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
