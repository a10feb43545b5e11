"""The tokens that are valid now.

The content of the store is kept in memory, by digests, for as long as nothing is stored: the
store's pulse tells. So a token that any process makes or revokes counts from the next
request on, and a flood of wrong ones costs the store nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import anyio

from ..errors import StoreError, StoreFull
from ..local import LocalBus, digest_of
from ..model.tokens import Grant, Key
from ..sql import tokens
from ..sql.transaction import Connection, Transaction
from ..sql.verbs import verb

_TRUSTED_FOR = 5.0
"""Seconds after which the store is asked even if its pulse did not change."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The tokens as the store had them at its pulse."""

    valid: tokens.Valid
    connection: Connection
    digests: Mapping[str, Key]
    ids: Mapping[int, Key]
    pulse: object
    at: float


@verb(mode="read")
def _look(tx: Transaction, cache: TokenCache) -> None:
    cache.look(tx)


class TokenCache:
    """Open: everybody may do everything, as on loopback without tokens. Closed: whoever bears a valid token.

    A gate that is closed, or was ever seen with a valid token, stays closed: revoking the
    last token locks everybody out, and never lets everybody in.
    """

    def __init__(self, bus: LocalBus, *, closed: bool) -> None:
        self._bus = bus
        self._closed = closed
        self._known: _Known | None = None
        self._looks = 0
        self._last_look = 0
        self._asking = anyio.Lock()
        bus.after_commits(self.look)

    async def is_open(self) -> bool:
        """Whether callers need no token."""
        if not self._closed:
            await self._ask()
        return not self._closed

    async def grant(self, secret: str) -> Grant | None:
        """The grant of the token with this secret; None if no valid token has it."""
        await self._ask()
        return _grant(self._known.digests.get(digest_of(secret))) if self._known else None

    async def still(self, grant: Grant) -> bool:
        """Whether a grant that was given before is good now: neither revoked, nor expired.

        As far as is known, where the store cannot say: its trouble is no reason to send anybody away,
        nor to withhold the answer to what is done.
        """
        with contextlib.suppress(StoreError):
            await self._ask()
        if not grant.token:
            return not self._closed
        return _grant(self._known.ids.get(grant.token)) is not None if self._known else False

    async def _ask(self) -> None:
        """Know what holds now. Those who ask meanwhile share the next look: one that began after they came."""
        if self._is_current():
            return
        before = self._looks
        async with self._asking:
            if self._last_look <= before and not self._is_current():
                await self._load()

    def _is_current(self) -> bool:
        known = self._known
        return (
            known is not None
            and known.pulse is not None
            and time.monotonic() < known.at + _TRUSTED_FOR
            and known.pulse == self._bus.pulse()
        )

    async def _load(self) -> None:
        self._looks += 1
        look = self._looks
        try:
            await self._bus.run(_look, self)
        except StoreError as error:  # whoever has not shown a token yet is not told where the store is
            full = "the disk of this bus is full; whoever runs it must free some space"
            said = full if isinstance(error, StoreFull) else "the store does not answer at the moment; try again"
            raise type(error)(said) from error
        self._last_look = look

    def look(self, tx: Transaction) -> None:
        """Know what holds as of this transaction.

        Runs on the store's thread only, after what this process commits as well: requests that follow need not ask.
        """
        before = self._known
        pulse = self._bus.pulse()  # before the look: what is stored meanwhile changes it
        same = before is not None and before.connection is tx.connection
        valid = tokens.valid(tx, before.valid if before and same else None)
        if before and valid is before.valid:
            self._known = replace(before, pulse=pulse, at=time.monotonic())
            return
        digests = {key.digest: key for key in valid.keys}
        ids = {key.grant.token: key for key in valid.keys}
        self._closed = self._closed or bool(digests)
        self._known = _Known(valid, tx.connection, digests, ids, pulse, time.monotonic())


def _grant(key: Key | None) -> Grant | None:
    return key.grant if key and (key.expires is None or key.expires > time.time()) else None
