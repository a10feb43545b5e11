"""The Host/Origin check: a request must be addressed to this server, and not come from a foreign page in a browser.

An improper request ends its connection: a proxy may have seen another end of the request than
this server does, so the bytes that follow on the connection might be part of it.
"""

from __future__ import annotations

from functools import lru_cache

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import BusError, InvalidInput, Unauthorized
from .hosts import Allowed
from .responses import refusal
from .token_cache import TokenCache

OPEN = "open to all"
"""Key in a request's state: whether callers need no token, as was asked for this request."""
_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
_LOOKED_AT = frozenset(
    name.encode() for name in ("host", "origin", "sec-fetch-site", "transfer-encoding", "content-length", *_FORWARDED)
)
_HOSTS = 256
"""Host headers whose meaning is kept: a server is asked for under a few names."""
Looked = dict[str, list[str]]
_CALLS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_ASKED = ["Authorization", "Content-Type", "Last-Event-ID", "Mcp-Session-Id", "Mcp-Protocol-Version", "Mcp-Method"]
_TOLD = ["Mcp-Session-Id", "Retry-After"]


class OriginCheck:
    """ASGI middleware: checks Host, Origin and Sec-Fetch-Site, before authentication."""

    def __init__(self, app: ASGIApp, *, token_cache: TokenCache, allowed: Allowed) -> None:
        self._app = app
        self._token_cache = token_cache
        self._allowed = allowed
        self._host = lru_cache(_HOSTS)(allowed.check_host)  # what it says of a header never changes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._check(scope)
        except BusError as error:
            answer = refusal(error)
            if isinstance(error, InvalidInput):
                answer.headers["Connection"] = "close"
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _check(self, scope: Scope) -> None:
        if not scope["path"].startswith("/"):
            raise InvalidInput("this server is not a proxy: ask for a path, such as /healthz")
        headers = _looked_at(scope)
        _check_length(scope["http_version"], headers)
        open_to_all = scope.setdefault("state", {})[OPEN] = await self._token_cache.is_open()
        host = self._host(_only(headers, "host"), open_to_all=open_to_all)
        origin = _only(headers, "origin") if "origin" in headers else None
        site = headers.get("sec-fetch-site")
        if origin is not None or site is not None:
            scheme = "https" if scope["scheme"] in ("https", "wss") else "http"
            self._allowed.check_page(host, scheme, origin, site[0] if site else None)
        if open_to_all:
            _check_direct(scope["http_version"], headers)


def _looked_at(scope: Scope) -> Looked:
    """Return the values of the headers that are checked, by name: those that are there, often only Host."""
    found: Looked = {}
    for name, value in scope["headers"]:
        if name in _LOOKED_AT:
            found.setdefault(name.decode(), []).append(value.decode("latin-1"))
    return found


def _check_direct(version: str, headers: Looked) -> None:
    """Raise `Unauthorized` for a request that visibly came through a proxy, which other machines may use.

    nginx sends no headers about its client unless told to. Before 1.29.7 it speaks HTTP/1.0
    unless told otherwise, which current clients do not. Later versions cannot be recognized.
    """
    way_out = "make a token first, with `claude-bus token create NAME` where the bus is served"
    if any(name in headers for name in _FORWARDED):
        raise Unauthorized(f"this came through a proxy, so users of other machines may call: {way_out}")
    if version == "1.0":
        raise Unauthorized(
            f"this is HTTP/1.0, as spoken by proxies that let users of other machines call: {way_out}; or use HTTP/1.1"
        )


def _check_length(version: str, headers: Looked) -> None:
    """Raise `InvalidInput` if two readers of a request might disagree on where it ends (RFC 9112, 6.1)."""
    if not version.startswith("1."):
        raise InvalidInput("this server speaks HTTP/1.1")
    if "transfer-encoding" in headers and ("content-length" in headers or version == "1.0"):
        raise InvalidInput("send either Content-Length or, in HTTP/1.1, Transfer-Encoding: chunked, not both")


def _only(headers: Looked, name: str) -> str:
    """Return the value of a header that must occur exactly once. Raises `InvalidInput` otherwise."""
    values = headers.get(name, [])
    if len(values) != 1:
        raise InvalidInput(f"a request has one {name.capitalize()} header, this has {len(values)}")
    return values[0]


def cors(allowed: Allowed) -> list[Middleware]:
    """Return the middleware that answers CORS requests for the configured origins; nothing if none is configured."""
    if not allowed.origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=sorted(map(str, allowed.origins)),
            allow_methods=_CALLS,
            allow_headers=_ASKED,
            expose_headers=_TOLD,
            allow_private_network=True,
        )
    ]
