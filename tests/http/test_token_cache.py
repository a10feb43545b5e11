"""The token cache: when it reads the tokens, and for which requests a read counts."""

from __future__ import annotations

from typing import cast

import anyio
import pytest

from claude_bus.http.token_cache import TokenCache
from claude_bus.local import LocalBus, digest_of
from claude_bus.model.tokens import Grant, Key

pytestmark = pytest.mark.anyio

GRANT = Grant("anna", ("anna",), ("default",), 1)


class Slow:
    """A bus whose data changes all the time, and whose answers about tokens are delayed."""

    def __init__(self, *valid: str) -> None:
        self.valid = valid
        self.looks: list[anyio.Event] = []
        self._pulse = 0

    def pulse(self) -> object:
        self._pulse += 1
        return self._pulse

    async def run(self, _verb: object) -> list[Key]:
        found = [Key(digest_of(secret), GRANT, None) for secret in self.valid]
        self.looks.append(anyio.Event())
        await self.looks[-1].wait()
        return found


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
