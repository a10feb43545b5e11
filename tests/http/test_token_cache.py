"""The token cache: when it reads the tokens, and for which requests a read counts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import cast

import anyio
import pytest

from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.http.token_cache import TokenCache
from claude_bus.local import LocalBus, digest_of
from claude_bus.model.identity import Address
from claude_bus.model.tokens import Grant
from claude_bus.sql import state, tokens
from claude_bus.sql.transaction import Transaction

pytestmark = pytest.mark.anyio

GRANT = Grant("anna", ("anna",), ("default",), 1)


class As:
    """A transaction as of which these secrets are valid."""

    connection = None
    now = 0.0

    def __init__(self, valid: tuple[str, ...]) -> None:
        self._valid = valid

    def number(self, _sql: str) -> float:
        return random.random()

    def all(self, _sql: str, _now: float) -> list[dict[str, object]]:
        lists = {name: json.dumps([value]) for name, value in (("names", "anna"), ("channels", "default"))}
        row = {"owner": "anna", "id": 1, "in_url": 0, "expires": None, **lists}
        return [{"hash": digest_of(secret), **row} for secret in self._valid]


class Slow:
    """A bus whose data changes all the time, and whose answers about tokens are delayed."""

    def __init__(self, *valid: str) -> None:
        self.valid = valid
        self.looks: list[anyio.Event] = []
        self._pulse = 0

    def after_commits(self, _step: object) -> None:
        """Nothing is committed here."""

    def pulse(self) -> object:
        self._pulse += 1
        return self._pulse

    async def run(self, look: Callable[[Transaction, TokenCache], None], cache: TokenCache) -> None:
        found = As(self.valid)
        self.looks.append(anyio.Event())
        await self.looks[-1].wait()
        look(cast(Transaction, found), cache)


async def test_a_look_counts_for_those_who_came_before_it_began() -> None:
    """A read of the tokens counts only for requests that came before it began: a token revoked before a request is
    refused, though an older read still permits it. Requests that wait at the same time share one read.
    """
    bus = Slow("secret")
    token_cache = TokenCache(cast(LocalBus, bus), closed=True)
    found: dict[str, Grant | None] = {}

    async def come(who: str) -> None:
        found[who] = await token_cache.grant("secret")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(come, "before")
        await anyio.wait_all_tasks_blocked()
        bus.valid = ()
        for who in ("after", "another", "third"):
            tasks.start_soon(come, who)
        await anyio.wait_all_tasks_blocked()
        bus.looks[0].set()
        await anyio.wait_all_tasks_blocked()
        bus.looks[1].set()

    assert found == {"before": GRANT, "after": None, "another": None, "third": None}
    assert len(bus.looks) == 2


async def test_what_the_server_commits_needs_no_further_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hop that commits looks too: requests that follow know the tokens. A token that another process or this one
    ends is noticed all the same.
    """
    config = Config(tmp_path / "bus.db")
    async with open_local(config) as bus, open_local(config) as other:
        (anna, of_anna), (_, of_bert), (carl, of_carl) = [
            await other.create_token(name, [name], ["default"], None) for name in ("anna", "bert", "carl")
        ]
        cache = TokenCache(bus, closed=True)
        assert await cache.grant(of_anna)

        def unexpected() -> None:
            raise AssertionError("a look of its own")

        async def commit() -> None:
            await bus.run(state.set_state, Address("anna", "default"), "k", "v")

        with monkeypatch.context() as patched:
            patched.setattr(cache, "_load", unexpected)
            await commit()
            assert await cache.grant(of_anna)
            await other.run(tokens.revoke, anna.id)
            await commit()
            assert not await cache.grant(of_anna)
            assert await cache.grant(of_bert)
            await bus.run(tokens.revoke, carl.id)
            assert not await cache.grant(of_carl)
        await other.run(tokens.revoke, 2)
        assert not await cache.grant(of_bert)
