"""Who calls, and as whom: the one place where a request's name and channel become an address."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends
from starlette.requests import ClientDisconnect, Request

from ... import grants, names
from ...errors import Unauthorized
from ...local import LocalBus
from ...model.identity import Address
from ...model.tokens import Grant
from ..hub import never
from ..service import Service, grant_of

T = TypeVar("T")

PROGRAM = "http"
"""What a name that takes part through this door uses, as the list of agents shows it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of one request."""

    request: Request
    service: Service
    grant: Grant

    @property
    def bus(self) -> LocalBus:
        return self.service.bus

    def channel(self, given: str) -> str:
        """The channel, which the caller may use; "" is the server's own."""
        name = names.check_name(given or self.service.config.channel, "channel")
        return grants.require_channel(self.grant, name)

    def looks(self, name: str, channel: str) -> Address:
        """The name that the caller looks on behalf of, and may."""
        return grants.require(self.grant, Address(names.check_name(name), self.channel(channel)))

    def acts(self, name: str, channel: str) -> tuple[Address, LocalBus]:
        """The name that the caller acts as, and may, and the bus to act on.

        What is done there makes the name a participant; it raises `NameTaken` for a live session's.
        """
        who = self.looks(name, channel)
        return who, self.bus.acting_as(who, PROGRAM, self.grant)

    async def until(
        self, look: Callable[[], Awaitable[T]], wait: float, *topics: str, due: Callable[[], float | None] = never
    ) -> T:
        """What `look` finds, as soon as that is true, or after `wait` seconds whatever it is. `due`: see `Hub.until`.

        Nobody waits for a client that has gone, or whose token was revoked meanwhile.
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
            raise Unauthorized("the token is not valid any more")

    async def still_granted(self) -> bool:
        """Whether the caller's token, where one is needed, has not ended since the request came."""
        return await self.service.still_granted(self.grant)


async def _caller(request: Request) -> Caller:  # a plain function would get a thread for each request
    return Caller(request, request.app.state.service, grant_of(request))


Calling = Annotated[Caller, Depends(_caller)]
