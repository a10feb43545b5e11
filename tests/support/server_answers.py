"""Writes the server's prepared answers, from the declarations of its tools and from what the official SDK answers.

`PYTHONPATH=src python -m tests.support.server_answers` writes the file that `claude_bus.mcp.declared` names; a test
compares the two. A stdio server answers from the file, and the launcher of the plugin in its place on a first start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION, MODERN_PROTOCOL_VERSIONS

from claude_bus import __version__
from claude_bus.mcp import declared

FILE = Path(declared.path())
NEWEST = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
"""The `_meta` of each request of the newest protocol."""


def made() -> dict[str, Any]:
    """Return the answers that the file must have; see `declared.prepared`."""
    others = [version for version in HANDSHAKE_PROTOCOL_VERSIONS if version != LATEST_HANDSHAKE_VERSION]
    info = {"name": "claude-bus", "title": "claude-bus", "version": __version__}
    return {
        "handshake": [*others, LATEST_HANDSHAKE_VERSION],
        "server/discover": {
            "capabilities": {"tools": {"listChanged": False}},
            "instructions": declared.INSTRUCTIONS,
            "supportedVersions": list(MODERN_PROTOCOL_VERSIONS),
        },
        "tools/list": {"tools": declared.tools()},
        "modern": {"resultType": "complete", "_meta": {"io.modelcontextprotocol/serverInfo": info}},
        "kept": {"cacheScope": "private", "ttlMs": 0},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(made(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
