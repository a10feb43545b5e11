"""Hand-overs to a remote program whose connection loses answers: nothing is lost, and nothing is called read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import httpx2
import pytest

from claude_bus.config import Access, Config, Serving
from claude_bus.connect import open_local
from claude_bus.errors import ShuttingDown, StoreBusy, Unreachable
from claude_bus.http.app import create_app
from claude_bus.model.identity import Address, Client, Folder, Process
from claude_bus.model.messages import Draft
from claude_bus.remote.bus import RemoteBus
from claude_bus.session.membership import Membership
from claude_bus.session.presence import Presence
from claude_bus.session.session import Session
from claude_bus.session.turn import Turn
from claude_bus.sql import agents, deliveries, listeners, messages, state
from claude_bus.sql.deliveries import PRINTED
from claude_bus.workspace import Workspace
from tests.support.sessions import batch_hook, prompt_hook

pytestmark = pytest.mark.anyio

ALICE, BOB = Address("alice", "default"), Address("bob", "default")
LAPTOP = Process("laptop", 1, 1.0)
PATIENCE = 20.0


class Line(httpx2.AsyncBaseTransport):
    """A line to a served bus on which the answers about `lost` get lost, and those about `held` wait for `let_go`."""

    def __init__(self, server: httpx2.AsyncBaseTransport) -> None:
        self._server = server
        self.lost = ""
        self.last = ""
        """The last verb that the server runs: its answer gets lost, and no process listens afterwards."""
        self.down = False
        self.ends = ""
        """The verb that a server runs while it shuts down, and does not answer."""
        self.held = ""
        self.holds = anyio.Event()
        self.let_go = anyio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.down:
            raise httpx2.ConnectError("nobody listens")
        found = await self._server.handle_async_request(request)
        if request.url.path == f"/rpc/{self.ends}":
            error = ShuttingDown(
                "the server is about to end; what was asked for may have been done; try again in a moment"
            )
            return httpx2.Response(error.http_status, json=error.as_dict())
        if request.url.path == f"/rpc/{self.last}":
            self.down = True
            raise httpx2.ReadError("the server was killed")
        if request.url.path == f"/rpc/{self.lost}":
            raise httpx2.ReadError("the line broke")
        if request.url.path == f"/rpc/{self.held}":
            self.holds.set()
            await self.let_go.wait()
        return found


class Far:
    """Bob, who is elsewhere, and the bus that he is on."""

    def __init__(self, path: Path) -> None:
        config = Config(path)
        self.bus = open_local(config)
        self.line = Line(httpx2.ASGITransport(create_app(self.bus, config, Serving(), tokens=False)))
        self.remote = RemoteBus("http://127.0.0.1", Access(), LAPTOP, self.line)
        turn = Turn(hooked=True)
        presence = Presence(self.remote, config, Client("key", LAPTOP), turn=turn)
        self.session = Session.of(Membership(presence, Workspace(Folder())))

    async def is_sent(self, content: str) -> int:
        await self.bus.run(agents.join_without_session, ALICE, "test")
        return (await self.bus.run(messages.send, ALICE, Draft(("bob",), content))).id

    async def state(self, message: int) -> str:
        return (await self.bus.run(messages.status, ALICE, message)).receipts[0].state

    async def until_reached(self, step: Callable[[], object]) -> object:
        """Return the result of the step once the connection works again."""
        with anyio.fail_after(PATIENCE):
            while True:
                try:
                    return await step()  # type: ignore[misc]
                except Unreachable:
                    await anyio.sleep(0.05)


@pytest.fixture
async def far(tmp_path: Path) -> AsyncIterator[Far]:
    far = Far(tmp_path / "bus.db")
    await far.session.register("bob")
    yield far
    await far.remote.close()
    await far.bus.close()


async def test_mail_in_a_lost_answer_rings(far: Far) -> None:
    """An idle session that gives no further sign is woken for it: it waits again as soon as a doorbell looks."""
    message = await far.is_sent("did you get this?")
    pulse = far.remote.pulse()
    far.line.lost = "hand_over"
    with pytest.raises(Unreachable):
        await far.session.inbox()
    far.line.lost = ""

    assert await far.state(message) == "handed"
    assert far.remote.pulse() != pulse
    waiting = await far.until_reached(lambda: far.remote.run(deliveries.waiting, BOB))
    assert (waiting.count, waiting.rings) == (1, True)  # type: ignore[attr-defined]
    assert await far.state(message) == "queued"


async def test_what_a_lost_answer_told_is_told_again(far: Far) -> None:
    """The session's name and the other agents: nobody but the server knows that it named them."""
    await far.is_sent("hello")
    await far.session.conversation.compacted()
    far.line.lost = "react"
    with pytest.raises(Unreachable):
        await prompt_hook(far.session, "s", "p1", "default")
    far.line.lost = ""

    found = await far.until_reached(lambda: batch_hook(far.session, "s", "default", "p1"))
    assert "You are 'bob' on the bus." in found.context  # type: ignore[attr-defined]
    assert "hello" in found.context  # type: ignore[attr-defined]


async def test_what_was_received_does_not_ring(far: Far) -> None:
    """Looking whether something waits takes nothing back that its session has."""
    message = await far.is_sent("one")
    assert len((await far.session.inbox()).messages) == 1

    assert (await far.remote.run(deliveries.waiting, BOB)).count == 0
    assert await far.state(message) == "handed"


async def test_a_call_that_is_cancelled_on_its_way_hands_nothing_over(far: Far) -> None:
    """Its mail waits again at once, for whoever asks, and not only for the next call of this program."""
    message = await far.is_sent("one")
    far.line.held = "hand_over"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(far.session.inbox)
        with anyio.fail_after(PATIENCE):
            await far.line.holds.wait()
        tasks.cancel_scope.cancel()
        far.line.let_go.set()

    assert await far.state(message) == "queued"
    far.line.held = ""
    assert [found.content for found in (await far.session.inbox()).messages] == ["one"]


async def test_a_command_gets_what_its_first_answer_lost(far: Far) -> None:
    """The repetition of a call that was answered in vain brings the mail, also to a command that prints it."""
    await far.is_sent("one")
    lost = [True]

    async def once(request: httpx2.Request) -> httpx2.Response:
        found = await Line.handle_async_request(far.line, request)
        if request.url.path == "/rpc/hand_over" and lost.pop():
            lost.append(False)
            raise httpx2.ReadError("the line broke")
        return found

    far.line.handle_async_request = once  # type: ignore[method-assign]
    found = await far.remote.run(deliveries.hand_over, BOB, via=PRINTED, max_chars=10_000)

    assert [message.content for message in found.messages] == ["one"]


async def test_a_server_that_started_in_an_outage_listens_once_it_is_over(far: Far) -> None:
    """The session has its name since an earlier server of it; without a listener its mail would not be announced, and
    what it is handed would count as lost after some minutes."""
    server = Presence(far.remote, Config(Path()), Client("key", LAPTOP))
    far.line.down = True
    with pytest.raises(Unreachable):
        await server.listen_at("remote:1")
    assert await far.bus.run(listeners.server_of, "@@key") is None

    far.line.down = False
    await far.until_reached(server.go_on_listening)
    assert await far.bus.run(listeners.server_of, "@@key") == Process("@@laptop", 1, 1.0)


async def test_a_message_is_sent_once_by_a_server_that_is_killed_with_the_answer(far: Far) -> None:
    """The repetition finds nobody listening. That the first attempt may have arrived is not forgotten over it."""
    await far.bus.run(agents.join_without_session, ALICE, "test")
    me, draft = BOB, Draft(("alice",), "once")
    far.line.last = "send"
    with pytest.raises(Unreachable, match="send the same again, it will not arrive twice") as failed:
        await far.remote.run(messages.send, me, draft)
    far.line.last, far.line.down = "", False
    again = await far.until_reached(lambda: far.remote.run(messages.send, me, draft))

    assert failed.value.data["sent"]
    assert again.duplicate  # type: ignore[attr-defined]
    assert [message.content for message in await far.bus.run(messages.history, ALICE)] == ["once"]


async def test_a_message_is_sent_once_though_its_repetition_is_refused(far: Far) -> None:
    """A store that is busy at the second attempt says nothing of the first, whose answer got lost."""
    await far.bus.run(agents.join_without_session, ALICE, "test")
    draft, attempts = Draft(("alice",), "once"), iter((True, False))

    async def lost_then_refused(request: httpx2.Request) -> httpx2.Response:
        if next(attempts):
            await Line.handle_async_request(far.line, request)
            raise httpx2.ReadError("the line broke")
        error = StoreBusy("another process is writing; nothing was changed, try again")
        return httpx2.Response(error.http_status, json=error.as_dict())

    far.line.handle_async_request = lost_then_refused  # type: ignore[method-assign]
    with pytest.raises(Unreachable, match="send the same again, it will not arrive twice"):
        await far.remote.run(messages.send, BOB, draft)
    del far.line.handle_async_request
    again = await far.until_reached(lambda: far.remote.run(messages.send, BOB, draft))

    assert again.duplicate  # type: ignore[attr-defined]
    assert [message.content for message in await far.bus.run(messages.history, ALICE)] == ["once"]


async def test_a_message_is_sent_once_by_a_server_that_ends(far: Far) -> None:
    """One that is told to end answers so; whether what it was asked for was done before is not known."""
    await far.bus.run(agents.join_without_session, ALICE, "test")
    draft = Draft(("alice",), "once")
    far.line.ends = "send"
    with pytest.raises(Unreachable, match=r"about to end.*send the same again, it will not arrive twice"):
        await far.remote.run(messages.send, BOB, draft)
    far.line.ends = ""
    again = await far.until_reached(lambda: far.remote.run(messages.send, BOB, draft))

    assert again.duplicate  # type: ignore[attr-defined]
    assert [message.content for message in await far.bus.run(messages.history, ALICE)] == ["once"]


async def test_what_a_server_that_ends_may_have_done_is_said_to_be_unknown(far: Far) -> None:
    """A verb that cannot be repeated without harm."""
    far.line.ends = "set_state"
    with pytest.raises(Unreachable, match="not known whether it took effect"):
        await far.remote.run(state.set_state, BOB, "log", "second", mode="append")

    assert await far.bus.run(state.get_state, "default", "log")


async def test_what_is_held_goes_with_a_name_that_another_gave(far: Far) -> None:
    """Where the answer to a renaming got lost, the program finds out its name, and still has what it had."""
    message = await far.is_sent("one")
    await far.session.inbox()
    far.line.lost = "register"
    with pytest.raises(Unreachable):
        await far.session.register("robert")
    far.line.lost = ""

    found = await far.until_reached(far.session.inbox)
    assert found.messages == ()  # type: ignore[attr-defined]
    assert await far.state(message) == "handed"
