"""`claude-bus serve` as a program, with routes to try authentication on, and shorter time limits.

`python -m tests.support.gated_server serve` runs it. Its routes belong to no part of the bus.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from claude_bus import grants
from claude_bus.cli.main import run
from claude_bus.compat.http import recv_send
from claude_bus.http import app, auth, connection, quotas, serve
from claude_bus.http.hub import channel
from claude_bus.http.responses import Json, body_of
from claude_bus.http.service import Service, grant_of
from claude_bus.mcp import participants
from claude_bus.mcp.http import Endpoint
from claude_bus.mcp.participants import Patience
from claude_bus.model.identity import Address


def routes(service: Service) -> list[BaseRoute]:  # noqa: C901 - one after another
    released: list[bool] = []

    async def whoami(request: Request) -> Response:
        """The identity that authentication gave the caller."""
        return Json({"owner": grant_of(request).owner, "scheme": request.url.scheme})

    async def echo(request: Request) -> Response:
        return Json({"size": len(await request.body())})

    async def be(request: Request) -> Response:
        """Act as a name, if the token permits it."""
        name = (await body_of(request))["name"]
        return Json({"name": grants.require(grant_of(request), Address(name, "default")).name})

    async def wait(request: Request) -> Response:
        """A long poll: returns when `/release` is requested for the channel."""

        async def look() -> bool:
            return bool(released)

        patience = float(request.query_params.get("block", "60"))
        found = await service.hub.until(look, patience, channel("nowhere"))
        return PlainTextResponse("released" if found else "nothing")

    async def release(_request: Request) -> Response:
        released.append(True)
        service.hub.ring(channel("nowhere"))
        return Json({"released": True})

    async def late(request: Request) -> Response:
        """Takes effect, but answers only some time after the caller's token has ended."""
        while await service.still_granted(grant_of(request)):  # noqa: ASYNC110 - no event announces it
            await anyio.sleep(0.1)
        await anyio.sleep(1.5)
        return PlainTextResponse("done")

    async def stream(request: Request) -> Response:
        """Server-sent events: one at once, then one from time to time."""

        async def events() -> AsyncIterator[str]:
            while True:
                yield "data: here\n\n"
                await anyio.sleep(float(request.query_params.get("every", "60")))

        return StreamingResponse(events(), media_type="text/event-stream")

    async def flood(_request: Request) -> Response:
        """Send more than any client reads."""

        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65_536

        return StreamingResponse(parts())

    async def crash(_request: Request) -> Response:
        raise ZeroDivisionError("what nobody outside may read")

    def waiting(_request: Request) -> Response:
        return Json({"waiting": service.hub.waiting})

    return [
        Route("/whoami", whoami),
        Route("/echo", echo, methods=["POST"]),
        Route("/be", be, methods=["POST"]),
        Route("/wait", wait),
        Route("/release", release, methods=["POST"]),
        Route("/late", late, methods=["POST"]),
        Route("/stream", stream),
        Route("/flood", flood),
        Route("/crash", crash),
        Route("/waiting", waiting),
    ]


def set_limits(given: dict[str, str]) -> None:
    """Lower the limits to what a test can reach."""
    modules: dict[str, Any] = {"HEAD_PATIENCE": connection, "MAX_SILENT": connection, "BODY_PATIENCE": auth}
    modules |= {"WRITE_PATIENCE": connection, "WRONG_TOKENS": quotas, "HANDSHAKE": serve}
    modules |= {"MAX_PARTICIPANTS": participants, "MAX_OF_TOKEN": participants, "HOLD": recv_send}
    for name, module in modules.items():
        if name in given:
            setattr(module, name, int(given[name]))
    if "AFTER_STREAM" in given:
        patience = Patience(after_stream=float(given["AFTER_STREAM"]))
        setattr(app, "Endpoint", partial(Endpoint, patience=patience))  # noqa: B010 - no name that others may import


if __name__ == "__main__":
    parts = app._routes

    def all_routes(service: Service) -> list[BaseRoute]:
        return [*parts(service), *routes(service)]

    app._routes = all_routes
    set_limits({k.removeprefix("GATE_"): v for k, v in os.environ.items() if k.startswith("GATE_")})
    sys.exit(run(sys.argv[1:]))
