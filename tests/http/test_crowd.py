"""A thousand waiting clients disturb no other client, and each is woken by its own mail only."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.support.crowd import Ear, Line, Program, Receiver, Waiter, many_files
from tests.support.processes import PATIENCE
from tests.support.served_bus import Served, served
from tests.support.tokens import new_token

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

RECEIVERS, PROGRAMS, EARS = 900, 60, 40
MEMORY = 200 * 1024 * 1024
"""Bytes that a thousand waiting clients may cost the server: far more than they actually do."""


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    with many_files():
        yield


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A bus without tokens."""
    with served(tmp_path / "bus.db") as running:
        yield running
        assert "Traceback" not in running.log.read_text(encoding="utf-8")


@contextlib.asynccontextmanager
async def crowd(waiters: Sequence[Waiter]) -> AsyncIterator[None]:
    """A crowd that waits until the context ends and then leaves at once. Every answer must be an expected one."""
    tasks = [asyncio.create_task(waiter.run()) for waiter in waiters]
    try:
        yield
        assert not [task.exception() for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for waiter in waiters:
            waiter.line.close()


async def metric(url: str, name: str, token: str = "") -> float:
    line = Line(url, token)
    _, headers = await line.begin("GET", "/metrics")
    text = (await line.body(headers)).decode()
    line.close()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110 - the server only answers, it does not notify
            await asyncio.sleep(0.05)


async def until_waiting(url: str, count: int, token: str = "") -> None:
    """Return once exactly this number of requests waits on the server."""

    async def so_many() -> bool:
        return await metric(url, "claude_bus_waiting", token) == count

    await until(so_many)


async def until_left(process: psutil.Process) -> None:
    """Return once the server has closed the connections of all clients that left."""

    async def few() -> bool:
        return len(process.net_connections()) < 10

    await until(few)


async def send(line: Line, to: str, text: str) -> None:
    status, answer = await line.ask("POST", "/send", {"from": "ann", "to": to, "msg": text})
    assert status == 200, answer


async def test_a_thousand_wait_and_each_has_its_own_mail(server: Served) -> None:
    """Other clients are served meanwhile. A message wakes one client, a broadcast all, and afterwards no resource
    is in use.
    """
    url, process = server.url, psutil.Process(server.process.pid)
    receivers = [Receiver(Line(url), f"reader{n}") for n in range(RECEIVERS)]
    programs = [Program(Line(url), f"program{n}") for n in range(PROGRAMS)]
    ears = [Ear(Line(url), f"ear{n}") for n in range(EARS)]
    ann = Line(url)
    await send(ann, "nobody", "warm")
    before = process.memory_info().rss

    async with crowd([*receivers, *programs, *ears]):
        await until_waiting(url, RECEIVERS + PROGRAMS + EARS)
        assert process.memory_info().rss - before < MEMORY

        await send(ann, "carol", "between others")
        _, found = await ann.ask("GET", "/recv?to=carol&since=0")
        assert [message["msg"] for message in found["messages"]] == ["between others"]

        chosen: list[Waiter] = [receivers[0], receivers[-1], programs[-1]]
        for one in chosen:
            await send(ann, one.name, f"for {one.name}")
            await one.next()
        await send(ann, "all", "for all")
        for waiter in [*receivers, *programs]:
            await waiter.next()

    for waiter in [*receivers, *programs]:
        assert waiter.got == ([f"for {waiter.name}"] if waiter in chosen else []) + ["for all"]
    await until_waiting(url, 0)
    assert process.memory_info().rss - before < MEMORY
    await until_left(process)
    ann.close()


async def test_one_tokens_crowd_is_nobody_elses_matter(tmp_path: Path) -> None:
    """A token at its limit of requests in flight is refused one more until one ends; other tokens never are."""
    db, most = tmp_path / "bus.db", 20
    (_, crowded), (_, free) = new_token(db, "crowded", "--names", "*"), new_token(db, "free", "--names", "*")
    with served(db, BUS_CONNECTIONS=str(most)) as server:
        url = server.url
        waiters = [Receiver(Line(url, crowded), f"reader{n}") for n in range(most)]
        ann, late = Line(url, free), Line(url, crowded)
        async with crowd(waiters):
            await until_waiting(url, most, free)
            for _ in range(3):
                status, refused = await late.ask("GET", "/recv?to=late&since=0")
                assert (status, "BUS_CONNECTIONS" in refused["message"]) == (429, True)
            await send(ann, "reader1", "from another token")
            await waiters[1].next()
            status, _ = await ann.ask("GET", "/recv?to=carol&since=0")
            assert status == 200
        await until_waiting(url, 0, free)
        status, _ = await late.ask("GET", "/recv?to=late&since=0")
        assert status == 200
        for line in (ann, late):
            line.close()
