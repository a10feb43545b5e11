"""Tokens, and what they permit."""

from __future__ import annotations

from ..records import record


@record(frozen=True, slots=True)
class Grant:
    """The names that a caller over HTTP may use, and on which channels. Patterns, as in `fnmatch`."""

    owner: str = ""
    """The person or machine that the token belongs to; "" where none is needed."""
    names: tuple[str, ...] = ("*",)
    channels: tuple[str, ...] = ("*",)
    token: int = 0
    """Its id; 0 where none is needed."""
    in_url: bool = False
    """It may stand in an address, and is for the two wires only."""


UNRESTRICTED = Grant()
"""The grant of a caller that needs no token: every name, every channel."""


@record(frozen=True, slots=True)
class Token:
    """A token as it is listed: never the secret itself."""

    id: int
    owner: str
    names: tuple[str, ...]
    channels: tuple[str, ...]
    created: float
    expires: float | None
    revoked: float | None
    in_url: bool = False
    """See `Grant.in_url`."""


@record(frozen=True, slots=True)
class Key:
    """A valid token as a door knows it: by the digest of its secret."""

    digest: str
    grant: Grant
    expires: float | None
