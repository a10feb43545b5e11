"""`LocalBus`: the bus in a database of this machine."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Self, Unpack

from . import rules
from .bus import Ear
from .detector import refuse_secrets
from .drivers import notices
from .drivers.sqlite import Database
from .errors import StoreFull
from .model import (
    ANYBODY,
    Address,
    Agent,
    Binding,
    Changes,
    Claim,
    Client,
    DeliveryState,
    Draft,
    Event,
    Feed,
    Grant,
    Guard,
    HandOver,
    Happening,
    Key,
    Letter,
    Message,
    MessageStatus,
    Place,
    Process,
    Reaction,
    Roster,
    Search,
    Sent,
    StateEntry,
    Status,
    Token,
    Verdict,
    Waiting,
)
from .sql import (
    agents,
    archive,
    bindings,
    calls,
    claims,
    deliveries,
    events,
    feeds,
    guard,
    inboxes,
    listeners,
    messages,
    parcels,
    sessions,
    state,
    tokens,
)
from .sql.claims import Places
from .sql.deliveries import Held
from .sql.state import Options
from .sql.transaction import Transaction


class LocalBus:
    """The bus in a database of this machine.

    `process` is the one that hands mail over; `rate` how many messages a session may
    send per minute (0: any number).
    """

    def __init__(
        self, database: Database, process: Process, rate: int = 0, *, grant: Grant = ANYBODY, held: Held | None = None
    ) -> None:
        self._db = database
        self._process = process
        self._rate = rate
        self._grant = grant
        self._held = held

    def acting_for(self, process: Process, grant: Grant, held: Held | None = None) -> LocalBus:
        """This bus for a process elsewhere, in whose hands is what is handed over; see `deliveries.take_back`.

        Sessions that attach get names that the grant permits. Whoever calls verbs with an address
        has made sure that the grant permits it.
        """
        return LocalBus(self._db, process, self._rate, grant=grant, held=held)

    # -- sessions

    async def attach(self, client: Client, wanted: Address | None, channel: str) -> Binding:
        return await self._db.run(bindings.attach, client, wanted, channel, self._grant)

    async def register(
        self, client: str, who: Address, role: str, owns: tuple[str, ...] | None
    ) -> tuple[Binding, Roster, int]:
        return await self._db.run(sessions.join, client, who, role, owns)

    async def enlist(self, who: Address, program: str, role: str = "", owns: tuple[str, ...] | None = None) -> None:
        await self._db.run(agents.enlist, who, program, role, owns)

    async def enlist_reader(self, who: Address, program: str) -> None:
        """Enlist one who is about to look; on a full disk whoever takes part already may look all the same."""
        try:
            await self._db.run(agents.enlist, who, program)
        except StoreFull:
            if not await self._db.run(agents.takes_part, who):
                raise

    async def delist(self, who: Address) -> None:
        await self._db.run(agents.delist, who)

    async def resume(self, client: Client) -> Binding | None:
        return await self._db.run(bindings.resume, client, self._grant)

    async def binding(self, client: str) -> Binding | None:
        return await self._db.run(bindings.bound, client)

    async def holder(self, who: Address) -> Binding | None:
        """The live session that is `who`."""
        return await self._db.run(bindings.holder, who)

    async def borne(self, session_id: str) -> Address | None:
        return await self._db.run(bindings.borne, session_id, self._grant)

    async def detach(self, client: str) -> None:
        await self._db.run(bindings.detach, client, self._process)

    async def leave(self, client: str) -> None:
        await self._db.run(bindings.leave, client)

    async def observe(
        self,
        client: str,
        *,
        status: Status | None = None,
        session_id: str = "",
        bell: bool | None = None,
        program: str = "",
    ) -> Binding | None:
        return await self._db.run(
            bindings.observe, client, status=status, session_id=session_id, bell=bell, program=program
        )

    async def react(self, client: Client, happening: Happening) -> Reaction | None:
        return await self._db.run(sessions.react, client, happening, self._process, self._held)

    async def forget(self, client: str) -> None:
        await self._db.run(bindings.forget, client)

    async def announce_call(self, client: str, call: str, agent_id: str) -> None:
        await self._db.run(calls.announce, client, call, agent_id)

    async def caller(self, client: str, call: str) -> str:
        return await self._db.run(calls.caller, client, call)

    async def heartbeat(self, client: str) -> None:
        await self._db.run(bindings.heartbeat, client, self._process)

    async def listen(self, address: str, client: str) -> None:
        await self._db.run(sessions.listen, client, address, self._process)

    async def unlisten(self, address: str) -> None:
        await self._db.run(listeners.unlisten, address)

    async def server_of(self, client: str) -> Process | None:
        return await self._db.run(listeners.server_of, client)

    def ear(self) -> AbstractAsyncContextManager[Ear]:
        """Where this process can be told of mail; its address goes to `listen`."""
        return notices.ear()

    def pulse(self) -> object:
        """A cheap value that changes when anybody stores something."""
        return self._db.pulse()

    # -- who is here

    async def agents(self, channel: str, within: float | None = None) -> list[Agent]:
        return await self._db.run(agents.listing, channel, within)

    # -- messages

    async def send(self, me: Address, draft: Draft) -> Sent:
        await _check(draft)
        sent, listeners = await self._db.run(messages.send, me, draft, self._rate)
        notices.announce(listeners)
        return sent

    async def hand_over(
        self,
        me: Address,
        *,
        via: str,
        limit: int = 100,
        max_chars: int,
        at_least_one: bool = False,
        peek: bool = False,
    ) -> HandOver:
        return await self._db.run(
            deliveries.hand_over,
            me,
            limit=limit,
            max_chars=max_chars,
            by=self._process,
            via=via,
            at_least_one=at_least_one,
            peek=peek,
            held=self._held,
        )

    async def confirm(self, me: Address, message_ids: Sequence[int]) -> int:
        return await self._db.run(deliveries.confirm, me, message_ids, self._process)

    async def withdraw(self, me: Address, message_ids: Sequence[int]) -> int:
        return await self._db.run(deliveries.withdraw, me, message_ids, self._process)

    async def pass_on(self, me: Address, message_ids: Sequence[int], to: Process) -> int:
        return await self._db.run(deliveries.pass_on, me, message_ids, self._process, to)

    async def look(self, me: Address, *, limit: int, max_chars: int) -> HandOver:
        return await self._db.run(inboxes.look, me, limit=limit, max_chars=max_chars)

    async def acknowledge(self, me: Address, message_ids: Sequence[int], via: str) -> dict[int, DeliveryState]:
        return await self._db.run(inboxes.acknowledge, me, message_ids, via)

    async def waiting(self, me: Address) -> Waiting:
        return await self._db.run(deliveries.waiting, me, self._process, self._held)

    async def ring(self, client: str, *, idle: bool) -> tuple[Waiting, int] | None:
        return await self._db.run(deliveries.ring, client, idle=idle)

    async def recall_requests(self, me: Address) -> list[Message]:
        return await self._db.run(deliveries.recall_requests, me)

    async def message_status(self, me: Address, message_id: int) -> MessageStatus:
        return await self._db.run(messages.status, me, message_id)

    async def history(
        self, me: Address, *, search: str = "", thread: int | None = None, since: int = 0, limit: int = 20
    ) -> list[Message]:
        return await self._db.run(messages.history, me, search=search, thread=thread, since=since, limit=limit)

    # -- messages as the wires of the two earlier systems have them. No part of the contract: what a caller
    # -- elsewhere may read is decided by its grant, which it must not be the one to name.

    async def post(self, me: Address, draft: Draft, program: str) -> Message:
        """Send as `me`, who is enlisted in the same transaction; returns the message as it is stored."""
        await _check(draft)
        message, listeners = await self._db.run(feeds.post, me, draft, program)
        notices.announce(listeners)
        return message

    async def received(self, to: str, channel: str | None, since: float, limit: int, grant: Grant = ANYBODY) -> Feed:
        try:
            return await self._db.run(feeds.received, to, channel, since, limit, grant)
        except StoreFull:  # no room to note who was here: known readers go on reading
            return await self._db.run(feeds.received, to, channel, since, limit, grant, notes=False)

    async def posts(self, search: Search, grant: Grant = ANYBODY) -> list[Message]:
        try:
            return await self._db.run(feeds.posts, search, grant)
        except StoreFull:
            return await self._db.run(feeds.posts, search, grant, notes=False)

    async def ack(self, reader: Address, message_id: int) -> None:
        await self._db.run(feeds.ack, reader, message_id)

    async def unread(self, grant: Grant = ANYBODY) -> dict[Address, int]:
        """How much is unread for whom, as far as the grant permits."""
        return await self._db.run(feeds.unread, grant)

    async def stored(self, grant: Grant = ANYBODY) -> int:
        """How many messages there are on the channels that the grant permits."""
        return await self._db.run(feeds.stored, grant)

    # -- state

    async def set_state(
        self, me: Address, key: str, value: str, *, allow_secret: bool = False, **options: Unpack[Options]
    ) -> int:
        if not allow_secret and options.get("mode") != "delete":
            await refuse_secrets("value", rules.check_value(value))
        version, watchers = await self._db.run(state.write, me, key, value, **options)
        notices.announce(watchers)
        return version

    async def watch(self, address: str, channel: str, key: str) -> None:
        await self._db.run(state.watch, address, channel, key)

    async def unwatch(self, address: str, channel: str, key: str) -> None:
        await self._db.run(state.unwatch, address, channel, key)

    async def state_history(self, channel: str, key: str, limit: int) -> list[StateEntry]:
        return await self._db.run(state.history, channel, key, limit)

    async def get_state(self, channel: str, key: str) -> StateEntry | None:
        return await self._db.run(state.get_state, channel, key)

    async def latest_state(self, channel: str, key: str) -> StateEntry:
        return await self._db.run(state.latest, channel, key)

    async def list_state(self, channel: str, *, prefix: str = "", values: bool = False) -> list[StateEntry]:
        return await self._db.run(state.list_state, channel, prefix=prefix, values=values)

    # -- claims

    async def claim(
        self, me: Address, places: Places, *, ttl: float, shared: bool = False, reason: str = "", tree: str = ""
    ) -> list[Claim]:
        return await self._db.run(claims.claim, me, places, ttl=ttl, shared=shared, reason=reason, tree=tree)

    async def release(self, me: Address, places: Places | None) -> list[Place]:
        return await self._db.run(claims.release, me, places)

    async def standing(self, me: Address, places: Places, tree: str) -> list[Claim | None]:
        return await self._db.run(guard.standing, me, places, tree)

    async def take_away(self, me: Address, places: Places, reason: str) -> list[Place]:
        ended, listeners = await self._db.run(guard.take_away, me, places, reason)
        notices.announce(listeners)
        return ended

    async def edit(self, client: Client, place: Place, tree: str, policy: Guard) -> Verdict:
        verdict, listeners = await self._db.run(guard.edit, client, place, tree, policy)
        notices.announce(listeners)
        return verdict

    async def list_claims(self, channel: str) -> list[Claim]:
        return await self._db.run(claims.list_claims, channel)

    # -- messages as files have them

    async def chunks(self, me: Address, tag: str) -> list[Message]:
        return await self._db.run(parcels.chunks, me, tag)

    async def acknowledge_chunks(self, me: Address, message_ids: Sequence[int]) -> None:
        await self._db.run(parcels.acknowledge, me, message_ids)

    async def take_in(self, channel: str, letters: Sequence[Letter]) -> int:
        return await self._db.run(archive.take_in, channel, letters)

    async def give_out(self, channel: str, after: int, limit: int) -> list[Letter]:
        return await self._db.run(archive.give_out, channel, after, limit)

    # -- what happened

    async def events(self, channel: str, after: int, limit: int) -> list[Event]:
        return await self._db.run(events.since, after, channel, limit)

    async def last_event(self) -> int:
        return await self._db.run(events.last)

    async def changes(self, after: int) -> Changes:
        return await self._db.run(events.changes, after)

    # -- tokens, for the machine that serves the bus

    async def create_token(
        self, owner: str, names: Sequence[str], channels: Sequence[str], ttl: float | None
    ) -> tuple[Token, str]:
        """A new token and its secret, which nobody can be told again."""
        secret = f"bus_{secrets.token_urlsafe(32)}"
        return await self._db.run(tokens.create, owner, digest_of(secret), names, channels, ttl), secret

    async def list_tokens(self) -> list[Token]:
        return await self._db.run(tokens.listing)

    async def revoke_token(self, token: int) -> Token | None:
        return await self._db.run(tokens.revoke, token)

    async def keys(self) -> list[Key]:
        """The tokens that are valid now, by the digests of their secrets (`digest_of`)."""
        return await self._db.run(tokens.keys)

    async def has_tokens(self) -> bool:
        """Whether there is a valid token."""
        return await self._db.run(tokens.exist)

    # -- upkeep

    async def prune(self) -> None:
        """Forget what is past its retention. For a server to call now and then."""
        await self._db.run(_prune)

    async def close(self) -> None:
        await self._db.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()


async def _check(draft: Draft) -> None:
    """Raise unless the draft is one that may be stored, as far as that can be told without the database."""
    rules.check_draft(draft)
    if not draft.allow_secret:
        await refuse_secrets("content", draft.content)


def digest_of(secret: str) -> str:
    """By what a token is known. Who looks it up by that learns nothing of secrets from how long it takes.

    A token has 256 random bits: nothing slower than SHA-256 is needed to keep it.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _prune(tx: Transaction) -> None:
    before = tx.now - rules.RETENTION
    bindings.reap(tx)
    messages.prune(tx, before)
    events.prune(tx, before)
    state.prune(tx, before)
    claims.prune(tx)
    calls.prune(tx)
