"""A served bus on a small disk, tried through each of its transports in turn.

Run as `python -m tests.support.small_disk_served SCENARIO FOLDER`, see `small_disk`.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2

from tests.support.mcp_clients import Caller
from tests.support.processes import PATIENCE, Answer, Wire, eventually, wire
from tests.support.served_bus import Served, served
from tests.support.small_disk import ROOM, contents, stuff

Said = tuple[int, str]
"""The answer of a transport: the HTTP status, or for a tool call 200 (success) or 0 (failure), and its text."""


class Routes:
    """All transports of one served bus, with a client at each: ways to send, and ways to read."""

    def __init__(self, server: Served, elsewhere: Wire) -> None:
        self._http = httpx2.Client(base_url=server.url, timeout=PATIENCE)
        self._mcp = Caller(server.url)
        self._far = elsewhere
        self.sending: dict[str, Callable[[str], Said]] = {
            "/send": lambda text: self._ask("POST", "/send", {"from": "agent", "to": "bob", "msg": text}),
            "/post": lambda text: self._ask("POST", "/post", {"from": "laptop", "to": "bob", "body": text}),
            "/v1": lambda text: self._ask("POST", "/v1/messages", {"from": "program", "to": "bob", "content": text}),
            "/mcp": lambda text: _said(self._mcp.call("send", to="bob", content=text)),
            "/rpc": lambda text: _said(self._far.call("send", to="bob", content=text)),
        }

    def join(self) -> dict[str, Said]:
        """The answers to the sessions' registration."""
        opened = self._mcp.post("initialize", **self._mcp.greeting())
        if opened.status_code != 200:
            return {"/mcp": (opened.status_code, opened.text), "/rpc": self._far_joins()}
        self._mcp.adopt(opened.headers["Mcp-Session-Id"])
        return {"/mcp": _said(self._mcp.call("register", name="mcp")), "/rpc": self._far_joins()}

    def _far_joins(self) -> Said:
        return _said(self._far.call("register", name="far"))

    def send(self, content: str) -> dict[str, Said]:
        """The answer of each transport to a message."""
        return {route: send(f"{content} by {route} {'x' * 4000}") for route, send in self.sending.items()}

    def send_as_programs(self, content: str) -> dict[str, Said]:
        """The same, for transports whose clients need not be sessions."""
        return {route: self.sending[route](f"{content} by {route}") for route in ("/send", "/post", "/v1")}

    def write(self) -> dict[str, Said]:
        """The answers of the transports to other writes."""
        said = {
            "/ack": self._ask("POST", "/ack/1", {"reader": "bob"}),
            "/v1/agents/bob/inbox/ack": self._ask("POST", "/v1/agents/bob/inbox/ack", {"ids": [1]}),
            "/v1/state/k": self._ask("PUT", "/v1/state/k", {"as": "program", "value": "v" * 9000}),
            "/v1/claims": self._ask("POST", "/v1/claims", {"as": "program", "paths": ["port:1"], "ttl": 60}),
        }
        for route, session in (("/mcp", self._mcp), ("/rpc", self._far)):
            said[f"{route} set_state"] = _said(session.call("set_state", key="k", value="v" * 9000))
            said[f"{route} claim"] = _said(session.call("claim", path=f"gpu:{route}"))
        return said

    def look(self, sessions: Sequence[str] = ("/mcp", "/rpc")) -> dict[str, Said]:
        """The answers of the transports to known clients that only read."""
        paths = (
            *("/recv?to=agent&since=0", "/inbox", "/healthz", "/health", "/metrics"),
            *("/messages?to=bob", "/messages?unread_by=laptop"),
            *("/v1/messages?as=program", "/v1/messages/3?as=program", "/v1/agents/program/inbox"),
            *("/v1/state", "/v1/claims", "/v1/agents", "/v1/events"),
        )
        said = {path: self._ask("GET", path) for path in paths}
        for route in sessions:
            session = self._mcp if route == "/mcp" else self._far
            for tool in ("whoami", "list_state", "list_claims", "agents", "history"):
                said[f"{route} {tool}"] = _said(session.call(tool))
        return said

    def _ask(self, method: str, path: str, body: object = None) -> Said:
        found = self._http.request(method, path, json=body) if body else self._http.request(method, path)
        return found.status_code, found.text


def _said(answer: Answer) -> Said:
    return 0 if answer.failed else 200, answer.text


def done(said: dict[str, Said]) -> list[str]:
    """The transports whose request succeeded."""
    return [route for route, (status, _) in said.items() if status in (200, 201)]


class Small:
    """A bus on the small disk, served to remote clients; its log is on another disk with room."""

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self.folder = folder
        self._running = running
        self._logs = folder.parent / "logs"
        self._logs.mkdir()
        self.server = self._start("0")
        self._far = running.enter_context(wire(folder / "nobody's.db", BUS_URL=self.server.url))

    def _start(self, port: str) -> Served:
        return self._running.enter_context(served(self.folder / "bus.db", port=port, logs=str(self._logs)))

    def restart(self) -> None:
        """Kill the server without warning, and start it again at the same address."""
        self.server.process.kill()
        self.server.process.wait(PATIENCE)
        self.server = self._start(self.server.url.rpartition(":")[2])

    def routes(self) -> Routes:
        return Routes(self.server, self._far)

    def ends_well(self) -> bool:
        """Tells whether the server ran until it was told to end, and logged no failure of its own."""
        self.server.process.terminate()
        status = self.server.process.wait(PATIENCE)
        return status in (0, -15) and "Traceback" not in self.server.log.read_text(encoding="utf-8")


@contextlib.contextmanager
def small(folder: Path) -> Iterator[Small]:
    with ExitStack() as running:
        yield Small(folder, running)


def age(db: Path) -> None:
    """Age the last signs of life, so that presence is due to be written again."""
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("UPDATE agents SET last_seen = last_seen - 3600")
        connection.execute("UPDATE bindings SET heartbeat = heartbeat - 60")


def full(routes: Routes) -> tuple[list[str], dict[str, Said]]:
    """Send until every send fails; returns the accepted messages by their first words, and the last answers."""
    accepted: list[str] = []
    for n in range(1000):
        said = routes.send(str(n))
        accepted += [f"{n} by {route}" for route in done(said)]
        if not done(said):
            return accepted, said
    raise AssertionError("the disk is never full")


def write_until_full(routes: Routes) -> dict[str, Said]:
    """Write until every write fails, as a small one may fit where a message does not; returns the last answers."""
    for _ in range(1000):
        said = routes.write()
        if not done(said):
            return said
    raise AssertionError("the disk is never full")


def fill(folder: Path) -> dict[str, Any]:
    """Send over every transport until the disk is full, try all of them, make room, send again, read everything."""
    ballast = folder / "ballast"
    ballast.write_bytes(b"x" * ROOM)
    with small(folder) as bus:
        routes = bus.routes()
        joined = routes.join()
        routes.send("first")
        age(folder / "bus.db")
        accepted, refused = full(routes)
        more = stuff(folder, "more")
        seen: dict[str, Any] = {
            "joined": done(joined),
            "refused": refused,
            "written": write_until_full(routes),
            "looked": routes.look(),
            "inside": contents(folder),
        }
        ballast.unlink()
        more.unlink()
        after = routes.send("after")
        seen |= {"after": done(after), "written_after": done(routes.write()), "well": bus.ends_well()}
    wanted = (
        [f"first by {route}" for route in routes.sending] + accepted + [f"after by {route}" for route in done(after)]
    )
    return {**seen, "accepted": len(wanted), "lost": sorted({*wanted} ^ {*_first_words(folder)})}


def _first_words(folder: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(folder / "bus.db")) as db:
        return [" ".join(row[0].split()[:3]) for row in db.execute("SELECT content FROM messages ORDER BY id")]


def full_from_the_start(folder: Path) -> dict[str, Any]:
    """Serve on a full disk that has no bus yet, then make room."""
    ballast = stuff(folder)
    with small(folder) as bus:
        routes = bus.routes()
        refused = {**routes.join(), **routes.send_as_programs("before")}
        ballast.unlink()
        joined = done(routes.join())
        return {"refused": refused, "joined": joined, "after": done(routes.send("after")), "well": bus.ends_well()}


def killed_while_full(folder: Path) -> dict[str, Any]:
    """Kill and restart the server of a full disk, then make room."""
    ballast = folder / "ballast"
    ballast.write_bytes(b"x" * ROOM)
    with small(folder) as bus:
        routes = bus.routes()
        routes.join()
        accepted, _ = full(routes)
        more = stuff(folder, "more")
        bus.restart()
        routes = bus.routes()
        eventually(lambda: "full" in routes.sending["/rpc"]("before")[1], "the session elsewhere has found it again")
        seen: dict[str, Any] = {
            "refused": {**routes.send_as_programs("before"), "/rpc": routes.sending["/rpc"]("before")},
            "looked": routes.look(("/rpc",)),
            "inside": contents(folder),
        }
        ballast.unlink()
        more.unlink()
        seen |= {"joined": done(routes.join()), "after": done(routes.send("after")), "well": bus.ends_well()}
    return {**seen, "accepted": len(accepted), "lost": sorted({*accepted} - {*_first_words(folder)})}


SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "fill": fill,
    "full_from_the_start": full_from_the_start,
    "killed_while_full": killed_while_full,
}

if __name__ == "__main__":
    print(json.dumps(SCENARIOS[sys.argv[1]](Path(sys.argv[2]))))
