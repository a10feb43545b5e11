"""Who a session is, whatever happens to its conversation, its client or its server."""

from __future__ import annotations

import os
import signal
import threading

from . import reading
from .claude_e2e import Tui
from .conftest import TOOLS, StartSession
from .fake_anthropic import held, text, tool
from .peer import Peer, eventually


def conversation(bus: Peer, name: str) -> str:
    """The id of the conversation that bore a name last."""
    ((session_id,),) = bus.rows("SELECT session_id FROM agents WHERE name = ?", name)
    return str(session_id)


def server_pid(bus: Peer, name: str) -> int:
    """The bus server of a running session."""
    query = "SELECT l.pid FROM listeners l JOIN bindings b USING (client) WHERE b.agent = ? ORDER BY l.started DESC"
    return int(bus.rows(query, name)[0][0])


def test_clear_right_after_an_injection(session: StartSession, backend: Peer) -> None:
    """Mail whose prompt was interrupted and cleared before any answer comes again, marked as possibly seen."""
    waited = backend.send("frontend", "do not lose me")
    frontend = session("frontend", held("never read", threading.Event()))
    lost = frontend.say("hello")
    assert [m.possibly_seen for m in reading.mail(lost)] == [False]
    frontend.tui.interrupt()
    frontend.tui.clear()
    assert backend.receipt(waited).state != "read"

    request = frontend.turn("hello again")
    assert len(request.messages) < len(lost.messages) + 2
    assert [(m.id, m.possibly_seen) for m in reading.mail(request)] == [(waited, True)]
    assert "You are 'frontend' on the bus." in reading.news(request)[0]
    assert backend.receipt(waited).state == "read"


def test_clear_keeps_the_name(session: StartSession, backend: Peer) -> None:
    """After /clear a session keeps the name it registered, and is told so with what comes next."""
    frontend = session("project", tool(f"{TOOLS}__register", name="frontend", role="the pages"), join=False)
    frontend.say("join the bus")
    frontend.name = "frontend"
    frontend.wait_until("idle")
    before = conversation(backend, "frontend")
    frontend.tui.clear()

    quiet = frontend.turn("a fresh start")
    assert not reading.news(quiet)
    assert conversation(backend, "frontend") not in ("", before)
    backend.send("frontend", "welcome back")
    request = frontend.model.wait_main(len(frontend.model.main) + 1)
    assert [m.content for m in reading.mail(request)] == ["welcome back"]
    assert "You are 'frontend' on the bus." in reading.news(request)[0]


def test_compaction_keeps_the_name(session: StartSession, backend: Peer) -> None:
    """After /compact the next injection tells the session again who it is."""
    backend.send("frontend", "before")
    frontend = session("frontend")
    frontend.turn("hello")
    frontend.tui.prompt("/compact")
    frontend.tui.wait_for("Compacted")
    frontend.tui.wait_until_idle()
    message = backend.send("frontend", "after", kind="fyi")
    request = frontend.turn("go on")
    assert [m.id for m in reading.mail(request)] == [message]
    assert "You are 'frontend' on the bus." in reading.news(request)[0]


def test_resume_brings_the_name_and_its_mail_back(session: StartSession, backend: Peer) -> None:
    """A session that is resumed has its name without registering, and the mail that was sent while it was closed."""
    frontend = session("project", tool(f"{TOOLS}__register", name="frontend"), join=False)
    frontend.say("join the bus")
    frontend.name = "frontend"
    frontend.wait_until("idle")
    frontend.exit()
    frontend.wait_until("offline")
    sent = backend.sent("frontend", "while you were away")
    assert sent.expectations[0].outlook == "offline"

    resumed = session("frontend", args=("--resume", conversation(backend, "frontend")), join=False)
    resumed.wait_until("idle")
    request = resumed.turn("here I am")
    assert [(m.id, m.possibly_seen) for m in reading.mail(request)] == [(sent.id, False)]
    assert "You are 'frontend' on the bus." in reading.news(request)[0]


def test_sessions_in_one_folder_are_told_apart(session: StartSession, backend: Peer) -> None:
    """Two sessions in one folder that did not register are listed under different names."""
    session("project", join=False)
    session("project-2", join=False)
    eventually(lambda: {"project", "project-2"} <= set(backend.agents()), "both are listed", backend.agents)
    listed = backend.agents()
    assert not listed["project"].registered
    assert not listed["project-2"].registered
    assert listed["project"].cwd == listed["project-2"].cwd


def test_a_client_killed_before_the_model_answers(session: StartSession, backend: Peer) -> None:
    """Mail handed to a client that was killed before its model answered is not read; resumed, it comes marked."""
    frontend = session("frontend", text("hello"), held("never read", threading.Event()))
    frontend.turn("hello")
    message = backend.send("frontend", "survive this")
    frontend.model.wait_main(2)
    assert backend.receipt(message).state == "handed"
    frontend.tui.kill()
    assert backend.receipt(message).state != "read"

    resumed = session("frontend", args=("--resume", conversation(backend, "frontend")), join=False)
    request = resumed.turn("go on")
    assert [(m.id, m.possibly_seen) for m in reading.mail(request)] == [(message, True)]
    assert backend.receipt(message).state == "read"


def test_a_killed_server(session: StartSession, backend: Peer) -> None:
    """When the bus server of a session is killed its turns go on, and after a reconnect the mail that waited comes."""
    frontend = session("frontend")
    frontend.turn("hello")
    killed = server_pid(backend, "frontend")
    os.kill(killed, signal.SIGKILL)
    message = backend.send("frontend", "are you there")
    request = frontend.say("go on")
    frontend.tui.wait_until_idle()
    if not reading.mail(request):  # the client did not start the server anew by itself
        assert backend.receipt(message).state == "queued"
        reconnect(frontend.tui)
        request = frontend.turn("once more")

    assert [m.id for m in reading.mail(request)] == [message]
    assert backend.receipt(message).state == "read"
    assert server_pid(backend, "frontend") != killed
    frontend.model.push(tool(f"{TOOLS}__whoami"))
    frontend.turn("who are you")
    assert frontend.model.main[-1].tool_results() == ["frontend"]


def reconnect(tui: Tui) -> None:
    """What a user does about a server that is gone."""
    tui.prompt("/mcp")
    tui.wait_for("Enter to view")
    tui.keys("Enter")
    tui.wait_for("Reconnect")
    tui.keys("Enter")
    tui.wait_for("Reconnected")
