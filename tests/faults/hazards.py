"""Faults of a round other than kills. Each hazard has a beginning, and ends by itself or by force."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from random import Random

from claude_bus.drivers import sqlite

from . import nursery, relay
from .stage import BUSY_TIMEOUT, Stage

End = Callable[[], None]
_HOUR = 3600.0


def hold_lock(stage: Stage, rng: Random) -> tuple[float, End]:
    """A process begins a write and holds the lock, usually for longer than servers wait for it."""
    seconds = rng.uniform(0.5, 2.5) * BUSY_TIMEOUT

    def body() -> None:
        stage.roll.born("locker", "")
        with closing(sqlite3.connect(stage.db, timeout=1.0, isolation_level=None)) as connection:
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("BEGIN IMMEDIATE")
            time.sleep(seconds)

    return seconds, _ending(nursery.fork(body, [stage.roll.into], tied=True))


def storm(stage: Stage, rng: Random) -> tuple[float, End]:
    """Several processes do nothing but checkpoint, by the product's own rule."""
    seconds = rng.uniform(0.2, 0.6)

    def body() -> None:
        stage.roll.born("checkpointer", "")
        end = time.monotonic() + seconds
        with closing(sqlite.connect(stage.db, 1.0)) as connection:
            while time.monotonic() < end:
                sqlite.checkpoint(connection, stage.db)
                time.sleep(0.002)

    ends = [_ending(nursery.fork(body, [stage.roll.into], tied=True)) for _ in range(2)]

    def end_all() -> None:
        for end in ends:
            end()

    return seconds, end_all


def _ending(pid: int) -> End:
    """A function that ends a child which has not ended by itself. The campaign collects it with all other children."""
    handle = os.pidfd_open(pid)

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)

    return end


def fill_disk(stage: Stage, rng: Random) -> tuple[float, End]:
    """Fill the disk, except for a few bytes."""
    ballast = stage.bus.parent / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * (1 << 20))
    with contextlib.suppress(OSError):
        os.truncate(ballast, max(0, ballast.stat().st_size - rng.choice((0, 4096, 40_000, 200_000))))
    return rng.uniform(0.2, 0.8), lambda: ballast.unlink(missing_ok=True)


def jump_clock(stage: Stage, rng: Random) -> tuple[float, End]:
    """Shift the clock of all servers by up to some hours, forwards or back."""
    stage.board.offset = rng.choice((-1, 1)) * rng.choice((1.0, 60.0, 2 * _HOUR)) * rng.random()
    return rng.uniform(0.1, 1.0), lambda: None


def set_clock_right(stage: Stage) -> None:
    stage.board.offset = 0.0


def spoil_line(stage: Stage, rng: Random) -> tuple[float, End]:
    """Remote sessions lose answers, or cannot send requests, for a moment or for a long time."""
    if not stage.far:
        return 0.0, lambda: None
    relay.spoil(stage, rng)
    return rng.choice((0.05, 0.3, 1.0, 2.5)) * rng.random(), lambda: relay.tell(stage, "good")


HAZARDS: dict[str, tuple[Callable[[Stage, Random], tuple[float, End]], float]] = {
    "held lock": (hold_lock, 4.0),
    "checkpoint storm": (storm, 4.0),
    "full disk": (fill_disk, 5.0),
    "clock": (jump_clock, 1.5),
    "line": (spoil_line, 1.5),
}
"""Each hazard by name: its beginning, and the mean interval in seconds."""


LOCKING_OUT = frozenset({"held lock", "checkpoint storm", "full disk"})
"""Hazards under which a write may fail in any session."""
CUTTING_OFF = frozenset({"line"})
"""Hazards under which a write may fail in remote sessions."""
BACK_AFTER = 4.0
"""Seconds after an outage in which a remote session may not have noticed that it is over."""
PATIENCE = 2 * BUSY_TIMEOUT
"""Seconds after the end of a hazard in which writes of remote sessions may still be refused."""
