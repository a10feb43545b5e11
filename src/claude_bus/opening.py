"""Opening the bus that the settings name."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from . import processes
from .bus import Bus, LocalBus
from .config import Config
from .drivers.sqlite import Database
from .model import Process


def open_bus(config: Config) -> Bus:
    """The bus that the settings name: in a database of this machine, or served elsewhere (`BUS_URL`).

    Opens nothing yet: the first verb does.
    """
    if config.url:
        from .remote.bus import RemoteBus

        return cast(Bus, RemoteBus(config.url, config.token, processes.this_process()))
    return open_local(config)


def open_local(config: Config, *, clock: Callable[[], float] = time.time) -> LocalBus:
    """The bus in the database that the settings name."""

    def alive(process: Process, heartbeat: float) -> bool:
        return processes.is_alive(process, heartbeat, clock())

    database = Database(config.db, config.busy_timeout, alive=alive, clock=clock)
    return LocalBus(database, processes.this_process(), config.rate)
