"""The other end of `remote.bus.RemoteBus`: the verbs of the bus for sessions and commands elsewhere.

`POST /rpc/<verb>` runs one verb, `GET /rpc/ear` says when to look. It is what two
claude-bus programs speak, and no promise to others; those have `/v1`.

A caller's sessions, processes and listeners are kept apart from all others' by the owner
of its token: it can name none but its own. Names and channels must be what the token
permits, and nobody can act as a live session that is not one of the caller's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from .. import __version__, rules
from ..errors import Forbidden, InvalidInput, NotFound, RateLimited
from ..model import Address, Binding, Client, Draft, Grant, Process
from ..remote import codec
from ..sql import bindings, calls, listeners, state
from ..sql.transaction import Transaction
from . import hub, said
from .service import Service, grant_of

KEEP_ALIVE = 15.0
"""Seconds after which an ear is told that nothing came."""
RING, NOTHING = b"ring\n", b".\n"
MAX_NOTES = {"listen": 2_000, "listen_for": 2_000, "watch": 5_000, "announce_call": 100_000}
"""Rows that programs of one owner's tokens may have with these verbs: who listens, for which keys, who calls."""
MAX_SESSIONS = 1_000
"""Sessions of one owner's tokens at once, subagents with names of their own included."""
_BEGINS = frozenset({"attach", "resume"})
"""Verbs with which a session may begin."""
_NAMELESS = frozenset({"set_state", "message_status", "history", "standing"})
"""Verbs for which a session needs no name."""


def routes(service: Service) -> list[BaseRoute]:
    async def call(request: Request) -> Response:
        return await _call(service, grant_of(request), request.path_params["verb"], await request.body())

    async def ear(request: Request) -> Response:
        scope = Scope(grant_of(request))
        address = request.query_params.get("address", "")
        if not address:
            raise InvalidInput("address is missing: say at which one the session listens")
        return StreamingResponse(_rings(service, scope.address(address)), media_type="text/plain")

    return [Route("/rpc/ear", ear, methods=["GET"]), Route("/rpc/{verb}", call, methods=["POST"])]


async def _call(service: Service, grant: Grant, name: str, body: bytes) -> Response:
    """Run one verb on the caller's behalf."""
    try:
        verb = codec.verb(name)
    except KeyError:
        raise NotFound(f"claude-bus {__version__}, which serves here, has no verb '{name[:80]}'") from None
    call = verb.called(body)
    scope = Scope(grant)
    arguments = {name: scope.inward(name, value) for name, value in call.arguments.items()}
    said.check({**arguments, "process": call.process})
    permission = _Permission(grant, scope, name)
    permission.check(arguments)
    bus = service.bus.acting_for(scope.process(call.process), grant, frozenset(call.held), permission.check_stored)
    answer = await getattr(bus, name)(**arguments)
    return Response(verb.answer(scope.outward(answer)), media_type="application/json")


async def _rings(service: Service, address: str) -> AsyncIterator[bytes]:
    """A line whenever the session should look, and now and then one to say that the line stands."""
    with service.hub.bell(hub.listener(address)) as bell:
        yield RING  # whatever came before this stood
        while True:
            yield RING if await bell.rung(KEEP_ALIVE) else NOTHING


_NOTES: dict[str, Callable[[Transaction, str], int]] = {
    "listen": listeners.count,
    "listen_for": listeners.count,
    "watch": state.watched,
    "announce_call": calls.count,
}


def _named(client: str) -> str:
    """A client's key: without one a caller would speak for all there are."""
    if not client:
        raise InvalidInput("client is empty: name the session whose mail or presence it is")
    return client


class Scope:
    """What the programs of one token's owner call theirs, as the store knows it.

    The store's spelling begins with the owner between two `@`, which no name holds.
    """

    def __init__(self, grant: Grant) -> None:
        self._mark = f"@{grant.owner}@"

    def sessions(self, tx: Transaction) -> int:
        """How many there are."""
        return bindings.count(tx, self._mark)

    def notes(self, tx: Transaction, verb: str) -> int:
        """How many rows there are of those that a verb makes; 0 for a verb that is not limited like this."""
        count = _NOTES.get(verb)
        return count(tx, self._mark) if count else 0

    def has(self, binding: Binding) -> bool:
        """Whether it is a session of this owner's."""
        return binding.client.startswith(self._mark)

    def address(self, address: str) -> str:
        return self._mark + address if address else ""

    def process(self, process: Process) -> Process:
        return replace(process, host=self._mark + process.host)

    def inward(self, name: str, value: Any) -> Any:
        """An argument as the store knows it."""
        if isinstance(value, Client):
            session = self._mark + value.session if value.session else ""
            return replace(
                said.as_shown(value), key=self._mark + value.key, process=self.process(value.process), session=session
            )
        if isinstance(value, Process):
            return self.process(value)
        if name in ("client", "address"):
            return self.address(value)
        return value

    def outward(self, value: Any) -> Any:
        """An answer as the caller knows it."""
        if isinstance(value, tuple) and type(value) is tuple:
            return tuple(map(self.outward, value))
        if isinstance(value, Binding):
            return replace(value, client=self._bare(value.client), process=self.outward(value.process))
        if isinstance(value, Process):
            return replace(value, host=self._bare(value.host))
        return value

    def _bare(self, text: str) -> str:
        return text.removeprefix(self._mark)


class _Permission:
    """Whether the caller may make a call with these arguments: each kind of argument has its rule.

    What depends on who is who is checked in the verb's own transaction: nobody takes a name
    in between.
    """

    def __init__(self, grant: Grant, scope: Scope, verb: str) -> None:
        self._grant = grant
        self._scope = scope
        self._verb = verb
        self._nameless = verb in _NAMELESS
        self._begins = verb in _BEGINS
        self._acting: list[Address] = []
        self._sessions: list[str] = []

    def check(self, arguments: dict[str, Any]) -> None:
        """Raise `Forbidden` for what the caller may not do, `InvalidInput` for what nobody can be."""
        for name, value in arguments.items():
            if isinstance(value, Address):
                self._be(value, acts=name == "me")
            elif isinstance(value, Draft):
                rules.require_recipients(self._grant, value.to, arguments["me"].channel)
            elif isinstance(value, Client):
                self._attach(value)
            elif name == "client":
                self._sessions.append(_named(value))
            elif name == "channel":
                rules.require_channel(self._grant, rules.check_name(value, "channel"))

    def _attach(self, client: Client) -> None:
        if client.listed:
            raise InvalidInput("client: what it is listed as is the server's to say")
        self._sessions.append(client.key)

    def _be(self, who: Address, *, acts: bool) -> None:
        """Names that are taken are refused where they are taken; here those that the caller says are his."""
        if who.name or not self._nameless:
            rules.check_name(who.name)
        rules.check_name(who.channel, "channel")
        rules.require(self._grant, who)
        if acts and who.name:
            self._acting.append(who)

    def check_stored(self, tx: Transaction) -> None:
        """Raise `Forbidden` where it is a live session of somebody else that the caller would act as, or where a
        session bears a name that the caller may not; `RateLimited` for one more than there may be."""
        if self._verb in MAX_NOTES and self._scope.notes(tx, self._verb) >= MAX_NOTES[self._verb]:
            raise RateLimited(
                f"the programs of '{self._grant.owner}' have {MAX_NOTES[self._verb]} rows of '{self._verb}', which is "
                "the limit: end some of them",
                retry_after=int(rules.FOREIGN_HOST_SILENCE),
            )
        for who in self._acting:
            holder = bindings.holder(tx, who)
            if holder and not self._scope.has(holder):
                raise Forbidden(f"'{who.name}' is a live session of somebody else", name=who.name)
        for client in self._sessions:
            binding = bindings.bound(tx, client)
            if binding:
                rules.require(self._grant, binding.address)
            elif self._begins and self._scope.sessions(tx) >= MAX_SESSIONS:
                raise RateLimited(
                    f"'{self._grant.owner}' has {MAX_SESSIONS} sessions, which is the limit: end some; those of which "
                    f"nothing is heard are over after {rules.FOREIGN_HOST_SILENCE:.0f} s",
                    retry_after=int(rules.FOREIGN_HOST_SILENCE),
                )
