"""Keys and values of the shared state. Pure."""

from __future__ import annotations

import json

from . import jsons
from .errors import InvalidInput, TooLarge
from .limits import MAX_ANSWER, check_line, check_utf8

MAX_VALUE_BYTES = 262_144
MAX_KEYS = 10_000
"""State keys of one channel."""


def check_key(key: str) -> str:
    """Return `key` if it is a valid state key: one printable line of 1 to 200 characters."""
    if not key:
        raise InvalidInput("key is empty: name the state entry")
    return check_line(key, "key")


def check_key_count(count: int, channel: str) -> None:
    """Raise `TooLarge` if the channel has no room for one more key."""
    if count >= MAX_KEYS:
        raise TooLarge(
            f"channel '{channel}' has {count} state keys, the limit is {MAX_KEYS}: delete some, or keep several values "
            "in one, as JSON",
            size=count,
            limit=MAX_KEYS,
        )


def check_values_size(size: int) -> None:
    """Raise `TooLarge` if values of this total size (characters) do not fit into one answer."""
    if size > MAX_ANSWER:
        raise TooLarge(
            f"these values have {size} characters together, one answer at most {MAX_ANSWER}: ask for the keys without "
            "their values (list_state), then for one by one, or for those with a prefix",
            size=size,
            limit=MAX_ANSWER,
        )


def check_value(value: str) -> str:
    """Return `value` if it has at most 256 KB of UTF-8. Raises `TooLarge` otherwise."""
    return check_utf8(value, "value", MAX_VALUE_BYTES, "store a path and sha256 instead")


def check_json(value: str) -> str:
    """Return `value` if it is valid JSON that every reader can parse (limited nesting and number of values).

    Raises `InvalidInput` otherwise.
    """
    jsons.check(value.encode(errors="replace"), "value", jsons.MAX_VALUE_DEPTH)
    try:
        json.loads(value, parse_constant=_no_json)
    except (ValueError, RecursionError):
        raise InvalidInput("value is not valid JSON; send it as text (json: false)") from None
    return value


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not in JSON")
