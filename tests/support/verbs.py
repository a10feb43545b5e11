"""A bus some of whose verbs a test takes the place of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from claude_bus.bus import Bus
from claude_bus.model.identity import SignOfLife
from claude_bus.sql.verbs import Verb

Run = Callable[..., Awaitable[Any]]


def running(bus: Bus, instead: Mapping[Verb[..., Any], Run]) -> Run:
    """A bus's `run_for`, which its `run` calls too, that does something else for some verbs."""
    original = bus.run_for

    async def run_for(sign: SignOfLife | None, verb: Verb[..., Any], *args: Any, **kwargs: Any) -> Any:
        if verb in instead:
            return await instead[verb](*args, **kwargs)
        return await original(sign, verb, *args, **kwargs)

    return run_for
