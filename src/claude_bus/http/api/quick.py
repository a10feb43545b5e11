"""Routes whose usual requests skip what FastAPI can do for others: nested dependencies, forms, exit stacks.

A route is declared, and described in the OpenAPI document, as FastAPI has it. A request that is
valid and has the usual form is checked by the same declared fields and goes to the endpoint. Any
other is FastAPI's own to judge: what is refused, and with which words, is its decision alone.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, cast

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from .caller import caller, caller_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_OTHER = ("cookie_params", "request_param_name", "response_param_name", "background_tasks_param_name")
"""Parts of a declaration that this does not know."""


class QuickRoute(APIRoute):
    """A route for an endpoint that takes a caller, parts of the path, and at most one model each for query and body,
    and that makes its answer itself."""

    def get_route_handler(self) -> Handler:
        """Return what FastAPI calls with each request."""
        general = super().get_route_handler()
        form = _Form(self.dependant)
        endpoint = cast(Callable[..., Awaitable[Response]], self.endpoint)
        if not form.is_known:
            return general

        async def handle(request: Request) -> Response:
            values = await form.values(request)
            return await general(request) if values is None else await endpoint(**values)

        return handle


class _Form:
    """The parameters of an endpoint."""

    def __init__(self, declared: Dependant) -> None:
        self._path = declared.path_params
        self._headers = declared.header_params
        self._query = declared.query_params[0] if declared.query_params else None
        self._body = declared.body_params[0] if declared.body_params else None
        self._caller = declared.dependencies[0].name if declared.dependencies else None
        callers = [each.call for each in declared.dependencies]
        self.is_known = (
            callers == [caller]
            and len(declared.query_params) <= 1
            and len(declared.body_params) <= 1
            and not any(getattr(declared, name) for name in _OTHER)
        )

    async def values(self, request: Request) -> dict[str, Any] | None:
        """Return the arguments for the endpoint; None for a request that is not of the usual form, or not valid."""
        assert self._caller
        values: dict[str, Any] = {self._caller: caller_of(request)}
        for header in self._headers:
            if request.headers.get(header.alias) is not None:
                return None
            values[header.name] = header.get_default()
        for part in self._path:
            values[part.name], wrong = part.validate(request.path_params[part.alias], values, loc=("path", part.alias))
            if wrong:
                return None
        if self._query:
            given = request.query_params.multi_items()
            values[self._query.name], wrong = self._query.validate(dict(given), values, loc=("query",))
            if wrong or len(given) > len(dict(given)):
                return None
        if self._body:
            document = await _document(request)
            values[self._body.name], wrong = self._body.validate(document, values, loc=("body",))
            if wrong or document is None:
                return None
        return values


async def _document(request: Request) -> Mapping[str, Any] | None:
    """Return the object in the body; None if there is none, or it is not plainly JSON."""
    if request.headers.get("content-type") != "application/json":
        return None
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
