"""Path patterns: what claims and ownership are made of. Pure, exact, no file system.

A pattern is a slash-separated path in which `*` stands for any run of characters
within a segment, `?` for one, `[abc]` / `[!a-c]` for one of a set, and a whole
segment `**` for any number of segments, none included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

# A segment is a sequence of tokens: a set of characters it may consume, and
# whether it may repeat. Character sets are (negated, ranges).
_Ranges = tuple[tuple[str, str], ...]
_Set = tuple[bool, _Ranges]
_Token = tuple[_Set, bool]
_ANY: _Set = (True, ())
_GLOBSTAR = "**"
_MAGIC = re.compile(r"[*?\[]")


def is_glob(pattern: str) -> bool:
    """Whether the pattern can stand for more than one path."""
    return _MAGIC.search(pattern) is not None


def normalize(path: str) -> str:
    """One spelling per path: `a\\b`, `./a/../a/b` and `a//b/` become `a/b`.

    A leading `/` (or drive) stays, and so do `..` that lead out of the root.
    """
    path = path.replace("\\", "/")
    rooted = path.startswith("/")
    out: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == ".." and out and out[-1] != "..":
            out.pop()
        elif part != ".." or not rooted:
            out.append(part)
    return ("/" if rooted else "") + "/".join(out)


def overlap(one: str, other: str) -> bool:
    """Whether some path is matched by both patterns. Exact, and symmetric.

    A pattern also covers everything below it, as a claim on a folder does; `.` is the
    folder that all paths are below.
    """
    if not _stems_meet(stem(one), stem(other)):
        return False
    a, b = _segments(one), _segments(other)
    return _paths_meet(a, b) or _paths_meet((*a, _GLOBSTAR), b) or _paths_meet(a, (*b, _GLOBSTAR))


def stem(pattern: str) -> str:
    """What every path of the pattern begins with. Patterns meet only if one's stem continues the other's."""
    if pattern == ".":
        return ""
    magic = _MAGIC.search(pattern)
    return pattern if not magic else pattern[: magic.start()]


def _stems_meet(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _segments(pattern: str) -> tuple[str, ...]:
    return () if pattern == "." else tuple(pattern.split("/"))


def literal(path: str) -> str:
    """The pattern that stands for this very path, whatever characters it has."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def plain(pattern: str) -> str:
    """The pattern as one reads it: the inverse of `literal`, for those it made."""
    return re.sub(r"\[([*?\[])\]", r"\1", pattern)


def _some_word(a: Sequence[T], b: Sequence[T], repeats: Callable[[T], bool], meet: Callable[[T, T], bool]) -> bool:
    """Whether both sequences of tokens match one word: a walk over both automata at once.

    A token that repeats may consume any number of symbols, none included; any other
    consumes one. `meet` tells whether two tokens can consume the same symbol.
    """
    seen: set[tuple[int, int]] = set()
    todo = [(0, 0)]
    while todo:
        i, j = at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        if i == len(a) and j == len(b):
            return True
        on_a, on_b = i < len(a) and repeats(a[i]), j < len(b) and repeats(b[j])
        if on_a:
            todo.append((i + 1, j))
        if on_b:
            todo.append((i, j + 1))
        if i < len(a) and j < len(b) and meet(a[i], b[j]):
            todo.append((i if on_a else i + 1, j if on_b else j + 1))
    return False


def _paths_meet(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    return _some_word(a, b, _is_globstar, lambda x, y: _is_globstar(x) or _is_globstar(y) or _segments_meet(x, y))


def _is_globstar(segment: str) -> bool:
    return segment == _GLOBSTAR


@lru_cache(maxsize=4096)
def _segments_meet(one: str, other: str) -> bool:
    """Whether one string is matched by both segments."""
    if not (is_glob(one) or is_glob(other)):
        return one == other
    return _some_word(_tokens(one), _tokens(other), _repeats, lambda x, y: _sets_meet(x[0], y[0]))


def _repeats(token: _Token) -> bool:
    return token[1]


def _tokens(segment: str) -> tuple[_Token, ...]:
    out: list[_Token] = []
    i = 0
    while i < len(segment):
        char = segment[i]
        i += 1
        if char == "*":
            out.append((_ANY, True))
        elif char == "?":
            out.append((_ANY, False))
        elif char == "[" and (end := _set_end(segment, i)) > 0:
            out.append((_charset(segment[i:end]), False))
            i = end + 1
        else:
            out.append(((False, ((char, char),)), False))
    return tuple(out)


def _set_end(segment: str, start: int) -> int:
    """Index of the `]` that closes a set opened before `start`, or -1."""
    first = start + 1 if segment[start : start + 1] == "!" else start
    return segment.find("]", first + 1)


def _charset(body: str) -> _Set:
    negated = body.startswith("!")
    body = body[1:] if negated else body
    ranges: list[tuple[str, str]] = []
    i = 0
    while i < len(body):
        if i + 2 < len(body) and body[i + 1] == "-":
            ranges.append((min(body[i], body[i + 2]), max(body[i], body[i + 2])))
            i += 3
        else:
            ranges.append((body[i], body[i]))
            i += 1
    return negated, tuple(ranges)


def _sets_meet(a: _Set, b: _Set) -> bool:
    """Whether a character is in both. A slash never is: segments have none."""
    if a[0] and b[0]:
        return True  # two finite exclusions leave most of Unicode
    if a[0]:
        a, b = b, a
    if not b[0]:
        return any(max(lo, lo2) <= min(hi, hi2) for lo, hi in a[1] for lo2, hi2 in b[1])
    return any(_leaves_any(lo, hi, b[1]) for lo, hi in a[1])


def _leaves_any(low: str, high: str, excluded: _Ranges) -> bool:
    """Whether `low..high` has a character outside all excluded ranges."""
    at = ord(low)
    for lo, hi in sorted(excluded):
        if ord(lo) > at:
            break
        at = max(at, ord(hi) + 1)
    return at <= ord(high)
