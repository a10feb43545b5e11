"""MCP over lines of JSON, for the server of one session: both eras of the protocol.

The official SDK costs a session more than all else that its server does: half a second and 40 MiB at every start. So
the stdio server speaks the little that it needs of MCP itself; `/mcp` over HTTP leaves it to the SDK.

A client of the older era begins with `initialize`. The newer era (2026-07-28) has no handshake: each request says in
its `_meta` which revision it speaks, and who asks. The first request decides, for as long as the connection lasts.

Here is no input and output, and nothing waits: `Connection.receive` gets a line, answers what can be answered at once,
and returns the tool calls and cancellations for others to handle. So a client is answered before the server has loaded
all that its tools need.
"""

from __future__ import annotations

import json

from .. import jsonrpc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Send = Callable[[bytes], None]
    """Writes a line to the client; called from several threads."""

BATCHES = "2025-03-26"
"""The only revision that has batches."""
UNSUPPORTED_VERSION = -32022
CONNECTION_CLOSED = -32000
_PREFIX = "io.modelcontextprotocol/"
_VERSION, _CLIENT, _CAPABILITIES = (
    f"{_PREFIX}{name}" for name in ("protocolVersion", "clientInfo", "clientCapabilities")
)
_OTHER_ERA = (
    "this connection serves the handshake protocol era; "
    "requests carrying the 2026-07-28 envelope are not accepted on it"
)
_NO_HANDSHAKE = "connection is serving the 2026-07-28 protocol; the initialize handshake is not accepted"


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.error = jsonrpc.error(code, message, data)


class Cancelled:
    """The client no longer wants the answer to a request."""

    __slots__ = ("number",)

    def __init__(self, number: int | str) -> None:
        self.number = number


class Call:
    """A call of a tool, which is answered once: with `answer`, `fail` or `drop`."""

    __slots__ = ("_back", "_more", "arguments", "meta", "name", "number", "program")

    def __init__(
        self, number: int | str, params: dict[str, Any], program: str, more: dict[str, Any], back: _Single | _Together
    ) -> None:
        self.number = number
        self.name: str = params["name"]
        self.arguments: dict[str, Any] = params.get("arguments") or {}
        self.meta: dict[str, Any] = params.get("_meta") or {}
        self.program = program
        """Name and version of the client."""
        self._more, self._back = more, back

    def answer(self, result: dict[str, Any]) -> None:
        self._say({"result": {**result, **self._more}})

    def fail(self, code: int, message: str) -> None:
        self._say({"error": jsonrpc.error(code, message)})

    def drop(self) -> None:
        """Do not answer: the client cancelled the call."""
        self._back.settle()

    def _say(self, outcome: dict[str, Any]) -> None:
        self._back.settle({"jsonrpc": "2.0", "id": self.number, **outcome})


class _Single:
    """The way back for the answer to a message that came by itself."""

    def __init__(self, send: Send) -> None:
        self._send = send

    def settle(self, answer: dict[str, Any] | None = None) -> None:
        if answer is not None:
            self._send(jsonrpc.encoded(answer))


class _Together:
    """The way back for the answers to a batch: they are sent together, once the last of them is there."""

    def __init__(self, send: Send, messages: int) -> None:
        from _thread import allocate_lock

        self._send = send
        self._left = messages
        self._answers: list[dict[str, Any]] = []
        self._lock = allocate_lock()

    def settle(self, answer: dict[str, Any] | None = None) -> None:
        with self._lock:
            self._left -= 1
            self._answers += [] if answer is None else [answer]
            done = not self._left and self._answers
        if done:
            self._send(jsonrpc.encoded(self._answers))


class Connection:
    """The server's end of a connection. `answers` is the prepared file: see `declared`."""

    def __init__(self, answers: dict[str, Any], send: Send) -> None:
        self._prepared = answers
        self._send = send
        self._single = _Single(send)
        self._modern: bool | None = None
        """Whether the client speaks the newer era; None before its first request."""
        self._revision = ""
        """The revision that a handshake agreed on."""
        self._program = ""

    def receive(self, line: bytes) -> list[Call | Cancelled]:
        """Answer a line; return the calls and cancellations in it, in their order."""
        if refused := jsonrpc.refusal(line):
            self._send(refused)
            return []
        if not line.strip():
            return []
        try:
            message = json.loads(line.decode(errors="replace"))
        except (ValueError, RecursionError):
            self._send(jsonrpc.failure(None, jsonrpc.PARSE_ERROR, "the line is not JSON"))
            return []
        if isinstance(message, list):
            return self._batch(message)
        found = self._message(message, self._single)
        return [found] if found else []

    def _batch(self, messages: list[Any]) -> list[Call | Cancelled]:
        if self._revision != BATCHES or not messages:
            why = "a batch is empty" if not messages else f"only revision {BATCHES} of the protocol has batches"
            self._send(jsonrpc.failure(None, jsonrpc.INVALID_REQUEST, why))
            return []
        together = _Together(self._send, len(messages))
        return [found for message in messages if (found := self._message(message, together, batched=True))]

    def _message(self, message: object, back: _Single | _Together, *, batched: bool = False) -> Call | Cancelled | None:
        """Handle one message: answer it, return what it asks for, or ignore it."""
        number = None
        try:
            if not isinstance(message, dict):
                raise Refused(jsonrpc.INVALID_REQUEST, "a message must be a JSON object")
            number = jsonrpc.identity(message.get("id"))
            if "method" not in message and ("result" in message or "error" in message):
                back.settle()  # this server asks nothing of its client
                return None
            method, params = _checked(message, number)
            if "id" not in message:
                back.settle()
                return _noticed(method, params)
            assert number is not None
            if batched and method == "initialize":
                raise Refused(jsonrpc.INVALID_REQUEST, "initialize must not be part of a batch")
            found = self._request(number, method, params, back)
        except Refused as refused:
            back.settle({"jsonrpc": "2.0", "id": number, "error": refused.error})
            return None
        if isinstance(found, Call):
            return found
        back.settle({"jsonrpc": "2.0", "id": number, "result": found})
        return None

    def _request(
        self, number: int | str, method: str, params: dict[str, Any], back: _Single | _Together
    ) -> Call | dict[str, Any]:
        """Return the result of a request, or the call that has it later."""
        meta = params.get("_meta")
        enveloped = isinstance(meta, dict) and _VERSION in meta
        if self._modern is None:
            self._modern = enveloped and method != "initialize"
        if self._modern:
            return self._modern_request(number, method, params, back)
        if method == "initialize":
            return self._initialize(params)
        if enveloped:
            raise Refused(jsonrpc.INVALID_REQUEST, _OTHER_ERA)
        if method == "ping":
            return {}
        if method not in ("tools/list", "tools/call"):
            raise _unknown(method)
        if not self._revision:
            raise Refused(jsonrpc.INVALID_PARAMS, "the session has not begun: send initialize first")
        _check(method, params)
        if method == "tools/list":
            return dict(self._prepared[method])
        return Call(number, params, self._program, {}, back)

    def _initialize(self, params: dict[str, Any]) -> dict[str, Any]:
        """Agree on a revision: the one that the client asks for if it is known, else the newest."""
        asked, client = params.get("protocolVersion"), params.get("clientInfo")
        if not (isinstance(asked, str) and isinstance(params.get("capabilities"), dict) and _is_program(client)):
            raise Refused(
                jsonrpc.INVALID_PARAMS,
                "initialize needs protocolVersion, capabilities, and clientInfo with name and version",
            )
        known: list[str] = self._prepared["handshake"]
        self._revision = asked if asked in known else known[-1]
        self._program = _shown(client)
        found = self._prepared["server/discover"]
        info = self._prepared["modern"]["_meta"][f"{_PREFIX}serverInfo"]
        return {
            "protocolVersion": self._revision,
            "capabilities": found["capabilities"],
            "serverInfo": info,
            "instructions": found["instructions"],
        }

    def _modern_request(
        self, number: int | str, method: str, params: dict[str, Any], back: _Single | _Together
    ) -> Call | dict[str, Any]:
        supported: list[str] = self._prepared["server/discover"]["supportedVersions"]
        if method == "initialize":
            asked = params.get("protocolVersion")
            data = {"supported": supported, **({"requested": asked} if isinstance(asked, str) else {})}
            raise Refused(UNSUPPORTED_VERSION, _NO_HANDSHAKE, data)
        program = _envelope(params, supported)
        if method not in ("server/discover", "tools/list", "tools/call"):
            raise _unknown(method)
        _check(method, params)
        more = self._prepared["modern"]
        if method == "tools/call":
            return Call(number, params, program, more, back)
        return {**self._prepared[method], **more, **self._prepared["kept"]}


def _checked(message: dict[str, Any], number: int | str | None) -> tuple[str, dict[str, Any]]:
    """Return the method and the parameters of a request or notification. Raises `Refused` if it is neither."""
    method, params = message.get("method"), message.get("params")
    if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
        raise Refused(jsonrpc.INVALID_REQUEST, 'a request needs "jsonrpc": "2.0" and a method')
    if "id" in message and number is None:
        raise Refused(jsonrpc.INVALID_REQUEST, "the id of a request must be a string or a whole number")
    if not isinstance(params, dict | None):
        raise Refused(jsonrpc.INVALID_PARAMS, "params must be an object")
    return method, params or {}


def _noticed(method: str, params: dict[str, Any]) -> Cancelled | None:
    """Return what a notification asks for. Of those that clients send, only one does."""
    number = jsonrpc.identity(params.get("requestId"))
    return Cancelled(number) if method == "notifications/cancelled" and number is not None else None


def _check(method: str, params: dict[str, Any]) -> None:
    """Check the parameters of a request that this server answers."""
    meta, cursor = params.get("_meta"), params.get("cursor")
    if not isinstance(meta, dict | None):
        raise Refused(jsonrpc.INVALID_PARAMS, "_meta must be an object")
    if method == "tools/list" and not isinstance(cursor, str | None):
        raise Refused(jsonrpc.INVALID_PARAMS, "cursor must be a string")
    if method == "tools/call" and not isinstance(params.get("name"), str):
        raise Refused(jsonrpc.INVALID_PARAMS, "tools/call needs the name of a tool")
    if method == "tools/call" and not isinstance(params.get("arguments"), dict | None):
        raise Refused(jsonrpc.INVALID_PARAMS, "the arguments of a tool must be an object")


def _envelope(params: dict[str, Any], supported: list[str]) -> str:
    """Check what each request of the newer era carries; return name and version of the client."""
    meta = params.get("_meta")
    if not isinstance(meta, dict):
        raise Refused(
            jsonrpc.INVALID_PARAMS,
            f"params._meta must be an object carrying the required {_VERSION!r} and {_CAPABILITIES!r} envelope keys",
        )
    if missing := [key for key in (_VERSION, _CAPABILITIES) if key not in meta]:
        raise Refused(
            jsonrpc.INVALID_PARAMS, f"params._meta is missing the required envelope key(s): {', '.join(missing)}"
        )
    version = meta[_VERSION]
    if not isinstance(version, str):
        raise Refused(jsonrpc.INVALID_PARAMS, "the protocol-version envelope value must be a string")
    if version not in supported:
        raise Refused(
            UNSUPPORTED_VERSION, "Unsupported protocol version", {"supported": supported, "requested": version}
        )
    client = meta.get(_CLIENT)
    if not isinstance(meta[_CAPABILITIES], dict) or not (_CLIENT not in meta or _is_program(client)):
        raise Refused(
            jsonrpc.INVALID_PARAMS, "the client's capabilities must be an object, and its info have name and version"
        )
    return _shown(client)


def _is_program(client: object) -> bool:
    return isinstance(client, dict) and all(isinstance(client.get(name), str) for name in ("name", "version"))


def _shown(client: Any) -> str:
    return f"{client['name']} {client['version']}".strip() if client else ""


def _unknown(method: str) -> Refused:
    return Refused(jsonrpc.METHOD_NOT_FOUND, "Method not found", method)
