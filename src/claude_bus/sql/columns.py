"""How values are kept in columns: lists as JSON, times that only increase, text that is searched."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from .. import jsons

_TICK = 1e-6


def mentions(content: str, search: str) -> bool:
    """Whether a text has the other in it, whatever the case of ASCII letters.

    The time is that of reading both, whatever they are; SQLite's LIKE multiplies it with the length of what it looks
    for where the text repeats the beginning of that.
    """
    return search.encode().lower() in content.encode().lower()


def next_ts(now: float, last: float) -> float:
    """A timestamp later than every earlier one, also when the clock jumped back.

    Readers with a time cursor (`ts > since`) rely on it.
    """
    return max(now, last + _TICK, math.nextafter(last, math.inf))


def dump_list(items: Sequence[str]) -> str:
    """A list as a database column or a program reads it."""
    return json.dumps(list(items), ensure_ascii=False)


def load_list(column: str | None) -> tuple[str, ...]:
    """The list in a column; anything else (a foreign or damaged value) is an empty one."""
    try:
        value = jsons.loads(column or "[]")
    except ValueError:
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else ()
