"""Whose files meet whose: what agents own and claim."""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from .. import patterns, rules
from ..model import Address, Overlap
from ..patterns import Effort, Exhausted
from . import bindings
from .transaction import Transaction

_Footprints = dict[str, set[tuple[str, str]]]


def of(tx: Transaction, me: Address) -> tuple[Overlap, ...]:
    """With which present agents the globs and claims of `me` meet, and where; see `all_of`."""
    prints = footprints(tx, me.channel, set(bindings.live(tx, me.channel)))
    return all_of(prints, {me.name}).get(me.name, ())


def footprints(tx: Transaction, channel: str, names: set[str]) -> _Footprints:
    """What each agent owns or claims, as (repository, pattern)."""
    prints: _Footprints = {name: set() for name in names}
    for row in tx.all("SELECT name, owns, repository, cwd FROM agents WHERE channel = ? AND owns != '[]'", channel):
        below = "" if row["repository"] or not row["cwd"] else f"{row['cwd']}/"
        globs = (glob if glob.startswith("/") else below + glob for glob in rules.load_list(row["owns"]))
        prints.get(row["name"], set()).update((row["repository"], patterns.normalize(glob)) for glob in globs)
    for row in tx.all("SELECT scope, path, owner FROM claims WHERE channel = ? AND expires > ?", channel, tx.now):
        if not rules.is_resource(row["path"]):
            prints.get(row["owner"], set()).add((row["scope"], row["path"]))
    return prints


def all_of(prints: _Footprints, names: set[str]) -> dict[str, tuple[Overlap, ...]]:
    """With whom each of these overlaps, and where: of two patterns that meet the plain one, or else the other's.

    Whatever people own, this takes so many steps and not more (`rules.MAX_EFFORT`), and says
    not more than so many characters: what is not found by then is left out. It informs, and
    decides nothing.
    """
    effort = Effort(rules.MAX_EFFORT)
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    everybody = _Prints(prints)
    with contextlib.suppress(Exhausted):
        for me, scope, path in sorted((name, *place) for name in names for place in prints.get(name, ())):
            for theirs, other in everybody.near(scope, path, effort):
                if other != me and patterns.overlap(path, theirs, effort):
                    shown = patterns.plain(theirs if patterns.is_glob(path) else path)
                    effort.spend(len(shown))
                    found[me][other].add(shown)
    return {
        me: tuple(Overlap(other, tuple(sorted(paths))) for other, paths in sorted(met.items()))
        for me, met in found.items()
    }


class _Prints:
    """All footprints, to be found by what their paths begin with."""

    def __init__(self, prints: _Footprints) -> None:
        self._sorted: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for name, places in prints.items():
            for scope, path in places:
                self._sorted[scope].append((patterns.stem(path), path, name))
        for found in self._sorted.values():
            found.sort()

    def near(self, scope: str, path: str, effort: Effort) -> Iterator[tuple[str, str]]:
        """(path, name) where one's stem continues the other's; no others can meet."""
        found, stem = self._sorted.get(scope, []), patterns.stem(path)
        for size in range(len(stem) + 1):
            effort.spend(1)
            begins = stem[:size]
            for at in range(bisect_left(found, (begins, "", "")), len(found)):
                its, theirs, name = found[at]
                if its != begins and not (size == len(stem) and its.startswith(begins)):
                    break
                effort.spend(1)
                yield theirs, name
