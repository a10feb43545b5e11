"""All transports share one bus: every participant reads every message, and receipts claim no more than is known."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.api_client import Program
from tests.support.compat_clients import Caller as OnWires
from tests.support.compat_clients import states
from tests.support.mcp_clients import Caller, ModernCaller
from tests.support.processes import PATIENCE, Wire, environment, wire
from tests.support.served_bus import served

pytestmark = pytest.mark.slow

Mail = list[tuple[str, str]]
"""Sender and text of each message."""


class Transport(Protocol):
    """A participant and its transport."""

    name: str
    looked: str
    """The delivery state of a message that it has been given."""
    went_on: str
    """The state after it went on, or acknowledged its mail as far as its transport can."""

    def send(self, to: list[str], text: str) -> None: ...
    def read(self) -> Mail: ...
    def go_on(self) -> None: ...


class Tools:
    """The tools of a session: over stdio, on a local or a remote bus, or over /mcp."""

    looked, went_on = "handed", "read"

    def __init__(self, name: str, session: Wire | Caller) -> None:
        self.name = name
        self._session = session
        self._call("register", name=name)

    def _call(self, tool: str, **arguments: Any) -> Any:
        found = self._session.call(tool, **arguments)
        assert not found.failed, found
        return found.data

    def send(self, to: list[str], text: str) -> None:
        self._call("send", to=to, content=text)

    def read(self) -> Mail:
        return [(message["from"], message["content"]) for message in self._call("inbox", limit=100)["messages"]]

    def go_on(self) -> None:
        self._call("whoami")


class Api:
    """A program on /v1, which acknowledges its messages."""

    looked, went_on = "queued", "acked"

    def __init__(self, name: str, program: Program) -> None:
        self.name = name
        self._program = program
        program.put(f"/agents/{name}")

    def send(self, to: list[str], text: str) -> None:
        self._program.send(self.name, to, text)

    def read(self) -> Mail:
        self._had = self._program.inbox(self.name)
        return [(message["from"], message["content"]) for message in self._had]

    def go_on(self) -> None:
        ids = [message["id"] for message in self._had]
        assert self._program.post(f"/agents/{self.name}/inbox/ack", ids=ids)["acked"] == ids


class Receiver:
    """A client of /send and /recv, for which the bus cannot know what was read."""

    looked, went_on = "queued", "queued"

    def __init__(self, name: str, wires: OnWires) -> None:
        self.name = name
        self._wires = wires
        wires.recv(name)

    def send(self, to: list[str], text: str) -> None:
        for each in to:
            self._wires.send(self.name, each, text)

    def read(self) -> Mail:
        return [(message["from"], message["msg"]) for message in self._wires.recv(self.name)["messages"]]

    def go_on(self) -> None:
        self._wires.recv(self.name)


class Machine:
    """A client of /post, /messages and /ack."""

    looked, went_on = "queued", "acked"

    def __init__(self, name: str, wires: OnWires) -> None:
        self.name = name
        self._wires = wires
        wires.messages(unread_by=name)

    def send(self, to: list[str], text: str) -> None:
        for each in to:
            self._wires.say(self.name, text, to=each)

    def read(self) -> Mail:
        self._had = self._wires.messages(unread_by=self.name)
        return [(message["from"], message["body"]) for message in self._had]

    def go_on(self) -> None:
        for message in self._had:
            assert self._wires.post(f"/ack/{message['id']}", {"reader": self.name}).status == 200


class Shell:
    """A person who types commands: printed messages count as read."""

    looked, went_on = "read", "read"

    def __init__(self, name: str, env: dict[str, str]) -> None:
        self.name = name
        self._env = env

    def _run(self, *arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "claude_bus", *arguments, "--as", self.name, "--json"],
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def send(self, to: list[str], text: str) -> None:
        self._run("send", ",".join(to), text)

    def read(self) -> Mail:
        return [(message["from"], message["content"]) for message in self._run("inbox")["messages"]]

    def go_on(self) -> None:
        assert self.read() == []


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def transports(db: Path, tmp_path: Path) -> Iterator[list[Transport]]:
    """One participant on each transport."""
    elsewhere = tmp_path / "elsewhere.db"
    with contextlib.ExitStack() as running:
        url = running.enter_context(served(db)).url
        running.callback(Caller.close_all)
        wires = OnWires(url)
        yield [
            Tools("stdio", running.enter_context(wire(db))),
            Tools("remote", running.enter_context(wire(elsewhere, BUS_URL=url))),
            Tools("mcp", Caller(url).open()),
            Tools("modern", ModernCaller(url, handle="modern-1")),
            Api("api", Program(url, running)),
            Receiver("receiver", wires),
            Machine("machine", wires),
            Shell("shell", environment(db)),
            Shell("far-shell", environment(elsewhere, BUS_URL=url)),
        ]
        assert not elsewhere.exists()


def how_far(db: Path) -> dict[str, set[str]]:
    """The delivery state of the messages to each recipient."""
    found: dict[str, set[str]] = {}
    for (_, recipient), state in states(db).items():
        found.setdefault(recipient, set()).add(state)
    return found


def test_each_transport_reads_what_each_sends_and_says_so_truly(transports: list[Transport], db: Path) -> None:
    """Each message arrives once, in order; its receipt claims no more than that transport can know."""
    names = [transport.name for transport in transports]
    for transport in transports:
        transport.send([name for name in names if name != transport.name], f"from the transport of {transport.name}")
    assert how_far(db) == {name: {"queued"} for name in names}

    for transport in transports:
        expected = [(name, f"from the transport of {name}") for name in names if name != transport.name]
        assert (transport.name, transport.read()) == (transport.name, expected)
        assert (transport.name, how_far(db)[transport.name]) == (transport.name, {transport.looked})

    for transport in transports:
        transport.go_on()
        assert (transport.name, how_far(db)[transport.name]) == (transport.name, {transport.went_on})
    assert len(states(db)) == len(names) * (len(names) - 1)
