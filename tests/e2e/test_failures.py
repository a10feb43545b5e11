"""Mail whose hand-over failed comes again, and no sender was told that it was read."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest

from . import reading
from .claude_e2e import Sandbox, Tui
from .conftest import TOOLS, Session, StartSession
from .fake_anthropic import Request, Script, Turn, held, refused, text, tool, when
from .peer import Peer, eventually


def unless(broken: threading.Event, answer: Turn) -> Script:
    """An answer, or an error of the API while it is broken."""
    return lambda _request: refused(400, "out of order") if broken.is_set() else answer


# -- the conversation


def test_clear_right_after_an_injection(session: StartSession, backend: Peer) -> None:
    """Mail comes again, marked as possibly seen, if its prompt was interrupted and cleared before any answer."""
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


def test_an_interrupted_prompt_told_nothing(session: StartSession, backend: Peer) -> None:
    """The client takes an interrupted prompt back; identity and mail that it carried come again, the mail marked."""
    waited = backend.send("frontend", "do not lose me")
    frontend = session("frontend", held("never read", threading.Event()))
    assert "You are 'frontend' on the bus." in reading.news(frontend.say("hello"))[0]
    frontend.tui.interrupt()

    request = frontend.turn("hello again")
    assert "You are 'frontend' on the bus." in reading.news(request)[0]
    assert [(m.id, m.possibly_seen) for m in reading.mail(request)] == [(waited, True)]
    assert backend.receipt(waited).state == "read"


# -- the model


def test_an_api_error_is_no_answer(session: StartSession, backend: Peer, box: Sandbox) -> None:
    """Mail in a request that the API refused is unread and comes again; mail that the model answered before is
    read.

    The client's later idle notification to its user proves nothing either.
    """
    broken, later, notified = threading.Event(), list[int](), box.project / "notified"
    box.preferences(messageIdleNotifThresholdMs=1000)
    box.settings(hooks={"Notification": [{"hooks": [{"type": "command", "command": f"touch {notified}"}]}]})

    def breaks(_request: Request) -> Turn:
        later.append(backend.send("frontend", "later", kind="fyi"))  # which wakes no session
        broken.set()
        return tool("Bash", command="true")

    first = backend.send("frontend", "first")
    frontend = session("frontend", breaks, default=unless(broken, text("ok")), args=("--allowedTools", "Bash"))
    assert [m.id for m in reading.mail(frontend.say("hello"))] == [first]
    failed = frontend.model.wait_main(2)
    assert [m.id for m in reading.mail(failed)] == later
    frontend.tui.wait_for("API Error")
    frontend.wait_until("idle")
    eventually(notified.exists, "the client waits for its user", frontend.tui.screen)
    assert backend.status("frontend") == "idle"
    assert backend.receipt(first).state == "read"
    assert (backend.receipt(later[0]).state, backend.receipt(later[0]).read_at) == ("queued", None)

    broken.clear()
    request = frontend.turn("try again")  # which carries the refused mail as well
    assert [(m.id, m.possibly_seen) for m in reading.mail(request)] == [(later[0], False), (later[0], True)]
    assert backend.receipt(later[0]).state == "read"


# -- the client


def kill_client(session: Session) -> None:
    session.tui.kill()


@pytest.mark.parametrize("die", [kill_client, Session.lose_power], ids=["client", "client and server"])
def test_a_client_killed_before_the_model_answers(
    session: StartSession, backend: Peer, die: Callable[[Session], None]
) -> None:
    """Mail is unread if its client was killed before the model answered; the resumed session gets it marked."""
    frontend = session("frontend", text("hello"), held("never read", threading.Event()))
    frontend.turn("hello")
    frontend.wait_until_resumable()
    message = backend.send("frontend", "survive this")
    frontend.model.wait_main(2)
    assert backend.receipt(message).state == "handed"
    die(frontend)
    frontend.wait_until("offline")
    assert backend.receipt(message).state != "read"

    resumed = session("frontend", args=("--resume", backend.conversation("frontend")), join=False)
    request = resumed.turn("go on")
    assert [(m.id, m.possibly_seen) for m in reading.mail(request)] == [(message, True)]
    assert backend.receipt(message).state == "read"


def test_a_closed_terminal(session: StartSession, backend: Peer) -> None:
    """If a session's terminal is closed before the model answers, its mail waits again."""
    frontend = session("frontend", held("never read", threading.Event()))
    message = backend.send("frontend", "survive this")
    frontend.say("hello")
    assert backend.receipt(message).state == "handed"
    frontend.tui.close()
    assert backend.wait_for_state(message, "queued").attempts == 1
    assert backend.status("frontend") == "offline"


# -- the server


def test_a_server_killed_while_idle(session: StartSession, backend: Peer) -> None:
    """A session whose idle server was killed is woken by its mail and has its tools, as if nothing had happened."""
    frontend = session("frontend")
    frontend.turn("hello")
    frontend.kill_server()
    message = backend.send("frontend", "are you there")
    request = frontend.model.wait_main(2)
    assert [(m.id, m.possibly_seen) for m in reading.mail(request)] == [(message, False)]
    frontend.wait_until("idle")
    assert backend.receipt(message).state == "read"

    frontend.model.push(tool(f"{TOOLS}__send", to="backend", content="I am"), tool(f"{TOOLS}__whoami"))
    frontend.turn("answer")
    sent, whoami = frontend.model.main[-1].tool_results()
    assert "sent to 'backend'" in sent
    assert whoami == "frontend"


def test_a_server_killed_after_a_slow_start(session: StartSession, backend: Peer, box: Sandbox) -> None:
    """A server that started so slowly that the client tried several handshakes is replaced like any other."""
    slow = box.home / "slow-python"
    slow.write_text(f'#!/bin/sh\nsleep 3\nexec "{sys.executable}" "$@"\n')
    slow.chmod(0o755)
    box.env["CLAUDE_BUS_PYTHON"] = str(slow)
    frontend = session("frontend")
    frontend.wait_until("idle")
    frontend.turn("hello")
    frontend.kill_server()
    frontend.model.push(tool(f"{TOOLS}__whoami"))
    frontend.turn("who are you")
    assert frontend.model.main[-1].tool_results() == ["frontend"]


def test_a_server_killed_before_the_model_answers(session: StartSession, backend: Peer) -> None:
    """Mail is unread if its server was killed before the model answered; it comes again, marked."""
    answered = threading.Event()
    message = backend.send("frontend", "survive this")
    frontend = session("frontend", held("done", answered))
    assert [m.possibly_seen for m in reading.mail(frontend.say("hello"))] == [False]
    assert backend.receipt(message).state == "handed"
    frontend.kill_server()
    assert backend.receipt(message).state == "queued"
    answered.set()

    request = frontend.model.wait_main(2)
    assert [(m.id, m.possibly_seen) for m in reading.mail(request)] == [(message, True)]
    frontend.wait_until("idle")
    assert backend.receipt(message).state == "read"
    assert len(frontend.model.main) == 2


def test_a_server_killed_with_a_call(session: StartSession, backend: Peer) -> None:
    """If the server is killed during a call, the model is told at once, and gets its mail without asking again."""
    given, told = threading.Event(), threading.Event()
    wait = tool(f"{TOOLS}__wait", timeout="10m")
    frontend = session("frontend", when(given, wait), held("I shall look", told))
    frontend.say("wait for the backend")
    before = backend.last_call("frontend")
    given.set()
    eventually(lambda: backend.last_call("frontend") != before, "it waits")
    frontend.kill_server()
    (result,) = frontend.model.wait_main(2).tool_results()
    assert "the bus server was killed during this call and runs again" in result
    message = backend.send("frontend", "here I am")
    told.set()
    assert [m.id for m in reading.mail(frontend.model.wait_main(3))] == [message]
    frontend.wait_until("idle")
    assert backend.receipt(message).state == "read"


def test_all_of_the_server_killed(session: StartSession, backend: Peer) -> None:
    """If the server's supervisor is killed as well, turns go on, mail waits, and a reconnect brings it."""
    frontend = session("frontend")
    frontend.turn("hello")
    frontend.kill_all_servers()
    message = backend.send("frontend", "are you there")
    assert reading.mail(frontend.turn("go on")) == []
    frontend.tui.wait_until_idle()
    assert backend.receipt(message).state == "queued"
    reconnect(frontend.tui)
    request = frontend.turn("once more")
    assert [(m.id, m.possibly_seen) for m in reading.mail(request)] == [(message, False)]
    assert backend.receipt(message).state == "read"


def reconnect(tui: Tui) -> None:
    """Reconnect the server as a user does when it is gone."""
    tui.prompt("/mcp")
    tui.wait_for("Enter to view")
    tui.keys("Enter")
    tui.wait_for("Reconnect")
    tui.keys("Enter")
    tui.wait_for("Reconnected")
