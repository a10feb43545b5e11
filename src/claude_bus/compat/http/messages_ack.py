"""The wire of WholeTech's claude-bus: `/post`, `/messages`, `/ack/<id>`, `/health`. See docs/reference/protocols.md.

A reader acknowledges what it has had; the cursor, if it keeps one, is an id.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ... import documents, grants, names
from ...errors import InvalidInput
from ...http.responses import Json, body_of
from ...http.service import Service, grant_of
from ...model.identity import Address
from ...model.messages import Draft, Search
from ..sql import feeds
from . import wire

LIMIT = 50
MAX_LIMIT = 500


def routes(service: Service) -> list[BaseRoute]:
    """The routes of this wire."""

    async def post(request: Request) -> Response:
        return await _post(service, request)

    async def messages(request: Request) -> Response:
        return await _messages(service, request)

    async def ack(request: Request) -> Response:
        return await _ack(service, request)

    async def health(request: Request) -> Response:
        count = await service.bus.granted(grant_of(request)).run(feeds.stored)
        return Json({"ok": True, "count": count, "now": documents.iso(time.time())})

    return [
        Route("/post", wire.plain_errors(post), methods=["POST"]),
        Route("/messages", wire.plain_errors(messages)),
        Route("/ack/{id}", wire.plain_errors(ack), methods=["POST"]),
        Route("/health", wire.plain_errors(health)),
    ]


async def _post(service: Service, request: Request) -> Response:
    body = await body_of(request)
    me = Address(names.check_name(_text(body, "from"), "from"), wire.channel_of(body))
    to = _text(body, "to") if body.get("to") is not None else "any"
    draft = Draft((to,), _text(body, "body"), tags=_tags(body))
    grant = grant_of(request)
    grants.require(grant, me)
    grants.require_recipients(grant, draft.to, me.channel)
    return Json(documents.post(await service.bus.granted(grant).run(feeds.post, me, draft, feeds.MESSAGES_ACK)))


def _text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field)
    if not (value and isinstance(value, str)):
        raise InvalidInput(f"{field} must be text that is not empty")
    return value


def _tags(body: Mapping[str, Any]) -> tuple[str, ...]:
    tags = body.get("tags") or []
    if not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        raise InvalidInput("tags must be a list of short texts")
    return tuple(tags)


async def _messages(service: Service, request: Request) -> Response:
    given = wire.parameters(request)
    search = _search(given)
    grant = grant_of(request)
    grants.require_channel(grant, search.channel)
    for name in {search.to, search.unread_by} - {"", "all"}:
        grants.require(grant, Address(name, search.channel))
    return Json({"messages": [documents.post(m) for m in await service.bus.granted(grant).run(feeds.posts, search)]})


def _search(given: Mapping[str, str]) -> Search:
    to, unread_by = given.get("to", ""), given.get("unread_by", "")
    return Search(
        channel=wire.channel_of(given),
        since=wire.whole(given["since"], "since") if "since" in given else None,
        to="all" if to in names.BROADCASTS else to and names.check_name(to, "to"),
        sender=_sender(given.get("from", "")),
        unread_by=unread_by and names.check_name(unread_by, "unread_by"),
        limit=wire.count(given, "limit", LIMIT, MAX_LIMIT),
    )


def _sender(given: str) -> str:
    """`name`, or `name@channel` for one who sent from another channel."""
    name, at, channel = given.partition("@")
    return given and names.check_name(name, "from") + (at and f"@{names.check_name(channel, 'channel')}")


async def _ack(service: Service, request: Request) -> Response:
    message = wire.whole(request.path_params["id"], "the id")
    body = await body_of(request)
    reader = Address(names.check_name(_text(body, "reader"), "reader"), wire.channel_of(body))
    grant = grant_of(request)
    grants.require(grant, reader)
    await service.bus.granted(grant).run(feeds.ack, reader, message)
    return Json({"ok": True, "id": message, "reader": reader.name})
