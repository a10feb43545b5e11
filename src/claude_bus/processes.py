"""Processes of this machine: which they are, and whether they still run."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

from .model import Process
from .rules import FOREIGN_HOST_SILENCE

_TOLERANCE = 0.02
"""Seconds by which two readings of one process's start time may differ."""


@cache
def host() -> str:
    """The name of this machine (or container)."""
    return socket.gethostname() or "localhost"


def this_process() -> Process:
    """The process that asks."""
    found = process(os.getpid())
    assert found
    return found


def process(pid: int) -> Process | None:
    """The running process with this pid, or None."""
    started = _started(pid)
    return None if started is None else Process(host(), pid, started)


def is_alive(which: Process, heartbeat: float, now: float) -> bool:
    """Whether this very process still runs.

    One on another host (a container on the same file) cannot be asked; it counts as
    alive as long as its last heartbeat is recent.
    """
    if which.host != host():
        return now - heartbeat < FOREIGN_HOST_SILENCE
    started = _started(which.pid)
    return started is not None and abs(started - which.started) < _TOLERANCE


def _started(pid: int) -> float | None:
    """When the process started, on a scale that a change of the clock does not move.

    psutil's `create_time` is on the clock, and on Linux moves with it; so there the
    kernel's own figure (seconds since boot) is read.
    """
    stat = Path(f"/proc/{pid}/stat")
    try:
        fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[19]) / 100
    except (OSError, IndexError, ValueError):
        if Path("/proc/self/stat").exists():
            return None
    import psutil

    try:
        found = psutil.Process(pid)
        return None if found.status() == psutil.STATUS_ZOMBIE else float(found.create_time())
    except (psutil.Error, ValueError, OverflowError):
        return None


def ancestors() -> list[tuple[Process, str]]:
    """This process's ancestors with their names, nearest first."""
    import psutil

    try:
        parents = psutil.Process().parents()
    except psutil.Error:
        return []
    found = [(process(parent.pid), parent.name()) for parent in parents if parent.is_running()]
    return [(which, name) for which, name in found if which]
