"""The cost of a process and of all processes that it starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PARENT = """
import os, resource, sys, time
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(36, 1)
begin = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
wall = time.perf_counter() - begin
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
everything = resource.getrusage(resource.RUSAGE_CHILDREN)
processor = everything.ru_utime + everything.ru_stime
print(os.waitstatus_to_exitcode(status), wall, processor, used.ru_maxrss, file=sys.stderr)
"""
"""The parent of the measured process. It is small, because the kernel counts what a process held before it became
another program. On Linux, processes whose parent ended become its children (PR_SET_CHILD_SUBREAPER), so none escapes.
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one process."""

    wall: float
    """Milliseconds until it ended."""
    processor: float
    """Milliseconds of processor time of it and all processes that it started, until the last of them ended."""
    memory: float
    """MiB that it held at most."""


def cost(command: Sequence[str], env: Mapping[str, str], folder: Path) -> Cost:
    """Run a command to its end. Raises `RuntimeError` if it fails."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _PARENT, *command],
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )
    *said, last = done.stderr.decode().splitlines()
    status, wall, processor, memory = map(float, last.split())
    if status:
        raise RuntimeError(f"{command} ended with {status:.0f}: {' '.join(said)}")
    return Cost(wall * 1000, processor * 1000, memory / 1024)
