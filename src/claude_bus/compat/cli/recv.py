"""`claude-bus recv NAME`: mail of an agent-bus, one block per message, as it arrives.

Made for Claude Code's Monitor tool: each block is flushed by itself. The cursor moves only
after a block is written, so a process that is killed prints at most its last message again.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Sequence
from itertools import pairwise

import anyio.lowlevel

from ...cli import printing
from ...cli.settings import agent_bus
from ...config import AgentBus, Config
from ...errors import BusError, InvalidInput
from ..client import AgentBusClient, Mail
from .cursor import Cursor, cursor
from .signals import until_terminated
from .subscription import Subscription, complain

_ATOMIC: int = getattr(select, "PIPE_BUF", 512)
"""Bytes that a pipe accepts without blocking, once it reports that it is writable."""


async def recv(options: argparse.Namespace, _config: Config) -> int:
    """Print mail until told to stop."""
    settings = agent_bus(options, needed=True)
    if not options.name.strip():
        raise InvalidInput("recv needs the name whose mail it prints: claude-bus recv NAME")
    if sys.stdout is None:
        raise InvalidInput("stdout is closed: there is nowhere to print messages to")
    return await until_terminated(_recv(settings, options.name, cursor(settings, "recv", options.name)))


async def _recv(settings: AgentBus, name: str, position: Cursor) -> None:
    async with AgentBusClient(settings) as client:
        subscription = Subscription(client, name, position)
        while True:
            await _print(await subscription.next(), position)


async def _print(mail: Sequence[Mail], position: Cursor) -> None:
    for message, following in pairwise([*mail, None]):
        assert message
        await _write(printing.recv_block(message.sender, message.ts, message.body).encode(errors="replace"))
        if not following or following.ts > message.ts:  # the cursor passes messages of the same time together
            _keep(position, message.ts)


def _keep(position: Cursor, since: float) -> None:
    """Move the cursor; if it cannot be stored, it still moves in this process."""
    try:
        position.move(since)
    except OSError as error:
        complain(error)


async def _write(block: bytes) -> None:
    """Write the whole block. It can be cancelled while the reader is slow, but not after the last byte."""
    out = sys.stdout.fileno()
    while block:
        await anyio.lowlevel.checkpoint()
        if _takes(out):
            block = block[_written(out, block[:_ATOMIC]) :]
        else:
            await anyio.sleep(0.05)


def _written(out: int, part: bytes) -> int:
    try:
        return os.write(out, part)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BusError(f"the output cannot be written: {error.strerror}") from None


def _takes(out: int) -> bool:
    """Return whether a write would not block. Windows cannot tell."""
    return sys.platform == "win32" or bool(select.select([], [out], [], 0)[1])
