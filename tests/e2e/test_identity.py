"""A session keeps its identity, whatever happens to its conversation, its client or its pid."""

from __future__ import annotations

import contextlib
import os
import sqlite3

from . import reading
from .claude_e2e import Sandbox
from .conftest import JOINS, PLUGIN, TOOLS, StartSession
from .fake_anthropic import FakeAnthropic, text, tool
from .peer import Peer, eventually


def test_clear_keeps_the_name(session: StartSession, backend: Peer) -> None:
    """After /clear a session keeps the name it registered, and is told so with the next text from the bus."""
    frontend = session.joined("frontend")
    before = backend.conversation("frontend")
    frontend.tui.clear()

    quiet = frontend.turn("a fresh start")
    assert not reading.news(quiet)
    assert backend.conversation("frontend") not in ("", before)
    backend.send("frontend", "welcome back")
    request = frontend.model.wait_main(len(frontend.model.main) + 1)
    assert [m.content for m in reading.mail(request)] == ["welcome back"]
    assert "You are 'frontend' on the bus." in reading.news(request)[0]


def test_compaction_keeps_the_name(session: StartSession, backend: Peer) -> None:
    """After /compact the next injection tells the session its name again."""
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
    """A resumed session has its name without registering, and the mail that was sent while it was closed."""
    frontend = session.joined("frontend")
    frontend.exit()
    frontend.wait_until("offline")
    sent = backend.sent("frontend", "while you were away")
    assert sent.expectations[0].outlook == "offline"

    resumed = session("frontend", args=("--resume", backend.conversation("frontend")), join=False)
    resumed.wait_until("idle")
    request = resumed.turn("here I am")
    assert [(m.id, m.possibly_seen) for m in reading.mail(request)] == [(sent.id, False)]
    assert "You are 'frontend' on the bus." in reading.news(request)[0]


def test_sessions_in_one_folder_are_told_apart(session: StartSession, backend: Peer) -> None:
    """Two unregistered sessions in one folder have different names, and each gets its own mail."""
    first = session("project", join=False)
    second = session("project-2", join=False)
    eventually(lambda: {"project", "project-2"} <= set(backend.agents()), "both are listed", backend.agents)
    listed = backend.agents()
    assert not listed["project"].registered
    assert not listed["project-2"].registered
    assert listed["project"].cwd == listed["project-2"].cwd
    message = backend.send("project-2", "for the second of you", kind="fyi")
    assert reading.mail(first.turn("hello")) == []
    assert [m.id for m in reading.mail(second.turn("hello"))] == [message]


def test_a_fork_is_somebody_else(session: StartSession, backend: Peer) -> None:
    """A fork of a running session gets neither its name nor its mail, and cannot take them."""
    frontend = session.joined("frontend")
    before = backend.conversation("frontend")
    fork = session("project", args=("--resume", before, "--fork-session"), join=False)
    fork.wait_until("idle")
    message = backend.send("frontend", "for you alone", kind="fyi")
    fork.model.push(tool(f"{TOOLS}__inbox"), tool(f"{TOOLS}__register", name="frontend"), tool(f"{TOOLS}__whoami"))
    request = fork.turn("who am I")
    assert JOINS in request.texts()
    *_, inbox, register, whoami = fork.model.main[-1].tool_results()
    assert "register" in inbox
    assert "'frontend' is held by a live session" in register
    assert whoami == "not registered (call register); listed as 'project' until then"
    assert reading.all_mail(fork.model.main[-1]) == []
    assert backend.receipt(message).state == "queued"

    assert [m.id for m in reading.mail(frontend.turn("and I"))] == [message]
    assert backend.conversation("frontend") == before


def test_a_fork_of_a_closed_session(session: StartSession, backend: Peer, box: Sandbox) -> None:
    """A fork of an ended session leaves the name and the mail to that session, which has them when it is resumed."""
    frontend = session.joined("frontend")
    frontend.exit()
    frontend.wait_until("offline")
    before = backend.conversation("frontend")
    message = backend.send("frontend", "for you alone")
    with FakeAnthropic([tool(f"{TOOLS}__inbox"), text("nothing")]) as model:
        again = ("--resume", before, "--fork-session")
        box.run("-p", "--plugin-dir", str(PLUGIN), *again, stdin="hello", env={"ANTHROPIC_BASE_URL": model.url})
    assert JOINS in model.main[-1].texts()
    assert "register" in model.main[-1].tool_results()[-1]
    assert reading.all_mail(model.main[-1]) == []
    assert (backend.receipt(message).state, backend.receipt(message).attempts) == ("queued", 0)
    assert backend.status("frontend") == "offline"

    resumed = session("frontend", args=("--resume", before), join=False)
    assert [(m.id, m.possibly_seen) for m in reading.mail(resumed.turn("here I am"))] == [(message, False)]


def test_a_branch_takes_the_name_along(session: StartSession, backend: Peer) -> None:
    """After /branch the session keeps its name; its first half, resumed in another terminal, is another agent."""
    frontend = session.joined("frontend")
    before = backend.conversation("frontend")
    frontend.tui.switch("/branch")
    first_half = session("project", args=("--resume", before), join=False)
    first_half.wait_until("idle")
    message = backend.send("frontend", "which of you", kind="fyi")
    assert reading.mail(first_half.turn("is it me")) == []

    request = frontend.turn("or me")
    assert [m.id for m in reading.mail(request)] == [message]
    assert "You are 'frontend' on the bus." in reading.news(request)[0]
    assert backend.conversation("frontend") != before


def test_a_conversation_that_runs_twice(session: StartSession, backend: Peer) -> None:
    """A conversation resumed while its session still runs has no part in that session's name and mail."""
    frontend = session.joined("frontend")
    again = session("project", args=("--resume", backend.conversation("frontend")), join=False)
    again.wait_until("idle")
    message = backend.send("frontend", "which of you", kind="fyi")
    assert reading.mail(again.turn("is it me")) == []
    assert [m.id for m in reading.mail(frontend.turn("or me"))] == [message]
    again.exit()
    again.wait_until("")
    assert backend.status("frontend") == "idle"


def test_another_conversation_in_the_same_client(session: StartSession, backend: Peer) -> None:
    """A session that switches to an earlier conversation with /resume keeps its own identity, not that
    conversation's.
    """
    docs = session.joined("docs")
    docs.exit()
    docs.wait_until("offline")
    waits = backend.send("docs", "for the docs")
    frontend = session.joined("frontend")
    frontend.tui.switch(f"/resume {backend.conversation('docs')}")
    message = backend.send("frontend", "for the frontend", kind="fyi")

    request = frontend.turn("who am I now")
    assert [m.id for m in reading.mail(request)] == [message]
    assert "You are 'frontend' on the bus." in reading.news(request)[0]
    assert backend.receipt(waits).state == "queued"
    assert backend.status("docs") == "offline"


def test_a_restarted_client(session: StartSession, backend: Peer) -> None:
    """A session whose client crashed and was started again with --continue has its name and its mail."""
    frontend = session.joined("frontend")
    frontend.tui.kill()
    frontend.wait_until("offline")
    sent = backend.sent("frontend", "while you were away")
    assert sent.expectations[0].outlook == "offline"

    restarted = session("frontend", args=("--continue",), join=False)
    restarted.wait_until("idle")
    request = restarted.turn("here I am")
    assert [(m.id, m.possibly_seen) for m in reading.mail(request)] == [(sent.id, False)]
    assert "You are 'frontend' on the bus." in reading.news(request)[0]


def test_a_reused_pid(session: StartSession, backend: Peer) -> None:
    """A session that died with all of its processes is offline and its name free, though another process has its
    pid now.
    """
    frontend = session("frontend")
    frontend.turn("hello")
    frontend.lose_power()
    with contextlib.closing(sqlite3.connect(backend.db, timeout=30, isolation_level=None)) as connection:
        changed = connection.execute("UPDATE bindings SET pid = ? WHERE agent = 'frontend'", [os.getpid()])
        assert changed.rowcount == 1
    assert backend.status("frontend") == "offline"
    message = backend.send("frontend", "whoever you are")

    other = session("frontend")
    assert [m.id for m in reading.mail(other.turn("hello"))] == [message]
