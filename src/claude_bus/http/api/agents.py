"""The agents on the bus; programs join and leave."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter
from fastapi import Query as InQuery
from pydantic import Field
from starlette.responses import Response

from ... import claim_paths, documents, limits, spelling
from ...sql import agents, deliveries
from ..responses import Json
from . import records
from .caller import PROGRAM, Calling
from .fields import PATH, Body, Channel, Line, NameInPath, Pattern, Query, Seconds
from .quick import QuickRoute
from .refusals import refusals

router = APIRouter(prefix=PATH, tags=["agents"], route_class=QuickRoute)


class Which(Query):
    channel: Channel = ""
    active_within: Seconds | None = None


class Join(Body):
    channel: Channel = ""
    role: Line = ""
    owns: list[Pattern] | None = Field(
        default=None, max_length=claim_paths.MAX_OWNS, description="Globs of its files; what it had unless given."
    )


class Where(Query):
    channel: Channel = ""


@router.get("/agents", response_model=records.Agents, responses=refusals())
async def list_agents(caller: Calling, which: Annotated[Which, InQuery()]) -> Response:
    """The agents of the channel: running sessions first, then others that took part, latest first.

    At most 1,000, and about a million characters; `more` counts the others, which `active_within` leaves out.
    """
    found = await caller.bus.run(agents.listing, caller.channel(which.channel), which.active_within)
    now = time.time()
    return Json(documents.some([documents.agent(agent, "", now) for agent in found], "agents"))


@router.put("/agents/{name}", response_model=records.Joined, responses=refusals(409))
async def join(caller: Calling, name: NameInPath, given: Join | None = None) -> Response:
    """Join as a program, or change its role. The channel's retained broadcasts are kept for it, too.

    Acting under a name joins as well; this is for programs that want to be found earlier.
    """
    given = given or Join()
    who = caller.looks(name, given.channel)
    role = limits.check_line(given.role, "role")
    owns = None if given.owns is None else claim_paths.check_owns(spelling.paths(given.owns, what="owns"))
    await caller.bus.granted(caller.grant).run(agents.join_without_session, who, PROGRAM, role, owns)
    mail = await caller.bus.run(deliveries.waiting, who)
    return Json({"name": who.name, "channel": who.channel, "pending_count": mail.count + mail.earlier})


@router.delete("/agents/{name}", status_code=204, response_class=Response, responses=refusals(404, 409))
async def leave(caller: Calling, name: NameInPath, where: Annotated[Where, InQuery()]) -> Response:
    """Leave: its claims end, direct mail is kept for it, broadcasts no more."""
    await caller.bus.run(agents.leave_without_session, caller.looks(name, where.channel))
    return Response(status_code=204)
