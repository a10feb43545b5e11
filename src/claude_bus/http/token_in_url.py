"""Tokens in a URL, `/t/SECRET/send`, for clients that can send a token nowhere else.

The secret is removed from the path before any other code sees it: logs, metrics and answers
get no more of the URL than `/send`.
"""

from __future__ import annotations

from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import Forbidden
from ..model.tokens import Grant

SECRET = "secret in the address"  # noqa: S105 - a key, not a secret
"""Key of the secret in a request's state."""
_BEGINS = "/t/"
_WIRES = frozenset({"/send", "/recv", "/inbox", "/healthz", "/post", "/messages", "/health"})
_ACK = "/ack/"


class InUrl:
    """ASGI middleware in front of everything. `prefix`: the path under which everything is served."""

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begins = self._prefix + _BEGINS
        if scope["type"] == "http" and scope["path"].startswith(begins):
            secret, _, rest = scope["path"].removeprefix(begins).partition("/")
            path = f"{self._prefix}/{rest}"
            state = {**scope.get("state", {}), SECRET: secret}
            scope = {**scope, "path": path, "raw_path": quote(path).encode(), "state": state}
        await self._app(scope, receive, send)


def secret_in(scope: Scope) -> str | None:
    """Return the secret that was in the URL; None if the URL had no place for one."""
    found: str | None = scope.get("state", {}).get(SECRET)
    return found


def check_use(grant: Grant, path: str, *, in_url: bool) -> None:
    """Raise `Forbidden` unless a token sent like this may be used at this path (without the prefix)."""
    if in_url and not grant.in_url:
        raise Forbidden(
            "this token must not be part of an address, where others may read it: revoke it, and make one that may, "
            "with `claude-bus token create NAME --in-url`"
        )
    if grant.in_url and not (path in _WIRES or path.startswith(_ACK)):
        raise Forbidden(
            "this token was made for use in an address, and only for /send, /recv, /inbox, /post, /messages, /ack and "
            "/health: make another for the rest"
        )
