"""The roll: every process of a round reports its birth here, and the fault by which it dies."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

from claude_bus import processes

Line = dict[str, Any]


class Roll:
    """A pipe into which any process writes and from which the campaign reads.

    A line is short enough to be written atomically, so lines do not mix, and a line written before a kill survives
    it.
    """

    def __init__(self) -> None:
        self._out, self.into = os.pipe()
        self._rest = b""

    def fileno(self) -> int:
        return self._out

    def close(self) -> None:
        os.close(self._out)
        os.close(self.into)

    def say(self, what: str, **more: Any) -> None:
        line = json.dumps({"t": time.time(), "what": what, "pid": os.getpid(), **more})
        os.write(self.into, line.encode()[: select.PIPE_BUF - 1] + b"\n")

    def born(self, kind: str, seat: str) -> None:
        """Report the birth of this very process."""
        me = processes.this_process()
        self.say("born", kind=kind, seat=seat, started=me.started, process=str(me))

    def news(self, patience: float) -> list[Line]:
        """The lines written since the last call; waits for a line if nothing was written."""
        ready, _, _ = select.select([self._out], [], [], max(0.0, patience))
        if not ready:
            return []
        *lines, self._rest = (self._rest + os.read(self._out, 1 << 16)).split(b"\n")
        return [json.loads(line) for line in lines]
