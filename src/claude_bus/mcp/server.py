"""The MCP server of a session, made with the official SDK: for `/mcp` over HTTP, and for tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import mcp_types as types
from mcp.server.lowlevel import Server

from .. import __version__
from ..errors import BusError
from ..session.subagents import SessionGroup
from . import calls, declared


def create_server(group_of: Callable[[Any], SessionGroup]) -> Server[Any]:
    """Return a server whose calls act as the session, or subagent, that `group_of` finds for a request context.

    If `group_of` raises a `BusError`, the call fails with it.
    """

    async def list_tools(ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=list(_listed().values()))

    async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            group = group_of(ctx)
        except BusError as error:
            return _result(calls.refused(error))
        found = await calls.call(group, ctx.request_id, params.name, params.arguments or {}, params.meta, _program(ctx))
        return _result(found)

    async def cancelled(ctx: Any, params: types.CancelledNotificationParams) -> None:
        if params.request_id is not None:
            group_of(ctx).gave_up(params.request_id)

    server: Server[Any] = Server(
        "claude-bus",
        version=__version__,
        title="claude-bus",
        instructions=declared.INSTRUCTIONS,
        get_tool_input_schema=_schema,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    server.add_notification_handler("notifications/cancelled", types.CancelledNotificationParams, cancelled)
    return server


@cache
def _listed() -> dict[str, types.Tool]:
    """Return the tools as clients see them, by name. They are the same for every caller."""
    return {tool["name"]: types.Tool.model_validate(tool) for tool in declared.tools()}


def _schema(name: str) -> dict[str, Any] | None:
    found = _listed().get(name)
    return found.input_schema if found else None


def _program(ctx: Any) -> str:
    """Return name and version of the client, as its handshake or each request gives them."""
    said = ctx.session.client_params
    client = said.client_info if said else None
    return f"{client.name} {client.version}".strip() if client else ""


def _result(found: calls.Outcome) -> types.CallToolResult:
    content = [types.TextContent(type="text", text=found.text)] if found.text else []
    return types.CallToolResult(content=[*content], structured_content=found.structured, is_error=found.failed)
