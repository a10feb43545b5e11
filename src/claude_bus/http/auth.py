"""Authentication in front of everything: who calls, and whether they may.

It finds the caller's grant and leaves it in the request's state (see `service.grant_of`).
Without tokens, on loopback, every caller gets the unrestricted grant. The whole body is read
here first, so no route meets a body that is too large, never ends, or costs more to parse
than other requests should wait for. Requests whose token ends while they are in flight are cut off.
"""

from __future__ import annotations

import asyncio
import base64
import binascii

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import jsons
from ..errors import BusError, RequestTimeout, TooLarge, Unauthorized
from ..model.tokens import UNRESTRICTED, Grant
from .bodies import Bodies, Body
from .in_flight import InFlight, RequestInFlight
from .origins import OPEN
from .quotas import Quotas
from .responses import refusal
from .token_cache import TokenCache
from .token_in_url import check_use, secret_in

OPEN_PATH = "/healthz"
"""Path that needs no token: whether the server runs."""
MAX_BODY_BYTES = 2 * 1024 * 1024
"""Bytes of a request's body, after decoding its chunks."""
BODY_PATIENCE = 30.0
"""Seconds for a body to arrive."""

_TO_READ = 1.0
"""Seconds for the end of a cut-off answer to be sent."""

_WATCH_AFTER = 0.02
"""Seconds after which it is watched whether the client of a request that may be cut is still there. Most are answered
sooner, and a watch is a task."""

_NOBODY = Grant(names=(), channels=())
_MAY_BE_CUT = ("GET", "HEAD", "OPTIONS")
"""Methods that only read: a client that gets no answer can repeat the request."""


class Authenticate:
    """ASGI middleware for authentication. `prefix`: the path under which everything is served."""

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
            error.__traceback__ = error.__context__ = None  # they keep the body alive
            await refusal(error)(scope, receive, send)
        except _Gone:
            return

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        grant = await self._grant(scope)
        scope["state"]["grant"] = grant
        if grant is _NOBODY:
            await self._app(scope, receive, send)
            return
        await self._quotas.count(grant)
        with (
            self._in_flight.tracked(grant, may_be_cut=scope["method"] in _MAY_BE_CUT) as tracked,
            self._bodies.body(grant) as counted,
        ):
            scope["state"]["tracked"] = tracked
            await self._serve(tracked, counted, scope, receive, send)

    async def _grant(self, scope: Scope) -> Grant:
        if scope["state"][OPEN]:
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

    async def _serve(self, tracked: RequestInFlight, counted: Body, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(self._in_flight, tracked, send)
        with tracked.scope:
            body = await _body(tracked, Headers(scope=scope), receive, counted)
            jsons.check(body, "the body")
            incoming = _Incoming(body, receive)
            if tracked.may_be_cut:
                incoming.watch(tracked)
            try:
                await self._app(scope, incoming.receive, answer.send)
            finally:
                incoming.done()
        if tracked.ended:
            await answer.cut(tracked.ended, scope, receive)


class _Gone(Exception):
    """The client disconnected before its request was complete."""


class _Incoming:
    """The messages that the app receives: the body, which was already read, and then all that follow."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self._due: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()

    def watch(self, tracked: RequestInFlight) -> None:
        """End a request that may be cut once its client has disconnected; any other is completed regardless."""
        self._due = asyncio.get_running_loop().call_later(_WATCH_AFTER, self._begin, tracked)

    def _begin(self, tracked: RequestInFlight) -> None:
        self._watch = asyncio.create_task(self._end_with_client(tracked))

    async def _end_with_client(self, tracked: RequestInFlight) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        tracked.end(None)

    def done(self) -> None:
        """The request was answered: nobody needs to watch its client."""
        if self._due:
            self._due.cancel()
        if self._watch:
            self._watch.cancel()


class _Answer:
    """The messages that the app sends, for as long as the token is valid."""

    def __init__(self, in_flight: InFlight, tracked: RequestInFlight, send: Send) -> None:
        self._in_flight = in_flight
        self._tracked = tracked
        self._send = send
        self._started = False
        self._complete = False

    async def send(self, message: Message) -> None:
        if self._tracked.is_due:
            await self._in_flight.check(self._tracked)
            await anyio.lowlevel.checkpoint()  # a request that was cut off ends here
        self._started = True
        self._complete = message["type"] == "http.response.body" and not message.get("more_body")
        # Once the answer is sent in parts, the operation is done: cutting it off loses nothing.
        self._tracked.may_be_cut = self._tracked.may_be_cut or message["type"] == "http.response.body"
        await self._send(message)

    async def cut(self, error: BusError, scope: Scope, receive: Receive) -> None:
        """Send the error as the answer; an answer that has begun just ends."""
        if not self._started:
            await refusal(error)(scope, receive, self._send)
        elif not self._complete:
            with anyio.move_on_after(_TO_READ):  # a client that does not read must not hold the server up
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _body(tracked: RequestInFlight, headers: Headers, receive: Receive, counted: Body) -> bytes:
    """Return a request's whole body. Raises `TooLarge`, `RateLimited` if there is no room, or `_Gone`.

    A request whose body is too slow is cut off.
    """
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large(int(length[:20]))
    slow = asyncio.get_running_loop().call_later(BODY_PATIENCE, tracked.end, _too_slow())
    try:
        return await _read(receive, counted)
    finally:
        slow.cancel()


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


def _too_slow() -> RequestTimeout:
    return RequestTimeout(f"the body did not arrive within {BODY_PATIENCE:.0f} s; send it again")


def _too_large(size: int) -> TooLarge:
    return TooLarge(
        f"the body is too large: at most {MAX_BODY_BYTES} bytes; send the path of a file instead",
        limit=MAX_BODY_BYTES,
        size=size,
    )


def _secret(headers: Headers) -> str:
    """Return the token in the request: a bearer token, or the password of Basic with any user. "" without a token."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
