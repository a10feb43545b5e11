"""The bus shows the activity of a session."""

from __future__ import annotations

import threading

from .claude_e2e import Sandbox
from .conftest import TOOLS, StartSession
from .fake_anthropic import held, text, tool
from .peer import Peer


def test_presence_follows_the_session(session: StartSession, backend: Peer) -> None:
    """A session is idle at first, working in its turn, idle after it, and offline once it has ended."""
    answered = threading.Event()
    frontend = session("frontend", held("done", answered))
    frontend.wait_until("idle")
    frontend.say("work")
    assert backend.status("frontend") == "working"
    assert backend.sent("frontend", "no hurry", kind="fyi").expectations[0].outlook == "working"
    answered.set()
    frontend.wait_until("idle")
    frontend.exit()
    frontend.wait_until("offline")


def test_claims_end_with_the_session(session: StartSession, backend: Peer) -> None:
    """A session's claim excludes other agents until the session releases it or ends."""
    frontend = session(
        "frontend", tool(f"{TOOLS}__claim", path=["src/pages/", "port:8080"], reason="redesign"), text("claimed")
    )
    frontend.turn("claim the pages")
    assert "claimed" in frontend.model.main[-1].tool_results()[0]
    assert {(c.path, c.owner, c.reason) for c in backend.claims()} == {
        (str(frontend.folder / "src/pages"), "frontend", "redesign"),
        ("port:8080", "frontend", "redesign"),
    }
    frontend.exit()
    frontend.wait_until("offline")
    assert backend.claims() == []


def test_a_killed_client_is_offline(session: StartSession, backend: Peer) -> None:
    """A session whose client was killed is shown as offline, and its claims no longer stand."""
    frontend = session("frontend", tool(f"{TOOLS}__claim", path="port:8080"))
    frontend.turn("claim the port")
    frontend.tui.kill()
    frontend.wait_until("offline")
    assert backend.sent("frontend", "are you there").expectations[0].outlook == "offline"
    assert backend.claims() == []


def test_a_session_that_asks_its_user_is_waiting(session: StartSession, box: Sandbox) -> None:
    """A session counts as waiting while a permission dialog is open, and as working again once it is answered."""
    answered = threading.Event()
    write = tool("Write", file_path=str(box.project / "new.txt"), content="hi")
    frontend = session("frontend", write, held("written", answered))
    frontend.say("write the file")
    frontend.wait_until("waiting")
    frontend.tui.keys("Enter")
    frontend.wait_until("working")
    answered.set()
    frontend.wait_until("idle")
