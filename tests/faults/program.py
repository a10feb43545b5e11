"""The programs of the bus in forked processes: server, supervisor, command line, and what serves those elsewhere."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from claude_bus import connect, processes, supervisor
from claude_bus.cli import main as command_line
from claude_bus.config import Config, Serving
from claude_bus.errors import StoreFull
from claude_bus.http import serve as serving
from claude_bus.mcp import session_server, stdio, tools
from claude_bus.model.identity import Process
from claude_bus.remote import connection
from claude_bus.session import doorbell

from . import nursery
from .doom import Doom, DoomedOutput, doom_calls, doom_transactions
from .sabotage import SABOTAGES
from .stage import Stage

_LOADED = (session_server, tools)
"""The modules that a server imports when it starts, loaded before the fork."""
_INHERITED: list[object] = []
"""A parent's streams stay as they are: to close one waits for a lock that a thread of the parent may have held."""

HOST = "host"
"""The name of the process that serves the bus to remote sessions, in the roll and the logs."""
ANSWER_TIMEOUT = 1.5
"""Seconds that programs elsewhere wait for an answer; some held ones take longer."""

_OFTEN = {"command": 10.0, "host": 0.3}
"""A command has few moments to be killed at, each is so many times as likely; what serves all has many."""


def _prepare(stage: Stage, kind: str, seat: str, label: str, env: Mapping[str, str]) -> Doom:
    """Make this process the program: its environment, the round's clock and sabotage, its doom."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(env.get("CLAUDE_PROJECT_DIR", "/"))
    nursery.become(os.open(stage.log(seat or kind), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    if stage.sabotage:
        SABOTAGES[stage.sabotage]()
    skewed = functools.partial(connect.open_local, clock=stage.board.clock)

    for door in (connect, serving):
        setattr(door, "open_local", skewed)  # noqa: B010 - a name that the module only uses
    connection.ANSWER_TIMEOUT = ANSWER_TIMEOUT
    if stage.silence:
        _judge_by_heartbeats(stage.silence)
    else:
        _know_who_lives()
    doom = Doom(stage.rng("doom", kind, label), stage.doom * _OFTEN.get(kind, 1), stage.roll, stage.board, kind, seat)
    doom_transactions(doom)
    doom_calls(doom)
    stage.roll.born(kind, seat)
    return doom


def _know_who_lives() -> None:
    """Remote processes run on this machine after all: a dead one is found at once, without waiting for its silence."""
    original = processes.is_alive

    def is_alive(which: Process, heartbeat: float, now: float) -> bool:
        return original(replace(which, host=which.host.rpartition("@")[2]), heartbeat, now)

    processes.is_alive = is_alive


def _judge_by_heartbeats(silence: float) -> None:
    """The product's own rule for whoever is elsewhere, with seconds for minutes."""
    setattr(processes, "FOREIGN_HOST_SILENCE", silence)  # noqa: B010 - a name that the module only uses
    doorbell.HEARTBEAT_EVERY, doorbell.LOOK_EVERY = silence / 5, silence / 8


def host(stage: Stage, label: str) -> None:
    """The bus, served to those elsewhere."""
    _prepare(stage, HOST, "", label, stage.environment(HOST))
    nursery.become(os.open(stage.log(HOST), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
    with contextlib.suppress(StoreFull):  # there is no room to begin: it is started again, as by a service manager
        serving.serve(Config.from_env(os.environ, Path.home()), Serving(port=stage.host))


def serve(stage: Stage, seat: str, label: str, env: Mapping[str, str], source: int, sink: int) -> None:
    """The stdio server, between two pipes."""
    doom = _prepare(stage, "server", seat, label, env)
    nursery.become(source, 0)
    _INHERITED.extend((sys.stdin, sys.stdout))
    output = io.BufferedWriter(DoomedOutput(sink, doom), 1 << 20)

    def write(line: bytes) -> None:
        output.write(line)
        output.flush()

    stdio.serve(lambda: Config.from_env(os.environ, Path.home()), write)


class _ForkedServer:
    """A server that is a fork of a forked supervisor."""

    def __init__(self, stage: Stage, seat: str, label: str, env: Mapping[str, str]) -> None:
        (source, into), (out, sink) = os.pipe(), os.pipe()
        self._say = functools.partial(stage.roll.say, "ended", kind="server", seat=seat)
        self.pid = nursery.fork(lambda: serve(stage, seat, label, env, source, sink), [source, sink, stage.roll.into])
        os.close(source)
        os.close(sink)
        self.into, self.out = into, out

    def wait(self) -> int:
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self._say(server=self.pid, status=status)
        return status

    def terminate(self) -> None:
        os.kill(self.pid, 15)


def supervise(stage: Stage, seat: str, label: str, env: Mapping[str, str], source: int, sink: int) -> None:
    """Run what the client starts: the parent that restarts the server."""
    os.environ.clear()
    os.environ.update(env)
    numbers = iter(range(1_000_000))

    below = {**env, supervisor.VARIABLE: str(os.getpid())}

    def launch() -> supervisor.Server:
        return _ForkedServer(stage, seat, f"{label}.{next(numbers)}", below)

    nursery.become(source, 0)
    nursery.become(sink, 1)
    stage.roll.born("supervisor", seat)
    supervisor.supervise(launch)


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
