"""The quota of participants: one slot for each open MCP session, and for each handle in use.

The MCP library keeps a session from its `initialize` on, whether or not anything follows,
until it is closed or was silent for long. So a slot is taken before the library is called,
and is freed no sooner than the library drops the session.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import anyio

from .. import text
from ..errors import RateLimited
from ..model.tokens import Grant

_LATER = 5.0
"""Seconds for which a slot outlasts its session, so that it is never given away too early."""


@dataclass(slots=True)
class _Seat:
    token: int
    heard: float


class Opening:
    """A request that may open a session."""

    def __init__(self, quota: SessionQuota, grant: Grant) -> None:
        self._quota = quota
        self._grant = grant

    def became(self, key: str) -> None:
        """Record that the request opened the session of this participant, which keeps the slot."""
        self._quota.keep(key, self._grant)


class SessionQuota:
    """At most `of_token` slots for the bearer of each token, and `of_all` together.

    Callers that need no token share `of_all`. A slot is free again after `patience` seconds of silence.
    """

    def __init__(self, of_token: int, of_all: int, patience: float) -> None:
        self._of_token = of_token
        self._of_all = of_all
        self._patience = patience
        self._seats: dict[str, _Seat] = {}
        self._opening: Counter[int] = Counter()

    def take(self, key: str, grant: Grant) -> None:
        """Take a slot for the participant with this key, unless it has one. Raises `RateLimited` if no slot is left."""
        if key not in self._seats:
            self._check(grant)
            self.keep(key, grant)

    def keep(self, key: str, grant: Grant) -> None:
        """Give this participant a slot, even if none is left."""
        self._seats[key] = _Seat(grant.token, anyio.current_time())

    @contextlib.contextmanager
    def opening(self, grant: Grant) -> Iterator[Opening]:
        """Reserve a slot for a request that may open a session. Raises `RateLimited` if no slot is left."""
        self._check(grant)
        self._opening[grant.token] += 1
        try:
            yield Opening(self, grant)
        finally:
            self._opening[grant.token] -= 1
            self._opening += Counter()  # drops the entries that are zero

    def heard(self, key: str) -> None:
        """Record that a request of this participant ended."""
        if seat := self._seats.get(key):
            seat.heard = anyio.current_time()

    def free(self, key: str) -> None:
        """Free the participant's slot; one that has none is not an error."""
        self._seats.pop(key, None)

    def sweep(self, is_busy: Callable[[str], object]) -> None:
        """Free the slots of participants that were silent for long and have no request in flight."""
        for key, seat in list(self._seats.items()):
            if is_busy(key):
                seat.heard = anyio.current_time()
            elif self._left(seat) <= 0:
                self.free(key)

    def _left(self, seat: _Seat) -> float:
        return seat.heard + self._patience + _LATER - anyio.current_time()

    def _check(self, grant: Grant) -> None:
        if grant.token:
            mine = [seat for seat in self._seats.values() if seat.token == grant.token]
            whose = f"'{grant.owner}' has {text.plural(self._of_token, 'session')}"
            self._refuse_beyond(self._of_token, mine, self._opening[grant.token], whose)
        everybody = list(self._seats.values())
        self._refuse_beyond(self._of_all, everybody, self._opening.total(), f"there are {self._of_all} sessions")

    def _refuse_beyond(self, most: int, seats: list[_Seat], opening: int, whose: str) -> None:
        if len(seats) + opening < most:
            return
        wait = max(1, math.ceil(min(map(self._left, seats), default=1)))
        raise RateLimited(
            f"{whose} of MCP over HTTP, which is the limit: close one, or wait {wait} s until a silent one is "
            "forgotten",
            retry_after=wait,
        )
