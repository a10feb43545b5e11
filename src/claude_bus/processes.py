"""Which processes there are, and whether they still run.

A process id means one process only within its PID domain: one PID namespace of one
running kernel. A process can be asked after from within its own domain alone. Of any
other (a container, a sandbox, another machine) nothing is known but its heartbeat.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from .limits import FOREIGN_HOST_SILENCE
from .model.identity import Process

_TOLERANCE = 0.02
"""Seconds by which two readings of one process's start time may differ."""
_UNKNOWN = 0.0
"""The start time of a process that runs, where its start cannot be told."""
_LEAP = 10.0
"""Seconds by which the clock may differ from what passed, before it counts as moved."""
_PROC = Path("/proc")
_LINUX = sys.platform == "linux"


@cache
def host() -> str:
    """The name of this machine (or container)."""
    return socket.gethostname() or "localhost"


# -- the PID domain ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a process id means one process. Its text stands in `Process.host`."""

    kernel: str
    """The running kernel: on Linux the id of its boot, elsewhere the machine."""
    namespace: str
    """The PID namespace, where the system has any."""
    machine: str = ""
    """An id of the machine that outlives a boot; "" where nothing tells."""
    numbers: bool = True
    """Whether the system lists processes under the ids that they have in this domain."""

    def __str__(self) -> str:
        return f"{self.kernel}/{self.namespace}/{self.machine}"

    def holds(self, host: str) -> bool:
        """Whether a process with this `Process.host` is of this domain."""
        return host.split("/")[:2] == [self.kernel, self.namespace]

    def precedes(self, host: str) -> bool:
        """Whether a process with this `Process.host` is of this machine, and of another boot."""
        kernel, _, rest = host.partition("/")
        return bool(self.machine) and kernel != self.kernel and rest.partition("/")[2] == self.machine


@cache
def domain() -> Domain:
    """The domain of this process. One that cannot be told is nobody else's: its name is drawn."""
    if not _LINUX:
        return Domain(_hashed(_machine_elsewhere()), sys.platform)
    boot, namespace, machine = _text("sys/kernel/random/boot_id"), _link("self/ns/pid"), _text("/etc/machine-id")
    if not namespace:
        return Domain(f"unknown-{os.urandom(8).hex()}", "", numbers=False)
    return Domain(
        boot.replace("-", "")[:12] or _hashed(f"{machine} {host()}"),
        "".join(filter(str.isdigit, namespace)),
        _hashed(machine) if machine else "",
        numbers=_link("self") == str(os.getpid()),  # else /proc is that of another namespace
    )


@cache
def network() -> str:
    """The network namespace of this process: containers have loopbacks of their own. "" where nothing tells."""
    return "".join(filter(str.isdigit, _link("self/ns/net"))) if _LINUX else ""


def _machine_elsewhere() -> str:
    """The id that Windows or macOS gives this machine, which a change of its name leaves alone; else the name."""
    with contextlib.suppress(OSError, AttributeError):
        if sys.platform == "win32":
            import winreg

            place, access = r"SOFTWARE\Microsoft\Cryptography", winreg.KEY_READ | winreg.KEY_WOW64_64KEY
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, place, 0, access) as key:
                return str(winreg.QueryValueEx(key, "MachineGuid")[0])
        if sys.platform == "darwin":
            import ctypes

            found, patience = (ctypes.c_ubyte * 16)(), (ctypes.c_long * 2)(1, 0)
            if ctypes.CDLL(None).gethostuuid(found, patience) == 0:
                return bytes(found).hex()
    return host()


def _hashed(identifier: str) -> str:
    """An identifier of a machine is not to be shown around."""
    return hashlib.sha256(identifier.encode()).hexdigest()[:12]


# -- processes ---------------------------------------------------------------------------


def this_process() -> Process:
    """The process that asks."""
    return Process(str(domain()), os.getpid(), _own_start())


def process(pid: int) -> Process | None:
    """The running process with this pid, or None."""
    started = _started(pid)
    return None if started is None else Process(str(domain()), pid, started)


def is_alive(which: Process, heartbeat: float, now: float) -> bool:
    """Whether this very process still runs.

    One that cannot be asked after counts as alive as long as its last heartbeat is recent,
    unless it is known to be from before this machine was started.
    """
    seen = _seen(which)
    if seen is not None:
        return seen
    if domain().precedes(which.host) and heartbeat < now - _uptime():
        return False
    return abs(now - heartbeat) < FOREIGN_HOST_SILENCE


class Patience:
    """How heartbeats count after a time in which nobody could give one.

    While a machine sleeps no heart beats, and when its clock is set all beats are old at
    once. `counted` gives everybody the time for the next beat, counted from then. `awake`
    counts the seconds in which this machine ran.
    """

    def __init__(self, awake: Callable[[], float] = time.monotonic) -> None:
        self._awake = awake
        self._ahead: float | None = None
        self._since = float("-inf")

    def counted(self, heartbeat: float, now: float) -> float:
        """The time that a heartbeat counts for."""
        if self.leapt(now):
            self._since = now
        return now if 0 <= now - self._since < FOREIGN_HOST_SILENCE else heartbeat

    def leapt(self, now: float) -> bool:
        """Whether the clock, which shows `now`, was moved since the last call, or the machine slept."""
        ahead, self._ahead = self._ahead, now - self._awake()
        return ahead is not None and abs(self._ahead - ahead) > _LEAP


def _seen(which: Process) -> bool | None:
    """Whether it runs, as the system says; None where that cannot be asked."""
    if not domain().holds(which.host):
        return None
    if which.pid == os.getpid():
        return abs(_own_start() - which.started) < _TOLERANCE
    started = _started(which.pid)
    if started is None:
        return False
    return abs(started - which.started) < _TOLERANCE if started and which.started else None


def _started(pid: int) -> float | None:
    """When the process started, on a scale that a change of the clock does not move; None if it does not run.

    psutil's `create_time` is on the clock, and on Linux moves with it; so there the
    kernel's own figure (seconds since boot) is read.
    """
    if _LINUX:
        stat = _stat(str(pid)) if domain().numbers else None
        if stat:
            return stat.started if stat.runs else None
        return _UNKNOWN if _exists(pid) else None
    import psutil

    try:
        found = psutil.Process(pid)
        return None if found.status() == psutil.STATUS_ZOMBIE else float(found.create_time())
    except psutil.AccessDenied:
        return _UNKNOWN
    except (psutil.Error, ValueError, OverflowError):
        return None


def ticks(which: Process) -> str:
    """The start of a process as Linux and those who ask it write it."""
    return str(round(which.started * os.sysconf("SC_CLK_TCK")))


def _own_start() -> float:
    if not _LINUX:
        return _started(os.getpid()) or _UNKNOWN
    stat = _stat("self")
    return stat.started if stat else _UNKNOWN


def _exists(pid: int) -> bool:
    """Whether there is such a process, which /proc may hide."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def ancestors() -> list[tuple[Process, str]]:
    """This process's ancestors within its domain with their names, nearest first."""
    if _LINUX:
        return [(Process(str(domain()), stat.pid, stat.started), stat.name) for stat in _line()]
    import psutil

    try:
        parents = psutil.Process().parents()
    except psutil.Error:
        return []
    found = [(process(parent.pid), parent.name()) for parent in parents if parent.is_running()]
    return [(which, name) for which, name in found if which]


# -- what Linux says ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stat:
    pid: int
    name: str
    runs: bool
    parent: str
    """As /proc lists it."""
    started: float


def _stat(listed: str) -> _Stat | None:
    """The `stat` of a process that /proc lists; None if it cannot be read."""
    text = _text(f"{listed}/stat")
    head, _, rest = text.rpartition(")")
    number, _, name = head.partition(" (")
    fields = rest.split()
    if len(fields) < 20 or not number.isdigit():  # the start is the twentieth
        return None
    return _Stat(int(number), name, fields[0] not in "ZX", fields[1], int(fields[19]) / os.sysconf("SC_CLK_TCK"))


def _line() -> Iterator[_Stat]:
    """This process's ancestors as far as they are of its own namespace, nearest first.

    Under a /proc of an outer namespace they are listed by other numbers than they know themselves by.
    """
    here, stat = len(_numbers("self")), _stat("self")
    while stat and stat.parent != "0":
        listed = stat.parent
        numbers, stat = _numbers(listed), _stat(listed)
        if not stat or len(numbers) != here:
            return
        yield replace(stat, pid=numbers[-1])


def _numbers(listed: str) -> list[int]:
    """The pids of a process, one for each namespace that it is in and that /proc shows, outermost first."""
    for line in _text(f"{listed}/status").splitlines():
        label, _, numbers = line.partition(":")
        if label == "NSpid":
            return [int(number) for number in numbers.split()]
    return [int(listed)] if listed.isdigit() else [os.getpid()]


def _uptime() -> float:
    """Seconds since this machine was started; any number where that is not told."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if _LINUX else float("inf")


def _text(path: str) -> str:
    """A file below /proc; "" for one that cannot be read."""
    try:
        return Path(_PROC, path).read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(_PROC / path)  # noqa: PTH115 - no file of this name need be there
    except OSError:
        return ""
