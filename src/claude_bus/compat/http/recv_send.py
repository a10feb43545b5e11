"""The wire of agent-bus: `/send`, `/recv`, `/inbox`, `/healthz`. See docs/reference/protocols.md.

A reader keeps its own cursor, a time; reading marks nothing.
"""

from __future__ import annotations

import math
import re
import time
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ... import addresses, documents, grants, names
from ...errors import InvalidInput
from ...http import hub
from ...http.responses import Json, body_of
from ...http.service import Service, grant_of
from ...model.identity import Address
from ...model.messages import Draft, Feed
from ...model.tokens import Grant
from ...records import record
from ..sql import feeds
from . import wire

HOLD = 32.0
"""Seconds for which a blocking `/recv` waits: its clients give up after 35."""
BATCH = 100
MAX_BATCH = 1_000

_NUMBER = re.compile(r"\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""As JSON and printf have them; Python's own spellings are others' typing errors."""


def routes(service: Service) -> list[BaseRoute]:
    """The routes of this wire."""

    ahead = Ahead()

    async def send(request: Request) -> Response:
        return await _send(service, request)

    async def recv(request: Request) -> Response:
        return await _recv(service, request, ahead)

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
    me = Address(names.check_name(sender, "from"), wire.channel_of(body))
    grant = grant_of(request)
    grants.require(grant, me)
    grants.require_recipients(grant, (to,), me.channel)
    message, ts = await service.bus.granted(grant).run(feeds.send, me, Draft((to,), text), feeds.RECV_SEND)
    return Json({"ok": True, "ts": ts, "channel": me.channel, "id": message})


@record(frozen=True, slots=True)
class Reading:
    """One request of a reader."""

    to: str
    channel: str | None
    since: float
    token: int
    """The token of the reader, where tokens are needed."""

    @property
    def topic(self) -> str:
        """The topic of the hub that concerns it."""
        if self.channel is None:
            return hub.mail_for_name(self.to)
        return hub.mail_for(Address(self.to, self.channel))


class Ahead:
    """Where readers are whose cursor lies beyond all that is stored: theirs is the clock of a machine that is ahead.

    Their cursor does not move with what they get, and what comes between two of their
    requests is before it. So this server remembers what it gave them last. If it
    forgets, because it was started anew or has served very many, such a reader goes on
    from what is stored then.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._positions: OrderedDict[Reading, float] = OrderedDict()
        self._most = most

    def position(self, reading: Reading) -> float:
        """From where to read on: the cursor that was given, unless it is known to be ahead."""
        return self._positions.get(reading, reading.since)

    def concerns(self, reading: Reading, now: float) -> bool:
        """Whether what a reader is given up to `now` has to be noted."""
        return now < reading.since or reading in self._positions

    def note(self, reading: Reading, now: float) -> None:
        """The reader is given what there is up to `now`."""
        self._positions.pop(reading, None)
        if now < reading.since:
            self._positions[reading] = now
        if len(self._positions) > self._most:
            self._positions.popitem(last=False)


async def _recv(service: Service, request: Request, ahead: Ahead) -> Response:
    given = wire.parameters(request)
    if not given.get("to"):
        raise InvalidInput("to= required")
    grant = grant_of(request)
    reading = Reading(names.check_name(given["to"], "to"), _channel(service, given), _since(given), grant.token)
    _require_reader(grant, reading)
    patience = HOLD if given.get("block", "").lower() in ("true", "1") else 0.0
    limit = wire.count(given, "max", BATCH, MAX_BATCH)
    feed = await _await_mail(service, reading, ahead.position(reading), limit, grant, patience)
    if ahead.concerns(reading, feed.now):
        await request.body()  # there is none; what the connection brings after it is its end
        if not await request.is_disconnected():
            ahead.note(reading, feed.now)
    return Json({"messages": [documents.received(r) for r in feed.received], "now": feed.now})


def _channel(service: Service, given: Mapping[str, str]) -> str | None:
    """The channel to read; None for all of them."""
    if not given.get("channel") and not service.serving.recv_default_channel:
        return None
    return wire.channel_of(given)


def _require_reader(grant: Grant, reading: Reading) -> None:
    """Raise `Forbidden` unless the grant is for the mail of that name; where it asks for all channels, the store
    reads those that the grant permits."""
    if reading.channel is None and grant.channels != ("*",):
        grant = replace(grant, channels=("*",))
    grants.require(grant, Address(reading.to, reading.channel or ""))


def _since(given: Mapping[str, str]) -> float:
    """The cursor: seconds since the epoch."""
    text = given.get("since", "0").strip()
    since = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(since):
        raise InvalidInput("since must be a number of seconds since the epoch, 0 or more")
    return since


async def _await_mail(
    service: Service, reading: Reading, cursor: float, limit: int, grant: Grant, patience: float
) -> Feed:
    """The messages after the cursor, waiting for the first if there is none.

    Each look goes on from where the one before it ended: a cursor that is ahead lies
    beyond what comes meanwhile.
    """

    async def look() -> Feed:
        nonlocal cursor
        feed = await service.bus.granted(grant).run(feeds.received, reading.to, reading.channel, cursor, limit)
        cursor = feed.now
        return feed

    return await service.hub.until(look, patience, reading.topic)


async def _inbox(service: Service, request: Request) -> Response:
    unread = await service.bus.granted(grant_of(request)).run(feeds.unread)
    recipients: dict[str, dict[str, int]] = defaultdict(dict)
    for who, count in islice(unread.items(), addresses.MAX_INBOXES):
        recipients[who.channel][who.name] = count
    more = len(unread) - addresses.MAX_INBOXES
    return Json({"recipients": recipients, "now": time.time(), **({"more": more} if more > 0 else {})})


async def _healthz(_request: Request) -> Response:
    return Json({"ok": True, "now": time.time()})
