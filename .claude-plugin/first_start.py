"""A first start: answers the client while the environment is made, and then hands it over to the server.

Claude Code gives up a server that has not answered after 30 seconds, and does not try it again for 15 minutes (seen
on 2.1.332). So this module answers the handshake, from `answers.json`. A tool call waits a little for the server, and
then gets a message about the state of the installation. When the environment is ready, this process becomes the
server's supervisor, on the same pipes. A file passes it the client's messages that the server must know
(`claude_bus.supervisor.OPENED`).

Runs on Python 3.8 and newer, like the launcher.
"""
# ruff: noqa: INP001
# ruff: noqa: PTH103, PTH110, PTH117, PTH118, PTH123, PTH202

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from typing import Any

import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOLD = 90.0
"""Seconds that a tool call waits for the server. After 120 Claude Code moves a call to the background."""
SHARE = 0.6
"""The part of the user's time limit for a tool call (MCP_TOOL_TIMEOUT) within which it is answered."""
TOLD = 10.0
"""Seconds between two progress messages to the user."""
PAUSES = (15.0, 60.0, 300.0, 900.0)
"""Seconds until the next automatic attempt, by the number of failures before."""
SOON = 10.0
"""Seconds after a failure before a tool call causes another attempt."""
LOOK = 0.2
"""Seconds between checks of the builder."""
GLANCE = 2.0
"""Seconds between checks for an environment that another session made."""

FAILED, LOG = ".rest-failed", "rest.log"
"""Files of an environment: when its other packages could not be installed, and what the tools said."""

OPENED = "CLAUDE_BUS_OPENED"
MODERN = "io.modelcontextprotocol/protocolVersion"
NOT_FOUND, OTHER_ERA = -32601, -32022

FETCHING = "bus: first start: its packages are being fetched; it works as soon as they are there"
BEING_MADE = (
    "claude-bus is being set up: this is its first start, and its packages are being fetched ({} s so far). "
    "Nothing was done. Call again in a minute; nothing needs to be restarted."
)
AGAIN = "It tries again by itself, and with the next call; nothing needs to be restarted."


def environment(folder: str, args: list[str]) -> str:
    """Return the environment in `folder`; make it if needed, and answer the client meanwhile if this is the server."""
    attempt = Attempt(folder)
    sys.stderr.write(f"claude-bus: first start, making its Python environment in {folder}\n")
    sys.stderr.flush()  # because this process may become another program
    if launch.is_server(args):
        return FirstStart(attempt).run()
    attempt.begin()
    attempt.wait()
    if not attempt.made:
        raise launch.Failed(f"{attempt.why}. The whole story is in {attempt.log}")
    return attempt.made


def complete(environment: str, *, wait: bool) -> None:
    """Have the packages installed that a session can do without, in a process of its own.

    Without `wait` it runs at low priority and outlives the session; soon after a failure it is not begun again.
    """
    if not wait and age(os.path.join(environment, FAILED)) < PAUSES[-1]:
        return
    python = getattr(sys, "_base_executable", sys.executable)
    command = [python, "-I", os.path.join(launch.HERE, "environment.py"), "--rest", environment]
    if wait:
        sys.stderr.write("claude-bus: fetching the packages that this needs\n")
        sys.stderr.flush()
    log = os.path.join(environment, LOG)
    try:
        with open(log, "wb" if is_long(log) else "ab") as out:
            child = subprocess.Popen(  # noqa: S603
                command if wait else [*command, "--background"],
                cwd=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=not wait,
                creationflags=0 if wait else getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0),
            )
    except OSError as error:
        sys.stderr.write(f"claude-bus: its other packages cannot be installed: {error}\n")
        return
    if wait or not launch.WINDOWS:
        child.wait()  # in the background it has left the work to a child of its own


def age(file: str) -> float:
    """Return the seconds since a file was written; infinite if it does not exist."""
    try:
        return time.time() - os.stat(file).st_mtime  # noqa: PTH116
    except OSError:
        return float("inf")


def store_of_plugin() -> str:
    """Return the folder of this program's environments if it is an installed plugin, or "".

    A shell does not get the path of the plugin's data, a folder that the client creates with the first session.
    """
    config = os.environ.get("CLAUDE_CONFIG_DIR") or os.path.join(launch.home_folder(), ".claude")
    if not os.path.isabs(config):
        return ""
    plugins = os.path.join(config, "plugins")
    installed = read(os.path.join(plugins, "installed_plugins.json")).get("plugins")
    markets = read(os.path.join(plugins, "known_marketplaces.json"))
    for name, entries in installed.items() if isinstance(installed, dict) else ():
        place = markets.get(name.partition("@")[2])
        found = [*(entries if isinstance(entries, list) else []), place]
        places = [one.get(key) for one in found if isinstance(one, dict) for key in ("installPath", "installLocation")]
        data = os.path.join(plugins, "data", re.sub(r"[^\w-]", "-", name), "environments")
        here = os.path.realpath(launch.ROOT) in [os.path.realpath(path) for path in places if isinstance(path, str)]
        if here and not launch.doubtful(os.path.realpath(data)):
            return os.path.realpath(data)
    return ""


def read(path: str) -> dict[str, Any]:
    """Return the content of a client's file; {} if it does not exist, or is not an object."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def tell(why: str) -> int:
    """Answer a client whose server cannot be started, until the client ends; return the exit status."""
    conversation = Conversation()
    for data in chunks(lambda: GLANCE, conversation.take_up()):
        conversation.hear(data)
        conversation.settle(f"claude-bus cannot start: {why}", f"bus: it cannot start: {why}")
    return 1


# -- making it --------------------------------------------------------------------------


class Attempt:
    """Makes the environment in a separate process that outlives the client, and tries again if that fails."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.log = os.path.join(folder, "build.log")
        self.made = ""
        self.why = ""
        self.began = 0.0
        self.ended = 0.0
        self.failures = 0
        self._builder: subprocess.Popen[bytes] | None = None

    @property
    def goes_on(self) -> bool:
        return self._builder is not None

    def begin(self) -> None:
        """Start a builder, unless one is running."""
        if self._builder:
            return
        # The current Python may be that of a broken environment, or of one of the user's.
        python = getattr(sys, "_base_executable", sys.executable)
        command = [python, "-I", os.path.join(launch.HERE, "environment.py"), self.folder]
        self.began = time.monotonic()
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            with open(self.log, "wb" if is_long(self.log) else "ab") as log:
                self._builder = subprocess.Popen(  # noqa: S603
                    command,
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            self.failed(f"its Python environment cannot be made in {self.folder}: {error}")

    def wait(self) -> None:
        if self._builder:
            self._builder.wait()
        self.look()

    def look(self) -> None:
        """Check the builder; set `made` once the environment exists, whichever process made it."""
        if self._builder and self._builder.poll() is not None:
            self._over(self._builder)
        if not self._builder:
            self.made = launch.find(self.folder)
            if not self.made and self.failures and time.monotonic() >= self.ended + self._pause():
                self.begin()

    def _over(self, builder: subprocess.Popen[bytes]) -> None:
        self._builder = None
        assert builder.stdout
        with builder.stdout as said:
            last = said.read().decode("utf-8", "replace").strip()
        if builder.returncode:
            self.failed(last or f"what fetches its packages was ended ({builder.returncode})")

    def _pause(self) -> float:
        return PAUSES[min(self.failures, len(PAUSES)) - 1]

    def ask(self) -> None:
        """Try again because the server is wanted, unless it failed just now."""
        if time.monotonic() >= self.ended + SOON:
            self.begin()

    def failed(self, why: str) -> None:
        self.why = why
        self.failures += 1
        self.ended = time.monotonic()


def is_long(log: str) -> bool:
    return os.path.exists(log) and os.path.getsize(log) > 1_000_000


# -- answering --------------------------------------------------------------------------


class FirstStart:
    """Answers the client until the environment is ready."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._conversation = Conversation()

    def run(self) -> str:
        """Return the environment once it is ready, with the conversation left for the server. Ends with the client."""
        self._attempt.begin()
        for data in chunks(self._pause, self._conversation.take_up()):
            self._conversation.hear(data)
            self._attempt.look()
            if self._attempt.made and self._hand_over():
                return self._attempt.made
            self._settle()
        raise SystemExit(0)

    def _pause(self) -> float:
        return LOOK if self._attempt.goes_on else GLANCE

    def _hand_over(self) -> bool:
        try:
            self._conversation.leave(self._attempt.folder)
        except OSError as error:
            self._attempt.failed(f"{self._attempt.folder} cannot be written: {error.strerror}")
            return False
        return True

    def _settle(self) -> None:
        attempt, conversation = self._attempt, self._conversation
        if conversation.asks():
            attempt.ask()
        if attempt.goes_on:
            so_far = int(time.monotonic() - attempt.began)
            conversation.settle(BEING_MADE.format(so_far), FETCHING, held=patience())
        else:
            said = f"claude-bus cannot start yet: {attempt.why}. {AGAIN} The whole story is in {attempt.log}"
            conversation.settle(said, f"bus: it cannot start yet: {attempt.why}")


def patience() -> float:
    """Return the seconds that a call waits, so that it is answered before the client gives it up."""
    try:
        limit = float(os.environ.get("MCP_TOOL_TIMEOUT") or 0) / 1000
    except ValueError:
        limit = 0.0
    return min(HOLD, SHARE * limit) if limit > 0 else HOLD


class Conversation:
    """The exchange with a client before there is a server."""

    def __init__(self) -> None:
        with open(os.path.join(launch.ROOT, "src", "claude_bus", "mcp", "answers.json"), encoding="utf-8") as file:
            self._answers: dict[str, Any] = json.load(file)
        self._opening: list[bytes] = []
        """The handshake, which the server has to hear as well."""
        self._lost = False
        """Whether there may have been one that is not known any more."""
        self._modern = False
        self._calls: dict[Any, Call] = {}
        self._hooks: list[tuple[bytes, dict[str, Any]]] = []
        self._of_subagents: list[str] = []
        self._rest = b""
        self._told: set[str] = set()
        self._wanted = False

    def asks(self) -> bool:
        """Return whether the server was wanted since the last call: by a model's tool call, or a user's prompt."""
        wanted, self._wanted = self._wanted, False
        return wanted

    # -- the client

    def hear(self, data: bytes) -> None:
        """Process input from the client: the handshake is answered at once, calls are answered by `settle`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = parsed(line)
            if message:
                self._message(line + b"\n", message)

    def _message(self, line: bytes, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params")
        params = params if isinstance(params, dict) else {}
        if method == "notifications/initialized" and self._opening:
            self._opening.append(line)
        elif method == "notifications/cancelled":
            self._calls.pop(params.get("requestId"), None)
        elif method == "tools/call" and isinstance(message.get("id"), (int, str)):
            self._call(line, message, params)
        elif method and "id" in message:
            self._answer(line, message, params)

    def _call(self, line: bytes, message: dict[str, Any], params: dict[str, Any]) -> None:
        arguments = params.get("arguments")
        arguments = arguments if isinstance(arguments, dict) else {}
        if params.get("name") != "hook":
            self._wanted = True
            self._calls[message["id"]] = call = Call(line, message, params)
            if call.tool_use in self._of_subagents:  # the server would attribute it to the session
                call.patience = 0.0
            call.announce()
            return
        if arguments.get("tool_use_id") and arguments.get("agent_id"):
            self._of_subagents.append(str(arguments["tool_use_id"]))
        hook = {**message, "params": {**params, "arguments": arguments}}
        self._hooks.append((line, hook))
        self._wanted = self._wanted or is_prompt(hook)

    def _answer(self, line: bytes, message: dict[str, Any], params: dict[str, Any]) -> None:
        method, modern = message["method"], is_modern(params)
        if method == "initialize":
            self._shake_hands(line, message, params)
        elif method == "server/discover" and modern:
            self._modern = not self._opening
            reply(message, {**self._answers[method], **self._answers["modern"], **self._answers["kept"]})
        elif method == "tools/list":
            more = {**self._answers["modern"], **self._answers["kept"]} if modern else {}
            reply(message, {**self._answers[method], **more})
        elif method == "ping" and not modern:
            reply(message, {})
        else:
            refuse(message, NOT_FOUND, "Method not found", method)

    def _shake_hands(self, line: bytes, message: dict[str, Any], params: dict[str, Any]) -> None:
        """Answer as the server does: the first accepted handshake decides on the revision, and no other follows."""
        offered = self._answers["handshake"]
        wanted = params.get("protocolVersion")
        if self._modern:
            said = "connection is serving a newer protocol; the initialize handshake is not accepted"
            refuse(message, OTHER_ERA, said, {"supported": self._answers["server/discover"]["supportedVersions"]})
            return
        self._opening = [line]
        found = self._answers["server/discover"]
        result = {name: found[name] for name in ("capabilities", "instructions")}
        info = self._answers["modern"]["_meta"]["io.modelcontextprotocol/serverInfo"]
        version = wanted if wanted in offered else offered[-1]
        reply(message, {**result, "protocolVersion": version, "serverInfo": info})

    # -- calls

    def settle(self, answer: str, notice: str, held: float = 0.0) -> None:
        """Answer hooks, and the calls that have waited for `held` seconds. The user sees each notice once."""
        for _, message in self._hooks:
            self._hook(message, notice)
        self._hooks.clear()
        for number, call in list(self._calls.items()):
            if time.monotonic() >= call.came + min(held, call.patience):
                del self._calls[number]
                self._result(call.message, call.params, answer, failed=True)
            else:
                call.announce()

    def _hook(self, message: dict[str, Any], notice: str) -> None:
        params = message["params"]
        event = (params.get("arguments") or {}).get("event")
        said = "" if event == "PostCompact" else "{}"  # the client would quote the answer to that event
        if is_prompt(message) and notice not in self._told:
            self._told.add(notice)
            said = json.dumps({"systemMessage": notice})
        self._result(message, params, said)

    def _result(self, message: dict[str, Any], params: dict[str, Any], said: str, *, failed: bool = False) -> None:
        content = [{"type": "text", "text": said}] if said else []
        more = self._answers["modern"] if is_modern(params) else {}
        reply(message, {"content": content, "isError": failed, **more})

    # -- handing over to the next process

    def take_up(self) -> bytes:
        """Continue where an earlier process left off; return the client's input that was not answered."""
        left = os.environ.pop(OPENED, "")
        if not left:
            return b""
        try:
            with open(left, encoding="utf-8") as file:
                found = json.load(file)
            self._opening = [line.encode("utf-8", "surrogateescape") for line in found["opening"]]
            rest = str(found["rest"]).encode("utf-8", "surrogateescape")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            print(f"claude-bus: the hand-over {left!a} cannot be read: {error}", file=sys.stderr, flush=True)
            self._opening, self._lost, rest = [], True, b""
        with contextlib.suppress(OSError):
            os.unlink(left)  # noqa: PTH108
        return rest

    def leave(self, folder: str) -> None:
        """Leave the handshake and the unanswered input for the server's supervisor."""
        left = os.path.join(
            folder, f".opened-{os.getpid()}-{os.urandom(6).hex()}"
        )  # containers that share the folder may share pids
        unanswered = [*(call.line for call in self._calls.values()), *(line for line, _ in self._hooks)]
        rest = b"".join([*unanswered, self._rest])
        opening = [line.decode("utf-8", "surrogateescape") for line in self._opening]
        said = {
            "opening": None if self._lost and not opening else opening,
            "rest": rest.decode("utf-8", "surrogateescape"),
        }
        with os.fdopen(os.open(left, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(said, file)
        os.environ[OPENED] = left


class Call:
    """A tool call that waits for the server."""

    def __init__(self, line: bytes, message: dict[str, Any], params: dict[str, Any]) -> None:
        self.line, self.message, self.params = line, message, params
        self.came = time.monotonic()
        self.patience = HOLD
        self._told = -TOLD
        meta = params.get("_meta")
        self._meta = meta if isinstance(meta, dict) else {}

    @property
    def tool_use(self) -> str:
        return str(self._meta.get("claudecode/toolUseId", ""))

    def announce(self) -> None:
        """Show the user that the call waits for the installation, which goes on."""
        token, waited = self._meta.get("progressToken"), time.monotonic() - self.came
        if token is not None and waited >= self._told + TOLD:
            self._told = waited
            message = "first start: fetching its packages" + (f" ({int(waited)} s)" if waited >= TOLD else "")
            said = {"progressToken": token, "progress": int(waited), "message": message}
            write({"jsonrpc": "2.0", "method": "notifications/progress", "params": said})


def is_modern(params: dict[str, Any]) -> bool:
    """Return whether a request names its own revision of the protocol."""
    meta = params.get("_meta")
    return isinstance(meta, dict) and MODERN in meta


def is_prompt(message: dict[str, Any]) -> bool:
    """Return whether a call of the hook tool is for a prompt of the session itself."""
    arguments = message["params"].get("arguments") or {}
    return arguments.get("event") == "UserPromptSubmit" and not arguments.get("agent_id")


def parsed(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def reply(message: dict[str, Any], result: dict[str, Any]) -> None:
    write({"jsonrpc": "2.0", "id": message["id"], "result": result})


def refuse(message: dict[str, Any], code: int, said: str, data: Any) -> None:
    write({"jsonrpc": "2.0", "id": message["id"], "error": {"code": code, "message": said, "data": data}})


# -- the pipes --------------------------------------------------------------------------


def write(message: dict[str, Any]) -> None:
    """Send a message to the client. Its end is noticed when reading from it."""
    left = json.dumps(message).encode() + b"\n"
    try:
        while left:
            left = left[os.write(1, left) :]
    except OSError:
        pass


def chunks(pause: Callable[[], float], first: bytes = b"") -> Iterator[bytes]:
    """Yield the client's input as it comes, and b"" after each pause without input; ends with the client.

    Reads only what is already there, so nothing is lost when this process becomes another program.
    """
    yield first
    while True:
        ready = waits(pause())
        data = os.read(0, 65_536) if ready else b""
        if ready and not data:
            return
        yield data


if sys.platform == "win32":

    def waits(seconds: float) -> bool:
        """Return whether the client sends input, or ends, within this time."""
        import ctypes
        import msvcrt

        peek = ctypes.windll.kernel32.PeekNamedPipe
        handle, there = ctypes.c_void_p(msvcrt.get_osfhandle(0)), ctypes.c_ulong()
        end = time.monotonic() + seconds
        while peek(handle, None, 0, None, ctypes.byref(there), None) and not there.value:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        return True

else:

    def waits(seconds: float) -> bool:
        """Return whether the client sends input, or ends, within this time."""
        import select

        return bool(select.select([0], [], [], seconds)[0])
