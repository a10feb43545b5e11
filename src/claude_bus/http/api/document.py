"""The OpenAPI document."""

from __future__ import annotations

import copy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path

from ..responses import Json
from ..service import grant_of
from .fields import PATH as API

PATH = f"{API}/openapi.json"

_SCHEMES = {"bearer": {"type": "http", "scheme": "bearer"}, "basic": {"type": "http", "scheme": "basic"}}


async def show(request: Request) -> Response:
    """Return the document for the caller: if the server requires tokens, every operation needs one."""
    document = copy.deepcopy(_described(request.app))
    if grant_of(request).token:
        document["security"] = [{name: []} for name in _SCHEMES]
        document["components"]["securitySchemes"] = _SCHEMES
    if prefix := request.scope.get("root_path"):
        document["servers"] = [{"url": prefix}]
    return Json(document)


def methods_at(api: FastAPI, path: str) -> list[str]:
    """Return all methods at a path. Each operation is a separate route."""
    operations = {**_described(api)["paths"], PATH: {"get": {}}}
    found = [methods for template, methods in operations.items() if compile_path(template)[0].match(path)]
    return sorted({method.upper() for methods in found for method in methods})


def _described(api: FastAPI) -> dict[str, Any]:
    """Return the document that all callers share. Invalid input is a 400 here, not FastAPI's own 422."""
    if not api.openapi_schema:
        document = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
        for path in document["paths"].values():
            for operation in path.values():
                _drop_default_422(operation["responses"])
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        api.openapi_schema = document
    return api.openapi_schema


def _drop_default_422(responses: dict[str, Any]) -> None:
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
