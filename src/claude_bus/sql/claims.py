"""Claims: who is editing what."""

from __future__ import annotations

from .. import patterns, rules
from ..errors import ClaimHeld, ClaimOfOther, InvalidInput, TooLarge
from ..model import Address, Claim, Place
from ..patterns import Effort, Exhausted
from . import bindings, events
from .transaction import Row, Transaction

Places = list[Place] | list[tuple[str, str]]

_UNQUOTED = "REPLACE(REPLACE(REPLACE(path, '[[]', ''), '[*]', ''), '[?]', '')"
_IS_GLOB = f"({_UNQUOTED} LIKE '%*%' OR {_UNQUOTED} LIKE '%?%' OR {_UNQUOTED} LIKE '%[%')"
"""Whether a claim has wildcards, not only quoted characters."""


def claim(
    tx: Transaction,
    me: Address,
    places: Places,
    *,
    ttl: float,
    shared: bool = False,
    reason: str = "",
    tree: str = "",
) -> list[Claim]:
    """Claim all of the places or, with `ClaimHeld`, none.

    An exclusive claim excludes every overlapping claim of others; shared ones exclude
    only exclusive ones. Claims that edits made hold in their working tree only: `tree`
    is the claimer's. Claiming one's own again renews it. Ends after `ttl` seconds.
    Raises `InvalidInput` beyond the limits of what may be claimed, at once and in all.
    """
    rules.check_seconds(ttl, "ttl", rules.MAX_CLAIM_TTL)
    rules.check_line(reason, "reason")
    if not places:
        raise InvalidInput("path is empty: name a path, a glob, a resource such as port:8080, or a list of them")
    wanted = _checked(places)
    effort = Effort(rules.MAX_EFFORT)
    for place in wanted:
        held = holding(tx, me, place, effort, tree=tree, shared=shared)
        if held:
            raise ClaimHeld(place.path, held.path, held.owner, held.expires - tx.now, held.reason)
    for place in wanted:
        put(tx, me, place, Claim(place.path, place.scope, me.name, shared, reason, tx.now + ttl))
        events.append(tx, me, "claim", place.path, reason)
    for of, owner, limit, globs in (
        (f"of '{me.name}'", me.name, rules.MAX_CLAIMS, rules.MAX_GLOB_CLAIMS),
        (f"on channel '{me.channel}'", None, rules.MAX_CHANNEL_CLAIMS, rules.MAX_CHANNEL_GLOB_CLAIMS),
    ):
        stored, with_wildcards = _counts(tx, me.channel, owner)
        rules.check_claim_count(stored, limit, of, "claims")
        rules.check_claim_count(with_wildcards, globs, of, "claims with wildcards")
    return [Claim(place.path, place.scope, me.name, shared, reason, tx.now + ttl) for place in wanted]


def _checked(places: Places) -> list[Place]:
    rules.check_place_count(len(places))
    wanted = [Place(*place) for place in places]
    for place in wanted:
        rules.check_place(place.scope, place.path)
    return wanted


def _counts(tx: Transaction, channel: str, owner: str | None) -> tuple[int, int]:
    """How many claims there are of one owner or (None) of all, and how many of them have wildcards."""
    row = tx.one(
        f"SELECT COUNT(*) AS stored, COALESCE(SUM({_IS_GLOB}), 0) AS globs FROM claims "
        "WHERE channel = ? AND (? IS NULL OR owner = ?)",
        channel,
        owner,
        owner,
    )
    assert row
    return int(row["stored"]), int(row["globs"])


def has_room(tx: Transaction, me: Address) -> bool:
    """Whether `me` can have one claim more, without wildcards."""
    counts = ((me.name, rules.MAX_CLAIMS), (None, rules.MAX_CHANNEL_CLAIMS))
    return all(_counts(tx, me.channel, owner)[0] < limit for owner, limit in counts)


def put(tx: Transaction, me: Address, place: Place, new: Claim, tree: str = "") -> None:
    """Store a claim of `me`, or renew it. Claims whose time was over by now stay so if the clock goes back."""
    _end_expired(tx)
    tx.run(
        "INSERT INTO claims (channel, scope, path, stem, owner, shared, reason, edit, tree, file, created, expires) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (channel, scope, path, owner, tree) DO UPDATE SET "
        "shared = excluded.shared, reason = excluded.reason, edit = excluded.edit, file = excluded.file, "
        "expires = excluded.expires",
        me.channel,
        place.scope,
        place.path,
        patterns.stem(place.path).casefold(),
        me.name,
        int(new.shared),
        new.reason,
        int(new.edit),
        tree,
        place.file,
        tx.now,
        new.expires,
    )


def holding(
    tx: Transaction, me: Address, place: Place, effort: Effort, *, tree: str = "", shared: bool = False
) -> Claim | None:
    """The claim of somebody else that stands against `me` having the place.

    Sessions found dead on the way are ended, and their claims with them. Raises `TooLarge`
    if the effort is not enough to compare the place with all that there are.
    """
    stem = patterns.stem(place.path).casefold()
    rows = tx.all(
        "SELECT scope, path, owner, shared, reason, expires, edit, file FROM claims "
        "WHERE channel = ? AND owner != ? AND expires > ? AND (tree = '' OR tree = ?) AND ((file != '' AND file = ?) "
        "OR (scope = ? AND (SUBSTR(?, 1, LENGTH(stem)) = stem OR SUBSTR(stem, 1, LENGTH(?)) = ?))) ORDER BY id",
        me.channel,
        me.name,
        tx.now,
        tree,
        place.file,
        place.scope,
        stem,
        stem,
        stem,
    )
    gone: set[str] = set()
    for row in rows:
        if (shared and row["shared"]) or row["owner"] in gone or not _meet(row, place, effort):
            continue
        if _owner_present(tx, Address(row["owner"], me.channel)):
            return _claim(row)
        gone.add(row["owner"])
    return None


def shares(tx: Transaction, me: Address, place: Place, effort: Effort) -> bool:
    """Whether `me` has a shared claim on the place, as others may have with it."""
    rows = tx.all(
        "SELECT scope, path, file FROM claims WHERE channel = ? AND owner = ? AND shared = 1 AND expires > ?",
        me.channel,
        me.name,
        tx.now,
    )
    return any(_meet(row, place, effort) for row in rows)


def _meet(row: Row, place: Place, effort: Effort) -> bool:
    """Whether the claim covers the place, by path or, for a file that was moved, by its identity.

    Capitals make no difference: some file systems do not tell them apart.
    """
    if place.file and row["file"] == place.file:
        return True
    path: str = row["path"]
    if row["scope"] != place.scope:
        return False
    if rules.is_resource(path) or rules.is_resource(place.path):
        return path == place.path
    try:
        return _overlap(path, place.path, effort)
    except Exhausted:
        raise TooLarge(
            f"'{place.path}' and what comes with it is too much to compare with all claims on the channel: name fewer "
            "paths at once, and fewer wildcards"
        ) from None


def _overlap(one: str, other: str, effort: Effort) -> bool:
    folded = one.casefold(), other.casefold()
    return patterns.overlap(one, other, effort) or ((one, other) != folded and patterns.overlap(*folded, effort))


def _owner_present(tx: Transaction, owner: Address) -> bool:
    """False if the owner's session has died; asking ends that session and its claims.

    An owner that never was a session (a person, a script) is present until its ttl.
    """
    had_session = tx.one("SELECT 1 FROM bindings WHERE channel = ? AND agent = ?", owner.channel, owner.name)
    return not had_session or bindings.holder(tx, owner) is not None


def release(tx: Transaction, me: Address, places: Places | None) -> list[Place]:
    """Release some of `me`'s claims, or all (None); returns those that were held.

    Raises `ClaimOfOther` for a place only somebody else holds; nothing is released then.
    """
    rules.check_place_count(len(places or ()))
    held = (
        [place for place in map(_as_place, places) if _holds(tx, me, place)] if places is not None else _all_of(tx, me)
    )
    for place in held:
        _delete(tx, me, place)
        events.append(tx, me, "release", place.path)
    return held


def force_release(tx: Transaction, me: Address, places: Places, reason: str) -> list[tuple[str, Place]]:
    """End claims of anybody on these very places; returns (owner, place) of each.

    Whoever calls this owes the owners an explanation.
    """
    rules.check_place_count(len(places))
    ended = []
    for place in map(_as_place, places):
        for owner in _owners(tx, me.channel, place):
            _delete(tx, Address(owner, me.channel), place)
            events.append(tx, me, "force_release", place.path, f"{owner}: {reason}")
            ended.append((owner, place))
    return ended


def _as_place(place: Place | tuple[str, str]) -> Place:
    return Place(*place)


def _all_of(tx: Transaction, me: Address) -> list[Place]:
    rows = tx.all(
        "SELECT scope, path FROM claims WHERE channel = ? AND owner = ? AND expires > ? "
        "GROUP BY scope, path ORDER BY MIN(id)",
        me.channel,
        me.name,
        tx.now,
    )
    return [Place(r["scope"], r["path"]) for r in rows]


def _delete(tx: Transaction, owner: Address, place: Place) -> None:
    tx.run(
        "DELETE FROM claims WHERE channel = ? AND scope = ? AND path = ? AND owner = ?",
        owner.channel,
        place.scope,
        place.path,
        owner.name,
    )


def _holds(tx: Transaction, me: Address, place: Place) -> bool:
    owners = _owners(tx, me.channel, place)
    if owners and me.name not in owners:
        raise ClaimOfOther(place.path, owners[0], me.name)
    return bool(owners)


def _owners(tx: Transaction, channel: str, place: Place) -> list[str]:
    """Who holds this very place. Sessions found dead on the way are ended, and their claims with them."""
    rows = tx.all(
        "SELECT DISTINCT owner FROM claims WHERE channel = ? AND scope = ? AND path = ? AND expires > ? ORDER BY owner",
        channel,
        place.scope,
        place.path,
        tx.now,
    )
    return [r["owner"] for r in rows if _owner_present(tx, Address(r["owner"], channel))]


def list_claims(tx: Transaction, channel: str) -> list[Claim]:
    """All live claims, by path; those of sessions that died are gone."""
    for row in tx.all("SELECT DISTINCT owner FROM claims WHERE channel = ?", channel):
        _owner_present(tx, Address(row["owner"], channel))
    rows = tx.all("SELECT * FROM claims WHERE channel = ? AND expires > ? ORDER BY scope, path, owner", channel, tx.now)
    return [_claim(row) for row in rows]


def prune(tx: Transaction) -> int:
    """Drop claims whose time is over; returns how many."""
    tx.run("DELETE FROM refusals WHERE at < ?", tx.now - rules.REFUSAL_LASTS)
    return _end_expired(tx)


def _end_expired(tx: Transaction) -> int:
    return tx.run("DELETE FROM claims WHERE expires <= ?", tx.now).rowcount


def _claim(row: Row) -> Claim:
    return Claim(
        row["path"], row["scope"], row["owner"], bool(row["shared"]), row["reason"], row["expires"], bool(row["edit"])
    )
