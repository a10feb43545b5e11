"""The one guard in front of everything: who calls, and whether they may.

It finds the caller's grant and leaves it in the request's state (see `service.grant_of`).
Without tokens, on loopback, everybody has the grant that permits everything. It reads the
body before anybody else does, so that no route meets one that is too large, never ends, or
costs more to parse than others should wait for, and cuts off requests whose token ends while they are under way.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import AsyncIterator

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import jsons
from ..errors import BusError, RequestTimeout, TooLarge, Unauthorized
from ..model.tokens import UNRESTRICTED, Grant
from .bodies import Bodies, Body
from .in_flight import InFlight, RequestInFlight
from .quotas import Quotas
from .responses import refusal
from .token_cache import TokenCache
from .token_in_url import check_use, secret_in

OPEN_PATH = "/healthz"
"""What anybody may ask: whether the server is there."""
MAX_BODY_BYTES = 2 * 1024 * 1024
"""Of a request's body, decoded from its chunks."""
BODY_PATIENCE = 30.0
"""Seconds for a body to arrive."""

_TO_READ = 1.0
"""Seconds for the end of an answer that was cut off to get through."""

_NOBODY = Grant(names=(), channels=())
_MAY_BE_CUT = ("GET", "HEAD", "OPTIONS")
"""What is asked with these is asked for the answer: whoever has not got that asks again."""


class Authenticate:
    """ASGI middleware. `prefix`: the path under which everything is."""

    def __init__(
        self, app: ASGIApp, *, token_cache: TokenCache, in_flight: InFlight, quotas: Quotas, prefix: str
    ) -> None:
        self._app = app
        self._token_cache = token_cache
        self._in_flight = in_flight
        self._quotas = quotas
        self._bodies = Bodies()
        self._prefix = prefix
        self._open_path = prefix + OPEN_PATH

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._admit(scope, receive, send)
        except BusError as error:
            error.__traceback__ = error.__context__ = None  # where the body is, for as long as the connection is open
            await refusal(error)(scope, receive, send)
        except _Gone:
            return

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        grant = await self._grant(scope)
        scope.setdefault("state", {})["grant"] = grant
        if grant is _NOBODY:
            await self._app(scope, receive, send)
            return
        await self._quotas.count(grant)
        with (
            self._in_flight.tracked(grant, may_be_cut=scope["method"] in _MAY_BE_CUT) as tracked,
            self._bodies.body(grant) as counted,
        ):
            scope["state"]["visit"] = tracked
            body = await _body(Headers(scope=scope), receive, counted)
            jsons.check(body, "the body")
            await self._serve(tracked, body, scope, receive, send)

    async def _grant(self, scope: Scope) -> Grant:
        if await self._token_cache.is_open():
            return UNRESTRICTED
        in_url = secret_in(scope)
        if scope["path"] == self._open_path and in_url is None:
            return _NOBODY
        secret = _secret(Headers(scope=scope)) if in_url is None else in_url
        found = await self._token_cache.grant(secret) if secret else None
        if found:
            check_use(found, scope["path"].removeprefix(self._prefix), in_url=in_url is not None)
            return found
        if secret:
            await self._quotas.count_wrong(scope["client"][0] if scope.get("client") else "")
        raise Unauthorized("no valid token: send 'Authorization: Bearer <token>', or Basic with it as the password")

    async def _serve(self, tracked: RequestInFlight, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(self._in_flight, tracked, send)
        incoming = _Incoming(body, receive)
        async with _watched(tracked, incoming):
            with tracked.scope:
                await self._app(scope, incoming.receive, answer.send)
        if tracked.ended:
            await answer.cut(tracked.ended, scope, receive)


@contextlib.asynccontextmanager
async def _watched(tracked: RequestInFlight, incoming: _Incoming) -> AsyncIterator[None]:
    """A request that may be cut ends with its client; any other is done whoever waits for the answer."""
    if not tracked.may_be_cut:
        yield
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(incoming.watch, tracked)
        yield
        tasks.cancel_scope.cancel()


class _Gone(Exception):
    """The client left before its request was whole."""


class _Incoming:
    """What the app receives: the body that was read already, and then whatever else comes."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self._gone: anyio.Event | None = None

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self._gone:
            return await self._receive()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def watch(self, tracked: RequestInFlight) -> None:
        """End a request that may be cut once nobody is there to read the answer."""
        self._gone = anyio.Event()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        tracked.end(None)


class _Answer:
    """What the app sends, for as long as its token is good."""

    def __init__(self, in_flight: InFlight, tracked: RequestInFlight, send: Send) -> None:
        self._in_flight = in_flight
        self._tracked = tracked
        self._send = send
        self._started = False
        self._complete = False

    async def send(self, message: Message) -> None:
        if self._tracked.is_due:
            await self._in_flight.check(self._tracked)
            await anyio.lowlevel.checkpoint()  # where a request that was cut off ends
        self._started = True
        self._complete = message["type"] == "http.response.body" and not message.get("more_body")
        # Once it is being answered in parts, what was asked for is done: nothing is lost by cutting it off.
        self._tracked.may_be_cut = self._tracked.may_be_cut or message["type"] == "http.response.body"
        await self._send(message)

    async def cut(self, error: BusError, scope: Scope, receive: Receive) -> None:
        """Say why there is no answer; one that has begun just ends."""
        if not self._started:
            await refusal(error)(scope, receive, self._send)
        elif not self._complete:
            with anyio.move_on_after(_TO_READ):  # whoever does not read does not keep us
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _body(headers: Headers, receive: Receive, counted: Body) -> bytes:
    """A request's whole body; raises `TooLarge`, `TooSlow`, `RateLimited` where there is no room, or `_Gone`."""
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large(int(length[:20]))
    try:
        with anyio.fail_after(BODY_PATIENCE):
            return await _read(receive, counted)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {BODY_PATIENCE:.0f} s; send it again") from None


async def _read(receive: Receive, counted: Body) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large(len(body))
        counted.grow(len(body))
        if not message.get("more_body"):
            return bytes(body)


def _too_large(size: int) -> TooLarge:
    return TooLarge(
        f"the body is too large: at most {MAX_BODY_BYTES} bytes; send the path of a file instead",
        limit=MAX_BODY_BYTES,
        size=size,
    )


def _secret(headers: Headers) -> str:
    """The token in the request: a bearer, or the password of Basic, whoever its user. "" if there is none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
