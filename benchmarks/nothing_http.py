"""The baseline: a Starlette app whose one route does nothing, served with the settings of `claude-bus serve`."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from claude_bus.http import serve


async def nothing(request: Request) -> Response:
    await request.body()
    return Response(b'{"ok": true}', media_type="application/json")


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    app = Starlette(routes=[Route("/nothing", nothing, methods=["GET", "POST"])])
    server = uvicorn.Server(serve._uvicorn(app, None))  # noqa: SLF001 - exactly the same settings
    print(f"nothing is served at http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    asyncio.run(server.serve([listener]))


if __name__ == "__main__":
    main()
