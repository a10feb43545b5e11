"""`RemoteBus`: the bus, served elsewhere over HTTP.

Whoever has it does not notice the difference until there is an outage: a verb then
raises `Unreachable` at once, and goes through again when the server is back.

An answer that gets lost is the hard part. The server has done what it was asked, and
nobody here knows. So:

- What can be repeated without harm is repeated once, at once.
- A message goes with a key; repeated, also by whoever is told of the failure and says the
  same again, it is sent once.
- With each call that brings mail, or asks for it, goes what this program holds
  (`deliveries.take_back`): mail in an answer that got lost waits again, and rings again,
  and is never taken for read. Such a call is not abandoned when its caller is cancelled.
- Of anything else the error says that nobody knows.
"""

from __future__ import annotations

import logging
import math
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self

import anyio
import httpx2

from .. import __version__, jsons, rules
from ..config import Access, shown_address
from ..drivers.notices import Bell
from ..errors import BusError, Ending, RateLimited, StoreError, TooSlow, Unauthorized, Unreachable, from_dict
from ..model import (
    Address,
    Binding,
    Client,
    Draft,
    HandOver,
    HookReport,
    HookResult,
    Place,
    Process,
    Roster,
    Sent,
    Standing,
    Status,
    Waiting,
)
from . import codec, line, proxies

_log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 15.0
"""Seconds for an answer: longer than the server waits for its store's lock."""
KEPT = 15.0
"""Seconds that a connection is kept without a request: less than the server keeps it."""
SILENCE = 40.0
"""Seconds without a word after which an ear takes its line for dead; the server says one every 15."""
BACKOFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between attempts while nobody answers."""
LOOK_EVERY = 30.0
"""Seconds after which a doorbell looks though it was told nothing."""
KEY_LASTS = 900.0
"""Seconds within which a message whose fate is unknown can be repeated under its key."""

_NEVER_LEFT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""How an attempt fails of which the server has heard nothing."""
_OF_THIS_ATTEMPT = (StoreError, RateLimited, TooSlow, Unauthorized)
"""Refusals that say nothing of what became of an earlier attempt."""
_WITH_WHAT_IS_HELD = frozenset({"hand_over", "react", "waiting"})
_ONCE = frozenset({"set_state", "release", "take_away", "edit", "enlist"})
"""Verbs that are not repeated: the second time they would do, or say, something else."""


class RemoteEar:
    """Where this process is told that it should look; see `bus.Ear`."""

    def __init__(self) -> None:
        self.address = f"remote:{uuid.uuid4().hex}"
        self.bell = Bell()

    async def heard(self, patience: float) -> bool:
        return await self.bell.rung(patience)


class RemoteBus:
    """The verbs of `bus.Bus` by their names; those that need more than passing on are written out below.

    `transport` takes the place of the network.
    """

    def __init__(
        self, url: str, access: Access, process: Process, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._url, self._shown = url, shown_address(url)
        self._access = access
        self._process = process
        self._transport = transport
        self._http: httpx2.AsyncClient | None = None
        self._not_let_in = False
        self._way = proxies.Route("") if transport else proxies.route(url)
        self._outage = _Outage(self._shown, self._way.blame)
        self._held: set[tuple[Address, int]] = set()
        self._handing_over = anyio.Lock()
        self._addresses: dict[str, Address] = {}
        self._unsure: dict[tuple[Address, Draft], tuple[str, float]] = {}
        self._changes = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in codec.names():
            raise AttributeError(name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._call(name, *args, **kwargs)

        return call

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        http, self._http = self._http, None
        if http:
            with anyio.CancelScope(shield=True):
                await http.aclose()

    async def prune(self) -> None:
        """The server's own business."""

    def pulse(self) -> object:
        """Changes when this process was rung, did what a doorbell should look at, and now and then in any case."""
        return self._changes, int(time.monotonic() / LOOK_EVERY)

    # -- verbs that bring mail, or tell what became of it

    async def hand_over(self, me: Address, **options: Any) -> HandOver:
        async with self._handing_over:
            with anyio.CancelScope(shield=True):
                found: HandOver = await self._fetched("hand_over", me, **options)
            if not options.get("peek"):
                self._hold(me, [message.id for message in found.messages])
            return found

    async def react(self, client: Client, happening: HookReport) -> HookResult | None:
        async with self._handing_over:
            with anyio.CancelScope(shield=True):
                found: HookResult | None = await self._fetched("react", client, happening)
            if found:
                self._let_go(found.address, [*happening.proven, *happening.lost])
                self._hold(found.address, [message.id for message in found.mail.messages])
            return found

    async def standing(self, me: Address, places: list[Place], tree: str) -> list[Standing]:
        """Some places at a time: a commit may have more than one request can.

        Its files may be called anything, and one request that is refused leaves all of its places unchecked. So a
        character that no claim can have is replaced, and a path that is too long to be sent is `unchecked`.
        """
        sayable = [_sayable(place) for place in places]
        sent = [place for place in sayable if place]
        answers: list[Standing] = []
        for at in range(0, max(1, len(sent)), rules.MAX_PLACES):
            answers += await self._call("standing", me, sent[at : at + rules.MAX_PLACES], _printable(tree))
        given = iter(answers)
        return [next(given) if place else "unchecked" for place in sayable]

    async def waiting(self, me: Address) -> Waiting:
        async with self._handing_over:  # else it would take back what is on its way
            found: Waiting = await self._call("waiting", me)
            return found

    async def _fetched(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """A call whose answer brings mail. If that does not arrive, a doorbell must look what became of it."""
        try:
            return await self._call(name, *args, **kwargs)
        except Unreachable:
            self._changes += 1
            raise

    async def confirm(self, me: Address, message_ids: Sequence[int]) -> int:
        return await self._settled("confirm", me, message_ids)

    async def withdraw(self, me: Address, message_ids: Sequence[int]) -> int:
        self._changes += bool(message_ids)
        async with self._handing_over:  # else it could withdraw what was handed over once more meanwhile
            self._let_go(me, message_ids)  # whatever becomes of this call
            return await self._settled("withdraw", me, message_ids)

    async def pass_on(self, me: Address, message_ids: Sequence[int], to: Process) -> int:
        return await self._settled("pass_on", me, message_ids, to)

    async def _settled(self, verb: str, me: Address, message_ids: Sequence[int], *more: Any) -> int:
        if not message_ids:
            return 0
        count: int = await self._call(verb, me, message_ids, *more)
        self._let_go(me, message_ids)
        return count

    def _hold(self, me: Address, message_ids: Sequence[int]) -> None:
        self._held.update((me, message) for message in message_ids)

    def _let_go(self, me: Address, message_ids: Sequence[int]) -> None:
        self._held.difference_update((me, message) for message in message_ids)

    async def observe(self, client: str, *, status: Status | None = None, **more: Any) -> Binding | None:
        before: Binding | None = await self._call("observe", client, status=status, **more)
        if before:
            self._is_now(client, before.address)
        self._changes += status is not None
        return before

    # -- names: what is held goes with them

    async def binding(self, client: str) -> Binding | None:
        found: Binding | None = await self._call("binding", client)
        if found:
            self._is_now(client, found.address)
        return found

    async def register(
        self, client: str, who: Address, role: str, owns: tuple[str, ...] | None
    ) -> tuple[Binding, Roster, int]:
        found: tuple[Binding, Roster, int] = await self._call("register", client, who, role, owns)
        self._is_now(client, who)
        return found

    async def detach(self, client: str) -> None:
        await self._ended("detach", client)

    async def leave(self, client: str) -> None:
        await self._ended("leave", client)

    def _is_now(self, client: str, who: Address) -> None:
        was = self._addresses.get(client)
        self._addresses[client] = who
        self._held = {(who if address == was else address, message) for address, message in self._held}

    async def _ended(self, verb: str, client: str) -> None:
        await self._call(verb, client)
        was = self._addresses.pop(client, None)
        self._held = {(address, message) for address, message in self._held if address != was}

    # -- sending

    async def send(self, me: Address, draft: Draft) -> Sent:
        """Sent once, however often the answer gets lost and the same is sent again."""
        same = me, replace(draft, hops=0)
        now = time.monotonic()
        self._unsure = {said: (key, at) for said, (key, at) in self._unsure.items() if now - at < KEY_LASTS}
        known = self._unsure.get(same)
        key = draft.key or (known[0] if known else f"once-{uuid.uuid4().hex}")
        try:
            sent: Sent = await self._call("send", me, replace(draft, key=key))
        except Unreachable as error:
            if not error.data["sent"]:
                raise
            self._unsure[same] = key, now
            raise Unreachable(
                f"{error.message}. Whether it was sent is not known: send the same again, it will not arrive twice",
                sent=True,
                key=key,
            ) from None
        self._unsure.pop(same, None)
        return sent

    # -- the line

    async def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Run a verb there. Raises what it raises, or `Unreachable`."""
        verb = codec.verb(name)
        held = tuple(self._held) if name in _WITH_WHAT_IS_HELD else ()
        status, content, doubtful = await self._post(name, verb.call(self._process, held, args, kwargs))
        if status != httpx2.codes.OK:
            error = self._refusal(status, content)
            if isinstance(error, Ending) or (doubtful and isinstance(error, _OF_THIS_ATTEMPT)):
                raise self._outage.broke(error.message, sent=True, more=_unknown(name))
            if isinstance(error, Unreachable) and httpx2.codes.is_server_error(status):  # a proxy's, which gave up
                raise Unreachable(error.message + _unknown(name), sent=True)
            raise error
        try:
            return verb.answered(content)
        except ValueError:
            said = f"what answers at {self._shown} is no claude-bus of a like version{self._way.blame}{_unknown(name)}"
            raise Unreachable(said, sent=True) from None

    async def _post(self, name: str, body: bytes) -> tuple[int, bytes, bool]:
        """One attempt, and another one if the connection broke: the server may just have been started anew.

        Returns the answer's status and content, and whether it is the second, and the first attempt may have
        arrived too.
        """
        self._outage.require()
        sent = False
        for last in (name in _ONCE, True):
            try:
                answer = await self._attempt(name, body)
            except line.FAILURES as error:
                sent = sent or not isinstance(error, _NEVER_LEFT)  # in either attempt
                if not last and isinstance(error, httpx2.NetworkError | httpx2.RemoteProtocolError):
                    continue
                raise self._outage.broke(line.kind(error), sent=sent, more=_unknown(name) if sent else "") from None
            self._outage.works()
            return *answer, sent
        raise AssertionError  # the last attempt returns or raises

    async def _attempt(self, name: str, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        async with self._client().stream("POST", f"/rpc/{name}", content=body, headers=headers) as answer:
            return answer.status_code, await line.content(answer, self._shown)

    def _client(self) -> httpx2.AsyncClient:
        if not self._http:
            self._http = line.client(
                self._url,
                self._access,
                f"claude-bus/{__version__}",
                timeout=httpx2.Timeout(ANSWER_TIMEOUT, connect=CONNECT_TIMEOUT),
                limits=httpx2.Limits(keepalive_expiry=KEPT),
                transport=self._transport,
            )
        elif self._not_let_in:
            line.show_anew(self._http, self._access)
        self._not_let_in = False
        return self._http

    def _refusal(self, status: int, content: bytes) -> BusError:
        """The error that the server answered with."""
        error = _refusal(status, content, self._shown, self._way)
        if not isinstance(error, Unauthorized):
            return error
        self._not_let_in = True
        return line.unauthorized(f"the bus at {self._shown}", self._access)

    # -- the ear

    @asynccontextmanager
    async def ear(self) -> AsyncIterator[RemoteEar]:
        """Be told over a line that is kept open, and opened again, for as long as the context lasts."""
        ear = RemoteEar()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_listening, ear)
            yield ear
            tasks.cancel_scope.cancel()

    async def _keep_listening(self, ear: RemoteEar) -> None:
        failures = 0
        while True:
            try:
                async for _ in self._rings_of(ear.address):
                    failures = 0
                    self._changes += 1
                    ear.bell.ring()
            except (*line.FAILURES, BusError):
                _log.debug("the ear's line to %s broke", self._shown)
            pause = BACKOFF[min(failures, len(BACKOFF) - 1)]
            failures += 1
            await self._outage.ends(pause * random.uniform(0.7, 1.3))  # noqa: S311 - not all at once

    async def _rings_of(self, address: str) -> AsyncIterator[None]:
        timeout = httpx2.Timeout(SILENCE, connect=CONNECT_TIMEOUT)
        async with self._client().stream("GET", "/rpc/ear", params={"address": address}, timeout=timeout) as answer:
            if answer.status_code != httpx2.codes.OK:
                raise self._refusal(answer.status_code, await line.content(answer, self._shown))
            self._outage.works()
            async for said in line.lines(answer, self._shown):
                if said == b"ring":
                    yield


class _Outage:
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


def _unknown(verb: str) -> str:
    """What else there is to say of a call whose answer got lost."""
    return ". It is not known whether it took effect: look before you repeat it" if verb in _ONCE else ""


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


def _sayable(place: Place) -> Place | None:
    """The place as a request can name it; None if a path of it is too long."""
    above = tuple((_printable(scope), _printable(path)) for scope, path in place.above)
    if any(len(text) > rules.MAX_PATH_BYTES for spelling in (place[:2], *place.above) for text in spelling):
        return None
    return Place(_printable(place.scope), _printable(place.path), place.file, above)


def _printable(text: str) -> str:
    """The text, each character that is not printable replaced by one that stands for it."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
