"""Overlaps between the files that agents own and claim."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from .. import claim_paths, patterns
from ..model.claims import ClaimTarget
from ..model.identity import Address, Overlap
from ..patterns import BudgetExceeded, Stems, StepBudget
from . import columns
from .claims import kind_of
from .transaction import Transaction

_Footprints = Mapping[str, Collection[ClaimTarget | tuple[str, str]]]


def of(tx: Transaction, me: Address, present: set[str]) -> tuple[Overlap, ...]:
    """Return the `present` agents whose globs and claims meet those of `me`, and where; see `all_of`."""
    prints = footprints(tx, me.channel, present, me.name)
    return all_of(prints, {me.name}).get(me.name, ())


def footprints(tx: Transaction, channel: str, names: set[str], beside: str = "") -> dict[str, set[ClaimTarget]]:
    """Return the claim targets that each of these agents owns or claims; none at all if `beside` has none."""
    prints: dict[str, set[ClaimTarget]] = {name: set() for name in names}
    for row in tx.all("SELECT name, owns, repository, cwd FROM agents WHERE channel = ? AND owns != '[]'", channel):
        below = "" if row["repository"] or not row["cwd"] else f"{row['cwd']}/"
        for glob in columns.load_list(row["owns"]):
            place = ClaimTarget("", glob) if glob.startswith("/") else ClaimTarget(row["repository"], below + glob)
            prints.get(row["name"], set()).add(place._replace(path=patterns.normalize(place.path)))
    claimed = tx.all(
        "SELECT id, scope, path, owner, file FROM claims WHERE channel = ? AND expires > ?", channel, tx.now
    )
    if beside and not prints.get(beside) and all(row["owner"] != beside for row in claimed):
        return {}
    above: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for row in tx.all(
        "SELECT a.claim, a.scope, a.path FROM claims_above a JOIN claims c ON c.id = a.claim "
        "WHERE c.channel = ? AND c.expires > ? ORDER BY a.rowid",
        channel,
        tx.now,
    ):
        above[row["claim"]].append((row["scope"], row["path"]))
    for row in claimed:
        if row["scope"] or not claim_paths.is_resource(row["path"]):
            place = ClaimTarget(row["scope"], row["path"], row["file"], tuple(above[row["id"]]))
            prints.get(row["owner"], set()).add(place)
    return prints


def all_of(prints: _Footprints, names: set[str]) -> dict[str, tuple[Overlap, ...]]:
    """Return for each of these names the agents it overlaps with, and where.

    Of two patterns that meet, the plain one is shown, otherwise the other agent's. The number of steps
    is limited (`claim_paths.MAX_EFFORT`), and so is the number of characters, whatever agents own: overlaps
    that are not found within the limits are left out. The result informs, and decides nothing.
    """
    effort = StepBudget(claim_paths.MAX_EFFORT)
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    everybody = _Prints(prints)
    with contextlib.suppress(BudgetExceeded):
        for me, place in sorted((name, ClaimTarget(*place)) for name in names for place in prints.get(name, ())):
            for other, shown in everybody.met(me, place, effort):
                effort.spend(len(shown))
                found[me][other].add(shown)
    return {
        me: tuple(Overlap(other, tuple(sorted(paths))) for other, paths in sorted(met.items()))
        for me, met in found.items()
    }


class _Prints:
    """An index of all footprints by the stems of their paths."""

    def __init__(self, prints: _Footprints) -> None:
        found: dict[str, list[tuple[str, tuple[str, ClaimTarget, str]]]] = defaultdict(list)
        for name, place in ((name, ClaimTarget(*place)) for name, places in prints.items() for place in places):
            for scope, path in ((place.scope, place.path), *place.above):
                found[scope].append((patterns.stem(path), (path, place, name)))
        self._paths = {scope: Stems(paths) for scope, paths in found.items()}

    def met(self, me: str, place: ClaimTarget, effort: StepBudget) -> Iterator[tuple[str, str]]:
        """Yield (name, where) for each target of other agents that meets `place`, once each."""
        done: set[tuple[str, ClaimTarget]] = set()
        for scope, path in ((place.scope, place.path), *place.above):
            for theirs, other, name in self._near(scope, path, effort):
                if name == me or (name, other) in done or not _compared(scope, place, other):
                    continue
                if patterns.overlap(path, theirs, effort, kinds=(kind_of(place.file), kind_of(other.file))):
                    done.add((name, other))
                    yield name, patterns.plain(theirs if patterns.is_glob(path) else path)

    def _near(self, scope: str, path: str, effort: StepBudget) -> Iterator[tuple[str, ClaimTarget, str]]:
        return self._paths[scope].near(patterns.stem(path), effort) if scope in self._paths else iter(())


def _compared(scope: str, one: ClaimTarget, other: ClaimTarget) -> bool:
    """Return whether the two are compared in this scope; within one repository only its own paths count."""
    if claim_paths.is_machine(scope):
        return "" in (one.scope, other.scope)
    return one.scope != other.scope or scope == one.scope
