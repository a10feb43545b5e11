"""Error responses of the API: always `{"error": code, "message": ..., ...}`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ...errors import BusError, InvalidInput, TooLarge, kinds
from ..responses import refusal, refused, unserved
from .document import methods_at

Responses = dict[int | str, dict[str, Any]]

_GONE = 499
"""Status, for the metrics, of an answer whose client disconnected before reading it."""
_MEANING: dict[int, str] = {
    400: "the request is not valid",
    401: "no token, or none that is valid",
    403: "the token is not for this name or channel",
    404: "it does not exist, or the caller may not see it",
    408: "the request did not arrive in time",
    409: "another agent was first; the data says which, or what",
    413: "the request, or what it would store, is too large",
    421: "the request is addressed to a host name that is not this server's",
    422: "it looks like a secret; repeat with `allow_secret`",
    429: "too many requests; `Retry-After` says when to come back",
    500: "the store failed",
    503: "the store is busy; nothing was changed, try again",
    507: "the disk is full; nothing was changed",
}
_ALWAYS = (400, 401, 403, 408, 413, 421, 429, 500, 503, 507)


class Refusal(BaseModel):
    """Why a request was refused. Some codes come with further data."""

    model_config = ConfigDict(extra="allow")

    error: str = Field(description="A stable code.", examples=["invalid_input"])
    message: str = Field(description="A sentence that says what to do.")


def refusals(*more: int) -> Responses:
    """Return the document's part on refusals: those of every operation, and these."""
    return {status: {"model": Refusal, "description": _described(status)} for status in sorted((*_ALWAYS, *more))}


def _described(status: int) -> str:
    codes = ", ".join(
        f"`{code}`" for code, kind in kinds().items() if kind.http_status == status and kind is not BusError
    )
    return f"{codes}: {_MEANING[status]}" if codes else _MEANING[status]


def handle_in(api: FastAPI) -> None:
    """Make the API answer every error in the one form."""
    api.add_exception_handler(BusError, refused)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _unrouted)
    api.add_exception_handler(ClientDisconnect, _unread)
    api.add_exception_handler(Exception, _unexpected)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if isinstance(error.body, bytes):
        return refusal(InvalidInput("the body is not declared as JSON: send it with Content-Type: application/json"))
    problems = [f"{_place(problem['loc'])}: {problem['msg']}" for problem in error.errors()]
    return refusal(InvalidInput(f"{'; '.join(problems[:5])}. /v1/openapi.json says what is valid"))


def _place(found: tuple[int | str, ...]) -> str:
    """Return the location in the request as one line of ASCII, because the client chooses the names of fields."""
    return ascii(".".join(map(str, found)))[1:-1][:200]


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        methods = ", ".join(methods_at(request.app, path))
        message = f"{request.method} is not possible here; use {methods}"
        return unserved(405, "method_not_allowed", message, {"Allow": methods})
    if error.status_code == 404:
        return unserved(404, "not_found", "there is nothing at this path; /v1/openapi.json lists the paths")
    if error.status_code == 413:
        return refusal(TooLarge("the body is too large"))
    return refusal(InvalidInput("the body is not JSON: send a JSON object in UTF-8"))


async def _unread(_request: Request, _error: Exception) -> Response:
    return Response(status_code=_GONE)


async def _unexpected(_request: Request, _error: Exception) -> Response:
    """Answer an unexpected exception; it is a defect in claude-bus, and the server's log has it."""
    return refusal(BusError("the server failed; its log says more"))
