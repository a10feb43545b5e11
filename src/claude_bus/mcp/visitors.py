"""Those who take part over HTTP: one participant per MCP session, or per handle that a client was given.

No process of this machine stands for them. They live as long as the server that
serves them does, and within that for as long as they are heard of.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup

from .. import processes, rules
from ..config import Config
from ..doorbell import Beat
from ..errors import BusError, NameTaken, NotRegistered, RateLimited
from ..local import LocalBus
from ..model import Address, Client, Grant, Injection
from ..session import Session
from ..sql import bindings, sessions
from ..subagents import Participants
from ..surroundings import Elsewhere
from .seats import Opening, Seats

_log = logging.getLogger(__name__)

SWEEP_EVERY = 5.0
"""Seconds between two looks for those who are gone."""
HEARTBEAT_EVERY = 60.0
MAX_VISITORS = 2000
"""Participants that one server has at most, those included that opened an MCP session and did nothing yet."""
MAX_OF_TOKEN = 500
"""Of these, participants with one token. A client that ended keeps its place for as long as `Patience.forgotten`."""
MAX_REQUESTS = 100
"""Requests of one participant that are under way at once, those that wait for mail included."""

_NAMELESS = "(http)"
"""What those are listed as who may bear no neutral name. No name can be spelled like this, so none is taken away."""
_NO_HANDLE = (
    "this needs an identity, and the connection has none: add ?session=<handle> to the address of /mcp, or send "
    "the header Bus-Session: <handle>, with a handle of your own that stays the same"
)


class Bell(Protocol):
    """What rings when a session that listens here should look."""

    async def rung(self, patience: float) -> bool: ...


Rings = Callable[[str], AbstractContextManager[Bell]]
"""The bell of what is announced at an address."""
Still = Callable[[Grant], Awaitable[bool]]
"""Whether what was granted is granted by now."""


@dataclass(frozen=True, slots=True)
class Patience:
    """For how many seconds a participant counts as present that nothing is heard of."""

    after_stream: float = 30.0
    """Since the stream that it listened on was closed, as that of a client that ended is."""
    after_call: float = 900.0
    """Since its last request, where it never opened such a stream."""
    forgotten: float = 1800.0
    """After which nothing of it is remembered but what is in the store."""


def key_of(grant: Grant, identity: str) -> str:
    """The key of the participant that calls itself `identity` with this token.

    The journal shows keys; an MCP session's id is not to be read there.
    """
    return f"http:{grant.token}:{hashlib.sha256(identity.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


class HttpSession(Session):
    """A participant whose client is elsewhere."""

    def __init__(
        self, bus: LocalBus, config: Config, key: str, grant: Grant, closes: Callable[[Session], Awaitable[None]]
    ) -> None:
        channel = _home(grant, config.channel)
        client = Client(
            key, processes.this_process(), session_id=key, program="mcp", listed=_listed_name(grant, channel)
        )
        self._granted = bus.acting_for(client.process, grant)
        super().__init__(
            self._granted,
            replace(config, name="", role="", channel=channel, share_prompts=False),  # the server's own are no client's
            client,
            lambda _mode: False,
            grant=grant,
            surroundings=Elsewhere(key),
            address=key,
        )
        self._closes = closes

    async def _react(self, via: str, session_id: str, *more: Any, **options: Any) -> Injection:
        await self._take_name_up(session_id)
        return await super()._react(via, session_id, *more, **options)

    async def _take_name_up(self, conversation: str) -> None:
        """Be again who this conversation was, if nobody is that now: its client reconnected, or it was resumed."""
        if not conversation:
            return
        if conversation != self.client.session_id:
            self.client = replace(self.client, session_id=conversation)
            await self._closes(self)
        if (await self.attach()).registered:
            return
        who = await self._granted.run(bindings.borne, conversation)
        if who:
            with contextlib.suppress(NameTaken):
                await self.bus.run(sessions.join, self.client.key, who, "", None)
                await self.bus.run(bindings.forget, self.client.key)  # nobody told the model


class Nobody(Session):
    """Whoever calls without token, MCP session and handle: may look, and be nobody."""

    def __init__(self, bus: LocalBus, config: Config, grant: Grant) -> None:
        config = replace(config, name="", role="", channel=_home(grant, config.channel))
        client = Client(key_of(grant, ""), processes.this_process())
        super().__init__(bus, config, client, lambda _mode: False, grant=grant, surroundings=Elsewhere(""))
        self._left = True  # so nothing it does attaches it

    async def _called(self) -> None:
        return None

    def _stranger(self) -> NotRegistered:
        return NotRegistered(_NO_HANDLE)


def _home(grant: Grant, wanted: str) -> str:
    """The channel to be on before another is named: `wanted`, or one that the grant permits."""
    literal = [pattern for pattern in grant.channels if not rules.is_name_glob(pattern)]
    candidates = [wanted, *literal, *(pattern.replace("*", "http") for pattern in grant.channels)]
    return next((channel for channel in candidates if rules.permits_channel(grant, channel)), wanted)


def _listed_name(grant: Grant, channel: str) -> str:
    """A neutral name that the grant permits, with a number after it as well, or one that is none."""
    stems = ["http", *(f"{pattern[:-1]}http" for pattern in grant.names if pattern.endswith("*"))]
    return next(
        (stem for stem in stems if all(_permitted(grant, name, channel) for name in (stem, f"{stem}-2"))), _NAMELESS
    )


def _permitted(grant: Grant, name: str, channel: str) -> bool:
    try:
        return rules.permits(grant, Address(rules.check_name(name), channel))
    except BusError:
        return False


class _Visitor:
    """A participant, and when it was heard of."""

    def __init__(self, participants: Participants) -> None:
        self.participants = participants
        self.awake = True
        self.heard = anyio.current_time()
        self.streamed = False
        self.beat = Beat()
        self.listening = anyio.CancelScope()

    @property
    def session(self) -> Session:
        return self.participants.session

    @property
    def silence(self) -> float:
        return anyio.current_time() - self.heard


class Visitors:
    """All who take part through one server."""

    def __init__(self, bus: LocalBus, config: Config, rings: Rings, patience: Patience, still: Still) -> None:
        self._bus = bus
        self._config = config
        self._rings = rings
        self._patience = patience
        self._still = still
        self._seats = Seats(MAX_OF_TOKEN, MAX_VISITORS, patience.forgotten)
        self._visitors: dict[str, _Visitor] = {}
        self._open: Counter[str] = Counter()
        self._tasks: TaskGroup | None = None

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Take part for as long as the context lasts; then all are gone."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._watch)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    for key in list(self._visitors):
                        await self._dismiss(key)

    def participants(self, key: str, grant: Grant) -> Participants:
        """The participant with this key, new if need be. Raises `RateLimited` when there are too many."""
        visitor = self._visitors.get(key) or self._welcome(key, grant)
        visitor.awake = True
        visitor.heard = anyio.current_time()
        return visitor.participants

    def known(self, key: str) -> Participants | None:
        """The participant with this key, if there is one."""
        visitor = self._visitors.get(key)
        return visitor.participants if visitor else None

    def nobody(self, grant: Grant) -> Participants:
        """Whoever calls without an identity."""
        return Participants(Nobody(self._bus, self._config, grant))

    @contextlib.contextmanager
    def heard(self, key: str, *, stream: bool, limited: bool = True) -> Iterator[None]:
        """A request of a participant is under way; `stream`: one that it only listens on.

        Raises `RateLimited` if it has too many of them. Those that nobody is behind yet are not `limited`.
        """
        if limited and self._open[key] >= MAX_REQUESTS:
            raise RateLimited(f"this session has {MAX_REQUESTS} requests under way: wait for one of them to end")
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
            self._seats.heard(key)
            if visitor := self._visitors.get(key):
                visitor.heard = anyio.current_time()
                visitor.streamed = visitor.streamed or stream

    def opening(self, grant: Grant) -> AbstractContextManager[Opening]:
        """A request is under way that may open an MCP session. Raises `RateLimited` when there are too many."""
        return self._seats.opening(grant)

    async def end(self, key: str) -> None:
        """The participant is gone for good; one that nobody knows is no error."""
        self._seats.free(key)
        await self._dismiss(key)

    async def _dismiss(self, key: str) -> None:
        """Nobody takes part under this key any more, though its MCP session may be open still."""
        visitor = self._visitors.pop(key, None)
        if visitor:
            visitor.listening.cancel()
            await _guarded(visitor.session.close)

    def _welcome(self, key: str, grant: Grant) -> _Visitor:
        assert self._tasks, "not running"
        self._seats.take(key, grant)
        visitor = _Visitor(Participants(HttpSession(self._bus, self._config, key, grant, self._end_predecessors)))
        self._visitors[key] = visitor
        self._tasks.start_soon(self._listen, visitor)
        return visitor

    async def _end_predecessors(self, session: Session) -> None:
        """A conversation came to another MCP session: those it had are over, if nothing of them is open."""
        for key, visitor in list(self._visitors.items()):
            other = visitor.session
            if other is not session and _same_conversation(other, session) and not self._open[key]:
                await self._dismiss(key)

    async def _listen(self, visitor: _Visitor) -> None:
        """Wake those of its calls that wait, for as long as it is known."""
        with visitor.listening, self._rings(visitor.session.client.key) as bell:
            while True:
                if await bell.rung(HEARTBEAT_EVERY):
                    visitor.session.mail_arrived()

    async def _watch(self) -> None:
        while True:
            await anyio.sleep(SWEEP_EVERY)
            for key, visitor in list(self._visitors.items()):
                await self._look_after(key, visitor)
            self._seats.sweep(self._is_busy)

    def _is_busy(self, key: str) -> bool:
        return self._open[key] > 0

    async def _look_after(self, key: str, visitor: _Visitor) -> None:
        if not self._open[key] and not await self._still(visitor.session.grant):  # what is under way ends by itself
            await self._dismiss(key)
        elif self._present(key, visitor):
            await self._keep(visitor)
        elif visitor.awake:
            visitor.awake = False
            await _guarded(visitor.session.close)
        elif visitor.silence > self._patience.forgotten:
            await self._dismiss(key)

    def _present(self, key: str, visitor: _Visitor) -> bool:
        patience = self._patience.after_stream if visitor.streamed else self._patience.after_call
        return self._open[key] > 0 or visitor.silence < patience

    async def _keep(self, visitor: _Visitor) -> None:
        """Present, as others see: those on other machines with the same file by its heartbeat."""
        if not visitor.awake:
            visitor.awake = True
            await _guarded(visitor.session.attach)
        elif visitor.beat.due(HEARTBEAT_EVERY):
            visitor.beat.given()
            await _guarded(visitor.session.attach)  # should somebody have given it up
            await _guarded(self._bus.run, sessions.beat, visitor.session.client.key)


def _same_conversation(one: Session, other: Session) -> bool:
    return one.client.session_id == other.client.session_id and one.grant.token == other.grant.token


async def _guarded(step: Callable[..., Awaitable[object]], *args: object) -> None:
    """The edge of the process: a store that fails now, or a defect of ours, must not end it for all."""
    try:
        await step(*args)
    except BusError as error:
        _log.warning("%s", error)
    except Exception:  # noqa: BLE001 - see above
        _log.exception("a visitor could not be looked after")
