"""The API as a separate app below `/v1`, with its document at `/v1/openapi.json`."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from ... import __version__
from ..service import Service
from . import about, agents, claims, document, events, inbox, messages, state
from .fields import PATH
from .refusals import handle_in

_PARTS = (about, agents, inbox, messages, state, claims, events)
_DESCRIPTION = (
    "The operations of the bus for programs. Durations are seconds. Every refusal is "
    '`{"error": code, "message": ..., ...}`. Fields may be added to answers; those named here stay.'
)


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes for everything below `/v1`."""
    return [_Below(create_api(service))]


def create_api(service: Service) -> FastAPI:
    """Return the API of this service."""
    api = FastAPI(
        title="claude-bus",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url=None,  # see `document`
        docs_url=None,  # these pages load scripts from other sites
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
    )
    api.state.service = service
    handle_in(api)
    for part in _PARTS:
        api.include_router(part.router)
    api.add_api_route(document.PATH, document.show, include_in_schema=False, response_model=None)
    return api


class _Below(BaseRoute):
    """Hands everything at and below `/v1` to the API: `Mount` would not serve `/v1` itself.

    The path is passed on as it was sent, still encoded; otherwise a key could not contain slashes.
    """

    def __init__(self, api: FastAPI) -> None:
        self.app = api

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
        return (Match.FULL if path == PATH or path.startswith(f"{PATH}/") else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["path"] = scope["raw_path"].decode("latin-1")
        await self.app(scope, receive, send)
