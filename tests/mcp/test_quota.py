"""Quotas of MCP sessions: one token cannot use up the slots of all others."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import httpx2
import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.errors import BusError, RateLimited
from claude_bus.http.responses import refusal
from claude_bus.mcp import participants, quota
from claude_bus.mcp.http import Callers, Endpoint
from claude_bus.mcp.participants import Patience
from claude_bus.mcp.quota import SessionQuota
from claude_bus.model.tokens import Grant
from tests.mcp.test_participants import NEVER, eventually, no_rings
from tests.support.mcp_clients import ACCEPT, LEGACY, Caller, ModernCaller
from tests.support.processes import PATIENCE
from tests.support.served_bus import Served, served
from tests.support.tokens import token

ANNA, BERT = Grant("anna", token=1), Grant("bert", token=2)


# -- the count -------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_each_token_has_so_many() -> None:
    """One more is refused, and told whose sessions they are and for how long; others do not notice until all slots
    are taken.
    """
    here = SessionQuota(of_token=2, of_all=3, patience=60)
    for key in ("one", "two", "two"):
        here.take(key, ANNA)
    with pytest.raises(RateLimited, match="'anna' has 2 sessions") as refused:
        here.take("three", ANNA)
    assert refused.value.data["retry_after"] in range(60, 67)
    here.take("four", BERT)
    with pytest.raises(RateLimited, match="there are 3 sessions"):
        here.take("five", BERT)

    here.free("one")
    here.take("three", ANNA)


@pytest.mark.anyio
async def test_what_is_being_opened_counts() -> None:
    """Parallel requests get no more slots than sequential ones; a failed opening leaves no slot in use."""
    here = SessionQuota(of_token=2, of_all=9, patience=60)
    with here.opening(ANNA) as opening, here.opening(ANNA):
        with pytest.raises(RateLimited), here.opening(ANNA):
            pytest.fail("it is not let in")
        opening.became("one")
    with here.opening(ANNA), pytest.raises(RateLimited):
        here.take("two", ANNA)
    here.take("two", ANNA)


@pytest.mark.anyio
async def test_who_is_silent_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot is freed after the idle time, unless a request of its participant is in flight."""
    monkeypatch.setattr(quota, "_LATER", 0.0)
    here = SessionQuota(of_token=2, of_all=9, patience=0.05)
    here.take("busy", ANNA)
    here.take("silent", ANNA)
    with anyio.fail_after(PATIENCE):
        while "silent" in here._seats:
            here.sweep(lambda key: key == "busy")
            await anyio.sleep(0.01)
    assert set(here._seats) == {"busy"}


# -- counted by the library ----------------------------------------------------------------------


class EndpointClient:
    """The endpoint, for a client whose token is named in the request."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(self), base_url="http://127.0.0.1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})
        try:
            await self.endpoint(scope, receive, send)
        except BusError as error:
            await refusal(error)(scope, receive, send)

    async def ask(self, who: str, method: str, session: str = "") -> httpx2.Response:
        """Send a request that opens a session or belongs to one."""
        client = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": client if method == "initialize" else {}}
        headers = {"Accept": ACCEPT, "Who": who} | ({"Mcp-Session-Id": session} if session else {})
        return await self.http.post("/mcp", json=request, headers=headers)

    def sessions(self) -> int:
        """The number of sessions that the library holds."""
        return len(self.endpoint._manager._server_instances)


@pytest.fixture
async def connect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Awaitable[EndpointClient]]]:
    """Makes an endpoint with two sessions per token, which forgets idle ones after so many seconds."""
    monkeypatch.setattr(participants, "MAX_OF_TOKEN", 2)
    monkeypatch.setattr(participants, "SWEEP_EVERY", 0.01)
    monkeypatch.setattr(quota, "_LATER", 0.05)
    grants = {"anna": ANNA, "bert": BERT}

    def grant_of(connection: HTTPConnection) -> Grant:
        return grants[connection.headers["Who"]]

    async with contextlib.AsyncExitStack() as stack:

        async def make(forgotten: float) -> EndpointClient:
            bus = await stack.enter_async_context(open_local(Config(tmp_path / "bus.db")))
            endpoint = Endpoint(bus, Config(Path()), Callers(grant_of), no_rings, Patience(NEVER, NEVER, forgotten))
            await stack.enter_async_context(endpoint.run())
            return EndpointClient(endpoint)

        yield make


@pytest.mark.anyio
async def test_a_refused_session_is_not_there(connect: Callable[..., Awaitable[EndpointClient]]) -> None:
    """The library holds exactly the opened sessions; an invalid request opens none, and takes no slot."""
    here = await connect(NEVER)
    for _ in range(5):
        assert (await here.ask("anna", "tools/list")).status_code == 400
    opened = [await here.ask("anna", "initialize") for _ in range(5)]
    assert [response.status_code for response in opened] == [200, 200, 429, 429, 429]
    assert here.sessions() == 2
    assert (await here.ask("bert", "initialize")).status_code == 200
    assert here.sessions() == 3


@pytest.mark.anyio
async def test_a_half_made_session_is_forgotten(connect: Callable[..., Awaitable[EndpointClient]]) -> None:
    """A session with nothing after its `initialize` ends after its time, and frees its slot."""
    here = await connect(0.2)
    while (await here.ask("anna", "initialize")).status_code == 200:
        assert here.sessions() <= 2

    async def served_again() -> bool:
        return (await here.ask("anna", "initialize")).status_code == 200

    await eventually(served_again, "it is forgotten")
    assert here.sessions() <= 2


# -- on a served bus -----------------------------------------------------------------------------


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture(autouse=True)
def _all_hang_up() -> Iterator[None]:
    yield
    Caller.close_all()


def opened(server: Served, secret: str = "") -> httpx2.Response:
    """The response to a client that opens a session and does nothing in it."""
    caller = Caller(server.url, secret)
    return caller.post("initialize", **caller.greeting())


def test_a_token_cannot_lock_others_out(db: Path) -> None:
    """With all its sessions open, used or not, a token gets 429; other tokens, and its open sessions, are served."""
    (_, anna), (_, bert) = token(db, "anna*", owner="anna"), token(db, "bert*", owner="bert")
    with served(db, program="tests.support.gated_server", GATE_MAX_OF_TOKEN="4", GATE_MAX_PARTICIPANTS="6") as server:
        first = Caller(server.url, anna).open()
        assert not first.call("register", name="anna").failed
        by_handle = ModernCaller(server.url, anna, handle="x")
        assert not by_handle.call("register", name="anna-x").failed
        with ThreadPoolExecutor(8) as pool:
            statuses = [each.status_code for each in pool.map(lambda _: opened(server, anna), range(8))]
        assert sorted(statuses) == [200] * 2 + [429] * 6

        refused = opened(server, anna)
        assert refused.json()["error"] == "rate_limited"
        assert "'anna' has 4 sessions" in refused.json()["message"]
        assert 1 <= int(refused.headers["Retry-After"]) <= 1805
        said = ModernCaller(server.url, anna, handle="y").call("whoami")
        assert said.failed
        assert "'anna' has 4 sessions" in said.text

        berts = Caller(server.url, bert).open()
        assert not berts.call("register", name="bert").failed
        assert first.call("whoami").text == "anna"
        assert by_handle.call("whoami").text == "anna-x"

        assert first.end() == 200
        assert Caller(server.url, anna).open().call("whoami").text.startswith("not registered")


def test_without_tokens_the_limit_is_for_all(db: Path) -> None:
    """On loopback all callers share the slots; a closed session frees one."""
    with served(db, program="tests.support.gated_server", GATE_MAX_OF_TOKEN="1", GATE_MAX_PARTICIPANTS="3") as server:
        callers = [Caller(server.url).open() for _ in range(3)]
        refused = opened(server)
        assert (refused.status_code, refused.json()["error"]) == (429, "rate_limited")
        assert "there are 3 sessions" in refused.json()["message"]
        assert callers[0].end() == 200
        assert opened(server).status_code == 200
