"""When a session may be woken, and whether it is owed a ring."""

from __future__ import annotations

from collections.abc import Callable

from ..drivers.notices import Signal


def _never(_permission_mode: str) -> bool:
    return False


def _always() -> bool:
    return True


class Wakeup:
    """What decides whether a session's client is rung.

    `allowed` tells for a permission mode whether the session may be woken in it; "" is a mode
    that is not known. `attended` says that a person reads what the client prints, `lets_in`
    whether the client's settings let a ring in.
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
        """Whether the session may be woken, as its last event said."""
        self.works = True
        """Whether the client took the last ring."""
        self.owed = False
        """The turn ended with mail waiting, for which the session is to be rung at once."""
        self.turn_ended = Signal()
        """Rings when the session is owed a ring."""

    def note(self, permission_mode: str) -> bool:
        """An event came in this mode; returns whether the session may be woken now."""
        self.allowed_last = self.allowed(permission_mode)
        return self.allowed_last

    def brings_mail(self, permission_mode: str) -> bool:
        """Whether mail at the end of a turn is better announced by a ring than printed before a person."""
        return self.attended and self.works and self.allowed(permission_mode) and self._lets_in()

    def owe(self) -> None:
        """Ring as soon as the turn has ended."""
        self.owed = True
        self.turn_ended.ring()
