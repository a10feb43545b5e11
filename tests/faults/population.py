"""The processes of a round, as the roll reports them, and their fates."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import psutil

from claude_bus import processes

from .roll import Line


@dataclass(frozen=True)
class Member:
    """A live process, addressed by a descriptor, because its pid may have been reused."""

    pid: int
    kind: str
    seat: str
    handle: int

    def __del__(self) -> None:
        os.close(self.handle)

    def alive(self) -> bool:
        ready, _, _ = select.select([self.handle], [], [], 0)
        return not ready

    def signal(self, number: int) -> bool:
        """Send a signal; returns whether the process was still there to receive it."""
        try:
            signal.pidfd_send_signal(self.handle, number)
        except ProcessLookupError:
            return False
        return True


@dataclass
class Death:
    """The death of a process that a fault killed."""

    t: float
    """The earliest possible time."""
    kind: str
    seat: str
    moment: str
    end: float
    """The latest possible time."""


@dataclass
class Population:
    """The processes of a round, and the log of their violent deaths."""

    members: dict[int, Member] = field(default_factory=dict)
    deaths: list[Death] = field(default_factory=list)
    seat_of: dict[str, str] = field(default_factory=dict)
    """Seats by `host:pid:started`, as the store names processes."""
    kind_of: dict[str, str] = field(default_factory=dict)
    born: dict[str, float] = field(default_factory=dict)
    """The start times of these processes."""
    _executed: dict[int, str] = field(default_factory=dict)
    """Seats by the pid of a supervisor that was started with exec."""

    def hear(self, line: Line) -> None:
        """Process a line of the roll."""
        if line["what"] == "born":
            self.seat_of[line["process"]] = line["seat"]
            self.kind_of[line["process"]] = line["kind"]
            self.born[line["process"]] = line["t"]
            self._enter(line["pid"], line["kind"], line["seat"], line["started"])
        elif line["what"] == "real":
            self._executed[line["supervisor"]] = line["seat"]
            self._enter(line["supervisor"], "supervisor", line["seat"], None)
        elif line["what"] == "kill":
            self.deaths.append(Death(line["t"], line["kind"], line["seat"], line["moment"], line["t"]))

    def _enter(self, pid: int, kind: str, seat: str, started: float | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            found = processes.process(pid)
            if found and started in (None, found.started):
                self.members[pid] = Member(pid, kind, seat, handle)
            else:
                os.close(handle)

    def bury(self) -> None:
        """Remove dead processes."""
        for member in [m for m in self.members.values() if not m.alive()]:
            del self.members[member.pid]

    def kill(self, rng: Random, weights: dict[str, int]) -> bool:
        """Choose a kind and kill one process of it; returns whether there was one."""
        self.bury()
        self._look_below()
        kinds = sorted({m.kind for m in self.members.values()} & weights.keys())
        if not kinds:
            return False
        kind = rng.choices(kinds, [weights[one] for one in kinds])[0]
        victim = rng.choice(sorted((m for m in self.members.values() if m.kind == kind), key=lambda m: m.pid))
        now = time.time()
        if not victim.alive() or not victim.signal(signal.SIGKILL):
            return False
        self.deaths.append(Death(now, kind, victim.seat, "any moment", time.time()))
        return True

    def _look_below(self) -> None:
        """Find servers started with exec, which do not report to the roll."""
        for pid, seat in self._executed.items():
            for child in self._children(pid) if pid in self.members else ():
                if child not in self.members:
                    self._enter(child, "server", seat, None)

    def _children(self, pid: int) -> Iterator[int]:
        with contextlib.suppress(psutil.Error):
            yield from (child.pid for child in psutil.Process(pid).children())

    def stop(self, rng: Random) -> Member | None:
        """Stop (SIGSTOP) a process for a while."""
        self.bury()
        movable = sorted((m for m in self.members.values()), key=lambda m: m.pid)
        victim = rng.choice(movable) if movable else None
        return victim if victim and victim.signal(signal.SIGSTOP) else None

    def wake_all(self) -> None:
        for member in self.members.values():
            member.signal(signal.SIGCONT)

    def end_all(self) -> None:
        """Kill all remaining processes; these kills are not counted."""
        for member in list(self.members.values()):
            member.signal(signal.SIGKILL)
        self.members.clear()

    def kills(self) -> Counter[str]:
        return Counter(f"{death.kind}, {death.moment}" for death in self.deaths)
