"""What we rely on of the Claude Code client: its environment, its files, its inbox socket.

Everything here was tried on the real client (2.1.328); nothing else in the package
knows these names.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from . import processes, supervisor
from .model import Client, Process
from .worktree import folder

_LAUNCHERS = frozenset({"uv", "uvx", "pipx", "sh", "bash", "dash", "zsh", "env", "cmd", "py"})
"""Programs that may stand between the client and its server."""

BYPASS = "bypassPermissions"

_PUSHED = ("<cross-session-message", "<task-notification")
"""What prompts begin with that nobody typed: other sessions' (the doorbell's, too), and the client's own."""
_STOPPED = re.compile(r"<task-notification>.*?<task-id>(\w+)</task-id>.*?<status>(?:killed|failed)</status>", re.DOTALL)
_TALK = re.compile(r"mcp__(plugin_[^_]+_)?bus__\w+|SendMessage|ListAgents|ToolSearch")
"""Tools whose use is not work, but talk, or getting ready to."""

_MAX_SETTINGS = 1_000_000
"""Bytes of the user's settings that are looked at."""
_MANAGED = (
    Path("/etc/claude-code/managed-settings.json"),
    Path("/Library/Application Support/ClaudeCode/managed-settings.json"),
    Path("C:/Program Files/ClaudeCode/managed-settings.json"),
)
"""Where an administrator's settings are, on each system."""

TOOL_USE_ID = "claudecode/toolUseId"
"""In the `_meta` of a call: which one it is, as the hook before it said."""


@dataclass(frozen=True, slots=True)
class Inbox:
    """The session's inbox socket: what is written to it becomes a prompt when idle."""

    path: str
    token: str


def lineage(env: Mapping[str, str]) -> tuple[Process, Process]:
    """The process that lasts as long as this server is wanted, and the one that wants it.

    That is its supervisor, without one itself; and the parent of that, looking past launchers.
    """
    lasting, line = processes.this_process(), processes.ancestors()
    for place, (process, _) in enumerate(line):
        if str(process.pid) == env.get(supervisor.VARIABLE):
            lasting, line = process, line[place + 1 :]
            break
    for process, name in line:
        if name.lower().removesuffix(".exe") not in _LAUNCHERS:
            return lasting, process
    return lasting, line[0][0] if line else lasting


def inbox(env: Mapping[str, str], client: Process) -> Inbox | None:
    """The inbox socket of `client`, if the environment names one that is its own.

    A program that a session started (a test, a script) inherits that session's
    variables; a server under it must not take itself for the session's.
    """
    path = env.get("CLAUDE_CODE_MESSAGING_SOCKET", "")
    owner = Path(path).stem
    if not path or (owner.isdigit() and int(owner) != client.pid):
        return None
    return Inbox(path, env.get("CLAUDE_CODE_MESSAGING_TOKEN", ""))


def client(env: Mapping[str, str], cwd: Path) -> tuple[Client, Inbox | None]:
    """Who runs this server, and how to wake it.

    Two servers of one Claude Code session get the same key, and live as long as the
    client. A server that something else runs is a session of its own, while it runs.
    """
    lasting, process = lineage(env)
    bell = inbox(env, process)
    where = folder(Path(env.get("CLAUDE_PROJECT_DIR") or cwd))
    session_id = env.get("CLAUDE_CODE_SESSION_ID", "")
    if bell:
        return Client(f"socket:{bell.path}", process, where, session_id), bell
    inherited = env.get("CLAUDE_CODE_MESSAGING_SOCKET", "")
    if session_id and not inherited:
        return Client(f"client:{process}", process, where, session_id), None
    return Client(f"server:{lasting}", lasting, where, program="mcp"), None


def has_hooks(env: Mapping[str, str]) -> bool:
    """Whether hook events are sure to come: the plugin that starts this server registers the hooks as well."""
    return bool(env.get("CLAUDE_PLUGIN_ROOT"))


def brings_mail(env: Mapping[str, str]) -> bool:
    """Whether hooks will bring this server's session its mail: the plugin's, or those in the user's settings.

    A guess for what senders are told until the first hook event comes; nothing is proven by it.
    """
    if has_hooks(env):
        return True
    try:
        found = Path(_config_folder(env), "settings.json").read_bytes()[:_MAX_SETTINGS]
    except (OSError, RuntimeError):
        return False
    return b'"mcp_tool"' in found and b'"UserPromptSubmit"' in found


def keys_of_shell(env: Mapping[str, str]) -> list[str]:
    """Keys the session has in whose shell this process runs, likeliest first; [] for none."""
    socket = env.get("CLAUDE_CODE_MESSAGING_SOCKET", "")
    if socket:
        return [f"socket:{socket}"]
    if env.get("CLAUDECODE"):
        return [f"client:{process}" for process, _ in processes.ancestors()]
    return []


def _config_folder(env: Mapping[str, str]) -> Path:
    return Path(env.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")


def is_typed(prompt: str) -> bool:
    """Whether a prompt is a user's word."""
    return not prompt.startswith(_PUSHED)


def stopped_subagent(prompt: str) -> str:
    """The id of the subagent that this prompt of the client says was stopped or failed, or "".

    For one that is stopped by hand no hook is called (seen on 2.1.328).
    """
    found = _STOPPED.match(prompt)
    return found[1] if found else ""


def is_work(tool: str) -> bool:
    """Whether a session that uses this tool does more than talk."""
    return not _TALK.fullmatch(tool)


def is_attended(env: Mapping[str, str]) -> bool:
    """Whether a person looks at what the client prints: not in `claude -p`, nor below a program that runs it."""
    return env.get("CLAUDE_CODE_ENTRYPOINT") == "cli"


def lets_in(env: Mapping[str, str], project: Path) -> bool:
    """Whether the client's settings let other sessions' messages in, as which the bell comes."""
    folders = (_own_folder(env), project / ".claude")
    files = [folder / name for folder in folders if folder for name in ("settings.json", "settings.local.json")]
    return not any(_setting(path, "crossSessionInbound") in ("hold", "refuse") for path in (*files, *_MANAGED))


def says_idle(env: Mapping[str, str], client: Process) -> bool:
    """Whether the client's own session file says that it is idle.

    The last word when a turn ended without a Stop hook, as an interrupted one does.
    """
    folder = _own_folder(env)
    return folder is not None and _setting(folder / "sessions" / f"{client.pid}.json", "status") == "idle"


def _own_folder(env: Mapping[str, str]) -> Path | None:
    try:
        return _config_folder(env)
    except RuntimeError:  # no home folder
        return None


def _setting(path: Path, name: str) -> object:
    """A field of a JSON file, or None. A project's file may be anything, a pipe that never ends too."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_SETTINGS:
            return None
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found.get(name) if isinstance(found, dict) else None


async def push(inbox: Inbox, text: str, sender: str) -> bool:
    """Put a one-line text before the idle session; whether the socket took it.

    It appears as a message from `sender`, in the form the client shows as one line.
    The client drops a text it had within 30 s, so it must be new each time.
    """
    body = f'<cross-session-message from="claude-bus" from-name="{sender}">\n{text}\n</cross-session-message>'
    lines = [
        {"type": "auth", "token": inbox.token},
        {"type": "user", "message": {"role": "user", "content": body}},
    ]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    try:
        with anyio.fail_after(5):
            if sys.platform == "win32":
                await anyio.Path(inbox.path).write_bytes(data)  # a named pipe
            else:
                async with await anyio.connect_unix(inbox.path) as stream:
                    await stream.send(data)
    except (OSError, TimeoutError):
        return False
    return True
