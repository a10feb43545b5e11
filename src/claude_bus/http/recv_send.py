"""The wire of agent-bus: `/send`, `/recv`, `/inbox`, `/healthz`. See docs/protocols.md.

A reader keeps its own cursor, a time; reading marks nothing.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from .. import rows, rules
from ..errors import InvalidInput
from ..model import Address, Draft, Feed, Grant
from ..sql.feeds import RECV_SEND
from . import hub, wire
from .answers import Json, body_of
from .service import Service, grant_of

HOLD = 28.0
"""Seconds for which a blocking `/recv` waits: its clients give up after 35."""
BATCH = 100
MAX_BATCH = 1_000


def routes(service: Service) -> list[BaseRoute]:
    """The routes of this wire."""

    async def send(request: Request) -> Response:
        return await _send(service, request)

    async def recv(request: Request) -> Response:
        return await _recv(service, request)

    async def inbox(request: Request) -> Response:
        return await _inbox(service, request)

    return [
        Route("/send", wire.plain_errors(send), methods=["POST"]),
        Route("/recv", wire.plain_errors(recv)),
        Route("/inbox", wire.plain_errors(inbox)),
        Route("/healthz", _healthz),
    ]


async def _send(service: Service, request: Request) -> Response:
    body = await body_of(request)
    sender, to, text = body.get("from"), body.get("to"), body.get("msg")
    if not (sender and isinstance(sender, str) and to and isinstance(to, str) and isinstance(text, str)):
        raise InvalidInput("from, to, msg required")
    me = Address(rules.check_name(sender, "from"), wire.channel_of(body))
    grant = grant_of(request)
    rules.require(grant, me)
    rules.require_recipients(grant, (to,), me.channel)
    message = await service.bus.post(me, Draft((to,), text), RECV_SEND)
    return Json({"ok": True, "ts": message.ts, "channel": me.channel, "id": message.id})


async def _recv(service: Service, request: Request) -> Response:
    given = wire.parameters(request)
    if not given.get("to"):
        raise InvalidInput("to= required")
    to = rules.check_name(given["to"], "to")
    channel = _channel(service, given)
    grant = _reader(grant_of(request), to, channel)
    block = given.get("block", "").lower() in ("true", "1")
    limit = wire.count(given, "max", BATCH, MAX_BATCH)
    feed = await _await_mail(service, to, channel, _since(given), limit, grant, HOLD if block else 0.0)
    return Json({"messages": [rows.received(r) for r in feed.received], "now": feed.now})


def _channel(service: Service, given: Mapping[str, str]) -> str | None:
    """The channel to read; None for all of them."""
    if not given.get("channel") and not service.serving.recv_default_channel:
        return None
    return wire.channel_of(given)


def _reader(grant: Grant, to: str, channel: str | None) -> Grant:
    """The grant, if its bearer may read the mail of `to`; which channels that is, where it asks for all, is looked at
    where they are found."""
    if channel is None:
        rules.require(replace(grant, channels=("*",)), Address(to, rules.DEFAULT_CHANNEL))
    else:
        rules.require(grant, Address(to, channel))
    return grant


def _since(given: Mapping[str, str]) -> float:
    """The cursor: seconds since the epoch."""
    try:
        since = float(given.get("since", "0"))
    except ValueError:
        since = math.nan
    if not (math.isfinite(since) and since >= 0):
        raise InvalidInput("since must be a number of seconds since the epoch, 0 or more")
    return since


async def _await_mail(
    service: Service, to: str, channel: str | None, since: float, limit: int, grant: Grant, patience: float
) -> Feed:
    """What came to `to` after `since`, waiting for it if there is nothing.

    Each look goes on from where the one before it ended, and not from `since`: a client
    whose clock is ahead gave one that lies beyond what comes meanwhile.
    """
    cursor = since

    async def look() -> Feed:
        nonlocal cursor
        feed = await service.bus.received(to, channel, cursor, limit, grant)
        cursor = feed.now
        return feed

    topic = hub.mail_for_name(to) if channel is None else hub.mail_for(Address(to, channel))
    return await service.hub.until(look, patience, topic)


async def _inbox(service: Service, request: Request) -> Response:
    recipients: dict[str, dict[str, int]] = defaultdict(dict)
    for who, count in (await service.bus.unread(grant_of(request))).items():
        recipients[who.channel][who.name] = count
    return Json({"recipients": recipients, "now": time.time()})


async def _healthz(_request: Request) -> Response:
    return Json({"ok": True, "now": time.time()})
