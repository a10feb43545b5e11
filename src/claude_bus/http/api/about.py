"""The description of the server, and of what the caller may do here."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from ... import __version__
from ...sql import events
from ..responses import Json
from . import records
from .caller import Calling
from .fields import PATH
from .quick import QuickRoute
from .refusals import refusals

router = APIRouter(prefix=PATH, tags=["about"], route_class=QuickRoute)


@router.get("", response_model=records.About, responses=refusals())
async def about(caller: Calling) -> Response:
    """Name and version of the server, and what the caller's token permits."""
    return Json(
        {
            "name": "claude-bus",
            "version": __version__,
            "channel": caller.service.config.channel,
            "last_event": await caller.bus.run(events.last),
            "owner": caller.grant.owner,
            "names": list(caller.grant.names),
            "channels": list(caller.grant.channels),
        }
    )
