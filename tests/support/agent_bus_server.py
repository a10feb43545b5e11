"""A server of the agent-bus protocol to test its clients with, and those clients as processes.

`WIRES` lists the servers, which must all behave alike. Clients are tested with the small one. Tests marked
`on_every_wire` run with our own server too, because their answer also depends on how a server stores, orders, holds
and resumes messages.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.processes import PATIENCE, SOURCE
from tests.support.raw_http import end_listening
from tests.support.served_bus import served

HOLD = 5.0
"""Seconds for which the server below holds a long poll."""


class Server(Protocol):
    """A bus that can go down and come back with everything it had stored."""

    url: str

    def start(self) -> None: ...
    def stop(self) -> None: ...


class Small:
    """The protocol in a few lines, in this process: messages in a list, a condition to wait on."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        self.up = False
        self.port = 0
        self.seen: list[dict[str, str]] = []
        """The headers of each request received."""
        self.start()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.up = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with self.changed:
            self.up = False
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)

    def take(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.changed:
            ts = max(time.time(), self.messages[-1]["ts"] + 1e-6 if self.messages else 0)
            channel = body.get("channel", "default")
            self.messages.append({"ts": ts, "from": body["from"], "to": body["to"], "msg": body["msg"], "in": channel})
            self.changed.notify_all()
        return {"ok": True, "ts": ts, "channel": channel}

    def give(self, query: dict[str, str]) -> dict[str, Any] | None:
        end = time.monotonic() + (HOLD if query.get("block") == "true" else 0)
        with self.changed:
            while self.up and not (found := self._found(query)) and (left := end - time.monotonic()) > 0:
                self.changed.wait(left)
            return {"messages": found, "now": time.time()} if self.up else None

    def _found(self, query: dict[str, str]) -> list[dict[str, Any]]:
        to, channel, since = query["to"], query.get("channel", "default"), float(query["since"])
        found = [m for m in self.messages if (m["to"], m["in"]) == (to, channel) and m["ts"] > since]
        return [
            {k: v for k, v in m.items() if k in ("ts", "from", "msg")} for m in found[: int(query.get("max", "100"))]
        ]


def _handler(bus: Small) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            bus.seen.append(dict(self.headers))
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self._answer(bus.give(query) if parts.path == "/recv" else {"ok": True, "now": time.time()})

        def do_POST(self) -> None:
            bus.seen.append(dict(self.headers))
            self._answer(bus.take(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _answer(self, document: dict[str, Any] | None) -> None:
            if document is None or not bus.up:
                self.close_connection = True
                return
            content = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

    return Handler


@contextlib.contextmanager
def small(_folder: Path) -> Iterator[Small]:
    server = Small()
    try:
        yield server
    finally:
        if server.up:
            server.stop()


class Own:
    """Our own server, `claude-bus serve`."""

    def __init__(self, folder: Path) -> None:
        self._db = folder / "served" / "bus.db"
        self._db.parent.mkdir()
        self._port = "0"
        self.start()
        self._port = self.url.rpartition(":")[2]

    def start(self) -> None:
        self._running = served(self._db, "--port", self._port)
        self.url = self._running.__enter__().url

    def stop(self) -> None:
        self._running.__exit__(None, None, None)


@contextlib.contextmanager
def own(folder: Path) -> Iterator[Own]:
    server = Own(folder)
    try:
        yield server
    finally:
        server.stop()


WIRES: dict[str, Callable[[Path], contextlib.AbstractContextManager[Server]]] = {"small": small, "own": own}

on_every_wire = pytest.mark.parametrize("wire", WIRES)
"""Mark for tests that use the fixture `wire`, directly or not: they run with each of `WIRES`. Other tests get `small`.
"""


def post(url: str, to: str, msg: str, sender: str = "ann", channel: str = "default") -> float:
    """Send a message as any client may; returns its time."""
    body = json.dumps({"from": sender, "to": to, "msg": msg, "channel": channel}).encode()
    request = urllib.request.Request(f"{url}/send", data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        ts: float = json.load(answer)["ts"]
    return ts


# -- a scripted server -------------------------------------------------------------------


class Scripted:
    """Answer each connection with the next of the given byte strings; once they run out, repeat the last one."""

    def __init__(self, *answers: bytes) -> None:
        self.requests: list[str] = []
        self._answers = list(answers)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                with connection:
                    request = _request(connection)
                    if not request:  # the client ended before it sent a request
                        continue
                    self.requests.append(request)
                    path = request.split(" ")[1]
                    polled = path.startswith(("/recv", "/send"))
                    answer = self._answers[0] if polled else ok({"ok": True, "now": 1.0})
                    if polled and len(self._answers) > 1:
                        self._answers.pop(0)
                    with contextlib.suppress(ConnectionError):
                        connection.sendall(answer)

    def close(self) -> None:
        end_listening(self._socket)


def _request(connection: socket.socket) -> str:
    """Read a request and return its head; the (small) body is read and dropped."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65_536)
        if not part:
            break
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while length and len(body) < int(length[1]):
        body += connection.recv(65_536)
    return head.decode()


@contextlib.contextmanager
def scripted(*answers: bytes) -> Iterator[Scripted]:
    server = Scripted(*answers)
    try:
        yield server
    finally:
        server.close()


def raw(content: bytes, status: str = "200 OK", *headers: str) -> bytes:
    """An HTTP response with this content."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def ok(document: object) -> bytes:
    return raw(json.dumps(document).encode())


# -- programs ------------------------------------------------------------------------------


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a user with this home and only the given settings."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(SOURCE), "LOGNAME": "wanda", **more}


def run(env: dict[str, str], *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command that ends by itself."""
    command = [sys.executable, "-m", "claude_bus", *arguments]
    return subprocess.run(command, env=env, input=stdin, capture_output=True, timeout=PATIENCE, check=False)


class Program:
    """A command that keeps running. Its stdout is read from a pipe, its stderr from a file."""

    def __init__(self, folder: Path, env: dict[str, str], *arguments: str) -> None:
        self._complaints = folder / f"complaints-{time.monotonic_ns()}"
        with self._complaints.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "claude_bus", *arguments], env=env, stdout=subprocess.PIPE, stderr=stderr
            )
        self.said = b""

    @property
    def complaints(self) -> str:
        return self._complaints.read_text(encoding="utf-8")

    def until(self, end: bytes, count: int = 1) -> bytes:
        """Wait until `end` has appeared in its output the given number of times; returns all output so far."""
        assert self.process.stdout
        limit = time.monotonic() + PATIENCE
        while self.said.count(end) < count:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, limit - time.monotonic()))
            assert ready, f"it said {self.said[-2000:]!r} and {self.complaints}"
            part = os.read(self.process.stdout.fileno(), 65_536)
            assert part, f"it ended after {self.said[-2000:]!r} with {self.complaints}"
            self.said += part
        return self.said

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; returns its exit status."""
        self.process.send_signal(how)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(PATIENCE)
        assert self.process.stdout
        if not self.process.stdout.closed:
            self.said += self.process.stdout.read()
            self.process.stdout.close()
        return status


@contextlib.contextmanager
def program(folder: Path, env: dict[str, str], *arguments: str) -> Iterator[Program]:
    """A running command; killed when the context ends, if it still runs."""
    running = Program(folder, env, *arguments)
    try:
        yield running
    finally:
        running.process.kill()
        running.wait()
