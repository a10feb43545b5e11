"""`RemoteBus`: the bus, served elsewhere over HTTP.

Its users do not notice the difference until there is an outage: a verb then
raises `Unreachable` at once, and goes through again when the server is back.

An answer that gets lost is the hard part. The server has done what it was asked, and
nobody here knows. So:

- What can be repeated without harm is repeated once, at once.
- A message goes with a key; repeated, also by whoever is told of the failure and says the
  same again, it is sent once.
- With each call that brings mail, or asks for it, goes what this program holds
  (`deliveries.requeue_unconfirmed`): mail in an answer that got lost waits again, and rings again,
  and is never taken for read. Such a call is not abandoned when its caller is cancelled.
- Of anything else the error says that nobody knows.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

import anyio
import httpx2

from ..bus import NoticeSocket
from ..config import Access
from ..errors import Unreachable
from ..model.hooks import HookReport, HookResult
from ..model.identity import Address, Binding, Client, Process, Roster
from ..model.messages import Draft, HandOver, Sent, Waiting
from ..sql import bindings, deliveries, messages, sessions
from ..sql.verbs import Verb
from . import codec, notices
from .connection import Connection
from .unconfirmed import HandOvers, Sendings

P = ParamSpec("P")
T = TypeVar("T")

LOOK_EVERY = 30.0
"""Seconds after which a doorbell looks though it was told nothing."""


class RemoteBus:
    """The verbs, as the server at `url` runs them for `process`. `transport` takes the place of the network.

    Verbs that need more than passing on are written out below.
    """

    def __init__(
        self, url: str, access: Access, process: Process, transport: httpx2.AsyncBaseTransport | None = None
    ) -> None:
        self._process = process
        self._connection = Connection(url, access, transport)
        self._held = HandOvers()
        self._sendings = Sendings()
        self._handing_over = anyio.Lock()
        self._changes = 0
        self._own: Mapping[Verb[..., Any], Callable[..., Awaitable[Any]]] = {
            deliveries.hand_over: self._hand_over,
            deliveries.waiting: self._waiting,
            deliveries.confirm: partial(self._settled, deliveries.confirm),
            deliveries.transfer: partial(self._settled, deliveries.transfer),
            deliveries.withdraw: self._withdraw,
            sessions.handle_hook_event: self._react,
            sessions.join: self._join,
            bindings.bound: self._bound,
            bindings.observe: self._observe,
            bindings.detach: partial(self._ended, bindings.detach),
            bindings.leave: partial(self._ended, bindings.leave),
            messages.send: self._send,
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    async def prune(self) -> None:
        """The server's own business."""

    def pulse(self) -> object:
        """Changes when this process was rung, did what a doorbell should look at, and now and then in any case."""
        return self._changes, int(time.monotonic() / LOOK_EVERY)

    def notice_socket(self) -> AbstractAsyncContextManager[NoticeSocket]:
        """See `bus.Bus.ear`."""
        return notices.notice_socket(self._connection, self._changed)

    def _changed(self) -> None:
        self._changes += 1

    async def run(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb there. Raises what it raises, or `Unreachable`. See `bus.Bus.run`."""
        own = self._own.get(verb)
        if own:
            found: T = await own(*args, **kwargs)
            return found
        return await self._call(verb, *args, **kwargs)

    async def _call(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        form = codec.form(verb)
        held = self._held.all() if verb.with_unconfirmed else ()
        content = await self._connection.call(verb, form.call(self._process, held, args, kwargs))
        try:
            found: T = form.answered(content)
        except ValueError:
            raise self._connection.unlike(verb) from None
        return found

    # -- verbs that bring mail, or tell what became of it

    async def _hand_over(self, me: Address, **options: Any) -> HandOver:
        async with self._handing_over:
            with anyio.CancelScope(shield=True):
                found = await self._fetched(deliveries.hand_over, me, **options)
            if not options.get("peek"):
                self._held.hold(me, [message.id for message in found.messages])
            return found

    async def _react(self, client: Client, happening: HookReport) -> HookResult | None:
        async with self._handing_over:
            with anyio.CancelScope(shield=True):
                found = await self._fetched(sessions.handle_hook_event, client, happening)
            if found:
                self._held.let_go(found.address, [*happening.proven, *happening.lost])
                self._held.hold(found.address, [message.id for message in found.mail.messages])
            return found

    async def _waiting(self, me: Address) -> Waiting:
        async with self._handing_over:  # else it would take back what is on its way
            return await self._call(deliveries.waiting, me)

    async def _fetched(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A call whose answer brings mail. If that does not arrive, a doorbell must look what became of it."""
        try:
            return await self._call(verb, *args, **kwargs)
        except Unreachable:
            self._changes += 1
            raise

    async def _withdraw(self, me: Address, message_ids: Sequence[int]) -> int:
        self._changes += bool(message_ids)
        async with self._handing_over:  # else it could withdraw what was handed over once more meanwhile
            self._held.let_go(me, message_ids)  # whatever becomes of this call
            return await self._settled(deliveries.withdraw, me, message_ids)

    async def _settled(
        self, verb: Verb[..., int], me: Address, message_ids: Sequence[int], *to: Any, **more: Any
    ) -> int:
        if not message_ids:
            return 0
        count = await self._call(verb, me, message_ids, *to, **more)
        self._held.let_go(me, message_ids)
        return count

    async def _observe(self, client: str, **said: Any) -> Binding | None:
        before = await self._call(bindings.observe, client, **said)
        if before:
            self._held.named(client, before.address)
        self._changes += said.get("status") is not None
        return before

    # -- names: what is held goes with them

    async def _bound(self, client: str) -> Binding | None:
        found = await self._call(bindings.bound, client)
        if found:
            self._held.named(client, found.address)
        return found

    async def _join(
        self, client: str, who: Address, role: str, owns: tuple[str, ...] | None
    ) -> tuple[Binding, Roster, int]:
        found = await self._call(sessions.join, client, who, role, owns)
        self._held.named(client, who)
        return found

    async def _ended(self, verb: Verb[[str], None], client: str) -> None:
        await self._call(verb, client)
        self._held.ended(client)

    # -- sending

    async def _send(self, me: Address, draft: Draft) -> Sent:
        """Sent once, however often the answer gets lost and the same is sent again."""
        keyed = self._sendings.keyed(me, draft)
        try:
            sent = await self._call(messages.send, me, keyed)
        except Unreachable as error:
            if not error.data["sent"]:
                raise
            self._sendings.unsure(me, draft, keyed.key)
            raise Unreachable(
                f"{error.message}. Whether it was sent is not known: send the same again, it will not arrive twice",
                sent=True,
                key=keyed.key,
            ) from None
        self._sendings.sent(me, draft)
        return sent
