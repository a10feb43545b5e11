"""Clients of `/mcp` that control exactly what is on the wire: one for each era of the protocol."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import httpx2

from tests.support.processes import PATIENCE, Answer, answer

LEGACY = "2025-11-25"
MODERN = "2026-07-28"
ACCEPT = "application/json, text/event-stream"


class Caller:
    """A client of the older era, identified by the MCP session that it opens."""

    everybody: ClassVar[list[Caller]] = []

    def __init__(self, url: str, token: str = "", **headers: str) -> None:
        self.url = f"{url}/mcp"
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        self.headers = {"Accept": ACCEPT, "Content-Type": "application/json", **authorization, **headers}
        self.http = httpx2.Client(timeout=PATIENCE, headers=self.headers)
        self._ids = iter(range(1, 1_000_000))
        self.everybody.append(self)

    @classmethod
    def close_all(cls) -> None:
        """Close the connections of all callers."""
        while cls.everybody:
            cls.everybody.pop().http.close()

    def open(self, program: str = "test") -> Self:
        """Open an MCP session."""
        opened = self.post("initialize", **self.greeting(program))
        assert opened.status_code == 200, opened.text
        self.adopt(opened.headers["Mcp-Session-Id"])
        done = self.http.post(self.url, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert done.status_code == 202
        return self

    def greeting(self, program: str = "test") -> dict[str, Any]:
        """The result of `initialize`."""
        return {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": program, "version": "1"}}

    def adopt(self, session: str) -> Self:
        """Use this session's id from now on."""
        self.http.headers.update({"Mcp-Session-Id": session, "MCP-Protocol-Version": LEGACY})
        return self

    @property
    def session(self) -> str:
        return self.http.headers["Mcp-Session-Id"]

    def request(self, method: str, **params: Any) -> dict[str, Any]:
        """A JSON-RPC request in the form of the older era."""
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}

    def post(self, method: str, **params: Any) -> httpx2.Response:
        return self.http.post(self.url, json=self.request(method, **params))

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request; returns the answer, which may be an error."""
        response = self.post(method, **params)
        assert response.headers.get("content-type"), f"{response.status_code} {response.text}"
        if not response.headers["content-type"].startswith("text/event-stream"):
            return dict(response.json())
        data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        return dict(json.loads(data[-1]))

    def call(self, tool: str, **arguments: Any) -> Answer:
        """Call a tool."""
        return answer(self.ask("tools/call", name=tool, arguments=arguments))

    def hook(self, event: str, *, session: str = "s1", prompt: str = "p1") -> str:
        """Send a hook event; returns what it puts before the model."""
        found = self.call("hook", event=event, session_id=session, prompt_id=prompt, permission_mode="default")
        output = json.loads(found.text).get("hookSpecificOutput", {})
        return str(output.get("additionalContext", ""))

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Hold open the stream on which a server may send messages of its own."""
        with self.http.stream("GET", self.url, headers={"Accept": "text/event-stream"}) as response:
            assert response.status_code == 200
            yield

    @contextlib.contextmanager
    def calling(self, tool: str, **arguments: Any) -> Iterator[httpx2.Response]:
        """Call a tool without waiting for the answer; leaving the context closes the connection."""
        request = self.request("tools/call", name=tool, arguments=arguments)
        with httpx2.Client(timeout=PATIENCE, headers=self.http.headers) as http:  # noqa: SIM117 - leaving closes the client as well
            with http.stream("POST", self.url, json=request, headers=self.routing("tools/call", tool)) as response:
                yield response

    def routing(self, _method: str, _name: str) -> dict[str, str]:
        """The headers that repeat what the body says."""
        return {}

    def end(self) -> int:
        """Close the MCP session."""
        return self.http.delete(self.url).status_code


class ModernCaller(Caller):
    """A client of the era without sessions, identified by `handle`."""

    def __init__(self, url: str, token: str = "", handle: str = "", **headers: str) -> None:
        super().__init__(url, token, **headers, **({"Bus-Session": handle} if handle else {}))

    def request(self, method: str, **params: Any) -> dict[str, Any]:
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        return super().request(method, **params, _meta=meta)

    def post(self, method: str, **params: Any) -> httpx2.Response:
        routing = self.routing(method, params.get("name", ""))
        return self.http.post(self.url, json=self.request(method, **params), headers=routing)

    def routing(self, method: str, name: str) -> dict[str, str]:
        return {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, **({"Mcp-Name": name} if name else {})}
