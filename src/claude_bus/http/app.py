"""The app: everything that is served, behind one guard."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route

from ..bus import LocalBus
from ..config import Config, Serving
from ..errors import BusError
from ..mcp.http import Endpoint
from .answers import refused
from .guard import Guard
from .hub import Hub, listener
from .service import Service, grant_of


def create_app(bus: LocalBus, config: Config, serving: Serving, *, tokens: bool) -> Starlette:
    """The app that serves `bus`. `tokens`: whether every caller must present one."""
    service = Service(bus, Hub(bus), config, serving)
    mcp = Endpoint(bus, config, grant_of, lambda address: service.hub.bell(listener(address)))

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.hub.run)
            async with mcp.run():
                yield
            tasks.cancel_scope.cancel()

    routes = [*_routes(service), Route("/mcp", mcp)]
    return Starlette(
        routes=[Mount(serving.prefix, routes=routes)] if serving.prefix else routes,
        middleware=[Middleware(Guard, bus=bus, tokens=tokens, prefix=serving.prefix)],
        exception_handlers={BusError: refused},
        lifespan=lifespan,
    )


def _routes(_service: Service) -> list[BaseRoute]:
    return []
