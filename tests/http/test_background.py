"""A server's upkeep, also where nothing but `claude-bus serve` runs."""

from __future__ import annotations

import contextlib
from pathlib import Path

import anyio
import httpx2
import pytest

from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.drivers.sqlite import connect
from claude_bus.http.background import run_upkeep
from claude_bus.model.identity import Address, Client
from claude_bus.processes import this_process
from claude_bus.sql import bindings, sessions, state
from tests.support.mcp_clients import Caller
from tests.support.processes import PATIENCE, eventually
from tests.support.served_bus import served

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_server_forgets_and_says_that_it_lives(tmp_path: Path) -> None:
    """Expired entries go without a request, and a listener for all mail is still known."""
    path = tmp_path / "bus.db"
    async with open_local(Config(path)) as bus:
        await bus.run(sessions.listen, "udp:127.0.0.1:9", "")
        await bus.run(state.set_state, Address("ann", "default"), "brief", "value", ttl=0.01)
        look = connect(path, 1.0)
        look.execute("UPDATE listeners SET heartbeat = 0")

        def over() -> bool:
            left = look.execute("SELECT COUNT(*) FROM state").fetchone()[0]
            return not left and look.execute("SELECT MIN(heartbeat) FROM listeners").fetchone()[0] > 0

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_upkeep, bus, 0.05, 0.05)
            with anyio.fail_after(PATIENCE):
                while not over():  # noqa: ASYNC110 - nobody tells
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        look.close()


async def test_a_store_that_fails_ends_no_upkeep(tmp_path: Path) -> None:
    """While the file is locked nothing is done, afterwards it is."""
    path = tmp_path / "bus.db"
    async with open_local(Config(path, busy_timeout=0.01)) as bus:
        await bus.run(bindings.attach, Client("someone", this_process()), None, "default")
        await bus.run(state.set_state, Address("ann", "default"), "brief", "value", ttl=0.01)
        lock = connect(path, 1.0)
        lock.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_upkeep, bus, 0.02, 0.02)
            await anyio.sleep(0.2)
            lock.execute("ROLLBACK")
            with anyio.fail_after(PATIENCE):
                while lock.execute("SELECT COUNT(*) FROM state").fetchone()[0]:  # noqa: ASYNC110 - nobody tells
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        lock.close()


def test_what_fails_beside_the_requests_ends_nothing(tmp_path: Path) -> None:
    """A row of the journal that no verb wrote is for the log: then messages are noticed again, and all doors open."""
    db = tmp_path / "bus.db"
    with served(db) as server, httpx2.Client(base_url=server.url, timeout=PATIENCE) as http:

        def noticed() -> bool:
            """Messages are counted by what wakes those who wait."""
            http.post("/send", json={"from": "ann", "to": "bob", "msg": "hello"}).raise_for_status()
            return "claude_bus_messages_total 0.0" not in http.get("/metrics").text

        eventually(noticed, "it has begun")
        with contextlib.closing(connect(db, PATIENCE)) as other:
            other.execute(
                "INSERT INTO events (ts, channel, actor, verb, subject) VALUES (1, 'default', '', 'send', '?')"
            )
        eventually(lambda: "begins anew" in server.log.read_text(encoding="utf-8"), "it has met the row")

        before = http.get("/metrics").text
        eventually(lambda: noticed() and messages(http.get("/metrics").text) > messages(before), "it goes on")
        assert not Caller(server.url).open().call("register", name="carl").failed
        Caller.close_all()


def messages(metrics: str) -> float:
    return next(float(line.split()[1]) for line in metrics.splitlines() if line.startswith("claude_bus_messages_total"))


async def test_a_server_indexes_what_was_sent_before(tmp_path: Path) -> None:
    """A file of an earlier version becomes searchable without a request."""
    path = tmp_path / "bus.db"
    async with open_local(Config(path)) as bus:
        await bus.run(sessions.beat, "")
        look = connect(path, 1.0)
        look.execute("BEGIN")
        look.executemany(
            "INSERT INTO messages (ts, sender, recipient, content) VALUES (?, 'ann', 'bob', 'hello')",
            ((4e9 + n,) for n in range(1, 601)),  # not yet to be forgotten
        )
        look.execute("COMMIT")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_upkeep, bus, 0.02, 60)
            with anyio.fail_after(PATIENCE):
                while look.execute("SELECT MIN(low) FROM search_blocks").fetchone()[0] != -1:  # noqa: ASYNC110 - as above
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        look.close()
