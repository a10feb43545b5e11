"""The parts of the Claude Code client that claude-bus relies on: its environment, its files, its inbox socket.

Everything here was tried on the real client (2.1.328); no other module of the package knows
these names.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from . import processes
from .model.identity import Binding, Client, Process
from .records import record
from .worktree import folder

_LAUNCHERS = frozenset({"uv", "uvx", "pipx", "sh", "bash", "dash", "zsh", "env", "cmd", "py"})
"""Programs that may stand between the client and its server."""

BYPASS = "bypassPermissions"

_PUSHED = ("<cross-session-message", "<task-notification")
"""Prefixes of prompts that no user typed: from other sessions (also the doorbell's), and from the client itself."""
_TASK = re.compile(r"<task-id>(\w{1,100})</task-id>")
_STOPPED = re.compile(r"<status>(?:killed|failed)</status>")
_HEAD = 10_000
"""Characters of a prompt in which these are searched: a prompt may have any content and length."""
_TALK = re.compile(r"mcp__(plugin_[^_]+_)?bus__\w+|SendMessage|ListAgents|ToolSearch")
"""Tools whose use is not work, but messaging or preparation for it."""

_MAX_SETTINGS = 1_000_000
"""Bytes of the user's settings that are read."""
_MANAGED = (
    Path("/etc/claude-code/managed-settings.json"),
    Path("/Library/Application Support/ClaudeCode/managed-settings.json"),
    Path("C:/Program Files/ClaudeCode/managed-settings.json"),
)
"""Locations of an administrator's settings, on each system."""

TOOL_USE_ID = "claudecode/toolUseId"
"""Key in the `_meta` of a call: its id, as the hook before it reported it."""


@record(frozen=True, slots=True)
class Inbox:
    """The session's inbox socket: text written to it becomes a prompt when the session is idle."""

    path: str
    token: str


def lineage(env: Mapping[str, str]) -> tuple[Process, list[tuple[Process, str]]]:
    """Return the process that lasts as long as this server is needed, and its ancestors, nearest first.

    That process is the supervisor, or without one this process itself.
    """
    from . import supervisor

    line = processes.ancestors()
    for place, (process, _) in enumerate(line):
        if str(process.pid) == env.get(supervisor.VARIABLE):
            return process, line[place + 1 :]
    return processes.this_process(), line


def inbox(env: Mapping[str, str], client: Process) -> Inbox | None:
    """Return the inbox socket of `client`, if the environment names one that belongs to it.

    A socket's file usually has the pid of its process as its name; a file with another name is accepted.
    """
    path = env.get("CLAUDE_CODE_MESSAGING_SOCKET", "")
    if not path or _owner(path) not in (None, client.pid):
        return None
    return Inbox(path, env.get("CLAUDE_CODE_MESSAGING_TOKEN", ""))


def _owner(path: str) -> int | None:
    """Return the pid in the name of an inbox socket."""
    name = Path(path).stem
    return int(name) if name.isdecimal() else None


def client(env: Mapping[str, str], cwd: Path) -> tuple[Client, Inbox | None]:
    """Return the client of this server, and its inbox socket if there is one.

    Two servers of one Claude Code session get the same key, and live as long as the client. A
    server that another program runs is a separate session, for as long as the server runs.
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
    """Return the client among the server's ancestors. Any program may stand in between.

    Its socket names it, or otherwise its session file. If neither does, it is the nearest
    ancestor that is not a mere launcher.
    """
    owner = _owner(env.get("CLAUDE_CODE_MESSAGING_SOCKET", ""))
    named = (process for process, _ in line if process.pid == owner)
    filed = (process for process, _ in line if _session_file(env, process))
    other = (process for process, name in line if name.lower().removesuffix(".exe") not in _LAUNCHERS)
    parent = (process for process, _ in line)
    return next(chain(named, filed, other, parent), None)


def _is_of_a_shell(env: Mapping[str, str], client: Process) -> bool:
    """Return whether the client's shell or a hook started this program, so that it is not one of the client's servers.

    Such a program (a test, a script, `claude mcp list`) inherits the session's variables, and must
    not take itself for the session's server. The client marks the programs that it starts in a shell
    (seen on 2.1.332); a client that runs in such a shell removes only one of the marks for its servers.
    """
    return bool(env.get("CLAUDE_CODE_CHILD_SESSION")) or env.get("CLAUDE_PID") == str(client.pid)


def _key(path: str) -> str:
    """Return the key of the session with this inbox socket, as its servers and its shell both compute it.

    Two containers may have the same path. The identity of the file distinguishes them: a
    sandboxed shell sees the same one as its client, in whatever PID namespace it is. Without
    the file, the namespace has to do.
    """
    domain = processes.domain()
    return f"socket:{domain.kernel}/{_file(path) or domain.namespace}:{path}"


def _file(path: str) -> str:
    """Return the identity of a file; "" if it does not exist, and on Windows, where checking a named pipe opens it."""
    try:
        found = None if sys.platform == "win32" else Path(path).stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_dev:x}.{found.st_ino:x}" if found else ""


def has_hooks(env: Mapping[str, str]) -> bool:
    """Return whether hook events are certain: the plugin that starts this server also registers the hooks."""
    return bool(env.get("CLAUDE_PLUGIN_ROOT"))


def brings_mail(env: Mapping[str, str]) -> bool:
    """Return whether hooks bring mail to this server's session: the plugin's, or those in the user's settings.

    This is a guess for senders until the first hook event comes; it proves nothing.
    """
    if has_hooks(env):
        return True
    folder = _own_folder(env)
    hooks = _setting(folder / "settings.json", "hooks") if folder else None
    return isinstance(hooks, dict) and '"mcp_tool"' in json.dumps(hooks.get("UserPromptSubmit"))


def keys_of_shell(env: Mapping[str, str]) -> list[str]:
    """Return the possible keys of the session in whose shell this process runs, likeliest first; [] for none."""
    socket = env.get("CLAUDE_CODE_MESSAGING_SOCKET", "")
    if socket:
        return [_key(socket), f"socket:{socket}"]
    if env.get("CLAUDECODE"):
        return [f"client:{process}" for process, _ in processes.ancestors()]
    return []


def _config_folder(env: Mapping[str, str]) -> Path:
    return Path(env.get("CLAUDE_CONFIG_DIR") or Path.home() / ".claude")


def is_session_of_shell(binding: Binding, env: Mapping[str, str]) -> bool:
    """Return whether a binding under one of `keys_of_shell` is the session in whose shell this process runs.

    The key of a server of an earlier version contains no machine; it counts if its client is an ancestor.
    """
    if binding.client != f"socket:{env.get('CLAUDE_CODE_MESSAGING_SOCKET', '')}":
        return True
    there = binding.process
    return there.host == processes.host() and any(
        there.pid == process.pid and abs(there.started - process.started) < 1 for process, _ in processes.ancestors()
    )


def in_sandbox(env: Mapping[str, str]) -> bool:
    """Return whether this program runs in the client's sandbox, which lets it write to few folders."""
    return bool(env.get("CLAUDECODE") and env.get("SANDBOX_RUNTIME"))


def is_typed(prompt: str) -> bool:
    """Return whether the user typed a prompt."""
    return not prompt.startswith(_PUSHED)


def stopped_subagent(prompt: str) -> str:
    """Return the id of the subagent that this prompt of the client reports as stopped or failed, or "".

    No hook is called for a subagent that the user stops (seen on 2.1.328).
    """
    head = prompt[:_HEAD]
    task = _TASK.search(head) if head.startswith("<task-notification>") else None
    return task[1] if task and _STOPPED.search(head, task.end()) else ""


def is_work(tool: str) -> bool:
    """Return whether a session that uses this tool does more than messaging."""
    return not _TALK.fullmatch(tool)


def is_attended(env: Mapping[str, str]) -> bool:
    """Return whether a user reads what the client prints: not in `claude -p`, nor below a program that runs it."""
    return env.get("CLAUDE_CODE_ENTRYPOINT") == "cli"


def lets_in(env: Mapping[str, str], project: Path) -> bool:
    """Return whether the client's settings accept messages from other sessions; the doorbell rings by one."""
    folders = (_own_folder(env), project / ".claude")
    files = [folder / name for folder in folders if folder for name in ("settings.json", "settings.local.json")]
    return not any(_setting(path, "crossSessionInbound") in ("hold", "refuse") for path in (*files, *_MANAGED))


def says_idle(env: Mapping[str, str], client: Process) -> bool:
    """Return whether the client's own session file says that it is idle.

    It decides when a turn ended without a Stop hook, as an interrupted one does.
    """
    found = _session_file(env, client)
    return found is not None and found.get("status") == "idle"


def _session_file(env: Mapping[str, str], client: Process) -> dict[str, Any] | None:
    """Return the client's own data on its session; None if exactly this process wrote none.

    Containers may share the folder, and the file of a killed client stays behind.
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
    """Return a field of a JSON file, or None."""
    return _json_file(path).get(name)


def _json_file(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or {}. A project's file may be anything, even a pipe that never ends."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_SETTINGS:
            return {}
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


async def push(inbox: Inbox, text: str, sender: str) -> bool:
    """Put a one-line text before the idle session; return whether the socket accepted it.

    It appears as a message from `sender`, in the form that the client shows as one line.
    The client drops a text that it got within 30 s before, so each text must be new.
    """
    body = f'<cross-session-message from="claude-bus" from-name="{sender}">\n{text}\n</cross-session-message>'
    lines = [
        {"type": "auth", "token": inbox.token},
        {"type": "user", "message": {"role": "user", "content": body}},
    ]
    import anyio

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
