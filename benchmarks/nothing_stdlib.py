"""A baseline: an MCP server of the standard library alone, whose one tool does nothing."""

from __future__ import annotations

import json
import sys
from typing import Any

TOOLS = [{"name": "nothing", "inputSchema": {"type": "object"}}]
OTHERS: dict[str, dict[str, Any]] = {"tools/list": {"tools": TOOLS}, "tools/call": {"content": []}}


def result(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The result of a request; empty for those that have no other."""
    if method == "initialize":
        about = {"name": "nothing", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
    return OTHERS.get(method, {})


for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result(message["method"], message["params"])}
        print(json.dumps(answer), flush=True)
