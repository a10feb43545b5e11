"""The parts that all answers share: security headers, a line in the log, and the answer to a failure."""

from __future__ import annotations

import logging
import re
import time
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import responses
from .responses import Json

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every answer; a route may set its own instead."""
HSTS = "max-age=31536000"
"""Over https: browsers do not return over http for a year."""

_ALWAYS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_OVER_TLS = [*_ALWAYS, (b"strict-transport-security", HSTS.encode())]
_log = logging.getLogger(__name__)
_TOKEN = re.compile(r"bus_[A-Za-z0-9_-]{8,}")
_MCP_SESSION = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{32}(?![0-9A-Za-z])")
"""The id of an MCP session. If no token is needed, knowing it is enough to act as that session."""


class ResponseHeaders:
    """ASGI middleware around everything that answers: no answer leaves the server without these headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status = 0

        async def enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _complete(message["headers"], scope)
            await send(message)

        try:
            await self._app(scope, receive, enveloped)
        except Exception:
            _log.exception("%s failed", _asked(scope))
            if status:
                raise
            await _failed()(scope, receive, enveloped)
        finally:
            if _log.isEnabledFor(logging.INFO):
                spent = (time.monotonic() - began) * 1000
                _log.info("%s %s, %.0f ms, %s", _asked(scope), status, spent, _who(scope))


def _complete(headers: list[tuple[bytes, bytes]], scope: Scope) -> None:
    """Add what is missing. As everywhere in ASGI, the names of headers are in lower case."""
    there = {name for name, _ in headers}
    headers += [header for header in (_OVER_TLS if scope["scheme"] == "https" else _ALWAYS) if header[0] not in there]


def _asked(scope: Scope) -> str:
    """Return method and path on one line, but never the query, which is private to the caller."""
    return f"{scope['method'][:20]} {quote(scope['path'])[:200]}"


def _who(scope: Scope) -> str:
    client = scope.get("client")
    grant = scope.get("state", {}).get("grant")
    return f"{client[0] if client else '?'} {quote(grant.owner) if grant and grant.owner else '-'}"


def _failed() -> Response:
    return Json({"error": "error", "message": "the server failed; its log says why"}, 500)


async def unserved(request: Request, error: Exception) -> Response:
    """Answer Starlette's own errors: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:  # "not found": literally the text of the first wire protocol for an unknown path
        return responses.unserved(404, "not found", "there is nothing at this path")
    if error.status_code == 405:
        methods = (error.headers or {}).get("Allow", "")
        message = f"{ascii(request.method)[1:-1][:20]} is not possible here; use {methods}"
        return responses.unserved(405, "method not allowed", message, error.headers)
    return responses.unserved(error.status_code, "invalid input", error.detail, error.headers)


class Discreet(logging.Formatter):
    """Keeps tokens and ids of MCP sessions out of the log, whatever is logged."""

    def format(self, record: logging.LogRecord) -> str:
        return _MCP_SESSION.sub("***", _TOKEN.sub("bus_***", super().format(record)))
