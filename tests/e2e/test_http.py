"""Sessions of the real client on a bus that is served over HTTP."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from claude_bus import processes
from claude_bus.claude_settings import hooks_of
from tests.support.mcp_clients import Caller, ModernCaller
from tests.support.served_bus import Served, served

from . import reading
from .claude_e2e import Sandbox, Tui
from .conftest import PLUGIN, Session
from .fake_anthropic import FakeAnthropic, Script, Turn, text, tool
from .peer import Peer, eventually
from .test_injection import slow_command
from .test_subagents import Family

TOOLS = "mcp__bus"
HANDLE = "machine-1-4711"


@pytest.fixture
def server(db: Path) -> Iterator[Served]:
    with served(db) as running:
        yield running
    Caller.close_all()


class StartHttpSession:
    """Starts sessions with the hooks in their settings and the server registered by its address."""

    def __init__(self, box: Sandbox, bus: Peer, running: ExitStack) -> None:
        self._box, self._bus, self._running = box, bus, running

    def __call__(
        self, name: str, *script: Script, args: tuple[str, ...] = (), default: Script | None = None
    ) -> Session:
        """A session that took the name in its first turn."""
        joins = [tool(f"{TOOLS}__register", name=name), text("joined")]
        model = self._running.enter_context(FakeAnthropic([*joins, *script], default=default))
        allowed = ("--permission-mode", "manual", "--allowedTools", f"{TOOLS},Bash,Agent", *args)
        tui = self._running.enter_context(Tui(self._box, *allowed, env={"ANTHROPIC_BASE_URL": model.url}))
        started = Session(tui, model, self._bus, name, self._box.project)
        started.say("join the bus")
        model.wait_main(2)
        started.wait_until("idle")
        return started


@pytest.fixture
def start(box: Sandbox, onlooker: Peer) -> Iterator[StartHttpSession]:
    box.env["ANTHROPIC_BASE_URL"] = "http://127.0.0.1:9"
    box.settings(hooks=hooks_of(PLUGIN))
    with ExitStack() as running:
        yield StartHttpSession(box, onlooker, running)


def add(box: Sandbox, server: Served, *options: str) -> None:
    """Register the server as a user does."""
    box.run("mcp", "add", "--scope", "user", "--transport", "http", "bus", f"{server.url}/mcp", *options)


@pytest.mark.parametrize("options", [(), ("--header", f"Bus-Session: {HANDLE}")], ids=["session", "handle"])
def test_tools_and_mail(
    start: StartHttpSession, server: Served, backend: Peer, box: Sandbox, options: tuple[str, ...]
) -> None:
    """In both eras of the protocol, tools work, and mail comes with each prompt and between tool calls, and is read."""
    add(box, server, *options)
    frontend = start("frontend", Turn(tools=[("Bash", slow_command())]), text("tested"))
    asked, answered = frontend.model.main[:2]
    assert {f"{TOOLS}__{name}" for name in ("agents", "inbox", "send", "wait")} <= set(asked.tool_names)
    assert f"{TOOLS}__hook" not in asked.tool_names
    assert "claude-bus connects" in answered.everything()  # the client may report it one request later
    assert "registered 'frontend'" in answered.tool_results()[0]
    if options:  # the client is identified by the handle
        assert ModernCaller(server.url, handle=HANDLE).call("whoami").text == "frontend"

    assert backend.sent("frontend", "first", kind="fyi").expectations[0].outlook == "idle"
    request = frontend.say("run the tests")
    (first,) = reading.mail(request)
    assert first.content == "first"
    assert reading.came_with(request) == ["UserPromptSubmit"]
    eventually((box.project / "started-1").exists, "the tool runs")
    message = backend.send("frontend", "stop, the branch is broken")
    (box.project / "go").touch()
    assert frontend.model.wait(lambda: _told(frontend, message)) == "PostToolBatch"
    frontend.wait_until("idle")
    assert {backend.receipt(first.id).state, backend.receipt(message).state} == {"read"}


def _told(session: Session, message: int) -> str:
    """The hook event with which a message came, or ""."""
    for request in session.model.main:
        if message in [mail.id for mail in reading.mail(request)]:
            return " ".join(reading.came_with(request))
    return ""


def test_a_message_from_the_model(start: StartHttpSession, server: Served, backend: Peer, box: Sandbox) -> None:
    """A message from the model arrives, and its answer states that nothing wakes a recipient over HTTP."""
    add(box, server)
    frontend = start("frontend", tool(f"{TOOLS}__send", to="backend", content="done"), text("sent"))
    frontend.turn("tell the backend")
    assert "sent to 'backend'" in frontend.model.main[-1].tool_results()[-1]
    message = backend.sent("frontend", "thank you, now the other page", kind="request")
    assert message.expectations[0].outlook == "idle"
    assert [mail.id for mail in reading.mail(frontend.turn("go on"))] == [message.id]


def test_a_session_that_ended_is_offline(start: StartHttpSession, db: Path, backend: Peer, box: Sandbox) -> None:
    """A client does not close its MCP session when it ends, but its stream closes; some time later its name is free."""
    with served(db, program="tests.support.gated_server", GATE_AFTER_STREAM="3") as server:
        add(box, server)
        frontend = start("frontend")
        frontend.exit()
        frontend.wait_until("offline")


def test_the_server_starts_again(start: StartHttpSession, backend: Peer, box: Sandbox, db: Path) -> None:
    """A session that lives through a restart of the server is the same agent afterwards, and gets its mail."""
    with served(db) as first:
        add(box, first)
        frontend = start("frontend")
        port = first.url.rpartition(":")[2]
    message = backend.send("frontend", "while the server was away")
    with served(db, "--port", port):
        eventually(lambda: _prompted(frontend, message), "the mail is read", frontend.tui.screen)
        assert backend.status("frontend") in ("idle", "working")


def _prompted(session: Session, message: int) -> bool:
    session.say("go on")
    session.tui.wait_until_idle()
    return bool(_told(session, message))


def test_a_subagent_over_http(start: StartHttpSession, server: Served, backend: Peer, box: Sandbox) -> None:
    """A subagent with a name of its own gets its own mail between its tool calls."""
    add(box, server)
    waits = Turn(tools=[("Bash", slow_command())])
    family = Family(start, tool(f"{TOOLS}__register", name="frontend-tests"), waits)
    eventually((box.project / "started-1").exists, "the subagent's tool runs", family.session.tui.screen)
    assert backend.status("frontend-tests") == "working"
    message = backend.send("frontend-tests", "count the hidden ones, too")
    (box.project / "go").touch()
    told = family.subagent_told(reading.mail)
    assert [mail.id for mail in reading.mail(told)] == [message]


def test_handles_made_from_the_process(start: StartHttpSession, server: Served, backend: Peer, box: Sandbox) -> None:
    """Two clients with the helper of the documentation are two participants, each by its handle."""
    page = (PLUGIN / "docs" / "guides" / "machines.md").read_text(encoding="utf-8")
    command = re.search(r"^ +claude (mcp add-json .*?}')$", page, re.MULTILINE | re.DOTALL)
    assert command
    box.run(*shlex.split(command[1].replace("http://127.0.0.1:8765", server.url)))
    frontend, docs = start("frontend"), start("docs")
    for session in (frontend, docs):
        handle = f"{processes.host()}-{processes.domain().namespace}-{session.tui.pid}"
        assert ModernCaller(server.url, handle=handle).call("whoami").text == session.name
