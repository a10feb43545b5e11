"""Claims, releases and edits of a session, in paths as its client writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .. import claim_paths
from ..errors import BusError, InvalidInput, NoAnswer
from ..model.claims import Claim, ClaimTarget, Verdict
from ..model.identity import Address
from ..spelling import Budget
from ..sql import claims, guard
from ..sql import guard as sql_guard
from .membership import Membership


class Claims:
    """The claims of one session, and the claim check before its edits."""

    def __init__(self, membership: Membership) -> None:
        self.bus = membership.bus
        self._membership = membership
        self._presence = membership.presence
        self._workspace = membership.workspace

    async def claim(self, paths: list[str], *, ttl: float, shared: bool, reason: str) -> list[Claim]:
        """Claim all of these paths, or none; return the claims as seen from the session's folder."""
        me = await self._membership.claimant()
        claim_paths.check_place_count(len(paths))
        places = await self._workspace.claimed(paths)
        root = self._presence.client.folder.root
        granted = await self.bus.run(claims.claim, me, places, ttl=ttl, shared=shared, reason=reason, tree=root)
        seen = [self._workspace.from_here(place) for place in places]
        return [replace(claim, scope=place.scope, path=place.path) for claim, place in zip(granted, seen, strict=True)]

    async def release(self, paths: list[str] | None, force: str = "") -> list[ClaimTarget]:
        """Release the session's own claims; with `force`, a reason, any agent's, who is notified."""
        me = await self._membership.claimant()
        places = None if paths is None else await self._held(me, paths, anybodys=bool(force))
        if not force:
            return self._as_from_here(places, await self.bus.run(claims.release, me, places))
        if places is None:
            raise InvalidInput("force needs a path: name the claims to end")
        return self._as_from_here(places, await self.bus.run(guard.force_release, me, places, force))

    async def edit(self, path: str) -> Verdict:
        """Return whether the session or a subagent may edit a file, and the claim that conflicts."""
        guard = self._presence.config.guard
        if self._presence.absent or guard == "off" or not 0 < len(path) <= claim_paths.MAX_PATH_ON_DISK:
            return Verdict("pass")
        self._presence.heard()
        await self._presence.attach()
        try:
            target, tree = await self._workspace.edited(path)
        except NoAnswer as error:
            raise BusError(f"{error.message}; claims on it were not checked before this edit") from None
        return await self.bus.run(sql_guard.edit, self._presence.client, target, tree, guard)

    def _as_from_here(self, asked: Sequence[ClaimTarget] | None, ended: Sequence[ClaimTarget]) -> list[ClaimTarget]:
        seen = {place[:2]: self._workspace.from_here(place) for place in asked or ()}
        return [seen.get(place[:2], place) for place in ended]

    async def _held(self, me: Address, paths: Sequence[str], *, anybodys: bool) -> list[ClaimTarget]:
        """Return the targets to release. A path as `list_claims` shows it means that claim, unless it names another."""
        claim_paths.check_place_count(len(paths))
        held = [c for c in await self.bus.run(claims.list_claims, me.channel) if anybodys or c.owner == me.name]
        shown = {self._workspace.shown(c.scope, c.path): ClaimTarget(c.scope, c.path) for c in held}
        places: set[tuple[str, ...]] = {place[:2] for place in shown.values()}
        budget = Budget()
        return [place for path in paths for place in await self._meant(places, shown, path, budget)]

    async def _meant(
        self, held: set[tuple[str, ...]], shown: Mapping[str, ClaimTarget], path: str, budget: Budget
    ) -> list[ClaimTarget]:
        try:
            places = await self._workspace.claimed([path], budget)
        except (InvalidInput, NoAnswer):
            if path not in shown:
                raise
            return [shown[path]]
        return [shown[path]] if path in shown and not all(place[:2] in held for place in places) else places
