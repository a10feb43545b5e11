"""A thin parent of the stdio server, which restarts the server if it is killed.

Claude Code does not restart a stdio server that died: the session's tools are gone until
its user reconnects them (seen on 2.1.328). So the client starts this process. It holds the
client's pipes, loads little but the standard library, and passes lines on. The server, which
is large enough to be killed for its memory, is its child.

If a server dies while it handles a request, the next server gets the request if a repetition is
harmless; otherwise the client gets an error. Only a handshake (`initialize`) that a server
accepted is repeated for the client: a client that waited long for an answer may have tried both
kinds of opening (seen on 2.1.328).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO

from . import jsons
from .records import dataclass

VARIABLE = "CLAUDE_BUS_SUPERVISOR"
"""Environment variable of a server: the process id of its supervisor."""

OPENED = "CLAUDE_BUS_OPENED"
"""Environment variable of a supervisor whose launcher has already answered the client, on a first start: a file with
the client's input. `opening` is the handshake, which was answered; `rest` is not, and may end within a line."""

REPEATABLE = frozenset(
    {
        *("hook", "whoami", "agents", "message_status", "history"),
        *("get_state", "list_state", "list_claims"),
    }
)
"""Tools that may be called twice. Those that hand mail over are not among them: the next server
could not tell a subagent's call from its session's."""

ENDINGS = ("SIGINT", "SIGTERM", "SIGHUP")
"""The client ends its servers with the first and, 100 ms later, the second; a closing terminal with the third."""

_PAUSES = (0.0, 0.2, 1.0, 2.0, 5.0)
"""Seconds before the next start, by the number of servers that died in a row without an answer.
After one more, the supervisor ends as well."""
_UNKNOWN = (
    "the bus server was killed during this call and runs again; whether the call took effect is not known: "
    "look (history, get_state, list_claims) before you repeat it"
)
_MODERN = "io.modelcontextprotocol/protocolVersion"
"""In the `_meta` of each request of the protocol that has no handshake."""
_HANDSHAKE = (
    b'{"jsonrpc":"2.0","id":"claude-bus","method":"initialize","params":'
    b'{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"","version":""}}}\n'
    b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
)
"""A first request as any client could send it."""
_INTERNAL_ERROR = -32603
_INVALID_REQUEST = -32600
_TOO_DEEP = f"the request is nested deeper than {jsons.MAX_DEPTH} levels of JSON: make it flatter, or send it as text"


@dataclass(slots=True)
class _Request:
    """An unanswered request of the client. `given`: the number of servers that got it."""

    line: bytes
    message: dict[str, Any]
    given: int = 0

    @property
    def repeatable(self) -> bool:
        """Tool calls in `REPEATABLE` may be retried once; other requests (`initialize`) without limit."""
        if self.message["method"] != "tools/call":
            return True
        params = self.message.get("params")
        return self.given == 1 and isinstance(params, dict) and params.get("name") in REPEATABLE


class Supervisor:
    """Passes lines between a client and the current server. `run` returns the exit status."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        client_in: Iterable[bytes],
        client_out: BinaryIO,
        opening: Sequence[bytes] = (),
    ) -> None:
        self._command = list(command)
        self._env = {**env, VARIABLE: str(os.getpid())}
        self._in, self._out = client_in, client_out
        self._lock = threading.Lock()  # for state of both threads: the server's stdin, and the open requests
        self._server: subprocess.Popen[bytes] | None = None
        self._open: dict[int | str, _Request] = {}
        self._greeting = [_Request(line, _parsed(line)) for line in opening]
        self._ending = False
        self._answered = False

    def run(self) -> int:
        """Keep a server running until the client ends, or until servers die as soon as they start."""
        for number in _endings():
            signal.signal(number, self._stop)
        threading.Thread(target=self._pass_requests, daemon=True).start()
        mute, unproven = 0, True
        while not self._ending and mute < len(_PAUSES):
            time.sleep(_PAUSES[mute])
            self._answered = False
            status = self._serve()
            unproven = unproven and not self._answered
            if unproven and status > 0:
                return status  # the server cannot run at all, and has printed the reason
            mute = 0 if self._answered else mute + 1
        return 0 if self._ending else 1

    # -- one server

    def _serve(self) -> int:
        """Run one server to its end; return its exit status, negative for a signal."""
        pipe = subprocess.PIPE
        try:
            server = subprocess.Popen(self._command, env=self._env, stdin=pipe, stdout=pipe)  # noqa: S603
        except OSError as error:  # too many processes or open files, which may pass in a moment
            print(f"claude-bus: the server cannot be started: {error}", file=sys.stderr, flush=True)
            return -1
        assert server.stdout
        with self._lock:
            self._server = server
            if self._greet(server):
                self._take_up()
            if self._ending:
                self._hang_up()
        for line in server.stdout:
            if line.endswith(b"\n"):  # the last line of a killed server may be incomplete
                self._answer(line)
        with self._lock:
            self._server = None
            assert server.stdin
            with contextlib.suppress(OSError):
                server.stdin.close()
        server.stdout.close()
        return server.wait()

    def _greet(self, server: subprocess.Popen[bytes]) -> bool:
        """Repeat the client's handshake; return False if the server is already gone."""
        assert server.stdout
        for request in self._greeting:
            self._put(request.line)
            number = request.message.get("id")
            while number is not None:
                line = server.stdout.readline()
                if not line:
                    return False
                if _parsed(line).get("id") == number:
                    break
        return True

    def _take_up(self) -> None:
        """Give the open requests of the previous server to this one, or answer them with an error."""
        for number, request in list(self._open.items()):
            if request.given == 0 or request.repeatable:
                self._give(request)
            else:
                del self._open[number]
                self._say({"jsonrpc": "2.0", "id": number, "error": {"code": _INTERNAL_ERROR, "message": _UNKNOWN}})

    # -- lines

    def _pass_requests(self) -> None:
        """Pass the client's lines to the server; the client's end ends the supervisor. Runs on its own thread."""
        if hasattr(signal, "pthread_sigmask"):  # a signal to a process that was suspended may go to any thread,
            signal.pthread_sigmask(signal.SIG_BLOCK, _endings())  # and would not wake the one that handles it
        for line in self._in:
            with self._lock:
                self._request(line)
        with self._lock:
            self._ending = True
            self._hang_up()

    def _request(self, line: bytes) -> None:
        if jsons.is_deeper(line):
            self._refuse(line)
            return
        message = _parsed(line)
        number, method = message.get("id"), message.get("method")
        request = _Request(line, message)
        if method == "notifications/initialized" and self._greeting:
            self._greeting.append(request)
        elif method == "notifications/cancelled":
            self._forget(message.get("params"))
        if method and isinstance(number, int | str):
            self._open[number] = request
        self._give(request)

    def _refuse(self, line: bytes) -> None:
        """Answer a request that the server could not parse and would not answer."""
        number = jsons.outline(line).get("id")
        error = {"code": _INVALID_REQUEST, "message": _TOO_DEEP}
        self._say({"jsonrpc": "2.0", "id": number if isinstance(number, int | str) else None, "error": error})

    def _forget(self, params: object) -> None:
        """Drop a request that the client cancelled: it needs no answer."""
        number = params.get("requestId") if isinstance(params, dict) else None
        if isinstance(number, int | str):
            self._open.pop(number, None)

    def _give(self, request: _Request) -> None:
        request.given += self._put(request.line)

    def _put(self, line: bytes) -> bool:
        """Return whether the server took the line; one that dies now may or may not have read it."""
        if not (self._server and self._server.stdin):
            return False
        try:
            self._server.stdin.write(line)
            self._server.stdin.flush()
        except (OSError, ValueError):  # the server died, or its stdin was closed
            return False
        return True

    def _answer(self, line: bytes) -> None:
        """Pass a line of the server to the client."""
        self._answered = True
        message = _parsed(line)
        number = message.get("id")
        if "method" not in message and isinstance(number, int | str):
            with self._lock:
                request = self._open.pop(number, None)
                if request and request.message["method"] == "initialize" and "result" in message:
                    self._greeting = [request]
        self._write(line)

    def _say(self, message: dict[str, Any]) -> None:
        self._write(json.dumps(message).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        try:
            self._out.write(line)
            self._out.flush()
        except OSError:  # the client is gone, which its stdin will show
            self._ending = True

    # -- the end

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle one of the `ENDINGS`."""
        self._ending = True
        if not self._server:
            os._exit(0)
        self._server.terminate()

    def _hang_up(self) -> None:
        if self._server and self._server.stdin:
            with contextlib.suppress(OSError):
                self._server.stdin.close()


def _endings() -> list[signal.Signals]:
    """Return the `ENDINGS` that this system has."""
    return [getattr(signal, name) for name in ENDINGS if hasattr(signal, name)]


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        message = jsons.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def supervise(command: Sequence[str]) -> int:
    """Run a stdio server for this process's client; exit with its status.

    Ends the process at once, because the thread that reads stdin cannot be interrupted.
    """
    left = os.environ.pop(OPENED, "")
    opening, rest = _taken(left)
    lines = _lines(rest, sys.stdin.buffer)
    if left and opening is None:
        opening, lines = _opened_anew(lines)
    status = Supervisor(command, os.environ, lines, sys.stdout.buffer, opening or ()).run()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status)


def _taken(left: str) -> tuple[list[bytes] | None, bytes]:
    """The opening and the rest of the input, from the launcher's file (`OPENED`), which is removed.

    No opening (None) where the file is lost or torn, which is said.
    """
    if not left:
        return None, b""
    path = Path(left)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        opening = [line.encode(errors="surrogateescape") for line in found["opening"]]
        rest = found["rest"].encode(errors="surrogateescape")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        print(f"claude-bus: the launcher's hand-over {left!a} cannot be read ({why})", file=sys.stderr, flush=True)
        opening, rest = None, b""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    return opening, rest


def _opened_anew(lines: Iterator[bytes]) -> tuple[list[bytes], Iterator[bytes]]:
    """An opening in place of one that is lost, and the lines.

    A client that has shaken hands does not do so again, and no server answers it without. One that begins with the
    handshake, or speaks the protocol that has none, needs nothing.
    """
    first = next(lines, b"")
    message = _parsed(first)
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    begins = message.get("method") in ("initialize", "server/discover")
    modern = isinstance(meta, dict) and _MODERN in meta
    return ([] if begins or modern or not first else _HANDSHAKE.splitlines(keepends=True)), chain(
        [first] if first else [], lines
    )


def _lines(first: bytes, more: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of both, one after the other."""
    *whole, torn = first.split(b"\n")
    yield from (line + b"\n" for line in whole)
    if last := torn + more.readline():
        yield last
    yield from more
