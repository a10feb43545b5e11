"""A look at a database file for `doctor`: changes nothing, creates nothing."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from .migrate import VERSION

WAL_RESET_FIXED = (3, 51, 3)
"""The SQLite version without the WAL-reset bug; before it, our checkpoints avoid it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `ok` is None for what is only worth knowing."""

    name: str
    ok: bool | None
    detail: str


def inspect(path: Path, busy_timeout: float) -> list[Finding]:
    """Findings about the file at `path`, worst cases included: this never raises."""
    found = [_sqlite()]
    if not path.exists():
        return [*found, Finding("database", None, f"{path} does not exist yet; the first use creates it")]
    found += _modes(path)
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=busy_timeout)
        ) as db:
            return [*found, *_contents(db, path)]
    except sqlite3.Error as error:
        return [*found, Finding("database", False, f"{path}: {error}")]


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
        Finding("schema", version >= VERSION, f"version {version}, this program's is {VERSION}"),
        Finding("integrity", check == "ok", f"{path}: {check}"),
    ]
    with contextlib.suppress(OSError):
        size = Path(f"{path}-wal").stat().st_size
        found.append(Finding("write-ahead log", None, f"{size // 1024} KiB"))
    if version >= VERSION:
        found += [_counts(db), _tokens(db)]
    try:
        db.execute("BEGIN IMMEDIATE")
        db.execute("ROLLBACK")
        found.append(Finding("writable", True, "the write lock is free"))
    except sqlite3.OperationalError as error:
        found.append(Finding("writable", False, str(error)))
    return found


def _counts(db: sqlite3.Connection) -> Finding:
    messages, unread, state, claims = (
        db.execute(query).fetchone()[0]
        for query in (
            "SELECT COUNT(*) FROM messages",
            "SELECT COUNT(*) FROM deliveries WHERE state = 'queued'",
            "SELECT COUNT(*) FROM state",
            "SELECT COUNT(*) FROM claims",
        )
    )
    return Finding(
        "contents", None, f"{messages} messages, {unread} unread deliveries, {state} state entries, {claims} claims"
    )


def _tokens(db: sqlite3.Connection) -> Finding:
    valid = "SELECT COUNT(*) FROM tokens WHERE revoked IS NULL AND (expires IS NULL OR expires > ?)"
    count = db.execute(valid, (time.time(),)).fetchone()[0]
    return Finding(
        "tokens",
        None,
        f"{count} valid: whoever calls a served bus needs one" if count else "none: only loopback can be served",
    )
