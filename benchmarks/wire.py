"""A bare MCP client over stdio, which adds next to nothing to the time of a call."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

_CLIENT = {"name": "benchmark", "version": "1"}
_ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": _CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Server:
    """A server process, started and connected; `started_in` is seconds to its first answer."""

    def __init__(self, command: Sequence[str], env: dict[str, str], *, modern: bool = True) -> None:
        self._modern = modern
        self._id = 0
        begin = time.perf_counter()
        self.process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._connect()
        self.started_in = time.perf_counter() - begin

    def _connect(self) -> None:
        if self._modern:
            self.request("server/discover", {})
            return
        self.request("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": _CLIENT})
        self._write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def _write(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its result."""
        self._id += 1
        if self._modern:
            params = {**params, "_meta": _ENVELOPE}
        self._write({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        assert self.process.stdout
        while line := self.process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            if answer.get("id") == self._id:
                result: dict[str, Any] = answer["result"]
                return result
        raise ConnectionError("the server ended")

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its result. Raises `RuntimeError` for an error of the tool."""
        result = self.request("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise RuntimeError(str(result["content"]))
        return result

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
