"""The ASGI app: everything that is served, behind authentication."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount, Route, Router

from ..compat.routes import routes as compat_routes
from ..config import Config, Serving
from ..errors import BusError
from ..local import LocalBus
from ..mcp.http import Callers, Endpoint
from . import rpc
from .api import app as api
from .auth import Authenticate
from .background import run_for_good, run_upkeep
from .hosts import Allowed, is_loopback
from .hub import Hub, listener
from .in_flight import InFlight
from .metrics import Measure, Metrics
from .origins import OriginCheck, cors
from .quotas import Quotas
from .response_headers import ResponseHeaders, unserved
from .responses import refused
from .service import Service, grant_of, only_waits
from .token_cache import TokenCache
from .token_in_url import InUrl


def create_app(bus: LocalBus, config: Config, serving: Serving, *, tokens: bool) -> Starlette:
    """Return the app that serves `bus`. `tokens`: whether every caller must present one.

    Its `state.in_flight` holds the requests in flight; the code that runs the app ends them when it stops.
    """
    token_cache = TokenCache(bus, closed=tokens)
    in_flight = InFlight(token_cache, serving.connections)
    service = Service(bus, Hub(bus), config, serving, token_cache)
    metrics = Metrics(service.hub)
    callers = Callers(grant_of, token_cache.still, only_waits)
    mcp = Endpoint(bus, config, callers, lambda address: service.hub.signal(listener(address)))

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            for run in (service.hub.run, partial(run_upkeep, bus), in_flight.run):
                tasks.start_soon(run_for_good, run)
            async with mcp.run():
                yield
            tasks.cancel_scope.cancel()

    routes = [*_routes(service), *metrics.routes(), Route("/mcp", mcp), Route("/mcp/", mcp)]
    app = Starlette(
        routes=[Mount(serving.prefix, Router(routes, redirect_slashes=False))] if serving.prefix else routes,
        middleware=[
            Middleware(InUrl, prefix=serving.prefix),
            Middleware(Measure, metrics=metrics),
            *_before_routes(serving, token_cache, in_flight),
        ],
        exception_handlers={BusError: refused, HTTPException: unserved},
        lifespan=lifespan,
    )
    # A redirect names a scheme: http if a proxy does not report https, and the client would send its token there.
    app.router.redirect_slashes = False
    app.state.in_flight = in_flight
    return app


def _before_routes(serving: Serving, token_cache: TokenCache, in_flight: InFlight) -> list[Middleware]:
    """Return the layers around the routes, outermost first: response headers, Host/Origin check, authentication."""
    allowed = Allowed(_machine(serving), serving.hosts, serving.origins)
    return [
        Middleware(ResponseHeaders),
        Middleware(OriginCheck, token_cache=token_cache, allowed=allowed),
        *cors(allowed),
        Middleware(
            Authenticate,
            token_cache=token_cache,
            in_flight=in_flight,
            quotas=Quotas(serving.requests),
            prefix=serving.prefix,
        ),
    ]


def _machine(serving: Serving) -> set[str]:
    """Return the host names of this machine. The full one may take a DNS query, so it is only asked for if needed."""
    name = socket.gethostname()
    short = name.split(".")[0]
    full = set() if is_loopback(serving.host) else {socket.getfqdn()}
    return {name, short, f"{short}.local", serving.host, *full}


def _routes(service: Service) -> list[BaseRoute]:
    return [
        *rpc.routes(service),
        *compat_routes(service),
        *api.routes(service),
    ]
