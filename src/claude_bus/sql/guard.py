"""The guard: what stands against an edit, at the moment of the edit."""

from __future__ import annotations

from collections.abc import Callable

from .. import claim_paths, claim_text, limits
from ..model.claims import Claim, ClaimTarget, Guard, Verdict
from ..model.identity import Address, Client
from ..model.messages import Draft
from ..patterns import StepBudget
from . import bindings, claims, events, messages
from .arguments import Me, Places, Tree
from .transaction import Transaction
from .verbs import verb


@verb("edit", mode="relaxed", repeatable=False)
def edit(tx: Transaction, client: Client, place: ClaimTarget, tree: Tree, policy: Guard) -> Verdict:
    """Judge an edit of a file in working tree `tree`, and claim the file if nothing stands against it.

    With `confirm`, the first edit against a claim is refused, and the same again within
    `claim_paths.REFUSAL_LASTS` seconds goes through; the holder is told once. A client that is
    not bound is not guarded.
    """
    binding = bindings.bound(tx, client.key)
    if not binding:
        return Verdict("pass")
    me = binding.address
    [held] = _against(tx, me, [place], tree)
    if not held:
        _claim_for_edit(tx, me, place, tree)
        return Verdict("pass")
    if policy == "warn":
        return Verdict("warn", held)
    if policy == "deny":
        return Verdict("refuse", held, final=True)
    return _confirm(tx, me, client.key, place, held)


@verb("standing", mode="read", nameless=True)
def conflicting_claims(tx: Transaction, me: Me, places: Places, tree: Tree) -> list[Claim | None]:
    """For each place, which is a file, the exclusive claim of another that stands against `me`, or None."""
    claim_paths.check_place_count(len(places))
    return _against(tx, me, [ClaimTarget(*place) for place in places], tree)


def _against(tx: Transaction, me: Address, files: list[ClaimTarget], tree: str) -> list[Claim | None]:
    for file in files:
        claim_paths.check_place_size(file)
    effort = StepBudget(claim_paths.MAX_EFFORT)
    others, sharing = claims.Others(tx, me, files, tree), claims.Sharing(tx, me, files)
    return [others.against(file, effort, shared=sharing.has(file, effort), is_file=True) for file in files]


def _claim_for_edit(tx: Transaction, me: Address, place: ClaimTarget, tree: str) -> None:
    """An edit claims its file for a few minutes; a claim the session made itself, or shares, is enough.

    Where there are as many as there may be, it claims nothing.
    """
    if claims.Sharing(tx, me, [place]).has(place, StepBudget(claim_paths.MAX_EFFORT)):
        return
    own = tx.one(
        "SELECT edit, expires FROM claims WHERE channel = ? AND scope = ? AND path = ? AND owner = ? "
        "AND (tree = '' OR tree = ?) AND expires > ? ORDER BY edit LIMIT 1",
        me.channel,
        place.scope,
        place.path,
        me.name,
        tree,
        tx.now,
    )
    if own and (not own["edit"] or own["expires"] - tx.now > claim_paths.EDIT_CLAIM / 2):
        return
    if not own and not claims.has_room(tx, me):
        return
    new = Claim(place.path, place.scope, me.name, False, "editing", tx.now + claim_paths.EDIT_CLAIM, edit=True)
    claims.put(tx, me, place, new, tree)


def _confirm(tx: Transaction, me: Address, client: str, place: ClaimTarget, held: Claim) -> Verdict:
    key = (client, me.channel, held.owner, place.scope, place.path)
    found = tx.one(
        "SELECT told, at FROM refusals WHERE client = ? AND channel = ? AND holder = ? AND scope = ? AND path = ?", *key
    )
    fresh = found is not None and abs(tx.now - found["at"]) < claim_paths.REFUSAL_LASTS
    tx.run(
        "INSERT INTO refusals (client, channel, holder, scope, path, at, told) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (client, channel, holder, scope, path) DO UPDATE SET at = excluded.at, told = excluded.told",
        *key,
        tx.now,
        int(fresh),
    )
    if not found or not fresh:
        events.append(tx, me, "edit_refused", place.path, held.owner)
        return Verdict("refuse", held)
    if found["told"]:
        return Verdict("override", held)
    events.append(tx, me, "edit_override", place.path, held.owner)
    note = Draft((held.owner,), claim_text.override_notice(place.path, held), kind="fyi")
    messages.store(tx, me, note)
    return Verdict("override", held)


@verb(repeatable=False)
def release_meant(
    tx: Transaction, me: Address, meant: Callable[[list[Claim]], list[ClaimTarget]], force: str
) -> list[ClaimTarget]:
    """Release the places that are meant, given all live claims; with `force`, a reason, anybody's claims on them."""
    places = meant(claims.list_claims(tx, me.channel))
    return force_release(tx, me, places, force) if force else claims.release(tx, me, places)


@verb("take_away", repeatable=False)
def force_release(tx: Transaction, me: Me, places: Places, reason: str) -> list[ClaimTarget]:
    """End anybody's claims on these places, telling the owners why. Returns those ended."""
    limits.check_line(reason, "the reason of a forced release")
    ended = claims.force_release(tx, me, places, reason)
    others = [(owner, claim_text.taken_notice(place, reason)) for owner, place in ended if owner != me.name]
    if others:
        messages.tell(tx, me, others)
    return [place for _, place in ended]
