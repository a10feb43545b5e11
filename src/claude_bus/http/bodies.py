"""The bodies of requests in flight: a limit on how much of them the server holds in memory."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from ..errors import RateLimited
from ..model.tokens import Grant

MAX_HELD = 64 * 1024 * 1024
"""Bytes of bodies held at once for all callers together; for all callers without a token, if none is needed."""
MAX_OF_TOKEN = 16 * 1024 * 1024
"""Bytes of bodies held at once for requests with one token."""
FREE = 16 * 1024
"""Bytes of each body that do not count, so that ordinary messages get through while others send large ones."""


class Bodies:
    """Counts the bytes of all bodies, from their arrival until their requests end."""

    def __init__(self) -> None:
        self._held = 0
        self._of: Counter[int] = Counter()

    @contextlib.contextmanager
    def body(self, grant: Grant) -> Iterator[Body]:
        """Count the body of a request for as long as the context lasts."""
        body = Body(self, grant)
        try:
            yield body
        finally:
            self._count(grant, -body.counted)

    def take(self, grant: Grant, size: int) -> None:
        """Count this many more bytes. Raises `RateLimited` if that exceeds a limit."""
        for held, limit, whose in (
            (self._held, MAX_HELD, "all requests"),
            (self._of[grant.token], MAX_OF_TOKEN if grant.token else MAX_HELD, f"the requests of '{grant.owner}'"),
        ):
            if held + size > limit:
                raise RateLimited(
                    f"the bodies of {whose} in flight have reached the limit of {limit} bytes together: send this one "
                    "again in a moment",
                    retry_after=1,
                )
        self._count(grant, size)

    def _count(self, grant: Grant, size: int) -> None:
        self._held += size
        self._of[grant.token] += size
        self._of += Counter()  # drops the entries that are zero


class Body:
    """One body, while it arrives."""

    def __init__(self, bodies: Bodies, grant: Grant) -> None:
        self._bodies = bodies
        self._grant = grant
        self.counted = 0

    def grow(self, size: int) -> None:
        """Record the size that the body has now. Raises `RateLimited` if there is no room for it."""
        more = max(0, size - FREE) - self.counted
        if more > 0:
            self._bodies.take(self._grant, more)
            self.counted += more
