"""The proxy to a remote bus: which one is used, and how error messages name it.

One rule for all outgoing connections: this machine itself is never reached through a proxy, and NO_PROXY may contain
names, addresses, ports and networks (`10.0.0.0/8`), as in other programs.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import urllib.request
from dataclasses import field
from urllib.parse import urlsplit

from ..records import record

_NETWORK = ipaddress.IPv4Network | ipaddress.IPv6Network


@record(frozen=True, slots=True)
class Route:
    """The way to a host. `proxy` is the address of the proxy, which may hold a password; "" for none."""

    host: str
    proxy: str = field(default="", repr=False)
    named_by: str = ""
    """The source of the proxy's address: a variable, or the system's settings."""

    @property
    def blame(self) -> str:
        """The end of an error message: which proxy is used, and how to bypass it; "" without one."""
        if not self.proxy:
            return ""
        return (
            f". On the way is the proxy {_shown(self.proxy)}, which {self.named_by} names: "
            f"NO_PROXY={self.host} goes past it"
        )

    def refusal(self, status: int) -> str:
        """Return the same for a response that may come from the proxy itself."""
        if self.proxy and status == 407:
            return f"{self.blame}, a user and a password in its address go through it"
        return self.blame


def route(url: str) -> Route:
    """Return the way to a server, from the environment and the system's settings."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if is_this_machine(host):
        return Route(host)
    found = urllib.request.getproxies()
    proxy = found.get(parts.scheme) or found.get("all") or ""
    if not proxy or left_out(host, parts.port, found.get("no", "")):
        return Route(host)
    variable = _variable(parts.scheme)
    if not variable and urllib.request.proxy_bypass(host):
        return Route(host)
    return Route(host, proxy if "://" in proxy else f"http://{proxy}", variable or "the system's settings")


def is_this_machine(host: str) -> bool:
    """Return whether a host name or address means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped and (mapped.is_loopback or mapped.is_unspecified))


def left_out(host: str, port: int | None, no_proxy: str) -> bool:
    """Return whether NO_PROXY says that a host is reached without a proxy."""
    return any(_matches(entry.lower(), host, port) for entry in re.split(r"[,;\s]+", no_proxy) if entry)


def _matches(entry: str, host: str, port: int | None) -> bool:
    if network := _network(entry):
        address = _address(host)
        return bool(address and address.version == network.version and address in network)
    name, _, its_port = entry.rpartition("://")[2].partition(":")
    if its_port and its_port != str(port):
        return False
    name = name.removeprefix("*").lstrip(".")
    return not name or host == name or host.endswith(f".{name}")


def _network(entry: str) -> _NETWORK | None:
    try:
        return ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address, including short forms such as 127.1 that the system accepts."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.ip_address(socket.inet_aton(host)) if re.fullmatch(r"[\d.]+", host) else None
    except OSError:
        return None


def _variable(scheme: str) -> str:
    """Return the variable that names the proxy; "" if none does."""
    names = [written for name in (f"{scheme}_proxy", "all_proxy") for written in (name, name.upper())]
    return next((name for name in names if os.environ.get(name)), "")


def _shown(proxy: str) -> str:
    """Return a proxy's address without user and password."""
    scheme, _, rest = proxy.partition("://")
    return ascii(f"{scheme}://{rest.rpartition('@')[2]}"[:100])[1:-1]
