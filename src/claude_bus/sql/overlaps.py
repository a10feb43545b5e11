"""Whose files meet whose: what agents own and claim."""

from __future__ import annotations

from .. import patterns, rules
from ..model import Address, Overlap
from . import bindings
from .transaction import Transaction


def of(tx: Transaction, me: Address) -> tuple[Overlap, ...]:
    """With which present agents the globs and claims of `me` meet, and where."""
    return between(footprints(tx, me.channel, set(bindings.live(tx, me.channel))), me.name)


def footprints(tx: Transaction, channel: str, names: set[str]) -> dict[str, set[tuple[str, str]]]:
    """What each agent owns or claims, as (repository, pattern)."""
    prints: dict[str, set[tuple[str, str]]] = {name: set() for name in names}
    for row in tx.all("SELECT name, owns, repository, cwd FROM agents WHERE channel = ? AND owns != '[]'", channel):
        below = "" if row["repository"] or not row["cwd"] else f"{row['cwd']}/"
        globs = (glob if glob.startswith("/") else below + glob for glob in rules.load_list(row["owns"]))
        prints.get(row["name"], set()).update((row["repository"], patterns.normalize(glob)) for glob in globs)
    for row in tx.all("SELECT scope, path, owner FROM claims WHERE channel = ? AND expires > ?", channel, tx.now):
        if not rules.is_resource(row["path"]):
            prints.get(row["owner"], set()).add((row["scope"], row["path"]))
    return prints


def between(prints: dict[str, set[tuple[str, str]]], me: str) -> tuple[Overlap, ...]:
    """The overlaps of one of the agents with each of the others."""
    mine = prints.get(me, set())
    found = {name: _common(mine, theirs) for name, theirs in sorted(prints.items()) if name != me}
    return tuple(Overlap(name, paths) for name, paths in found.items() if paths)


def _common(mine: set[tuple[str, str]], theirs: set[tuple[str, str]]) -> tuple[str, ...]:
    """Where two footprints meet: of each pair that does, the plain path or else their pattern."""
    return tuple(
        sorted(
            {
                patterns.plain(theirs_path if patterns.is_glob(path) else path)
                for scope, path in mine
                for theirs_scope, theirs_path in theirs
                if scope == theirs_scope and patterns.overlap(path, theirs_path)
            }
        )
    )
