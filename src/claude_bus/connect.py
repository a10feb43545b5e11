"""Opening the bus that the settings name."""

from __future__ import annotations

import time
from collections.abc import Callable

from . import processes
from .bus import Bus
from .config import Config
from .drivers.worker import Database
from .errors import InvalidInput
from .local import LocalBus
from .model.identity import Process
from .sql.transaction import CallerContext


def open_bus(config: Config) -> Bus:
    """The bus that the settings name: in a database of this machine, or served elsewhere (`BUS_URL`).

    Opens nothing yet: the first verb does.
    """
    if config.url:
        from .remote.bus import RemoteBus

        return RemoteBus(config.url, config.access, processes.this_process())
    return open_local(config)


def open_here(config: Config, what: str) -> LocalBus:
    """The bus of this machine, for what is done where it is served; `InvalidInput` if that is elsewhere.

    `what` begins the sentence: "tokens are made", say.
    """
    if config.url:
        raise InvalidInput(
            f"{what} where the bus is served, which BUS_URL says is {config.shown_url}: run this there, "
            "or name the database with --db"
        )
    return open_local(config)


def open_local(config: Config, *, clock: Callable[[], float] = time.time) -> LocalBus:
    """The bus in the database that the settings name."""

    patience = processes.Patience()

    def alive(process: Process, heartbeat: float) -> bool:
        now = clock()
        return processes.is_alive(process, patience.counted(heartbeat, now), now)

    database = Database(config.db, config.busy_timeout, alive=alive, clock=clock)
    return LocalBus(database, CallerContext(processes.this_process(), rate=config.rate))
