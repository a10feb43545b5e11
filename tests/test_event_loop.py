"""Coroutines that run with an event loop and without one."""

from __future__ import annotations

import asyncio
import threading

import pytest

from claude_bus import event_loop
from claude_bus.offload import GivenUp, Offload


async def where() -> tuple[bool, int, int]:
    """Whether a loop runs, this thread, and the one aside."""
    return event_loop.is_running(), threading.get_ident(), await event_loop.aside(threading.get_ident)


def test_without_a_loop_all_is_done_at_once() -> None:
    """On the calling thread, and no loop is started for it."""
    running, here, aside = event_loop.run_without(where())
    assert (running, here == threading.get_ident(), aside == here) == (False, True, True)


def test_with_a_loop_what_takes_a_while_is_done_aside() -> None:
    """On a thread of its own, so that the loop goes on."""
    running, here, aside = asyncio.run(where())
    assert (running, here == threading.get_ident(), aside == here) == (True, True, False)


def test_errors_come_through_and_what_waits_is_a_mistake() -> None:
    """A coroutine that suspends has nobody to resume it."""

    async def fails() -> None:
        raise KeyError

    async def waits() -> None:
        await asyncio.sleep(0)

    with pytest.raises(KeyError):
        event_loop.run_without(fails())
    with pytest.raises(AssertionError, match="event loop"):
        event_loop.run_without(waits())


@pytest.mark.parametrize("run", [event_loop.run_without, asyncio.run])
def test_work_that_may_hang_is_given_up_with_a_loop_and_without(run: object) -> None:
    """It is told so; what is done in time counts."""
    assert callable(run)
    offload, told = Offload(1), threading.Event()

    def hang(given_up: GivenUp) -> None:
        while not given_up():
            pass
        told.set()

    assert run(offload.run(lambda _given_up: None, 30.0)) is True
    assert run(offload.run(hang, 0.01)) is False
    assert told.wait(30)
