"""Mail comes with a prompt."""

from __future__ import annotations

from .conftest import StartSession
from .peer import Peer


def test_try(session: StartSession, backend: Peer) -> None:
    """Mail that waited is in the request of the next prompt, fenced, and in no later one's news."""
    one = backend.send("frontend", "the schema is in docs/schema.md")
    frontend = session("frontend", args=("--debug-file", "/tmp/e2e-debug.log"))
    request = frontend.say("hello")
    for t in request.last_user(): print("----", t)
    print(backend.receipt(one))
    backend.wait_for_status("frontend", "idle")
    print(frontend.tui.screen())
    print(backend.receipt(one))
    request = frontend.say("and now")
    for t in request.last_user(): print("----", t)
    print(frontend.tui.screen())
    print(backend.rows("select * from bindings"))
    print(backend.rows("select * from agents"))
    assert 0
