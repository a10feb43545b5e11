"""How values are kept in columns: lists as JSON, times that only increase, text that is searched."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

from .. import jsons

_TICK = 1e-6


def finder(search: str) -> Callable[[str], bool]:
    """A function that tells whether a text contains `search`, ignoring the case of ASCII letters.

    Its time is linear in both lengths. SQLite's LIKE would take their product for a text that keeps repeating the
    beginning of `search`.
    """
    wanted = search.encode().lower()
    return lambda content: wanted in content.encode().lower()


def next_ts(now: float, last: float) -> float:
    """Return a timestamp later than every earlier one, even if the clock jumped back.

    Readers with a time cursor (`ts > since`) rely on it.
    """
    return max(now, last + _TICK, math.nextafter(last, math.inf))


def dump_list(items: Sequence[str]) -> str:
    """Encode a list for a database column or a program."""
    return json.dumps(list(items), ensure_ascii=False)


def load_list(column: str | None) -> tuple[str, ...]:
    """Decode the list in a column; any other value (foreign or damaged) gives an empty list."""
    try:
        value = jsons.loads(column or "[]")
    except ValueError:
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else ()
