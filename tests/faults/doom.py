"""The worst moments to be killed at, known only from within: round a commit, and round an answer."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from claude_bus.drivers import sqlite
from claude_bus.remote.connection import Connection
from claude_bus.sql.transaction import Transaction
from claude_bus.sql.verbs import Verb

from .blackboard import Blackboard, Phase
from .roll import Roll


@dataclass
class Doom:
    """Kills this process at some of the moments it is asked about, while the round has faults.

    `rate` is the probability for each; the campaign is told first.
    """

    rng: Random
    rate: float
    roll: Roll
    board: Blackboard
    kind: str
    seat: str

    def at(self, moment: str) -> None:
        if self.strikes():
            self.kill(moment)

    def strikes(self) -> bool:
        return self.rng.random() < self.rate and self.board.phase == Phase.FAULTS

    def kill(self, moment: str) -> None:
        self.roll.say("kill", kind=self.kind, seat=self.seat, moment=moment)
        os.kill(os.getpid(), signal.SIGKILL)


def doom_transactions(doom: Doom) -> None:
    """From now on a transaction of this process may be its last."""
    original = sqlite.transact

    def transact(connection: Any, now: float, alive: Any, verb: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def doomed(tx: Transaction, *args: Any, **kwargs: Any) -> Any:
            result = verb(tx, *args, **kwargs)
            doom.at("before the commit")
            return result

        result = original(connection, now, alive, doomed, *args, **kwargs)
        doom.at("between commit and answer")
        return result

    sqlite.transact = transact


def doom_calls(doom: Doom) -> None:
    """From now on a call to a bus elsewhere may be this process's last deed."""
    original = Connection._post

    async def doomed(self: Connection, verb: Verb[..., Any], body: bytes) -> Any:
        doom.at("before a call")
        found = await original(self, verb, body)
        doom.at("with an answer in hand")
        return found

    setattr(Connection, "_post", doomed)  # noqa: B010 - typed as what it replaces


class DoomedOutput(io.RawIOBase):
    """Where a server's answers go. One may be its last, or not even whole."""

    def __init__(self, fd: int, doom: Doom) -> None:
        self._fd, self._doom = fd, doom

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        whole = bytes(data)
        if self._doom.strikes():
            os.write(self._fd, whole[: self._doom.rng.randrange(len(whole))])
            self._doom.kill("within an answer")
        written = os.write(self._fd, whole)
        if written == len(whole):
            self._doom.at("between answer and next event")
        return written
