"""What every part of the app is given."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from ..config import Config, Serving
from ..local import LocalBus
from ..model.tokens import Grant
from .hub import Hub
from .in_flight import RequestInFlight
from .token_cache import TokenCache


@dataclass(frozen=True, slots=True)
class Service:
    """One served bus."""

    bus: LocalBus
    hub: Hub
    config: Config
    serving: Serving
    token_cache: TokenCache

    async def still_granted(self, grant: Grant) -> bool:
        """Whether a caller's token is neither revoked nor expired by now.

        The guard asks this itself of requests that take longer, before anything more of
        their answer goes out; a route that waits before it does something asks again.
        """
        return await self.token_cache.still(grant)


def grant_of(request: HTTPConnection) -> Grant:
    """What the caller may do, as the guard found out. Every route asks: without it there is an error, never access."""
    grant: Grant = request.state.grant
    return grant


def only_waits(request: HTTPConnection) -> None:
    """All that is done for a request from now on is to wait for something: it may be cut off."""
    tracked: RequestInFlight = request.state.tracked
    tracked.may_be_cut = True
