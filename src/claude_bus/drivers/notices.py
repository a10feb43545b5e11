"""Being told by other processes that mail was stored: a datagram on loopback, see `announcing`.

A listener costs nothing while it waits and hears within a millisecond or so. The datagram
contains the secret word from the listener's address, which only processes that can read the
store know; the listener then reads the store. Any other datagram is a stranger's and is
dropped. After strangers' datagrams the listener stops listening for a moment, so a flood costs
it next to nothing. The listener's own slow polling makes up for notices that got lost meanwhile,
and for those of a sender that was sandboxed or killed, see `session`.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
from collections.abc import AsyncIterator

import anyio

from .. import processes
from .announcing import LOOPBACK, SCHEME

_ROOM = 16 * 1024
"""Bytes that may wait to be received; the system drops the rest, at no cost to this process."""
_AT_ONCE = 200
"""Datagrams that are read in one go: more than the buffer can hold."""
_DEAF = 0.2
"""Seconds without listening after only strangers' datagrams came."""


class Signal:
    """The signal for one waiter. A ring before the waiter calls `rung` is not lost."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    async def rung(self, patience: float) -> bool:
        """Wait for at most `patience` seconds; return whether it rang."""
        with anyio.move_on_after(patience):
            await self._event.wait()
        rang = self._event.is_set()
        self._event = anyio.Event()
        return rang


class Ear:
    """The notice socket of this process. `address` goes to the store; `heard` waits."""

    def __init__(self, bound: socket.socket) -> None:
        self._socket = bound
        self._word = secrets.token_hex(16)
        self._deaf_until = 0.0
        network = processes.network()
        place = f"{SCHEME}:{LOOPBACK}:{bound.getsockname()[1]}:{self._word}"
        self.address = f"{place}/{network}" if network else place

    async def heard(self, patience: float) -> bool:
        """Wait for a notice for at most `patience` seconds; return whether one came."""
        with anyio.move_on_after(patience):
            while True:
                await anyio.sleep_until(self._deaf_until)
                await anyio.wait_readable(self._socket)
                if self._told():
                    return True
                self._deaf_until = anyio.current_time() + _DEAF
        return False

    def _told(self) -> bool:
        """Read the datagrams that have come; return whether a notice was among them."""
        told = False
        for _ in range(_AT_ONCE):
            try:
                came = self._socket.recv(len(self._word) + 1)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # on Windows: the datagram is too long, or the receiver of an earlier one is gone
                continue
            told = told or hmac.compare_digest(came, self._word.encode())
        return told


@contextlib.asynccontextmanager
async def notice_socket() -> AsyncIterator[Ear]:
    """Listen on a free loopback port for as long as the context lasts."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        bound.bind((LOOPBACK, 0))
        yield Ear(bound)
