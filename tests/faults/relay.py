"""The connection of remote sessions to the bus, which loses, holds or cuts traffic as the campaign tells it."""

from __future__ import annotations

import os
import socket
from random import Random
from typing import get_args

from tests.support.bad_connection import Condition, Line

from .stage import Stage

_ABOUT = ("", "", "", "/rpc/hand_over ", "/rpc/react ", "/rpc/send ", "/rpc/set_state ", "/rpc/register ")
_FAILS: tuple[Condition, ...] = ("swallows answers", "swallows answers", "holds answers", "cut")


def free_port() -> int:
    """A loopback port that is currently free."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def run(stage: Stage, orders: int) -> None:
    """The main function of the relay's process: it obeys one order after the other, until the orders end."""
    stage.roll.born("line", "")
    line = Line(f"http://127.0.0.1:{stage.host}", stage.line)
    with os.fdopen(orders, encoding="utf-8") as told:
        for order in told:
            wanted, line.about = order.rstrip("\n").split(";")
            line.condition = next(condition for condition in get_args(Condition) if condition == wanted)


def spoil(stage: Stage, rng: Random) -> None:
    """From now on, drop answers: all of them, or those of one kind."""
    tell(stage, rng.choice(_FAILS), rng.choice(_ABOUT))


def tell(stage: Stage, condition: Condition, about: str = "") -> None:
    os.write(stage.orders, f"{condition};{about}\n".encode())
