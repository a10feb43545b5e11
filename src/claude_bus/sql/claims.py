"""Claims: who is editing what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from .. import claim_paths, limits, patterns
from ..errors import ClaimHeld, ClaimOfOther, InvalidInput, NotRegistered, TooLarge
from ..model.claims import FOLDER, Claim, ClaimTarget
from ..model.identity import Address
from ..patterns import BudgetExceeded, Kind, Stems, StepBudget
from . import bindings, events
from .arguments import Channel, Me, Places, Tree
from .transaction import Row, Transaction, among, at_once, listed, spread
from .verbs import verb

ANYWHERE = "*"
"""The scope of relative paths that the original's claims have: of which repository, it did not note."""

_UNQUOTED = "REPLACE(REPLACE(REPLACE(path, '[[]', ''), '[*]', ''), '[?]', '')"
_IS_GLOB = f"({_UNQUOTED} LIKE '%*%' OR {_UNQUOTED} LIKE '%?%' OR {_UNQUOTED} LIKE '%[%')"
"""Whether a claim has wildcards, not only quoted characters."""


@verb("claim")
def claim(
    tx: Transaction,
    me: Me,
    places: Places,
    *,
    ttl: float,
    shared: bool = False,
    reason: str = "",
    tree: Tree = "",
) -> list[Claim]:
    """Claim all of the places or, with `ClaimHeld`, none.

    An exclusive claim excludes every overlapping claim of others; shared ones exclude
    only exclusive ones. Claims that edits made hold in their working tree only: `tree`
    is the claimer's. Claiming one's own again renews it. Ends after `ttl` seconds.
    Raises `InvalidInput` beyond the limits of what may be claimed, at once and in all,
    `NotRegistered` for a name that nobody ever had here.
    """
    if not tx.one("SELECT 1 FROM agents WHERE channel = ? AND name = ?", me.channel, me.name):
        raise NotRegistered
    limits.check_seconds(ttl, "ttl", claim_paths.MAX_CLAIM_TTL)
    limits.check_line(reason, "reason")
    if not places:
        raise InvalidInput("path is empty: name a path, a glob, a resource such as port:8080, or a list of them")
    wanted = _checked(places)
    effort = StepBudget(claim_paths.MAX_EFFORT)
    others = Others(tx, me, wanted, tree)
    for place in wanted:
        held = others.against(place, effort, shared=shared)
        if held:
            path, theirs = claim_paths.named(place.scope, place.path), claim_paths.named(held.scope, held.path)
            raise ClaimHeld(path, theirs, held.owner, held.expires - tx.now, held.reason)
    _end_expired(tx)
    _put(tx, me, wanted, Claim("", "", me.name, shared, reason, tx.now + ttl))
    events.append_all(tx, [(me, "claim", place.path, reason) for place in wanted])
    for of, owner, limit, globs in (
        (f"of '{me.name}'", me.name, claim_paths.MAX_CLAIMS, claim_paths.MAX_GLOB_CLAIMS),
        (f"on channel '{me.channel}'", None, claim_paths.MAX_CHANNEL_CLAIMS, claim_paths.MAX_CHANNEL_GLOB_CLAIMS),
    ):
        stored, with_wildcards = _counts(tx, me.channel, owner)
        claim_paths.check_claim_count(stored, limit, of, "claims")
        claim_paths.check_claim_count(with_wildcards, globs, of, "claims with wildcards")
    return [Claim(place.path, place.scope, me.name, shared, reason, tx.now + ttl) for place in wanted]


def _checked(places: Places) -> list[ClaimTarget]:
    claim_paths.check_place_count(len(places))
    wanted = [ClaimTarget(*place) for place in places]
    for place in wanted:
        claim_paths.check_place(place)
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
    counts = ((me.name, claim_paths.MAX_CLAIMS), (None, claim_paths.MAX_CHANNEL_CLAIMS))
    return all(_counts(tx, me.channel, owner)[0] < limit for owner, limit in counts)


def put(tx: Transaction, me: Address, place: ClaimTarget, new: Claim, tree: str = "") -> None:
    """Store a claim of `me`, or renew it. Claims that have expired stay so if the clock goes back."""
    _end_expired(tx)
    _put(tx, me, [place], new, tree)


def _put(tx: Transaction, me: Address, places: Sequence[ClaimTarget], new: Claim, tree: str = "") -> None:
    """Store a claim like `new` of each place."""
    once = {place[:2]: place for place in places}  # a statement stores a row once
    for some in at_once([*once.values()]):
        tx.run(
            "INSERT INTO claims "
            "(channel, scope, path, stem, owner, shared, reason, edit, tree, file, created, expires) "
            f"VALUES {listed(len(some), 12)} ON CONFLICT (channel, scope, path, owner, tree) DO UPDATE SET "
            "shared = excluded.shared, reason = excluded.reason, edit = excluded.edit, file = excluded.file, "
            "expires = excluded.expires",
            *spread(
                (
                    me.channel,
                    place.scope,
                    place.path,
                    _stem(place.path),
                    me.name,
                    int(new.shared),
                    new.reason,
                    int(new.edit),
                    tree,
                    place.file,
                    tx.now,
                    new.expires,
                )
                for place in some
            ),
        )
    for above in at_once(
        [(place.scope, place.path, *over, _stem(over[1])) for place in places for over in place.above]
    ):
        tx.run(
            f"WITH above (of_scope, of_path, scope, path, stem) AS (VALUES {listed(len(above), 5)}) "
            "INSERT INTO claims_above (claim, scope, path, stem) SELECT c.id, above.scope, above.path, above.stem "
            "FROM above JOIN claims c ON c.scope = above.of_scope AND c.path = above.of_path "
            "WHERE c.channel = ? AND c.owner = ? AND c.tree = ? ON CONFLICT DO NOTHING",
            *spread(above),
            me.channel,
            me.name,
            tree,
        )


def holding(
    tx: Transaction, me: Address, place: ClaimTarget, effort: StepBudget, *, tree: str = "", shared: bool = False
) -> Claim | None:
    """The claim of somebody else that stands against `me` having the place; see `Others.against`."""
    return Others(tx, me, [place], tree).against(place, effort, shared=shared)


class Others:
    """The claims of others that can stand against `me` having one of the places."""

    def __init__(self, tx: Transaction, me: Address, places: Sequence[ClaimTarget], tree: str) -> None:
        self._tx = tx
        self._channel = me.channel
        self._found = _Near(tx, "c.channel = ? AND c.owner != ? AND c.expires > ?", me, places, tree)
        self._present: set[str] | None = None

    def against(self, place: ClaimTarget, effort: StepBudget, *, shared: bool, is_file: bool = False) -> Claim | None:
        """The oldest claim that stands against having the place, which may be known to be a file.

        Sessions found dead on the way are ended, and their claims with them. Raises `TooLarge`
        if the effort is not enough to compare the place with all that there are.
        """
        for row in self._found.meeting(place, effort, is_file=is_file):
            if shared and row["shared"]:
                continue
            if self._present is None:
                self._present = _present(self._tx, self._channel, self._found.owners)
            if row["owner"] in self._present:
                return _claim(row)
        return None


class Sharing:
    """Shared claims of `me` on some places, as others may have with it."""

    def __init__(self, tx: Transaction, me: Address, places: Sequence[ClaimTarget]) -> None:
        condition = "c.channel = ? AND c.owner = ? AND c.expires > ? AND c.shared = 1"
        self._found = _Near(tx, condition, me, places, None)

    def has(self, place: ClaimTarget, effort: StepBudget) -> bool:
        """Whether there is one on this file."""
        return any(self._found.meeting(place, effort, is_file=True))


class _Near:
    """Some claims of a channel, each read once, to be compared with places by what their paths begin with.

    Claims that edits made hold in working tree `tree` only (None: in any), and for the very
    same file of this machine.
    """

    def __init__(
        self, tx: Transaction, condition: str, me: Address, places: Sequence[ClaimTarget], tree: str | None
    ) -> None:
        self._rows: dict[int, Row] = {}
        self._files: dict[str, list[int]] = defaultdict(list)
        paths: dict[str, list[tuple[str, tuple[int, str]]]] = defaultdict(list)
        for row in _rows_near(tx, condition, (me.channel, me.name, tx.now), places):
            here = tree is None or row["tree"] in ("", tree)
            if not here and not claim_paths.is_machine(row["at"]):
                continue
            self._rows[row["id"]] = row
            path = patterns.normalize(row["named"]) if row["at"] == ANYWHERE else row["named"]
            paths[row["at"]].append((_stem(path), (row["id"], path)))
            if here and row["file"] not in ("", FOLDER):
                self._files[row["file"]].append(row["id"])
        self._paths = {scope: Stems(found) for scope, found in paths.items()}

    @property
    def owners(self) -> set[str]:
        return {row["owner"] for row in self._rows.values()}

    def meeting(self, place: ClaimTarget, effort: StepBudget, *, is_file: bool) -> Iterator[Row]:
        """Claims that meet the place, the oldest first: by path or, for a file that moved, by its identity."""
        met = set(self._files.get(place.file, ()))
        try:
            met.update(self._met(place, "file" if is_file else kind_of(place.file), effort))
        except BudgetExceeded:
            raise TooLarge(
                f"'{place.path}' and what comes with it is too much to compare with all claims on the channel: name "
                "fewer paths at once, and fewer wildcards"
            ) from None
        return (self._rows[number] for number in sorted(met))

    def _met(self, place: ClaimTarget, kind: Kind, effort: StepBudget) -> Iterator[int]:
        for scope, path in _spellings(place):
            if scope not in self._paths:
                continue
            for number, claimed in self._paths[scope].near(_stem(path), effort):
                row = self._rows[number]
                if claim_paths.is_machine(scope) and not _by_machine(row, place):
                    continue
                its = "file" if row["edit"] else kind_of(row["file"])
                if _meet(scope, claimed, path, (its, kind), effort):
                    yield number


def _rows_near(
    tx: Transaction, condition: str, values: tuple[str | float, ...], places: Sequence[ClaimTarget]
) -> Iterator[Row]:
    """Claims that may meet one of the places, and some more: each of their spellings, `named` in scope `at`."""
    wanted: dict[str, list[str]] = defaultdict(list)
    for scope, path in (spelling for place in places for spelling in _spellings(place)):
        wanted[scope].append(_stem(path))
    if not wanted:
        return
    begins = [value for scope, stems in wanted.items() for value in (scope, _common(stems))]
    table = f"WITH wanted (scope, begins) AS (VALUES {', '.join(['(?, ?)'] * len(wanted))})"
    yield from tx.all(
        f"{table} SELECT {_COLUMNS}, c.scope AS at, c.path AS named FROM wanted w "
        f"JOIN claims c ON c.scope = w.scope WHERE {condition} AND {_NEAR.format(stem='c.stem')} "
        f"UNION ALL SELECT {_COLUMNS}, a.scope, a.path FROM wanted w JOIN claims_above a ON a.scope = w.scope "
        f"JOIN claims c ON c.id = a.claim WHERE {condition} AND {_NEAR.format(stem='a.stem')} "
        "AND (a.scope NOT LIKE ? OR ? OR c.scope = '' OR c.edit = 1)",  # as `_by_machine`
        *begins,
        *values,
        *values,
        f"{claim_paths.MACHINE}%",
        int(any(not place.scope for place in places)),
    )
    files = sorted({place.file for place in places} - {"", FOLDER})
    if files:
        yield from tx.all(
            f"SELECT {_COLUMNS}, c.scope AS at, c.path AS named FROM claims c "
            f"WHERE {condition} AND c.file IN ({', '.join('?' * len(files))})",
            *values,
            *files,
        )


_COLUMNS = "c.id, c.scope, c.path, c.owner, c.shared, c.reason, c.expires, c.edit, c.tree, c.file"
_NEAR = "(SUBSTR(w.begins, 1, LENGTH({stem})) = {stem} OR SUBSTR({stem}, 1, LENGTH(w.begins)) = w.begins)"
"""Whether one begins with the other: else no path has both."""


def _by_machine(row: Row, place: ClaimTarget) -> bool:
    """Whether they are compared by where they lie on their machine.

    That is for what lies in no repository, and for what an edit claimed in another one. Within
    one repository only its own paths count: a worktree may lie in a folder of another.
    """
    return "" in (row["scope"], place.scope) or (row["edit"] and row["scope"] != place.scope)


def _spellings(place: ClaimTarget) -> tuple[tuple[str, str], ...]:
    return (place.scope, place.path), *place.above, (ANYWHERE, place.path)


def _common(texts: Sequence[str]) -> str:
    """The longest prefix that all of them share."""
    first, last = min(texts), max(texts)
    same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:same]


def _stem(path: str) -> str:
    return patterns.stem(path).casefold()


def kind_of(file: str) -> Kind:
    """The kind of thing the path of a claim names, from the identity stored with it; "" if unknown."""
    return "folder" if file == FOLDER else "file" if file else ""


def _meet(scope: str, one: str, other: str, kinds: tuple[Kind, Kind], effort: StepBudget) -> bool:
    """Whether two places of one scope have something in common.

    Capitals make no difference: some file systems do not tell them apart.
    """
    if scope == "" and (claim_paths.is_resource(one) or claim_paths.is_resource(other)):
        return one == other
    folded = one.casefold(), other.casefold()
    return patterns.overlap(one, other, effort, kinds=kinds) or (
        (one, other) != folded and patterns.overlap(*folded, effort, kinds=kinds)
    )


def _present(tx: Transaction, channel: str, owners: Iterable[str]) -> set[str]:
    """Those of the owners whose session has not died; asking ends the sessions that have, and their claims.

    An owner that never was a session (a person, a script) is present until its ttl.
    """
    whose = [Address(owner, channel) for owner in sorted(owners)]
    dead = bindings.end_dead(tx, whose)
    return {who.name for who in whose if who not in dead}


@verb("release", repeatable=False)
def release(tx: Transaction, me: Me, places: Places | None) -> list[ClaimTarget]:
    """Release some of `me`'s claims, or all (None); returns those that were held.

    Raises `ClaimOfOther` for a place only somebody else holds; nothing is released then.
    """
    claim_paths.check_place_count(len(places or ()))
    if places is None:
        held = _all_of(tx, me)
    else:
        found = _Held(tx, me.channel, wanted := list(map(_as_place, places)))
        held = [place for place in wanted if _holds(found, me, place)]
    _delete(tx, me.channel, [(me.name, place) for place in held])
    events.append_all(tx, [(me, "release", place.path, "") for place in held])
    return held


def force_release(tx: Transaction, me: Address, places: Places, reason: str) -> list[tuple[str, ClaimTarget]]:
    """End claims of anybody on these very places; returns (owner, place) of each.

    The caller owes the owners an explanation.
    """
    claim_paths.check_place_count(len(places))
    found = _Held(tx, me.channel, wanted := list(map(_as_place, places)))
    ended = [(owner, place) for place in wanted for owner in found.take(place)]
    _delete(tx, me.channel, ended)
    events.append_all(tx, [(me, "force_release", place.path, f"{owner}: {reason}") for owner, place in ended])
    return ended


def _as_place(place: ClaimTarget | tuple[str, str]) -> ClaimTarget:
    return ClaimTarget(*place)


def _all_of(tx: Transaction, me: Address) -> list[ClaimTarget]:
    rows = tx.all(
        "SELECT scope, path FROM claims WHERE channel = ? AND owner = ? AND expires > ? "
        "GROUP BY scope, path ORDER BY MIN(id)",
        me.channel,
        me.name,
        tx.now,
    )
    return [ClaimTarget(r["scope"], r["path"]) for r in rows]


def _delete(tx: Transaction, channel: str, claims: Sequence[tuple[str, ClaimTarget]]) -> None:
    """End these claims, each of an owner on a place."""
    for some in at_once([(owner, scope, place.path) for owner, place in claims for scope in (place.scope, ANYWHERE)]):
        tx.run(
            f"DELETE FROM claims WHERE channel = ? AND {among('owner, scope, path', len(some))}",
            channel,
            *spread(some),
        )


def _holds(held: _Held, me: Address, place: ClaimTarget) -> bool:
    owners = held.owners(place)
    if owners and me.name not in owners:
        raise ClaimOfOther(claim_paths.named(place.scope, place.path), owners[0], me.name)
    return bool(owners)


class _Held:
    """The owners of claims on some places. Sessions found dead on the way are ended, and their claims with them."""

    def __init__(self, tx: Transaction, channel: str, places: Sequence[ClaimTarget]) -> None:
        wanted = list({(scope, place.path): None for place in places for scope in (place.scope, ANYWHERE)})
        rows = [
            row
            for some in at_once(wanted)
            for row in tx.all(
                "SELECT DISTINCT owner, scope, path FROM claims WHERE channel = ? AND expires > ? "
                f"AND {among('scope, path', len(some))}",
                channel,
                tx.now,
                *spread(some),
            )
        ]
        here = _present(tx, channel, {row["owner"] for row in rows})
        self._owners: dict[tuple[str, str], set[str]] = defaultdict(set)
        for row in rows:
            if row["owner"] in here:
                self._owners[row["scope"], row["path"]].add(row["owner"])

    def owners(self, place: ClaimTarget) -> list[str]:
        """The names of those who hold this very place."""
        return sorted(self._owners[place.scope, place.path] | self._owners[ANYWHERE, place.path])

    def take(self, place: ClaimTarget) -> list[str]:
        """The same; from now on they do not hold it."""
        owners = self.owners(place)
        self._owners[place.scope, place.path] = set()
        self._owners[ANYWHERE, place.path] = set()
        return owners


@verb("list_claims", mode="read")
def list_claims(tx: Transaction, channel: Channel) -> list[Claim]:
    """All live claims, by path; those of sessions that died are gone."""
    _present(
        tx, channel, [row["owner"] for row in tx.all("SELECT DISTINCT owner FROM claims WHERE channel = ?", channel)]
    )
    rows = tx.all("SELECT * FROM claims WHERE channel = ? AND expires > ? ORDER BY scope, path, owner", channel, tx.now)
    return [_claim(row) for row in rows]


def prune(tx: Transaction) -> int:
    """Drop claims whose time is over; returns how many."""
    tx.run("DELETE FROM refusals WHERE at < ?", tx.now - claim_paths.REFUSAL_LASTS)
    return _end_expired(tx)


def _end_expired(tx: Transaction) -> int:
    return tx.run("DELETE FROM claims WHERE expires <= ?", tx.now).rowcount


def _claim(row: Row) -> Claim:
    return Claim(
        row["path"], row["scope"], row["owner"], bool(row["shared"]), row["reason"], row["expires"], bool(row["edit"])
    )
