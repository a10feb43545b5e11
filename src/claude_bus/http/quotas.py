"""How often: requests of a token per minute, and wrong tokens of an address."""

from __future__ import annotations

import ipaddress
import math
import time

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from ..errors import RateLimited
from ..model.tokens import Grant

WRONG_TOKENS = 60
"""Wrong tokens that one address may try per minute before it hears 429 instead of 401.

Those with a valid token never notice, also when they share the address: a token has 256
random bits, so this only keeps the noise down.
"""


class Quotas:
    """Counts in memory, for as long as the server runs. `requests` per token and minute; 0: any number."""

    def __init__(self, requests: int) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._requests = RateLimitItemPerMinute(requests) if requests else None
        self._wrong = RateLimitItemPerMinute(WRONG_TOKENS)

    async def count(self, grant: Grant) -> None:
        """Note a request, or raise `RateLimited`. Whoever needs no token may ask any number of times."""
        if self._requests and grant.token:
            await self._hit(
                self._requests,
                f"token {grant.token}",
                f"'{grant.owner}' made {self._requests.amount} requests within a minute, which is the limit "
                "(BUS_REQUESTS)",
            )

    async def count_wrong(self, address: str) -> None:
        """Note a wrong token from an address, or raise `RateLimited`."""
        await self._hit(self._wrong, f"address {_network(address)}", "too many wrong tokens from this address")

    async def _hit(self, item: RateLimitItem, key: str, what: str) -> None:
        if not await self._limiter.hit(item, key):
            reset = (await self._limiter.get_window_stats(item, key)).reset_time
            wait = max(1, math.ceil(reset - time.time()))
            raise RateLimited(f"{what}: wait {wait} s", retry_after=wait)


def _network(address: str) -> str:
    """The address, or what one customer has of IPv6: a /64."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return str(found if found.version == 4 else ipaddress.ip_network((int(found), 64), strict=False))
