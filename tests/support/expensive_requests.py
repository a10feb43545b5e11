"""Requests that are as expensive as 2 MiB of JSON can be, for every route that reads a body."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from claude_bus.remote import codec
from claude_bus.sql.catalog import REMOTE

SIZE = 2 * 1024 * 1024 - 2_000
"""Bytes of the expensive part: with what is around it, a body as large as may be."""
MOST = 19_900
"""Values that a body may have, but for those around them."""
DEEP = 55
"""And levels."""
_EACH = SIZE // MOST - 10
LEGACY, MODERN = "2025-11-25", "2026-07-28"
_HOLE = "@hole@"
_PROCESS = {"host": "h", "pid": 1, "started": 1.0}


@cache
def shapes() -> dict[str, bytes]:
    """Values that cost much for their size, by what they are."""
    return {
        "one long word": b'"' + b"x" * SIZE + b'"',
        "line breaks": b'"' + b"\\n" * (SIZE // 2) + b'"',
        "escapes": b'"' + b"\\u0001" * (SIZE // 6) + b'"',
        "quotes": b'"' + b'\\"' * (SIZE // 2) + b'"',
        "brackets in a text": b'"' + b"[{" * (SIZE // 2) + b'"',
        "short texts": b"[" + b",".join([b'"a"'] * (SIZE // 4)) + b"]",
        "numbers": b"[" + b",".join([b"1"] * (SIZE // 2)) + b"]",
        "empty lists": b"[" + b",".join([b"[]"] * (SIZE // 3)) + b"]",
        "empty objects": b"[" + b",".join([b"{}"] * (SIZE // 3)) + b"]",
        "fields": b"{" + b",".join(b'"f%d":0' % n for n in range(SIZE // 13)) + b"}",
        "nested": b"[" * (SIZE // 2) + b"]" * (SIZE // 2),
        "half open": b'{"a":' * (SIZE // 5),
        "digits": b"1" * SIZE,
        "permitted short texts": b"[" + b",".join([b'"a"'] * MOST) + b"]",
        "permitted long texts": b"[" + b",".join([b'"' + b"x" * _EACH + b'"'] * MOST) + b"]",
        "permitted numbers": b"[" + b",".join([b"1"] * MOST) + b"]",
        "permitted lists": b"[" + b",".join([b"[]"] * (MOST // 2)) + b"]",
        "permitted fields": b"{" + b",".join(b'"f%d":0' % n for n in range(MOST)) + b"}",
        "permitted long fields": b"{" + b",".join(b'"%s%d":0' % (b"f" * _EACH, n) for n in range(MOST)) + b"}",
        "permitted depth": b"[" * DEEP + b"]" * DEEP,
    }


@dataclass(frozen=True)
class Target:
    """A request with a place in its body where something expensive may stand."""

    name: str
    path: str
    body: Mapping[str, Any]
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)

    def holes(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Each field of the body, and the body before and behind its value; last, a field that nobody knows."""
        for path in _paths(self.body):
            before, behind = json.dumps(_with(self.body, path, _HOLE)).split(json.dumps(_HOLE))
            yield ".".join(path), before.encode(), behind.encode()
        before, behind = json.dumps({**self.body, "unknown": _HOLE}).split(json.dumps(_HOLE))
        yield "unknown", before.encode(), behind.encode()

    def flood(self) -> bytes:
        """The body, with as many unknown fields as fit."""
        return json.dumps(self.body).encode()[:-1] + b"," + shapes()["permitted fields"][1:]


def _paths(of: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in of.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from _paths(value, (*above, name))


def _with(of: Mapping[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    first, *rest = path
    return {**of, first: _with(of[first], tuple(rest), value) if rest else value}


def wires() -> list[Target]:
    return [
        Target("/send", "/send", {"from": "ann", "to": "bob", "msg": "x", "channel": "default"}),
        Target("/post", "/post", {"from": "ann", "to": "bob", "body": "x", "tags": ["a"], "channel": "default"}),
        Target("/ack", "/ack/1", {"reader": "bob", "channel": "default"}),
    ]


def api() -> list[Target]:
    return [
        Target("/v1/messages", "/v1/messages", {"from": "ann", "to": "bob", "content": "x", "tags": ["a"], "key": "k"}),
        Target("/v1/claims", "/v1/claims", {"as": "ann", "paths": ["src/a.py"], "reason": "x"}),
        Target("/v1/claims, release", "/v1/claims", {"as": "ann", "paths": ["src/a.py"]}, "DELETE"),
        Target("/v1/state", "/v1/state/key", {"as": "ann", "value": {"a": 1}}, "PUT"),
        Target("/v1/agents", "/v1/agents/ann", {"role": "x", "owns": ["src/**"]}, "PUT"),
        Target("/v1/inbox/ack", "/v1/agents/bob/inbox/ack", {"ids": [1]}),
    ]


TOOLS: dict[str, dict[str, Any]] = {
    "register": {"name": "ann", "role": "x", "owns": ["src/**"], "channel": "default"},
    "send": {"to": ["bob"], "content": "x", "tags": ["a"], "key": "", "files": ["a.txt"]},
    "history": {"search": "x", "since": 0},
    "set_state": {"key": "k", "value": {"a": 1}},
    "claim": {"path": ["src/a.py"], "reason": "x"},
    "release": {"path": ["src/a.py"], "force": "x"},
    "hook": {
        "event": "UserPromptSubmit",
        "session_id": "s",
        "prompt_id": "p",
        "prompt": "x",
        "path": "x",
        "tools": "x",
    },
}


def mcp(session: str) -> list[Target]:
    """Calls of both eras; `session` is an open MCP session."""
    older = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": LEGACY}
    info = {"name": "attack", "version": "1"}
    opening = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": info}
    found = [Target("/mcp initialize", "/mcp", _rpc("initialize", opening), headers=older)]
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": info,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    for name, arguments in TOOLS.items():
        params = {"name": name, "arguments": arguments}
        newer = {**older, "MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": name}
        found += [
            Target(f"/mcp {name}", "/mcp", _rpc("tools/call", params), headers={**older, "Mcp-Session-Id": session}),
            Target(
                f"/mcp?session {name}",
                "/mcp?session=attack",
                _rpc("tools/call", {**params, "_meta": meta}),
                headers=newer,
            ),
        ]
    return found


def _rpc(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


_ARGUMENTS: dict[str, Any] = {
    "me": {"name": "ann", "channel": "default"},
    "who": {"name": "ann", "channel": "default"},
    "client": "c",
    "message_ids": [1],
    "to": _PROCESS,
    "draft": {"to": ["bob"], "content": "x", "tags": ["a"]},
    "places": [["", "src/a.py", ""]],
    "channel": "default",
    "key": "k",
    "value": "x",
    "role": "x",
    "owns": ["src/**"],
    "search": "x",
    "prefix": "x",
    "reason": "x",
    "tree": "",
    "ttl": 60.0,
    "address": "a",
    "program": "x",
    "call": "x",
    "agent_id": "x",
}


def rpc() -> list[Target]:
    """Every verb that goes over the wire of two claude-bus programs."""
    found = []
    for name, verb in sorted(REMOTE.items()):
        arguments = {key: _ARGUMENTS[key] for key in codec.form(verb).parameters if key in _ARGUMENTS}
        if name in ("attach", "resume", "react", "edit"):
            arguments["client"] = {"key": "c", "process": _PROCESS, "folder": {"cwd": "x"}, "session_id": "s"}
        if name == "react":
            arguments["happening"] = {"via": "hook", "space": 9_000, "proven": [1], "lost": [1], "recalled": [1]}
        found.append(Target(f"/rpc/{name}", f"/rpc/{name}", {"process": _PROCESS, "arguments": arguments, "held": []}))
    return found


def attacks(
    targets: list[Target], wanted: Callable[[str], bool] = lambda _name: True
) -> Iterator[tuple[str, Target, bytes]]:
    """Each place of each target with each shape, by a name for it; those whose name is `wanted`."""
    for target in targets:
        for hole, before, behind in target.holes():
            for shape, value in shapes().items():
                if wanted(name := f"{target.name}: {shape} as {hole}"):
                    yield name, target, before + value + behind
        if wanted(name := f"{target.name}: unknown fields"):
            yield name, target, target.flood()
