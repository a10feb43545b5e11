"""Path patterns, the basis of claims and ownership. Pure, exact, no file system.

A pattern is a slash-separated path in which `*` stands for any run of characters
within a segment, `?` for one, `[abc]` / `[!a-c]` for one of a set, and a whole
segment `**` for any number of segments, including none.

A pattern also stands for everything below the path it names, unless that is a file: one
that is known to be a file, or whose name looks like a file's (see `names_files`).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Generic, Literal, TypeVar

from .records import record

Kind = Literal["", "file", "folder"]
"""The kind of thing a plain path names, if that was checked on disk; otherwise ""."""

T = TypeVar("T", bound=Hashable)

# A token of a segment is the set of characters of which it consumes one, as sorted ranges of
# code points that do not touch; None is `*`. A token of a path is a segment; None is `**`.
_Set = tuple[tuple[int, int], ...]
_LAST = 0x10FFFF
_ANY: _Set = ((0, _LAST),)
_GLOBSTAR = "**"
_MAGIC = re.compile(r"[*?\[]")
_LITERAL = re.compile(r"\[([*?\[])\]")
_WILDCARD = re.compile(r"\*+|\?|\[!?\]?[^\]/]*\]")


class BudgetExceeded(Exception):
    """The comparisons take more steps than the budget allows."""


class StepBudget:
    """The budget of steps for comparisons, which bounds an operation however many claims there are."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def spend(self, steps: int) -> None:
        """Use up this many steps. Raises `Exhausted` if fewer are left."""
        self.steps -= steps
        if self.steps < 0:
            raise BudgetExceeded


def is_glob(pattern: str) -> bool:
    """Return whether the pattern can stand for more than one path."""
    return _MAGIC.search(pattern) is not None


def normalize(path: str) -> str:
    """Return the one spelling of a path: `a\\b`, `./a/../a/b` and `a//b/` become `a/b`.

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


def wildcards(pattern: str) -> int:
    """Return the number of wildcards: runs of `*`, `?` and sets, except those that only quote (see `literal`)."""
    return len(_WILDCARD.findall(_LITERAL.sub("", pattern)))


def overlap(one: str, other: str, effort: StepBudget | None = None, *, kinds: tuple[Kind, Kind] = ("", "")) -> bool:
    """Return whether some possible path belongs to both patterns. Exact, and symmetric.

    A path belongs to a pattern that matches it, and to one that matches a folder above it.
    `kinds` says what the two are, if they are plain paths that were checked on disk. `.` is
    the folder above all paths. Raises `Exhausted`.
    """
    a, b = _compiled(one), _compiled(other)
    if not (a.stem.startswith(b.stem) or b.stem.startswith(a.stem)):
        return False
    below_a, below_b = _may_be_folder(a, kinds[0], other), _may_be_folder(b, kinds[1], one)
    if not (below_a or below_b or a.tail.endswith(b.tail) or b.tail.endswith(a.tail)):
        return False
    if a.plain and b.plain:
        return one == other or (below_a and a.has_below(other)) or (below_b and b.has_below(one))
    effort = effort or StepBudget(_ENOUGH)
    effort.spend(_COMPARISON + (len(one) + len(other)) // _CHARACTERS)
    row, parts = 0, _Parts(b.segments, _is_name)
    for row in _rows(a.segments, parts, lambda x, y: _segments_meet(x, y, effort), effort):
        if below_b and row >> parts.size & 1:
            return True  # the rest of `one` is below all of `other`
    return bool(row >> parts.size & 1) or (below_a and row != 0)  # they meet, or `other` continues below `one`


_CANDIDATE, _COMPARISON, _CHARACTERS = 4, 10, 10
"""Steps for each candidate and for each walk, and the number of characters that are read in one step."""


@record(frozen=True, slots=True)
class _Compiled:
    """A pattern, prepared for comparisons."""

    pattern: str
    stem: str
    tail: str
    """The common end of all paths that it matches."""
    segments: tuple[str | None, ...]
    plain: bool
    """Whether it stands for exactly one path, as written."""
    names_files: bool

    def has_below(self, path: str) -> bool:
        return self.pattern == "." or path.startswith(f"{self.pattern}/")


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> _Compiled:
    tail = "" if pattern == "." else re.split(r"[*?\]]", pattern)[-1]
    return _Compiled(pattern, stem(pattern), tail, _segments(pattern), not is_glob(pattern), names_files(pattern))


def _may_be_folder(pattern: _Compiled, kind: Kind, other: str) -> bool:
    """Return whether the pattern may name a folder; a plain name is one if the other pattern goes below it."""
    if kind:
        return kind == "folder"
    return not pattern.names_files or (pattern.has_below(other) and not wildcards(pattern.pattern))


def names_files(pattern: str) -> bool:
    """Return whether the last name has an extension, as files have: `*.py`, `package.json`, `a.[ch]`.

    Not `src`, `test_*`, `.github`, `v1.2`, or `**`.
    """
    name = pattern.rpartition("/")[2]
    return _FILE_NAME.fullmatch("".join(map(_shape, _tokens(name))) if is_glob(name) else name) is not None


_FILE_NAME = re.compile(r".+\.(?:[a-z*?][a-z0-9*?]{0,9}|[A-Z][A-Z0-9]{0,9})", re.DOTALL)


def _shape(token: _Set | None) -> str:
    """Return the character that a token stands for, or a wildcard."""
    return "*" if token is None else chr(token[0][0]) if _is_plain(token) else "?"


class Stems(Generic[T]):
    """An index of things by the stems of their paths: finds those that can meet a pattern without checking all."""

    def __init__(self, things: Iterable[tuple[str, T]]) -> None:
        by_stem: dict[str, list[T]] = defaultdict(list)
        for begins, thing in things:
            by_stem[begins].append(thing)
        self._by_stem = dict(by_stem)
        self._sorted = sorted(by_stem)

    def near(self, begins: str, effort: StepBudget) -> Iterator[T]:
        """Yield the things whose stem continues this one, or the other way round. Raises `Exhausted`."""
        for size in range(len(begins)):
            effort.spend(1)
            yield from self._at(begins[:size], effort)
        for at in range(bisect_left(self._sorted, begins), len(self._sorted)):
            if not self._sorted[at].startswith(begins):
                break
            yield from self._at(self._sorted[at], effort)

    def _at(self, begins: str, effort: StepBudget) -> list[T]:
        found = self._by_stem.get(begins, [])
        effort.spend(_CANDIDATE * len(found))
        return found


_ENOUGH = 2**63


def stem(pattern: str) -> str:
    """Return the common beginning of the pattern's paths. Patterns meet only if one's stem continues the other's."""
    if pattern == ".":
        return ""
    magic = _MAGIC.search(pattern)
    return pattern if not magic else pattern[: magic.start()]


def _segments(pattern: str) -> tuple[str | None, ...]:
    parts = [] if pattern == "." else pattern.split("/")
    return _collapsed([None if part == _GLOBSTAR else part for part in parts])


def _collapsed(tokens: Sequence[T | None]) -> tuple[T | None, ...]:
    """Replace several stars in a row by one."""
    return tuple(token for token, run in groupby(tokens) for token in ([None] if token is None else run))


def literal(path: str) -> str:
    """Return the pattern that stands for exactly this path, whatever characters it has."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def plain(pattern: str, quoted: str = r"\1") -> str:
    """Return a pattern as people write it, the inverse of `literal`; `quoted` replaces each quoted character."""
    return _LITERAL.sub(quoted, pattern)


class _Parts(Generic[T]):
    """A sequence of tokens, prepared for walks: the positions of each token as a number with a bit for each."""

    def __init__(self, tokens: Sequence[T | None], plain: Callable[[T], bool]) -> None:
        self.size = len(tokens)
        self.stars = sum(1 << j for j, token in enumerate(tokens) if token is None)
        self.where: dict[T, int] = defaultdict(int)
        for j, token in enumerate(tokens):
            if token is not None:
                self.where[token] |= 1 << j
        self.wild = [token for token in self.where if not plain(token)]
        self.plain = plain


def _rows(a: Sequence[T | None], b: _Parts[T], meet: Callable[[T, T], bool], effort: StepBudget) -> Iterator[int]:
    """Walk over two sequences of tokens at once, to find a word that both match.

    A token consumes one symbol; None, which never follows itself, any number of any symbols.
    Yields a number before the first and after each token of `a`; its bit `j` says that some word
    is matched by `a` so far and by the first `j` tokens of `b`. Ends early with 0. So a
    walk takes as many steps as there are tokens, not their product. `meet` says whether
    two tokens can consume the same symbol; plain tokens can only if they are equal.
    """
    effort.spend(1 + len(a) + b.size // _AT_A_TIME)
    known: dict[T, int] = {}

    def met(token: T) -> int:
        """Return the positions where `b` can consume the same symbol as the token."""
        if token not in known:
            others = b.wild if b.plain(token) else list(b.where)
            effort.spend(len(others))
            known[token] = sum(b.where[other] for other in others if other != token and meet(token, other))
            known[token] |= b.where.get(token, 0)
        return known[token]

    every = (2 << b.size) - 1
    row = 1 | (b.stars & 1) << 1
    yield row
    for token in a:
        if token is None:
            row = every & -(row & -row)  # it consumes whatever the next tokens of `b` do
        else:
            row = (row & met(token)) << 1 | row & b.stars
            row |= (row & b.stars) << 1
        yield row
        if not row:
            return


_AT_A_TIME = 64
"""Positions of a number that cost as much as one step."""


def _is_name(segment: str) -> bool:
    return not is_glob(segment)


def _segments_meet(one: str, other: str, effort: StepBudget) -> bool:
    """Return whether some string matches both segments."""
    if len(one) > len(other):
        one, other = other, one
    b = _parts(other)
    *_, row = _rows(_tokens(one), b, _sets_meet, effort)
    return bool(row >> b.size & 1)


@lru_cache(maxsize=1024)
def _parts(segment: str) -> _Parts[_Set]:
    return _Parts(_tokens(segment), _is_plain)


def _is_plain(token: _Set | None) -> bool:
    """Return whether the token is a single character."""
    return token is not None and len(token) == 1 and token[0][0] == token[0][1]


@lru_cache(maxsize=1024)
def _tokens(segment: str) -> tuple[_Set | None, ...]:
    out: list[_Set | None] = []
    i = 0
    while i < len(segment):
        char = segment[i]
        i += 1
        if char == "*":
            out.append(None)
        elif char == "?":
            out.append(_ANY)
        elif char == "[" and (end := _set_end(segment, i)) > 0:
            out.append(_charset(segment[i:end]))
            i = end + 1
        else:
            out.append(((ord(char), ord(char)),))
    return _collapsed(out)


def _set_end(segment: str, start: int) -> int:
    """Return the index of the `]` that closes a set opened before `start`, or -1."""
    first = start + 1 if segment[start : start + 1] == "!" else start
    return segment.find("]", first + 1)


def _charset(body: str) -> _Set:
    negated = body.startswith("!")
    body = body[1:] if negated else body
    ranges: list[tuple[int, int]] = []
    i = 0
    while i < len(body):
        first, last = (i, i + 2) if i + 2 < len(body) and body[i + 1] == "-" else (i, i)
        ranges.append((min(ord(body[first]), ord(body[last])), max(ord(body[first]), ord(body[last]))))
        i = last + 1
    return _others(_joined(ranges)) if negated else _joined(ranges)


def _joined(ranges: Sequence[tuple[int, int]]) -> _Set:
    """Sort the ranges, and merge those that touch."""
    out: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if out and low <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], high))
        else:
            out.append((low, high))
    return tuple(out)


def _others(ranges: _Set) -> _Set:
    """Return all characters that are in none of the ranges."""
    lows = [0, *(high + 1 for _, high in ranges)]
    highs = [*(low - 1 for low, _ in ranges), _LAST]
    return tuple((low, high) for low, high in zip(lows, highs, strict=True) if low <= high)


def _sets_meet(a: _Set, b: _Set) -> bool:
    """Return whether some character is in both sets."""
    i = j = 0
    while i < len(a) and j < len(b):
        if max(a[i][0], b[j][0]) <= min(a[i][1], b[j][1]):
            return True
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return False
