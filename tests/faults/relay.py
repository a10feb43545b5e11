"""The way to the bus for sessions elsewhere: a line that loses, holds or cuts what the campaign tells it to."""

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
    """A port of loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def run(stage: Stage, orders: int) -> None:
    """The body of the line's process: it becomes what each order says, until there are none."""
    stage.roll.born("line", "")
    line = Line(f"http://127.0.0.1:{stage.host}", stage.line)
    with os.fdopen(orders, encoding="utf-8") as told:
        for order in told:
            wanted, line.about = order.rstrip("\n").split(";")
            line.condition = next(condition for condition in get_args(Condition) if condition == wanted)


def spoil(stage: Stage, rng: Random) -> None:
    """From now on answers do not arrive: all of them, or those of one kind."""
    tell(stage, rng.choice(_FAILS), rng.choice(_ABOUT))


def tell(stage: Stage, condition: Condition, about: str = "") -> None:
    os.write(stage.orders, f"{condition};{about}\n".encode())
