"""The stdio server: one per Claude Code session."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import anyio

from .. import claude_code, detector, worktree
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

_log = logging.getLogger(__name__)


def serve(config: Config) -> None:
    """Serve this process's stdin and stdout until the client ends."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="claude-bus: %(message)s")
    gc.disable()  # importing makes many objects and no garbage; this saves 8 % of a start
    anyio.run(_serve, config)


async def _serve(config: Config) -> None:
    from mcp.server.stdio import stdio_server

    from .server import create_server

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
        group.remark = f"bus: texts are not looked through for secrets: {detector.unusable()}"
        _log.warning("%s", group.remark.removeprefix("bus: "))
    server = create_server(lambda _context: group)

    async def push(text: str, sender: str) -> bool:
        return inbox is not None and await claude_code.push(inbox, text, sender)

    bell = Doorbell(session, bus, push if inbox else None, lambda: claude_code.says_idle(env, client.process))

    async def end() -> None:
        with anyio.CancelScope(shield=True):
            await _close(session)
            await bus.close()
        _exit()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_on_signal, end)
        tasks.start_soon(bell.watch)
        with contextlib.suppress(ExceptionGroup):  # the client disconnected while it was being answered
            async with stdio_server() as (read, write):
                await server.run(read, write, server.create_initialization_options())
        await end()


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
        sys.stdout.flush()
    os._exit(0)
