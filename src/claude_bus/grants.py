"""The names and channels that a token permits. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from .addresses import check_recipient_count, is_name_glob, parse_address
from .errors import Forbidden, InvalidInput
from .model.identity import Address
from .model.tokens import Grant
from .names import MAX_NAME, check_name

MAX_TOKEN_TTL = 10 * 365 * 86_400.0


def permits(grant: Grant, who: Address) -> bool:
    """Return whether the grant lets its bearer act as `who`."""
    return _among(who.name, grant.names) and permits_channel(grant, who.channel)


def permits_channel(grant: Grant, channel: str) -> bool:
    """Return whether the grant lets its bearer use `channel`, whatever the name."""
    return _among(channel, grant.channels)


def require(grant: Grant, who: Address) -> Address:
    """Return `who` if the bearer of the grant may act as it; an empty name only reads. Raises `Forbidden` otherwise."""
    require_channel(grant, who.channel)
    if who.name and not _among(who.name, grant.names):
        raise Forbidden(
            f"the token of '{grant.owner}' is not for the name '{who.name}'; it may use {', '.join(grant.names)}",
            name=who.name,
            names=list(grant.names),
        )
    return who


def require_channel(grant: Grant, channel: str) -> str:
    """Return `channel` if the bearer of the grant may use it. Raises `Forbidden` otherwise."""
    if not permits_channel(grant, channel):
        raise Forbidden(
            f"the token of '{grant.owner}' is not for the channel '{channel}'; it may use {', '.join(grant.channels)}",
            channel=channel,
        )
    return channel


def require_recipients(grant: Grant, to: Sequence[str], channel: str) -> None:
    """Raise `Forbidden` if a recipient, as addressed from `channel`, is on a channel that the grant does not permit.

    Raises `InvalidInput` if there are more recipients than one message may have.
    """
    check_recipient_count(len(to))
    for recipient in to:
        require_channel(grant, parse_address(recipient, channel).channel)


def permitted_name(grant: Grant, name: str) -> str:
    """Return `name`, or the permitted name that a pattern makes of it: `alice-*` makes `alice-shop` of `shop`."""
    made = (pattern.replace("*", name) for pattern in grant.names if pattern.count("*") == 1)
    names = (name, *(candidate[:MAX_NAME] for candidate in made))
    return next((candidate for candidate in names if _among(candidate, grant.names)), name)


def check_patterns(patterns: Sequence[str], what: str) -> tuple[str, ...]:
    """Return the patterns of a token: at least one, each a name in which `*` and `?` stand for other characters."""
    if not patterns:
        raise InvalidInput(f"{what} must name at least one, such as 'anna-*', or '*' for all")
    for pattern in patterns:
        try:
            check_name(pattern.replace("*", "a").replace("?", "a"), what)
        except InvalidInput:
            if not is_name_glob(pattern):
                raise
            raise InvalidInput(
                f"{what} {pattern[:80]!a} is not valid: each is a name, in which * and ? may stand for other characters"
            ) from None
    return tuple(patterns)


def _among(value: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)
