"""HTTP byte by byte: requests that no library would send, over real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from tests.support.processes import PATIENCE


@dataclass(frozen=True)
class Reply:
    """A response; its header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


def connect(url: str, trusted: ssl.SSLContext | None = None) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    raw = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE)
    return trusted.wrap_socket(raw, server_hostname=parts.hostname) if trusted else raw


def end_listening(listener: socket.socket) -> None:
    """Close a socket on which a thread may be waiting; plain `close` would not wake the thread, which could serve one
    more client.
    """
    with contextlib.suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    with contextlib.closing(connect(url)) as made:
        yield made


def reply(connection: socket.socket) -> Reply:
    """Read the next response."""
    response = HTTPResponse(connection)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


def head(url: str, line: str, *headers: str) -> bytes:
    """A request's head with the correct Host, unless `headers` contains one (a bare 'Host' means none at all)."""
    own = [] if any(each.lower().startswith("host") for each in headers) else [f"Host: {urlsplit(url).netloc}"]
    lines = [line, *own, *(each for each in headers if each != "Host")]
    return "".join(f"{each}\r\n" for each in lines).encode("latin-1") + b"\r\n"


def ask(
    url: str,
    line: str,
    *headers: str,
    token: str = "",
    body: bytes | None = None,
    trusted: ssl.SSLContext | None = None,
) -> Reply:
    """Send a request (`line` is for example `GET /whoami`) and wait for its response."""
    version = "" if " HTTP/" in line else " HTTP/1.1"
    more = [f"Authorization: Bearer {token}"] if token else []
    more += [f"Content-Length: {len(body)}"] if body is not None else []
    with contextlib.closing(connect(url, trusted)) as connection:
        with contextlib.suppress(ConnectionError):  # refused before it was all sent: the answer says why
            connection.sendall(head(url, line + version, *more, *headers) + (body or b""))
        return reply(connection)
