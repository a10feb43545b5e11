"""How long the most expensive requests delay others, at every route of a served bus.

    python benchmarks/attacks.py [--only TEXT] [--all] [--quick]

Each attack is one request of 2 MiB. While it is served, a neighbour alternately requests
/healthz and sends a message. The output shows the longest of its requests next to the
processor time that the server spent, including that for the neighbour. On a busy machine
only the latter is meaningful. Prints Markdown, the worst attack first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from bench import BUS, HERE, environment
from serving import running

sys.path.insert(0, str(HERE.parent))

from tests.support.expensive_requests import LEGACY, Target, api, attacks, mcp, rpc, wires

SHOWN = 25


class Line:
    """A persistent connection for one request after another."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return the status of the answer, and its head and body; 0 without an answer."""
        try:
            return self._ask(request)
        except OSError:
            self.close()
            return 0, b""

    def _ask(self, request: bytes) -> tuple[int, bytes]:
        if not self._socket:
            self._socket = socket.create_connection(self._address, timeout=60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        answer = b""
        while not _whole(answer):
            more = self._socket.recv(1 << 20)
            answer += more
            if not more:
                self.close()
                break
        return (int(answer[9:12]) if answer else 0), answer

    def close(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None


def _whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    found = re.search(rb"(?i)content-length: (\d+)", head)
    return len(body) >= int(found[1]) if found else body.endswith(b"0\r\n\r\n") or b"chunked" not in head.lower()


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Neighbour(threading.Thread):
    """Sends one request after another, and remembers the longest wait since the last reading."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._lines = {
            "/healthz": request("GET", "/healthz"),
            "/send": request("POST", "/send", json.dumps({"from": "nina", "to": "nils", "msg": "hello"}).encode()),
        }
        self._line = Line(url)
        self._lock = threading.Lock()
        self._longest = 0.0
        self._began = 0.0

    def run(self) -> None:
        while True:
            for each in self._lines.values():
                with self._lock:
                    self._began = time.perf_counter()
                self._line.ask(each)
                with self._lock:
                    self._longest = max(self._longest, time.perf_counter() - self._began)
                    self._began = 0.0
                time.sleep(0.003)

    def longest(self) -> float:
        """Return the longest wait in seconds, including the request in flight, and start anew."""
        with self._lock:
            running_for = time.perf_counter() - self._began if self._began else 0.0
            found, self._longest = max(self._longest, running_for), 0.0
            return found


def opened(line: Line) -> str:
    """Open an MCP session; return its id."""
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).encode()
    accept = {"Accept": "application/json, text/event-stream"}
    _, answer = line.ask(request("POST", "/mcp", body, **accept))
    found = re.search(rb"(?i)mcp-session-id: (\S+)", answer)
    assert found
    session = found[1].decode()
    headers = {**accept, "Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY}
    line.ask(request("POST", "/mcp", b'{"jsonrpc": "2.0", "method": "notifications/initialized"}', **headers))
    return session


def chosen(targets: list[Target], options: argparse.Namespace) -> Iterator[tuple[str, Target, bytes]]:
    """Yield the shapes that pass the count in each field, and all shapes in one unknown field; or those asked for."""
    numbers = itertools.count()

    def wanted(name: str) -> bool:
        plain = options.all or "unknown" in name or any(f": {each}" in name for each in ("permitted", "line breaks"))
        return options.only in name and plain and not (options.quick and next(numbers) % 25)

    return attacks(targets, wanted)


def measure(folder: Path, options: argparse.Namespace) -> None:
    env = environment(folder, BUS_RATE="0", BUS_REQUESTS="0")
    found: list[tuple[float, float, int, str]] = []
    with running([*BUS, "serve", "--port", "0"], env) as (url, pid):
        server, line, neighbour = psutil.Process(pid), Line(url), Neighbour(url)
        targets = [*wires(), *api(), *mcp(opened(line)), *rpc()]
        neighbour.start()
        for name, target, body in chosen(targets, options):
            begin = sum(server.cpu_times()[:2])
            neighbour.longest()
            status, _ = line.ask(request(target.method, target.path, body, **target.headers))
            time.sleep(0.01)
            spent = sum(server.cpu_times()[:2]) - begin
            found.append((spent * 1000, neighbour.longest() * 1000, status, name))
    print(f"| {len(found)} attacks, the worst | server's CPU, ms | others wait, ms | answered |\n|---|--:|--:|--:|")
    for spent, waited, status, name in sorted(found, reverse=True)[:SHOWN]:
        print(f"| {name} | {spent:.0f} | {waited:.0f} | {status or 'cut off'} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="attacks whose name contains this")
    parser.add_argument("--all", action="store_true", help="every shape in every field, which takes long")
    parser.add_argument("--quick", action="store_true", help="a few of them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), options)


if __name__ == "__main__":
    main()
