"""Texts about claims: for those who edit all the same, and for the holders. Pure."""

from __future__ import annotations

from .claim_paths import named, written
from .model.claims import Claim, ClaimTarget
from .patterns import plain
from .quoting import one_line, quoted
from .text import ago, name


def owner(given: str) -> str:
    """Return a name in quotes."""
    return f"'{name(given).strip(chr(39))}'"


def held_by(claim: Claim, now: float) -> str:
    """Return who holds a claim, on what, for how long, and why."""
    what, left = quoted(named(claim.scope, claim.path), 300), ago(claim.expires - now)
    why = f", reason: {quoted(claim.reason, 200)}" if claim.reason else ""
    return f"{what} is claimed by {owner(claim.owner)} for another {left}{why}"


def edit_refused(claim: Claim, now: float, *, final: bool) -> str:
    """Return why an edit is refused, and what to do."""
    ask = f"Ask {owner(claim.owner)} with the bus tool send, or work on something else."
    if final:
        return f"{held_by(claim, now)}. {ask}"
    return (
        f"{held_by(claim, now)}. {ask} If it must be edited now, repeat the same edit within 10 minutes: "
        f"it goes through, and {owner(claim.owner)} is told."
    )


def edit_warned(claim: Claim, now: float) -> str:
    """Return the text for a model whose edit was let through with a warning."""
    return f"{held_by(claim, now)}. The edit was let through; tell {owner(claim.owner)} with the bus tool send."


def override_notice(path: str, claim: Claim) -> str:
    """Return the text for the holder of a claim when another agent edits the file anyway."""
    why = f" ({one_line(claim.reason, 200)})" if claim.reason else ""
    edited, claimed = written(plain(path)), named(claim.scope, claim.path)
    return f"I edit '{edited}' although you claim '{claimed}'{why}. I was told of your claim first."


def taken_notice(place: ClaimTarget, reason: str) -> str:
    """Return the text for the owner of a claim when another agent ends it."""
    return f"I ended your claim on '{named(place.scope, place.path)}': {reason}"
