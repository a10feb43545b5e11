"""The participants over HTTP: one per MCP session, or per handle that a client was given.

No process of this machine represents them. They last no longer than the server, and are
forgotten earlier if they are silent.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from ..config import Config
from ..errors import BusError, RateLimited
from ..local import LocalBus
from ..model.tokens import Grant
from ..records import record
from ..session.doorbell import Beat
from ..session.membership import Membership
from ..session.presence import Presence
from ..session.session import Session
from ..session.subagents import SessionGroup
from ..sql import sessions
from .http_session import HttpMembership, NoMembership
from .quota import Opening, SessionQuota

_log = logging.getLogger(__name__)

SWEEP_EVERY = 5.0
"""Seconds between two checks for participants that are gone."""
HEARTBEAT_EVERY = 60.0
MAX_PARTICIPANTS = 2000
"""Participants of one server at most, including those that opened an MCP session and did nothing since."""
MAX_OF_TOKEN = 500
"""Participants with one token. A client that ended keeps its slot for `Patience.forgotten` seconds."""
MAX_REQUESTS = 100
"""Requests of one participant in flight at once, including those that wait for mail."""


class Bell(Protocol):
    """The signal for a listening session to check for mail."""

    async def rung(self, patience: float) -> bool: ...


Rings = Callable[[str], AbstractContextManager[Bell]]
"""Returns the signal for announcements at an address."""
Still = Callable[[Grant], Awaitable[bool]]
"""Tells whether a grant is still valid."""


@record(frozen=True, slots=True)
class Patience:
    """Seconds for which a silent participant counts as present."""

    after_stream: float = 30.0
    """Since its notification stream was closed, which happens when its client ends."""
    after_call: float = 900.0
    """Since its last request, if it never opened such a stream."""
    forgotten: float = 1800.0
    """Until the server forgets the participant; only the store still knows it."""


class _Participant:
    """A session with its subagents, and the time of its last request."""

    def __init__(self, group: SessionGroup) -> None:
        self.group = group
        self.awake = True
        self.heard = anyio.current_time()
        self.streamed = False
        self.beat = Beat()
        self.listening = anyio.CancelScope()

    @property
    def membership(self) -> Membership:
        return self.group.session.membership

    @property
    def presence(self) -> Presence:
        return self.group.session.presence

    @property
    def silence(self) -> float:
        return anyio.current_time() - self.heard


class HttpParticipants:
    """All participants of one server."""

    def __init__(self, bus: LocalBus, config: Config, rings: Rings, patience: Patience, still: Still) -> None:
        self._bus = bus
        self._config = config
        self._rings = rings
        self._patience = patience
        self._still = still
        self._quota = SessionQuota(MAX_OF_TOKEN, MAX_PARTICIPANTS, patience.forgotten)
        self._participants: dict[str, _Participant] = {}
        self._open: Counter[str] = Counter()
        self._tasks: TaskGroup | None = None

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Take part for as long as the context lasts; then all participants are gone."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._watch)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    for key in list(self._participants):
                        await self._dismiss(key)

    def group(self, key: str, grant: Grant) -> SessionGroup:
        """Return the participant with this key; create it if needed. Raises `RateLimited` if there are too many."""
        participant = self._participants.get(key) or self._welcome(key, grant)
        participant.awake = True
        participant.heard = anyio.current_time()
        return participant.group

    def known(self, key: str) -> SessionGroup | None:
        """Return the participant with this key, if there is one."""
        participant = self._participants.get(key)
        return participant.group if participant else None

    def nobody(self, grant: Grant) -> SessionGroup:
        """Return the group of a caller without an identity."""
        return SessionGroup(Session.of(NoMembership(self._bus, self._config, grant)))

    @contextlib.contextmanager
    def heard(self, key: str, *, stream: bool, limited: bool = True) -> Iterator[None]:
        """Count a request of a participant as in flight; `stream`: a request that only listens.

        Raises `RateLimited` if the participant has too many. Requests without an identity are not `limited`.
        """
        if limited and self._open[key] >= MAX_REQUESTS:
            raise RateLimited(
                f"this session has {MAX_REQUESTS} requests in flight: wait for one of them to end", retry_after=1
            )
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
            self._quota.heard(key)
            if participant := self._participants.get(key):
                participant.heard = anyio.current_time()
                participant.streamed = participant.streamed or stream

    def opening(self, grant: Grant) -> AbstractContextManager[Opening]:
        """Reserve a slot for a request that may open an MCP session. Raises `RateLimited` if there are too many."""
        return self._quota.opening(grant)

    async def end(self, key: str) -> None:
        """Remove the participant for good; an unknown one is not an error."""
        self._quota.free(key)
        await self._dismiss(key)

    async def _dismiss(self, key: str) -> None:
        """Stop taking part under this key, although its MCP session may still be open."""
        participant = self._participants.pop(key, None)
        if participant:
            participant.listening.cancel()
            await _guarded(participant.presence.close)

    def _welcome(self, key: str, grant: Grant) -> _Participant:
        assert self._tasks, "not running"
        self._quota.take(key, grant)
        membership = HttpMembership(self._bus, self._config, key, grant, self._end_predecessors)
        participant = _Participant(SessionGroup(Session.of(membership)))
        self._participants[key] = participant
        self._tasks.start_soon(self._listen, participant)
        return participant

    async def _end_predecessors(self, newest: Membership) -> None:
        """End the earlier MCP sessions of a conversation that moved to a new one, if they have no request in flight."""
        for key, participant in list(self._participants.items()):
            other = participant.membership
            if other is not newest and _same_conversation(other, newest) and not self._open[key]:
                await self._dismiss(key)

    async def _listen(self, participant: _Participant) -> None:
        """Wake the participant's waiting calls, for as long as it is known."""
        with participant.listening, self._rings(participant.presence.client.key) as bell:
            while True:
                if await bell.rung(HEARTBEAT_EVERY):
                    participant.group.session.waiting.mail_arrived()

    async def _watch(self) -> None:
        while True:
            await anyio.sleep(SWEEP_EVERY)
            for key, participant in list(self._participants.items()):
                await self._look_after(key, participant)
            self._quota.sweep(self._is_busy)

    def _is_busy(self, key: str) -> bool:
        return self._open[key] > 0

    async def _look_after(self, key: str, participant: _Participant) -> None:
        if not self._open[key] and not await self._still(
            participant.membership.grant
        ):  # requests in flight end by themselves
            await self._dismiss(key)
        elif self._present(key, participant):
            await self._keep(participant)
        elif participant.awake:
            participant.awake = False
            await _guarded(participant.presence.close)
        elif participant.silence > self._patience.forgotten:
            await self._dismiss(key)

    def _present(self, key: str, participant: _Participant) -> bool:
        patience = self._patience.after_stream if participant.streamed else self._patience.after_call
        return self._open[key] > 0 or participant.silence < patience

    async def _keep(self, participant: _Participant) -> None:
        """Keep the participant present; sessions on other machines with the same file see that by its heartbeat."""
        if not participant.awake:
            participant.awake = True
            await _guarded(participant.presence.attach)
        elif participant.beat.due(HEARTBEAT_EVERY):
            participant.beat.given()
            await _guarded(participant.presence.attach)  # should somebody have given it up
            await _guarded(self._bus.run, sessions.beat, participant.presence.client.key)


def _same_conversation(one: Membership, other: Membership) -> bool:
    same = one.presence.client.session_id == other.presence.client.session_id
    return same and one.grant.token == other.grant.token


async def _guarded(step: Callable[..., Awaitable[object]], *args: object) -> None:
    """Run `step`; a failing store, or a defect in claude-bus, must not end the server for all."""
    try:
        await step(*args)
    except BusError as error:
        _log.warning("%s", error)
    except Exception:  # noqa: BLE001 - see above
        _log.exception("the upkeep of a participant over HTTP failed")
