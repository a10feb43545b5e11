"""The inbox of a program: it looks, and acknowledges what it has had."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi import Query as InQuery
from pydantic import Field
from starlette.responses import Response

from ... import documents, limits
from ...model.messages import HandOver
from ...sql import inboxes
from ..hub import mail_for
from ..responses import Json
from . import records
from .caller import PROGRAM, Calling
from .fields import PATH, Body, Channel, Id, NameInPath, Query, Wait
from .quick import QuickRoute
from .refusals import refusals

router = APIRouter(prefix=PATH, tags=["inbox"], route_class=QuickRoute)

VIA = "http"
"""How the messages came, as receipts show it."""


class Look(Query):
    channel: Channel = ""
    limit: int = Field(default=50, ge=1, le=500)
    wait: Wait = 0


class Acknowledgement(Body):
    channel: Channel = ""
    ids: list[Id] = Field(max_length=500)


@router.get("/agents/{name}/inbox", response_model=records.Inbox, responses=refusals(409))
async def inbox(caller: Calling, name: NameInPath, given: Annotated[Look, InQuery()]) -> Response:
    """The oldest unread messages. Nothing is marked: they come again until they are acknowledged."""
    me = caller.looks(name, given.channel)
    bus = caller.bus.looking_as(me, PROGRAM, caller.grant)

    async def look() -> HandOver | None:
        found = await bus.run(inboxes.peek, me, limit=given.limit, max_chars=limits.MAX_ANSWER)
        return found if found.messages else None

    found = await caller.until(look, given.wait, mail_for(me))
    return Json(documents.mail(found or HandOver((), 0)))


@router.post("/agents/{name}/inbox/ack", response_model=records.Acknowledged, responses=refusals(409))
async def acknowledge(caller: Calling, name: NameInPath, given: Acknowledgement) -> Response:
    """The program has had these messages: their senders see `acked`. Repeating it changes nothing."""
    me, bus = caller.acts(name, given.channel)
    ids = list(dict.fromkeys(given.ids))
    states = await bus.run(inboxes.acknowledge, me, ids, VIA)
    return Json(
        {
            "acked": [message for message in ids if states.get(message) == "acked"],
            "expired": [message for message in ids if states.get(message) == "expired"],
            "unknown": [message for message in ids if message not in states],
        }
    )
