"""One session on the bus: who it is, what it was handed, when it is woken.

A door (the MCP tools and hook events) calls a `Session`; the session calls the bus.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Unpack

import anyio

from . import rows, rules, text, worktree
from .bus import Bus
from .config import Config
from .drivers.notices import Bell
from .errors import BusError, Forbidden, InvalidInput, NameTaken, NotRegistered, StoreFull, TooLarge, Unreachable
from .injection import injection
from .model import (
    ANYBODY,
    Address,
    Agent,
    Binding,
    Claim,
    Client,
    Draft,
    Grant,
    HandOver,
    Happening,
    Injection,
    Message,
    MessageStatus,
    Place,
    Reaction,
    Roster,
    Sent,
    StateEntry,
    Status,
    Verdict,
)
from .spelling import Budget
from .sql import agents, bindings, claims, deliveries, guard, messages, sessions, state
from .sql.state import Options
from .surroundings import Surroundings
from .turn import Turn
from .watch import Watch

REQUEST: ContextVar[int | str | None] = ContextVar("REQUEST", default=None)
"""The client's request that is being answered."""

_NOTHING = Injection()


class Session:
    """A participant behind one client process.

    `may_wake` tells for a permission mode whether the session may be woken in it; `hooked`
    says that hook events will come, before the first does. `grant` limits which names and
    channels it may use, `surroundings` are where its client runs. Mail is announced at
    `address`, or nowhere. `attended` says that a person looks at what the client prints,
    `lets_in` whether the client's settings let a ring in.
    """

    def __init__(
        self,
        bus: Bus,
        config: Config,
        client: Client,
        may_wake: Callable[[str], bool],
        *,
        hooked: bool = False,
        grant: Grant = ANYBODY,
        surroundings: Surroundings | None = None,
        address: str = "",
        attended: bool = False,
        lets_in: Callable[[], bool] = lambda: True,
    ) -> None:
        self.bus = bus
        self.client = replace(client, folder=worktree.presented(client.folder))
        self.config = config
        self.grant = grant
        self.surroundings = surroundings or Surroundings(client.folder)
        self.turn = Turn(hooked=hooked)
        self._arrived = anyio.Event()
        self.turn_ended = Bell()
        """Rings when a turn has ended with mail waiting that its doorbell owes a ring."""
        self.owes_ring = False
        self.bell_works = True
        """Whether the client took the last ring."""
        self._may_wake = may_wake
        self._attended = attended
        self._lets_in = lets_in
        self._address = address
        self._listens = False
        """Whether the bus knows that this server of the session runs, and where it listens."""
        self._left = False
        self._taken_up = False
        self._continuations = 0
        self._prolonged = False
        """The turn ended for a ring that goes on with it."""
        self._hops = 0
        self._announced = 0
        self._left_over = False
        """Mail that was not handed over at the last event."""
        self._warning = ""
        self._problem = ""
        self._program = ""
        self._bell = False
        """Whether it may be woken, as its last event said."""
        self._watch = Watch(bus, self.arrival)
        self._heard = time.monotonic()

    # -- who it is

    async def attach(self) -> Binding:
        """Take part, or find out that it already does. Called by whatever comes first."""
        binding = await self.bus.run(bindings.bound, self.client.key)
        if not binding or binding.process != self.client.process:
            self._listens = False
            binding = await self._attach_anew()
            if self._bell:  # it was given up; working until it says otherwise, as a working session is not rung
                await self.bus.run(bindings.observe, self.client.key, status="working", bell=True)
            elif self._may_wake(""):
                await self.bus.run(bindings.observe, self.client.key, bell=True)
        if not self._listens:
            await self._listen()
        self._take_up(binding)
        return binding

    async def _listen(self) -> None:
        with contextlib.suppress(StoreFull):  # no room to note it now
            await self.bus.run(sessions.listen, self._address, self.client.key)
            self._listens = True

    def _take_up(self, binding: Binding) -> None:
        """Go on where an earlier server of this session was killed."""
        if not self._taken_up:
            self._taken_up = True
            self.turn.take_up(binding.session_id, binding.prompt_id)

    async def _attach_anew(self) -> Binding:
        wanted = self._wanted()
        client = replace(self.client, session_id=self._conversation())
        try:
            binding = await self.bus.run(bindings.attach, client, wanted, self.config.channel)
        except (NameTaken, InvalidInput) as refused:
            self._warning = text.one_line(f"BUS_NAME: {refused.message}; register(name) to take part.", 400)
            return await self.bus.run(bindings.attach, client, None, self.config.channel)
        if wanted:
            binding, _, _ = await self.bus.run(sessions.join, self.client.key, wanted, self.config.role, None)
            await self.bus.run(bindings.forget, self.client.key)  # nobody told the model
        return binding

    async def listen_at(self, address: str) -> None:
        """Attach, and have mail announced at `address` from now on; "" for nowhere."""
        self._address, self._listens = address, False
        await self.attach()

    async def go_on_listening(self) -> None:
        """Listen, if that failed when it was due: the bus could not be reached, say."""
        if not self._listens and not self._left:
            await self.attach()

    async def beat(self) -> None:
        """Say that it lives. If others gave it up meanwhile (it was suspended for long, say), it comes back."""
        if self._left:
            return
        binding = await self.bus.run(bindings.bound, self.client.key)
        if not binding:
            await self.attach()
            return
        await self.bus.run(sessions.beat, self.client.key)
        if not binding.registered:
            await self._take_due_name()

    async def _take_due_name(self) -> None:
        """Take the name that the settings give and that was refused when the session began, if it is free now."""
        wanted = self._wanted()
        with contextlib.suppress(NameTaken, Forbidden, InvalidInput, TooLarge):  # as when it began
            if wanted:
                await self.bus.run(sessions.join, self.client.key, wanted, self.config.role, None)
                await self.bus.run(bindings.forget, self.client.key)  # nobody told the model
                self._warning = ""

    def _wanted(self) -> Address | None:
        """The name that the settings give the session."""
        return Address(self.config.name, self.config.channel) if self.config.name else None

    def _conversation(self) -> str:
        return self.turn.session_id or self.client.session_id

    async def close(self) -> None:
        """The client ended."""
        await self.bus.run(bindings.detach, self.client.key)

    def _stranger(self) -> NotRegistered:
        """What to tell it while it has no name."""
        return NotRegistered()

    async def _me(self) -> Address:
        """The registered name, or `NotRegistered`."""
        binding = await self._called()
        if not (binding and binding.registered):
            raise self._stranger()
        return binding.address

    async def _anyone(self) -> Address:
        """The name for verbs that need none: "" where the session has not registered."""
        binding = await self._called()
        if not binding:
            return Address("", self.config.channel)
        return binding.address if binding.registered else Address("", binding.address.channel)

    async def _reader(self) -> Address:
        """The name for looking back, registered or only listed."""
        binding = await self._called()
        return binding.address if binding else Address("", self.config.channel)

    async def _called(self) -> Binding | None:
        """A tool was called, which is a sign of life. None for a session that left."""
        self._heard = time.monotonic()
        if self._left:
            return None
        try:
            binding = await self._seen()
        except StoreFull:  # no room to note it: what only looks is answered all the same
            binding = await self.attach()
        self.turn.call()
        if self.turn.proven or self.turn.lost:
            with contextlib.suppress(StoreFull):
                await self._confirm(binding)
        return binding

    async def _seen(self, *, status: Status | None = None, session_id: str = "", program: str = "") -> Binding:
        """It gives a sign of life, and may say more of itself; whoever does not take part yet does now."""

        async def observe() -> Binding | None:
            return await self.bus.run(
                bindings.observe, self.client.key, status=status, session_id=session_id, program=program
            )

        binding = await observe()
        if binding and binding.process == self.client.process and self._listens:
            self._take_up(binding)
            return binding
        binding = await self.attach()
        await observe()
        return binding

    async def _confirm(self, binding: Binding) -> None:
        """Tell the store what is proven, and what is lost."""
        if self.turn.lost:
            await self.bus.run(deliveries.withdraw, binding.address, self.turn.lost)
        await self.bus.run(deliveries.confirm, binding.address, self.turn.proven)
        self.turn.settle()

    # -- the verbs, as this session uses them

    async def register(
        self, name: str, role: str = "", owns: list[str] | None = None, channel: str = ""
    ) -> tuple[Binding, Roster, int]:
        """Take a name; returns the binding, who else is here, and how much mail waits."""
        self._left = False
        binding = await self._called()
        if not binding:
            raise self._stranger()
        who = Address(
            rules.check_name(name.strip()),
            rules.check_name(channel, "channel") if channel else binding.address.channel,
        )
        rules.require(self.grant, who)
        globs = None if owns is None else rules.check_owns(self.surroundings.owned(owns))
        self._warning = ""
        return await self.bus.run(sessions.join, self.client.key, who, rules.check_line(role, "role"), globs)

    async def whoami(self) -> Binding | None:
        """The binding, also of a session that did not register; None after leaving."""
        return await self._called()

    async def leave(self) -> Address:
        me = await self._me()
        await self.bus.run(bindings.leave, self.client.key)
        self._left = True
        return me

    async def agents(self, within: float | None, channel: str) -> tuple[list[Agent], Address]:
        me = await self._anyone()
        where = rules.check_name(channel, "channel") if channel else me.channel
        return await self.bus.run(agents.listing, rules.require_channel(self.grant, where), within), me

    async def send(self, draft: Draft, paths: Sequence[str] = ()) -> Sent:
        """Send, with the files at `paths`; without a registered name only an answer to what was received goes out."""
        binding = await self._called()
        if not binding or not (binding.registered or draft.reply_to):
            raise self._stranger()
        rules.require_recipients(self.grant, draft.to, binding.address.channel)
        named = await self.surroundings.measured(paths)
        hops = self._hops if self.turn.hooked else 0
        return await self.bus.run(messages.send, binding.address, replace(draft, files=named, hops=hops))

    async def inbox(self, *, peek: bool = False, limit: int = 50) -> HandOver:
        """Unread mail; registered or not, but a session without either is told to register."""
        binding = await self._called()
        if not binding:
            raise self._stranger()
        found = await self._hand_over(binding, peek=peek, limit=limit)
        if not binding.registered and not found.messages:
            raise self._stranger()
        return found

    async def _hand_over(self, binding: Binding, *, peek: bool, limit: int) -> HandOver:
        """Hand over through a tool's answer."""
        found = await self.bus.run(
            deliveries.hand_over,
            binding.address,
            via="inbox",
            limit=limit,
            max_chars=text.INBOX_LIMIT,
            at_least_one=True,
            peek=peek,
        )
        if found.pending and not found.messages:
            return await self._hand_over_part(binding.address, peek=peek)
        if peek:
            return replace(found, messages=await self.surroundings.examined(found.messages))
        found = await self._unless_cancelled(binding.address, found)
        self.turn.handed_by_tool(self._got(found))
        return found

    async def _hand_over_part(self, me: Address, *, peek: bool) -> HandOver:
        """The next part of a message that no answer can carry; with the last one it is handed over."""
        found = await self._first(me, peek=True)
        if not found.messages:
            return found
        parts = rows.parts(found.messages[0])
        given = self.turn.parts_of(found.messages[0].id) % len(parts)
        if peek or given < len(parts) - 1:
            found = replace(found, messages=await self.surroundings.examined(found.messages))
        else:
            found = await self._hand_over_last(me, found.messages[0].id)
        if not peek and found.messages:
            self._hops = max(self._hops, found.messages[0].hops + 1)
            self.turn.give_part(REQUEST.get(), found.messages[0].id)
        more = "; inbox() gives the next" if given < len(parts) - 1 else ""
        part = replace(parts[given], part=parts[given].part + more)
        return replace(found, messages=tuple(replace(part, files=m.files) for m in found.messages))

    async def _hand_over_last(self, me: Address, message: int) -> HandOver:
        found = await self._unless_cancelled(me, await self._first(me, peek=False))
        if [m.id for m in found.messages] != [message]:  # it ran out meanwhile, and another one came
            await self.bus.run(deliveries.withdraw, me, [m.id for m in found.messages])
            return HandOver((), found.pending + len(found.messages))
        self.turn.handed_by_tool(self._got(found))
        return found

    async def _first(self, me: Address, *, peek: bool) -> HandOver:
        return await self.bus.run(
            deliveries.hand_over, me, via="inbox", limit=1, max_chars=rules.MAX_ANSWER, at_least_one=True, peek=peek
        )

    def _got(self, found: HandOver, *, told_once: bool = False) -> list[int]:
        """The request is answered with this mail. What the session says from now on may be owed to it."""
        self._hops = max([self._hops, *(message.hops + 1 for message in found.messages)])
        messages = [message.id for message in found.messages]
        if messages or told_once:
            self.turn.answer(REQUEST.get(), messages)
        return messages

    def gave_up(self, request: int | str) -> None:
        """The client had given this request up when its answer came."""
        self.turn.give_up(request)

    async def _unless_cancelled(self, me: Address, found: HandOver) -> HandOver:
        """What was handed over, its files looked at; an answer that will not be sent hands nothing over."""
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
            return replace(found, messages=await self.surroundings.examined(found.messages))
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self.bus.run(deliveries.withdraw, me, [message.id for message in found.messages])
            raise

    async def wait_for_change(self, key: str, version: int | None, timeout: float) -> list[StateEntry]:
        """The entry as soon as its version is another than `version` (by default today's), or
        nothing after `timeout` seconds. What was deleted or ran out has no value."""
        rules.check_seconds(timeout, "timeout", rules.MAX_WAIT)
        channel = (await self._anyone()).channel
        return await self._watch.change(self._address, channel, rules.check_key(key), version, timeout)

    async def wait(self, timeout: float) -> HandOver:
        """Like `inbox`, as soon as there is something, or empty after `timeout` seconds."""
        rules.check_seconds(timeout, "timeout", rules.MAX_WAIT)
        await self._me()
        with anyio.move_on_after(timeout):
            while True:
                arrived = self.arrival()
                found = await self.inbox()
                if found.messages:
                    return found
                await arrived.wait()
        return HandOver((), 0)

    async def introduce_client(self, program: str) -> None:
        """The client said which program and version it is."""
        if program != self._program and not self._left:
            self._program = program
            await self._seen(program=program)

    def silent_for(self) -> float:
        """Seconds since the session's last call or event."""
        return time.monotonic() - self._heard

    def mail_arrived(self) -> None:
        """Somebody said that mail was stored: whoever waits looks again."""
        self._arrived.set()
        self._arrived = anyio.Event()

    def arrival(self) -> anyio.Event:
        """What is set when mail, or a change that somebody waits for, comes next."""
        return self._arrived

    async def message_status(self, message_id: int) -> MessageStatus:
        return await self.bus.run(messages.status, await self._reader(), message_id)

    async def history(self, search: str, thread: int | None, since: int, limit: int, before: int = 0) -> list[Message]:
        me = await self._reader()
        found = await self.bus.run(
            messages.history, me, search=search, thread=thread, since=since, before=before, limit=limit
        )
        return [*await self.surroundings.examined(found)]

    async def set_state(self, key: str, value: str, *, allow_secret: bool = False, **options: Unpack[Options]) -> int:
        me = await self._anyone()
        return await self.bus.run(state.set_state, me, key, value, allow_secret=allow_secret, **options)

    async def get_state(self, key: str) -> list[StateEntry]:
        me = await self._anyone()
        if not key:
            return await self.bus.run(state.list_state, me.channel, values=True)
        entry = await self.bus.run(state.get_state, me.channel, key)
        return [entry] if entry else []

    async def state_history(self, key: str, limit: int) -> list[StateEntry]:
        """The newest versions of a key, newest first."""
        me = await self._anyone()
        return await self.bus.run(state.history, me.channel, rules.check_key(key), limit)

    async def list_state(self, prefix: str) -> list[StateEntry]:
        me = await self._anyone()
        return await self.bus.run(state.list_state, me.channel, prefix=prefix)

    async def claim(self, paths: list[str], *, ttl: float, shared: bool, reason: str) -> list[Claim]:
        me = await self._me()
        rules.check_place_count(len(paths))
        places = self._places(paths)
        root = self.client.folder.root
        granted = await self.bus.run(claims.claim, me, places, ttl=ttl, shared=shared, reason=reason, tree=root)
        seen = [self.surroundings.from_here(place) for place in places]
        return [replace(claim, scope=place.scope, path=place.path) for claim, place in zip(granted, seen, strict=True)]

    async def release(self, paths: list[str] | None, force: str = "") -> list[Place]:
        """Release own claims; with `force`, a reason, anybody's, whom it tells."""
        me = await self._me()
        places = None if paths is None else await self._held(me, paths, anybodys=bool(force))
        if not force:
            return self._as_from_here(places, await self.bus.run(claims.release, me, places))
        if places is None:
            raise InvalidInput("force needs a path: name the claims to end")
        return self._as_from_here(places, await self.bus.run(guard.take_away, me, places, force))

    def _as_from_here(self, asked: Sequence[Place] | None, ended: Sequence[Place]) -> list[Place]:
        seen = {place[:2]: self.surroundings.from_here(place) for place in asked or ()}
        return [seen.get(place[:2], place) for place in ended]

    def _places(self, paths: Sequence[str], budget: Budget | None = None) -> list[Place]:
        return [self.surroundings.claimed(path) for path in self.surroundings.understood(paths, "path", budget)]

    async def _held(self, me: Address, paths: Sequence[str], *, anybodys: bool) -> list[Place]:
        """The places to release. A path as `list_claims` shows a claim means that claim, unless it names another."""
        rules.check_place_count(len(paths))
        held = [c for c in await self.bus.run(claims.list_claims, me.channel) if anybodys or c.owner == me.name]
        shown = {self.shown(c.scope, c.path): Place(c.scope, c.path) for c in held}
        places: set[tuple[str, ...]] = {place[:2] for place in shown.values()}
        budget = Budget()
        return [place for path in paths for place in self._meant(places, shown, path, budget)]

    def _meant(self, held: set[tuple[str, ...]], shown: Mapping[str, Place], path: str, budget: Budget) -> list[Place]:
        try:
            places = self._places([path], budget)
        except InvalidInput:
            if path not in shown:
                raise
            return [shown[path]]
        return [shown[path]] if path in shown and not all(place[:2] in held for place in places) else places

    async def list_claims(self) -> list[Claim]:
        me = await self._anyone()
        return await self.bus.run(claims.list_claims, me.channel)

    def shown(self, scope: str, path: str) -> str:
        """A claim's path as this session would write it."""
        return self.surroundings.shown(scope, path)

    # -- hook events of the main conversation; those of subagents must not come here

    async def prompt(
        self, session_id: str, prompt_id: str, permission_mode: str, prompt: str = "", *, typed: bool = True
    ) -> Injection:
        """A prompt was submitted, `typed` by its user or pushed: what is new goes with it.

        Its words go nowhere unless the user shares them.
        """
        if self._left:
            return _NOTHING
        if not self._taken_up:
            await self.attach()
        if not self.turn.begins(session_id, prompt_id):
            await self.became("working", session_id)
            self._hops = 0 if typed else self._hops
            self._problem = ""
            return _NOTHING
        self._continuations = self._continuations if self._prolonged and not typed else 0
        self._prolonged = self.owes_ring = False
        self.turn.begin(session_id, prompt_id)
        doing = text.one_line(prompt, rules.MAX_DOING) if self.config.share_prompts else None
        found = await self._react(
            "prompt hook", session_id, permission_mode, prompt_id, begins=True, roster=True, doing=doing
        )
        self._hops = 0 if typed else self._hops
        self._problem = ""
        return found

    async def batch(
        self, session_id: str, permission_mode: str, prompt_id: str = "", *, worked: bool = True
    ) -> Injection:
        """A batch of tools is over: what came meanwhile goes into the next request.

        `worked`: not all of its tools were for talk.
        """
        if self._left:
            return _NOTHING
        self.owes_ring = False
        begins = await self._catch_up(session_id, prompt_id)
        self.turn.batch()
        self._hops = 0 if worked else self._hops
        return await self._react("tool hook", session_id, permission_mode, prompt_id, begins=begins)

    async def _catch_up(self, session_id: str, prompt_id: str) -> bool:
        """Begin a turn whose prompt this server was not told of: it proves nothing of those before."""
        if not self._taken_up:
            await self.attach()
        missed = bool(prompt_id) and self.turn.begins(session_id, prompt_id)
        if missed:
            self._continuations = 0
            self.turn.begin(session_id, prompt_id)
        return missed

    async def stop(self, session_id: str, permission_mode: str, prompt_id: str = "") -> Injection:
        """The model is about to end its turn: unread mail continues it, a few times at most.

        The client prints what continues a turn. Where a person would read that, and the session may be woken,
        the turn ends and the bell rings for the mail at once; where it may not, little is said.
        """
        if self._left:
            return _NOTHING
        begins = await self._catch_up(session_id, prompt_id)
        self.turn.stop()
        if self._continuations >= rules.MAX_CONTINUATIONS:
            await self._confirm(await self.attach())
            await self.became("idle", session_id)
            return _NOTHING
        rings = self._attended and self.bell_works and self._may_wake(permission_mode) and self._lets_in()
        space = 0 if rings else text.STOP_SPACE if self._attended else text.MAIL_SPACE
        found = await self._react(
            "stop hook", session_id, permission_mode, prompt_id, begins=begins, ends=True, space=space
        )
        self._prolonged = self.owes_ring = rings and not found and self._left_over
        self._continuations += bool(found) or self._prolonged
        if self.owes_ring:
            self.turn_ended.ring()
        return found

    async def failed(self, session_id: str) -> None:
        """The model could not be reached: what its request carried waits again, and may ring again."""
        if not self._left:
            self.turn.fail()
            await self._confirm(await self.attach())
            await self.became("idle", session_id)

    async def edit(self, path: str) -> Verdict:
        """A file is about to be edited, by the session or a subagent: what stands against it."""
        if self._left or self.config.guard == "off" or not 0 < len(path) <= rules.MAX_PATH_ON_DISK:
            return Verdict("pass")
        self._heard = time.monotonic()
        await self.attach()
        target, tree = self.surroundings.edited(path)
        return await self.bus.run(guard.edit, self.client, target, tree, self.config.guard)

    async def became(self, status: Status, session_id: str = "") -> None:
        """The client reported another presence."""
        if not self._left:
            self._heard = time.monotonic()
            await self._seen(status=status, session_id=session_id)

    def first_time(self, error: BusError) -> bool:
        """Whether the user has not been told of this problem yet. It is over with a prompt that goes through."""
        problem = error.code if isinstance(error, Unreachable) else error.message  # which tells when, and how
        new, self._problem = problem != self._problem, problem
        return new

    async def compacted(self) -> None:
        """The conversation was summarized; it may have lost who it is."""
        await self.bus.run(bindings.forget, self.client.key)

    async def _react(
        self,
        via: str,
        session_id: str,
        permission_mode: str,
        prompt_id: str = "",
        *,
        begins: bool = False,
        roster: bool = False,
        doing: str | None = None,
        ends: bool = False,
        space: int = text.MAIL_SPACE,
    ) -> Injection:
        """Let an event happen; returns what is new, in the words the model reads."""
        self._heard = time.monotonic()
        self._bell = self._may_wake(permission_mode)
        happening = Happening(
            via,
            space,
            session_id,
            prompt_id,
            begins,
            self._bell,
            proven=tuple(self.turn.proven),
            lost=tuple(self.turn.lost),
            announced=self._announced,
            roster=roster,
            doing=doing,
            ends=ends,
            again=self.turn.once.again,
            recalled=tuple(self.turn.once.recalled),
        )
        try:
            reaction = await self._happened(happening)
        except BaseException:  # the store may have done it all
            self.turn.once.miss()
            raise
        if not reaction:
            return _NOTHING
        mail = reaction.mail
        self._left_over = mail.pending > 0
        self.turn.handed_by_hook([*mail.unproven, *self._got(mail, told_once=reaction.told_once)])
        if reaction.told_once:
            self.turn.once.carry([request.id for request in reaction.requests])
        self._announced = mail.next_id if mail.messages or reaction.announce else self._announced
        warning, self._warning = self._warning, ""
        return injection(reaction, warning)

    async def _happened(self, happening: Happening) -> Reaction | None:
        """Tell the store; returns what it led to, with the files of the mail looked at."""
        reaction = await self.bus.run(sessions.react, self.client, happening)
        if not reaction:
            await self.attach()
            reaction = await self.bus.run(sessions.react, self.client, happening)
        if not reaction:
            return None
        self.turn.settle()
        self.turn.once.settle()
        return replace(reaction, mail=await self._unless_cancelled(reaction.address, reaction.mail))
