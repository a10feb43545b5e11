"""Code that runs with an event loop and without: in a server's tasks, and in a command that does one thing and ends.

Both call the same coroutines. Without a loop none of them may suspend: they do at once what
a task would wait for. This module imports asyncio only where a loop is running.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def is_running() -> bool:
    """Return whether the caller is called by an event loop, which must not be blocked."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that takes a while: on another thread if an event loop is running."""
    if not is_running():
        return function(*args, **kwargs)
    import asyncio

    return await asyncio.to_thread(function, *args, **kwargs)


async def sleep(seconds: float) -> None:
    """Wait so long."""
    if not is_running():
        time.sleep(seconds)  # noqa: ASYNC251 - nothing else runs
        return
    import asyncio

    await asyncio.sleep(seconds)


def run_without(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends; return its result."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise AssertionError("it waits for something, which needs an event loop")
