"""The watch of a served bus, where its store fails it."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from starlette.requests import Request
from starlette.types import Message

from claude_bus.config import Config, Serving
from claude_bus.connect import open_local
from claude_bus.http.api.caller import Caller
from claude_bus.http.api.state import Read, latest
from claude_bus.http.hub import Hub, mail_for
from claude_bus.http.service import Service
from claude_bus.http.token_cache import TokenCache
from claude_bus.local import LocalBus
from claude_bus.model.identity import Address
from claude_bus.model.messages import Draft
from claude_bus.model.tokens import UNRESTRICTED
from claude_bus.sql import agents, messages, state

pytestmark = pytest.mark.anyio

ALICE, BOB = Address("alice", "default"), Address("bob", "default")
PATIENCE = 20.0


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[LocalBus]:
    async with open_local(Config(tmp_path / "bus.db", busy_timeout=0.1)) as bus:
        await bus.run(agents.join_without_session, ALICE, "test")
        yield bus


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else writes, for as long as the context lasts."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


async def rings(hub: Hub, bus: LocalBus) -> bool:
    """Whether a message rings for its recipient."""
    with hub.signal(mail_for(BOB)) as bell:
        await bus.run(messages.send, ALICE, Draft(("bob",), "hello"))
        return await bell.rung(PATIENCE)


async def begun(hub: Hub, bus: LocalBus) -> None:
    """Messages ring once the hub has begun: before, they are none of its business."""
    while not hub.messages:
        await bus.run(messages.send, ALICE, Draft(("zoe",), "are you there?"))
        await anyio.sleep(0.05)


async def test_a_store_that_is_locked_at_the_start_does_not_end_the_server(bus: LocalBus, tmp_path: Path) -> None:
    """The watch begins as soon as the store answers."""
    hub = Hub(bus)
    async with anyio.create_task_group() as tasks:
        with locked(tmp_path / "bus.db"):
            tasks.start_soon(hub.run)
            await anyio.sleep(0.5)
        with anyio.fail_after(PATIENCE):
            await begun(hub, bus)
            assert await rings(hub, bus)
        tasks.cancel_scope.cancel()


async def test_another_file_is_watched_like_the_first(bus: LocalBus, tmp_path: Path) -> None:
    """A file that was moved away and made anew begins with low numbers: they ring."""
    hub = Hub(bus)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hub.run)
        with anyio.fail_after(PATIENCE):
            await begun(hub, bus)
            for _ in range(20):
                await bus.run(messages.send, ALICE, Draft(("zoe",), "more"))
            for end in ("", "-wal", "-shm"):
                (tmp_path / f"bus.db{end}").unlink(missing_ok=True)
            assert await rings(hub, bus)
        tasks.cancel_scope.cancel()


async def _silence() -> Message:
    """Return the parts of a client that waits."""
    await anyio.sleep_forever()
    raise AssertionError


async def test_a_value_that_runs_out_is_told_when_it_does(bus: LocalBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody stores anything then that would ring for whoever waits for the change."""
    monkeypatch.setattr("claude_bus.http.hub._LOOK_AFTER", math.inf)
    service = Service(bus, Hub(bus), Config(Path("unused")), Serving(), TokenCache(bus, closed=False))
    caller = Caller(Request({"type": "http"}, _silence), service, UNRESTRICTED)
    version = await bus.run(state.set_state, ALICE, "key", "value", ttl=0.3)

    with anyio.fail_after(PATIENCE):
        found = await latest(caller, "default", "key", Read(after_version=version, wait=60))

    assert (found.value, found.version) == (None, 0)
