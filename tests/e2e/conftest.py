"""A sandbox with the plugin, sessions in it with a scripted model each, and peers on their bus."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from claude_bus import text as wording

from .claude_e2e import Sandbox, Tui, claude_binary, tmux_binary
from .fake_anthropic import FakeAnthropic, Request, Script
from .peer import Peer

PLUGIN = Path(__file__).parents[2]
import os
PLUGIN = Path(os.environ.get("E2E_PLUGIN") or PLUGIN)
TOOLS = "mcp__plugin_bus_bus"


class Session:
    """An interactive session with the plugin, and the model that answers it."""

    def __init__(self, tui: Tui, model: FakeAnthropic) -> None:
        self.tui = tui
        self.model = model

    def say(self, prompt: str) -> Request:
        """Submit a prompt; the request in which the model reads it."""
        count = len(self.model.main)
        self.tui.prompt(prompt)
        return self.model.wait_main(count + 1)

    def next_request(self, after: Request) -> Request:
        """The request that follows another one, once it came."""
        return self.model.wait_main(self.model.main.index(after) + 2)

    def run(self, prompt: str) -> Request:
        """Submit a prompt and wait until the turn is over; the turn's first request."""
        return self.say(prompt)


@pytest.fixture(scope="session", autouse=True)
def real_client() -> None:
    """Without the client or a terminal for it these tests fail: they are about nothing else."""
    try:
        claude_binary()
        tmux_binary()
    except FileNotFoundError as missing:
        pytest.fail(str(missing))


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def box(tmp_path: Path, db: Path) -> Sandbox:
    return Sandbox(tmp_path, BUS_DB=str(db), CLAUDE_BUS_PYTHON=sys.executable)


@pytest.fixture
def backend(db: Path) -> Peer:
    return Peer(db, "backend")


@pytest.fixture
def started() -> Iterator[ExitStack]:
    """What a test started, ended in reverse order when it is over."""
    with ExitStack() as stack:
        yield stack


StartSession = Callable[..., Session]


@pytest.fixture
def session(box: Sandbox, started: ExitStack) -> StartSession:
    """Starts a session of the plugin, registered under a name if one is given."""

    def start(name: str = "", *script: Script, args: tuple[str, ...] = (), env: dict[str, str] | None = None,
              **options: Any) -> Session:
        default: Script | None = options.pop("default", None)
        model = started.enter_context(FakeAnthropic(script, default=default))
        variables = {"ANTHROPIC_BASE_URL": model.url} | ({"BUS_NAME": name} if name else {}) | (env or {})
        arguments = ["--plugin-dir", str(PLUGIN), "--permission-mode", "manual", *args, "--allowedTools", TOOLS]
        tui = started.enter_context(Tui(box, *arguments, env=variables, **options))
        return Session(tui, model)

    return start
