"""Layers between a session and its bus: a sandbox around its shell, a wrapper around its server."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from claude_bus import claude_settings

from . import reading
from .claude_e2e import Sandbox, Tui
from .conftest import PLUGIN, StartSession
from .fake_anthropic import FakeAnthropic, text, tool
from .peer import Peer

COMMAND = f"{shlex.quote(sys.executable)} -m claude_bus"
SOURCE = str(PLUGIN / "src")

needs_sandbox = pytest.mark.skipif(
    not (shutil.which("bwrap") and shutil.which("socat")), reason="the client's sandbox needs bubblewrap and socat"
)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """The database, in a folder of its own, as `~/.claude-bus` is."""
    return tmp_path / "bus" / "bus.db"


@pytest.fixture
def box(box: Sandbox) -> Iterator[Sandbox]:
    """A box with a short path, which the sandbox's own sockets need."""
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        box.env["TMPDIR"] = folder
        yield box


def settings(box: Sandbox, **values: Any) -> None:
    (box.config / "settings.json").write_text(json.dumps(values))


def sandboxed(box: Sandbox, *writable: Path) -> None:
    """Run commands in the client's sandbox, which may write to these folders."""
    box.env["PYTHONPATH"] = SOURCE
    allowed = {"filesystem": {"allowWrite": [str(path) for path in writable]}} if writable else {}
    settings(
        box,
        sandbox={
            "enabled": True,
            "autoAllowBashIfSandboxed": True,
            "allowUnsandboxedCommands": False,
            **allowed,
        },
    )


@needs_sandbox
def test_a_sandboxed_shell_speaks_as_its_session_and_ends_nobody(
    box: Sandbox, session: StartSession, backend: Peer, db: Path
) -> None:
    """A sandboxed shell sees neither its own client's process nor any other, and must not take them for dead."""
    sandboxed(box, db.parent)
    frontend = session(
        "frontend",
        tool("mcp__plugin_bus_bus__claim", path="port:8080"),
        tool("Bash", command=f"{COMMAND} send backend hello; {COMMAND} agents; {COMMAND} doctor", description="x"),
        text("done"),
        args=("--allowedTools", "Bash"),
    )
    frontend.turn("tell backend")
    [said] = frontend.model.main[-1].tool_results()[-1:]

    assert "sent to 'backend'" in said
    assert "rung for 'frontend'" in said
    assert backend.rows("SELECT sender FROM messages") == [("frontend",)]
    assert backend.status("frontend") == "idle"
    assert [claim.owner for claim in backend.claims()] == ["frontend"]


@needs_sandbox
def test_a_sandbox_that_keeps_the_bus_from_being_written_is_named(
    box: Sandbox, session: StartSession, backend: Peer
) -> None:
    """The command says what to allow; the session's tools work all the same."""
    sandboxed(box)
    frontend = session(
        "frontend",
        tool("Bash", command=f"{COMMAND} send backend hello", description="x"),
        tool("mcp__plugin_bus_bus__send", to="backend", content="by the tool"),
        text("done"),
        args=("--allowedTools", "Bash"),
    )
    frontend.turn("tell backend")
    refused, sent = (request.tool_results()[-1] for request in frontend.model.main[1:3])

    assert "sandbox.filesystem.allowWrite" in refused
    assert "sent to 'backend'" in sent


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_session_whose_server_is_wrapped_is_woken_and_its_shell_is_its_own(
    box: Sandbox, backend: Peer, tmp_path: Path, wrapped: bool
) -> None:
    """A program between client and server (`op run`, `doppler run`) makes no difference."""
    wrapper = tmp_path / "secrets-run"
    wrapper.write_text(f"#!{sys.executable}\nimport subprocess, sys\nsys.exit(subprocess.call(sys.argv[1:]))\n")
    wrapper.chmod(0o755)
    box.env["PYTHONPATH"] = SOURCE
    hooks = claude_settings.hooks_of(PLUGIN)
    settings(box, hooks=hooks)
    command = [*([str(wrapper)] if wrapped else []), sys.executable, "-m", "claude_bus"]
    box.run("mcp", "add", "-s", "user", "bus", "--", *command, env={"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"})
    script = (
        text("hello"),
        text("woken"),
        tool("Bash", command=f"{COMMAND} send backend hi", description="x"),
        text(""),
    )
    with FakeAnthropic(script) as model:
        env = {"ANTHROPIC_BASE_URL": model.url, "BUS_NAME": "frontend"}
        with Tui(box, "--permission-mode", "manual", "--allowedTools", "mcp__bus", "Bash", env=env) as tui:
            tui.prompt("hello")
            model.wait_main(1)
            backend.wait_for_status("frontend", "idle")
            sent = backend.sent("frontend", "wake up")
            woken = model.wait_main(2)
            backend.wait_for_status("frontend", "idle")
            tui.prompt("tell backend")
            model.wait_main(4)

    assert sent.expectations[0].outlook == "waking"
    assert [mail.id for mail in reading.mail(woken)] == [sent.id]
    assert backend.rows("SELECT sender FROM messages ORDER BY id DESC LIMIT 1") == [("frontend",)]


def test_a_server_that_is_started_in_a_sessions_shell_is_not_the_sessions(
    box: Sandbox, session: StartSession, backend: Peer
) -> None:
    """`claude mcp list` in a shell starts a server to test it; the session keeps its identity, and rings once."""
    box.env["PYTHONPATH"] = SOURCE
    box.run(
        *("mcp", "add", "-s", "user", "other", "--", sys.executable, "-m", "claude_bus"),
        env={"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"},
    )
    frontend = session(
        "frontend",
        tool("Bash", command=f"{shlex.quote(str(box.binary))} mcp list", description="x"),
        text("done"),
        args=("--allowedTools", "Bash"),
    )
    frontend.turn("which servers are there?")
    said = frontend.model.main[-1].tool_results()[-1]
    ended = backend.rows("SELECT actor, detail FROM events WHERE verb = 'end'")

    assert "Connected" in said
    assert [actor for actor, _ in ended if actor == "frontend"] == []
    assert backend.status("frontend") == "idle"
