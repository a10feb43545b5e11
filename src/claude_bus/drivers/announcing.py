"""Telling other processes that mail was stored: a datagram on loopback, which `notices` waits for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from .. import processes

LOOPBACK = "127.0.0.1"
SCHEME = "udp"


def announce(addresses: Iterable[str]) -> None:
    """Send a notice to each address; an address where no process listens is not an error.

    An address on the loopback of another network namespace (a container's) cannot be reached. The
    address of an earlier version has no word in it; such a listener accepts any datagram.
    """
    addresses = list(addresses)
    if not addresses:
        return
    try:
        import socket
    except (OSError, ImportError):  # no more files can be opened: what was to be told is done, and must not fail
        return

    for address in addresses:
        scheme, _, rest = address.partition(f":{LOOPBACK}:")
        place, _, network = rest.partition("/")
        port, _, word = place.partition(":")
        if scheme != SCHEME or not port.isdecimal() or network not in ("", processes.network()):
            continue
        with (
            contextlib.suppress(OSError, ValueError, OverflowError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
        ):
            out.setblocking(False)
            out.sendto((word[:100] or "mail").encode(), (LOOPBACK, int(port)))
