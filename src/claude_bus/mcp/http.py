"""MCP over HTTP: one endpoint for clients of both protocol eras.

A client of the older era opens an MCP session with `initialize`, which is its identity. The
newer era (2026-07-28) has no sessions: there a handle in the client's configuration is its
identity. A client without a handle is sent back to the older era, if it supports that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.streamable_http import StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from .. import limits
from ..config import Config
from ..local import LocalBus
from ..model.tokens import Grant
from ..records import record
from ..session.subagents import SessionGroup
from . import tools
from .http_session import key_of
from .participants import MAX_PARTICIPANTS, HttpParticipants, Patience, Rings, Still
from .server import create_server

_log = logging.getLogger(__name__)

SESSION_HEADER = "Mcp-Session-Id"
VERSION_HEADER = "MCP-Protocol-Version"
HANDLE_HEADER = "Bus-Session"
HANDLE_PARAMETER = "session"
MAX_HANDLE = 200
_RESUMES = b"last-event-id"
_CANCELLED = -32800
"""JSON-RPC error code of a cancelled call. Its client is gone, so nothing reads it."""
_SESSION = "session "
"""Prefix of the identity of an MCP session."""
_REFUSED = 400
"""From this status on, the request opened no session."""
_LINE = "line"
"""Key in `scope["state"]` of the request's `_Line`."""
_PATIENCE = Patience()
KEEP_ALIVE = 15.0
"""Seconds without a byte after which an answer begins, lest a proxy gives it up: JSON may begin with spaces."""
_JSON = ((b"content-type", b"application/json"),)
_SPACE = {"type": "http.response.body", "body": b" ", "more_body": True}


class _Line:
    """The state of one HTTP request, and the calls that are answered on it.

    Answers are JSON documents. An event stream for each would be three more tasks.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._attendant: asyncio.Task[None] | None = None
        self._begun = False
        self.status = 0
        self.session = ""
        """The MCP session that the answer names, or ""."""
        self.answered = False
        self._cut = False
        self._calls: list[anyio.CancelScope] = []
        self._gave_up: list[Callable[[], None]] = []

    def serve(self, call: anyio.CancelScope, gave_up: Callable[[], None]) -> None:
        """Register a call that is being answered; `gave_up` is called when its answer cannot be delivered."""
        self._calls.append(call)
        self._gave_up.append(gave_up)
        if self._cut:
            call.cancel()

    def cut(self) -> None:
        """Cancel the calls of this request, because its client disconnected."""
        self._cut = True
        for call in self._calls:
            call.cancel()
        for gave_up in self._gave_up:
            gave_up()

    async def receive(self) -> Message:
        """Receive the body; after its last piece the client is waited for."""
        message = await self._receive()
        if not (self._attendant or message.get("more_body", False)):
            self._attendant = asyncio.create_task(self._keep_up())
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer, and observe it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.session = Headers(raw=message["headers"]).get(SESSION_HEADER, "")
            self.done()
            if self._begun:
                return
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        gone = last and bool(self._calls) and await self._is_gone()
        await self._send(message)
        if last and not gone:
            self.answered = True

    async def _is_gone(self) -> bool:
        """Return whether the client has disconnected. Nobody has watched it if the call was answered soon."""
        message: Message = {}
        with anyio.move_on_after(0):
            message = await self._receive()
        return message.get("type") == "http.disconnect"

    async def _keep_up(self) -> None:
        """Cut the line when the client disconnects; until then, see to it that the connection is not given up."""
        while True:
            with anyio.move_on_after(KEEP_ALIVE):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
                self.cut()
                return
            await self.begin()
            await self._send(_SPACE)

    async def begin(self) -> None:
        """Begin an answer whose end will take long."""
        if not self._begun and not self.status:
            self._begun = True
            await self._send({"type": "http.response.start", "status": 200, "headers": [*_JSON]})

    def done(self) -> None:
        """The answer is there: the client need not be waited for."""
        if self._attendant:
            self._attendant.cancel()


async def _for_ever(_grant: Grant) -> bool:
    return True


@record(frozen=True, slots=True)
class Callers:
    """Access to the middleware before the endpoint, which checks Host, Origin and token."""

    grant_of: Callable[[HTTPConnection], Grant]
    """Returns the grant of a request."""
    still: Still = _for_ever
    """Tells whether a grant is still valid."""
    only_waits: Callable[[HTTPConnection], None] = lambda _connection: None
    """Marks a request as only waiting, so that it may be cancelled."""


class Endpoint:
    """The ASGI app at `/mcp`."""

    def __init__(
        self,
        bus: LocalBus,
        config: Config,
        callers: Callers,
        rings: Rings,
        patience: Patience = _PATIENCE,
    ) -> None:
        for talkative in (StreamableHTTPSessionManager, StreamableHTTPServerTransport):  # they log ids of sessions
            logging.getLogger(talkative.__module__).setLevel(logging.ERROR)
        self._callers = callers
        self._grant_of = callers.grant_of
        self._participants = HttpParticipants(bus, config, rings, patience, callers.still)
        server = create_server(self._group)
        server.middleware.append(self._accompany)
        self._manager = StreamableHTTPSessionManager(
            server, json_response=True, session_idle_timeout=patience.forgotten, max_sessions=MAX_PARTICIPANTS
        )

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Serve for as long as the context lasts."""
        async with self._participants.run(), self._manager.run():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        grant = self._grant_of(connection)
        if grant.token:
            scope["user"] = _user(grant)
        line = scope["state"][_LINE] = _Line(receive, send)
        called = scope["method"] == "POST"
        identity = _identity(connection)
        key = key_of(grant, identity)
        try:
            with (
                self._participants.heard(key, stream=scope["method"] == "GET", limited=bool(identity)),
                self._seated(connection, grant, line),
            ):
                await self._manager.handle_request(_from_now_on(scope), line.receive if called else receive, line.send)
        except ClientDisconnect:
            _log.debug("a client went away while it sent its request")
        finally:
            line.done()
            if not line.answered:
                line.cut()
        ended = line.status == 404 or (scope["method"] == "DELETE" and line.status == 200)
        if ended and identity.startswith(_SESSION):
            await self._participants.end(key)

    @contextlib.contextmanager
    def _seated(self, connection: HTTPConnection, grant: Grant, line: _Line) -> Iterator[None]:
        """Reserve a slot if the request opens an MCP session. Raises `RateLimited` if there is no free slot."""
        if SESSION_HEADER in connection.headers or not _is_older(connection):
            yield
            return
        with self._participants.opening(grant) as opening:
            yield
            if line.session and line.status < _REFUSED:
                opening.became(key_of(grant, f"{_SESSION}{line.session}"))

    def _group(self, ctx: Any) -> SessionGroup:
        """Return the caller's group."""
        connection = _connection(ctx)
        grant = self._grant_of(connection)
        identity = _identity(connection)
        if not identity and not grant.token:
            return self._participants.nobody(grant)
        return self._participants.group(key_of(grant, identity), grant)

    async def _accompany(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Handle one message, but no longer than its client waits for the answer."""
        connection = _connection(ctx)
        if ctx.method == "server/discover" and not _handle(connection):
            raise MCPError(METHOD_NOT_FOUND, f"no session handle ({HANDLE_HEADER}): open a session with initialize")
        if ctx.method != "tools/call":
            return await call_next(ctx)
        if (ctx.params or {}).get("name") == tools.wait.__name__:
            self._callers.only_waits(connection)
            if _is_older(connection):  # in the newer era the status of the answer depends on its end
                await connection.scope["state"][_LINE].begin()
        with anyio.CancelScope() as call:
            connection.scope["state"][_LINE].serve(call, lambda: self._gave_up(connection, ctx.request_id))
            return await call_next(ctx)
        raise MCPError(_CANCELLED, "the client went away")

    def _gave_up(self, connection: HTTPConnection, request: int | str | None) -> None:
        group = self._participants.known(key_of(self._grant_of(connection), _identity(connection)))
        if group and request is not None:
            group.gave_up(request)


def _from_now_on(scope: Scope) -> Scope:
    """Return the request without `Last-Event-ID`: no past events are kept, and with it the library would not answer
    at all."""
    return {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != _RESUMES]}


def _connection(ctx: Any) -> HTTPConnection:
    """Return the HTTP request that carried a message."""
    assert isinstance(ctx.request, HTTPConnection)
    return ctx.request


def _user(grant: Grant) -> AuthenticatedUser:
    """Return the bearer of a token as the MCP library compares it: a session answers only its own bearer."""
    return AuthenticatedUser(AccessToken(token="", client_id=str(grant.token), scopes=[]))


def _identity(connection: HTTPConnection) -> str:
    """Return the identity that a client names: its MCP session or its handle; "" for neither."""
    if _is_older(connection):
        session = connection.headers.get(SESSION_HEADER, "")
        return f"{_SESSION}{session}" if session else ""
    handle = _handle(connection)
    return f"handle {handle}" if handle else ""


def _is_older(connection: HTTPConnection) -> bool:
    """Return whether a request is of the protocol era that has sessions."""
    return connection.headers.get(VERSION_HEADER, HANDSHAKE_PROTOCOL_VERSIONS[0]) in HANDSHAKE_PROTOCOL_VERSIONS


def _handle(connection: HTTPConnection) -> str:
    handle = connection.headers.get(HANDLE_HEADER) or connection.query_params.get(HANDLE_PARAMETER) or ""
    return limits.check_line(handle, "the session handle", MAX_HANDLE)
