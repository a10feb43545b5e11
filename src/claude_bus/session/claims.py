"""Claims, releases and edits of a session, in paths as its client writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .. import claim_paths
from ..errors import BusError, InvalidInput, NoAnswer
from ..model.claims import Claim, ClaimTarget, Verdict
from ..model.identity import Address, Binding
from ..spelling import Budget
from ..sql import claims, guard
from ..sql import guard as sql_guard
from .membership import Membership
from .presence import SignedBus


class Claims:
    """The claims of one session, and the claim check before its edits."""

    def __init__(self, membership: Membership) -> None:
        self.bus = membership.bus
        self._membership = membership
        self._presence = membership.presence
        self._workspace = membership.workspace

    async def claim(self, paths: list[str], *, ttl: float, shared: bool, reason: str) -> list[Claim]:
        """Claim all of these paths, or none; return the claims as seen from the session's folder."""
        root = self._presence.client.folder.root
        places: list[ClaimTarget] = []

        async def claim(bus: SignedBus, me: Address) -> list[Claim]:
            claim_paths.check_place_count(len(paths))
            places[:] = await self._workspace.claimed(paths)
            return await bus.run(claims.claim, me, places, ttl=ttl, shared=shared, reason=reason, tree=root)

        granted = await self._membership.as_claimant(claim)
        seen = [self._workspace.from_here(place) for place in places]
        return [replace(claim, scope=place.scope, path=place.path) for claim, place in zip(granted, seen, strict=True)]

    async def release(self, paths: list[str] | None, force: str = "") -> list[ClaimTarget]:
        """Release the session's own claims; with `force`, a reason, any agent's, who is notified."""
        return await self._membership.as_claimant(lambda bus, me: self._release(bus, me, paths, force))

    async def _release(self, bus: SignedBus, me: Address, paths: list[str] | None, force: str) -> list[ClaimTarget]:
        if paths is None:
            if force:
                raise InvalidInput("force needs a path: name the claims to end")
            return await bus.run(claims.release, me, None)
        claim_paths.check_place_count(len(paths))
        budget = Budget()
        read = [await self._understood(path, budget) for path in paths]
        asked: list[ClaimTarget] = []

        def meant(live: list[Claim]) -> list[ClaimTarget]:
            """The places to release; called with the claims in the transaction that ends them."""
            held = [claim for claim in live if force or claim.owner == me.name]
            asked[:] = self._meant(held, paths, read)
            return asked

        return self._as_from_here(asked, await bus.run(guard.release_meant, me, meant, force))

    async def edit(self, path: str) -> Verdict:
        """Return whether the session or a subagent may edit a file, and the claim that conflicts."""
        guard = self._presence.config.guard
        if self._presence.absent or guard == "off" or not 0 < len(path) <= claim_paths.MAX_PATH_ON_DISK:
            return Verdict("pass")
        self._presence.heard()

        async def edit(bus: SignedBus, _binding: Binding) -> Verdict:
            try:
                target, tree = await self._workspace.edited(path)
            except NoAnswer as error:
                raise BusError(f"{error.message}; claims on it were not checked before this edit") from None
            return await bus.run(sql_guard.edit, self._presence.client, target, tree, guard)

        verdict: Verdict | None = None
        with self._presence.unless_it_leaves():
            verdict = await self._presence.acting(edit)
        return verdict or Verdict("pass")

    def _as_from_here(self, asked: Sequence[ClaimTarget] | None, ended: Sequence[ClaimTarget]) -> list[ClaimTarget]:
        seen = {place[:2]: self._workspace.from_here(place) for place in asked or ()}
        return [seen.get(place[:2], place) for place in ended]

    async def _understood(self, path: str, budget: Budget) -> list[ClaimTarget] | InvalidInput | NoAnswer:
        """Return the places that a path names, or why it names none."""
        try:
            return await self._workspace.claimed([path], budget)
        except (InvalidInput, NoAnswer) as error:
            return error

    def _meant(
        self,
        held: Sequence[Claim],
        paths: Sequence[str],
        read: Sequence[list[ClaimTarget] | InvalidInput | NoAnswer],
    ) -> list[ClaimTarget]:
        """Return the targets to release. A path as `list_claims` shows it means that claim, unless it names another."""
        shown = {self._workspace.shown(c.scope, c.path): ClaimTarget(c.scope, c.path) for c in held}
        known = {place[:2] for place in shown.values()}
        found: list[ClaimTarget] = []
        for path, places in zip(paths, read, strict=True):
            if isinstance(places, BusError):
                if path not in shown:
                    raise places
                found.append(shown[path])
            elif path in shown and not all(place[:2] in known for place in places):
                found.append(shown[path])
            else:
                found += places
        return found
