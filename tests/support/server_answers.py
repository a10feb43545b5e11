"""The server's answers to a client's opening requests, which the launcher gives in its place on a first start.

`PYTHONPATH=src python -m tests.support.server_answers` writes `.claude-plugin/answers.json`; a test compares the two.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION

from tests.support.processes import Wire

FILE = Path(__file__).parents[2] / ".claude-plugin" / "answers.json"
NEWEST = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
"""The `_meta` of each request of the newest protocol."""


def of(server: Wire) -> dict[str, Any]:
    """The answers of a freshly started server, under the keys by which the launcher looks them up.

    `handshake` lists the revisions that begin with `initialize`, the preferred one last. `modern` holds the additional
    fields of each result in the newest revision, and `kept` those of each result that clients may cache.
    """
    discovered = server.ask("server/discover", _meta=NEWEST)["result"]
    listed = server.ask("tools/list", _meta=NEWEST)["result"]
    called = server.ask("tools/call", name="whoami", arguments={}, _meta=NEWEST)["result"]
    modern = {name: called[name] for name in ("resultType", "_meta")}
    kept = {name: listed[name] for name in ("cacheScope", "ttlMs")}
    others = [version for version in HANDSHAKE_PROTOCOL_VERSIONS if version != LATEST_HANDSHAKE_VERSION]
    return {
        "handshake": [*others, LATEST_HANDSHAKE_VERSION],
        "server/discover": {name: discovered[name] for name in discovered if name not in modern | kept},
        "tools/list": {"tools": listed["tools"]},
        "modern": modern,
        "kept": kept,
    }


def ask() -> dict[str, Any]:
    """Ask this version's server for its answers."""
    with tempfile.TemporaryDirectory() as folder:
        server = Wire(Path(folder) / "bus.db")
        try:
            return of(server)
        finally:
            server.kill()


if __name__ == "__main__":
    FILE.write_text(json.dumps(ask(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
