"""The session of a stdio server: it takes part in the bus, answers the calls of its client, and wakes it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import anyio

from .. import claude_code, detector, extras, jsonrpc, worktree
from ..config import Config
from ..connect import open_bus
from ..errors import BusError
from ..session.doorbell import Doorbell
from ..session.membership import Membership
from ..session.presence import Presence
from ..session.session import Session
from ..session.subagents import SessionGroup
from ..session.turn import Turn
from ..session.wakeup import Wakeup
from ..supervisor import ENDINGS
from ..workspace import Workspace
from . import calls
from .pipes import Intake, Output
from .protocol import CONNECTION_CLOSED, Call, Cancelled

_log = logging.getLogger(__name__)

SETTLED = 5.0
"""Seconds after the start, when a session no longer waits for it."""
_LAST_WORDS = 5.0
"""Seconds that the client has for taking the last answers."""


def run(config: Config, intake: Intake, output: Output) -> None:
    """Serve a session until its client ends; this ends the process."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="claude-bus: %(message)s")
    anyio.run(_serve, config, intake, output)


async def _serve(config: Config, intake: Intake, output: Output) -> None:
    gc.freeze()
    gc.enable()
    env = os.environ
    client, inbox = claude_code.client(env, worktree.here(env))
    client = replace(client, hooked=claude_code.brings_mail(env))
    bus = open_bus(config)

    def may_wake(mode: str) -> bool:
        if not inbox or config.wake == "never":
            return False
        return config.wake == "always" or mode not in ("", claude_code.BYPASS)

    wakeup = Wakeup(
        may_wake,
        attended=claude_code.is_attended(env),
        lets_in=lambda: claude_code.lets_in(env, Path(client.folder.root or worktree.here(env))),
    )
    turn = Turn(hooked=claude_code.has_hooks(env))
    presence = Presence(bus, config, client, turn=turn, wakeup=wakeup)
    session = Session.of(Membership(presence, Workspace(client.folder)))
    group = SessionGroup(session)
    if not config.url and detector.is_missing():  # a bus served elsewhere has its own
        group.remark = (
            f"bus: texts are not {'yet ' * extras.are_coming()}looked through for secrets: {detector.unusable()}"
        )
        _log.warning("%s", group.remark.removeprefix("bus: "))

    async def push(text: str, sender: str) -> bool:
        return inbox is not None and await claude_code.push(inbox, text, sender)

    bell = Doorbell(session, bus, push if inbox else None, lambda: claude_code.says_idle(env, client.process))

    async def end() -> None:
        with anyio.CancelScope(shield=True):
            await _close(session)
            await bus.close()
        output.flush(_LAST_WORDS)
        _exit()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_on_signal, end)
        tasks.start_soon(bell.watch)
        tasks.start_soon(_prepare_detector)
        await _Calls(group, intake, output).run()
        await end()


class _Calls:
    """Answers the calls that arrive, all at once, for as long as the client lasts."""

    def __init__(self, group: SessionGroup, intake: Intake, output: Output) -> None:
        self._group = group
        self._intake = intake
        self._output = output
        self._in_flight: dict[int | str, anyio.CancelScope] = {}
        self._given_up: set[anyio.CancelScope] = set()

    async def run(self) -> None:
        """Answer until the client has ended, or no longer reads. Calls that are in flight then are cancelled."""
        loop = asyncio.get_running_loop()
        something, broken = anyio.Event(), False

        def stir() -> None:
            something.set()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(stir)

        def end() -> None:
            nonlocal broken
            broken = True
            wake()

        self._output.broken = end
        self._intake.attach(wake)
        async with anyio.create_task_group() as tasks:
            while not broken:
                await something.wait()
                something = anyio.Event()
                for found in self._intake.arrived():
                    if found is None:
                        broken = True
                    elif isinstance(found, Call):
                        tasks.start_soon(self._answer, found, self._begin(found))
                    else:
                        self._cancel(found)
            tasks.cancel_scope.cancel()

    def _begin(self, call: Call) -> anyio.CancelScope:
        scope = self._in_flight[call.number] = anyio.CancelScope()
        return scope

    def _cancel(self, cancelled: Cancelled) -> None:
        """Cancel a call; one that was answered just now may not have reached the model."""
        if scope := self._in_flight.get(cancelled.number):
            self._given_up.add(scope)
            scope.cancel()
        self._group.gave_up(cancelled.number)

    async def _answer(self, call: Call, scope: anyio.CancelScope) -> None:
        """Run a call, and answer it unless the client has cancelled it."""
        found: dict[str, Any] | None = None
        error = (CONNECTION_CLOSED, "Connection closed")
        try:
            with scope:
                found = await self._result(call)
        except Exception:  # noqa: BLE001 - no failure of a call may end the server
            _log.exception("tool %s", call.name)
            error = (jsonrpc.INTERNAL_ERROR, "the call failed unexpectedly: the server's log says more")
        finally:
            if self._in_flight.get(call.number) is scope:
                del self._in_flight[call.number]
            if scope in self._given_up:
                self._given_up.discard(scope)
                self._group.gave_up(call.number)  # again: the call may have brought mail since, and ended unhindered
                call.drop()
            elif found is not None:
                call.answer(found)
            else:
                call.fail(*error)

    async def _result(self, call: Call) -> dict[str, Any]:
        found = await calls.call(self._group, call.number, call.name, call.arguments, call.meta, call.program)
        return found.result()


async def _prepare_detector() -> None:
    """Have the scanner's rules compiled, where nothing did so when the bus was installed."""
    await anyio.sleep(SETTLED)
    await anyio.to_thread.run_sync(detector.prepare, os.environ)


async def _close(session: Session) -> None:
    try:
        await session.presence.close()
    except BusError as error:
        _log.warning("%s", error)  # the next process that checks finds this one gone


async def _on_signal(end: Callable[[], Awaitable[None]]) -> None:
    if sys.platform == "win32":
        return
    with anyio.open_signal_receiver(*(signal.Signals[name] for name in ENDINGS)) as signals:
        async for _ in signals:
            await end()


def _exit() -> NoReturn:
    """End the process at once: the thread that reads stdin cannot be interrupted, and holds no resource."""
    with contextlib.suppress(OSError):
        if sys.stdout:
            sys.stdout.flush()
    os._exit(0)
