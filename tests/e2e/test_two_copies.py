"""The plugin and a manually added server, with hooks of its own, in one session."""

from __future__ import annotations

import json
import sys
from typing import Any

from . import reading
from .claude_e2e import Sandbox
from .conftest import PLUGIN, StartSession
from .fake_anthropic import text
from .peer import Peer, eventually


def add_by_hand(box: Sandbox) -> None:
    """Register the server at user scope, and add the plugin's hooks for that server to the user's settings."""
    command = [sys.executable, str(PLUGIN / ".claude-plugin" / "launch.py")]
    box.run("mcp", "add", "--scope", "user", "bus", "--", *command)
    hooks = (PLUGIN / "hooks" / "hooks.json").read_text(encoding="utf-8")
    declared: dict[str, Any] = json.loads(hooks.replace('"plugin:bus:bus"', '"bus"'))
    box.settings(hooks=declared["hooks"])


def servers(bus: Peer) -> int:
    return len(bus.rows("SELECT * FROM listeners"))


def test_two_copies_in_one_session(session: StartSession, backend: Peer, box: Sandbox) -> None:
    """A session with two bus servers is one agent: mail is injected once, and rings once."""
    add_by_hand(box)
    session("docs")
    frontend = session("frontend", default=text("fine"))
    eventually(lambda: servers(backend) == 4, "two servers per session", lambda: servers(backend))
    waited = backend.send("frontend", "it waited")
    first = frontend.turn("hello")
    assert {"mcp__bus__send", "mcp__plugin_bus_bus__send"} <= set(frontend.turn("what can you do").tool_names)
    assert [m.id for m in reading.mail(first)] == [waited]
    everything = "".join(reading.news(first))
    assert everything.count("You are 'frontend'") == 1
    assert everything.count("On the bus: ") == 1
    assert backend.wait_for_state(waited, "read").attempts == 1  # each of the two servers is told of the turn's end

    rang = backend.send("frontend", "wake up")
    woken = frontend.model.wait_main(3)
    assert [m.id for m in reading.mail(woken)] == [rang]
    frontend.wait_until("idle")
    backend.wait_for_state(rang, "read")
    assert [m.id for m in reading.all_mail(frontend.turn("and now"))] == [waited, rang]
    assert len(frontend.model.main) == 4
    assert len(reading.rings(frontend.model.main[-1])) == 1
    assert [name for name, agent in backend.agents().items() if agent.registered] == ["frontend", "docs", "backend"]
