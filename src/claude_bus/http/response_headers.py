"""What is the same for every answer: its security headers, its line in the log, and what a failure looks like."""

from __future__ import annotations

import logging
import re
from urllib.parse import quote

import anyio
from starlette.datastructures import MutableHeaders
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
"""Of every answer; a route may set its own instead."""
HSTS = "max-age=31536000"
"""Over https: browsers do not come back over http for a year."""

_log = logging.getLogger(__name__)
_TOKEN = re.compile(r"bus_[A-Za-z0-9_-]{8,}")
_MCP_SESSION = re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{32}(?![0-9A-Za-z])")
"""The id of an MCP session: who knows it, and needs no token, can be that session."""


class ResponseHeaders:
    """ASGI middleware around all that answers: nothing leaves the server without what is here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = anyio.current_time()
        status = 0

        async def enveloped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _complete(MutableHeaders(raw=message["headers"]), scope)
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
                spent = (anyio.current_time() - began) * 1000
                _log.info("%s %s, %.0f ms, %s", _asked(scope), status, spent, _who(scope))


def _complete(headers: MutableHeaders, scope: Scope) -> None:
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if scope["scheme"] == "https":
        headers.setdefault("Strict-Transport-Security", HSTS)


def _asked(scope: Scope) -> str:
    """Method and path on one line. Never the query: what people put there is theirs."""
    return f"{scope['method'][:20]} {quote(scope['path'])[:200]}"


def _who(scope: Scope) -> str:
    client = scope.get("client")
    grant = scope.get("state", {}).get("grant")
    return f"{client[0] if client else '?'} {quote(grant.owner) if grant and grant.owner else '-'}"


def _failed() -> Response:
    return Json({"error": "error", "message": "the server failed; its log says why"}, 500)


async def unserved(request: Request, error: Exception) -> Response:
    """Starlette's handler for its own errors: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:  # "not found": to the letter what the first of the wires has for an unknown path
        return responses.unserved(404, "not found", "there is nothing at this path")
    if error.status_code == 405:
        methods = (error.headers or {}).get("Allow", "")
        message = f"{ascii(request.method)[1:-1][:20]} is not possible here; use {methods}"
        return responses.unserved(405, "method not allowed", message, error.headers)
    return responses.unserved(error.status_code, "invalid input", error.detail, error.headers)


class Discreet(logging.Formatter):
    """Writes neither a token nor the id of an MCP session into a log, whoever let one get there."""

    def format(self, record: logging.LogRecord) -> str:
        return _MCP_SESSION.sub("***", _TOKEN.sub("bus_***", super().format(record)))
