"""The stdio server: one per session of a client. It answers at once, and loads what a session needs meanwhile.

A thread reads the client's lines and answers what needs no session (`protocol`). It hands the calls of tools to the
event loop, which begins with `session_server`. Imports that a start can do without do not belong here.
"""

from __future__ import annotations

import gc
import os
import sys
from _thread import start_new_thread

from .pipes import Intake, Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..config import Config
    from .pipes import Write

_SHORT = 0.0005
"""Seconds after which the thread that answers the client may interrupt the imports."""


def serve(config: Callable[[], Config], write: Write | None = None) -> None:
    """Serve this process's stdin and stdout until the client ends.

    `config` returns the settings, once the client can be answered. `write` stands for writing to stdout.
    """
    source, sink = _taken_over()
    output = Output(sink, write)
    intake = Intake(source, output)
    start_new_thread(intake.read, ())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SHORT)
    gc.disable()  # importing makes many objects and no garbage; this saves 8 % of a start
    from .session_server import run

    sys.setswitchinterval(interval)
    run(config(), intake, output)


def _taken_over() -> tuple[int, int]:
    """Return descriptors of stdin and stdout, in whose place a child or a stray print finds nothing and stderr."""
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink
