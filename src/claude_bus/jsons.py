"""JSON from outside: counted before it is parsed.

A parser makes an object of every two bytes, and all code after it processes each of them;
deep nesting causes a RecursionError in any recursive code. So the depth of a document and the
number of its values are counted first, which costs a hundredth of parsing.
"""

from __future__ import annotations

import codecs
import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_DEPTH = 64
"""Levels of lists and objects in a document from any transport."""
MAX_VALUE_DEPTH = 50
"""Levels in a value of the state, which must fit into the documents of every transport."""
MAX_VALUES = 20_000
"""Values in one document: items of lists and values of fields, including lists and objects themselves."""

_OPENING = b"[{"
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_UTF8 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


class TooDeep(ValueError):
    """JSON with more levels than are accepted."""


def check(document: bytes, what: str, depth: int = MAX_DEPTH) -> None:
    """Raise `TooLarge` for more than `MAX_VALUES`, `InvalidInput` for more levels than `depth`, or if it is not UTF-8.

    The parser has to check whether it is valid JSON. This takes as long as reading the document a few times.
    """
    from .errors import InvalidInput, TooLarge  # not for the supervisor, which checks only the depth

    if document.startswith(_NOT_UTF8) or b"\0" in document[:4]:
        raise InvalidInput(f"{what} is not UTF-8: send JSON in UTF-8")
    if _count(document) <= depth:
        return
    outside, whole = _outside_of_texts(document, 4 * MAX_VALUES)  # a field's name and its value: two quotes each
    if _is_deeper(outside, depth, 2 * MAX_VALUES):
        raise InvalidInput(f"{what} is nested deeper than {depth} levels of JSON: make it flatter, or send it as text")
    if not whole or _count(outside) > MAX_VALUES:
        raise TooLarge(
            f"{what} has more than {MAX_VALUES:,} JSON values: send it in pieces, or as one text", limit=MAX_VALUES
        )


def is_deeper(document: bytes, depth: int = MAX_DEPTH) -> bool:
    """Return whether lists and objects are nested deeper than that, however many there are."""
    return _count(document) > depth and _is_deeper(_outside_of_texts(document)[0], depth)


def loads(document: str | bytes, depth: int = MAX_DEPTH) -> Any:
    """Parse a document of any size. Raises `ValueError` if it is not valid JSON, or nested too deeply."""
    if is_deeper(document if isinstance(document, bytes) else document.encode(errors="replace"), depth):
        raise TooDeep(f"it is nested deeper than {depth} levels")
    return json.loads(document)


def outline(document: bytes) -> dict[str, Any]:
    """Return the fields of an object, with null in place of objects and lists; {} for anything else."""
    kept, depth, last = [], 0, 0
    for token in _TOKEN.finditer(document):
        first = document[token.start()]
        if first in _OPENING:
            depth += 1
            if depth == 2:
                kept += [document[last : token.start()], b"null"]
        elif first != 0x22:
            depth -= 1
            last = token.end() if depth == 1 else last
    try:
        found = json.loads(b"".join((*kept, document[last:])))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _count(document: bytes) -> int:
    """Return an upper bound of values and levels; outside of texts, the exact number of values."""
    return document.count(b",") + document.count(b"[") + document.count(b"{") + 1


def _outside_of_texts(document: bytes, most: int = -1) -> tuple[bytes, bool]:
    """Return the document without its texts, and whether it was processed whole (at most `most` quotes around texts).

    Once escaped quotes, and escaped backslashes before other quotes, are removed, every quote begins or ends a text.
    """
    if b"\\" in document:
        document = document.replace(b"\\\\", b"").replace(b'\\"', b"")
    parts = document.split(b'"', most + 1 if most >= 0 else most)
    whole = most < 0 or len(parts) <= most + 1
    return b"".join(parts[::2] if whole else parts[:-1:2]), whole


def _is_deeper(outside: bytes, most: int, brackets: int | None = None) -> bool:
    """Return whether it is nested deeper than `most`, as far as the first `brackets` brackets show."""
    depth = 0
    for bracket in outside.translate(None, _NOT_BRACKETS)[:brackets]:
        depth += 1 if bracket in _OPENING else -1
        if depth > most:
            return True
    return False
