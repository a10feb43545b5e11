"""A crowd of waiting clients, each on its own socket, all in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.support.processes import PATIENCE

MOST = 4_096
"""How many files this process may have open while it plays a crowd."""


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Raise the limit on open files: systems allow a process 1,024 or fewer unless it asks for more."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if most == resource.RLIM_INFINITY else min(most, MOST)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, wanted), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@dataclass
class Line:
    """A persistent connection, with one request at a time."""

    url: str
    token: str = ""
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        """Send a request; returns the status and the document of the answer."""
        status, headers = await self.begin(method, path, document)
        body = await self.body(headers)
        return status, json.loads(body) if body else None

    async def body(self, headers: dict[str, str]) -> bytes:
        """Read the body that follows these headers."""
        reader, _ = self._open
        return await asyncio.wait_for(reader.readexactly(int(headers.get("content-length", "0"))), PATIENCE)

    async def begin(self, method: str, path: str, document: object = None) -> tuple[int, dict[str, str]]:
        """Send a request; returns the status and headers of the answer, whose body has still to be read."""
        parts = urlsplit(self.url)
        if self._streams is None:
            self._streams = await asyncio.open_connection(parts.hostname, parts.port)
        reader, writer = self._streams
        body = b"" if document is None else json.dumps(document).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
        lines += ["Content-Type: application/json"] if body else []
        lines += [f"Authorization: Bearer {self.token}"] if self.token else []
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split(" ")[1]), headers

    @property
    def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self._streams
        return self._streams

    async def until_closed(self) -> None:
        """Read until the other end closes the connection."""
        reader, _ = self._open
        while await reader.read(65_536):
            pass

    def close(self) -> None:
        """Disappear without a word."""
        if self._streams:
            self._streams[1].transport.abort()


@dataclass
class Waiter:
    """A client that polls repeatedly and keeps all it was given."""

    line: Line
    name: str
    got: list[str] = field(default_factory=list)
    came: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        raise NotImplementedError

    def keep(self, texts: list[str]) -> None:
        self.got += texts
        if texts:
            self.came.set()

    async def next(self) -> None:
        """Wait for the next message."""
        await asyncio.wait_for(self.came.wait(), PATIENCE)
        self.came.clear()


class Receiver(Waiter):
    """A client of `/recv`, with a cursor of its own."""

    async def run(self) -> None:
        since = 0.0
        while True:
            status, found = await self.line.ask("GET", f"/recv?to={self.name}&since={since!r}&block=true")
            assert status == 200, found
            since = max(since, found["now"])
            self.keep([message["msg"] for message in found["messages"]])


class Program(Waiter):
    """A client of `/v1` that acknowledges what it received."""

    async def run(self) -> None:
        await self.line.ask("PUT", f"/v1/agents/{self.name}", {})
        while True:
            status, found = await self.line.ask("GET", f"/v1/agents/{self.name}/inbox?wait=25")
            assert status == 200, found
            ids = [message["id"] for message in found["messages"]]
            if ids:
                status, acked = await self.line.ask("POST", f"/v1/agents/{self.name}/inbox/ack", {"ids": ids})
                assert (status, acked["acked"]) == (200, ids)
            self.keep([message["content"] for message in found["messages"]])


class Ear(Waiter):
    """A client of `/rpc/ear`: waits as a remote session does."""

    async def run(self) -> None:
        status, _ = await self.line.begin("GET", f"/rpc/ear?address=remote:{self.name}")
        assert status == 200
        await self.line.until_closed()
