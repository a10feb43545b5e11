"""The app: everything that is served, behind one guard."""

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

from ..compat.http import messages_ack, recv_send
from ..config import Config, Serving
from ..errors import BusError
from ..local import LocalBus
from ..mcp.http import Callers, Endpoint
from . import rpc
from .api import app as api
from .auth import Authenticate
from .background import keep_up, lasting
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
    """The app that serves `bus`. `tokens`: whether every caller must present one.

    Its `state.visits` are the requests under way; whoever runs it ends them when it ends.
    """
    gate = TokenCache(bus, closed=tokens)
    visits = InFlight(gate, serving.connections)
    service = Service(bus, Hub(bus), config, serving, gate)
    metrics = Metrics(service.hub)
    callers = Callers(grant_of, gate.still, only_waits)
    mcp = Endpoint(bus, config, callers, lambda address: service.hub.bell(listener(address)))

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            for run in (service.hub.run, partial(keep_up, bus), visits.run):
                tasks.start_soon(lasting, run)
            async with mcp.run():
                yield
            tasks.cancel_scope.cancel()

    routes = [*_routes(service), *metrics.routes(), Route("/mcp", mcp), Route("/mcp/", mcp)]
    app = Starlette(
        routes=[Mount(serving.prefix, Router(routes, redirect_slashes=False))] if serving.prefix else routes,
        middleware=[
            Middleware(InUrl, prefix=serving.prefix),
            Middleware(Measure, metrics=metrics),
            *_before_routes(serving, gate, visits),
        ],
        exception_handlers={BusError: refused, HTTPException: unserved},
        lifespan=lifespan,
    )
    # A redirect names a scheme: http where a proxy does not say that it is https, and the token goes there.
    app.router.redirect_slashes = False
    app.state.visits = visits
    return app


def _before_routes(serving: Serving, gate: TokenCache, visits: InFlight) -> list[Middleware]:
    """What a request passes, from the outside: what every answer has, whom it is for, who asks."""
    allowed = Allowed(_machine(serving), serving.hosts, serving.origins)
    return [
        Middleware(ResponseHeaders),
        Middleware(OriginCheck, gate=gate, allowed=allowed),
        *cors(allowed),
        Middleware(Authenticate, gate=gate, visits=visits, quotas=Quotas(serving.requests), prefix=serving.prefix),
    ]


def _machine(serving: Serving) -> set[str]:
    """The names by which others know this machine. Its full one may have to be asked for: only where it matters."""
    name = socket.gethostname()
    short = name.split(".")[0]
    full = set() if is_loopback(serving.host) else {socket.getfqdn()}
    return {name, short, f"{short}.local", serving.host, *full}


def _routes(service: Service) -> list[BaseRoute]:
    return [
        *rpc.routes(service),
        *recv_send.routes(service),
        *messages_ack.routes(service),
        *api.routes(service),
    ]
