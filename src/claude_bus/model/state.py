"""Entries of the shared state."""

from __future__ import annotations

from ..records import record


@record(frozen=True, slots=True)
class StateEntry:
    """A shared value. `value` is None where only metadata was asked for."""

    key: str
    value: str | None
    version: int
    updated_by: str
    updated_at: float
    expires: float | None = None
    json: bool = False
    """The value is JSON that was given as such."""
