"""When mail wakes a session, and how much sessions may talk without work in between. Pure."""

from __future__ import annotations

import math

from .errors import InvalidInput, RateLimited

RING_AFTER = (0.0, 30.0, 120.0)
"""Seconds since the last ring after which a batch may ring for the 1st, 2nd, 3rd time."""
WAKE_EVERY = (6.0, 60.0)
"""Seconds between two wakes of a session after a burst, for mail of sessions and for mail of programs."""
WAKE_BURST = (20, 6)
"""Wakes in a burst, for mail of sessions and for mail of programs; the next has to wait for `WAKE_EVERY`."""
MAX_CONTINUATIONS = 3
"""Turns in a row that the Stop hook may continue because of mail."""
MAX_HOPS = 10
"""Messages in a row, without work or a user's prompt in between, that still wake their recipients."""
MAX_TALK = 30
"""Messages in such a row at most: the next is refused."""
RATE_WINDOW = 60.0
"""Seconds over which a session's messages are counted."""


def rings(kind: str, broadcast: bool, urgent: bool, hops: int) -> bool:
    """Return whether a message may wake an idle session.

    Direct mail may; a broadcast only if it is urgent; an `fyi` never; and no message late in
    a conversation in which no session does any work.
    """
    return kind != "fyi" and (urgent or not broadcast) and hops < MAX_HOPS


def check_hops(hops: int) -> None:
    """Raise `RateLimited` if sessions have exchanged too many messages without any work.

    A remote session reports `hops` itself. A false number gains it no more than `WAKE_BURST` wakes.
    """
    if hops < 0:
        raise InvalidInput("hops counts messages, so it cannot be negative")
    if hops >= MAX_TALK:
        raise RateLimited(
            f"refused: {hops} messages in a row without any tool use or user prompt in between. "
            "End your turn, or do some work first; your user can tell you to go on",
            hops=hops,
        )


def check_rate(count: int, limit: int, oldest: float, now: float, to: str) -> None:
    """Raise `RateLimited` if `count` messages, the oldest sent at `oldest`, use up `limit`."""
    if count >= limit:
        wait = max(1, math.ceil(oldest + RATE_WINDOW - now))
        raise RateLimited(
            f"{count} messages{to} in the last minute, the limit is {limit}: nothing was sent. Say it in one message, "
            f"or wait {wait} s (BUS_RATE sets the limit)",
            retry_after=wait,
        )


def ring_due(rings: int, since_last: float) -> bool:
    """Return whether a batch that rang `rings` times, last `since_last` seconds ago, rings (again)."""
    return rings < len(RING_AFTER) and since_last >= RING_AFTER[rings]


def wake_wait(spent: float, now: float, *, by_program: bool) -> float:
    """Return the seconds until a session may be woken whose wakes are spent until `spent`; 0 for now.

    A wake starts a turn of the model, which costs money. After a burst, each wake has to wait, so a loop of messages
    is bounded, no matter which programs write them. A value of `spent` that only a clock set back explains is ignored.
    """
    every, burst = WAKE_EVERY[by_program], WAKE_BURST[by_program]
    ahead = spent - now
    return max(0.0, ahead - every * (burst - 1)) if ahead <= every * burst else 0.0


def wake_spent(spent: float, now: float, *, by_program: bool) -> float:
    """Return the time until which wakes are spent after one more wake."""
    every = WAKE_EVERY[by_program]
    within = now <= spent <= now + every * WAKE_BURST[by_program]
    return (spent if within else now) + every
