"""File systems that cannot hold a bus, paths that are not files, and damage to the files of a bus in use."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from claude_bus.drivers import disk, sqlite
from claude_bus.drivers.inspect import Finding, inspect
from claude_bus.drivers.sqlite import CHECKPOINT_BYTES, connect
from claude_bus.drivers.worker import Database
from claude_bus.errors import StoreBusy, StoreError, StoreUnsuitable
from claude_bus.model.identity import Address
from claude_bus.sql import state
from claude_bus.sql.transaction import Transaction
from tests.support.processes import Wire, wire
from tests.support.store import Store

pytestmark = pytest.mark.slow

ME = Address("alice", "default")


def put(tx: Transaction, value: str = "v") -> int:
    return state.set_state(tx, ME, "k", value)


def get(tx: Transaction) -> str | None:
    entry = state.get_state(tx, "default", "k")
    return entry.value if entry else None


def problems(path: Path) -> str:
    """The faults that `doctor` finds in the database."""
    return "\n".join(finding.detail for finding in inspect(path, 0.1) if finding.ok is False)


def found(path: Path, name: str) -> Finding:
    [one] = [finding for finding in inspect(path, 0.1) if finding.name == name]
    return one


# -- requirements of SQLite -----------------------------------------------------------------------------------


def test_where_there_is_no_log_one_sentence_says_so(tmp_path: Path) -> None:
    """SQLite silently keeps its old journal mode there; switching must not be retried for ever."""
    uri = f"file:{tmp_path / 'bus.db'}?vfs=unix-dotfile"
    with (
        closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection,
        pytest.raises(StoreUnsuitable, match=r"keeps no write-ahead log.*local disk.*BUS_URL"),
    ):
        sqlite._switch_to_wal(connection, tmp_path / "bus.db", 60.0)


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[Path]:
    """A database that another connection has locked. SQLite sees a file system without locks in the same way."""
    path = tmp_path / "bus.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield path


def no(number: int) -> Callable[..., object]:
    """A call that always fails."""

    def fail(*_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number))

    return fail


def test_where_there_are_no_locks_one_sentence_says_so(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite reports a lock of another process; `doctor` finds the real reason, too."""
    monkeypatch.setattr(fcntl, "lockf", no(errno.ENOLCK))

    with pytest.raises(StoreUnsuitable, match=r"has no locks.*local disk.*BUS_URL"):
        connect(lock, 0.1)
    assert "has no locks" in problems(lock)
    assert not [path for path in lock.parent.iterdir() if "probe" in path.name]


def test_where_memory_is_not_shared_one_sentence_says_so(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite reports only "disk I/O error"."""
    monkeypatch.setattr(mmap, "mmap", no(errno.ENODEV))

    with pytest.raises(StoreUnsuitable, match="no memory that processes can share"):
        connect(lock, 0.1)
    assert "no memory that processes can share" in problems(lock)


def test_a_lock_of_another_process_is_not_taken_for_a_bad_file_system(lock: Path) -> None:
    """A long write of another process is reported as such, and as a reason to try again."""
    with pytest.raises(sqlite3.OperationalError) as refused:
        connect(lock, 0.1)
    assert isinstance(sqlite.translate(refused.value, lock), StoreBusy)
    assert "locked" in problems(lock)


def test_before_the_first_use_doctor_tries_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bus that could not be created is reported before its first use."""
    assert problems(tmp_path / "bus.db") == ""
    monkeypatch.setattr(fcntl, "lockf", no(errno.ENOLCK))
    assert "has no locks" in problems(tmp_path / "bus.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/.claude-bus/bus.db", "nfs4"),
        ("/home/me/local/bus.db", ""),
        ("/mnt/c/bus.db", "9p"),
        ("/srv/x/bus.db", "fuse.sshfs"),
        ("/srv/bus.db", ""),
    ],
)
def test_a_network_file_system_is_known_by_where_it_is_mounted(
    path: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The innermost mount counts, and the later one of two at the same place."""
    mounts = [("/", "ext4"), ("/home", "nfs4"), ("/home/me/local", "xfs"), ("/mnt/c", "9p"), ("/srv/x", "ext4")]
    monkeypatch.setattr(disk, "_mounts", lambda: [*mounts, ("/srv/x", "fuse.sshfs")])
    monkeypatch.setattr(disk, "real", lambda path: path)

    assert disk.network(Path(path)) == kind


def test_doctor_says_a_word_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works from one machine, so it is not a problem; `doctor` says what to do on several."""
    monkeypatch.setattr(disk, "_mounts", lambda: [("/", "nfs4")])
    told = found(tmp_path / "bus.db", "file system")
    assert told.ok is None
    assert "BUS_URL" in told.detail


def test_a_file_that_may_not_be_written_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite opens a file of another user, or on a read-only disk, and fails only when it writes."""
    Store(tmp_path / "bus.db").connection.close()
    assert problems(tmp_path / "bus.db") == ""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "may not be written; check its permissions, or set BUS_DB" in problems(tmp_path / "bus.db")


# -- paths that are not database files ---------------------------------------------------------------------------


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "said"), [(a_folder, "is a folder"), (a_pipe, "is not a regular file"), (a_loop, "cannot be checked")]
)
def test_what_is_no_file_is_named_as_what_it_is(make: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    """Both the opening process and `doctor` say what to set instead."""
    path = tmp_path / "bus.db"
    make(path)

    with pytest.raises(StoreUnsuitable, match=f"{said}.*BUS_DB"):
        connect(path, 0.1)
    assert said in problems(path)


def test_a_path_that_is_too_long_for_sqlite_is_said_to_be_that(tmp_path: Path) -> None:
    """SQLite's own message says only that the file cannot be opened."""
    path = tmp_path / ("a" * 250) / ("b" * 250) / "bus.db"
    with pytest.raises(StoreUnsuitable, match="bytes, and SQLite opens up to"):
        connect(path, 0.1)
    assert "SQLite opens up to" in problems(path)


def test_a_name_that_no_file_can_have_is_a_finding(tmp_path: Path) -> None:
    """`doctor` ends with no traceback, whatever BUS_DB is."""
    assert "cannot be checked: File name too long" in problems(tmp_path / ("a" * 300))


def test_two_names_of_one_file_are_a_problem(tmp_path: Path) -> None:
    """Each name would have a log of its own, which would damage the file."""
    Store(tmp_path / "bus.db").connection.close()
    assert problems(tmp_path / "bus.db") == ""
    (tmp_path / "other.db").hardlink_to(tmp_path / "bus.db")
    assert "2 names" in problems(tmp_path / "bus.db")


# -- symbolic links --------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_bus_behind_a_link_keeps_its_log_bounded_and_tells_of_changes(tmp_path: Path) -> None:
    """The log lies beside the real file: it is checkpointed there, and changes to it wake waiting calls."""
    (tmp_path / "data").mkdir()
    link, path = tmp_path / "bus.db", tmp_path / "data" / "real.db"
    link.symlink_to(path)
    database = Database(link, 5.0, alive=lambda *_: True)
    await database.run(put)
    before = database.pulse()
    for _ in range(80):
        await database.run(put, "x" * 200_000)

    assert before is not None
    assert database.pulse() != before
    assert path.stat().st_mode & 0o777 == 0o600
    assert Path(f"{path}-wal").stat().st_size < 2 * CHECKPOINT_BYTES  # noqa: ASYNC240 - no other task runs
    assert not Path(f"{link}-wal").exists()  # noqa: ASYNC240
    await database.close()


@pytest.mark.anyio
async def test_a_link_that_leads_elsewhere_now_is_followed(tmp_path: Path) -> None:
    """The new target is followed in the same way as a replaced file."""
    link = tmp_path / "bus.db"
    for name in ("one.db", "two.db"):
        store = Store(tmp_path / name)
        store(put, name)
        store.connection.close()
    link.symlink_to(tmp_path / "one.db")
    database = Database(link, 5.0, alive=lambda *_: True)
    first = await database.run(get)
    link.unlink()
    link.symlink_to(tmp_path / "two.db")

    assert (first, await database.run(get)) == ("one.db", "two.db")
    assert database.pulse() is not None
    await database.close()


# -- damage to the files of a bus in use -------------------------------------------------------------------------


def cut_off_the_index(path: Path) -> None:
    os.truncate(f"{path}-shm", 0)


def cut_off_half_the_index(path: Path) -> None:
    os.truncate(f"{path}-shm", 100)


def remove_the_index(path: Path) -> None:
    Path(f"{path}-shm").unlink()


def remove_the_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def remove_both(path: Path) -> None:
    remove_the_log(path)
    remove_the_index(path)


@pytest.mark.parametrize(
    "harm", [cut_off_the_index, cut_off_half_the_index, remove_the_index, remove_the_log, remove_both]
)
@pytest.mark.parametrize("others", [0, 1])
def test_harm_to_the_log_ends_no_server_and_loses_nothing(
    harm: Callable[[Path], None], others: int, tmp_path: Path
) -> None:
    """The system would kill a process that touches a truncated index. All servers still find the stored data."""
    path = tmp_path / "bus.db"
    with wire(path) as server, wire(path) as other:
        servers = [server, other][: 1 + others]
        if not others:
            other.end()
        for number, each in enumerate(servers):
            assert not each.call("register", name=f"n{number}").failed
        server.call("set_state", key="k", value="before")

        harm(path)

        assert _value(server) == "before"
        assert server.call("set_state", key="k", value="after").text == "state['k'] set (version 2)"
        assert {_value(each) for each in servers} == {"after"}
        assert [each.call("whoami").text for each in servers] == [f"n{n}" for n in range(len(servers))]
        assert all(psutil.Process(each.process.pid).is_running() for each in servers)
        for each in servers:
            each.end()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert db.execute("SELECT value FROM state").fetchall() == [("after",)]


def _value(server: Wire) -> object:
    return server.call("get_state", key="k").data["state"][0]["value"]


@pytest.mark.anyio
@pytest.mark.parametrize("left", [0, 0.5])
async def test_a_log_that_was_cut_off_costs_what_was_in_it_and_no_more(tmp_path: Path, left: float) -> None:
    """From the second call on, calls succeed on the remaining data, and the file is sound."""
    path = tmp_path / "bus.db"
    databases = [Database(path, 5.0, alive=lambda *_: True) for _ in range(2)]
    for database in databases:
        for number in range(20):
            await database.run(put, str(number) * 5000)
    os.truncate(f"{path}-wal", int(left * Path(f"{path}-wal").stat().st_size))  # noqa: ASYNC240

    for database in databases * 2:
        try:
            await database.run(put, "new")
        except StoreError:
            await database.run(put, "new")

    for database in databases:
        assert await database.run(get) == "new"
        await database.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
