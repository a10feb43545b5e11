"""One session on the bus, as the tools of its model and the hooks of its client use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from .. import grants, limits, names, state_values
from ..model.claims import Claim, ClaimTarget, Verdict
from ..model.identity import Address, Agent, Binding, Client, Roster
from ..model.messages import Draft, HandOver, History, MessageStatus, Sent
from ..model.state import StateEntry
from ..sql import agents, claims, messages, state
from ..sql.state import Options
from ..workspace import Workspace
from .claims import Claims
from .conversation import Conversation
from .inbox import Inbox
from .membership import Membership
from .presence import SignedBus
from .waiting import WaitingCalls


class Session:
    """A participant: its membership, the mail that its model received, and its waiting calls.

    A transport calls its methods when the model calls a tool, and its `conversation` when a
    hook reports an event.
    """

    def __init__(self, membership: Membership, conversation: Conversation, waiting: WaitingCalls) -> None:
        self.bus = membership.bus
        self.presence = membership.presence
        self.membership = membership
        self.conversation = conversation
        self.waiting = waiting
        self._inbox = Inbox(membership, conversation)
        self._claims = Claims(membership)

    @classmethod
    def of(cls, membership: Membership) -> Session:
        """Return a session with a new conversation and no waiting calls."""
        return cls(membership, Conversation(membership), WaitingCalls(membership))

    @property
    def client(self) -> Client:
        return self.presence.client

    @property
    def workspace(self) -> Workspace:
        """The workspace that its client runs in."""
        return self.membership.workspace

    # -- identity

    async def register(
        self, name: str, role: str = "", owns: list[str] | None = None, channel: str = ""
    ) -> tuple[Binding, Roster, int]:
        """Take a name; return the binding, the roster of the channel, and the number of unread messages."""
        return await self.membership.register(name, role, owns, channel)

    async def whoami(self) -> Binding | None:
        """Return the binding, even if the session is not registered; None after leaving."""
        return await self.membership.whoami()

    async def leave(self) -> Address:
        """Give up the name; return it."""
        return await self.membership.leave()

    async def agents(self, within: float | None, channel: str) -> tuple[list[Agent], Address]:
        """Return the agents on a channel, by default the session's own, and the caller's address."""

        async def listing(bus: SignedBus, me: Address) -> tuple[list[Agent], Address]:
            where = names.check_name(channel, "channel") if channel else me.channel
            return await bus.run(agents.listing, grants.require_channel(self.membership.grant, where), within), me

        return await self.membership.as_anyone(listing)

    # -- messages

    async def send(self, draft: Draft, paths: Sequence[str] = ()) -> Sent:
        """Send, with the files at `paths`; a session without a registered name can only reply to a message."""

        async def send(bus: SignedBus, me: Address) -> Sent:
            grants.require_recipients(self.membership.grant, draft.to, me.channel)
            named = await self.workspace.measured(paths)
            return await bus.run(messages.send, me, replace(draft, files=named, hops=self.conversation.hops))

        may_send = self.membership.as_answering if draft.reply_to else self.membership.as_registered
        return await may_send(send)

    async def inbox(self, *, peek: bool = False, limit: int = 50) -> HandOver:
        """Return unread mail. Raises `NotRegistered` if the session has neither mail nor a registered name."""
        return await self._inbox.read(peek=peek, limit=limit)

    async def wait(self, timeout: float) -> HandOver:
        """Like `inbox`, as soon as mail arrives; empty after `timeout` seconds."""
        limits.check_seconds(timeout, "timeout", limits.MAX_WAIT)
        return await self.waiting.for_mail(self._inbox.read_registered, timeout)

    async def message_status(self, message_id: int) -> MessageStatus:
        """How far a message is that the session sent or received."""
        return await self.membership.as_reader(lambda bus, me: bus.run(messages.status, me, message_id))

    async def history(self, search: str, thread: int | None, since: int, limit: int, before: int = 0) -> History:
        """Return earlier messages, with the state of their files."""
        found = await self.membership.as_reader(
            lambda bus, me: bus.run(
                messages.look_back, me, search=search, thread=thread, since=since, before=before, limit=limit
            )
        )
        return replace(found, messages=tuple(await self.workspace.examined(found.messages)))

    # -- shared state

    async def set_state(self, key: str, value: str, *, allow_secret: bool = False, **options: Unpack[Options]) -> int:
        """Write an entry of the session's channel; return its version."""
        return await self.membership.as_anyone(
            lambda bus, me: bus.run(state.set_state, me, key, value, allow_secret=allow_secret, **options)
        )

    async def get_state(self, key: str) -> list[StateEntry]:
        """Return the entry with this key, if there is one; without a key all entries of the channel."""
        if not key:
            return await self.membership.as_anyone(lambda bus, me: bus.run(state.list_state, me.channel, values=True))
        entry = await self.membership.as_anyone(lambda bus, me: bus.run(state.get_state, me.channel, key))
        return [entry] if entry else []

    async def state_with_history(self, key: str, limit: int) -> tuple[list[StateEntry], list[StateEntry]]:
        """Return the entry with this key, if there is one, and the newest versions of it, newest first."""
        state_values.check_key(key)
        entry, versions = await self.membership.as_anyone(
            lambda bus, me: bus.run(state.with_history, me.channel, key, limit)
        )
        return [entry] if entry else [], versions

    async def list_state(self, prefix: str) -> list[StateEntry]:
        """Return the entries of the channel, without their values."""
        return await self.membership.as_anyone(lambda bus, me: bus.run(state.list_state, me.channel, prefix=prefix))

    async def wait_for_change(self, key: str, version: int | None, timeout: float) -> list[StateEntry]:
        """Return the entry as soon as its version differs from `version` (by default the current one).

        Returns nothing after `timeout` seconds. An entry that was deleted or expired has no value.
        """
        return await self.waiting.for_change(key, version, timeout)

    # -- claims

    async def claim(self, paths: list[str], *, ttl: float, shared: bool, reason: str) -> list[Claim]:
        """Claim all of these paths, or none; return the claims as seen from the session's folder."""
        return await self._claims.claim(paths, ttl=ttl, shared=shared, reason=reason)

    async def release(self, paths: list[str] | None, force: str = "") -> list[ClaimTarget]:
        """Release the session's own claims; with `force`, a reason, any agent's, who is notified."""
        return await self._claims.release(paths, force)

    async def list_claims(self) -> list[Claim]:
        """Return all claims of the channel."""
        return await self.membership.as_anyone(lambda bus, me: bus.run(claims.list_claims, me.channel))

    def shown(self, scope: str, path: str) -> str:
        """Return a claim's path as this session would write it."""
        return self.workspace.shown(scope, path)

    async def edit(self, path: str) -> Verdict:
        """Return whether the session or a subagent may edit a file, and the claim that conflicts."""
        return await self._claims.edit(path)
