"""The client's end of a server's pipes: MCP, one JSON object per line."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from . import nursery
from .program import serve, supervise
from .stage import Stage

How = Literal["direct", "supervised", "real"]
_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "claude-code", "version": "0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
_GREETING = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "claude-code", "version": "0"}}


class Gone(Exception):
    """The server, or the supervisor in its place, has ended."""


class Late(Exception):
    """No answer in time; the request was cancelled and its answer will be dropped."""


class Wire:
    """One server of a session, from its start to its end."""

    def __init__(self, pid: int, out: int, into: int, *, greets: bool, direct: bool) -> None:
        self.pid = pid
        self.direct = direct
        """Tells whether the server is connected directly, without a supervisor, so this wire always leads to the
        same process.
        """
        self._out, self._into = out, into
        self._rest = b""
        self._number = 0
        self._greets = greets

    def greet(self, patience: float) -> None:
        """Perform the handshake, in the protocols that have one."""
        if self._greets:
            self.ask("initialize", _GREETING, patience)
            self._write({"method": "notifications/initialized"})

    def call(self, tool: str, arguments: Mapping[str, Any], patience: float) -> dict[str, Any]:
        """Call a tool; returns the whole answer. Raises `Gone` or `Late`."""
        meta = {} if self._greets else {"_meta": _META}
        return self.ask("tools/call", {"name": tool, "arguments": arguments, **meta}, patience)

    def ask(self, method: str, params: Mapping[str, Any], patience: float) -> dict[str, Any]:
        self._number += 1
        number = self._number
        self._write({"id": number, "method": method, "params": params})
        end = time.monotonic() + patience
        while (found := self._read(end)).get("id") != number:
            if not found:
                self._write({"method": "notifications/cancelled", "params": {"requestId": number}})
                raise Late
        return found

    def _write(self, message: dict[str, Any]) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._into, data) :]
        except BrokenPipeError:
            raise Gone from None

    def _read(self, end: float) -> dict[str, Any]:
        """The next message of the server, or an empty one at the timeout."""
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._out], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return {}
            chunk = os.read(self._out, 1 << 16)
            if not chunk:
                raise Gone
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def hang_up(self) -> int:
        """Close stdin and wait until the other side ends; returns its exit status."""
        with contextlib.suppress(OSError):
            os.close(self._into)
        while os.read(self._out, 1 << 16):
            pass
        os.close(self._out)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def launch(stage: Stage, seat: str, label: str, env: Mapping[str, str], how: How, *, greets: bool) -> Wire:
    """Start a server for this very process: forked, under a forked supervisor, or with exec as the real client does."""
    (source, into), (out, sink) = os.pipe(), os.pipe()
    if how == "real":
        pid = _execute(stage, seat, env, source, sink)
    else:
        body: Callable[..., None] = serve if how == "direct" else supervise
        pid = nursery.fork(lambda: body(stage, seat, label, env, source, sink), [source, sink, stage.roll.into])
    os.close(source)
    os.close(sink)
    return Wire(pid, out, into, greets=greets, direct=how == "direct")


def _execute(stage: Stage, seat: str, env: Mapping[str, str], source: int, sink: int) -> int:
    with stage.log(seat).open("ab") as log:
        started = subprocess.Popen(
            [sys.executable, "-m", "claude_bus"], env=dict(env), stdin=source, stdout=sink, stderr=log
        )
    stage.roll.say("real", seat=seat, supervisor=started.pid)
    started.returncode = 0  # it is waited for by its pid
    return started.pid
