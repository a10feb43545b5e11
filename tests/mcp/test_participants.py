"""SessionGroup over HTTP: how long each participant counts as present, and what happens afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.errors import NotRegistered, RateLimited, StoreBusy
from claude_bus.local import LocalBus
from claude_bus.mcp import participants
from claude_bus.mcp.http_session import key_of
from claude_bus.mcp.participants import HttpParticipants, Patience, Still
from claude_bus.model.identity import Address
from claude_bus.model.messages import Draft
from claude_bus.model.tokens import Grant
from claude_bus.sql import agents, bindings, deliveries, messages, sessions
from claude_bus.sql.verbs import Verb
from tests.support.processes import PATIENCE
from tests.support.sessions import prompt_hook
from tests.support.verbs import running

pytestmark = pytest.mark.anyio

ANYBODY = Grant()
NEVER = 1e6
ALICE = Address("alice", "default")


class Silent:
    """A bell that never rings."""

    async def rung(self, patience: float) -> bool:
        await anyio.sleep(patience)
        return False


@contextlib.contextmanager
def no_rings(_address: str) -> Iterator[Silent]:
    yield Silent()


async def eventually(holds: Callable[[], Awaitable[object]], what: str) -> None:
    with anyio.move_on_after(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - no event announces it
            await anyio.sleep(0.01)
        return
    pytest.fail(f"not within {PATIENCE} s: {what}")


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[LocalBus]:
    async with open_local(Config(tmp_path / "bus.db")) as bus:
        yield bus


async def for_ever(_grant: Grant) -> bool:
    return True


def those_of(bus: LocalBus, still: Still = for_ever, **patience: float) -> HttpParticipants:
    """Participants without time limits, except for those given."""
    given = {"after_stream": NEVER, "after_call": NEVER, "forgotten": NEVER, **patience}
    return HttpParticipants(bus, Config(Path()), no_rings, Patience(**given), still)


async def is_here(bus: LocalBus, key: str) -> bool:
    return await bus.run(bindings.bound, key) is not None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participants, "SWEEP_EVERY", 0.01)


async def test_who_listens_is_present(bus: LocalBus) -> None:
    """A session with an open stream is present, silent or not; some time after the stream closes, its session is
    over.
    """
    here = those_of(bus, after_stream=0.05, after_call=0.05)
    async with here.run():
        key = key_of(ANYBODY, "one")
        with here.heard(key, stream=True):
            await here.group(key, ANYBODY).session.register("alice")
            await anyio.sleep(0.3)
            assert await is_here(bus, key)
        await eventually(lambda: _not(is_here(bus, key)), "it is over")
        assert (await bus.run(agents.listing, "default"))[0].status == "offline"


async def _not(found: Awaitable[bool]) -> bool:
    return not await found


async def test_who_comes_back_is_the_same(bus: LocalBus) -> None:
    """A session that counted as gone gets its name and its mail back with its next call."""
    here = those_of(bus, after_call=0.05)
    async with here.run():
        key = key_of(ANYBODY, "one")
        with here.heard(key, stream=False):
            session = here.group(key, ANYBODY).session
            await session.register("alice")
        await eventually(lambda: _not(is_here(bus, key)), "it is over")
        await bus.run(messages.send, Address("bob", "default"), Draft(("alice",), "hello"))
        with here.heard(key, stream=False):
            again = here.group(key, ANYBODY).session
            assert [message.content for message in (await again.inbox()).messages] == ["hello"]
            binding = await bus.run(bindings.bound, key)
            assert binding
            assert binding.address == ALICE
            assert binding.registered


async def test_who_listens_again_is_back(bus: LocalBus) -> None:
    """A session whose connection was interrupted for long is present as soon as it listens again."""
    here = those_of(bus, after_stream=0.05)
    async with here.run():
        key = key_of(ANYBODY, "one")
        with here.heard(key, stream=True):
            await here.group(key, ANYBODY).session.register("alice")
        await eventually(lambda: _not(is_here(bus, key)), "it is over")
        with here.heard(key, stream=True):
            await eventually(lambda: is_here(bus, key), "it is back")
            binding = await bus.run(bindings.bound, key)
            assert binding
            assert binding.address == ALICE


async def test_who_is_let_in_no_more_is_gone(bus: LocalBus) -> None:
    """After a revocation a session is gone once its last request has ended, and its name is free."""
    good = True

    async def still(_grant: Grant) -> bool:
        return good

    here = those_of(bus, still)
    async with here.run():
        key = key_of(ANYBODY, "one")
        with here.heard(key, stream=False):
            await here.group(key, ANYBODY).session.register("alice")
            good = False
            await here._look_after(key, here._participants[key])
            assert await is_here(bus, key)
        await eventually(lambda: _not(is_here(bus, key)), "it is over")
        assert here.known(key) is None


async def test_who_is_silent_for_long_is_forgotten(bus: LocalBus) -> None:
    """The server's memory does not grow with former participants."""
    here = those_of(bus, after_call=0.02, forgotten=0.1)
    async with here.run():
        keys = [key_of(ANYBODY, str(n)) for n in range(5)]
        for key in keys:
            with here.heard(key, stream=False):
                await here.group(key, ANYBODY).session.register(f"agent-{key[-8:]}")
        for key in keys:
            await eventually(lambda: _unknown(here, key), "it is forgotten")  # noqa: B023
        assert not here._open


async def _unknown(here: HttpParticipants, key: str) -> bool:
    return here.known(key) is None


async def test_all_are_gone_with_the_server(bus: LocalBus) -> None:
    """When the server ends, its sessions end, and their unconfirmed hand-overs wait again."""
    here = those_of(bus)
    key = key_of(ANYBODY, "one")
    async with here.run():
        session = here.group(key, ANYBODY).session
        await session.register("alice")
        sent = await bus.run(messages.send, Address("bob", "default"), Draft(("alice",), "hello"))
        assert (await session.inbox()).messages
    assert not await is_here(bus, key)
    [receipt] = (await bus.run(messages.status, Address("bob", "default"), sent.id)).receipts
    assert receipt.state == "queued"


async def test_there_is_a_limit(bus: LocalBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A participant beyond the limit is refused; existing ones go on."""
    monkeypatch.setattr(participants, "MAX_PARTICIPANTS", 2)
    here = those_of(bus)
    async with here.run():
        for name in ("one", "two"):
            here.group(key_of(ANYBODY, name), ANYBODY)
        with pytest.raises(RateLimited):
            here.group(key_of(ANYBODY, "three"), ANYBODY)
        assert await here.group(key_of(ANYBODY, "two"), ANYBODY).session.whoami()


async def test_a_store_that_fails_ends_nothing(bus: LocalBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store cannot be written when one session should end, the others are still looked after."""
    here = those_of(bus, after_call=0.02)
    failed = anyio.Event()

    async with here.run():
        key, other = key_of(ANYBODY, "one"), key_of(ANYBODY, "other")
        with monkeypatch.context() as patch:
            patch.setattr(LocalBus, "run", _failing(LocalBus.run, failed))
            with here.heard(key, stream=False):
                await here.group(key, ANYBODY).session.register("alice")
            with anyio.fail_after(PATIENCE):
                await failed.wait()
        with here.heard(other, stream=False):
            await here.group(other, ANYBODY).session.register("bob")
        await eventually(lambda: _not(is_here(bus, other)), "the other is over")


async def test_others_see_that_it_lives(bus: LocalBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its heartbeat goes on while it only listens, so that other machines with the same file see it."""
    monkeypatch.setattr(participants, "HEARTBEAT_EVERY", 0.02)
    beats: list[str] = []
    monkeypatch.setattr(bus, "run_for", running(bus, {sessions.beat: _noting(beats)}))
    here = those_of(bus, after_stream=0.1)
    async with here.run():
        key = key_of(ANYBODY, "one")
        here.group(key, ANYBODY)
        with here.heard(key, stream=True):
            await eventually(lambda: _many(beats), "its heart beats")
    assert set(beats) == {key}


def _failing(run: Callable[..., Awaitable[Any]], failed: anyio.Event) -> Callable[..., Awaitable[Any]]:
    """Every bus's `run`, which cannot end a session."""

    async def failing(bus: LocalBus, verb: Verb[..., Any], *args: Any, **kwargs: Any) -> Any:
        if verb is bindings.detach:
            failed.set()
            raise StoreBusy("busy")
        return await run(bus, verb, *args, **kwargs)

    return failing


def _noting(beats: list[str]) -> Callable[[str], Awaitable[None]]:
    async def heartbeat(client: str) -> None:
        beats.append(client)

    return heartbeat


async def _many(beats: list[str]) -> bool:
    return len(beats) > 2


async def test_nobody_comes_back_as_somebody_else(bus: LocalBus) -> None:
    """A session that named another agent's conversation, counted as gone and calls again is not that agent."""
    here = those_of(bus, after_call=0.05)
    bobs = Grant("bob", ("bob", "bob-*"), ("*",), 2)
    async with here.run():
        alice, bob = key_of(ANYBODY, "alice"), key_of(bobs, "bob")
        with here.heard(alice, stream=False):
            session = here.group(alice, ANYBODY).session
            await session.register("alice")
            await prompt_hook(session, "conversation", "p", "default")
            with here.heard(bob, stream=False):
                await prompt_hook(here.group(bob, bobs).session, "conversation", "p", "default")
        await eventually(lambda: _not(is_here(bus, alice)), "alice is gone")
        await eventually(lambda: _not(is_here(bus, bob)), "bob is gone")
        await bus.run(messages.send, Address("carol", "default"), Draft(("alice",), "for alice"))
        with here.heard(bob, stream=False):
            again = here.group(bob, bobs).session
            assert not await prompt_hook(again, "conversation", "p2", "default")
            binding = await again.whoami()
            assert binding
            assert binding.address.name == "bob-http"
        assert (await bus.run(deliveries.waiting, ALICE)).count == 1


@pytest.mark.parametrize(
    ("names", "channels", "listed"),
    [
        (("*",), ("*",), "http@default"),
        (("alice",), ("*",), "(http)@default"),
        (("alice", "alice-*"), ("default",), "alice-http@default"),
        (("*-ci",), ("*",), "(http)@default"),
        (("al?ce*",), ("*",), "(http)@default"),
        (("*",), ("shop", "other"), "http@shop"),
        (("*",), ("team-*",), "http@team-http"),
    ],
)
async def test_before_it_registers(
    bus: LocalBus, names: tuple[str, ...], channels: tuple[str, ...], listed: str
) -> None:
    """A session is listed under a neutral name, on a channel, that its token permits, or else under an invalid name."""
    grant = Grant("alice", names, channels, 7)
    here = those_of(bus)
    async with here.run():
        binding = await here.group(key_of(grant, "one"), grant).session.whoami()
        assert binding
        assert f"{binding.address.name}@{binding.address.channel}" == listed
        assert not binding.registered


async def test_a_conversation_comes_back_though_another_told_it(bus: LocalBus) -> None:
    """Another session that named the conversation as its own does not keep it from its agent's name."""
    here = those_of(bus)
    alices, bobs = Grant("alice", ("alice",), token=1), Grant("bob", ("bob",), token=2)
    async with here.run():
        first = key_of(alices, "first")
        await here.group(first, alices).session.register("alice")
        await prompt_hook(here.group(first, alices).session, "conversation", "p", "default")
        await here.end(first)
        bob = here.group(key_of(bobs, "bob"), bobs).session
        await bob.register("bob")
        await prompt_hook(bob, "conversation", "p", "default")

        again = here.group(key_of(alices, "second"), alices).session
        await prompt_hook(again, "conversation", "p2", "default")

        binding = await again.whoami()
        assert binding
        assert (binding.address, binding.registered) == (ALICE, True)


async def test_nobody_stays_nobody(bus: LocalBus) -> None:
    """A hook event after a refused registration does not make an anonymous caller a participant."""
    nobody = those_of(bus).nobody(ANYBODY).session
    with pytest.raises(NotRegistered, match="Bus-Session"):
        await nobody.register("alice")

    assert not await prompt_hook(nobody, "conversation", "p", "default")

    assert not await bus.run(agents.listing, "default")
