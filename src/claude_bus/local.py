"""`LocalBus`: the bus in a database of this machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from . import drafts, state_values
from .bus import NoticeSocket
from .detector import refuse_secrets
from .drivers.engine import Engine
from .errors import StoreFull
from .model.identity import Address, Process, SignOfLife
from .model.messages import Draft
from .model.tokens import UNRESTRICTED, Grant, Token
from .sql import agents
from .sql.transaction import CallerContext, Transaction, Unconfirmed
from .sql.verbs import Checks, Verb

if TYPE_CHECKING:
    from .sql import state

P = ParamSpec("P")
T = TypeVar("T")
Step = Callable[[Transaction], None]
"""A step in the transaction of a verb, before it."""


class LocalBus:
    """The bus in a database of this machine, for one caller."""

    def __init__(self, database: Engine, caller: CallerContext) -> None:
        self._db = database
        self._caller = caller

    def acting_for(
        self, process: Process, grant: Grant, held: Unconfirmed | None = None, permit: Step | None = None
    ) -> LocalBus:
        """This bus for a process elsewhere, which holds what is handed over; see `deliveries.requeue_unconfirmed`.

        Sessions that attach get names that the grant permits. `permit` is asked in the transaction of every
        verb and raises if the caller may not. A caller that names an address has made sure that the
        grant permits it.
        """
        return self._for(process=process, grant=grant, held=held, first=permit)

    def acting_as(self, who: Address, program: str, grant: Grant) -> LocalBus:
        """This bus for a program that acts as `who`, which the grant permits: every verb enlists it, in the same
        transaction."""

        def enlist(tx: Transaction) -> None:
            agents.join_without_session(tx, who, program)

        return self._for(grant=grant, first=enlist)

    def looking_as(self, who: Address, program: str, grant: Grant = UNRESTRICTED) -> LocalBus:
        """The same for a program that only looks, which is noted now and then, unless the disk is full."""

        def notice(tx: Transaction) -> None:
            agents.notice(tx, who, program)

        return self._for(grant=grant, first=notice)

    def granted(self, grant: Grant) -> LocalBus:
        """This bus for a program with this grant, which decides what it may read."""
        return self if grant is self._caller.grant else self._for(grant=grant)

    def _for(self, **changed: Any) -> LocalBus:
        return LocalBus(self._db, replace(self._caller, **changed))

    async def run(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a verb, as it is declared. See `bus.Bus.run`."""
        return await self.run_for(None, verb, *args, **kwargs)

    async def run_for(self, sign: SignOfLife | None, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """See `bus.Bus.run_for`."""
        if verb.checks:
            await _CHECKS[verb.checks](*args, **kwargs)
        mode = verb.mode
        if sign and (sign.proven or sign.lost):
            mode = "write"
        if mode == "read":
            return await self._read(sign, verb, *args, **kwargs)
        step = _called_by(self._caller, verb, sign)
        if mode == "relaxed":
            return await self._db.write_relaxed(step, *args, **kwargs)
        return await self._db.run(step, *args, **kwargs)

    async def _read(self, sign: SignOfLife | None, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        read = self._db.read_relaxed if sign else self._db.read
        try:
            return await read(_called_by(self._caller, verb, sign), *args, **kwargs)
        except StoreFull:  # no room to note who was seen: what only looks goes on
            if sign and sign.noted:
                raise  # its session has to know that it was not, and looks without
            return await read(_called_by(replace(self._caller, touch=False), verb, sign), *args, **kwargs)

    async def create_token(
        self, owner: str, names: Sequence[str], channels: Sequence[str], ttl: float | None, *, in_url: bool = False
    ) -> tuple[Token, str]:
        """A new token and its secret, which nobody can be told again."""
        import secrets

        from .sql import tokens

        secret = f"bus_{secrets.token_urlsafe(32)}"
        return await self.run(tokens.create, owner, digest_of(secret), names, channels, ttl, in_url=in_url), secret

    def notice_socket(self) -> AbstractAsyncContextManager[NoticeSocket]:
        """See `bus.Bus.ear`."""
        from .drivers import notices

        return notices.notice_socket()

    def pulse(self) -> object:
        """See `bus.Bus.pulse`."""
        return self._db.pulse()

    def after_commits(self, step: Step) -> None:
        """Run a step after what this process commits, before that is answered for; see `Engine.after_commits`."""
        self._db.after_commits(step)

    async def prune(self) -> None:
        """See `bus.Bus.prune`."""
        from .sql import upkeep

        await self.run(upkeep.prune)

    async def index(self) -> bool:
        """See `bus.Bus.index`."""
        from .sql import search

        return await self.run(search.keep_up)

    async def close(self) -> None:
        await self._db.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()


def _called_by(
    caller: CallerContext, verb: Verb[P, T], sign: SignOfLife | None
) -> Callable[Concatenate[Transaction, P], T]:
    """The verb on behalf of a caller, after what the caller does first, and what is noted of its session."""

    def step(tx: Transaction, /, *args: P.args, **kwargs: P.kwargs) -> T:
        own = tx.called_by(caller)
        if caller.first:
            caller.first(own)
        if sign:
            _see(own, sign)
        return verb(own, *args, **kwargs)

    return step


def _see(tx: Transaction, sign: SignOfLife) -> None:
    from .sql import sessions  # commands have no sign of life

    sessions.see(tx, sign)


async def _check_draft(me: Address, draft: Draft, program: str = "") -> None:  # noqa: ARG001 - the verbs' signature
    drafts.check_draft(draft)
    if not draft.allow_secret:
        await refuse_secrets("content", draft.content)


async def _check_value(
    me: Address,  # noqa: ARG001 - the verb's signature
    key: str,  # noqa: ARG001
    value: str,
    *,
    allow_secret: bool = False,
    mode: state.Mode = "overwrite",
    json: bool = False,
    **_more: Any,
) -> None:
    if mode == "delete":
        return
    state_values.check_value(value)
    if json:
        state_values.check_json(value)
    if not allow_secret:
        await refuse_secrets("value", value)


_CHECKS: Mapping[Checks, Callable[..., Awaitable[None]]] = {"draft": _check_draft, "value": _check_value}
"""The checks before a verb, by the name in its declaration."""


def digest_of(secret: str) -> str:
    """The SHA-256 under which a token is stored. Looking it up by digest leaks nothing through timing.

    A token has 256 random bits: nothing slower than SHA-256 is needed to keep it.
    """
    import hashlib

    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
