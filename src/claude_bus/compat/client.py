"""A client of the agent-bus protocol: `POST /send`, and `GET /recv` with its long poll.

Any server that speaks the protocol may be on the other side, so every answer is
checked before it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from .. import jsons, quoting
from ..config import AgentBus
from ..errors import BusError, Forbidden, InvalidInput, NotFound, RateLimited, TooLarge, Unreachable
from ..records import record
from ..remote import proxies

if TYPE_CHECKING:
    import httpx2

HOLD = 60.0
"""Seconds after which a long poll is given up: servers hold it for 30 to 35."""
_CONNECT = 10.0
_LAST_TS = 253_402_300_799.0
"""The end of the year 9999; later time stamps are not valid."""

_REFUSALS: dict[int, type[BusError]] = {
    403: Forbidden,
    413: TooLarge,
    422: InvalidInput,
}


@record(frozen=True, slots=True)
class Mail:
    """A message as the server gave it. `fields` has all its fields."""

    ts: float
    sender: str
    body: str
    fields: Mapping[str, Any]


@record(frozen=True, slots=True)
class Batch:
    """The result of a poll, oldest first. `unusable`: entries that are not messages, or have no time."""

    mail: tuple[Mail, ...]
    unusable: int = 0


class AgentBusClient:
    """A connection to one bus. Every failure is a `BusError`."""

    def __init__(self, settings: AgentBus) -> None:
        self._settings = settings
        self._http: httpx2.AsyncClient | None = None
        self._way = proxies.route(settings.url)

    async def __aenter__(self) -> Self:
        import httpx2

        from ..remote import http_client

        settings = self._settings
        timeout = httpx2.Timeout(HOLD, connect=_CONNECT)
        self._http = http_client.client(settings.url, settings.access, settings.program, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http:
            await self._http.aclose()

    async def send(self, to: str, body: str) -> dict[str, Any]:
        """Post a message; return the server's answer."""
        settings = self._settings
        return await self._ask(
            "POST", "/send", {"channel": settings.channel, "from": settings.name, "to": to, "msg": body}
        )

    async def recv(self, name: str, since: float, *, block: bool, most: int = 100) -> Batch:
        """Return mail for `name` that is newer than `since`; with `block` the server waits for it, for about 30 s."""
        answer = await self._ask(
            "GET",
            "/recv",
            {
                "to": name,
                "since": repr(since),
                "block": str(block).lower(),
                "channel": self._settings.channel,
                "max": str(most),
            },
        )
        return _batch(answer, since)

    async def now(self) -> float | None:
        """Return the server's time; None if the server does not tell it."""
        try:
            answer = await self._ask("GET", "/healthz", {})
        except NotFound:
            return None
        return _time(answer.get("now"))

    async def _ask(self, method: str, path: str, fields: dict[str, str]) -> dict[str, Any]:
        """Make one request; return the JSON object in its answer."""
        import httpx2

        from ..remote import http_client

        assert self._http, "use it as a context"
        given: Any = {"json": fields} if method == "POST" else {"params": fields}
        where = f"the bus at {self._settings.shown_url}"
        try:
            with anyio.fail_after(HOLD):
                async with self._http.stream(method, path, **given) as answer:
                    content = await http_client.content(answer, where)
        except http_client.FAILURES as error:
            sent = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            raise Unreachable(
                f"{where} does not answer ({http_client.kind(error)}); is it running?{self._way.blame}", sent=sent
            ) from error
        if answer.status_code == httpx2.codes.UNAUTHORIZED and "retry-after" not in answer.headers:
            raise http_client.unauthorized(where, self._settings.access)
        if answer.status_code != httpx2.codes.OK:
            raise _refusal(answer, content, where, self._way)
        return _document(content, where, self._way)


def _document(content: bytes, where: str, way: proxies.Route) -> dict[str, Any]:
    """Return the JSON object in an answer; invalid UTF-8 is replaced."""
    try:
        found = jsons.loads(content.decode(errors="replace"))
        if not isinstance(found, dict):
            raise TypeError("not a JSON object")
    except (ValueError, TypeError) as error:
        raise Unreachable(f"{where} answers with something else than a JSON object{way.blame}", sent=True) from error
    return found


def _refusal(answer: httpx2.Response, content: bytes, where: str, way: proxies.Route) -> BusError:
    """Return the error for an unsuccessful answer."""
    status = answer.status_code
    if answer.is_redirect:
        return Unreachable(f"{where} redirects its callers ({status}); set the address it moved to", sent=False)
    reason = _reason(content) or way.refusal(status)
    said = f"{where} refuses ({status}){reason}"
    if status == 429 or (400 <= status < 500 and "retry-after" in answer.headers):
        return RateLimited(said, retry_after=_seconds(answer.headers.get("retry-after", "")))
    if status == 404:
        return NotFound(
            f"{where} refuses (404){_reason(content)}: the address may lack its prefix, or have a wrong one"
        )
    if 400 <= status < 500:
        return _REFUSALS.get(status, InvalidInput)(said)
    return Unreachable(f"{where} fails ({status}){reason}", sent=True)


def _reason(content: bytes) -> str:
    """Return the server's reason, if it gives one."""
    try:
        found = jsons.loads(content.decode(errors="replace"))
    except ValueError:
        return ""
    said = found.get("message") or found.get("error") if isinstance(found, dict) else ""
    return f": {quoting.one_line(said, 300)}" if isinstance(said, str) and said else ""


def _seconds(header: str) -> int:
    return min(int(header), 600) if header.isascii() and header.isdigit() and len(header) < 6 else 2


def _batch(answer: Mapping[str, Any], since: float) -> Batch:
    """Return the messages in an answer that are newer than `since`, whichever ones the server sent.

    If the server's newest time (`now`) is older, the cursor comes from another server, or its clock was set back.
    Then all messages in the answer are new, and the cursor continues from their times.
    """
    now = _time(answer.get("now"))
    after = since if now is None or now >= since else 0.0
    entries = answer.get("messages")
    if entries is not None and not isinstance(entries, list):
        raise Unreachable("the bus answers with something else than a list of messages", sent=True)
    found = [_mail(entry) for entry in entries or []]
    mail = sorted((one for one in found if one and one.ts > after), key=lambda one: one.ts)
    return Batch(tuple(mail), found.count(None))


def _mail(entry: object) -> Mail | None:
    """Return the message; None for an entry without a time, which no cursor could pass."""
    if not isinstance(entry, dict) or (ts := _time(entry.get("ts"))) is None:
        return None
    return Mail(ts, _text(entry.get("from")), _text(entry.get("msg", "")), entry)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _time(value: object) -> float | None:
    """Return the value if it is a possible time in seconds since the epoch; otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _LAST_TS and math.isfinite(value) and value >= 0 else None
