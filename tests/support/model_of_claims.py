"""Claims and the guard as docs/guides/claims.md describes them, in plain Python.

The patterns come from a world so small that the files each one covers can be listed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from claude_bus.model.claims import Guard
from claude_bus.model.identity import Address
from tests.support.model_refusals import Refused

REPOSITORY = "example.org/shop"
WORLD: dict[str, frozenset[str]] = {
    "src/a.py": frozenset({"a"}),
    "src/b.py": frozenset({"b"}),
    "src/*.py": frozenset({"a", "b"}),
    "src": frozenset({"a", "b", "c"}),
    "src/sub/**": frozenset({"c"}),
    "docs/x.md": frozenset({"x"}),
    "port:8080": frozenset({"port"}),
}
"""Each pattern with the files it covers; there are no other files."""
FILES = ("src/a.py", "src/b.py", "docs/x.md")
EDIT_CLAIM, REFUSAL_LASTS = 300.0, 600.0


def scope_of(path: str) -> str:
    """The scope of a claim: a resource is the same everywhere, a path belongs to its repository."""
    return "" if ":" in path else REPOSITORY


def meet(one: str, other: str) -> bool:
    return bool(WORLD[one] & WORLD[other])


@dataclass
class Held:
    """One claim."""

    owner: Address
    path: str
    shared: bool
    reason: str
    expires: float
    edit: bool = False
    tree: str = ""
    """The tree in which a claim made by an edit holds; '' means everywhere."""


@dataclass
class Refusal:
    at: float
    told: bool = False


@dataclass
class ModelOfClaims:
    """All claims, the oldest first. The claims of dead sessions are void."""

    died: Callable[[Address], bool]
    held: list[Held] = field(default_factory=list)
    refusals: dict[tuple[str, Address, str], Refusal] = field(default_factory=dict)
    """By client, holder and path."""

    def live(self, channel: str, now: float) -> list[Held]:
        return [c for c in self.held if c.owner.channel == channel and c.expires > now and not self.died(c.owner)]

    def of(self, owner: Address, now: float) -> list[Held]:
        return [c for c in self.live(owner.channel, now) if c.owner == owner]

    def against(self, me: Address, path: str, tree: str, now: float, *, shared: bool) -> list[Held]:
        """The claims that keep `me` from having the path in that tree."""
        return [
            c
            for c in self.live(me.channel, now)
            if c.owner != me and meet(c.path, path) and c.tree in ("", tree) and not (shared and c.shared)
        ]

    def shares(self, me: Address, path: str, now: float) -> bool:
        return any(c.shared and meet(c.path, path) for c in self.of(me, now))

    def claim(
        self, me: Address, paths: list[str], tree: str, now: float, *, ttl: float, shared: bool, reason: str
    ) -> None:
        """Claim all paths or none."""
        if any(self.against(me, path, tree, now, shared=shared) for path in paths):
            raise Refused("claim_held")
        for path in paths:
            self._put(Held(me, path, shared, reason, now + ttl), now)

    def _put(self, new: Held, now: float) -> None:
        """Store a claim. A claim that had expired when others could take its place does not return if the clock is put
        back.
        """
        self.held = [c for c in self.held if c.expires > now]
        for claim in self.held:
            if (claim.owner, claim.path, claim.tree) == (new.owner, new.path, new.tree):
                claim.shared, claim.reason, claim.edit, claim.expires = new.shared, new.reason, new.edit, new.expires
                return
        self.held.append(new)

    def release(self, me: Address, paths: list[str] | None, now: float) -> set[str]:
        mine = {c.path for c in self.of(me, now)}
        others = {c.path for c in self.live(me.channel, now)} - mine
        if paths and others & set(paths):
            raise Refused("claim_of_other")
        ended = mine if paths is None else mine & set(paths)
        self.held = [c for c in self.held if c.owner != me or c.path not in ended]
        return ended

    def take_away(self, channel: str, paths: list[str], now: float) -> set[tuple[Address, str]]:
        """End all claims on exactly these paths; returns their owners."""
        ended = {(c.owner, c.path) for c in self.live(channel, now) if c.path in paths}
        self.held = [c for c in self.held if (c.owner, c.path) not in ended]
        return ended

    def edit(self, me: Address, client: str, path: str, tree: str, policy: Guard, now: float) -> tuple[str, list[Held]]:
        """The guard's decision on an edit, and the claims it may cite; `override` means that the holder is told."""
        against = self.against(me, path, tree, now, shared=self.shares(me, path, now))
        if not against:
            self._claim_by_edit(me, path, tree, now)
            return "pass", against
        if policy in ("warn", "deny"):
            return ("warn" if policy == "warn" else "refuse"), against
        return self._confirm(client, against[0].owner, path, now), against

    def _claim_by_edit(self, me: Address, path: str, tree: str, now: float) -> None:
        own = [c for c in self.of(me, now) if c.path == path and c.tree in ("", tree)]
        enough = any(not c.edit or c.expires - now > EDIT_CLAIM / 2 for c in own)
        if not enough and not self.shares(me, path, now):
            self._put(Held(me, path, False, "editing", now + EDIT_CLAIM, edit=True, tree=tree), now)

    def _confirm(self, client: str, holder: Address, path: str, now: float) -> str:
        """The first attempt is refused; a second within ten minutes goes through, and the holder is told once."""
        refusal = self.refusals.get((client, holder, path))
        if not refusal or abs(now - refusal.at) >= REFUSAL_LASTS:
            self.refusals[client, holder, path] = Refusal(now)
            return "refuse"
        told, refusal.at, refusal.told = refusal.told, now, True
        return "go on" if told else "override"

    def prune(self, now: float) -> None:
        self.held = [c for c in self.held if c.expires > now]
        self.refusals = {at: r for at, r in self.refusals.items() if r.at >= now - REFUSAL_LASTS}

    def end(self, owner: Address) -> None:
        """The owner's session has ended."""
        self.held = [c for c in self.held if c.owner != owner]

    def rename(self, was: Address, who: Address) -> None:
        """Move the claims of `was` to `who`; a path that both had claimed counts once."""
        both = {c.path for c in self.held if c.owner == who}
        self.held = [c for c in self.held if c.owner != was or c.path not in both]
        for claim in self.held:
            claim.owner = who if claim.owner == was else claim.owner
