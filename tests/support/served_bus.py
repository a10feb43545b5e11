"""A served bus: `claude-bus serve` as a process of its own, on a free loopback port."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.processes import PATIENCE, environment


class Served:
    """A running server and its address. `log` holds its stderr."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log


@contextlib.contextmanager
def served(
    db: Path, *options: str, port: str = "0", program: str = "claude_bus", logs: str = "", **env: str
) -> Iterator[Served]:
    """Serve the file until the context ends. Once this returns, the server answers.

    The log is in the folder `logs`, or beside the file.
    """
    log = Path(logs or db.parent) / f"{db.stem}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", program, "serve", "--port", port, *options],
            env=environment(db, **env),
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    try:
        yield Served(process, _address(process, log), log)
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            assert process.stdout
            process.stdout.close()


@contextlib.contextmanager
def locked(db: Path) -> Iterator[None]:
    """Another connection has just written to the file and holds the write lock."""
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("CREATE TABLE IF NOT EXISTS somebody_elses (n)")
        other.execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def reserved(db: Path) -> Iterator[None]:
    """Another connection holds the file exclusively, so that it cannot even be read. No other may have opened it
    before.
    """
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        yield


@contextlib.contextmanager
def served_busy(db: Path) -> Iterator[tuple[Served, Callable[[], None]]]:
    """A server that starts while another connection holds the file exclusively, and a function to release the file."""
    with served(db):
        pass
    with contextlib.ExitStack() as others:
        others.enter_context(reserved(db))
        with served(db, BUS_BUSY_TIMEOUT="0.1") as server:
            yield server, others.close


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address that the server prints."""
    assert process.stdout
    line = process.stdout.readline().decode()
    found = re.search(r"https?://\S+", line)
    assert found, f"the server says {line!r} and {log.read_text(encoding='utf-8')}"
    return found[0]
