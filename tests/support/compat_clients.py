"""The original wires, called as their clients do: with urllib, on a served bus."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import PATIENCE
from tests.support.served_bus import Served, served


@dataclass(frozen=True)
class Reply:
    """The server's response."""

    status: int
    data: Any
    headers: Mapping[str, str]


class Caller:
    """A program that calls a served bus, with `token` if one is given."""

    def __init__(self, url: str, token: str = "") -> None:
        self.url = url
        self._headers = {"User-Agent": "Mozilla/5.0"}
        if token:
            self._headers["Authorization"] = "Basic " + base64.b64encode(f"claude:{token}".encode()).decode()

    def get(self, path: str, **parameters: object) -> Reply:
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        return self._ask(urllib.request.Request(self.url + path + query, headers=self._headers))

    def post(
        self, path: str, body: object = None, *, raw: bytes | None = None, kind: str = "application/json"
    ) -> Reply:
        data = json.dumps(body).encode() if raw is None else raw
        return self._ask(
            urllib.request.Request(
                self.url + path, method="POST", data=data, headers={**self._headers, "Content-Type": kind}
            )
        )

    def send(self, sender: str, to: str, text: str, **more: object) -> Any:
        """The answer of `/send`, which must have accepted the message."""
        reply = self.post("/send", {"from": sender, "to": to, "msg": text, **more})
        assert reply.status == 200, reply
        return reply.data

    def recv(self, to: str, since: float = 0, **more: object) -> Any:
        reply = self.get("/recv", to=to, since=since, **more)
        assert reply.status == 200, reply
        return reply.data

    def say(self, sender: str, body: str, **more: object) -> Any:
        """The message that `/post` stored."""
        reply = self.post("/post", {"from": sender, "body": body, **more})
        assert reply.status == 200, reply
        return reply.data

    def messages(self, **more: object) -> list[Any]:
        reply = self.get("/messages", **more)
        assert reply.status == 200, reply
        found: list[Any] = reply.data["messages"]
        return found

    def _ask(self, request: urllib.request.Request) -> Reply:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return Reply(answer.status, json.loads(answer.read()), dict(answer.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, json.loads(error.read()), dict(error.headers))


@contextlib.contextmanager
def caller(db: Path, *options: str, **env: str) -> Iterator[Caller]:
    """A served bus, and a program that calls it."""
    with served(db, *options, **env) as server:
        yield Caller(server.url)
        _said_nothing(server)


def _said_nothing(server: Served) -> None:
    """No request of the test may have made the server log a failure of its own."""
    log = server.log.read_text(encoding="utf-8")
    assert "Traceback" not in log, log


def states(db: Path) -> dict[tuple[int, str], str]:
    """The delivery state of each message, by recipient."""
    with contextlib.closing(sqlite3.connect(db)) as connection:
        rows = connection.execute("SELECT message, recipient, state FROM deliveries").fetchall()
    return {(message, recipient): state for message, recipient, state in rows}
