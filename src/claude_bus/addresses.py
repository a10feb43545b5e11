"""Names with their channels: as they are written, matched, made and counted. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase

from .errors import InvalidInput, TooLarge
from .limits import SILENCE
from .model.identity import Address, Agent
from .names import BROADCASTS, MAX_NAME, check_name, check_new_name, cleaned

DEFAULT_CHANNEL = "default"
MAX_RECIPIENTS = 200
MAX_RECIPIENT_GLOBS = 10
"""Recipients of one message that have wildcards."""
MAX_GUESSES = 2
"""Unknown recipients of a message for which the bus suggests the name that was probably meant."""
MAX_CANDIDATES = 200
"""Names that such a suggestion is chosen from: those seen last."""
MAX_NAMES = 2_000
"""Names on one channel that no session has: those of programs, and of sessions that ended."""
MAX_NAMES_OF_TOKEN = 500
"""The same for the names that one token covers, unless the token covers all names."""
MAX_LEFT = 10_000
"""Names on one channel that left and are not forgotten yet."""
MAX_LEFT_OF_TOKEN = 2_500
"""The same for the names that one token covers, unless the token covers all names."""
MAX_EXPECTED = 10_000
"""Names on one channel for which mail waits although no agent ever used them."""
MAX_INBOXES = 10_000
"""Names in one answer that says how much mail waits for each."""
GONE = 7 * 86_400.0
"""Seconds without a sign of life after which lists of agents leave a name out."""


def check_recipient_count(count: int) -> None:
    """Raise `InvalidInput` unless one message may have this many recipients."""
    if not 1 <= count <= MAX_RECIPIENTS:
        raise InvalidInput(f"to must name 1 to {MAX_RECIPIENTS} recipients: a name, a list, a glob, or 'all'")


def parse_address(text: str, channel: str, what: str = "recipient") -> Address:
    """Parse `name` or `name@channel`; the name may be a glob or a broadcast word. `what` is its role, for errors."""
    name, at, other = text.strip().partition("@")
    if at:
        check_name(other, "channel")
    if not name:
        raise InvalidInput(f"{what} {text[:80]!a} has no name: use name or name@channel")
    if name in BROADCASTS:
        return Address("all", other or channel)
    if not is_name_glob(name):
        check_name(name, what)
    elif len(name) > MAX_NAME:
        raise InvalidInput(f"{what} {name[:80]!a} is a glob of more than {MAX_NAME} characters: make it shorter")
    return Address(name, other or channel)


def is_name_glob(name: str) -> bool:
    return any(c in name for c in "*?[")


def matching_names(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that match the glob, sorted."""
    return sorted(name for name in names if fnmatchcase(name, pattern))


def closest_name(name: str, known: Iterable[str]) -> str:
    """Return the known name that was probably meant, or ''."""
    by_fold = {candidate.casefold(): candidate for candidate in known}
    import difflib  # only for a name that is not known

    close = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[close[0]] if close else ""


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """Return `wanted`, or the first of `wanted-2`, `wanted-3`, ... that is not taken."""
    used = set(taken)
    if wanted not in used:
        return wanted
    numbers = (n for n in range(2, len(used) + 3) if f"{wanted[: MAX_NAME - 5]}-{n}" not in used)
    return f"{wanted[: MAX_NAME - 5]}-{next(numbers)}"


def folder_name(root: str, branch: str, otherwise: str = "session") -> str:
    """Return the name that a session has before it registers: its folder, and its branch unless that is the main one.

    Returns `otherwise` if they make no valid name, or one that is reserved.
    """
    parts = [re.split(r"[/\\]", root.rstrip("/\\"))[-1]]
    if branch not in ("", "main", "master"):
        parts.append(branch)
    words = "-".join(parts)
    name = re.sub(r"-{2,}", "-", cleaned(unicodedata.normalize("NFC", words), "-"))
    name = cleaned(name.strip("-._:+~#")[:MAX_NAME])
    try:
        return check_new_name(name, ())
    except InvalidInput:
        return otherwise


def is_gone(agent: Agent, now: float) -> bool:
    """Return whether lists of agents leave a name out: it was offline for a week."""
    return agent.status == "offline" and now - agent.last_seen > GONE


def check_name_count(count: int, limit: int, of: str) -> None:
    """Raise `TooLarge` if there is no room for one more name without a session."""
    if count >= limit:
        raise TooLarge(
            f"{of} has {count} names without a session, the limit is {limit}: use one that is there, or let some "
            "leave (DELETE /v1/agents/NAME)",
            size=count,
            limit=limit,
        )


def check_left_count(count: int, limit: int, of: str) -> None:
    """Raise `TooLarge` if there is no room for one more name that left."""
    if count >= limit:
        raise TooLarge(
            f"{of} has {count} names that left, the limit is {limit}: use one of them again; they are forgotten when "
            f"they were silent for {SILENCE / 86_400:.0f} days and have no mail",
            size=count,
            limit=limit,
        )


def check_expected_count(count: int, channel: str) -> None:
    """Raise `TooLarge` if mail would wait for too many names that no agent ever used."""
    if count > MAX_EXPECTED:
        raise TooLarge(
            f"mail on channel '{channel}' would wait for {count} names that no agent ever had, the limit is "
            f"{MAX_EXPECTED}: nothing was sent. agents() lists who is here",
            size=count,
            limit=MAX_EXPECTED,
        )
