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
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any, ParamSpec, Self, TypeVar

import anyio
import httpx2

from ..bus import NoticeSocket
from ..config import Access
from ..errors import Displaced, InvalidInput, NotFound, Unreachable
from ..model.claims import Claim, ClaimTarget
from ..model.hooks import HookReport, HookResult
from ..model.identity import Address, Binding, Client, Process, Roster, SignOfLife
from ..model.messages import Draft, HandOver, History, Sent, Waiting
from ..model.state import StateEntry
from ..sql import bindings, claims, deliveries, guard, messages, sessions, state
from ..sql.verbs import Verb
from . import codec, notices
from .connection import Connection
from .unconfirmed import HandOvers, Sendings

P = ParamSpec("P")
T = TypeVar("T")

LOOK_EVERY = 30.0
"""Seconds after which a doorbell looks though it was told nothing."""

_SIGN: ContextVar[SignOfLife | None] = ContextVar("_SIGN", default=None)
"""The sign of life that goes with the calls of a verb."""
_NO_SIGNS = "sign: Extra inputs are not permitted"
"""Text in the refusal of a server that knows no signs of life."""


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
            messages.look_back: self._look_back,
            sessions.begin: self._begin,
            sessions.look: self._look,
            state.latest: self._latest,
            state.watch_from: self._watch_from,
            state.with_history: self._with_history,
            guard.release_meant: self._release_meant,
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._connection.close()

    async def prune(self) -> None:
        """The server's own business."""

    async def index(self) -> bool:
        """The server's own business."""
        return False

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
        return await self.run_for(None, verb, *args, **kwargs)

    async def run_for(self, sign: SignOfLife | None, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `bus.Bus.run_for`. The sign goes with each request of the verb; before it if the server knows none."""
        if not sign:
            return await self._run(verb, *args, **kwargs)
        if sign.lost:
            await self._withdraw(sign.address, sign.lost)
            sign = replace(sign, lost=())
        if not self._connection.takes_signs:
            await self._see(sign)
            return await self._run(verb, *args, **kwargs)
        before = _SIGN.set(sign)
        try:
            found = await self._run(verb, *args, **kwargs)
        except InvalidInput as error:
            if _NO_SIGNS not in error.message:
                raise
            _SIGN.set(None)  # the server is of an earlier version now, and did nothing
            await self._see(sign)
            return await self._run(verb, *args, **kwargs)
        finally:
            _SIGN.reset(before)
        self._held.named(sign.client, sign.address)
        if sign.noted:
            self._held.let_go(sign.address, sign.proven)
        return found

    async def _see(self, sign: SignOfLife) -> None:
        """Note a sign of life in requests of its own."""
        said = {"status": sign.status, "session_id": sign.session_id, "program": sign.program}
        if sign.noted:
            found = await self._observe(sign.client, **{name: value for name, value in said.items() if value})
        else:
            found = await self._bound(sign.client)
        if not found or (found.process, found.address, found.registered) != (
            sign.process,
            sign.address,
            sign.registered,
        ):
            raise Displaced
        if sign.noted:
            await self._settled(deliveries.confirm, sign.address, sign.proven)

    async def _run(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        own = self._own.get(verb)
        if own:
            found: T = await own(*args, **kwargs)
            return found
        return await self._call(verb, *args, **kwargs)

    async def _call(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        form = codec.form(verb)
        held = self._held.all() if verb.with_unconfirmed else ()
        content = await self._connection.call(verb, form.call(self._process, held, args, kwargs, _SIGN.get()))
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

    # -- several verbs at once, which a server of an earlier version has only one by one

    async def _begin(
        self,
        client: Client,
        wanted: Address | None,
        channel: str,
        *,
        role: str = "",
        address: str = "",
        **said: Any,
    ) -> Binding:
        try:
            found: Binding = await self._call(
                sessions.begin, client, wanted, channel, role=role, address=address, **said
            )
        except NotFound:
            found = await self._begin_stepwise(client, wanted, channel, role, address, **said)
        self._held.named(client.key, found.address)
        self._changes += said.get("status") is not None
        return found

    async def _begin_stepwise(
        self, client: Client, wanted: Address | None, channel: str, role: str, address: str, **said: Any
    ) -> Binding:
        found = await self._bound(client.key)
        if not found or found.process != client.process:
            found = await self._call(bindings.attach, client, wanted, channel)
            if wanted:
                found, _, _ = await self._join(client.key, wanted, role, None)
                await self._call(bindings.forget, client.key)
            if told := {name: value for name, value in said.items() if value is not None}:
                await self._observe(client.key, **told)
        await self._call(sessions.listen, address, client.key)
        return found

    async def _look(
        self, client: str, *, owed: bool = False
    ) -> tuple[Binding, Waiting, tuple[Waiting, int] | None] | None:
        if not self._connection.takes_signs:
            return await self._look_stepwise(client, owed=owed)
        async with self._handing_over:  # as `_waiting`
            found = await self._call(sessions.look, client, owed=owed)
        if found:
            self._held.named(client, found[0].address)
        return found

    async def _look_stepwise(
        self, client: str, *, owed: bool
    ) -> tuple[Binding, Waiting, tuple[Waiting, int] | None] | None:
        binding = await self._bound(client)
        if not binding:
            return None
        mail = await self._waiting(binding.address)
        rings = binding.status == "idle" and (mail.rings or (owed and mail.count))
        more = {"owed": True} if owed else {}
        return binding, mail, await self._call(deliveries.ring, client, idle=False, **more) if rings else None

    async def _latest(self, channel: str, key: str) -> StateEntry:
        entry = await self._call(state.get_state, channel, key)
        last = [] if entry else await self._call(state.history, channel, key, 1)
        deleted = last[0] if last and last[0].value is None else None
        return entry or deleted or StateEntry(key, None, 0, "", 0.0)

    async def _watch_from(self, address: str, channel: str, key: str) -> StateEntry:
        found = await self._latest(channel, key)  # first: looks show a change before the watch, which nobody announces
        await self._call(state.watch, address, channel, key)
        return found

    async def _with_history(self, channel: str, key: str, limit: int) -> tuple[StateEntry | None, list[StateEntry]]:
        return await self._call(state.get_state, channel, key), await self._call(state.history, channel, key, limit)

    async def _release_meant(
        self, me: Address, meant: Callable[[list[Claim]], list[ClaimTarget]], force: str
    ) -> list[ClaimTarget]:
        places = meant(await self._call(claims.list_claims, me.channel))
        if force:
            return await self._call(guard.force_release, me, places, force)
        return await self._call(claims.release, me, places)

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

    # -- looking back

    async def _look_back(self, me: Address, **which: Any) -> History:
        """A server that is older knows another verb for it, whose searches have no end to tell of."""
        try:
            return await self._call(messages.look_back, me, **which)
        except NotFound:
            return History(tuple(await self._call(messages.history, me, **which)))

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
