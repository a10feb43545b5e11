"""Calls to the server of a bus: attempts, lost answers, outages."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx2

from .. import __version__, jsons
from ..config import Access, shown_address
from ..errors import (
    BusError,
    RateLimited,
    RequestTimeout,
    ShuttingDown,
    StoreError,
    Unauthorized,
    Unreachable,
    from_dict,
)
from ..sql.verbs import Verb
from . import codec, http_client, proxies

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 15.0
"""Seconds for an answer: longer than the server waits for its store's lock."""
KEPT = 15.0
"""Seconds that a connection is kept without a request: less than the server keeps it."""
SILENCE = 40.0
"""Seconds without a word after which an ear takes its line for dead; the server says one every 15."""
BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between attempts while nobody answers."""

_NEVER_LEFT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""How an attempt fails of which the server has heard nothing."""
_OF_THIS_ATTEMPT = (StoreError, RateLimited, RequestTimeout, Unauthorized)
"""Refusals that say nothing of what became of an earlier attempt."""


class Connection:
    """The way to the server at `url`. `transport` takes the place of the network."""

    def __init__(self, url: str, access: Access, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._url, self._shown = url, shown_address(url)
        self._access = access
        self._transport = transport
        self._http: httpx2.AsyncClient | None = None
        self._not_let_in = False
        self._way = proxies.Route("") if transport else proxies.route(url)
        self.outage = Outage(self._shown, self._way.blame)
        self.takes_signs = False
        """Whether the server said so, with its last answer, that it takes signs of life with calls."""

    async def close(self) -> None:
        http, self._http = self._http, None
        if http:
            with anyio.CancelScope(shield=True):
                await http.aclose()

    async def call(self, verb: Verb[..., Any], body: bytes) -> bytes:
        """Run a verb there; its answer. Raises what the verb raises, or `Unreachable`."""
        status, content, doubtful = await self._post(verb, body)
        if status == httpx2.codes.OK:
            return content
        error = self._refusal(status, content)
        if isinstance(error, ShuttingDown) or (doubtful and isinstance(error, _OF_THIS_ATTEMPT)):
            raise self.outage.broke(error.message, sent=True, more=_unknown(verb))
        if isinstance(error, Unreachable) and httpx2.codes.is_server_error(status):  # a proxy's, which gave up
            raise Unreachable(error.message + _unknown(verb), sent=True)
        raise error

    def unlike(self, verb: Verb[..., Any]) -> Unreachable:
        """The error for an answer that no claude-bus gives to this verb."""
        said = f"what answers at {self._shown} is no claude-bus of a like version{self._way.blame}{_unknown(verb)}"
        return Unreachable(said, sent=True)

    async def rings(self, address: str) -> AsyncIterator[None]:
        """Each time that what listens at the address should look, over a line that is kept open."""
        timeout = httpx2.Timeout(SILENCE, connect=CONNECT_TIMEOUT)
        async with self._client().stream("GET", "/rpc/ear", params={"address": address}, timeout=timeout) as answer:
            if answer.status_code != httpx2.codes.OK:
                raise self._refusal(answer.status_code, await http_client.content(answer, self._shown))
            self.outage.works()
            async for said in http_client.lines(answer, self._shown):
                if said == b"ring":
                    yield

    async def _post(self, verb: Verb[..., Any], body: bytes) -> tuple[int, bytes, bool]:
        """One attempt, and another one if the connection broke: the server may just have been started anew.

        Returns the answer's status and content, and whether it is the second, and the first attempt may have
        arrived too.
        """
        self.outage.require()
        sent = False
        for last in (not verb.repeatable, True):
            try:
                answer = await self._attempt(verb.wire, body)
            except http_client.FAILURES as error:
                sent = sent or not isinstance(error, _NEVER_LEFT)  # in either attempt
                if not last and isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
                    continue
                raise self.outage.broke(
                    http_client.kind(error), sent=sent, more=_unknown(verb) if sent else ""
                ) from None
            self.outage.works()
            return *answer, sent
        raise AssertionError  # the last attempt returns or raises

    async def _attempt(self, name: str, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        async with self._client().stream("POST", f"/rpc/{name}", content=body, headers=headers) as answer:
            if answer.status_code == httpx2.codes.OK:
                self.takes_signs = codec.SIGNS in answer.headers
            return answer.status_code, await http_client.content(answer, self._shown)

    def _client(self) -> httpx2.AsyncClient:
        if not self._http:
            self._http = http_client.client(
                self._url,
                self._access,
                f"claude-bus/{__version__}",
                timeout=httpx2.Timeout(ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT),
                limits=httpx2.Limits(keepalive_expiry=KEPT),
                transport=self._transport,
            )
        elif self._not_let_in:
            http_client.show_anew(self._http, self._access)
        self._not_let_in = False
        return self._http

    def _refusal(self, status: int, content: bytes) -> BusError:
        """The error that the server answered with."""
        error = _refusal(status, content, self._shown, self._way)
        if not isinstance(error, Unauthorized):
            return error
        self._not_let_in = True
        return http_client.unauthorized(f"the bus at {self._shown}", self._access)


class Outage:
    """Whether the server can be reached. While it cannot, calls fail at once instead of each waiting its time."""

    def __init__(self, url: str, blame: str = "") -> None:
        self._url = url
        self._blame = blame
        self._failures = 0
        self._closed_until = 0.0
        self._reason = ""
        self._ended = anyio.Event()

    def require(self) -> None:
        """Raise `Unreachable` if it was tried a moment ago, in vain."""
        left = self._closed_until - time.monotonic()
        if left > 0:
            raise Unreachable(f"{self._reason}; it is tried again in {math.ceil(left)} s", sent=False)

    def works(self) -> None:
        """It was reached, by a call or by the ear: neither has to wait any more."""
        self._closed_until = 0.0
        if self._failures:
            self._failures = 0
            self._ended.set()
            self._ended = anyio.Event()

    async def ends(self, patience: float) -> None:
        """Wait until one that there is has ended, or for so many seconds."""
        with anyio.move_on_after(patience):
            await self._ended.wait()

    def broke(self, said: str, *, sent: bool, more: str) -> Unreachable:
        """The error to raise, with what was `said` of it and `more`; `sent`: the request may have arrived."""
        self._closed_until = time.monotonic() + BACKOFF[min(self._failures, len(BACKOFF) - 1)]
        self._failures += 1
        self._reason = f"the bus at {self._url} cannot be reached ({said}){self._blame}"
        return Unreachable(self._reason + more, sent=sent)


def _unknown(verb: Verb[..., Any]) -> str:
    """The sentence that is added for a call whose answer got lost."""
    return "" if verb.repeatable else ". It is not known whether it took effect: look before you repeat it"


def _refusal(status: int, content: bytes, url: str, way: proxies.Route) -> BusError:
    """The error in an answer; `Unreachable` for one that no claude-bus of a like version gives."""
    try:
        document = jsons.loads(content)
    except ValueError:
        document = None
    if isinstance(document, dict):
        error = from_dict(document)
        if error.message and error.code == document.get("error"):
            return error
    path = " at this path; is its prefix missing, or not right?" if status == httpx2.codes.NOT_FOUND else ""
    return Unreachable(
        f"{url} answers with {status}, and not as a claude-bus does{path}{way.refusal(status)}", sent=True
    )
