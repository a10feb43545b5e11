"""Forks processes from this one, which has already imported all modules of a server, so a start takes only
milliseconds.

A forked server differs from the real one only in the missing exec: it has its own pipes, connection and threads.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterable

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def adopt_orphans() -> None:
    """Make descendants whose parent dies children of this process, so that none escapes."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def fork(body: Callable[[], None], keep: Iterable[int], *, tied: bool = False) -> int:
    """Run `body` in a child that inherits only the descriptors `keep` and the standard ones; returns its pid.

    A `tied` child is killed when this process dies.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if tied:
            end_with_parent()
        if not tied or os.getppid() == parent:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            _close_all_but({0, 1, 2, *keep})
            body()
            status = 0
    except BaseException:  # noqa: BLE001 - the edge of the process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
    raise AssertionError


def _close_all_but(keep: set[int]) -> None:
    """Close inherited descriptors, above all the ends of other processes' pipes: an open copy hides the owner's
    death.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    start = 0
    for end in [*sorted(keep), min(limit, 1 << 20)]:
        if start < end:  # an empty range would be taken for one without an end
            os.closerange(start, end)
        start = end + 1


def become(fd: int, number: int) -> None:
    """Make `fd` descriptor `number` of this process."""
    if fd != number:
        os.dup2(fd, number, inheritable=True)
        os.close(fd)
