"""Claims, and what is claimed."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ..records import record

FOLDER = "folder"
"""Value in place of a file's identity, for an existing folder."""


class ClaimTarget(NamedTuple):
    """A path or resource that can be claimed."""

    scope: str
    """The repository the path is relative to; empty for resources and absolute paths."""
    path: str
    file: str = ""
    """Identity of the file, where the path is one that exists: renaming it keeps that. `FOLDER` for a folder."""
    above: tuple[tuple[str, str], ...] = ()
    """The same place as (scope, path) of what its repository lies in: other repositories, and the machine."""


@record(frozen=True, slots=True)
class Claim:
    """A pattern somebody is editing."""

    path: str
    scope: str
    """The repository the path is relative to; empty for resources and absolute paths."""
    owner: str
    shared: bool
    reason: str
    expires: float
    edit: bool = False
    """Made by an edit, for a few minutes."""


Standing = Claim | Literal["unchecked"] | None
"""The claim that stands against a place, if any; `unchecked` where it takes too long to compare it with all claims."""

Guard = Literal["off", "warn", "confirm", "deny"]


@record(frozen=True, slots=True)
class Verdict:
    """The verdict of the guard on an edit: let it pass, with a warning or after repetition, or refuse it."""

    action: Literal["pass", "warn", "override", "refuse"]
    claim: Claim | None = None
    """The claim that stands against it."""
    final: bool = False
    """Whether a refused edit stays refused when it is repeated."""
