"""Telling other processes that mail was stored: a datagram on loopback.

A listener costs nothing while it waits and hears within a millisecond or so. The
datagram says nothing and proves nothing; whoever hears it looks into the store. One
that got lost (a sandboxed or killed sender) is made good by the listener's own slow
look, see `session`.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterable

import anyio

from .. import processes

_LOOPBACK = "127.0.0.1"
_SCHEME = "udp"


def announce(addresses: Iterable[str]) -> None:
    """Send a notice to each address; whoever is gone or deaf is no error.

    An address on the loopback of another network namespace (a container's) cannot be reached.
    """
    for address in addresses:
        scheme, _, place = address.partition(f":{_LOOPBACK}:")
        port, _, network = place.partition("/")
        if scheme != _SCHEME or not port.isdecimal() or network not in ("", processes.network()):
            continue
        with (
            contextlib.suppress(OSError, ValueError, OverflowError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
        ):
            out.setblocking(False)
            out.sendto(b"mail", (_LOOPBACK, int(port)))


class Bell:
    """What one waiter is rung by. A ring that comes before `rung` is waited for is not lost."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    async def rung(self, patience: float) -> bool:
        """Wait for at most `patience` seconds; whether it rang."""
        with anyio.move_on_after(patience):
            await self._event.wait()
        rang = self._event.is_set()
        self._event = anyio.Event()
        return rang


class Ear:
    """Where this process can be told. `address` goes to the store; `heard` waits."""

    def __init__(self, udp: anyio.abc.UDPSocket) -> None:
        self._udp = udp
        port = udp.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
        self.address = f"{_SCHEME}:{_LOOPBACK}:{port}" + (f"/{network}" if (network := processes.network()) else "")

    async def heard(self, patience: float) -> bool:
        """Wait for a notice for at most `patience` seconds; whether one came."""
        with anyio.move_on_after(patience):
            await self._udp.receive()
            return True
        return False


@contextlib.asynccontextmanager
async def ear() -> AsyncIterator[Ear]:
    """Listen on a free loopback port for as long as the context lasts."""
    async with await anyio.create_udp_socket(local_host=_LOOPBACK, local_port=0) as udp:
        yield Ear(udp)
