"""MCP over HTTP: one endpoint for clients of both protocol eras.

A client of the older era opens an MCP session with `initialize`; that is who it is. The
newer era (2026-07-28) has no session: there a handle in the client's configuration says
who it is, and a client without one is sent back to the older era, as far as it knows that.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
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
"""The code with which a call is answered that nobody waits for any more; not that anybody reads it."""
_SESSION = "session "
"""What the identity of an MCP session begins with."""
_REFUSED = 400
"""From this status on nothing was opened."""
_LINE = "line"
"""Where a request's line is, in its state."""
_PATIENCE = Patience()


class _Line:
    """One request's connection, and the calls that are answered on it."""

    def __init__(self) -> None:
        self.status = 0
        self.session = ""
        """Which the answer says was opened, or is."""
        self.answered = False
        self._cut = False
        self._calls: list[anyio.CancelScope] = []
        self._gave_up: list[Callable[[], None]] = []

    def serve(self, call: anyio.CancelScope, gave_up: Callable[[], None]) -> None:
        """A call is being answered; `gave_up` is for when the answer goes nowhere."""
        self._calls.append(call)
        self._gave_up.append(gave_up)
        if self._cut:
            call.cancel()

    def cut(self) -> None:
        """The client went away."""
        self._cut = True
        for call in self._calls:
            call.cancel()
        for gave_up in self._gave_up:
            gave_up()

    def watch(self, send: Send) -> Send:
        """`send`, seen from here."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.session = Headers(raw=message["headers"]).get(SESSION_HEADER, "")
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self.answered = True

        return watched


async def _for_ever(_grant: Grant) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Callers:
    """What is known of callers by what is before the endpoint, which checks Host, Origin and token."""

    grant_of: Callable[[HTTPConnection], Grant]
    """What was found out."""
    still: Still = _for_ever
    """Whether that holds by now."""
    only_waits: Callable[[HTTPConnection], None] = lambda _connection: None
    """To be told that a request does nothing any more but wait, and may be cut off."""


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
            server, session_idle_timeout=patience.forgotten, max_sessions=MAX_PARTICIPANTS
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
        line = scope["state"][_LINE] = _Line()
        identity = _identity(connection)
        key = key_of(grant, identity)
        try:
            with (
                self._participants.heard(key, stream=scope["method"] == "GET", limited=bool(identity)),
                self._seated(connection, grant, line),
            ):
                await self._manager.handle_request(_from_now_on(scope), receive, line.watch(send))
        except ClientDisconnect:
            _log.debug("a client went away while it sent its request")
        finally:
            if not line.answered:
                line.cut()
        ended = line.status == 404 or (scope["method"] == "DELETE" and line.status == 200)
        if ended and identity.startswith(_SESSION):
            await self._participants.end(key)

    @contextlib.contextmanager
    def _seated(self, connection: HTTPConnection, grant: Grant, line: _Line) -> Iterator[None]:
        """If the request opens an MCP session, there is a seat for it. Raises `RateLimited`."""
        if SESSION_HEADER in connection.headers or not _is_older(connection):
            yield
            return
        with self._participants.opening(grant) as opening:
            yield
            if line.session and line.status < _REFUSED:
                opening.became(key_of(grant, f"{_SESSION}{line.session}"))

    def _group(self, ctx: Any) -> SessionGroup:
        """Who makes a call."""
        connection = _connection(ctx)
        grant = self._grant_of(connection)
        identity = _identity(connection)
        if not identity and not grant.token:
            return self._participants.nobody(grant)
        return self._participants.group(key_of(grant, identity), grant)

    async def _accompany(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Serve one message, but no longer than its client waits for the answer."""
        connection = _connection(ctx)
        if ctx.method == "server/discover" and not _handle(connection):
            raise MCPError(METHOD_NOT_FOUND, f"no session handle ({HANDLE_HEADER}): open a session with initialize")
        if ctx.method != "tools/call":
            return await call_next(ctx)
        if (ctx.params or {}).get("name") == tools.wait.__name__:
            self._callers.only_waits(connection)
        with anyio.CancelScope() as call:
            connection.scope["state"][_LINE].serve(call, lambda: self._gave_up(connection, ctx.request_id))
            return await call_next(ctx)
        raise MCPError(_CANCELLED, "the client went away")

    def _gave_up(self, connection: HTTPConnection, request: int | str | None) -> None:
        group = self._participants.known(key_of(self._grant_of(connection), _identity(connection)))
        if group and request is not None:
            group.gave_up(request)


def _from_now_on(scope: Scope) -> Scope:
    """The request without the wish to have a stream's events again: there are none that are kept, and the library
    would not answer it at all."""
    return {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != _RESUMES]}


def _connection(ctx: Any) -> HTTPConnection:
    """The request that a message came with."""
    assert isinstance(ctx.request, HTTPConnection)
    return ctx.request


def _user(grant: Grant) -> AuthenticatedUser:
    """The bearer of a token, as the MCP library compares it: a session answers to nobody else."""
    return AuthenticatedUser(AccessToken(token="", client_id=str(grant.token), scopes=[]))


def _identity(connection: HTTPConnection) -> str:
    """What a client calls itself: its MCP session or its handle; "" for neither."""
    if _is_older(connection):
        session = connection.headers.get(SESSION_HEADER, "")
        return f"{_SESSION}{session}" if session else ""
    handle = _handle(connection)
    return f"handle {handle}" if handle else ""


def _is_older(connection: HTTPConnection) -> bool:
    """Whether a request is one of the era that has sessions."""
    return connection.headers.get(VERSION_HEADER, HANDSHAKE_PROTOCOL_VERSIONS[0]) in HANDSHAKE_PROTOCOL_VERSIONS


def _handle(connection: HTTPConnection) -> str:
    handle = connection.headers.get(HANDLE_HEADER) or connection.query_params.get(HANDLE_PARAMETER) or ""
    return limits.check_line(handle, "the session handle", MAX_HANDLE)
