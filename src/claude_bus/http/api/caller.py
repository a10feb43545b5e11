"""The caller of a request: the one place where its name and channel become an address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Depends
from starlette.requests import ClientDisconnect, Request

from ... import grants, names
from ...errors import Unauthorized
from ...local import LocalBus
from ...model.identity import Address
from ...model.tokens import Grant
from ...records import record
from ..hub import never
from ..service import Service, grant_of

T = TypeVar("T")

PROGRAM = "http"
"""The client of a name that takes part over this API, as the list of agents shows it."""


@record(frozen=True, slots=True)
class Caller:
    """The sender of one request."""

    request: Request
    service: Service
    grant: Grant

    @property
    def bus(self) -> LocalBus:
        return self.service.bus

    def channel(self, given: str) -> str:
        """Return the channel; "" means the server's own. Raises `Forbidden` if the caller may not use it."""
        name = names.check_name(given or self.service.config.channel, "channel")
        return grants.require_channel(self.grant, name)

    def looks(self, name: str, channel: str) -> Address:
        """Return the name that the caller reads for. Raises `Forbidden` if it may not."""
        return grants.require(self.grant, Address(names.check_name(name), self.channel(channel)))

    def acts(self, name: str, channel: str) -> tuple[Address, LocalBus]:
        """Return the name that the caller acts as, and the bus to act on. Raises `Forbidden` if it may not.

        Operations on that bus make the name a participant; they raise `NameTaken` for the name of a live session.
        """
        who = self.looks(name, channel)
        return who, self.bus.acting_as(who, PROGRAM, self.grant)

    async def until(
        self, look: Callable[[], Awaitable[T]], wait: float, *topics: str, due: Callable[[], float | None] = never
    ) -> T:
        """Return the result of `look` as soon as it is true, or after `wait` seconds anyway. `due`: see `Hub.until`.

        Ends early for a client that disconnected, or whose token was revoked meanwhile.
        """
        looked = False

        async def again() -> T:
            nonlocal looked
            if looked:
                await self._still_there()
            looked = True
            return await look()

        return await self.service.hub.until(again, wait, *topics, due=due)

    async def _still_there(self) -> None:
        if await self.request.is_disconnected():
            raise ClientDisconnect
        if not await self.still_granted():
            raise Unauthorized("the token is no longer valid")

    async def still_granted(self) -> bool:
        """Return whether the caller's token, if one is needed, is still valid."""
        return await self.service.still_granted(self.grant)


def caller_of(request: Request) -> Caller:
    """Return the caller of a request."""
    return Caller(request, request.app.state.service, grant_of(request))


async def caller(request: Request) -> Caller:
    """`caller_of`, as FastAPI needs it: a plain function would get a thread for each request."""
    return caller_of(request)


Calling = Annotated[Caller, Depends(caller)]
