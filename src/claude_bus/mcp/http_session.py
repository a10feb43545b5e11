"""A session whose client connects over HTTP: its identity, and the name it is listed under."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

from .. import addresses, grants, names, processes
from ..config import Config
from ..errors import BusError, NameTaken, NotRegistered
from ..local import LocalBus
from ..model.identity import Address, Client
from ..model.tokens import Grant
from ..session.membership import Membership
from ..session.presence import Presence
from ..sql import bindings, sessions
from ..workspace import RemoteWorkspace

_NAMELESS = "(http)"
"""Label of sessions whose token permits no neutral name. It is not a valid name, so it blocks no other session."""
_NO_HANDLE = (
    "this needs an identity, and the connection has none: add ?session=<handle> to the address of /mcp, or send "
    "the header Bus-Session: <handle>, with a handle of your own that stays the same"
)


def key_of(grant: Grant, identity: str) -> str:
    """Return the key of the participant that calls itself `identity` with this token.

    The journal shows keys, so the key must not reveal the id of an MCP session.
    """
    return f"http:{grant.token}:{hashlib.sha256(identity.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}"


class HttpMembership(Membership):
    """The membership of a participant whose client is remote; its conversation identifies it.

    `came` is called when the client reports another conversation than before.
    """

    def __init__(
        self,
        bus: LocalBus,
        config: Config,
        key: str,
        grant: Grant,
        came: Callable[[Membership], Awaitable[None]],
    ) -> None:
        channel = _home(grant, config.channel)
        client = Client(
            key, processes.this_process(), session_id=key, program="mcp", listed=_listed_name(grant, channel)
        )
        self._granted = bus.acting_for(client.process, grant)
        presence = Presence(self._granted, _of_a_client(config, channel), client, address=key)
        super().__init__(presence, RemoteWorkspace(key), grant)
        self._came = came

    async def follow(self, conversation: str) -> None:
        """Take the last name of this conversation, if it is free: its client reconnected, or it was resumed."""
        if not conversation:
            return
        if conversation != self.presence.client.session_id:
            self.presence.client = replace(self.presence.client, session_id=conversation)
            await self._came(self)
        with self.presence.unless_it_leaves():
            if not (self.presence.known or await self.presence.attach()).registered:
                await self._take_last_name(conversation)

    async def _take_last_name(self, conversation: str) -> None:
        who = await self._granted.run(bindings.last_name_of, conversation)
        if who:
            with contextlib.suppress(NameTaken):
                await self.bus.run(sessions.join, self.presence.client.key, who, "", None)
                await self.bus.run(bindings.forget, self.presence.client.key)  # nobody told the model


class NoMembership(Membership):
    """A caller without token, MCP session or handle: it may read, but never takes part."""

    def __init__(self, bus: LocalBus, config: Config, grant: Grant) -> None:
        client = Client(key_of(grant, ""), processes.this_process())
        presence = Presence(bus, _of_a_client(config, _home(grant, config.channel)), client)
        presence.absent = True
        super().__init__(presence, RemoteWorkspace(""), grant)

    def stranger(self) -> NotRegistered:
        return NotRegistered(_NO_HANDLE)

    def come_back(self) -> None:
        raise self.stranger()


def _of_a_client(config: Config, channel: str) -> Config:
    """Return the server's settings without those that describe a session."""
    return replace(config, name="", role="", channel=channel, share_prompts=False)


def _home(grant: Grant, wanted: str) -> str:
    """Return the channel that a session starts on: `wanted`, or one that the grant permits."""
    literal = [pattern for pattern in grant.channels if not addresses.is_name_glob(pattern)]
    candidates = [wanted, *literal, *(pattern.replace("*", "http") for pattern in grant.channels)]
    return next((channel for channel in candidates if grants.permits_channel(grant, channel)), wanted)


def _listed_name(grant: Grant, channel: str) -> str:
    """Return a neutral name that the grant permits, also with a number appended; otherwise an invalid label."""
    stems = ["http", *(f"{pattern[:-1]}http" for pattern in grant.names if pattern.endswith("*"))]
    return next(
        (stem for stem in stems if all(_permitted(grant, name, channel) for name in (stem, f"{stem}-2"))), _NAMELESS
    )


def _permitted(grant: Grant, name: str, channel: str) -> bool:
    try:
        return grants.permits(grant, Address(names.check_name(name), channel))
    except BusError:
        return False
