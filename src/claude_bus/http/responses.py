"""How the app answers: JSON, and errors with the status of their code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ..errors import BusError, InvalidInput

_LATER = (429, 503)
"""Statuses that say to come again."""
REFUSED = "refused"
"""Where in a request's state the error is that it was refused with."""


class Json(JSONResponse):
    """JSON as UTF-8; half a surrogate pair, which no UTF-8 has, is replaced."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


class _Refusal(Json):
    """Leaves the error in the request's state, whoever answers with it."""

    def __init__(self, error: BusError, document: object, headers: Mapping[str, str]) -> None:
        super().__init__(document, error.http_status, headers)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[REFUSED] = self._error
        await super().__call__(scope, receive, send)


def refusal(error: BusError, document: Mapping[str, object] | None = None) -> Response:
    """The answer to a request that met this error; `document` is how its wire puts it, if not as all others do."""
    headers = {}
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="claude-bus", Basic realm="claude-bus"'
    if "retry_after" in error.data or error.http_status in _LATER:
        headers["Retry-After"] = str(error.data.get("retry_after", 1))
    return _Refusal(error, document or _plain(error.as_dict()), headers)


def unserved(status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer where nothing is, or nothing for that method. Its fields are the same on all wires.

    `error` is what each of them calls it; `code` is the same everywhere.
    """
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_input")
    return Json({"error": error, "code": code, "message": message}, status, headers)


def _plain(document: dict[str, object]) -> Any:
    return json.loads(json.dumps(document, default=str))


async def refused(_request: Request, error: Exception) -> Response:
    """Starlette's handler for every `BusError` that a route raises."""
    assert isinstance(error, BusError)
    return refusal(error)


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body, or `InvalidInput`."""
    try:
        document = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise InvalidInput("the body is not JSON: send a JSON object in UTF-8") from None
    if not isinstance(document, dict):
        raise InvalidInput("the body is not a JSON object")
    return document
