"""The host names that a server answers to, and the browser pages that may call it. Pure.

A browser that was tricked into calling this server reveals that: by a Host that is the
attacker's name (DNS rebinding), by an Origin that is the attacker's page, or by
Sec-Fetch-Site. Programs send only a Host, the one they were configured with.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from ..errors import Forbidden, InvalidInput, WrongHost
from ..records import record

_PORTS = {"http": 80, "https": 443}
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")


@record(frozen=True, slots=True)
class Host:
    """A parsed Host header: a name in lower case, or an address in normalized form, and its port, if there is one."""

    name: str
    port: int | None = None

    @property
    def is_address(self) -> bool:
        return _address(self.name) is not None

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.name)


def is_loopback(name: str) -> bool:
    """Return whether a name or address always means this machine."""
    address = _address(name)
    if address is None:
        return name == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def host_of(header: str) -> Host:
    """Parse a Host header strictly: no user, no zone, one trailing dot at most, a valid port. Raises `InvalidInput`."""
    name, port = _split(header)
    if name is None:
        raise InvalidInput(f"the Host header {header[:100]!a} is not valid: it is a name or address, and maybe a port")
    return Host(name, port)


def _split(header: str) -> tuple[str | None, int | None]:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#\\%\s]+)(?::([0-9]{1,5}))?", header)
    port = int(found[2]) if found and found[2] else None
    if not found or (port or 0) > 65_535:
        return None, None
    if found[1].startswith("["):
        address = _address(found[1][1:-1])
        return (str(address), port) if address else (None, None)
    return _name(found[1]), port


def _name(text: str) -> str | None:
    """Return `Host.Example.` as `host.example`; None if it is not a valid name."""
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, name.split("."))):
        return None
    return name


@record(frozen=True, slots=True)
class Origin:
    """The origin of a browser page."""

    scheme: str
    name: str
    port: int

    @classmethod
    def of(cls, scheme: str, host: Host) -> Origin:
        return cls(scheme, host.name, host.port or _PORTS[scheme])

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{self.scheme}://{name}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")


def origin_of(header: str) -> Origin | None:
    """Parse an Origin header; None for `null` and for anything but the origin of an http or https page."""
    scheme, _, rest = header.partition("://")
    if scheme not in _PORTS:
        return None
    name, port = _split(rest)
    return Origin.of(scheme, Host(name, port)) if name is not None else None


class Allowed:
    """The Hosts and Origins that are answered.

    `here`: the names of this machine. `hosts`: further names, `*.example.org` for all below
    one. `origins`: those of other sites' pages that may call. Raises `InvalidInput` for an invalid one.
    """

    def __init__(self, here: Iterable[str], hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._here = {name for name in map(_name, here) if name}
        named = [_host(host) for host in hosts]
        self._hosts = {name for name in named if not name.startswith("*.")}
        self._below = tuple(name[1:] for name in named if name.startswith("*."))
        self.origins = frozenset(map(_configured, origins))

    def check_host(self, header: str, *, open_to_all: bool) -> Host:
        """Return the Host that a request is addressed to. Raises `WrongHost` if it is not one of this server's.

        Addresses are allowed, because no attacker can make one resolve. Where no token is needed
        (`open_to_all`), only loopback is allowed.
        """
        host = host_of(header)
        if host.is_loopback or self._is_configured(host.name):
            return host
        if not open_to_all and (host.is_address or host.name in self._here):
            return host
        raise WrongHost(
            f"this server does not answer to the name '{host.name}': if it is one of its own, serve with "
            f"--allow-hosts {host.name} (BUS_ALLOWED_HOSTS)"
        )

    def _is_configured(self, name: str) -> bool:
        return name in self._hosts or name.endswith(self._below or ("\n",))

    def check_page(self, host: Host, scheme: str, origin: str | None, site: str | None) -> None:
        """Raise `Forbidden` for a browser's request from a page that is not the server's own or a configured one.

        `origin` and `site` are the headers Origin and Sec-Fetch-Site, None if they are missing.
        """
        page = origin_of(origin) if origin is not None else None
        if page and page in self.origins:
            return
        if origin is not None and page != Origin.of(scheme, host):
            own = Origin.of(scheme, host)
            raise Forbidden(
                f"pages of the origin {origin[:100]!a} may not call this server (its own is {own}): "
                "serve with --allow-origins and the origin (BUS_ALLOWED_ORIGINS) if they should"
            )
        if site not in (None, "same-origin", "none"):
            raise Forbidden(
                "pages of other sites may not call this server, nor link to it: open its address yourself, or serve "
                "with --allow-origins and their origin (BUS_ALLOWED_ORIGINS) if they should"
            )


def _host(text: str) -> str:
    """Return a configured name, including a `*.` before it."""
    below = "*." if text.startswith("*.") else ""
    name, _ = _split(text.removeprefix(below))
    if name is None:
        raise InvalidInput(
            f"BUS_ALLOWED_HOSTS: {text[:100]!a} is not a host: give names or addresses such as bus.example.org, or "
            "*.example.org for all below one"
        )
    return below + name


def _configured(text: str) -> Origin:
    parts = urlsplit(text)
    found = origin_of(f"{parts.scheme}://{parts.netloc}") if parts.path in ("", "/") and not parts.query else None
    if not found:
        raise InvalidInput(f"BUS_ALLOWED_ORIGINS: {text!a} is not an origin: use the form https://pages.example.org")
    return found
