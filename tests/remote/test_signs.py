"""Signs of life over the wire: they go with the calls; servers of earlier versions get them in calls of their own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import httpx2
import pytest

from claude_bus.remote.bus import RemoteBus
from claude_bus.session.doorbell import Doorbell
from claude_bus.session.session import Session
from tests.support.sessions import Party, say, state_of, stop_hook

pytestmark = pytest.mark.anyio


class Server(httpx2.AsyncBaseTransport):
    """The way to a server; `earlier`: it is of a version that knows no signs of life."""

    def __init__(self, server: httpx2.AsyncBaseTransport) -> None:
        self._server = server
        self.earlier = False
        self.asked: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        verb = request.url.path.rpartition("/")[2]
        self.asked.append(verb)
        if not self.earlier:
            return await self._server.handle_async_request(request)
        if verb in ("begin", "look"):
            return httpx2.Response(404, json={"error": "not_found", "message": f"has no verb '{verb}'"})
        if "sign" in json.loads(await request.aread()):
            said = f"{verb}: sign: Extra inputs are not permitted"
            return httpx2.Response(400, json={"error": "invalid_input", "message": said})
        answer = await self._server.handle_async_request(request)
        del answer.headers["Claude-Bus-Signs"]
        return answer


@pytest.fixture
async def party(tmp_path: Path) -> AsyncIterator[Party]:
    party = Party(tmp_path / "bus.db", served=True)
    yield party
    await party.close()


def way(session: Session) -> Server:
    """Put a `Server` between the session and its server."""
    connection = cast(RemoteBus, session.bus)._connection
    assert connection._transport
    server = Server(connection._transport)
    connection._transport = server
    return server


async def look(session: Session) -> list[str]:
    """One look of the session's doorbell; the texts that it rang with."""
    rung: list[str] = []

    async def push(text: str, _sender: str) -> bool:
        rung.append(text)
        return True

    await Doorbell(session, session.bus, push, lambda: True)._look(True)
    return rung


async def test_a_start_a_call_and_a_look_are_one_request_each(party: Party) -> None:
    """The session takes part, sends, reads, and asks what waits."""
    session = party.session(name="alice", may_wake=lambda _mode: True)
    server = way(session)

    await session.presence.listen_at("udp:127.0.0.1:1")
    await say(session, "bob")
    await session.inbox()
    await session.list_state("")
    await look(session)

    assert server.asked == ["begin", "send", "hand_over", "list_state", "look"]


async def test_a_server_of_an_earlier_version_is_asked_as_before(party: Party) -> None:
    """Presence first, then the verb."""
    session = party.session(name="alice", may_wake=lambda _mode: True)
    server = way(session)
    server.earlier = True

    await session.presence.listen_at("udp:127.0.0.1:1")
    started, server.asked = server.asked, []
    await say(session, "bob")
    await stop_hook(session, "s", "default")
    await say(await party.join("carol"), "alice")

    assert started == ["begin", "binding", "attach", "register", "forget", "observe", "listen"]
    assert server.asked == ["observe", "send", "react"]
    assert len(await look(session)) == 1


async def test_a_server_that_is_set_back_to_an_earlier_version_is_noticed(party: Party) -> None:
    """The call that finds out is made once more, without its sign; what it did before is nothing."""
    session = await party.join("alice")
    server = way(session)
    bob = await party.join("bob")
    session.bus._connection._http = None  # type: ignore[attr-defined]
    await say(session, "bob", "one")
    server.earlier, server.asked = True, []

    await say(session, "bob", "two")
    await say(session, "bob", "three")

    assert server.asked == ["send", "observe", "send", "observe", "send"]
    assert [message.content for message in (await bob.inbox()).messages] == ["one", "two", "three"]


@pytest.mark.parametrize("earlier", [False, True])
async def test_a_session_that_was_bound_anew_is_found_out(party: Party, earlier: bool) -> None:
    """Its server learns the new name, and the call is made in that."""
    session = await party.join("alice")
    way(session).earlier = earlier
    session.bus._connection._http = None  # type: ignore[attr-defined]
    other = party.session(session.client)
    await other.register("alicia")
    bob = await party.join("bob")

    await say(session, "bob")

    assert [message.sender for message in (await bob.inbox()).messages] == ["alicia"]


async def test_what_a_call_proves_goes_with_it(party: Party) -> None:
    """Without hooks the next call is the proof, and takes no request of its own."""
    alice, bob = await party.join("alice"), party.session()
    server = way(bob)
    await bob.register("bob")
    message = await say(alice, "bob")
    await bob.inbox()
    server.asked.clear()

    await bob.list_state("")

    assert server.asked == ["list_state"]
    assert await state_of(alice, message) == "read"
