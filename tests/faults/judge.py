"""Checks the history of a round against the rules, and counts the events in it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass

from . import lives, mail, values
from .case import Case, Violation

__all__ = ["Case", "Figures", "Violation", "judge"]

_RULES = (
    *(lives.store, lives.processes, mail.sends, mail.deliveries, mail.marks, mail.sequence),
    *(values.versions, values.swaps, values.appends, values.real_time, lives.claims, lives.bindings),
)


@dataclass(frozen=True)
class Figures:
    """Counts of events."""

    sent: int = 0
    unknown: int = 0
    """Sends whose answer was lost."""
    read: int = 0
    waiting: int = 0
    expired: int = 0
    handed: int = 0
    again: int = 0
    """Repeated hand-overs of the same message."""
    swaps: int = 0
    claims: int = 0
    clients: int = 0

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def __str__(self) -> str:
        return (
            f"{self.sent} messages accepted ({self.unknown} with a lost answer), read by {self.read} recipients, "
            f"waiting for {self.waiting}, expired for {self.expired}; {self.handed} hand-overs, {self.again} of them "
            f"again and marked; {self.swaps} compare-and-sets, {self.claims} claims, {self.clients} clients started"
        )


def judge(case: Case) -> tuple[Figures, list[Violation]]:
    return _figures(case), [violation for rule in _RULES for violation in rule(case)]


def _figures(case: Case) -> Figures:
    states = Counter(row["state"] for row in case.evidence.deliveries)
    attempts = [row["attempts"] for row in case.evidence.deliveries]
    outcomes = Counter((line["what"], line["outcome"]) for _, line in case.lines("sent", "swapped", "claimed"))
    return Figures(
        sent=len(case.evidence.messages),
        unknown=outcomes["sent", "unknown"],
        read=states["read"] + states["acked"],
        waiting=states["queued"] + states["handed"],
        expired=states["expired"],
        handed=sum(attempts),
        again=sum(max(0, count - 1) for count in attempts),
        swaps=outcomes["swapped", "ok"],
        claims=outcomes["claimed", "ok"],
        clients=sum(1 for _ in case.lines("started")),
    )
