"""Limits and checks that several kinds of input share: sizes, times, counts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate

from .errors import InvalidInput, TooLarge

MAX_ROLE = 200
MAX_DOING = 80
"""Characters of a prompt that peers see, if its user shares prompts."""
MAX_PATH_BYTES = 4_096
MAX_REPLIES = 20
"""Replies that the status of a message shows."""
MAX_ANSWER = 1_000_000
"""Characters of messages or values in one answer; the first item is included whatever its size."""
MAX_AT_ONCE = 1_000
"""Messages, or versions of a key, in one answer."""
MAX_PROBLEMS = 100
"""Invalid parts of a request that are reported one by one; naming them takes longer than finding them."""
MAX_RETAINED = 200
"""Earlier broadcasts that an agent gets when it joins, the newest ones."""
MAX_WAIT = 3_600.0
RETENTION = 30 * 86_400.0
"""Seconds that read messages and journal rows are kept."""
SILENCE = 90 * 86_400.0
"""Seconds that mail waits for an agent that shows no sign of life."""
READER_SILENCE = 30 * 86_400.0
"""The same for broadcasts to a name that never was a session, and only used the wire protocols of earlier systems."""

IN_USE = 7 * 86_400.0
"""Seconds for which the bus must have been in use before mail can expire through silence."""
NEWS = 3_600.0
"""Seconds for which a broadcast is news to an agent that joins later; older ones wait in the inbox."""
PROGRAM_PRESENT = 180.0
"""Seconds since a program's last request for which it counts as present."""
CALL_LASTS = 86_400.0
"""Seconds after which a call that a hook announced is taken as finished, or as never made."""
FOREIGN_HOST_SILENCE = 180.0
"""Seconds without a heartbeat after which a session on another host counts as gone: its process cannot be checked."""


def check_line(text: str, what: str, limit: int = MAX_ROLE) -> str:
    """Return `text` if it is one printable line of at most `limit` characters. Raises `InvalidInput` otherwise."""
    if len(text) > limit or not text.isprintable():
        raise InvalidInput(f"{what} must be one printable line of at most {limit} characters")
    return text


def check_utf8(text: str, what: str, limit: int, way_out: str) -> str:
    """Return `text` if it can be stored as UTF-8 in at most `limit` bytes.

    Raises `InvalidInput` if it is not valid Unicode, `TooLarge` if it is too long.
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"{what} holds half a surrogate pair; send valid Unicode text") from None
    if size > limit:
        raise TooLarge(f"{what} is {size} bytes, the limit is {limit}: {way_out}", size=size, limit=limit)
    return text


def check_seconds(value: float, what: str, limit: float) -> float:
    """Return `value` if it is a positive, finite number of seconds up to `limit`. Raises `InvalidInput` otherwise."""
    if not (math.isfinite(value) and 0 < value <= limit):
        raise InvalidInput(f"{what} must be more than 0 and at most {limit:.0f} seconds")
    return value


def parse_seconds(text: str) -> float:
    """Return `90`, `90s`, `30m`, `2h` or `1d` as seconds. Raises `ValueError` for any other form."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text.strip()[-1:].lower())
    try:
        return float(text.strip()[:-1] if unit else text) * (unit or 1)
    except ValueError:
        raise ValueError("give seconds, or a number with s, m, h or d such as '30m'") from None


def clamp(limit: int, most: int) -> int:
    """Return a requested `limit`, clamped to 0..`most`."""
    return max(0, min(limit, most))


def fit_count(sizes: Iterable[int], most: int = 0) -> int:
    """Return how many items with these sizes fit into an answer of `most` characters (`MAX_ANSWER` by default).

    The first always does.
    """
    return max(1, sum(size <= (most or MAX_ANSWER) for size in accumulate(sizes)))
