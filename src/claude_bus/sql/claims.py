"""Claims: who is editing what."""

from __future__ import annotations

from .. import patterns, rules
from ..errors import ClaimHeld, ClaimOfOther, InvalidInput
from ..model import Address, Claim
from . import agents, events
from .transaction import Row, Transaction

Place = tuple[str, str]
"""(scope, path): the repository a path is relative to ('' for none), and the path."""


def claim(
    tx: Transaction, me: Address, places: list[Place], *, ttl: float, shared: bool = False, reason: str = ""
) -> list[Claim]:
    """Claim all of the places or, with `ClaimHeld`, none.

    An exclusive claim excludes every overlapping claim of others; shared ones exclude
    only exclusive ones. Claiming one's own again renews it. Ends after `ttl` seconds.
    """
    rules.check_seconds(ttl, "ttl", rules.MAX_CLAIM_TTL)
    rules.check_line(reason, "reason")
    if not places:
        raise InvalidInput("path is empty: name a path, a glob, a resource such as port:8080, or a list of them")
    for scope, path in places:
        _refuse_if_held(tx, me, scope, path, shared)
    for scope, path in places:
        tx.run(
            "INSERT INTO claims (channel, scope, path, owner, shared, reason, created, expires) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (channel, scope, path, owner) DO UPDATE SET "
            "shared = excluded.shared, reason = excluded.reason, expires = excluded.expires",
            me.channel,
            scope,
            path,
            me.name,
            int(shared),
            reason,
            tx.now,
            tx.now + ttl,
        )
        events.append(tx, me, "claim", path, reason)
    return [Claim(path, scope, me.name, shared, reason, tx.now + ttl) for scope, path in places]


def _refuse_if_held(tx: Transaction, me: Address, scope: str, path: str, shared: bool) -> None:
    for row in _of_others(tx, me, scope):
        if (shared and row["shared"]) or not _meet(row["path"], path):
            continue
        if not _owner_present(tx, Address(row["owner"], me.channel)):
            continue
        raise ClaimHeld(path, row["path"], row["owner"], row["expires"] - tx.now, row["reason"])


def _of_others(tx: Transaction, me: Address, scope: str) -> list[Row]:
    return tx.all(
        "SELECT path, owner, shared, reason, expires FROM claims "
        "WHERE channel = ? AND scope = ? AND owner != ? AND expires > ? ORDER BY id",
        me.channel,
        scope,
        me.name,
        tx.now,
    )


def _meet(one: str, other: str) -> bool:
    if rules.is_resource(one) or rules.is_resource(other):
        return one == other
    return patterns.overlap(one, other)


def _owner_present(tx: Transaction, owner: Address) -> bool:
    """False if the owner's session has died; asking ends that session and its claims.

    An owner that never was a session (a person, a script) is present until its ttl.
    """
    had_session = tx.one("SELECT 1 FROM bindings WHERE channel = ? AND agent = ?", owner.channel, owner.name)
    return not had_session or agents.holder(tx, owner) is not None


def release(tx: Transaction, me: Address, places: list[Place] | None) -> list[Place]:
    """Release some of `me`'s claims, or all (None); returns those that were held.

    Raises `ClaimOfOther` for a place only somebody else holds; nothing is released then.
    """
    if places is None:
        rows = tx.all("SELECT scope, path FROM claims WHERE channel = ? AND owner = ?", me.channel, me.name)
        places = [(r["scope"], r["path"]) for r in rows]
    held = [place for place in places if _holds(tx, me, place)]
    for scope, path in held:
        tx.run(
            "DELETE FROM claims WHERE channel = ? AND scope = ? AND path = ? AND owner = ?",
            me.channel,
            scope,
            path,
            me.name,
        )
        events.append(tx, me, "release", path)
    return held


def _holds(tx: Transaction, me: Address, place: Place) -> bool:
    scope, path = place
    rows = tx.all(
        "SELECT owner FROM claims WHERE channel = ? AND scope = ? AND path = ? AND expires > ?",
        me.channel,
        scope,
        path,
        tx.now,
    )
    owners = [r["owner"] for r in rows]
    if owners and me.name not in owners:
        raise ClaimOfOther(path, owners[0], me.name)
    return bool(owners)


def list_claims(tx: Transaction, channel: str) -> list[Claim]:
    """All live claims, by path; those of sessions that died are gone."""
    for row in tx.all("SELECT DISTINCT owner FROM claims WHERE channel = ?", channel):
        _owner_present(tx, Address(row["owner"], channel))
    rows = tx.all("SELECT * FROM claims WHERE channel = ? AND expires > ? ORDER BY scope, path, owner", channel, tx.now)
    return [Claim(r["path"], r["scope"], r["owner"], bool(r["shared"]), r["reason"], r["expires"]) for r in rows]


def prune(tx: Transaction) -> int:
    """Drop claims whose time is over; returns how many."""
    return tx.run("DELETE FROM claims WHERE expires <= ?", tx.now).rowcount
