"""Sessions of the real client, with plugin, hooks and doorbell, on a remote bus."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import eventually
from tests.support.served_bus import Served, served
from tests.support.tokens import token

from . import reading
from .claude_e2e import Sandbox
from .conftest import StartSession
from .fake_anthropic import Turn
from .peer import Peer
from .test_doorbell import (  # noqa: F401 - the same must hold over the network
    test_a_burst_rings_once,
    test_a_message_wakes_an_idle_session,
    woken,
)
from .test_injection import slow_command


@pytest.fixture
def secret(db: Path) -> str:
    """A token for frontend and its subagents only."""
    return token(db, "frontend", "frontend-*", owner="frontend", channels=("default",))[1]


@pytest.fixture
def server(db: Path, secret: str) -> Iterator[Served]:
    with served(db) as running:
        yield running


@pytest.fixture
def box(tmp_path: Path, server: Served, secret: str) -> Sandbox:
    """A user's machine that knows the bus by its address, and does not have its file."""
    token = tmp_path / "token"
    token.write_text(secret, encoding="utf-8")
    token.chmod(0o600)
    return Sandbox(tmp_path, BUS_URL=server.url, BUS_TOKEN_FILE=str(token), CLAUDE_BUS_PYTHON=sys.executable)


def test_mail_comes_with_a_prompt_and_between_tools(session: StartSession, backend: Peer, box: Sandbox) -> None:
    """Hooks work remotely: waiting mail comes with the prompt, and mail that arrives during a turn after the next
    tool.
    """
    waited = backend.send("frontend", "before you begin")
    frontend = session("frontend", Turn(tools=[("Bash", slow_command())]), args=("--allowedTools", "Bash"))
    first = frontend.say("run the tests")
    eventually((box.project / "started-1").exists, "the tool runs")
    meanwhile = backend.send("frontend", "stop, the branch is broken")
    (box.project / "go").touch()

    assert [m.id for m in reading.mail(first)] == [waited]
    assert [m.id for m in reading.mail(frontend.model.wait_main(2))] == [meanwhile]
    frontend.wait_until("idle")
    assert [backend.receipt(message).state for message in (waited, meanwhile)] == ["read", "read"]
    assert not (box.home / ".claude-bus").exists()


def test_a_session_gets_over_an_outage_of_its_bus(
    session: StartSession, backend: Peer, db: Path, server: Served
) -> None:
    """The server is killed while the session is idle: its user can go on, and once another server runs, mail that
    came meanwhile wakes the session.
    """
    frontend = session("frontend")
    frontend.turn("hello")
    port = server.url.rpartition(":")[2]
    server.process.kill()
    server.process.wait()
    frontend.say("still there?")
    frontend.tui.wait_for("cannot be reached")
    frontend.tui.wait_until_idle()
    asked = len(frontend.model.main)
    backend.send("frontend", "while you could not be reached")

    with served(db, port=port):
        woken(frontend)
        brought = [m.content for request in frontend.model.main[asked:] for m in reading.mail(request)]
        assert "while you could not be reached" in brought


def test_its_server_is_killed_and_nothing_is_lost(session: StartSession, backend: Peer) -> None:
    """After the session's own bus process dies, the next one is the same agent, and mail wakes it."""
    frontend = session("frontend")
    frontend.turn("hello")
    frontend.kill_server()
    sent = backend.send("frontend", "after the crash")
    woken(frontend)

    brought = [m.id for request in frontend.model.main for m in reading.mail(request)]
    assert sent in brought
    eventually(lambda: backend.receipt(sent).state == "read", "it is read")
