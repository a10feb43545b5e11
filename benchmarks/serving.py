"""The cost of a served bus for its clients, each figure beside a Starlette route that does nothing, of the same run.

    python benchmarks/serving.py [--rounds N] [--seconds N] [--crowd N] [--idle SECONDS] [--quick]

Latency: one request after the other on one kept connection, ours and the baseline's by
turns. Throughput: eight connections of another process, by turns as well, and the CPU time
of the server for each request; there the baseline of /mcp is the SDK's own server with a
tool that does nothing. Prints Markdown. Machines differ and are shared: compare the ratios,
not the milliseconds. The client (asyncio) takes its time too, on both sides.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from bench import BUS, HERE, environment
from figures import Figure

from claude_bus import processes
from claude_bus.config import Access, Config
from claude_bus.connect import open_local
from claude_bus.model.hooks import HookReport
from claude_bus.model.identity import Address, Client
from claude_bus.remote import codec
from claude_bus.remote.bus import RemoteBus
from claude_bus.sql import bindings, sessions

CONNECTIONS = 8
ROUTE = "do-nothing route"
BLOCK = 20
"""Requests of one kind in a row."""
SLICES = 4
"""Turns of each side in a measurement of throughput."""
CALLS = 4_000
"""Ids of tool calls."""
NOTHING = [sys.executable, str(HERE / "nothing_http.py")]
LEGACY, MODERN = "2025-11-25", "2026-07-28"
_ACCEPT = {"Accept": "application/json, text/event-stream"}
_ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


# -- servers and connections ------------------------------------------------------------


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str]) -> Iterator[tuple[str, int]]:
    """A server: where it is, and its pid."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE)
    assert process.stdout
    try:
        found = re.search(rb"http://\S+", process.stdout.readline())
        assert found, "the server did not start"
        yield found[0].decode(), process.pid
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@dataclass
class Line:
    """A connection that is kept, for one request after the other."""

    url: str
    _streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer, which must be a good one."""
        if not self._streams:
            parts = urlsplit(self.url)
            self._streams = await asyncio.open_connection(parts.hostname, parts.port)
        reader, writer = self._streams
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if found := re.search(rb"(?i)content-length: (\d+)", head):
            body = await reader.readexactly(int(found[1]))
        else:
            body = await reader.readuntil(b"0\r\n\r\n") if b"chunked" in head else b""
        if not head.startswith(b"HTTP/1.1 2"):
            raise RuntimeError((head + body).decode())
        return head, body

    def close(self) -> None:
        if self._streams:
            self._streams[1].transport.abort()


def request(method: str, path: str, document: object = None, **headers: str) -> bytes:
    body = document if isinstance(document, bytes) else b"" if document is None else json.dumps(document).encode()
    lines = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


# -- what is asked --------------------------------------------------------------------------


def post(to: str, **headers: str) -> bytes:
    return request("POST", "/send", {"from": "ann", "to": to, "msg": "hello"}, **headers)


def calls(session: dict[str, str], name: str, /, **arguments: Any) -> list[bytes]:
    """Tool calls that can be under way at once. Of two with one id a session waits in vain for an answer."""
    return [tool(session, name, number, **arguments) for number in range(1, CALLS)]


def tool(session: dict[str, str], name: str, number: int = 0, /, **arguments: Any) -> bytes:
    """A tool call in the older era, with an MCP session, or (an empty `session`) in the newer one, with a handle."""
    params: dict[str, Any] = {"name": name, "arguments": arguments}
    path = "/mcp" if session else "/mcp?session=benchmark"
    if not session:
        params["_meta"] = _ENVELOPE
        session = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": name}
    return request(
        "POST", path, {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}, **_ACCEPT, **session
    )


async def opened(line: Line) -> dict[str, str]:
    """The headers of a new MCP session."""
    params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}}
    document = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    head, _ = await line.ask(request("POST", "/mcp", document, **_ACCEPT))
    found = re.search(rb"(?i)mcp-session-id: (\S+)", head)
    assert found
    session = {"Mcp-Session-Id": found[1].decode(), "MCP-Protocol-Version": LEGACY}
    await line.ask(
        request("POST", "/mcp", {"jsonrpc": "2.0", "method": "notifications/initialized"}, **_ACCEPT, **session)
    )
    return session


def happening(number: int) -> HookReport:
    """A prompt: each is a turn of its own."""
    return HookReport("hook", 9_000, session_id="s", prompt_id=f"p{number}", begins=True, roster=True)


class Elsewhere:
    """A session elsewhere, which has registered on the bus."""

    def __init__(self, url: str) -> None:
        self.process = processes.this_process()
        self.client = Client("benchmark", self.process)
        self.bus = RemoteBus(url, Access(), self.process)

    async def register(self) -> None:
        await self.bus.run(bindings.attach, self.client, None, "default")
        await self.bus.run(sessions.join, self.client.key, Address("far", "default"), "", None)

    def react(self, number: int) -> bytes:
        body = codec.form(sessions.handle_hook_event).call(self.process, (), (self.client, happening(number)), {})
        return request("POST", "/rpc/react", body)


async def questions(line: Line, elsewhere: Elsewhere) -> dict[str, list[bytes]]:
    """The requests to measure, by name; those in a list follow each other."""
    session = await opened(line)
    await elsewhere.register()
    for which in (session, {}):
        await line.ask(tool(which, "register", name="old" if which else "new"))
    _, sent = await line.ask(post("one"))
    ts = json.loads(sent)["ts"]
    await line.ask(request("GET", "/recv?to=one&since=0"))
    api = {"from": "ann", "to": "bob", "content": "hello"}
    return {
        "GET /healthz": [request("GET", "/healthz")],
        "POST /send": [post("bob")],
        "GET /recv, one message": [request("GET", f"/recv?to=one&since={ts - 1!r}")],
        "GET /recv, nothing new": [request("GET", f"/recv?to=one&since={ts!r}")],
        "POST /v1/messages": [request("POST", "/v1/messages", api)],
        "POST /mcp, whoami, session": calls(session, "whoami"),
        "POST /mcp, send, session": calls(session, "send", to="bob", content="hello"),
        "POST /mcp, whoami, ?session=": calls({}, "whoami"),
        "POST /mcp, send, ?session=": calls({}, "send", to="bob", content="hello"),
        "POST /rpc/react, a prompt": [elsewhere.react(n) for n in range(50)],
    }


# -- latency ------------------------------------------------------------------------------


@dataclass
class Times:
    """Milliseconds that something took, and what the baseline beside it did."""

    ours: list[float] = field(default_factory=list)
    base: list[float] = field(default_factory=list)

    def columns(self) -> list[str]:
        ours, base = statistics.median(self.ours), statistics.median(self.base)
        late, base_late = (statistics.quantiles(side, n=20)[-1] for side in (self.ours, self.base))
        return [f"{ours:.2f}", f"{late:.2f}", f"{base:.2f}", f"{ours / base:.1f}x", f"{late / base_late:.1f}x"]


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    begin = time.perf_counter()
    await action()
    return (time.perf_counter() - begin) * 1000


async def in_turn(ours: Callable[[int], Awaitable[object]], base: Line, rounds: int) -> Times:
    """In blocks by turns: a busy moment hits both, and what a server does after its answer not the other's figure."""
    found, numbers, nothing = Times(), iter(range(1_000_000)), request("GET", "/nothing")
    for block in range(1 + rounds // BLOCK):
        base_times = [await timed(lambda: base.ask(nothing)) for _ in range(BLOCK)]
        our_times = [await timed(lambda: ours(next(numbers))) for _ in range(BLOCK)]
        if block:  # the first is to get warm
            found.base += base_times
            found.ours += our_times
    return found


def cycling(line: Line, requests: Sequence[bytes]) -> Callable[[int], Awaitable[object]]:
    return lambda number: line.ask(requests[number % len(requests)])


async def latencies(url: str, bare: str, rounds: int) -> tuple[dict[str, Times], dict[str, list[bytes]]]:
    line, base, elsewhere = Line(url), Line(bare), Elsewhere(url)
    asked = await questions(line, elsewhere)
    found = {}
    for name, requests in asked.items():
        found[name] = await in_turn(cycling(line, requests), base, rounds)
    found["the same through RemoteBus.react"] = await in_turn(
        lambda n: elsewhere.bus.run(sessions.handle_hook_event, elsewhere.client, happening(n)), base, rounds
    )
    await elsewhere.bus.close()
    found |= await wakes(url, base, max(20, rounds // 4))
    for each in (line, base):
        each.close()
    return found, asked


async def at_end(what: Awaitable[object]) -> float:
    """When it was done."""
    await what
    return time.perf_counter()


async def wakes(url: str, base: Line, rounds: int) -> dict[str, Times]:
    """From a POST's begin, and from its answer, to the answer of a poll that waits for what it brings."""
    sender, waiter = Line(url), Line(url)
    begun, answered = Times(), Times()
    for number in range(rounds):
        _, newest = await waiter.ask(request("GET", f"/recv?to=w{number}&since=0"))
        poll = asyncio.create_task(
            waiter.ask(request("GET", f"/recv?to=w{number}&since={json.loads(newest)['now']!r}&block=true"))
        )
        while not await waiting(sender):  # noqa: ASYNC110 - the server says it only when it is asked
            await asyncio.sleep(0.01)
        beat = statistics.median([await timed(lambda: base.ask(request("GET", "/nothing"))) for _ in range(5)])
        start = time.perf_counter()
        sent, woken = await asyncio.gather(at_end(sender.ask(post(f"w{number}"))), at_end(poll))
        begun.ours.append((woken - start) * 1000)
        answered.ours.append(max(0.0, woken - sent) * 1000)
        begun.base.append(beat)
        answered.base.append(beat)
    for each in (sender, waiter):
        each.close()
    return {"a poll wakes, since the POST began": begun, "a poll wakes, since the POST's answer": answered}


async def with_a_token(url: str, bare: str, secret: str, rounds: int) -> dict[str, Times]:
    """The cost of authentication: a token on each request."""
    line, base, bearer = Line(url), Line(bare), {"Authorization": f"Bearer {secret}"}
    asked = {
        "GET /healthz, with a token": request("GET", "/healthz", **bearer),
        "POST /send, with a token": post("bob", **bearer),
        "GET /recv, nothing new, with a token": request("GET", "/recv?to=one&since=9e9", **bearer),
    }
    found = {name: await in_turn(cycling(line, [one]), base, rounds) for name, one in asked.items()}
    for each in (line, base):
        each.close()
    return found


async def new_token(db: Path) -> str:
    async with open_local(Config(db)) as bus:
        return (await bus.create_token("benchmark", ("*",), ("*",), None))[1]


# -- throughput --------------------------------------------------------------------------------


@dataclass
class Load:
    """The work of a server under load: answers, in so many seconds, for so much CPU time."""

    pid: int
    answers: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        return self.answers / self.seconds

    @property
    def cost(self) -> float:
        """Milliseconds of CPU time for each answer."""
        return self.cpu / self.answers * 1000

    def add(self, pool: Pool, url: str, requests: Sequence[bytes], seconds: float) -> None:
        """Put it under load for so long: several connections, in the pool's process."""
        process = psutil.Process(self.pid)
        before = sum(process.cpu_times()[:2])
        self.answers += pool.apply(_load, (url, requests, seconds))
        self.cpu += sum(process.cpu_times()[:2]) - before
        self.seconds += seconds


def _load(url: str, requests: Sequence[bytes], seconds: float) -> int:
    return asyncio.run(_all_at_once(url, requests, seconds))


async def _all_at_once(url: str, requests: Sequence[bytes], seconds: float) -> int:
    end = time.perf_counter() + seconds

    async def one(first: int) -> int:
        line, count = Line(url), 0
        while time.perf_counter() < end:
            await line.ask(requests[(first * len(requests) // CONNECTIONS + count) % len(requests)])
            count += 1
        line.close()
        return count

    return sum(await asyncio.gather(*map(one, range(CONNECTIONS))))


def nothing_like(name: str, session: dict[str, str]) -> list[bytes]:
    """The request that is the baseline of another: to a tool that does nothing, of the same era, or to the route."""
    if not name.startswith("POST /mcp"):
        return [request("GET", "/nothing")]
    return calls(session if name.endswith("session") else {}, "nothing")


def throughput(
    ours: tuple[str, int], bare: tuple[str, int], asked: dict[str, list[bytes]], seconds: float
) -> Iterator[tuple[str, Load, Load]]:
    """Each kind of request with the load of the bus and that of its baseline, as they are measured."""
    session = asyncio.run(opened(Line(bare[0])))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for name, requests in asked.items():
            base, own = Load(bare[1]), Load(ours[1])
            for _ in range(SLICES):
                base.add(pool, bare[0], nothing_like(name, session), seconds / SLICES)
                own.add(pool, ours[0], requests, seconds / SLICES)
            yield name, own, base


def throughput_row(name: str, own: Load, base: Load) -> str:
    rates = f"{own.rate:.0f}", f"{base.rate:.0f}", f"{own.rate / base.rate:.2f}"
    return row(name, *rates, f"{own.cost:.2f}", f"{base.cost:.2f}", f"{own.cost / base.cost:.1f}x")


# -- a crowd ----------------------------------------------------------------------------------------


async def crowd(url: str, pid: int, bare: str, size: int, rounds: int, idle: float) -> list[str]:
    """Memory of the server before, with and after so many who wait, and what a /send costs meanwhile."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sender, base, process = Line(url), Line(bare), psutil.Process(pid)
    sizes = [rss(process)]
    alone = await in_turn(lambda _: sender.ask(post("bob")), base, rounds)
    waiters = [Line(url) for _ in range(size)]
    polls = [
        asyncio.create_task(each.ask(request("GET", f"/recv?to=c{n}&since={time.time()!r}&block=true")))
        for n, each in enumerate(waiters)
    ]
    while await waiting(sender) < size:  # noqa: ASYNC110 - the server says it only when it is asked
        await asyncio.sleep(0.1)
    sizes.append(rss(process))
    used = sum(process.cpu_times()[:2])
    await asyncio.sleep(idle)
    used = (sum(process.cpu_times()[:2]) - used) / idle * 100
    among = await in_turn(lambda _: sender.ask(post("bob")), base, rounds)
    for each, poll in zip(waiters, polls, strict=True):
        poll.cancel()
        each.close()
    await asyncio.gather(*polls, return_exceptions=True)
    while await waiting(sender):  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.1)
    sizes.append(rss(process))
    for each in (sender, base):
        each.close()
    return [
        row("POST /send, nobody waits", *alone.columns()),
        row(f"POST /send, {size} wait", *among.columns()),
        "",
        row("memory of the server, MiB", "before", f"{size} wait", "after they left"),
        rule(4),
        row("", *(f"{each:.1f}" for each in sizes)),
        f"\nWhile {size} wait and nobody sends, the server uses {used:.1f} % of a core.",
    ]


def rss(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1_048_576


async def waiting(line: Line) -> int:
    _, body = await line.ask(request("GET", "/metrics"))
    found = re.search(rb"^claude_bus_waiting (\S+)$", body, re.MULTILINE)
    assert found
    return int(float(found[1]))


# -- output -------------------------------------------------------------------------------------------


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    return f"|---|{'--:|' * (columns - 1)}"


LATENCY = ["median ms", "p95 ms", "nothing, median ms", "ratio", "ratio of p95"]
THROUGHPUT = ["per second", "nothing", "ratio", "CPU ms each", "nothing", "ratio"]


def measure(folder: Path, rounds: int, seconds: float, size: int, idle: float) -> None:
    env = environment(folder, BUS_RATE="0", BUS_REQUESTS="0", BUS_CONNECTIONS=str(size + 100))
    serve = [*BUS, "serve", "--port", "0"]
    with running(NOTHING, env) as bare, running(serve, env) as ours:
        found, asked = asyncio.run(latencies(ours[0], bare[0], rounds))
        print(row(f"one after the other, {rounds} times", *LATENCY), rule(6), sep="\n")
        for name, times in found.items():
            print(row(name, *times.columns()), flush=True)
        print("", row(f"{CONNECTIONS} connections, {seconds:g} s", *THROUGHPUT), rule(7), sep="\n")
        for name, own, base in throughput(ours, bare, asked, seconds):
            print(throughput_row(name, own, base), flush=True)
    env["BUS_DB"] = str(folder / "tokens.db")
    secret = asyncio.run(new_token(folder / "tokens.db"))
    with running(NOTHING, env) as (bare, _), running(serve, env) as (url, _):
        guarded = asyncio.run(with_a_token(url, bare, secret, rounds))
        print("", row("the guard on", *LATENCY), rule(6), sep="\n")
        for name, times in guarded.items():
            print(row(name, *times.columns()))
    env["BUS_DB"] = str(folder / "crowd.db")
    with running(NOTHING, env) as (bare, _), running(serve, env) as (url, pid):
        lines = asyncio.run(crowd(url, pid, bare, size, rounds, idle))
        print("", row("with a crowd", *LATENCY), rule(6), *lines, sep="\n")


def measured(folder: Path, rounds: int, seconds: float) -> list[Figure]:
    """The figures of requests: one after the other, and on several connections at once."""
    env = environment(folder, BUS_RATE="0", BUS_REQUESTS="0", BUS_CONNECTIONS="100")
    figures = []
    with running(NOTHING, env) as bare, running([*BUS, "serve", "--port", "0"], env) as ours:
        found, asked = asyncio.run(latencies(ours[0], bare[0], rounds))
        for name, times in found.items():
            own, base = statistics.median(times.ours), statistics.median(times.base)
            figures.append(Figure(name, own, "ms", base, ROUTE))
        for name, load, nothing in throughput(ours, bare, asked, seconds):
            what = f"{name}, {CONNECTIONS} connections"
            figures += [
                Figure(f"{what}, answers", load.rate, "per second", nothing.rate, beside(name), promise(name)),
                Figure(f"{what}, processor", load.cost, "ms", nothing.cost, beside(name)),
            ]
    return figures


def beside(name: str) -> str:
    """The name of a request's baseline on several connections."""
    return "SDK's no-op tool" if "/mcp" in name else ROUTE


def promise(name: str) -> str:
    """The share of its baseline's answers that a kind of request promises to reach."""
    if "/mcp" in name and "session" in name:
        return ">= 0.5 x"
    return ">= 0.3 x" if name.startswith(("POST /send", "GET /recv")) else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement of throughput")
    parser.add_argument("--crowd", type=int, default=1000, help="clients that wait")
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run?")
    parser.add_argument("--idle", type=float, default=10, help="seconds to watch a server with a crowd")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.crowd, options.idle = BLOCK, 0.1, 20, 0.2
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), options.rounds, options.seconds, options.crowd, options.idle)


if __name__ == "__main__":
    main()
