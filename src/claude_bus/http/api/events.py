"""The events of a channel: as a list with a cursor, by long poll, or as a stream.

An event says that something happened, by whom and to what. Its content stays
with those whom it concerns: no content, no recipients of a message, no reasons.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Query as InQuery
from pydantic import Field
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...errors import BusError, InvalidInput
from ...model.journal import JournalEntry
from ...sql import events
from ..hub import channel
from ..responses import Json
from . import records
from .caller import Caller, Calling
from .fields import NUMBER, PATH, Channel, Count, NumberInHeader, Query, Wait
from .quick import QuickRoute
from .refusals import refusals

router = APIRouter(prefix=PATH, tags=["events"], route_class=QuickRoute)

PAGE = 200
"""Events that the stream reads at a time, and no more before its client has taken them."""
KEEP_ALIVE = 10
"""Seconds between comments, where nothing happens."""
STALLED = 60.0
"""Seconds after which a client that takes nothing is left."""
_LOOK_EVERY = 5.0
"""Seconds after which a stream looks by itself: for a token that has run out, and should all else fail."""
_TOKENS = ""
"""The channel on which the journal notes tokens."""
_PRIVATE = frozenset({"attach", "end"})
"""Verbs whose subject says where a client can be reached, which is nobody else's business."""
_VERSION = re.compile(r"version (\d+)")
_ID = re.compile(NUMBER)


class Which(Query):
    channel: Channel = ""
    since: Count = Field(default=0, description="The id of an event, after which to begin.")
    limit: int = Field(default=100, ge=1, le=1000)
    wait: Wait = 0


class From(Query):
    channel: Channel = ""
    since: Count | None = Field(default=None, description="The id of an event, after which to begin; now unless given.")


class Stream(EventSourceResponse):
    """Server-sent events; a client that stalls is left without ado."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)


@router.get("/events", response_model=records.Events, responses=refusals())
async def list_events(caller: Calling, which: Annotated[Which, InQuery()]) -> Response:
    """The oldest events after `since`. They are kept for 30 days."""
    where = caller.channel(which.channel)
    since = await _within(caller, which.since)

    async def look() -> list[JournalEntry]:
        return await caller.bus.run(events.since, where, since, which.limit)

    found = await caller.until(look, which.wait, channel(where))
    return Json({"events": [_row(event) for event in found], "last": found[-1].id if found else since})


async def _within(caller: Caller, cursor: int) -> int:
    """The cursor, or now for one that lies ahead: it is of another database than there is now, and what comes would
    be before it."""
    return min(cursor, await caller.bus.run(events.last))


@router.get(
    "/events/stream",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "Events as they happen: `id`, `event` (the verb), `data` (the event as JSON)",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **refusals(),
    },
)
async def stream_events(
    caller: Calling, given: Annotated[From, InQuery()], last_event_id: NumberInHeader = ""
) -> Response:
    """Events as they happen. A client that comes back with `Last-Event-ID` misses none and gets none twice."""
    where = caller.channel(given.channel)
    cursor = _resumed(last_event_id) if last_event_id else given.since
    begin = await caller.bus.run(events.last) if cursor is None else await _within(caller, cursor)
    return Stream(_stream(caller, where, begin), ping=KEEP_ALIVE, send_timeout=STALLED)


def _resumed(header: str) -> int:
    if not _ID.fullmatch(header):
        raise InvalidInput("Last-Event-ID must be the id of an event, as the stream gave it: leave it out to begin now")
    return int(header)


async def _stream(caller: Caller, where: str, cursor: int) -> AsyncIterator[ServerSentEvent]:
    """Each look goes on from what was taken last; a client that is slow is looked for less often, not queued for."""
    yield ServerSentEvent(id=str(cursor))
    with caller.service.hub.signal(channel(where), channel(_TOKENS)) as bell, contextlib.suppress(BusError):
        while await caller.still_granted():
            found = await caller.bus.run(events.since, where, cursor, PAGE)
            for event in found:
                yield ServerSentEvent(json.dumps(_row(event)), event=event.verb, id=str(event.id))
                cursor = event.id
            if not found:
                await bell.rung(_LOOK_EVERY)


def _row(found: JournalEntry) -> dict[str, Any]:
    version = _VERSION.fullmatch(found.detail) if found.verb.startswith("state_") else None
    return {
        "id": found.id,
        "at": found.ts,
        "channel": found.channel,
        "verb": found.verb,
        "actor": found.actor,
        "subject": "" if found.verb in _PRIVATE else found.subject,
        **({"version": int(version[1])} if version else {}),
    }
