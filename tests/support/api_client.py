"""The JSON API of a served bus, called over a socket as programs do."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

from tests.support.processes import PATIENCE, eventually
from tests.support.served_bus import Served, served


class Program:
    """A program that calls `/v1` of a served bus, on a channel of its own if it names one."""

    def __init__(self, url: str, clients: contextlib.ExitStack, token: str = "", channel: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url
        self.channel = channel
        self.http = clients.enter_context(httpx2.Client(base_url=url, headers=headers, timeout=PATIENCE))
        self._clients = clients

    def another(self, channel: str = "") -> Program:
        """Another program on the same bus."""
        return Program(self.url, self._clients, channel=channel)

    def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        """Send any request; `path` is relative to `/v1`."""
        return self.http.request(method, f"/v1{path}", **more)

    def get(self, path: str, **query: Any) -> Any:
        """The body of a GET that must be answered with 200."""
        return self._well(self.ask("GET", path, params=self._with_channel(query)))

    def post(self, path: str, **body: Any) -> Any:
        return self._well(self.ask("POST", path, json=self._with_channel(body)))

    def put(self, path: str, **body: Any) -> Any:
        return self._well(self.ask("PUT", path, json=self._with_channel(body)))

    def delete(self, path: str, **body: Any) -> Any:
        return self._well(self.ask("DELETE", path, json=self._with_channel(body)))

    def refused(self, method: str, path: str, **body: Any) -> tuple[int, str]:
        """The status and error code of a refusal. Arguments go in the body for methods that have one, else in the
        query.
        """
        more = {"params" if method == "GET" or (path.startswith("/state/") and method == "DELETE") else "json": body}
        answer = self.ask(method, path, **more)
        document = answer.json()
        assert document["message"], document
        return answer.status_code, document["error"]

    def send(self, sender: str, to: str | list[str], content: str = "hello", **more: Any) -> int:
        """Send a message; returns its id."""
        number: int = self.post("/messages", **{"from": sender}, to=to, content=content, **more)["id"]
        return number

    def inbox(self, name: str, **query: Any) -> list[Any]:
        found: list[Any] = self.get(f"/agents/{name}/inbox", **query)["messages"]
        return found

    def states(self, message: int, name: str) -> dict[str, str]:
        """The delivery state of a message of `name`, by recipient."""
        found = self.get(f"/messages/{message}", **{"as": name})["deliveries"]
        return {receipt["recipient"]: receipt["state"] for receipt in found}

    def _with_channel(self, given: dict[str, Any]) -> dict[str, Any]:
        return {**({"channel": self.channel} if self.channel else {}), **given}

    def _well(self, answer: httpx2.Response) -> Any:
        assert answer.is_success, answer.text
        return answer.json()


class Serving:
    """A served bus, and the programs that call it, for as long as the context lasts."""

    def __init__(self, server: Served, clients: contextlib.ExitStack) -> None:
        self.url = server.url
        self.process = server.process
        self._clients = clients

    def program(self, token: str = "", channel: str = "") -> Program:
        return Program(self.url, self._clients, token, channel)


@contextlib.contextmanager
def serving(db: Path, *options: str, **env: str) -> Iterator[Serving]:
    """A served bus. No request of the test may make the server log a failure of its own."""
    with served(db, *options, **env) as server:
        with contextlib.ExitStack() as clients:
            yield Serving(server, clients)
        log = server.log.read_text(encoding="utf-8")
        assert "Traceback" not in log, log


def metric(program: Program, name: str) -> float:
    """One figure of `/metrics`, by its name and labels as they are printed there."""
    lines = program.http.get("/metrics").text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == name), 0.0)


def until_waiting(program: Program, count: int) -> None:
    """Return once this number of requests waits on the server, so that a later change wakes them."""
    eventually(lambda: metric(program, "claude_bus_waiting") >= count)


def waiting(program: Program, pool: ThreadPoolExecutor, path: str, **query: Any) -> Future[Any]:
    """Start a long poll; it is already waiting when this returns. Yields its future answer."""
    before = int(metric(program, "claude_bus_waiting"))
    found = pool.submit(program.get, path, **query, wait=60)
    until_waiting(program, before + 1)
    return found


_numbers = itertools.count()


def new_channel() -> str:
    """The name of a channel that no test has used."""
    return f"channel-{next(_numbers)}"
