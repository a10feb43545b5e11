"""Paths that are claimed or owned: their one spelling and their limits. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import InvalidInput
from .limits import MAX_PATH_BYTES, check_line
from .model.claims import ClaimTarget
from .patterns import is_glob, normalize, plain, wildcards

MAX_OWNS = 100
"""Globs that one name may own."""
MAX_PATH = 1_000
"""Characters of a path as a caller writes it, to claim or to own it."""
MAX_GLOB = 500
"""Characters of a path that has wildcards."""
MAX_WILDCARDS = 10
MAX_PLACES = 200
"""Paths in one request."""
MAX_CLAIMS = 1_000
"""Claims of one name."""
MAX_GLOB_CLAIMS = 100
"""Claims of one name that have wildcards."""
MAX_CHANNEL_CLAIMS = 5_000
"""Claims on one channel, of all names together."""
MAX_CHANNEL_GLOB_CLAIMS = 500
MAX_EFFORT = 200_000
"""Steps that one operation spends on comparing patterns, see `patterns.StepBudget`; each takes about a microsecond."""
MAX_PATH_ON_DISK = 32_768
"""Longest path in characters, with detours, that any system can have; no edit goes to a longer one."""
MAX_ABOVE = 8
"""Repositories that a repository may be nested in."""
MAX_CLAIM_TTL = 30 * 86_400.0
EDIT_CLAIM = 300.0
"""Seconds for which an edit claims its file."""
REFUSAL_LASTS = 600.0
"""Seconds within which a refused edit goes through when it is repeated."""


def check_owns(globs: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the globs that an agent says it owns, each checked as one printable line; None keeps the earlier ones."""
    if globs is None:
        return None
    if len(globs) > MAX_OWNS:
        raise InvalidInput(f"owns has {len(globs)} globs, the limit is {MAX_OWNS}: name the folders that they are in")
    return tuple(check_glob(check_line(glob, "owns", MAX_PATH), "owns") for glob in globs)


def check_glob(pattern: str, what: str) -> str:
    """Return `pattern` if comparing it with others is cheap. Raises `InvalidInput` otherwise."""
    if not is_glob(plain(pattern, "")):
        return pattern
    if len(pattern) > MAX_GLOB:
        raise InvalidInput(
            f"{what}: {pattern[:80]!a} has {len(pattern)} characters, the limit for one with wildcards is {MAX_GLOB}: "
            "name the folder that it is in"
        )
    count = wildcards(pattern)
    if count > MAX_WILDCARDS:
        raise InvalidInput(
            f"{what}: {pattern[:80]!a} has {count} wildcards, the limit is {MAX_WILDCARDS}: name the folder that it is "
            "in, or several paths"
        )
    return pattern


_RESOURCE = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]+:(?![/\\])\S*")


def is_resource(path: str) -> bool:
    """Return whether `path` names a resource instead of a path: `port:8080`, `gpu:0`, `branch:main`.

    A single letter before the colon is a drive, and `x://` is a URL.
    """
    return _RESOURCE.fullmatch(path) is not None


_NOT_A_PATH = re.compile(r"[-@~!$%]|file:|[A-Za-z]:[/\\]", re.IGNORECASE)


def written(path: str, root: str = "./") -> str:
    """Return a relative path as a caller must write it; `root` leads to the folder that it begins in.

    The file `port:8080` is written `./port:8080`, because the name alone means a resource.
    """
    return f"{root}{path}" if is_resource(path) or _NOT_A_PATH.match(path) else path


def named(scope: str, path: str) -> str:
    """Return what a claim is on, for a text: a file does not look like a resource."""
    return written(plain(path)) if scope else plain(path)


def check_path(path: str) -> str:
    """Return a claimable pattern in its normalized spelling. Raises `InvalidInput` otherwise."""
    if not path or len(path) > MAX_PATH or not path.isprintable():
        raise InvalidInput(
            f"path must be a printable path, glob or resource name of 1 to {MAX_PATH} characters; several go in a list"
        )
    if is_resource(path):
        return path
    return check_glob(normalize(path) or ".", "path")


MACHINE = "host:"
"""Prefix of the scope of absolute paths on one machine."""


def is_machine(scope: str) -> bool:
    """Return whether the paths of this scope are absolute paths on one machine."""
    return scope.startswith(MACHINE)


def check_place(place: ClaimTarget) -> None:
    """Check a claim target as it is stored; with a folder prepended, it may be longer than what the caller wrote."""
    check_place_size(place)
    for scope, path in ((place.scope, place.path), *place.above):
        check_line(scope, "a claim's scope", MAX_PATH_BYTES)
        check_line(path, "path", MAX_PATH_BYTES)
        if scope or not is_resource(path):
            check_glob(path, "path")


def check_place_size(place: ClaimTarget) -> None:
    """Raise `InvalidInput` for more spellings than nested repositories allow, or for paths longer than files have."""
    if len(place.above) > MAX_ABOVE:
        raise InvalidInput(f"path: {len(place.above)} repositories above one another, the limit is {MAX_ABOVE}")
    if any(len(text) > 3 * MAX_PATH_BYTES for spelling in (place[:3], *place.above) for text in spelling):
        raise InvalidInput(f"path must have at most {MAX_PATH_BYTES} characters")


def check_place_count(count: int) -> None:
    """Raise `InvalidInput` if one request may not name this many paths."""
    if count > MAX_PLACES:
        raise InvalidInput(
            f"{count} paths at once, the limit is {MAX_PLACES}: name the folder they are in, a glob, or fewer at a time"
        )


def check_claim_count(count: int, limit: int, of: str, what: str) -> None:
    """Raise `InvalidInput` for more claims than the limit."""
    if count > limit:
        raise InvalidInput(
            f"that would make {count} {what} {of}, the limit is {limit}: release some, or claim the folder they are "
            "in. Nothing was claimed"
        )
