"""A sandbox with the plugin, sessions in it with a scripted model each, and a peer on their bus."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from .claude_e2e import Sandbox, Tui
from .fake_anthropic import PATIENCE, FakeAnthropic, Request, Script, text, tool
from .peer import Peer, eventually

PLUGIN = Path(__file__).parents[2]
TOOLS = "mcp__plugin_bus_bus"
JOINS = "join the bus"
"""The prompt with which a session registered."""


class Session:
    """An interactive session with the plugin, and the model that answers it."""

    def __init__(self, tui: Tui, model: FakeAnthropic, bus: Peer, name: str, folder: Path) -> None:
        self.tui = tui
        self.model = model
        self.name = name
        self.folder = folder
        self._bus = bus

    def say(self, prompt: str) -> Request:
        """Submit a prompt; returns the request in which the model reads it."""
        count = len(self.model.main)
        self.tui.prompt(prompt)
        return self.model.wait_main(count + 1)

    def turn(self, prompt: str) -> Request:
        """Submit a prompt and wait for the end of the turn; returns the request that began it."""
        request = self.say(prompt)
        self.wait_until("idle")
        return request

    def wait_until(self, status: str) -> None:
        """Wait until the bus shows the session as working, idle or offline."""
        self._bus.wait_for_status(self.name, status)

    def wait_until_resumable(self) -> None:
        """Wait until the client has stored the last turn: a client killed earlier leaves nothing to resume."""
        self.tui.wait_until_kept(self._bus.conversation(self.name))

    def servers(self) -> list[psutil.Process]:
        """The processes of the bus server: the server first, then those between it and the client."""
        server = psutil.Process(self._bus.server_pid(self.name))
        above = itertools.takewhile(lambda parent: parent.pid != self.tui.pid, server.parents())
        return [server, *above]

    def kill_server(self) -> None:
        """Kill the bus server, and wait until another one runs."""
        killed = self._bus.server_pid(self.name)
        psutil.Process(killed).kill()
        eventually(lambda: self._bus.server_pid(self.name) != killed, "another server runs")

    def kill_all_servers(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Kill the bus server and the processes between it and the client, so that none of them sees another die."""
        servers = self.servers()
        for process in servers:
            process.suspend()
        meanwhile()
        for process in servers:
            process.kill()
        psutil.wait_procs(servers, PATIENCE)

    def lose_power(self) -> None:
        """Kill the client and its bus server so that neither sees the other die."""
        self.kill_all_servers(self.tui.kill)

    def exit(self) -> None:
        """End the client as a user does."""
        self.tui.prompt("/exit")
        self.tui.wait_for_end()


class StartSession:
    """Starts sessions with the plugin, registered under a name if one is given."""

    def __init__(self, box: Sandbox, bus: Peer, running: ExitStack) -> None:
        self._box, self._bus, self._running = box, bus, running

    def __call__(
        self, name: str, *script: Script, args: tuple[str, ...] = (), join: bool = True, default: Script | None = None
    ) -> Session:
        """With `join=False` the session is not registered, and `name` is the one under which the bus lists it."""
        model = self._running.enter_context(FakeAnthropic(script, default=default))
        env = {"ANTHROPIC_BASE_URL": model.url} | ({"BUS_NAME": name} if join else {})
        plugin = ("--plugin-dir", str(PLUGIN), "--permission-mode", "manual")
        tui = self._running.enter_context(Tui(self._box, *plugin, *args, "--allowedTools", TOOLS, env=env))
        return Session(tui, model, self._bus, name, self._box.project)

    def joined(self, name: str) -> Session:
        """A session whose model took the name with the tool; nothing in its environment sets the name.

        Its conversation has been stored, so a test may kill it and resume it.
        """
        started = self("", tool(f"{TOOLS}__register", name=name), text("joined"), join=False)
        started.say(JOINS)
        started.name = name
        started.wait_until("idle")
        started.wait_until_resumable()
        return started


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def box(tmp_path: Path, db: Path) -> Sandbox:
    return Sandbox(tmp_path, BUS_DB=str(db), CLAUDE_BUS_PYTHON=sys.executable)


@pytest.fixture
def onlooker(db: Path) -> Peer:
    """An observer that sees what happens on the bus and takes no part in it."""
    return Peer(db, "onlooker")


@pytest.fixture
def backend(db: Path) -> Peer:
    """A peer that is not a session."""
    peer = Peer(db, "backend")
    peer.join()
    return peer


@pytest.fixture
def session(box: Sandbox, onlooker: Peer) -> Iterator[StartSession]:
    with ExitStack() as running:
        yield StartSession(box, onlooker, running)
