"""Mail wakes an idle session and disturbs nothing else."""

from __future__ import annotations

import threading

from . import reading
from .claude_e2e import Sandbox
from .conftest import Session, StartSession
from .fake_anthropic import held, tool
from .peer import Peer


def rang(bus: Peer, name: str) -> bool:
    """Tells whether the bus has ever rung for a session."""
    ((rings,),) = bus.rows("SELECT rung_upto FROM bindings WHERE agent = ?", name)
    return bool(rings)


def woken(session: Session) -> None:
    """Wait until the session was woken for the first time and has finished that turn."""
    session.model.wait(lambda: any(map(reading.rings, session.model.main)))
    session.wait_until("idle")


def test_a_message_wakes_an_idle_session(session: StartSession, backend: Peer) -> None:
    """A message to an idle session is in its next model request without any key press."""
    frontend = session("frontend")
    frontend.turn("hello")
    sent = backend.sent("frontend", "the build is green")
    assert sent.expectations[0].outlook == "waking"

    request = frontend.model.wait_main(2)
    assert [(m.id, m.content) for m in reading.mail(request)] == [(sent.id, "the build is green")]
    (ring,) = reading.rings(request)
    assert f"1 unread on the bus from backend (#{sent.id})" in ring
    assert "the build is green" not in ring
    frontend.tui.wait_for(f'bus: #{sent.id} backend: "the build is green"')
    frontend.wait_until("idle")
    assert backend.receipt(sent.id).state == "read"


def test_a_burst_rings_once(session: StartSession, backend: Peer) -> None:
    """Five messages at once ring once, and all five are in the resulting request."""
    frontend = session("frontend")
    frontend.turn("hello")
    burst = backend.send_at_once("frontend", [f"part {n}" for n in range(1, 6)])

    request = frontend.model.wait_main(2)
    assert [m.id for m in reading.mail(request)] == burst
    assert len(reading.rings(request)) == 1
    frontend.wait_until("idle")
    later = frontend.turn("thanks")
    assert len(reading.rings(later)) == 1
    assert len(frontend.model.main) == 3


def test_an_fyi_wakes_nobody(session: StartSession, backend: Peer) -> None:
    """An fyi leaves an idle session alone, while a later message to another session wakes that one."""
    frontend, docs = session("frontend"), session("docs")
    frontend.turn("hello")
    docs.turn("hello")
    assert backend.sent("frontend", "just so you know", kind="fyi").expectations[0].outlook == "idle"
    backend.send("docs", "your turn")
    woken(docs)
    assert not rang(backend, "frontend")
    assert len(frontend.model.main) == 1


def test_a_broadcast_wakes_nobody_unless_urgent(session: StartSession, backend: Peer) -> None:
    """A broadcast waits for the next prompt; an urgent one wakes the session and brings both."""
    frontend = session("frontend")
    frontend.turn("hello")
    backend.send("all", "lunch")
    backend.send("all", "the disk is full, stop", urgent=True)
    request = frontend.model.wait_main(2)
    assert [m.content for m in reading.mail(request)] == ["lunch", "the disk is full, stop"]


def test_a_session_without_permission_checks_is_left_alone(session: StartSession, backend: Peer, box: Sandbox) -> None:
    """A session in bypassPermissions mode is woken only if its user chose BUS_WAKE=always; otherwise its mail waits."""
    box.env["IS_SANDBOX"] = "1"
    box.settings(skipDangerousModePermissionPrompt=True)
    unguarded = ("--dangerously-skip-permissions",)
    careful = session("careful", args=unguarded)
    box.env["BUS_WAKE"] = "always"
    eager = session("eager", args=unguarded)
    careful.turn("hello")
    eager.turn("hello")
    sent = backend.sent("careful", "whenever you like")
    assert sent.expectations[0].outlook == "idle"
    backend.send("eager", "wake up")
    woken(eager)
    assert not rang(backend, "careful")
    assert [m.id for m in reading.mail(careful.turn("anything new"))] == [sent.id]
    assert len(careful.model.main) == 2


def test_only_the_idle_are_woken(session: StartSession, backend: Peer) -> None:
    """Mail rings neither during a turn nor at a permission dialog. It does ring after an Esc, which no hook reports."""
    answered = threading.Event()
    thinking = session("thinking", held("done", answered))
    asking = session("asking", tool("Bash", command="touch allowed"))
    stopped = session("stopped", held("never read", threading.Event()))
    thinking.say("think")
    asking.say("touch it")
    asking.tui.wait_for("Do you want to proceed?")
    stopped.say("go")
    stopped.tui.interrupt()

    message = {name: backend.send(name, f"mail for {name}") for name in ("thinking", "asking", "stopped")}
    request = stopped.model.wait_main(2)
    assert [m.id for m in reading.mail(request)] == [message["stopped"]]
    assert len(reading.rings(request)) == 1
    assert not rang(backend, "thinking")
    assert not rang(backend, "asking")

    asking.tui.keys("Enter")
    after_dialog = asking.model.wait_main(2)
    assert [m.id for m in reading.mail(after_dialog)] == [message["asking"]]
    assert reading.came_with(after_dialog) == ["PostToolBatch"]
    answered.set()
    after_answer = thinking.model.wait_main(2)
    assert [m.id for m in reading.mail(after_answer)] == [message["thinking"]]
    assert reading.came_with(after_answer) == ["UserPromptSubmit"]
