"""The other end of `remote.bus.RemoteBus`: the verbs of the bus for sessions and commands elsewhere.

`POST /rpc/<verb>` runs one verb, `GET /rpc/ear` says when to look. It is what two
claude-bus programs speak, and no promise to others; those have `/v1`.

A caller's sessions, processes and listeners are kept apart from all others' by the owner
of its token: it can name none but its own. Names and channels must be what the token
permits, and nobody can act as a live session that is not one of the caller's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from .. import __version__, grants, limits, names
from ..errors import Forbidden, InvalidInput, NotFound, RateLimited
from ..model.identity import Address, Binding, Client, Process, SignOfLife
from ..model.messages import Draft
from ..model.tokens import Grant
from ..remote import codec
from ..remote.codec import Parameter
from ..sql import bindings
from ..sql.arguments import Acts, Checked, FewMessages, Line, OnChannel, OwnAddress, OwnSession
from ..sql.catalog import REMOTE
from ..sql.transaction import Transaction
from ..sql.verbs import Verb
from . import hub, validation
from .service import Service, grant_of

KEEP_ALIVE = 15.0
"""Seconds after which an ear is told that nothing came."""
RING, NOTHING = b"ring\n", b".\n"
MAX_SESSIONS = 1_000
"""Sessions of one owner's tokens at once, subagents with names of their own included."""


def routes(service: Service) -> list[BaseRoute]:
    async def call(request: Request) -> Response:
        return await _call(service, grant_of(request), request.path_params["verb"], await request.body())

    async def notice_socket(request: Request) -> Response:
        scope = Scope(grant_of(request))
        address = request.query_params.get("address", "")
        if not address:
            raise InvalidInput("address is missing: say at which one the session listens")
        return StreamingResponse(_rings(service, scope.key(address)), media_type="text/plain")

    return [Route("/rpc/ear", notice_socket, methods=["GET"]), Route("/rpc/{verb}", call, methods=["POST"])]


async def _call(service: Service, grant: Grant, name: str, body: bytes) -> Response:
    """Run one verb on the caller's behalf."""
    verb = REMOTE.get(name)
    if not verb:
        raise NotFound(f"claude-bus {__version__}, which serves here, has no verb '{name[:80]}'")
    form = codec.form(verb)
    call = form.called(body)
    scope = Scope(grant)
    process = scope.process(call.process)
    validation.check("process", process)
    admission = Admission(verb, grant, scope)
    arguments = admission.admit(form.parameters, call.arguments)
    sign = admission.admit_sign(call.sign) if call.sign else None
    held = frozenset(call.held) if verb.with_unconfirmed else None
    bus = service.bus.acting_for(process, grant, held, admission.check_stored)
    answer = await bus.run_for(sign, verb, **arguments)
    return Response(form.answer(scope.outward(answer)), headers={codec.SIGNS: "1"}, media_type="application/json")


async def _rings(service: Service, address: str) -> AsyncIterator[bytes]:
    """A line whenever the session should look, and now and then one to say that the line stands."""
    with service.hub.signal(hub.listener(address)) as bell:
        yield RING  # whatever came before this stood
        while True:
            yield RING if await bell.rung(KEEP_ALIVE) else NOTHING


class Scope:
    """The keys, addresses and hosts of one token owner's programs, as the store spells them.

    The store's spelling begins with the owner between two `@`, which no name holds.
    """

    def __init__(self, grant: Grant) -> None:
        self.mark = f"@{grant.owner}@"

    def has(self, binding: Binding) -> bool:
        """Whether it is a session of this owner's."""
        return binding.client.startswith(self.mark)

    def key(self, key: str) -> str:
        """A session's key, or a listener's address, as the store knows it; "" stays what it is."""
        return self.mark + key if key else ""

    def process(self, process: Process) -> Process:
        return replace(process, host=self.mark + process.host)

    def client(self, client: Client) -> Client:
        return replace(
            validation.as_shown(client),
            key=self.mark + client.key,
            process=self.process(client.process),
            session=self.key(client.session),
        )

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
        return text.removeprefix(self.mark)


class Admission:
    """Whether the caller may make a call with these arguments: each type of a parameter has its rule.

    Conditions on names are checked in the verb's own transaction: nobody takes a name
    in between.
    """

    def __init__(self, verb: Verb[..., Any], grant: Grant, scope: Scope) -> None:
        self._verb = verb
        self._grant = grant
        self._scope = scope
        self._me: Address | None = None
        self._acting: list[Address] = []
        self._sessions: list[str] = []

    def admit(self, parameters: Mapping[str, Parameter], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the store knows them.

        Raises `Forbidden` for what the caller may not do, `InvalidInput` for what nobody can be, or say.
        """
        return {name: self._admit(parameters[name], value) for name, value in arguments.items()}

    def admit_sign(self, sign: SignOfLife) -> SignOfLife:
        """A session's sign of life as the store knows it. Raises as `admit`."""
        validation.check("sign", sign)
        self._speak_for(sign.client)
        return replace(sign, client=self._scope.key(sign.client), process=self._scope.process(sign.process))

    def _admit(self, parameter: Parameter, given: Any) -> Any:
        value = self._inward(parameter, given)
        rule = (
            parameter.meaning(Checked) or parameter.meaning(FewMessages) or parameter.meaning(Line) or validation.STRICT
        )
        validation.check(parameter.name, value, rule)
        if isinstance(value, Address):
            self._be(value, acts=parameter.meaning(Acts) is not None)
        elif isinstance(value, Draft):
            assert self._me, "who sends comes before what is sent"
            grants.require_recipients(self._grant, value.to, self._me.channel)
        elif isinstance(value, Client):
            self._attach(value)
        elif parameter.meaning(OwnSession):
            self._speak_for(value)
        elif parameter.meaning(OnChannel):
            grants.require_channel(self._grant, names.check_name(value, "channel"))
        return value

    def _inward(self, parameter: Parameter, value: Any) -> Any:
        """An argument as the store knows it."""
        if isinstance(value, Client):
            return self._scope.client(value)
        if isinstance(value, Process):
            return self._scope.process(value)
        if parameter.meaning(OwnSession) or parameter.meaning(OwnAddress):
            return self._scope.key(value)
        return value

    def _attach(self, client: Client) -> None:
        if client.listed:
            raise InvalidInput("client: what it is listed as is the server's to say")
        self._sessions.append(client.key)

    def _speak_for(self, client: str) -> None:
        """Without a client's key a caller would speak for all there are."""
        if not client:
            raise InvalidInput("client is empty: name the session whose mail or presence it is")
        self._sessions.append(client)

    def _be(self, who: Address, *, acts: bool) -> None:
        """Names that are taken are refused where they are taken; here those that the caller says are his."""
        if who.name or not self._verb.nameless:
            names.check_name(who.name)
        names.check_name(who.channel, "channel")
        grants.require(self._grant, who)
        self._me = who if acts else self._me
        if acts and who.name:
            self._acting.append(who)

    def check_stored(self, tx: Transaction) -> None:
        """Raise `Forbidden` where it is a live session of somebody else that the caller would act as, or where a
        session bears a name that the caller may not; `RateLimited` for one more than there may be."""
        rows = self._verb.rows
        if rows and rows.count(tx, self._scope.mark) >= rows.most:
            raise RateLimited(
                f"the programs of '{self._grant.owner}' have {rows.most} rows of '{self._verb.wire}', which is "
                "the limit: end some of them",
                retry_after=int(limits.FOREIGN_HOST_SILENCE),
            )
        for who in self._acting:
            holder = bindings.holder(tx, who)
            if holder and not self._scope.has(holder):
                raise Forbidden(f"'{who.name}' is a live session of somebody else", name=who.name)
        for client in self._sessions:
            binding = bindings.bound(tx, client)
            if binding:
                grants.require(self._grant, binding.address)
            elif self._verb.begins and bindings.count(tx, self._scope.mark) >= MAX_SESSIONS:
                raise RateLimited(
                    f"'{self._grant.owner}' has {MAX_SESSIONS} sessions, which is the limit: end some; those of which "
                    f"nothing is heard are over after {limits.FOREIGN_HOST_SILENCE:.0f} s",
                    retry_after=int(limits.FOREIGN_HOST_SILENCE),
                )
