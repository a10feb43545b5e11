"""The waiting requests: wakes those that a change concerns, whichever process made it.

Waiters do not look at the store again and again. One watch per server process sees that
something was stored (a notice of the process that sent mail, or the store's pulse),
reads what it was, and rings for those it concerns; they look then. With a thousand
waiting, a message is one query more and not a thousand.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import anyio

from ..bus import NoticeSocket
from ..drivers.notices import Signal
from ..errors import BusError
from ..local import LocalBus
from ..model.identity import Address
from ..model.journal import Changes
from ..sql import events, listeners, sessions

T = TypeVar("T")

_log = logging.getLogger(__name__)

PULSE_EVERY = 0.1
"""Seconds between two looks at the pulse while somebody waits: it costs microseconds."""
IDLE_EVERY = 0.5
"""The same while nobody does."""
_REST = 0.005
"""Seconds between two looks at what was stored. A notice after a quiet moment is answered at once; of many in a row,
one look finds what they are about."""
_PATIENT = 3
"""The rest is at least so many times as long as the look took: who sends needs a busy store as well."""
_LOOK_AFTER = 20.0
"""Seconds after which one who waits looks by itself, should all else fail."""


def never() -> None:
    """The time of what does not end."""


def _seconds_to(due: float | None) -> float:
    """How long it is until then, by the clock that the store goes by."""
    return math.inf if due is None else max(due - time.time(), PULSE_EVERY)


class Hub:
    """Rings bells by topic. A topic is a string; see the functions below for those there are."""

    def __init__(self, bus: LocalBus) -> None:
        self._bus = bus
        self.messages = 0
        """Messages that were stored, by whichever process, since the hub runs."""
        self._bells: dict[str, set[Signal]] = defaultdict(set)
        self._wanted = anyio.Event()
        self._last = 0
        self._pulse: object = None

    @property
    def waiting(self) -> int:
        """How many bells there are."""
        return len(set().union(*self._bells.values())) if self._bells else 0

    @contextlib.contextmanager
    def signal(self, *topics: str) -> Iterator[Signal]:
        """A bell that any of the topics rings. Take it before you look, so that nothing falls in between."""
        bell = Signal()
        self._wanted.set()
        for topic in topics:
            self._bells[topic].add(bell)
        try:
            yield bell
        finally:
            for topic in topics:
                self._bells[topic].discard(bell)
                if not self._bells[topic]:
                    del self._bells[topic]

    async def until(
        self, look: Callable[[], Awaitable[T]], patience: float, *topics: str, due: Callable[[], float | None] = never
    ) -> T:
        """The result of `look`, as soon as that is true, or after `patience` seconds whatever it is.

        `due` is the time at which something ends that `look` has found, if it does: nobody rings for that.
        """
        if patience <= 0:
            return await look()
        with self.signal(*topics) as bell:
            end = anyio.current_time() + patience
            while not (found := await look()) and (left := end - anyio.current_time()) > 0:
                await bell.rung(min(left, _LOOK_AFTER, _seconds_to(due())))
            return found

    async def run(self) -> None:
        """Watch the bus for as long as the server runs. A store that fails is no reason to end."""
        try:
            async with self._bus.notice_socket() as notice_socket:
                await self._begin(notice_socket.address)
                try:
                    await self._watch(notice_socket)
                finally:
                    with anyio.CancelScope(shield=True), contextlib.suppress(BusError):
                        await self._bus.run(listeners.unlisten, notice_socket.address)
        except OSError as error:
            _log.warning("no notices of mail, looking every %.1f s instead: %s", PULSE_EVERY, error)
            await self._begin("")
            await self._watch(None)

    async def _begin(self, address: str) -> None:
        """Find out where the journal is, as soon as the store says, and have mail announced at `address`.

        A request that waits already looks then: what came before is told to nobody.
        """
        while True:
            try:
                self._last = await self._bus.run(events.last)
                if address:
                    await self._bus.run(sessions.listen, address, "")
                for topic in self._bells:
                    self.ring(topic)
                return
            except BusError as error:
                _log.debug("hub: %s", error)
            await anyio.sleep(IDLE_EVERY)

    async def _watch(self, notice_socket: NoticeSocket | None) -> None:
        while True:
            heard = await (self._heard(notice_socket) if self._bells else self._waited_for())
            pulse = self._bus.pulse()
            if heard or pulse != self._pulse:
                self._pulse = pulse
                began = anyio.current_time()
                await self._look()
                await anyio.sleep(min(max(_REST, _PATIENT * (anyio.current_time() - began)), PULSE_EVERY))

    async def _heard(self, notice_socket: NoticeSocket | None) -> bool:
        if notice_socket:
            return await notice_socket.heard(PULSE_EVERY)
        await anyio.sleep(PULSE_EVERY)
        return False

    async def _waited_for(self) -> bool:
        """Let what is stored be, as long as nobody waits for it. A request takes a bell before it looks."""
        self._wanted = anyio.Event()
        with anyio.move_on_after(IDLE_EVERY):
            await self._wanted.wait()
        return False

    async def _look(self) -> None:
        """Ring for whatever came since the last look. A store that fails now is looked at again."""
        try:
            more = True
            while more:
                found = await self._bus.run(events.changes, self._last)
                self._last, more = found.last, found.more
                self.messages += sum(event.verb == "send" for event in found.events)
                for topic in topics_of(found):
                    self.ring(topic)
        except BusError as error:
            self._pulse = None
            _log.debug("hub: %s", error)

    def ring(self, topic: str) -> None:
        for bell in self._bells.get(topic, ()):
            bell.ring()


def topics_of(found: Changes) -> set[str]:
    """The topics that a change is about."""
    return {
        *(mail_for(who) for who in found.mail),
        *(mail_for_name(who.name) for who in found.mail),
        *(listener(address) for address in found.listeners),
        *(channel(event.channel) for event in found.events),
    }


def mail_for(who: Address) -> str:
    """Mail for one name on one channel."""
    return f"mail {who.channel} {who.name}"


def mail_for_name(name: str) -> str:
    """Mail for a name on any channel."""
    return f"name {name}"


def listener(address: str) -> str:
    """Mail, or a change that is waited for, of the session that listens at this address."""
    return f"listener {address}"


def channel(name: str) -> str:
    """Anything at all on one channel."""
    return f"channel {name}"
