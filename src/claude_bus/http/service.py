"""The objects that every part of the app gets."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from ..config import Config, Serving
from ..local import LocalBus
from ..model.tokens import Grant
from ..records import record
from .hub import Hub
from .in_flight import RequestInFlight
from .token_cache import TokenCache


@record(frozen=True, slots=True)
class Service:
    """One served bus."""

    bus: LocalBus
    hub: Hub
    config: Config
    serving: Serving
    token_cache: TokenCache

    async def still_granted(self, grant: Grant) -> bool:
        """Return whether the caller's token is still valid.

        Authentication asks this itself for slow requests, before it sends more of their answer. A
        route that waits before it acts must ask again.
        """
        return await self.token_cache.still(grant)


def grant_of(request: HTTPConnection) -> Grant:
    """Return the caller's grant. Every route asks for it; without authentication that is an error, never access."""
    grant: Grant = request.state.grant
    return grant


def only_waits(request: HTTPConnection) -> None:
    """Mark the request as only waiting from now on, so that it may be cut off."""
    tracked: RequestInFlight = request.state.tracked
    tracked.may_be_cut = True
