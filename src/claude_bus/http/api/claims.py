"""Claims: what somebody is editing or holds. Paths are taken as given: a server knows no folder of its callers."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Query as InQuery
from pydantic import Field
from starlette.responses import Response

from ... import claim_paths, documents, spelling
from ...model.claims import Claim, ClaimTarget
from ...sql import claims
from ..responses import Json
from . import records
from .caller import Calling
from .fields import PATH, Body, Channel, Line, Name, Pattern, Query, Seconds
from .quick import QuickRoute
from .refusals import refusals

router = APIRouter(prefix=PATH, tags=["claims"], route_class=QuickRoute)

Paths = Annotated[list[Pattern], Field(min_length=1, max_length=claim_paths.MAX_PLACES)]


class Which(Query):
    channel: Channel = ""


class Wanted(Body):
    name: Name = Field(alias="as")
    channel: Channel = ""
    paths: Paths = Field(description="Paths, globs, or resources such as `port:8080`.")
    ttl: Seconds = Field(default=1800.0, le=claim_paths.MAX_CLAIM_TTL)
    shared: bool = False
    reason: Line = ""


class These(Body):
    name: Name = Field(alias="as")
    channel: Channel = ""
    paths: Paths


class All(Body):
    name: Name = Field(alias="as")
    channel: Channel = ""
    all: Literal[True]


@router.get("/claims", response_model=records.Claims, responses=refusals())
async def list_claims(caller: Calling, which: Annotated[Which, InQuery()]) -> Response:
    """All live claims on the channel: at most 1,000, and about a million characters; `more` counts the others."""
    return _answer(await caller.bus.run(claims.list_claims, caller.channel(which.channel)))


@router.post("/claims", status_code=201, response_model=records.Claims, responses=refusals(409))
async def claim(caller: Calling, given: Wanted) -> Response:
    """Claim all of the paths or, if others hold one that overlaps, none. Claiming again renews."""
    places = _places(given.paths)
    who, bus = caller.acts(given.name, given.channel)
    found = await bus.run(claims.claim, who, places, ttl=given.ttl, shared=given.shared, reason=given.reason)
    return _answer(found, 201)


@router.delete("/claims", response_model=records.Released, responses=refusals(409))
async def release(caller: Calling, given: These | All) -> Response:
    """End some of the name's claims, or all. A path without a claim is no error; one that only another holds is."""
    who, bus = caller.acts(given.name, given.channel)
    places = None
    if isinstance(given, These):
        listed = {
            ClaimTarget(c.scope, c.path) for c in await bus.run(claims.list_claims, who.channel) if c.owner == who.name
        }
        places = [place for path in given.paths for place in _listed(path, listed)]
    ended = await bus.run(claims.release, who, places)
    return Json({"released": [place.path for place in ended]})


def _places(paths: list[str]) -> list[ClaimTarget]:
    return [ClaimTarget("", claim_paths.check_path(path)) for path in spelling.paths(paths)]


def _listed(path: str, listed: set[ClaimTarget]) -> list[ClaimTarget]:
    """The place that is listed under exactly this path, however odd; else those that the path is understood as."""
    return [ClaimTarget("", path)] if ClaimTarget("", path) in listed else _places([path])


def _answer(found: list[Claim], status: int = 200) -> Response:
    now = time.time()
    return Json(documents.some([_row(claim, now) for claim in found], "claims"), status)


def _row(found: Claim, now: float) -> dict[str, Any]:
    row = documents.claim(found, found.path, now)
    return {**row, "scope": found.scope} if found.scope else row
