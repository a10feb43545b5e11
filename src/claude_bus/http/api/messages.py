"""Messages: send, look back, and see how far one is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi import Query as InQuery
from pydantic import Field
from starlette.responses import Response

from ... import addresses, documents, drafts, grants, spelling
from ...errors import InvalidInput
from ...model.messages import Draft, Kind
from ...sql import messages
from ..responses import Json
from . import records
from .caller import Calling
from .fields import PATH, Body, Channel, Count, Id, IdInPath, Line, LineInHeader, Name, Query, Seconds, Tag, Text
from .quick import QuickRoute
from .refusals import refusals

router = APIRouter(prefix=PATH, tags=["messages"], route_class=QuickRoute)


class NewMessage(Body):
    sender: Name = Field(alias="from")
    channel: Channel = ""
    to: str | Annotated[list[str], Field(max_length=addresses.MAX_RECIPIENTS)] = Field(
        description="A name, a glob, `name@channel`, `all`, or a list of these.", examples=["backend"]
    )
    content: str = Field(min_length=1, description=f"At most {drafts.MAX_CONTENT_BYTES} bytes of UTF-8.")
    kind: Kind = "message"
    reply_to: Id | None = None
    tags: list[Tag] = Field(default=[], max_length=drafts.MAX_TAGS)
    urgent: bool = False
    ttl: Seconds | None = Field(default=None, le=drafts.MAX_TTL, description="Until it expires, if it is unread then.")
    key: Line = Field(default="", description="Sent once, however often this is repeated with the same key.")
    allow_secret: bool = False


class Which(Query):
    name: Name = Field(alias="as")
    channel: Channel = ""
    search: Text = ""
    thread: Id | None = Field(default=None, description="Any message of one conversation.")
    since: Count = Field(default=0, description="After this id.")
    before: Count = Field(default=0, description="Before this id; 0: up to the newest.")
    limit: int = Field(default=20, ge=1, le=200)


class Asking(Query):
    name: Name = Field(alias="as")
    channel: Channel = ""


@router.post(
    "/messages",
    status_code=201,
    response_model=records.Sent,
    responses={
        200: {"model": records.Sent, "description": "It was sent before under this key: `duplicate` is true"},
        **refusals(404, 409, 422),
    },
)
async def send(caller: Calling, given: NewMessage, idempotency_key: LineInHeader = "") -> Response:
    """Send a message. `recipients` says what to expect of each of them."""
    draft = drafts.check_draft(_draft(given, _key(given.key, idempotency_key)))
    who, bus = caller.acts(given.sender, given.channel)
    grants.require_recipients(caller.grant, draft.to, who.channel)
    sent = await bus.run(messages.send, who, draft)
    return Json(documents.sent(sent), 200 if sent.duplicate else 201)


def _draft(given: NewMessage, key: str) -> Draft:
    return Draft(
        to=spelling.recipients(given.to),
        content=given.content,
        kind=given.kind,
        reply_to=given.reply_to,
        tags=tuple(given.tags),
        urgent=given.urgent,
        ttl=given.ttl,
        key=key,
        allow_secret=given.allow_secret,
    )


def _key(in_body: str, in_header: str) -> str:
    if in_body and in_header and in_body != in_header:
        raise InvalidInput("key and Idempotency-Key differ: give one of them")
    return in_body or in_header


@router.get("/messages", response_model=records.Messages, responses=refusals())
async def look_back(caller: Calling, which: Annotated[Which, InQuery()]) -> Response:
    """The newest messages that match and that the name may see, oldest first. Consumes nothing.

    An answer has at most about a million characters: there may be more `before` its first message, also if it has
    fewer than `limit`. A search that would take long ends before it is through, with `searched_to`: that as `before`
    goes on.
    """
    found = await caller.bus.run(
        messages.look_back,
        caller.looks(which.name, which.channel),
        search=which.search,
        thread=which.thread,
        since=which.since,
        before=which.before,
        limit=which.limit,
    )
    return Json(documents.history(found))


@router.get("/messages/{id}", response_model=records.MessageStatus, responses=refusals(404))
async def message_status(caller: Calling, id: IdInPath, asking: Annotated[Asking, InQuery()]) -> Response:  # noqa: A002
    """How far the message is with each recipient, and the answers to it. For its sender and its readers."""
    return Json(documents.status(await caller.bus.run(messages.status, caller.looks(asking.name, asking.channel), id)))
