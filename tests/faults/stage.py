"""The settings that all processes of one round share."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .blackboard import Blackboard
from .roll import Roll

SOURCE = Path(__file__).parents[2] / "src"
BUSY_TIMEOUT = 0.4
"""Seconds for which a server waits for the write lock; some locks are held longer."""


@dataclass(frozen=True)
class Stage:
    """One round. `bus` is the folder on the small disk, `work` one with room for journals."""

    seed: int
    round: int
    bus: Path
    work: Path
    board: Blackboard
    roll: Roll
    sabotage: str
    doom: float
    """Probability that a process kills itself at one of its worst moments."""
    real: float
    """Share of the servers that are started with exec, as a client does it."""
    impatience: float
    """Probability that a client abandons a hook before its answer comes, and goes on without it."""
    far: frozenset[str] = frozenset()
    """Remote seats: all of their programs reach the bus over `line`."""
    host: int = 0
    """The port of the served bus."""
    silence: float = 0.0
    """Seconds without a heartbeat after which a remote session counts as gone; 0: the product's default, too long
    for a round.
    """
    line: int = 0
    """The port of the relay to it."""
    orders: int = -1
    """The pipe on which the relay gets its orders."""

    @property
    def db(self) -> Path:
        return self.bus / "bus.db"

    def rng(self, *parts: object) -> Random:
        """A random generator for one purpose: the same in every run with this seed."""
        return Random("/".join(map(str, (self.seed, self.round, *parts))))

    def journal(self, seat: str) -> Path:
        return self.work / f"{seat}.journal"

    def log(self, seat: str) -> Path:
        """The file for the stderr of a seat's servers."""
        return self.work / f"{seat}.log"

    def environment(self, seat: str, **more: str) -> dict[str, str]:
        """The environment of a seat's program on this bus, without the campaign's own variables."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BUS_", "CLAUDE"))}
        own = {
            "PYTHONPATH": os.pathsep.join([str(SOURCE), *filter(None, sys.path)]),
            **self._bus_of(seat),
            "BUS_BUSY_TIMEOUT": str(BUSY_TIMEOUT),
            "BUS_RATE": "0",
            "CLAUDE_CONFIG_DIR": str(self.work),
        }
        return {**inherited, **own, **more}

    def _bus_of(self, seat: str) -> dict[str, str]:
        if seat in self.far:
            return {"BUS_URL": f"http://127.0.0.1:{self.line}", "BUS_DB": str(self.work / "nobody's.db")}
        return {"BUS_DB": str(self.db)}
