"""Rate limits: requests of a token per minute, and wrong tokens from one address."""

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
"""Wrong tokens that one address may try per minute before it gets 429 instead of 401.

Callers with a valid token are not affected, even if they share the address. A token has 256
random bits, so this only reduces noise.
"""


class Quotas:
    """Counts in memory, for as long as the server runs. `requests` per token and minute; 0: no limit."""

    def __init__(self, requests: int) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._requests = RateLimitItemPerMinute(requests) if requests else None
        self._wrong = RateLimitItemPerMinute(WRONG_TOKENS)

    async def count(self, grant: Grant) -> None:
        """Count a request. Raises `RateLimited` beyond the limit. Callers that need no token have none."""
        if self._requests and grant.token:
            await self._hit(
                self._requests,
                f"token {grant.token}",
                f"'{grant.owner}' made {self._requests.amount} requests within a minute, which is the limit "
                "(BUS_REQUESTS)",
            )

    async def count_wrong(self, address: str) -> None:
        """Count a wrong token from an address. Raises `RateLimited` beyond the limit."""
        await self._hit(self._wrong, f"address {_network(address)}", "too many wrong tokens from this address")

    async def _hit(self, item: RateLimitItem, key: str, what: str) -> None:
        if not await self._limiter.hit(item, key):
            reset = (await self._limiter.get_window_stats(item, key)).reset_time
            wait = max(1, math.ceil(reset - time.time()))
            raise RateLimited(f"{what}: wait {wait} s", retry_after=wait)


def _network(address: str) -> str:
    """Return the address; for IPv6 the /64 network, which one customer has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return ""
    return str(found if found.version == 4 else ipaddress.ip_network((int(found), 64), strict=False))
