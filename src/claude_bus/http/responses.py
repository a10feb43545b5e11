"""Responses of the app: JSON, and errors with the status of their code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ..errors import BusError, InvalidInput

_LATER = (429, 503)
"""Statuses that ask the client to retry."""
REFUSED = "refused"
"""Key in `request.state` that holds the error a request was refused with."""


class Json(JSONResponse):
    """JSON as UTF-8; lone surrogates, which UTF-8 cannot encode, are replaced."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


class _Refusal(Json):
    """Leaves the error in the request's state, for the log and the metrics."""

    def __init__(self, error: BusError, document: object, headers: Mapping[str, str]) -> None:
        super().__init__(document, error.http_status, headers)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[REFUSED] = self._error
        await super().__call__(scope, receive, send)


def refusal(error: BusError, document: Mapping[str, object] | None = None) -> Response:
    """Return the response for this error; `document` is its body in another wire protocol than the usual one."""
    headers = {}
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = 'Bearer realm="claude-bus", Basic realm="claude-bus"'
    if "retry_after" in error.data or error.http_status in _LATER:
        headers["Retry-After"] = str(error.data.get("retry_after", 1))
    return _Refusal(error, document or _plain(error.as_dict()), headers)


def unserved(status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for an unknown path, or an unknown method at a path. All wire protocols share its fields.

    `error` is the protocol's own word; `code` is the same everywhere.
    """
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "invalid_input")
    return Json({"error": error, "code": code, "message": message}, status, headers)


def _plain(document: dict[str, object]) -> Any:
    return json.loads(json.dumps(document, default=str))


async def refused(_request: Request, error: Exception) -> Response:
    """Answer any `BusError` that a route raises, as Starlette's exception handler."""
    assert isinstance(error, BusError)
    return refusal(error)


async def body_of(request: Request) -> dict[str, Any]:
    """Return the JSON object in a request's body. Raises `InvalidInput` if it is not one."""
    try:
        document = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise InvalidInput("the body is not JSON: send a JSON object in UTF-8") from None
    if not isinstance(document, dict):
        raise InvalidInput("the body is not a JSON object")
    return document
