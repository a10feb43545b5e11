"""The records of a hook event: its report to the store, and the result."""

from __future__ import annotations

from ..records import record
from .identity import Address, Overlap, Roster
from .messages import HandOver, Message


@record(frozen=True, slots=True)
class HookReport:
    """The report of a hook event on a session, and how much mail its answer can carry."""

    via: str
    """The way of a hand-over, as receipts show it."""
    space: int
    """Characters there are for message blocks."""
    session_id: str = ""
    prompt_id: str = ""
    """The turn it belongs to."""
    begins: bool = False
    """The turn begins with it: what was handed over before, and never proven, is lost."""
    bell: bool | None = None
    """Whether the session may be woken; None where the event does not tell."""
    proven: tuple[int, ...] = ()
    """Messages the model has demonstrably had."""
    lost: tuple[int, ...] = ()
    """Messages whose hand-over came to nothing."""
    announced: int = 0
    """The oldest unread message at which the session was told that one does not fit."""
    roster: bool = False
    """Whether to tell who else is here, if that changed."""
    doing: str | None = None
    """First words of the prompt, where they may be shared."""
    ends: bool = False
    """The turn ends unless there is something to tell; open requests are recalled."""
    again: bool = False
    """One-time notices may not have reached the conversation, and are to be given again."""
    recalled: tuple[int, ...] = ()
    """Open requests of which it was reminded."""


@record(frozen=True, slots=True)
class HookResult:
    """The result of a hook event, and what to tell the session."""

    address: Address
    registered: bool
    mail: HandOver
    announce: bool
    """Mail waits that does not fit, and the session was not told of it yet."""
    roster: Roster | None
    """The other agents, if the session does not know them yet."""
    overlaps: tuple[Overlap, ...]
    """With whom the session's files overlap, where it was not told yet."""
    requests: tuple[Message, ...]
    """Open requests, until it is known that the conversation was reminded of them."""
    introduce: bool
    """Something is to be told, and the conversation does not know who it is."""
    earlier: int = 0
    """Broadcasts from long before the session joined, which wait in its inbox; told with who it is."""

    @property
    def told_once(self) -> bool:
        """Whether it tells something that is not told again without a reason."""
        return self.introduce or bool(self.roster or self.overlaps or self.requests)


@record(frozen=True, slots=True)
class Injection:
    """The text that a hook puts before the model, and one line for its user. Empty: nothing new."""

    context: str = ""
    notice: str = ""

    def __bool__(self) -> bool:
        return bool(self.context)
