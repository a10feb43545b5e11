"""Runs the real Claude Code client against `FakeAnthropic`: headless, or in a terminal.

The client never sees the caller's environment. It gets only the variables of `Sandbox.env`, with a HOME and a
CLAUDE_CONFIG_DIR of its own.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Self

from claude_bus import processes

from .fake_anthropic import PATIENCE

_KEY = "sk-ant-fake-" + "0" * 40

GET_A_CLIENT = (
    "these tests drive the real Claude Code client: `npm install @anthropic-ai/claude-code` in a scratch folder, "
    "approve its postinstall script, and set CLAUDE_BIN=<folder>/node_modules/.bin/claude (or put it on PATH)"
)
GET_TMUX = "these tests need tmux to give the client a terminal: install it (apt-get install tmux, brew install tmux)"


def claude_binary() -> str:
    """The client to test: $CLAUDE_BIN, or the first `claude` on PATH."""
    found = os.environ.get("CLAUDE_BIN") or shutil.which("claude")
    if not found or not Path(found).is_file():
        raise FileNotFoundError(GET_A_CLIENT)
    return found


def oldest_binary() -> str:
    """The oldest client that is supported: $CLAUDE_BIN_OLDEST."""
    found = os.environ.get("CLAUDE_BIN_OLDEST", "")
    if not Path(found).is_file():
        raise FileNotFoundError("CLAUDE_BIN_OLDEST names no client: scripts/client installs it and says its version")
    return found


def tmux_binary() -> str:
    found = shutil.which("tmux")
    if not found:
        raise FileNotFoundError(GET_TMUX)
    return found


def _rules() -> Path:
    """A folder of this user for the scanner's rules: not every session of every test is to compile them."""
    folder = Path(tempfile.gettempdir(), f"claude-bus-test-rules-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


class Sandbox:
    """A user's machine in a folder: home, configuration, one project."""

    def __init__(self, root: Path, **env: str) -> None:
        self.binary = claude_binary()
        self.home, self.config, self.project, self.tmp = (root / name for name in ("home", "config", "project", "tmp"))
        for folder in (self.home, self.config, self.project, self.tmp):
            folder.mkdir(parents=True)
        self.env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),  # holds the sessions' sockets, whose paths must stay short
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "CLAUDE_CONFIG_DIR": str(self.config),
            "ANTHROPIC_API_KEY": _KEY,
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "KF_RULE_CACHE_DIR": str(_rules()),
            **env,
        }
        self.trust(self.project)

    def trust(self, *projects: Path) -> None:
        """Answer the dialogs about onboarding, the API key and trust in advance."""
        trusted = {"hasTrustDialogAccepted": True, "hasCompletedProjectOnboarding": True}
        _merge(
            self.config / ".claude.json",
            hasCompletedOnboarding=True,
            theme="dark",
            customApiKeyResponses={"approved": [_KEY[-20:]], "rejected": []},
            projects={str(project.resolve()): trusted for project in projects},
        )

    def settings(self, **values: object) -> None:
        """Merge into the user's settings.json."""
        _merge(self.config / "settings.json", **values)

    def preferences(self, **values: object) -> None:
        """Merge into the preferences that the client keeps besides the settings."""
        _merge(self.config / ".claude.json", **values)

    def run(self, *args: str, stdin: str = "", env: dict[str, str] | None = None) -> str:
        """Run any `claude ...` command to its end; returns its output."""
        done = subprocess.run(
            [self.binary, *args],
            cwd=self.project,
            env=self.env | (env or {}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"claude {args} exits with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout


def _merge(path: Path, **values: object) -> None:
    state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for key, value in values.items():
        old = state.get(key)
        state[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    path.write_text(json.dumps(state, indent=1), encoding="utf-8")


class Tui:
    """An interactive client in a tmux server of its own."""

    def __init__(
        self,
        box: Sandbox,
        *args: str,
        env: dict[str, str],
        cwd: Path | None = None,
        size: tuple[int, int] = (160, 50),
    ) -> None:
        self._sessions = box.config / "sessions"
        self._tmux_command = [tmux_binary(), "-L", f"e2e-{uuid.uuid4().hex[:8]}", "-f", "/dev/null"]
        variables = [f"{key}={value}" for key, value in (box.env | env).items()]
        command = shlex.join(["exec", "env", "-i", *variables, box.binary, *args])
        columns, rows = map(str, size)
        start = ["new-session", "-d", "-x", columns, "-y", rows, "-c", str(cwd or box.project), command]
        self._tmux("set-option", "-g", "remain-on-exit", "on", ";", *start)
        self.pid = int(self._tmux("display-message", "-p", "#{pane_pid}"))
        try:
            self.wait_for("❯")
        except TimeoutError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _tmux(self, *args: str) -> str:
        done = subprocess.run([*self._tmux_command, *args], capture_output=True, text=True, check=False, timeout=60)
        return done.stdout.strip("\n")

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p").rstrip()

    def coloured_screen(self) -> str:
        """The screen with its colours, as the codes that a terminal understands."""
        return self._tmux("capture-pane", "-p", "-e").rstrip()

    def keys(self, *names: str) -> None:
        """Press keys, by their tmux names: Enter, Escape, C-c, Up, ..."""
        self._tmux("send-keys", *names)

    def prompt(self, line: str) -> None:
        """Type a prompt (or a /command) and submit it.

        The input box takes text and Enter sent together as a paste, so the line must be on the screen before Enter.
        """
        self._tmux("send-keys", "-l", line)
        self.wait_for(line[-20:])
        time.sleep(0.4)
        self.keys("Enter")

    def wait_for(self, needle: str, patience: float = PATIENCE) -> None:
        """Wait until the text is on screen."""
        self._wait(lambda: needle in self.screen(), f"{needle!r} is on screen", patience)

    def wait_until_idle(self, patience: float = PATIENCE) -> None:
        """Wait until the client itself says, in its session file, that it is idle."""
        self._wait(lambda: self._said("status") == "idle", "the client is idle", patience)

    def wait_until_kept(self, conversation: str) -> None:
        """Wait until the client has stored the last turn of the conversation completely, so that it can be resumed.

        The file's existence is no proof: the client creates it for its own settings before the first message.
        """
        self._wait(lambda: self._answered(conversation), f"the last answer of {conversation} is written down", PATIENCE)

    def _answered(self, conversation: str) -> bool:
        """Tells whether the last stored message is a text of the model."""
        for path in self._sessions.parent.glob(f"projects/*/{conversation}.jsonl"):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            entries = [json.loads(line) for line in lines if line.endswith("\n")]
            *_, last = [None, *(entry for entry in entries if entry["type"] in ("user", "assistant"))]
            if last is not None and last["type"] == "assistant":
                return any(block["type"] == "text" for block in last["message"]["content"])
        return False

    def _said(self, field: str) -> object:
        """A field of the client's session file."""
        try:
            return json.loads((self._sessions / f"{self.pid}.json").read_text(encoding="utf-8")).get(field)
        except (OSError, ValueError):
            return None  # not yet there, or being written

    def _wait(self, holds: Callable[[], bool], what: str, patience: float) -> None:
        end = time.monotonic() + patience
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {patience}s: {what}; on screen:\n{self.screen()}")
            time.sleep(0.1)

    def clear(self) -> None:
        """Begin another conversation with /clear."""
        self.switch("/clear")

    def switch(self, command: str) -> None:
        """Switch to another conversation with a /command."""
        before = self._said("sessionId")
        self.prompt(command)
        self._wait(lambda: self._said("sessionId") not in (None, before), "another conversation begins", PATIENCE)
        self.wait_until_idle()

    def interrupt(self) -> None:
        """Press Esc in a turn that the model has not begun to answer; delete the prompt that returns to the box."""
        self.keys("Escape")
        self.wait_until_idle()
        self.keys("C-u")

    def kill(self) -> None:
        """End the client without giving it a chance (SIGKILL)."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait_for_end()

    def wait_for_end(self, patience: float = PATIENCE) -> None:
        self._wait(lambda: processes.process(self.pid) is None, f"the client {self.pid} ends", patience)

    def close(self) -> None:
        """Close the terminal, which ends the client."""
        self._tmux("kill-server")
        self.wait_for_end()
