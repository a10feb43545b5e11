"""What every part of the app is given."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from ..bus import LocalBus
from ..config import Config, Serving
from ..model import Grant
from .hub import Hub


@dataclass(frozen=True, slots=True)
class Service:
    """One served bus."""

    bus: LocalBus
    hub: Hub
    config: Config
    serving: Serving


def grant_of(request: HTTPConnection) -> Grant:
    """What the caller may do, as the guard found out. Every route asks: without it there is an error, never access."""
    grant: Grant = request.state.grant
    return grant
