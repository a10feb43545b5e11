"""The one guard in front of everything: who calls, and whether they may.

It finds the caller's grant and leaves it in the request's state (see `service.grant_of`).
Without tokens, on loopback, everybody has the grant that permits everything.
"""

from __future__ import annotations

import base64
import binascii

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..bus import LocalBus
from ..errors import BusError, Unauthorized
from ..model import Grant
from .answers import refusal

OPEN_PATHS = frozenset({"/healthz"})
"""What anybody may ask: whether the server is there."""


class Guard:
    """ASGI middleware. `tokens`: whether callers need one."""

    def __init__(self, app: ASGIApp, *, bus: LocalBus, tokens: bool, prefix: str) -> None:
        self._app = app
        self._bus = bus
        self._tokens = tokens
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope.setdefault("state", {})["grant"] = await self._grant(scope)
        except BusError as error:
            await refusal(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _grant(self, scope: Scope) -> Grant:
        if not self._tokens or scope["path"].removeprefix(self._prefix) in OPEN_PATHS:
            return Grant()
        found = await self._bus.granted(_secret(Headers(scope=scope)))
        if not found:
            raise Unauthorized("no valid token: send 'Authorization: Bearer <token>', or Basic with it as the password")
        return found


def _secret(headers: Headers) -> str:
    """The token in the request: a bearer, or the password of Basic. "" if there is none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
