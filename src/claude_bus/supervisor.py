"""A thin parent of the stdio server, which restarts the server if it is killed.

Claude Code does not restart a stdio server that died: the session's tools are gone until
its user reconnects them (seen on 2.1.328). So the client starts this process. It holds the
client's pipes, loads little of the standard library, and passes lines on. The server, which
is large enough to be killed for its memory, is its child.

On Linux the child is a fork of this process: it needs no other start of the interpreter, and shares
its memory. That is safe because this process has one thread, and waits for its pipes with `poll`.
Elsewhere the child is a process of its own: on macOS a fork without an exec may crash in the system's
libraries, Windows has none. On Windows threads read the pipes, because nothing waits for several.

If a server dies while it handles a request, the next server gets the request if a repetition is
harmless; otherwise the client gets an error. Only a handshake (`initialize`) that a server
accepted is repeated for the client: a client that waited long for an answer may have tried both
kinds of opening (seen on 2.1.328).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

from . import jsonrpc, jsons

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import Any, NoReturn, Protocol

    class Server(Protocol):
        """A running server."""

        into: int
        """The descriptor that its requests are written to."""
        out: int
        """The descriptor that its answers are read from."""

        def wait(self) -> int:
            """Wait for its end; return its exit status, negative for a signal."""

        def terminate(self) -> None: ...

    Launch = Callable[[], Server]
    """Starts a server. Raises `OSError`."""

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
_BATCHES = "2025-03-26"
"""The only revision that has batches."""
_MODERN = "io.modelcontextprotocol/protocolVersion"
"""In the `_meta` of each request of the protocol that has no handshake."""
_HANDSHAKE = (
    b'{"jsonrpc":"2.0","id":"claude-bus","method":"initialize","params":'
    b'{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"","version":""}}}\n'
    b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
)
"""A first request as any client could send it."""
_OPENING = frozenset({"initialize", "server/discover", "tools/list", "ping"})
"""Requests that a server answers before it has loaded all that it needs to run."""
_CLIENT, _SERVER = "client", "server"
_CHUNK = 65_536
_LAST_WORDS = 5.0
"""Seconds that a client has for taking the last answers, once its server has ended."""
_MUCH = 16 * 1024 * 1024
"""Bytes of answers that a client has not taken, or of requests that a server has not, at which no more requests are
read."""


class _Request:
    """An unanswered request of the client. `given`: the number of servers that got it."""

    __slots__ = ("given", "line", "message")

    def __init__(self, line: bytes, message: dict[str, Any]) -> None:
        self.line, self.message, self.given = line, message, 0

    @property
    def repeatable(self) -> bool:
        """Tool calls in `REPEATABLE` may be retried once; other requests (`initialize`) without limit."""
        if self.message["method"] != "tools/call":
            return True
        params = self.message.get("params")
        return self.given == 1 and isinstance(params, dict) and params.get("name") in REPEATABLE


class Supervisor:
    """Passes lines between a client and the current server. `run` returns the exit status."""

    def __init__(self, launch: Launch, pipes: _Polled | _Threaded, opening: Sequence[bytes] | None = ()) -> None:
        self._launch = launch
        self._pipes = pipes
        self._server: Server | None = None
        self._requests, self._answers = jsonrpc.Lines(), jsonrpc.Lines()
        self._open: dict[int | str, _Request] = {}
        self._greeting = [_Request(line, _parsed(line)) for line in opening or ()]
        self._batches: list[list[int | str]] = []
        """Ids of the requests of each batch that is not answered yet."""
        self._repeated: set[int | str] = set()
        """Ids of repeated handshakes, whose answers the client has had."""
        self._takes_batches = False
        """The handshake agreed on the revision that has batches; in others the server refuses one without its ids."""
        self._opening_is_lost = opening is None
        self._ending = False
        self._answered = self._proven = False

    def run(self) -> int:
        """Keep a server running until the client ends, or until servers die as soon as they start."""
        for number in _endings():
            signal.signal(number, self._stop)
        mute = 0
        while not self._ending and mute < len(_PAUSES):
            self._pause(_PAUSES[mute])
            self._answered = False
            status = self._serve()
            if status > 0 and not self._proven:
                return status  # the server cannot run at all, and has printed the reason
            mute = 0 if self._answered else mute + 1
        return 0 if self._ending else 1

    # -- one server

    def _serve(self) -> int:
        """Run one server to its end; return its exit status, negative for a signal."""
        try:
            server = self._launch()
        except OSError as error:  # too many processes or open files, which may pass in a moment
            print(f"claude-bus: the server cannot be started: {error}", file=sys.stderr, flush=True)
            return -1
        self._answers = jsonrpc.Lines(None)  # the last line of a killed server may be incomplete
        self._repeated.clear()
        self._pipes.connect(server)
        self._server = server
        for request in self._greeting:
            self._repeat(request)
        self._take_up()
        if self._ending:
            self._pipes.hang_up()
        while self._hear(None):
            pass
        self._server = None
        self._pipes.disconnect()
        return server.wait()

    def _pause(self, seconds: float) -> None:
        """Read on, but start no server for a while."""
        end = time.monotonic() + seconds
        while not self._ending and (left := end - time.monotonic()) > 0:
            self._hear(left)

    def _hear(self, patience: float | None) -> bool:
        """Pass on what came from either side; return False once the server has closed its end."""
        runs = True
        for source, data in self._pipes.heard(patience):
            if source == _SERVER:
                runs = bool(data)
                for line in self._answers.feed(data):
                    self._answer(line)
            else:
                for line in self._requests.feed(data):
                    self._request(line)
                if not data:
                    self._client_ended()
        if self._pipes.client_is_gone and not self._ending:
            self._ending = True
            self._pipes.hang_up()
        return runs

    def _client_ended(self) -> None:
        """Let the server end, once it has the client's last line."""
        if last := self._requests.rest():
            self._request(last)
        self._ending = True
        self._pipes.hang_up()

    def _repeat(self, request: _Request) -> None:
        """Repeat a part of the client's handshake; the server's answer is not for the client."""
        self._put(request.line)
        if "id" in request.message:
            self._repeated.add(request.message["id"])

    def _take_up(self) -> None:
        """Give the open requests of the previous server to this one, or answer them with an error."""
        for number, request in list(self._open.items()):
            if request.given == 0 or request.repeatable:
                self._give(request)
            else:
                del self._open[number]
                self._pipes.tell_client(jsonrpc.failure(number, jsonrpc.INTERNAL_ERROR, _UNKNOWN))
        for batch in self._batches:
            error = jsonrpc.error(jsonrpc.INTERNAL_ERROR, _UNKNOWN)
            answers = [{"jsonrpc": "2.0", "id": number, "error": error} for number in batch]
            self._pipes.tell_client(jsonrpc.encoded(answers))
        self._batches.clear()

    # -- lines

    def _request(self, line: bytes) -> None:
        if refused := jsonrpc.refusal(line):
            self._pipes.tell_client(refused)
            return
        message = _parsed(line)
        if self._opening_is_lost:
            self._open_anew(message)
        if self._takes_batches and (ids := _ids(line)):
            self._batches.append(ids)
        number, method = jsonrpc.identity(message.get("id")), message.get("method")
        request = _Request(line, message)
        if method == "notifications/initialized" and self._greeting:
            self._greeting.append(request)
        elif method == "notifications/cancelled":
            self._forget(message.get("params"))
        if method and number is not None:
            self._open[number] = request
        self._give(request)

    def _open_anew(self, first: dict[str, Any]) -> None:
        """Open the server in the client's place, whose opening is lost.

        A client that has shaken hands does not do so again, and no server answers it without. One that begins with the
        handshake, or speaks the protocol that has none, needs nothing.
        """
        self._opening_is_lost = False
        params = first.get("params")
        meta = params.get("_meta") if isinstance(params, dict) else None
        begins = first.get("method") in ("initialize", "server/discover")
        if not begins and not (isinstance(meta, dict) and _MODERN in meta):
            self._greeting = [_Request(line, _parsed(line)) for line in _HANDSHAKE.splitlines(keepends=True)]
            for request in self._greeting:
                self._repeat(request)

    def _forget(self, params: object) -> None:
        """Drop a request that the client cancelled: it needs no answer."""
        number = jsonrpc.identity(params.get("requestId")) if isinstance(params, dict) else None
        if number is not None:
            self._open.pop(number, None)
            self._batches = [left for ids in self._batches if (left := [each for each in ids if each != number])]

    def _give(self, request: _Request) -> None:
        request.given += self._put(request.line)

    def _put(self, line: bytes) -> bool:
        """Return whether there is a server to take the line; one that dies now may or may not have read it."""
        return self._server is not None and self._pipes.tell_server(line if line.endswith(b"\n") else line + b"\n")

    def _answer(self, line: bytes) -> None:
        """Pass a line of the server to the client."""
        message = _parsed(line)
        number = message.get("id")
        if "method" not in message and isinstance(number, int | str):
            if number in self._repeated:
                self._repeated.discard(number)
                return
            request = self._open.pop(number, None)
            method = request.message["method"] if request else ""
            if request and method == "initialize" and "result" in message:
                self._greeting = [request]
                self._takes_batches = message["result"].get("protocolVersion") == _BATCHES
            self._proven = self._proven or method not in _OPENING
        if ids := _ids(line):
            self._batches = [batch for batch in self._batches if set(ids).isdisjoint(batch)]
        self._answered = True
        self._pipes.tell_client(line)

    # -- the end

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle one of the `ENDINGS`."""
        self._ending = True
        if not self._server:
            os._exit(0)
        self._server.terminate()


def _endings() -> list[signal.Signals]:
    """Return the `ENDINGS` that this system has."""
    return [getattr(signal, name) for name in ENDINGS if hasattr(signal, name)]


def _parsed(line: bytes) -> dict[str, Any]:
    """Return a message, or {} for anything else."""
    message = _loaded(line)
    return message if isinstance(message, dict) else {}


def _ids(line: bytes) -> list[int | str]:
    """Return the ids of the requests or answers in a batch; none for anything else."""
    messages = _loaded(line) if line.lstrip().startswith(b"[") else []
    found = [jsonrpc.identity(message.get("id")) for message in messages if isinstance(message, dict)]
    return [number for number in found if number is not None]


def _loaded(line: bytes) -> Any:
    try:
        return jsons.loads(line)
    except ValueError:
        return []


# -- the pipes ---------------------------------------------------------------------------------------------


class _Polled:
    """The pipes to a client and to the current server, in one thread. No write waits for its reader."""

    def __init__(self, client_in: int, client_out: int, first: bytes = b"") -> None:
        self._client_in, self._client_out = client_in, client_out
        self._first = first
        """The part of the client's input that the launcher has read."""
        self._into = self._from = -1
        self._to_client, self._to_server = bytearray(), bytearray()
        self._hangs_up = False
        self.client_is_gone = False

    def connect(self, server: Server) -> None:
        """Take up a server. Its input is set to non-blocking, because nobody else has this end."""
        self._into, self._from = server.into, server.out
        self._to_server.clear()
        self._hangs_up = False
        os.set_blocking(self._into, False)

    def disconnect(self) -> None:
        """Close what led to a server that has ended."""
        for descriptor in (self._into, self._from):
            if descriptor >= 0:
                os.close(descriptor)
        self._into = self._from = -1
        self._to_server.clear()

    def hang_up(self) -> None:
        """End the server's input as soon as it has all that was written."""
        self._hangs_up = True
        self._write_to_server()

    def tell_server(self, line: bytes) -> bool:
        """Write a line to the server; return whether its input is open."""
        if self._into < 0:
            return False
        self._to_server += line
        return self._write_to_server()

    def tell_client(self, line: bytes) -> None:
        """Write a line to the client."""
        self._to_client += line
        self._write_to_client()

    def finish(self, patience: float) -> None:
        """Wait until the client has taken all answers, or for so many seconds."""
        end = time.monotonic() + patience
        while self._to_client and (left := end - time.monotonic()) > 0:
            self._ready(left, (), (self._client_out,))
            self._write_to_client()

    def heard(self, patience: float | None) -> list[tuple[str, bytes]]:
        """Wait for at most so many seconds; return what was read, b"" for the end of a stream."""
        if self._first:
            first, self._first = self._first, b""
            return [(_CLIENT, first)]
        client = self._client_in if max(len(self._to_client), len(self._to_server)) < _MUCH else -1
        writable = (self._into if self._to_server else -1, self._client_out if self._to_client else -1)
        ready = self._ready(patience, (client, self._from), writable)
        if self._into in ready:
            self._write_to_server()
        if self._client_out in ready:
            self._write_to_client()
        found = [
            (source, _read(descriptor))
            for source, descriptor in ((_SERVER, self._from), (_CLIENT, client))
            if descriptor in ready
        ]
        if (_CLIENT, b"") in found:
            self._client_in = -1
        return found

    def _ready(self, patience: float | None, readable: Sequence[int], writable: Sequence[int]) -> set[int]:
        """Wait for one of the descriptors, of which a negative one stands for none; return those that are ready."""
        poll = select.poll()
        for events, descriptors in ((select.POLLIN, readable), (select.POLLOUT, writable)):
            for descriptor in descriptors:
                if descriptor >= 0:
                    poll.register(descriptor, events)
        return {number for number, _ in poll.poll(None if patience is None else max(1, int(patience * 1000)))}

    def _write_to_server(self) -> bool:
        """Write what the server takes now, and close its input if that is due; return whether it is open."""
        if self._into < 0:
            return False
        try:
            while self._to_server:
                del self._to_server[: os.write(self._into, self._to_server)]
        except BlockingIOError:
            return True
        except OSError:  # it died
            self._to_server.clear()
            self._hangs_up = True
        if self._hangs_up:
            os.close(self._into)
            self._into = -1
        return self._into >= 0

    def _write_to_client(self) -> None:
        """Write what the client takes now.

        Its pipe is not set to non-blocking, because stderr may be the same file. A pipe that is ready takes
        `PIPE_BUF` bytes.
        """
        poll = select.poll()
        poll.register(self._client_out, select.POLLOUT)
        try:
            while self._to_client and poll.poll(0):
                del self._to_client[: os.write(self._client_out, self._to_client[: select.PIPE_BUF])]
        except BlockingIOError:
            return
        except OSError:  # the client is gone
            self._to_client.clear()
            self.client_is_gone = True


class _Threaded:
    """The same for a system whose pipes cannot be waited for: one thread reads each."""

    def __init__(self, client_in: int, client_out: int, first: bytes = b"") -> None:
        from _queue import SimpleQueue

        self._client_out = client_out
        self._into = self._from = -1
        self._events: SimpleQueue[tuple[str, bytes]] = SimpleQueue()
        self.client_is_gone = False
        if first:
            self._events.put((_CLIENT, first))
        self._pass_on(_CLIENT, client_in)

    def connect(self, server: Server) -> None:
        """Take up a server."""
        self._into, self._from = server.into, server.out
        self._pass_on(_SERVER, self._from)

    def disconnect(self) -> None:
        """Close what led to a server that has ended."""
        self.hang_up()
        if self._from >= 0:
            os.close(self._from)
        self._from = -1

    def hang_up(self) -> None:
        """End the server's input."""
        if self._into >= 0:
            os.close(self._into)
        self._into = -1

    def tell_server(self, line: bytes) -> bool:
        """Write a line to the server; return whether it took it."""
        try:
            return self._into >= 0 and _write(self._into, line)
        except OSError:  # it died
            return False

    def tell_client(self, line: bytes) -> None:
        """Write a line to the client."""
        try:
            _write(self._client_out, line)
        except OSError:  # it is gone
            self.client_is_gone = True

    def finish(self, patience: float) -> None:
        """Nothing is left to write."""

    def heard(self, patience: float | None) -> list[tuple[str, bytes]]:
        """Wait for a second, or for less; return what was read, b"" for the end of a stream."""
        from _queue import Empty

        try:  # a signal is handled only between two waits
            return [self._events.get(timeout=1.0 if patience is None else min(1.0, patience))]
        except Empty:
            return []

    def _pass_on(self, source: str, descriptor: int) -> None:
        from _thread import start_new_thread

        def read() -> None:
            while data := _read(descriptor):
                self._events.put((source, data))
            self._events.put((source, b""))

        start_new_thread(read, ())


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _CHUNK)
    except OSError:
        return b""


def _write(descriptor: int, line: bytes) -> bool:
    while line:
        line = line[os.write(descriptor, line) :]
    return True


# -- the server's process ------------------------------------------------------------------------------------


def forks() -> bool:
    """Return whether a server is forked on this system."""
    return sys.platform == "linux"


def spawning(command: Sequence[str]) -> Launch:
    """Return what starts a server with this command."""
    return lambda: _Spawned(command)


def forking(serve: Callable[[], int]) -> Launch:
    """Return what starts a server as a fork of this process, which must have one thread; `serve` is all it does."""
    return lambda: _Forked(serve)


class _Spawned:
    """A server with a command of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        import subprocess

        pipe = subprocess.PIPE
        env = {**os.environ, VARIABLE: str(os.getpid())}
        self._process = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, bufsize=0)  # noqa: S603
        assert self._process.stdin
        assert self._process.stdout
        self.into, self.out = os.dup(self._process.stdin.fileno()), os.dup(self._process.stdout.fileno())
        self._process.stdin.close()
        self._process.stdout.close()

    def wait(self) -> int:
        return self._process.wait()

    def terminate(self) -> None:
        self._process.terminate()


class _Forked:
    """A server that is a fork of this process."""

    def __init__(self, serve: Callable[[], int]) -> None:
        opened: list[int] = []
        try:
            opened += os.pipe()
            opened += os.pipe()
            supervisor = os.getpid()
            self._pid = os.fork()
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        source, self.into, self.out, sink = opened
        if not self._pid:
            _become_server(serve, supervisor, source, sink, (self.into, self.out))
        os.close(source)
        os.close(sink)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def terminate(self) -> None:
        os.kill(self._pid, signal.SIGTERM)


def _become_server(
    serve: Callable[[], int], supervisor: int, source: int, sink: int, others: Sequence[int]
) -> NoReturn:
    """Serve in this process, a fork of the supervisor, and end it. It keeps nothing of the client's."""
    status = 1
    try:
        for number in _endings():
            signal.signal(number, signal.SIG_DFL)
        os.dup2(source, 0)
        os.dup2(sink, 1)
        for descriptor in (source, sink, *others):
            os.close(descriptor)
        os.environ[VARIABLE] = str(supervisor)
        status = serve()
    except BaseException:  # noqa: BLE001 - this process must not go on as a second supervisor
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def supervise(launch: Launch) -> NoReturn:
    """Run a stdio server for this process's client; exit with its status.

    Ends the process at once, because a thread that reads stdin cannot be interrupted.
    """
    _fill_standard_descriptors()
    left = os.environ.pop(OPENED, "")
    opening, rest = _taken(left) if left else ([], b"")
    pipes = _Polled(0, 1, rest) if hasattr(select, "poll") else _Threaded(0, 1, rest)
    status = Supervisor(launch, pipes, opening).run()
    pipes.finish(_LAST_WORDS)
    os._exit(status)


def _fill_standard_descriptors() -> None:
    """Open those of stdin, stdout and stderr that are closed: else a pipe to the server gets the number of one.

    Output to them goes nowhere.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            os.set_inheritable(number, True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _taken(left: str) -> tuple[list[bytes] | None, bytes]:
    """The opening and the rest of the input, from the launcher's file (`OPENED`), which is removed.

    No opening (None) where the file is lost or torn, which is said.
    """
    import json

    opening: list[bytes] | None
    try:
        with open(left, encoding="utf-8") as file:  # noqa: PTH123 - pathlib is not loaded for this
            found = json.load(file)
        opening = [line.encode(errors="surrogateescape") for line in found["opening"]]
        rest = found["rest"].encode(errors="surrogateescape")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        print(f"claude-bus: the launcher's hand-over {left!a} cannot be read ({why})", file=sys.stderr, flush=True)
        opening, rest = None, b""
    with suppress(OSError):
        os.unlink(left)  # noqa: PTH108
    return opening, rest
