"""Processes, and whether they still run.

A process id means one process only within its PID domain: one PID namespace of one running
kernel. A process can only be checked from within its own domain. Of a process in any other
(a container, a sandbox, another machine) only the heartbeat is known.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from .limits import FOREIGN_HOST_SILENCE
from .model.identity import Process
from .records import record

_TOLERANCE = 0.02
"""Seconds by which two readings of one process's start time may differ."""
_UNKNOWN = 0.0
"""Start time of a running process whose start cannot be read."""
_LEAP = 10.0
"""Seconds by which clock time and elapsed time may differ before the clock counts as moved."""
_PROC = Path("/proc")
_LINUX = sys.platform == "linux"


@cache
def host() -> str:
    """Return the name of this machine (or container)."""
    if hasattr(os, "uname"):
        return os.uname().nodename or "localhost"
    import socket  # what it imports takes as long as a command has to do

    return socket.gethostname() or "localhost"


# -- the PID domain ----------------------------------------------------------------------


@record(frozen=True, slots=True)
class Domain:
    """The domain in which a process id means one process. `Process.host` contains it as text."""

    kernel: str
    """The running kernel: on Linux the id of its boot, elsewhere the machine."""
    namespace: str
    """The PID namespace, if the system has any."""
    machine: str = ""
    """An id of the machine that outlives a boot; "" if unknown."""
    numbers: bool = True
    """Whether the system lists processes under the ids that they have in this domain."""

    def __str__(self) -> str:
        return f"{self.kernel}/{self.namespace}/{self.machine}"

    def holds(self, host: str) -> bool:
        """Return whether a process with this `Process.host` is in this domain."""
        return host.split("/")[:2] == [self.kernel, self.namespace]

    def precedes(self, host: str) -> bool:
        """Return whether a process with this `Process.host` is from an earlier boot of this machine."""
        kernel, _, rest = host.partition("/")
        return bool(self.machine) and kernel != self.kernel and rest.partition("/")[2] == self.machine


@cache
def domain() -> Domain:
    """Return the domain of this process. If that is unknown, it is a random one that no other process has."""
    if not _LINUX:
        return Domain(_hashed(_machine_elsewhere()), sys.platform)
    boot, namespace, machine = _text("sys/kernel/random/boot_id"), _link("self/ns/pid"), _text("/etc/machine-id")
    if not namespace:
        return Domain(f"unknown-{os.urandom(8).hex()}", "", numbers=False)
    return Domain(
        boot.replace("-", "")[:12] or _hashed(f"{machine} {host()}"),
        "".join(filter(str.isdigit, namespace)),
        _hashed(machine) if machine else "",
        numbers=_link("self") == str(os.getpid()),  # otherwise /proc is that of another namespace
    )


@cache
def network() -> str:
    """Return the network namespace of this process, since each container has its own loopback; "" if unknown."""
    return "".join(filter(str.isdigit, _link("self/ns/net"))) if _LINUX else ""


def _machine_elsewhere() -> str:
    """Return the id that Windows or macOS gives this machine, which survives a change of its name; else its name."""
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
    """Hash an identifier of a machine, which must not be shown."""
    return str(_sha256()(identifier.encode()).hexdigest())[:12]


def _sha256() -> Any:
    """Return Python's own SHA-256, from 3.12 on and of 3.11: `hashlib` loads OpenSSL, which takes 4 MiB."""
    for module in ("_sha2", "_sha256"):
        with contextlib.suppress(ImportError):
            return import_module(module).sha256
    return import_module("hashlib").sha256


# -- processes ---------------------------------------------------------------------------


def this_process() -> Process:
    """Return this process."""
    return Process(str(domain()), os.getpid(), _own_start())


def process(pid: int) -> Process | None:
    """Return the running process with this pid, or None."""
    started = _started(pid)
    return None if started is None else Process(str(domain()), pid, started)


def is_alive(which: Process, heartbeat: float, now: float) -> bool:
    """Return whether exactly this process still runs.

    A process that cannot be checked counts as alive while its last heartbeat is recent,
    unless it is known to be from before this machine's last boot.
    """
    seen = _seen(which)
    if seen is not None:
        return seen
    if domain().precedes(which.host) and heartbeat < now - _uptime():
        return False
    return abs(now - heartbeat) < FOREIGN_HOST_SILENCE


class Patience:
    """Adjusts heartbeats after a time in which no process could send one.

    While a machine sleeps, no heartbeat is sent; when its clock is set, all heartbeats are old at
    once. `counted` then gives all processes the time to send the next one. `awake` counts the
    seconds in which this machine ran.
    """

    def __init__(self, awake: Callable[[], float] = time.monotonic) -> None:
        self._awake = awake
        self._ahead: float | None = None
        self._since = float("-inf")

    def counted(self, heartbeat: float, now: float) -> float:
        """Return the time that a heartbeat counts for."""
        if self.leapt(now):
            self._since = now
        return now if 0 <= now - self._since < FOREIGN_HOST_SILENCE else heartbeat

    def leapt(self, now: float) -> bool:
        """Return whether the clock, which shows `now`, was moved since the last call, or the machine slept."""
        ahead, self._ahead = self._ahead, now - self._awake()
        return ahead is not None and abs(self._ahead - ahead) > _LEAP


def _seen(which: Process) -> bool | None:
    """Return whether the system says that it runs; None if that cannot be checked."""
    if not domain().holds(which.host):
        return None
    if which.pid == os.getpid():
        return abs(_own_start() - which.started) < _TOLERANCE
    started = _started(which.pid)
    if started is None:
        return False
    return abs(started - which.started) < _TOLERANCE if started and which.started else None


def _started(pid: int) -> float | None:
    """Return when the process started, on a scale that does not move with the clock; None if it does not run.

    psutil's `create_time` is a clock time, and on Linux it moves with the clock, so the kernel's
    own figure (seconds since boot) is read there.
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
    """Return the start of a process in the unit of Linux (clock ticks), as text."""
    return str(round(which.started * os.sysconf("SC_CLK_TCK")))


def _own_start() -> float:
    if not _LINUX:
        return _started(os.getpid()) or _UNKNOWN
    stat = _stat("self")
    return stat.started if stat else _UNKNOWN


def _exists(pid: int) -> bool:
    """Return whether such a process exists; /proc may hide it."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's process
        return True
    return True


def ancestors() -> list[tuple[Process, str]]:
    """Return this process's ancestors within its domain with their names, nearest first."""
    if _LINUX:
        return [(Process(str(domain()), stat.pid, stat.started), stat.name) for stat in _line()]
    import psutil

    try:
        parents = psutil.Process().parents()
    except psutil.Error:
        return []
    found = [(process(parent.pid), parent.name()) for parent in parents if parent.is_running()]
    return [(which, name) for which, name in found if which]


# -- /proc on Linux ----------------------------------------------------------------------


@record(frozen=True, slots=True)
class _Stat:
    pid: int
    name: str
    runs: bool
    parent: str
    """Its number as /proc lists it."""
    started: float


def _stat(listed: str) -> _Stat | None:
    """Read the `stat` of a process that /proc lists; None if it cannot be read."""
    text = _text(f"{listed}/stat")
    head, _, rest = text.rpartition(")")
    number, _, name = head.partition(" (")
    fields = rest.split()
    if len(fields) < 20 or not number.isdigit():  # the start time is the twentieth field
        return None
    return _Stat(int(number), name, fields[0] not in "ZX", fields[1], int(fields[19]) / os.sysconf("SC_CLK_TCK"))


def _line() -> Iterator[_Stat]:
    """Yield this process's ancestors within its own namespace, nearest first.

    A /proc of an outer namespace lists them under other numbers than those of their own namespace.
    """
    here, stat = len(_numbers("self")), _stat("self")
    while stat and stat.parent != "0":
        listed = stat.parent
        numbers, stat = _numbers(listed), _stat(listed)
        if not stat or len(numbers) != here:
            return
        yield replace(stat, pid=numbers[-1])


def _numbers(listed: str) -> list[int]:
    """Return the pids of a process, one for each of its namespaces that /proc shows, outermost first."""
    for line in _text(f"{listed}/status").splitlines():
        label, _, numbers = line.partition(":")
        if label == "NSpid":
            return [int(number) for number in numbers.split()]
    return [int(listed)] if listed.isdigit() else [os.getpid()]


def _uptime() -> float:
    """Return the seconds since this machine was started; infinity if unknown."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if _LINUX else float("inf")


def _text(path: str) -> str:
    """Return a file below /proc as text; "" if it cannot be read."""
    try:
        return Path(_PROC, path).read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(_PROC / path)  # noqa: PTH115 - the target need not be a file
    except OSError:
        return ""
