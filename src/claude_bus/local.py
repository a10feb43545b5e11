"""`LocalBus`: the bus in a database of this machine."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, Self, TypeVar, Unpack

from . import rules
from .bus import Ear
from .detector import refuse_secrets
from .drivers import notices
from .drivers.sqlite import Database, Verb
from .errors import StoreFull, TooLarge
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
    HookReport,
    HookResult,
    Key,
    Letter,
    Message,
    MessageStatus,
    Place,
    Process,
    Roster,
    Search,
    Sent,
    Standing,
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
    silence,
    state,
    tokens,
)
from .sql.claims import Places
from .sql.deliveries import Held
from .sql.state import Options
from .sql.transaction import Transaction

P = ParamSpec("P")
T = TypeVar("T")
_AT_ONCE = rules.MAX_PLACES
"""Places that are judged in one transaction."""
Step = Callable[[Transaction], None]
"""What is done in the transaction of a verb, before it."""


@dataclass(frozen=True, slots=True)
class Acting:
    """On whose behalf the verbs of a bus are run."""

    grant: Grant = ANYBODY
    """Asked where a verb chooses: names of sessions, hints. That it permits what is named, the caller has seen to."""
    held: Held | None = None
    """What a process elsewhere has in its hands; see `deliveries.take_back`."""
    first: Step | None = None
    first_if_full: Step | None = None
    """Instead of `first` where a verb only looks, and the disk has no room for that."""


class LocalBus:
    """The bus in a database of this machine.

    `process` is the one that hands mail over; `rate` how many messages a session may
    send per minute (0: any number).
    """

    def __init__(self, database: Database, process: Process, rate: int = 0, acting: Acting = Acting()) -> None:
        self._db = database
        self._process = process
        self._rate = rate
        self._acting = acting

    def acting_for(
        self, process: Process, grant: Grant, held: Held | None = None, permit: Step | None = None
    ) -> LocalBus:
        """This bus for a process elsewhere, in whose hands is what is handed over; see `deliveries.take_back`.

        Sessions that attach get names that the grant permits. `permit` is asked in the transaction of every
        verb and raises if the caller may not. Whoever calls verbs with an address has made sure that the
        grant permits it.
        """
        return LocalBus(self._db, process, self._rate, Acting(grant, held, permit))

    def acting_as(self, who: Address, program: str, grant: Grant) -> LocalBus:
        """This bus for a program that acts as `who`, which the grant permits: every verb enlists it, in the same
        transaction."""

        def enlist(tx: Transaction) -> None:
            agents.enlist(tx, who, program, grant=grant)

        return self._as(replace(self._acting, grant=grant, first=enlist))

    def looking_as(self, who: Address, program: str, grant: Grant = ANYBODY) -> LocalBus:
        """The same for a program that only looks, which is noted now and then, unless the disk is full."""

        def notice(tx: Transaction, *, notes: bool = True) -> None:
            agents.notice(tx, who, program, notes=notes, grant=grant)

        return self._as(replace(self._acting, first=notice, first_if_full=partial(notice, notes=False)))

    def _as(self, acting: Acting) -> LocalBus:
        return LocalBus(self._db, self._process, self._rate, acting)

    async def _run(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._db.run(_after(self._acting.first, verb), *args, **kwargs)

    async def _note(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that says who is present, and nothing else."""
        return await self._db.note(_after(self._acting.first, verb), *args, **kwargs)

    async def _look(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb that seldom writes."""
        try:
            return await self._db.look(_after(self._acting.first, verb), *args, **kwargs)
        except StoreFull:
            if not self._acting.first_if_full:
                raise
            return await self._db.look(_after(self._acting.first_if_full, verb), *args, **kwargs)

    # -- sessions

    async def attach(self, client: Client, wanted: Address | None, channel: str) -> Binding:
        return await self._run(bindings.attach, client, wanted, channel, self._acting.grant)

    async def register(
        self, client: str, who: Address, role: str, owns: tuple[str, ...] | None
    ) -> tuple[Binding, Roster, int]:
        return await self._run(sessions.join, client, who, role, owns)

    async def enlist(
        self,
        who: Address,
        program: str,
        role: str = "",
        owns: tuple[str, ...] | None = None,
        grant: Grant | None = None,
    ) -> None:
        await self._run(agents.enlist, who, program, role, owns, grant or self._acting.grant)

    async def delist(self, who: Address) -> None:
        await self._run(agents.delist, who)

    async def resume(self, client: Client) -> Binding | None:
        return await self._look(bindings.resume, client, self._acting.grant)

    async def binding(self, client: str) -> Binding | None:
        return await self._look(bindings.bound, client)

    async def borne(self, session_id: str) -> Address | None:
        return await self._look(bindings.borne, session_id, self._acting.grant)

    async def detach(self, client: str) -> None:
        await self._run(bindings.detach, client, self._process)

    async def leave(self, client: str) -> None:
        await self._run(bindings.leave, client)

    async def observe(
        self,
        client: str,
        *,
        status: Status | None = None,
        session_id: str = "",
        bell: bool | None = None,
        program: str = "",
    ) -> Binding | None:
        # After a power cut nobody is present; but a conversation that is resumed then finds its name by its id.
        run = self._run if session_id else self._note
        return await run(bindings.observe, client, status=status, session_id=session_id, bell=bell, program=program)

    async def react(self, client: Client, happening: HookReport) -> HookResult | None:
        return await self._run(sessions.react, client, happening, self._process, self._acting.held)

    async def forget(self, client: str) -> None:
        await self._run(bindings.forget, client)

    async def announce_call(self, client: str, call: str, agent_id: str) -> None:
        await self._run(calls.announce, client, call, agent_id)

    async def caller(self, client: str, call: str) -> str:
        return await self._look(calls.caller, client, call)

    async def heartbeat(self, client: str) -> None:
        await self._note(sessions.beat, client, self._process, self._acting.grant)

    async def listen(self, address: str, client: str) -> None:
        await self._run(sessions.listen, client, address, self._process)

    async def listen_for(self, address: str, me: Address) -> None:
        await self._run(listeners.listen_for, address, me, self._process)

    async def unlisten(self, address: str) -> None:
        await self._run(listeners.unlisten, address)

    async def server_of(self, client: str) -> Process | None:
        return await self._look(listeners.server_of, client)

    def ear(self) -> AbstractAsyncContextManager[Ear]:
        """Where this process can be told of mail; its address goes to `listen`."""
        return notices.ear()

    def pulse(self) -> object:
        """A cheap value that changes when anybody stores something."""
        return self._db.pulse()

    # -- who is here

    async def agents(self, channel: str, within: float | None = None) -> list[Agent]:
        return await self._look(agents.listing, channel, within)

    # -- messages

    async def send(self, me: Address, draft: Draft) -> Sent:
        await _check(draft)
        sent, listeners = await self._run(messages.send, me, draft, self._rate, self._acting.grant)
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
        return await self._run(
            deliveries.hand_over,
            me,
            limit=limit,
            max_chars=max_chars,
            by=self._process,
            via=via,
            at_least_one=at_least_one,
            peek=peek,
            held=self._acting.held,
        )

    async def confirm(self, me: Address, message_ids: Sequence[int]) -> int:
        return await self._run(deliveries.confirm, me, message_ids, self._process)

    async def withdraw(self, me: Address, message_ids: Sequence[int]) -> int:
        return await self._run(deliveries.withdraw, me, message_ids, self._process)

    async def pass_on(self, me: Address, message_ids: Sequence[int], to: Process) -> int:
        return await self._run(deliveries.pass_on, me, message_ids, self._process, to)

    async def look(self, me: Address, *, limit: int, max_chars: int) -> HandOver:
        return await self._look(inboxes.look, me, limit=limit, max_chars=max_chars)

    async def acknowledge(self, me: Address, message_ids: Sequence[int], via: str) -> dict[int, DeliveryState]:
        return await self._run(inboxes.acknowledge, me, message_ids, via)

    async def waiting(self, me: Address) -> Waiting:
        return await self._look(deliveries.waiting, me, self._process, self._acting.held)

    async def ring(self, client: str, *, idle: bool, owed: bool = False) -> tuple[Waiting, int] | None:
        return await self._look(deliveries.ring, client, idle=idle, owed=owed)

    async def message_status(self, me: Address, message_id: int) -> MessageStatus:
        return await self._run(messages.status, me, message_id)

    async def history(
        self,
        me: Address,
        *,
        search: str = "",
        thread: int | None = None,
        since: int = 0,
        before: int = 0,
        limit: int = 20,
    ) -> list[Message]:
        return await self._look(
            messages.history, me, search=search, thread=thread, since=since, before=before, limit=limit
        )

    # -- messages as the wires of the two earlier systems have them. No part of the contract: what a caller
    # -- elsewhere may read is decided by its grant, which it must not be the one to name.

    async def post(self, me: Address, draft: Draft, program: str, grant: Grant = ANYBODY) -> Message:
        """Send as `me`, who is enlisted in the same transaction; returns the message as it is stored."""
        await _check(draft)
        message, listeners = await self._run(feeds.post, me, draft, program, grant)
        notices.announce(listeners)
        return message

    async def received(self, to: str, channel: str | None, since: float, limit: int, grant: Grant = ANYBODY) -> Feed:
        try:
            return await self._look(feeds.received, to, channel, since, limit, grant)
        except StoreFull:  # no room to note who was here: known readers go on reading
            return await self._look(feeds.received, to, channel, since, limit, grant, notes=False)

    async def posts(self, search: Search, grant: Grant = ANYBODY) -> list[Message]:
        try:
            return await self._look(feeds.posts, search, grant)
        except StoreFull:
            return await self._look(feeds.posts, search, grant, notes=False)

    async def ack(self, reader: Address, message_id: int, grant: Grant = ANYBODY) -> None:
        await self._run(feeds.ack, reader, message_id, grant)

    async def unread(self, grant: Grant = ANYBODY) -> dict[Address, int]:
        """How much is unread for whom, as far as the grant permits."""
        return await self._look(feeds.unread, grant)

    async def stored(self, grant: Grant = ANYBODY) -> int:
        """How many messages there are on the channels that the grant permits."""
        return await self._look(feeds.stored, grant)

    # -- state

    async def set_state(
        self, me: Address, key: str, value: str, *, allow_secret: bool = False, **options: Unpack[Options]
    ) -> int:
        if options.get("mode") != "delete":
            rules.check_value(value)
            if options.get("json"):
                rules.check_json(value)
            if not allow_secret:
                await refuse_secrets("value", value)
        version, watchers = await self._run(state.write, me, key, value, **options)
        notices.announce(watchers)
        return version

    async def watch(self, address: str, channel: str, key: str) -> None:
        await self._run(state.watch, address, channel, key)

    async def unwatch(self, address: str, channel: str, key: str) -> None:
        await self._run(state.unwatch, address, channel, key)

    async def state_history(self, channel: str, key: str, limit: int, before: int = 0) -> list[StateEntry]:
        return await self._look(state.history, channel, key, limit, before)

    async def get_state(self, channel: str, key: str) -> StateEntry | None:
        return await self._look(state.get_state, channel, key)

    async def latest_state(self, channel: str, key: str) -> StateEntry:
        return await self._look(state.latest, channel, key)

    async def list_state(self, channel: str, *, prefix: str = "", values: bool = False) -> list[StateEntry]:
        return await self._look(state.list_state, channel, prefix=prefix, values=values)

    # -- claims

    async def claim(
        self, me: Address, places: Places, *, ttl: float, shared: bool = False, reason: str = "", tree: str = ""
    ) -> list[Claim]:
        return await self._run(claims.claim, me, places, ttl=ttl, shared=shared, reason=reason, tree=tree)

    async def release(self, me: Address, places: Places | None) -> list[Place]:
        return await self._run(claims.release, me, places)

    async def standing(self, me: Address, places: Places, tree: str) -> list[Standing]:
        """As `guard.standing`, some places at a time: a commit may have any number, and others want to write.

        A place that is by itself too much to compare with all claims is `unchecked`.
        """
        found: list[Standing] = []
        for at in range(0, len(places), _AT_ONCE):
            found += await self._standing(me, places[at : at + _AT_ONCE], tree)
        return found

    async def _standing(self, me: Address, places: Places, tree: str) -> list[Standing]:
        """In as many looks as it takes: what is too much to compare together is not too much in parts."""
        try:
            return [*await self._look(guard.standing, me, places, tree)]
        except TooLarge:
            half = len(places) // 2
            if not half:
                return ["unchecked"]
        return [*await self._standing(me, places[:half], tree), *await self._standing(me, places[half:], tree)]

    async def take_away(self, me: Address, places: Places, reason: str) -> list[Place]:
        ended, listeners = await self._run(guard.take_away, me, places, reason)
        notices.announce(listeners)
        return ended

    async def edit(self, client: Client, place: Place, tree: str, policy: Guard) -> Verdict:
        verdict, listeners = await self._run(guard.edit, client, place, tree, policy)
        notices.announce(listeners)
        return verdict

    async def list_claims(self, channel: str) -> list[Claim]:
        return await self._look(claims.list_claims, channel)

    # -- messages as files have them

    async def chunks(self, me: Address, tag: str) -> list[Message]:
        return await self._look(parcels.chunks, me, tag)

    async def acknowledge_chunks(self, me: Address, message_ids: Sequence[int]) -> None:
        await self._run(parcels.acknowledge, me, message_ids)

    async def take_in(self, channel: str, letters: Sequence[Letter]) -> int:
        return await self._run(archive.take_in, channel, letters)

    async def give_out(self, channel: str, after: int, limit: int) -> list[Letter]:
        return await self._look(archive.give_out, channel, after, limit)

    # -- what happened

    async def events(self, channel: str, after: int, limit: int) -> list[Event]:
        return await self._look(events.since, after, channel, limit)

    async def last_event(self) -> int:
        return await self._look(events.last)

    async def changes(self, after: int) -> Changes:
        return await self._look(events.changes, after)

    # -- tokens, for the machine that serves the bus

    async def create_token(
        self, owner: str, names: Sequence[str], channels: Sequence[str], ttl: float | None, *, in_url: bool = False
    ) -> tuple[Token, str]:
        """A new token and its secret, which nobody can be told again."""
        secret = f"bus_{secrets.token_urlsafe(32)}"
        return await self._run(tokens.create, owner, digest_of(secret), names, channels, ttl, in_url=in_url), secret

    async def list_tokens(self) -> list[Token]:
        return await self._look(tokens.listing)

    async def revoke_token(self, token: int) -> Token | None:
        return await self._run(tokens.revoke, token)

    async def keys(self) -> list[Key]:
        """The tokens that are valid now, by the digests of their secrets (`digest_of`)."""
        return await self._look(tokens.keys)

    async def has_tokens(self) -> bool:
        """Whether there is a valid token."""
        return await self._look(tokens.exist)

    # -- upkeep

    async def prune(self) -> None:
        """Forget what is past its retention. For a server to call now and then."""
        await self._run(_prune)

    async def close(self) -> None:
        await self._db.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()


def _after(first: Step | None, verb: Verb[P, T]) -> Verb[P, T]:
    """A step and then the verb, in one transaction."""
    if not first:
        return verb

    def both(tx: Transaction, /, *args: P.args, **kwargs: P.kwargs) -> T:
        first(tx)
        return verb(tx, *args, **kwargs)

    return both


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
    claims.prune(tx)
    silence.settle(tx)
    messages.prune(tx, before)
    silence.forget(tx)
    events.prune(tx, before)
    state.prune(tx, before)
    calls.prune(tx)
