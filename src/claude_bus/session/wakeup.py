"""When a session may be woken, and whether the doorbell owes it a ring."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from ..drivers.notices import Signal


def _never(_permission_mode: str) -> bool:
    return False


def _always() -> bool:
    return True


class Wakeup:
    """Decides whether a session's client is rung.

    `allowed` tells whether the session may be woken in a permission mode; "" is an unknown
    mode. `attended` says that a user reads what the client prints, `lets_in` whether the
    client's settings permit rings.
    """

    def __init__(
        self,
        allowed: Callable[[str], bool] = _never,
        *,
        attended: bool = False,
        lets_in: Callable[[], bool] = _always,
    ) -> None:
        self.allowed = allowed
        self.attended = attended
        self._lets_in = lets_in
        self.allowed_last = False
        """Whether the session may be woken, according to its last event."""
        self.works = True
        """Whether the client accepted the last ring."""
        self.owed = False
        """The turn ended with mail waiting, so the session is to be rung at once."""
        self.turn_ended = Signal()
        """Set when the doorbell owes the session a ring."""

    def note(self, permission_mode: str) -> bool:
        """Record the permission mode of an event; return whether the session may be woken now."""
        self.allowed_last = self.allowed(permission_mode)
        return self.allowed_last

    def may_bring_mail(self, permission_mode: str) -> bool:
        """Return whether mail at the end of a turn is better announced by a ring, if the client lets it in."""
        return self.attended and self.works and self.allowed(permission_mode)

    async def lets_in(self) -> bool:
        """Return whether the client's settings permit rings. Reads several files."""
        return await anyio.to_thread.run_sync(self._lets_in)

    def owe(self) -> None:
        """Ring as soon as the turn has ended."""
        self.owed = True
        self.turn_ended.ring()
