"""The bodies of requests in flight: a limit on how much of them the server holds in memory."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Self

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

    def body(self, grant: Grant) -> Body:
        """The body of a request, which counts for as long as its context lasts."""
        return Body(self, grant)

    def give_back(self, grant: Grant, size: int) -> None:
        """Count this many bytes less."""
        self._count(grant, -size)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self.counted:
            self._bodies.give_back(self._grant, self.counted)

    def grow(self, size: int) -> None:
        """Record the size that the body has now. Raises `RateLimited` if there is no room for it."""
        more = max(0, size - FREE) - self.counted
        if more > 0:
            self._bodies.take(self._grant, more)
            self.counted += more
