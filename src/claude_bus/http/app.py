"""The app: everything that is served, behind one guard."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route

from ..bus import LocalBus
from ..config import Config, Serving
from ..errors import BusError
from ..mcp.http import Endpoint
from . import messages_ack, recv_send, verbs
from .answers import declined, refused
from .api import app as api
from .guard import Guard
from .hub import Hub, listener
from .metrics import Measure, Metrics
from .service import Service, grant_of


def create_app(bus: LocalBus, config: Config, serving: Serving, *, tokens: bool) -> Starlette:
    """The app that serves `bus`. `tokens`: whether every caller must present one."""
    service = Service(bus, Hub(bus), config, serving)
    metrics = Metrics(service.hub)
    mcp = Endpoint(bus, config, grant_of, lambda address: service.hub.bell(listener(address)))

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.hub.run)
            async with mcp.run():
                yield
            tasks.cancel_scope.cancel()

    routes = [*_routes(service), *metrics.routes(), Route("/mcp", mcp)]
    return Starlette(
        routes=[Mount(serving.prefix, routes=routes)] if serving.prefix else routes,
        middleware=[
            Middleware(Measure, metrics=metrics),
            Middleware(Guard, bus=bus, tokens=tokens, prefix=serving.prefix),
        ],
        exception_handlers={BusError: refused, HTTPException: declined},
        lifespan=lifespan,
    )


def _routes(service: Service) -> list[BaseRoute]:
    return [
        *verbs.routes(service),
        *recv_send.routes(service),
        *messages_ack.routes(service),
        *api.routes(service),
    ]
