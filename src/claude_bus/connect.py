"""Opening the bus that the settings name."""

from __future__ import annotations

import time
from collections.abc import Callable

from . import event_loop, processes
from .bus import Bus
from .config import Config
from .drivers.direct import DirectDatabase
from .drivers.engine import Engine
from .errors import InvalidInput
from .local import LocalBus
from .model.identity import Process
from .sql.transaction import CallerContext


def open_bus(config: Config, *, direct: bool = False) -> Bus:
    """The bus that the settings name: in a database of this machine, or served elsewhere (`BUS_URL`).

    Opens nothing yet: the first verb does. With `direct` a local bus needs no event loop.
    """
    if config.url:
        from .remote.bus import RemoteBus

        return RemoteBus(config.url, config.access, processes.this_process())
    return open_local(config, direct=direct)


def open_for_command(config: Config) -> Bus:
    """The bus for a command: it waits for nothing unless an event loop is running."""
    return open_bus(config, direct=not event_loop.is_running())


def open_here(config: Config, what: str) -> LocalBus:
    """The bus of this machine, for a command that is given where it is served; `InvalidInput` if that is elsewhere.

    `what` begins the sentence: "tokens are made", say.
    """
    if config.url:
        raise InvalidInput(
            f"{what} where the bus is served, which BUS_URL says is {config.shown_url}: run this there, "
            "or name the database with --db"
        )
    return open_local(config, direct=not event_loop.is_running())


def open_local(config: Config, *, clock: Callable[[], float] = time.time, direct: bool = False) -> LocalBus:
    """The bus in the database that the settings name. With `direct` it needs no event loop: verbs block the caller."""

    patience = processes.Patience()

    def alive(process: Process, heartbeat: float) -> bool:
        now = clock()
        return processes.is_alive(process, patience.counted(heartbeat, now), now)

    return LocalBus(
        _engine(config, alive, clock, direct=direct), CallerContext(processes.this_process(), rate=config.rate)
    )


def _engine(
    config: Config, alive: Callable[[Process, float], bool], clock: Callable[[], float], *, direct: bool
) -> Engine:
    if direct:
        return DirectDatabase(config.db, config.busy_timeout, alive=alive, clock=clock)
    from .drivers.worker import Database

    return Database(config.db, config.busy_timeout, alive=alive, clock=clock)
