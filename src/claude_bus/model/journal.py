"""The journal of the bus, and what changed."""

from __future__ import annotations

from ..records import record
from .identity import Address


@record(frozen=True, slots=True)
class JournalEntry:
    """One row of the journal."""

    id: int
    ts: float
    channel: str
    actor: str
    verb: str
    subject: str
    detail: str


@record(frozen=True, slots=True)
class Changes:
    """The changes since an event: the journal's rows, and whom they concern."""

    last: int
    """The newest event that was looked at."""
    events: tuple[JournalEntry, ...]
    mail: tuple[Address, ...]
    """The agents that may have got mail."""
    listeners: tuple[str, ...]
    """Addresses of the processes to tell."""
    more: bool = False
    """Whether there may be rows after these."""
