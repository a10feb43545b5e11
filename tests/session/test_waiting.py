"""How one session waits for several changes, and on a full disk. Uses a real file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.errors import StoreFull
from claude_bus.local import LocalBus
from claude_bus.model.identity import Address
from claude_bus.model.state import StateEntry
from claude_bus.session.membership import Membership
from claude_bus.session.waiting import WaitingCalls
from claude_bus.sql import events, state
from claude_bus.sql.verbs import Verb
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.anyio

ME = Address("ann", "default")
HERE = "udp:127.0.0.1:1"


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[LocalBus]:
    async with open_local(Config(tmp_path / "bus.db")) as opened:
        yield opened


class Slow:
    """A bus that stores a watch, and returns only when it is released."""

    def __init__(self, bus: LocalBus) -> None:
        self._bus = bus
        self.noted = anyio.Event()
        self.may_say = anyio.Event()
        self.may_say.set()

    async def run(self, verb: Verb[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = await self._bus.run(verb, *args, **kwargs)
        if verb is state.watch_from:
            self.noted.set()
            await self.may_say.wait()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)


class Full:
    """A bus without disk space to store a watch."""

    def __init__(self, bus: LocalBus) -> None:
        self._bus = bus

    async def run(self, verb: Verb[..., Any], *args: Any, **kwargs: Any) -> Any:
        if verb in (state.watch_from, state.unwatch):
            raise StoreFull("the disk is full")
        return await self._bus.run(verb, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)


class Here:
    """A session that listens at an address."""

    address = HERE

    def __init__(self, bus: object) -> None:
        self.bus = bus
        self.presence = self

    async def as_anyone(self, act: Callable[[object, Address], Awaitable[Any]]) -> Any:
        return await act(self.bus, ME)


def waiting_on(bus: object) -> WaitingCalls:
    return WaitingCalls(cast(Membership, Here(bus)))


async def test_one_who_has_what_it_waited_for_leaves_the_others_their_watch(
    bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes a wait that begins at that very moment: the next change is announced to the session at once."""
    monkeypatch.setattr("claude_bus.session.waiting._LOOK_EVERY", PATIENCE)  # so that none polls by itself
    slow = Slow(bus)
    waiting = waiting_on(slow)
    found: list[list[StateEntry]] = []
    first_is_done = anyio.Event()

    async def first() -> None:
        found.append(await waiting.for_change("k", 0, PATIENCE))
        first_is_done.set()

    async def second() -> None:
        found.append(await waiting.for_change("k", 1, PATIENCE))

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await slow.noted.wait()
            slow.noted, slow.may_say = anyio.Event(), anyio.Event()
            await bus.run(state.set_state, ME, "k", "one")
            tasks.start_soon(second)
            await slow.noted.wait()
            waiting.mail_arrived()
            await first_is_done.wait()
            slow.may_say.set()
            before = await bus.run(events.last)
            await bus.run(state.set_state, ME, "k", "two")
            assert (await bus.run(events.changes, before)).listeners == (HERE,)
            waiting.mail_arrived()
    assert [entry.value for [entry] in found] == ["one", "two"]
    before = await bus.run(events.last)
    await bus.run(state.set_state, ME, "k", "three")
    assert (await bus.run(events.changes, before)).listeners == ()


async def test_a_change_is_waited_for_on_a_full_disk(bus: LocalBus) -> None:
    """A reader is answered, though its notice socket cannot be stored."""
    waiting = waiting_on(Full(bus))
    await bus.run(state.set_state, ME, "k", "v")
    with anyio.fail_after(PATIENCE):
        [entry] = await waiting.for_change("k", 0, PATIENCE)
    assert entry.value == "v"
