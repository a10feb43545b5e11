"""The requests in flight: a limit for each token, and ending those whose token ended, or all."""

from __future__ import annotations

from collections import defaultdict
from types import TracebackType
from typing import Self

import anyio

from ..errors import BusError, RateLimited, ShuttingDown, Unauthorized
from ..model.tokens import Grant
from .token_cache import TokenCache

_LOOK_EVERY = 0.5
"""Seconds between two checks of the tokens of waiting requests."""
_SHORT = 1.0
"""Seconds for which the token of a request counts as checked; later it is checked before anything is sent."""
_LAST_CALL = 3.0
"""Seconds after which a stopping server abandons unfinished requests."""


class RequestInFlight:
    """One request in flight, for as long as its context lasts.

    `may_be_cut`: it may end at any time, because its client loses nothing that a repetition would not bring. Any other
    request is completed even if its client has disconnected.
    """

    def __init__(self, among: InFlight, grant: Grant, *, may_be_cut: bool) -> None:
        self._among = among
        self.grant = grant
        self.may_be_cut = may_be_cut
        self.scope = anyio.CancelScope()
        self.ended: BusError | None = None
        self._began = anyio.current_time()

    def __enter__(self) -> Self:
        self._among.add(self)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._among.remove(self)

    def end(self, error: BusError | None) -> None:
        """Cut the request off; the error is the answer to its client."""
        self.ended = error
        self.scope.cancel()

    @property
    def is_due(self) -> bool:
        """Whether it took so long that its token must be checked again."""
        return anyio.current_time() > self._began + _SHORT


class InFlight:
    """All requests in flight; at most `limit` per token (or of all callers, if none is needed); 0: no limit."""

    def __init__(self, token_cache: TokenCache, limit: int) -> None:
        self._token_cache = token_cache
        self._limit = limit
        self._all: set[RequestInFlight] = set()
        self._counts: defaultdict[int, int] = defaultdict(int)
        self._ending = False
        self._nobody = anyio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def tracked(self, grant: Grant, *, may_be_cut: bool) -> RequestInFlight:
        """A request, which is tracked as long as its context lasts. Entering it raises `RateLimited` if there are
        too many, or `ShuttingDown`."""
        return RequestInFlight(self, grant, may_be_cut=may_be_cut)

    def add(self, tracked: RequestInFlight) -> None:
        self._check(tracked.grant)
        self._all.add(tracked)
        self._counts[tracked.grant.token] += 1

    def remove(self, tracked: RequestInFlight) -> None:
        self._all.discard(tracked)
        token = tracked.grant.token
        self._counts[token] -= 1
        if not self._counts[token]:
            del self._counts[token]
        if self._ending and not self._all:
            self._nobody.set()

    def _check(self, grant: Grant) -> None:
        if self._ending:
            raise _ending()
        if self._limit and self._counts.get(grant.token, 0) >= self._limit:
            whose = f"'{grant.owner}' has" if grant.token else "there are"
            raise RateLimited(
                f"{whose} {self._limit} requests in flight, which is the limit (BUS_CONNECTIONS): end one of them, "
                "or try again",
                retry_after=1,
            )

    async def check(self, tracked: RequestInFlight) -> None:
        """Check the token of a request again; if it is no longer valid, the request is cut off."""
        if not await self._token_cache.still(tracked.grant):
            tracked.end(_revoked())

    async def run(self) -> None:
        """Cut off waiting requests whose token ended, for as long as the server runs."""
        while True:
            await anyio.sleep(_LOOK_EVERY)
            grants = {tracked.grant.token: tracked.grant for tracked in self._all if tracked.may_be_cut}
            for grant in grants.values():
                await self._look(grant)

    async def _look(self, grant: Grant) -> None:
        if await self._token_cache.still(grant):
            return
        for tracked in [each for each in self._all if each.may_be_cut and each.grant.token == grant.token]:
            tracked.end(_revoked())

    async def end(self) -> None:
        """Stop the server: waiting requests get an error, running ones a short time to finish."""
        self._ending = True
        for tracked in [each for each in self._all if each.may_be_cut]:
            tracked.end(_ending())
        if self._all:
            with anyio.move_on_after(_LAST_CALL):
                await self._nobody.wait()
        for tracked in self._all:
            tracked.end(_ending("; the work of this request may have been done"))


def _revoked() -> Unauthorized:
    return Unauthorized("the token was revoked or expired while the request was in flight; its work may have been done")


def _ending(more: str = "") -> ShuttingDown:
    return ShuttingDown(f"the server is about to stop{more}; try again in a moment", retry_after=1)
