"""The programs of the bus in forked processes: the server, its supervisor, the command line."""

from __future__ import annotations

import functools
import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import mcp.server.stdio

from claude_bus import opening, supervisor
from claude_bus.cli import commands
from claude_bus.cli import main as command_line
from claude_bus.config import Config
from claude_bus.mcp import server, stdio

from . import nursery
from .doom import Doom, DoomedOutput, doom_transactions
from .sabotage import SABOTAGES
from .stage import Stage

_LOADED = (server, mcp.server.stdio)
"""What a server imports when it starts is here before it is forked."""
_INHERITED: list[object] = []
"""A parent's streams stay as they are: to close one waits for a lock that a thread of the parent may have held."""

_OFTEN = 10
"""A command has few moments to be killed at; each is so many times as likely."""


def _prepare(stage: Stage, kind: str, seat: str, label: str, env: Mapping[str, str]) -> Doom:
    """Make this process the program: its environment, the round's clock and sabotage, its doom."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(env.get("CLAUDE_PROJECT_DIR", "/"))
    nursery.become(os.open(stage.log(seat), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    if stage.sabotage:
        SABOTAGES[stage.sabotage]()
    skewed = functools.partial(opening.open_local, clock=stage.board.clock)
    for door in (stdio, commands):
        setattr(door, "open_bus", skewed)  # noqa: B010 - a name that the module only uses
    rate = stage.doom * _OFTEN if kind == "command" else stage.doom
    doom = Doom(stage.rng("doom", kind, label), rate, stage.roll, stage.board, kind, seat)
    doom_transactions(doom)
    stage.roll.born(kind, seat)
    return doom


def serve(stage: Stage, seat: str, label: str, env: Mapping[str, str], source: int, sink: int) -> None:
    """The stdio server, between two pipes."""
    doom = _prepare(stage, "server", seat, label, env)
    nursery.become(source, 0)
    _INHERITED.extend((sys.stdin, sys.stdout))
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    output = io.BufferedWriter(DoomedOutput(sink, doom), 1 << 20)
    sys.stdout = io.TextIOWrapper(output, encoding="utf-8")
    stdio.serve(Config.from_env(os.environ, Path.home()))


class _ForkedServer:
    """Stands for `subprocess.Popen` in a forked supervisor."""

    def __init__(self, stage: Stage, seat: str, label: str, env: Mapping[str, str]) -> None:
        (source, into), (out, sink) = os.pipe(), os.pipe()
        self._say = functools.partial(stage.roll.say, "ended", kind="server", seat=seat)
        self.pid = nursery.fork(lambda: serve(stage, seat, label, env, source, sink), [source, sink, stage.roll.into])
        os.close(source)
        os.close(sink)
        self.stdin, self.stdout = os.fdopen(into, "wb"), os.fdopen(out, "rb")

    def wait(self) -> int:
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._say(server=self.pid, status=status)
        return status

    def terminate(self) -> None:
        os.kill(self.pid, 15)


def supervise(stage: Stage, seat: str, label: str, env: Mapping[str, str], source: int, sink: int) -> None:
    """What the client starts: the parent that starts the server again."""
    os.environ.clear()
    os.environ.update(env)
    numbers = iter(range(1_000_000))

    def popen(_command: Sequence[str], *, env: Mapping[str, str], **_pipes: int) -> _ForkedServer:
        return _ForkedServer(stage, seat, f"{label}.{next(numbers)}", env)

    forking = SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE)
    setattr(supervisor, "subprocess", forking)  # noqa: B010 - a name that the module only uses
    sys.stdin, sys.stdout = os.fdopen(source, encoding="utf-8"), os.fdopen(sink, "w", encoding="utf-8")
    stage.roll.born("supervisor", seat)
    supervisor.supervise(["forked"])


def command(stage: Stage, seat: str, label: str, arguments: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    """Run `claude-bus ...` to its end, whatever that is; returns its status and what it printed."""
    out, sink = os.pipe()

    def body() -> None:
        doom = _prepare(stage, "command", seat, label, env)
        output = io.BufferedWriter(DoomedOutput(sink, doom), 1 << 20)
        sys.stdout = io.TextIOWrapper(output, encoding="utf-8")
        status = command_line.run(arguments)
        sys.stdout.flush()
        os._exit(status)

    pid = nursery.fork(body, [sink, stage.roll.into])
    os.close(sink)
    with os.fdopen(out, "rb") as stream:
        said = stream.read().decode(errors="replace")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said
