"""The baselines over HTTP: a Starlette route that does nothing, and the MCP SDK's own server with such a tool.

Plain uvicorn with the parser that `claude-bus serve` uses, and no code of this project.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def nothing(request: Request) -> Response:
    await request.body()
    return Response(b'{"ok": true}', media_type="application/json")


async def list_tools(_context: Any, _params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[types.Tool(name="nothing", input_schema={"type": "object"})])


async def call_tool(_context: Any, _params: types.CallToolRequestParams) -> types.CallToolResult:
    return types.CallToolResult(content=[])


def create_app() -> Starlette:
    server: Server[Any] = Server("nothing", on_list_tools=list_tools, on_call_tool=call_tool)
    manager = StreamableHTTPSessionManager(server)
    return Starlette(
        routes=[Route("/nothing", nothing, methods=["GET", "POST"]), Route("/mcp", StreamableHTTPASGIApp(manager))],
        lifespan=lambda _app: manager.run(),
    )


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(create_app(), http="h11", ws="none", access_log=False, log_level="error")
    print(f"nothing is served at http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    asyncio.run(uvicorn.Server(config).serve([listener]))


if __name__ == "__main__":
    main()
