"""Tokens in an address, `/t/SECRET/send`, for clients that can present one nowhere else.

The secret is taken out of the path before anything else sees it: nothing that logs,
measures or answers is told more of the address than `/send`.
"""

from __future__ import annotations

from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import Forbidden
from ..model.tokens import Grant

SECRET = "secret in the address"  # noqa: S105 - where it is, not one
"""Where the secret is, in a request's state."""
_BEGINS = "/t/"
_WIRES = frozenset({"/send", "/recv", "/inbox", "/healthz", "/post", "/messages", "/health"})
_ACK = "/ack/"


class InUrl:
    """ASGI middleware in front of everything. `prefix`: the path under which everything is."""

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
    """The secret that stood in the address; None if there was no place for one."""
    found: str | None = scope.get("state", {}).get(SECRET)
    return found


def check_use(grant: Grant, path: str, *, in_url: bool) -> None:
    """Raise `Forbidden` unless a token that was presented like this may be used at this path (without the prefix)."""
    if in_url and not grant.in_url:
        raise Forbidden(
            "this token is not made to stand in an address, where others may read it: revoke it, and make one that is, "
            "with `claude-bus token create NAME --in-url`"
        )
    if grant.in_url and not (path in _WIRES or path.startswith(_ACK)):
        raise Forbidden(
            "this token is one to stand in an address, and only for /send, /recv, /inbox, /post, /messages, /ack and "
            "/health: make another for the rest"
        )
