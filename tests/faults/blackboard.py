"""Messages of the campaign to all of its processes, in memory that they share."""

from __future__ import annotations

import mmap
import struct
import time
from enum import IntEnum


class Phase(IntEnum):
    """The phase of the round."""

    FAULTS = 0
    CALM = 1
    """No more faults: processes finish their current work and start nothing new."""
    DRAIN = 2
    """Read all waiting mail."""
    END = 3


_LAYOUT = struct.Struct("=dI")


class Blackboard:
    """Anonymous shared memory: every process forked after its creation sees the same contents."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _LAYOUT.size)

    @property
    def phase(self) -> Phase:
        return Phase(self._read()[1])

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._write(self.offset, phase)

    @property
    def offset(self) -> float:
        """The error of the bus's clock, in seconds."""
        return self._read()[0]

    @offset.setter
    def offset(self, offset: float) -> None:
        self._write(offset, self.phase)

    def clock(self) -> float:
        """The time as servers see it."""
        return time.time() + self.offset

    def _read(self) -> tuple[float, int]:
        offset, phase = _LAYOUT.unpack_from(self._memory)
        return offset, phase

    def _write(self, offset: float, phase: int) -> None:
        _LAYOUT.pack_into(self._memory, 0, offset, phase)
