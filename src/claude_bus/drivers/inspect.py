"""Inspection of a database file for `doctor`: changes nothing, creates nothing."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from pathlib import Path

from .. import text
from ..records import record
from ..sql import search
from ..sql.transaction import Transaction
from . import disk
from .migrate import OURS, VERSION, has_tables, is_foreign
from .sqlite import translate

WAL_RESET_FIXED = (3, 51, 3)
"""The SQLite version without the WAL-reset bug; with earlier versions, the checkpoints of claude-bus avoid it."""


@record(frozen=True, slots=True)
class Finding:
    """The result of one check. `ok` is None for mere information."""

    name: str
    ok: bool | None
    detail: str


def inspect(path: Path, busy_timeout: float) -> list[Finding]:
    """Return findings about the file at `path`. Never raises, whatever is wrong with the file."""
    if unusable := disk.no_file(path):
        return [_sqlite(), Finding("database", False, unusable)]
    found = [_sqlite(), *_file_system(path)]
    if not path.exists():
        return [*found, _absent(path)]
    found += [*_modes(path), *_links(path)]
    try:
        with contextlib.closing(
            sqlite3.connect(f"{disk.real(path).as_uri()}?mode=rw", uri=True, timeout=busy_timeout)
        ) as db:
            return [*found, *_contents(db, path)]
    except sqlite3.Error as error:
        return [
            *found,
            Finding("database", False, disk.obstacle(path) or f"{translate(error, path).message} ({error})"),
        ]


def _absent(path: Path) -> Finding:
    there = disk.real(path)
    if not disk.may_be_made(there):
        return Finding("database", False, f"{there} cannot be created by this user; set BUS_DB to another path")
    if there.parent.is_dir() and (obstacle := disk.obstacle(there)):
        return Finding("database", False, obstacle)
    return Finding("database", None, f"{there} does not exist yet; the first use creates it")


def _file_system(path: Path) -> list[Finding]:
    """Warn of a file system that other machines may also write to: their sessions must not use the file."""
    kind = disk.network(path)
    if not kind:
        return []
    told = (
        f"{path} lies on {kind}, which other machines or a virtual machine's host can reach. Use it from one machine "
        "only: elsewhere set BUS_URL to a bus served here (claude-bus serve)"
    )
    return [Finding("file system", None, told)]


def _links(path: Path) -> list[Finding]:
    names = path.stat().st_nlink
    if names < 2 or not path.is_file():
        return []
    told = f"{path} has {names} names (hard links). Its use under two of them damages it: keep one of them"
    return [Finding("names", False, told)]


def _sqlite() -> Finding:
    fixed = sqlite3.sqlite_version_info >= WAL_RESET_FIXED
    note = (
        ""
        if fixed
        else "; has the WAL-reset bug, which our checkpoints avoid (do not let other programs write to the file)"
    )
    return Finding("sqlite", True if fixed else None, f"{sqlite3.sqlite_version}{note}")


def _modes(path: Path) -> list[Finding]:
    if os.name == "nt":
        return []
    mode = stat.S_IMODE(path.stat().st_mode)
    private = not mode & 0o077
    return [Finding("permissions", private, f"{path} is {mode:04o}" + ("" if private else ", should be 0600"))]


def _contents(db: sqlite3.Connection, path: Path) -> list[Finding]:
    db.execute("PRAGMA wal_autocheckpoint = 0")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    check = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    found = [
        _schema(db, version),
        Finding("integrity", check == "ok", f"{path}: {check}"),
    ]
    with contextlib.suppress(OSError):
        size = Path(f"{disk.real(path)}-wal").stat().st_size
        found.append(Finding("write-ahead log", None, f"{size // 1024} KiB"))
    if version >= VERSION:
        found += [_counts(db), _search(db), _tokens(db)]
    return [*found, _writable(db, path)]


def _writable(db: sqlite3.Connection, path: Path) -> Finding:
    if not os.access(path, os.W_OK):  # SQLite notices only when it writes
        return Finding("writable", False, f"{path} may not be written; check its permissions, or set BUS_DB")
    try:
        db.execute("BEGIN IMMEDIATE")
        db.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        return Finding("writable", False, f"{translate(error, path).message} ({error})")
    return Finding("writable", True, "the write lock is free")


def _schema(db: sqlite3.Connection, version: int) -> Finding:
    if version >= VERSION:
        newer = ": a newer claude-bus made it, and this one can use it" if version > VERSION else ""
        return Finding("schema", True, f"version {version}, this program's is {VERSION}{newer}")
    if is_foreign(db):
        return Finding("schema", False, "the tables of another program; set BUS_DB to another path")
    what = f"version {version}" if has_tables(db) else "an empty file"
    kept = ", and keeps a copy of it as it is" if version < OURS and has_tables(db) else ""
    return Finding("schema", None, f"{what}: the first start brings it to version {VERSION}{kept}")


def _counts(db: sqlite3.Connection) -> Finding:
    counts = (
        text.plural(db.execute(query).fetchone()[0], noun)
        for noun, query in (
            ("message", "SELECT COUNT(*) FROM messages"),
            ("unread delivery", "SELECT COUNT(*) FROM deliveries WHERE state = 'queued'"),
            ("state entry", "SELECT COUNT(*) FROM state"),
            ("claim", "SELECT COUNT(*) FROM claims"),
        )
    )
    return Finding("contents", None, ", ".join(counts))


def _search(db: sqlite3.Connection) -> Finding:
    db.row_factory = sqlite3.Row
    tx = Transaction(db, time.time(), lambda _process, _heartbeat: True)
    if not search.available(tx):
        told = "this SQLite has no FTS5, so there is no index: a search that finds little ends early, and says where"
        return Finding("search", None, told)
    if bad := [block for block in search.blocks(tx) if not search.sound(tx, block)]:
        told = f"{text.plural(len(bad), 'part')} of the index cannot be read; searches do without, servers make it anew"
        return Finding("search", False, told)
    waiting = search.unindexed(tx)
    return Finding("search", None if waiting else True, f"{text.plural(waiting, 'message')} not yet in the index")


def _tokens(db: sqlite3.Connection) -> Finding:
    valid = "SELECT COUNT(*) FROM tokens WHERE revoked IS NULL AND (expires IS NULL OR expires > ?)"
    count = db.execute(valid, (time.time(),)).fetchone()[0]
    return Finding(
        "tokens",
        None,
        f"{count} valid: callers of a served bus need one" if count else "none: only loopback can be served",
    )
