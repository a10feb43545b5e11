"""Real processes on one bus file: actors that compete, and servers spoken to over their pipes."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import psutil

from claude_bus import processes
from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.local import LocalBus
from claude_bus.model.identity import Address, Client
from claude_bus.model.messages import Draft
from claude_bus.sql import bindings, messages, sessions

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
PATIENCE = 60.0
"""Seconds after which something that should happen at once counts as not happening."""


def environment(db: Path, **more: str) -> dict[str, str]:
    """The environment of a program on the bus, without whatever the tests themselves run in."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BUS_", "CLAUDE"))}
    return {**inherited, "PYTHONPATH": f"{SOURCE}{os.pathsep}{ROOT}", "BUS_DB": str(db), "BUS_RATE": "0", **more}


def eventually(look: Callable[[], T], what: str = "what other processes bring about") -> T:
    """Return the result of `look` once it is true."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, f"not within {PATIENCE} s: {what}"
        time.sleep(0.02)
    return found


def suspend(pid: int) -> None:
    """Stop a process for now; it has stopped when this returns. SIGCONT lets it go on."""
    process = psutil.Process(pid)
    process.suspend()
    eventually(lambda: process.status() == psutil.STATUS_STOPPED, "it is suspended")


# -- actors ----------------------------------------------------------------------------------


class Actor:
    """A process of `actors.py`: waits until it may go, acts, and says what happened line by line."""

    def __init__(self, role: str, db: Path, *args: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.actors", role, *map(str, args)],
            env=environment(db),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line it says; '' when it has ended, as it does if it says nothing for too long."""
        assert self.process.stdout
        with self._patiently():
            return self.process.stdout.readline().rstrip("\n")

    def ready(self) -> None:
        assert self.line() == "ready"

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def rest(self) -> list[str]:
        """All it still says, once it has ended well."""
        said = self._to_the_end()
        assert self.process.returncode == 0
        return said

    def kill(self) -> list[str]:
        """End it at once, whatever it is doing; returns the whole lines it still said."""
        self.process.kill()
        return self._to_the_end()

    def _to_the_end(self) -> list[str]:
        assert self.process.stdin
        assert self.process.stdout
        if self.process.stdout.closed:
            return []
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with self._patiently():
            said = self.process.stdout.read().split("\n")[:-1]
        self.process.stdout.close()
        self.process.wait(PATIENCE)
        return said

    @contextlib.contextmanager
    def _patiently(self) -> Iterator[None]:
        late = threading.Timer(PATIENCE, self.process.kill)
        late.start()
        try:
            yield
        finally:
            late.cancel()


def actor(role: str, db: Path, *args: object) -> Actor:
    return Actor(role, db, *args)


def together(actors: list[Actor]) -> list[list[str]]:
    """Let all go at the same moment; returns what each said."""
    try:
        for one in actors:
            one.ready()
        for one in actors:
            one.go()
        return [one.rest() for one in actors]
    finally:
        for one in actors:
            one.kill()


# -- servers ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """The outcome of a tool call."""

    text: str
    failed: bool
    data: Any


class Wire:
    """A stdio server, spoken to as a client does: one JSON object per line.

    It is the server itself, without the supervisor that clients start.
    """

    program: tuple[str, ...] = ("-m", "claude_bus", "stdio")
    """The arguments for Python."""

    def __init__(self, db: Path, **env: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *self.program],
            env=environment(db, **env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._ids = iter(range(1, 1_000_000))
        self._buffer = b""

    def start(self) -> Wire:
        self.ask(
            "initialize",
            protocolVersion="2025-11-25",
            capabilities={},
            clientInfo={"name": "test", "version": "1"},
        )
        self.write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def write(self, message: dict[str, Any] | bytes) -> None:
        assert self.process.stdin
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.process.stdin.write(data + b"\n")
        self.process.stdin.flush()

    def post(self, method: str, **params: Any) -> int:
        """Send a request without waiting for its answer; returns its id."""
        number = next(self._ids)
        self.write({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        return number

    def read(self) -> dict[str, Any]:
        """The next message of the server."""
        assert self.process.stdout
        end = time.monotonic() + PATIENCE
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], end - time.monotonic())
            assert ready, "the server said nothing"
            chunk = os.read(self.process.stdout.fileno(), 65_536)
            assert chunk, "the server ended"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        number = self.post(method, **params)
        while (found := self.read()).get("id") != number:
            pass
        return found

    def call(self, tool: str, **arguments: Any) -> Answer:
        """Call a tool."""
        return answer(self.ask("tools/call", name=tool, arguments=arguments))

    def read_answer(self, number: int) -> Answer:
        """Return the outcome of the tool call that was posted under this number."""
        while (found := self.read()).get("id") != number:
            pass
        return answer(found)

    def hook(self, event: str, *, session: str = "s1", prompt: str = "p1", mode: str = "default") -> str:
        """Send a hook event; returns what it puts before the model."""
        found = self.call("hook", event=event, session_id=session, prompt_id=prompt, permission_mode=mode)
        output = json.loads(found.text).get("hookSpecificOutput", {})
        return str(output.get("additionalContext", ""))

    def end(self) -> int:
        """Close its stdin, as a client does; returns its exit status."""
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.process.wait()


def answer(message: dict[str, Any]) -> Answer:
    """The outcome of a tool call in an answer of the server."""
    result = message["result"]
    text = "".join(block["text"] for block in result["content"])
    return Answer(text, bool(result.get("isError")), result.get("structuredContent"))


@contextlib.contextmanager
def wire(db: Path, **env: str) -> Iterator[Wire]:
    """A running stdio server on the file, ended with the context."""
    server = Wire(db, **env)
    try:
        yield server.start()
    finally:
        server.kill()


# -- a peer without a process ------------------------------------------------------------------


class Peer:
    """An agent of this very process: sends, and asks what became of it."""

    def __init__(self, db: Path, name: str) -> None:
        self._config = Config(db)
        self._me = Address(name, self._config.channel)
        me = processes.this_process()
        client = Client(f"peer:{name}:{me}", me)

        async def join(bus: LocalBus) -> None:
            await bus.run(bindings.attach, client, None, self._config.channel)
            await bus.run(sessions.join, client.key, self._me, "", None)

        self._on_bus(join)

    def _on_bus(self, act: Callable[[LocalBus], Awaitable[T]]) -> T:
        async def run() -> T:
            async with open_local(self._config) as bus:
                return await act(bus)

        return anyio.run(run)

    def send(self, to: str, content: str = "hello", **more: Any) -> str:
        """Send a message; returns what its recipient is expected to do."""
        sent = self._on_bus(lambda bus: bus.run(messages.send, self._me, Draft((to,), content, **more)))
        return sent.expectations[0].outlook

    def state(self, message: int) -> str:
        """How far a message to one recipient is."""
        [receipt] = self._on_bus(lambda bus: bus.run(messages.status, self._me, message)).receipts
        return receipt.state
