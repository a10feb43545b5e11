"""A crowd of clients that wait, each on a socket of its own, all in this process."""

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
"""Files that this process may have open while it is a crowd."""


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Systems give a process 1,024 open files, or fewer, unless it asks."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if most == resource.RLIM_INFINITY else min(most, MOST)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, wanted), most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@dataclass
class Line:
    """A connection that is kept, and one request after the other on it."""

    url: str
    token: str = ""
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        """Status and document of an answer."""
        status, headers = await self.begin(method, path, document)
        body = await self.body(headers)
        return status, json.loads(body) if body else None

    async def body(self, headers: dict[str, str]) -> bytes:
        """The body of an answer with these headers."""
        reader, _ = self._open
        return await asyncio.wait_for(reader.readexactly(int(headers.get("content-length", "0"))), PATIENCE)

    async def begin(self, method: str, path: str, document: object = None) -> tuple[int, dict[str, str]]:
        """Send a request; returns status and headers of its answer, whose body is still to be read."""
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
        """Read what comes until the other end is done."""
        reader, _ = self._open
        while await reader.read(65_536):
            pass

    def close(self) -> None:
        """Be gone, without a word."""
        if self._streams:
            self._streams[1].transport.abort()


@dataclass
class Waiter:
    """A client that polls, again and again, and keeps what it was given."""

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
        """Wait for what comes next."""
        await asyncio.wait_for(self.came.wait(), PATIENCE)
        self.came.clear()


class Receiver(Waiter):
    """On `/recv`, with a cursor of its own."""

    async def run(self) -> None:
        since = 0.0
        while True:
            status, found = await self.line.ask("GET", f"/recv?to={self.name}&since={since!r}&block=true")
            assert status == 200, found
            since = max(since, found["now"])
            self.keep([message["msg"] for message in found["messages"]])


class Program(Waiter):
    """On `/v1`, which acknowledges what it has had."""

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
    """On `/rpc/ear`, as a session elsewhere waits."""

    async def run(self) -> None:
        status, _ = await self.line.begin("GET", f"/rpc/ear?address=remote:{self.name}")
        assert status == 200
        await self.line.until_closed()
