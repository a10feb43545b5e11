"""Waking an idle session when mail waits for it, and a server's upkeep between calls.

The watch sleeps until a notice of mail arrives. It also polls slowly, to make up for lost
notices, ring again when that is due, and keep the heartbeat.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import anyio

from .. import processes, text
from ..bus import Bus
from ..errors import BusError
from ..sql import bindings, deliveries, sessions
from .session import Session

LOOK_EVERY = 2.0
HEARTBEAT_EVERY = 60.0
RETRY_AFTER = 5.0
PRUNE_EVERY = 6 * 3600.0
_QUIET_FOR = 5.0
"""Seconds a session must have been silent before its client is asked whether it is idle."""

_log = logging.getLogger(__name__)

Push = Callable[[str, str], Awaitable[bool]]
"""Puts a text, as coming from a name, before the idle session; returns whether that worked."""


async def _deaf(patience: float) -> bool:
    """Wait for that long without hearing anything."""
    await anyio.sleep(patience)
    return False


class Beat:
    """Tells when a heartbeat is due: after some seconds, and at once when the machine slept or its clock was moved.

    No process sent heartbeats meanwhile, and other processes judge a session by them.
    """

    def __init__(self, clock: Callable[[], float] = time.time, awake: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._awake = clock, awake
        self._patience = processes.Patience(awake)
        self._given = awake()
        self._leapt = False
        self._tried = float("-inf")

    def due(self, every: float) -> bool:
        """Return whether a heartbeat is due now. One that fails is due again after `RETRY_AFTER` seconds."""
        self._leapt = self._patience.leapt(self._clock()) or self._leapt
        now = self._awake()
        due = (self._leapt or now - self._given > every) and now - self._tried > min(RETRY_AFTER, every)
        self._tried = now if due else self._tried
        return due

    def given(self) -> None:
        """Record that the heartbeat was sent."""
        self._given, self._leapt, self._tried = self._awake(), False, float("-inf")


class Doorbell:
    """Watches for one session's mail. `push` is None if nothing can wake the session."""

    def __init__(self, session: Session, bus: Bus, push: Push | None, says_idle: Callable[[], bool]) -> None:
        self._presence = session.presence
        self._wakeup = session.presence.wakeup
        self._waiting = session.waiting
        self._bus = bus
        self._push = push
        self._says_idle = says_idle
        self._pulse: object = None
        self._pending = True
        self._beat = Beat()
        self._pruned = time.monotonic() - PRUNE_EVERY + HEARTBEAT_EVERY  # not during the start
        self._unindexed = False

    async def watch(self) -> None:
        """Run for as long as the server does; poll if no notice socket can be opened."""
        try:
            async with self._bus.notice_socket() as notice_socket:
                await self._guarded(self._presence.listen_at, notice_socket.address)
                await self._watch(notice_socket.heard)
        except OSError as error:
            _log.warning("no notices of mail, looking every %.0f s instead: %s", LOOK_EVERY, error)
            await self._guarded(self._presence.listen_at, "")
            await self._watch(_deaf)

    async def _watch(self, heard: Callable[[float], Awaitable[bool]]) -> None:
        while True:
            await self._guarded(self._look, await self._told(heard))
            await self._guarded(self._upkeep)  # even if polling fails: a session without heartbeat is taken for dead

    async def _told(self, heard: Callable[[float], Awaitable[bool]]) -> bool:
        """Sleep until there may be something to do; return whether a notice of mail arrived."""
        noticed = False

        async def end_with_the_turn() -> None:
            if await self._wakeup.turn_ended.rung(LOOK_EVERY):
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_with_the_turn)
            noticed = await heard(LOOK_EVERY)
            tasks.cancel_scope.cancel()
        return noticed

    async def _guarded(self, step: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run `step`. This is the edge of the process: no failure here may end the server."""
        try:
            await step(*args)
        except BusError as error:
            _log.debug("doorbell: %s", error)  # the next tool call reports it to the user
        except Exception:  # noqa: BLE001 - see above
            _log.exception("doorbell")

    async def _look(self, heard: bool) -> None:
        await self._presence.go_on_listening()
        pulse = self._bus.pulse()
        if heard or pulse != self._pulse:
            self._waiting.mail_arrived()
            self._pending = True
        self._pending = self._pending or self._wakeup.owed
        if self._pending:
            self._pending = await self._ring()
        self._pulse = self._bus.pulse()

    async def _ring(self) -> bool:
        """Ring if a ring is due; whether mail that may ring still waits."""
        if not self._push:
            return False
        key = self._presence.client.key
        owed = {"owed": True} if self._wakeup.owed else {}
        found = await self._bus.run(sessions.look, key, **owed)
        if not found:
            return False
        binding, waits, due = found
        if not waits.count:  # it was read elsewhere, or ran out: what comes next rings for itself
            self._wakeup.owed = False
        if not self._wakeup.owed and not waits.rings:
            return False
        if binding.status != "idle" and self._interrupted():
            due = await self._bus.run(deliveries.ring, key, idle=True, **owed)
        if due:
            mail, rings = due
            self._wakeup.owed = False
            told = text.doorbell(mail.count, mail.senders, mail.newest, rings)
            self._wakeup.works = await self._push(told, text.name(mail.senders[0]))
            if not self._wakeup.works:
                await self._bus.run(bindings.observe, self._presence.client.key, bell=False)
        return True

    def _interrupted(self) -> bool:
        """Return whether the session stopped without reporting it: it is silent for a while, and its client is idle."""
        return self._presence.silent_for() > _QUIET_FOR and self._says_idle()

    async def _upkeep(self) -> None:
        if self._beat.due(HEARTBEAT_EVERY):
            await self._presence.beat()
            self._beat.given()
            self._unindexed = True
            if self._interrupted():
                await self._presence.became("idle")
        now = time.monotonic()
        if now - self._pruned > PRUNE_EVERY:
            self._pruned = now
            await self._bus.prune()
        if self._unindexed:
            self._unindexed = await self._bus.index()
