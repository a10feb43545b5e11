"""Common parts of the wire protocols of the two earlier systems: parameters in the query, errors as one text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response

from ... import addresses, names
from ...errors import BusError, InvalidInput
from ...http import responses

Endpoint = Callable[[Request], Awaitable[Response]]

MAX_DIGITS = 18
"""Digits of the largest id or count that is taken literally."""


def plain_errors(endpoint: Endpoint) -> Endpoint:
    """Wrap an endpoint so that errors have the form that those clients read: `{"error": text, "code": code}`."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except BusError as error:
            return responses.refusal(error, {"error": error.message, "code": error.code})

    return answer


def parameters(request: Request) -> dict[str, str]:
    """Return the query's parameters without empty ones. Raises `InvalidInput` for one that is given twice."""
    given = request.query_params.multi_items()
    found = dict(given)
    if len(found) < len(given):
        raise InvalidInput("a parameter is given twice: give each once")
    return {name: value for name, value in found.items() if value}


def count(given: Mapping[str, str], name: str, default: int, most: int) -> int:
    """Return a parameter that is a count: `default` if it is missing, never more than `most`."""
    return max(1, min(whole(given[name], name), most)) if name in given else default


def whole(text: str, name: str) -> int:
    """Parse a whole number, 0 or more; one that is too large is replaced by the largest supported one."""
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput(f"{name} must be a whole number, 0 or more")
    return int(text) if len(text) <= MAX_DIGITS else 10**MAX_DIGITS - 1


def channel_of(given: Mapping[str, object]) -> str:
    """Return the channel that a body or query names, or the default channel."""
    named = given.get("channel") or addresses.DEFAULT_CHANNEL
    if not isinstance(named, str):
        raise InvalidInput("channel must be text")
    return names.check_name(named, "channel")
