"""What we rely on of the Claude Code client: its environment, its files, its inbox socket.

Everything here was tried on the real client (2.1.328); nothing else in the package
knows these names.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import anyio

from . import processes, supervisor
from .model.identity import Binding, Client, Process
from .worktree import folder

_LAUNCHERS = frozenset({"uv", "uvx", "pipx", "sh", "bash", "dash", "zsh", "env", "cmd", "py"})
"""Programs that may stand between the client and its server."""

BYPASS = "bypassPermissions"

_PUSHED = ("<cross-session-message", "<task-notification")
"""What prompts begin with that nobody typed: other sessions' (the doorbell's, too), and the client's own."""
_TASK = re.compile(r"<task-id>(\w{1,100})</task-id>")
_STOPPED = re.compile(r"<status>(?:killed|failed)</status>")
_HEAD = 10_000
"""Characters of a prompt in which to look for these: it may hold anything, of any length."""
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


def lineage(env: Mapping[str, str]) -> tuple[Process, list[tuple[Process, str]]]:
    """The process that lasts as long as this server is wanted, and the ancestors of that, nearest first.

    That is its supervisor, without one itself.
    """
    line = processes.ancestors()
    for place, (process, _) in enumerate(line):
        if str(process.pid) == env.get(supervisor.VARIABLE):
            return process, line[place + 1 :]
    return processes.this_process(), line


def inbox(env: Mapping[str, str], client: Process) -> Inbox | None:
    """The inbox socket of `client`, if the environment names one that is its own.

    Its file is called after the process whose it is; where it is not, nothing speaks against it.
    """
    path = env.get("CLAUDE_CODE_MESSAGING_SOCKET", "")
    if not path or _owner(path) not in (None, client.pid):
        return None
    return Inbox(path, env.get("CLAUDE_CODE_MESSAGING_TOKEN", ""))


def _owner(path: str) -> int | None:
    """The pid that an inbox socket is called after."""
    name = Path(path).stem
    return int(name) if name.isdecimal() else None


def client(env: Mapping[str, str], cwd: Path) -> tuple[Client, Inbox | None]:
    """Who runs this server, and how to wake it.

    Two servers of one Claude Code session get the same key, and live as long as the
    client. A server that something else runs is a session of its own, while it runs.
    """
    lasting, line = lineage(env)
    process = _client_among(env, line) or lasting
    where = folder(Path(env.get("CLAUDE_PROJECT_DIR") or cwd))
    session_id = env.get("CLAUDE_CODE_SESSION_ID", "")
    bell = inbox(env, process)
    inherited = _is_of_a_shell(env, process)
    if bell and not inherited:
        return Client(_key(bell.path), process, where, session_id), bell
    if session_id and not (inherited or env.get("CLAUDE_CODE_MESSAGING_SOCKET")):
        return Client(f"client:{process}", process, where, session_id), None
    return Client(f"server:{lasting}", lasting, where, program="mcp"), None


def _client_among(env: Mapping[str, str], line: Sequence[tuple[Process, str]]) -> Process | None:
    """The client that wants this server, of the server's ancestors. Any program may stand in between.

    Its socket names it, or else its session file. Where neither does, it is the nearest one
    that is no mere launcher.
    """
    owner = _owner(env.get("CLAUDE_CODE_MESSAGING_SOCKET", ""))
    named = (process for process, _ in line if process.pid == owner)
    filed = (process for process, _ in line if _session_file(env, process))
    other = (process for process, name in line if name.lower().removesuffix(".exe") not in _LAUNCHERS)
    parent = (process for process, _ in line)
    return next(chain(named, filed, other, parent), None)


def _is_of_a_shell(env: Mapping[str, str], client: Process) -> bool:
    """Whether this program was started in the client's shell or by a hook, and not as one of its servers.

    It inherits the session's variables (a test, a script, `claude mcp list`), and must not
    take itself for the session's. The client marks what it starts in a shell (seen on
    2.1.332); a client that is run there takes only one of the marks away from its servers.
    """
    return bool(env.get("CLAUDE_CODE_CHILD_SESSION")) or env.get("CLAUDE_PID") == str(client.pid)


def _key(path: str) -> str:
    """The key of the session with this inbox socket, as its servers and its shell both find it.

    Two containers may have the same path. The file is told apart by its identity, which a
    sandboxed shell sees like its client, in whatever PID namespace it is; without the file
    the namespace has to do.
    """
    domain = processes.domain()
    return f"socket:{domain.kernel}/{_file(path) or domain.namespace}:{path}"


def _file(path: str) -> str:
    """The identity of a file; "" without one, and on Windows, where to look at a named pipe is to open it."""
    try:
        found = None if sys.platform == "win32" else Path(path).stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_dev:x}.{found.st_ino:x}" if found else ""


def has_hooks(env: Mapping[str, str]) -> bool:
    """Whether hook events are sure to come: the plugin that starts this server registers the hooks as well."""
    return bool(env.get("CLAUDE_PLUGIN_ROOT"))


def brings_mail(env: Mapping[str, str]) -> bool:
    """Whether hooks will bring this server's session its mail: the plugin's, or those in the user's settings.

    A guess for what senders are told until the first hook event comes; nothing is proven by it.
    """
    if has_hooks(env):
        return True
    folder = _own_folder(env)
    hooks = _setting(folder / "settings.json", "hooks") if folder else None
    return isinstance(hooks, dict) and '"mcp_tool"' in json.dumps(hooks.get("UserPromptSubmit"))


def keys_of_shell(env: Mapping[str, str]) -> list[str]:
    """Keys the session has in whose shell this process runs, likeliest first; [] for none."""
    socket = env.get("CLAUDE_CODE_MESSAGING_SOCKET", "")
    if socket:
        return [_key(socket), f"socket:{socket}"]
    if env.get("CLAUDECODE"):
        return [f"client:{process}" for process, _ in processes.ancestors()]
    return []


def _config_folder(env: Mapping[str, str]) -> Path:
    return Path(env.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")


def is_session_of_shell(binding: Binding, env: Mapping[str, str]) -> bool:
    """Whether what is bound under one of `keys_of_shell` is the session in whose shell this process runs.

    A server of an earlier version has a key that holds no machine: it counts if its client is an ancestor.
    """
    if binding.client != f"socket:{env.get('CLAUDE_CODE_MESSAGING_SOCKET', '')}":
        return True
    there = binding.process
    return there.host == processes.host() and any(
        there.pid == process.pid and abs(there.started - process.started) < 1 for process, _ in processes.ancestors()
    )


def in_sandbox(env: Mapping[str, str]) -> bool:
    """Whether this program runs in the client's sandbox, which lets it write to few places."""
    return bool(env.get("CLAUDECODE") and env.get("SANDBOX_RUNTIME"))


def is_typed(prompt: str) -> bool:
    """Whether a prompt is a user's word."""
    return not prompt.startswith(_PUSHED)


def stopped_subagent(prompt: str) -> str:
    """The id of the subagent that this prompt of the client says was stopped or failed, or "".

    For one that is stopped by hand no hook is called (seen on 2.1.328).
    """
    head = prompt[:_HEAD]
    task = _TASK.search(head) if head.startswith("<task-notification>") else None
    return task[1] if task and _STOPPED.search(head, task.end()) else ""


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
    found = _session_file(env, client)
    return found is not None and found.get("status") == "idle"


def _session_file(env: Mapping[str, str], client: Process) -> dict[str, Any] | None:
    """The client's own notes on its session, from its folder; None if this very process wrote none.

    Containers may share the folder, and the file of one that was killed stays behind.
    """
    folder = _own_folder(env)
    found = _json_file(folder / "sessions" / f"{client.pid}.json") if folder else {}
    began = found.get("procStart")
    foreign = sys.platform == "linux" and isinstance(began, str) and began != processes.ticks(client)
    return found if found and not foreign else None


def _own_folder(env: Mapping[str, str]) -> Path | None:
    try:
        return _config_folder(env)
    except RuntimeError:  # no home folder
        return None


def _setting(path: Path, name: str) -> object:
    """A field of a JSON file, or None."""
    return _json_file(path).get(name)


def _json_file(path: Path) -> dict[str, Any]:
    """The object in a JSON file, or an empty one. A project's file may be anything, a pipe that never ends too."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_SETTINGS:
            return {}
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
