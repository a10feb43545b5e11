"""The evidence of a finished round (journals, changes in the store, deaths) and the conclusions drawn from it."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .audit import Evidence, Step
from .journal import Line, read
from .person import NAME
from .population import Population
from .stage import Stage

SLACK = 0.01
"""Seconds by which the clocks of store and journals may seem to differ, because one of them counts in milliseconds."""

_LATE = 3.0
"""A generous upper bound for the seconds that a server may be stopped or locked out."""

_DISTURBING = frozenset(
    {
        *("started", "ending", "server gone", "lost", "interrupted", "cleared", "registering", "leaving"),
    }
)
"""Kinds of journal lines after which an unconfirmed hand-over may come again."""


@dataclass(frozen=True)
class Violation:
    """A broken promise, with the evidence for it."""

    rule: str
    what: str
    context: list[str] = field(default_factory=list)


@dataclass
class Case:
    """One round."""

    stage: Stage
    evidence: Evidence
    population: Population
    seats: list[str]
    stuck: list[str]
    trouble: list[float]
    """The times at which writes to the store failed for every process, as samples."""
    outages: list[float] = field(default_factory=list)
    """The times at which remote sessions could not reach the bus, or did not yet know that they could; also samples."""

    @cached_property
    def journals(self) -> dict[str, list[Line]]:
        return {seat: read(self.stage.journal(seat)) for seat in [*self.seats, NAME]}

    def lines(self, *what: str) -> Iterator[tuple[str, Line]]:
        """The journal lines of these kinds with their seats, in order within each seat."""
        for seat, journal in self.journals.items():
            yield from ((seat, line) for line in journal if line["what"] in what)

    # -- the seat of a process

    @cached_property
    def seat_of_client(self) -> dict[int, str]:
        """Seats by the pid of their clients."""
        return {line["pid"]: seat for seat, line in self.lines("started")}

    def seat_of_key(self, client: str) -> str:
        """The seat of a client, found by its key in the store: the client's socket is named after its pid."""
        stem = client.rpartition("/")[2].removesuffix(".sock")
        return self.seat_of_client.get(int(stem), "") if stem.isdigit() else ""

    @cached_property
    def _seat_of_server(self) -> dict[str, str]:
        listening = {s.by: self.seat_of_key(s.name) for s in self.evidence.steps if s.table == "listeners"}
        return {**listening, **self.population.seat_of}

    def seat_of(self, process: str) -> str:
        """The seat whose process handed mail over."""
        return self._seat_of_server.get(process, "")

    # -- disturbances of a seat

    @cached_property
    def _disturbances(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = defaultdict(list)
        for death in self.population.deaths:
            found[death.seat] += (death.t, death.end)
        for seat, line in self.lines(*_DISTURBING):
            found[seat].append(line["t"])
        for seat in self.journals:
            found[seat] += self.trouble
            found[seat] += self.outages if seat in self.stage.far else []
        return {seat: sorted(times) for seat, times in found.items()}

    @cached_property
    def _turns(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = defaultdict(list)
        for seat, line in self.lines("prompted"):
            found[seat].append(line["t"])
        return found

    def turn_of(self, seat: str, t: float) -> float:
        """The start of the turn in which the seat was at that time."""
        times = self._turns.get(seat, [])
        at = bisect_right(times, t)
        return times[at - 1] if at else t

    def may_be_silent(self, seat: str) -> bool:
        """Tells whether others may take the live seat for gone, because its heartbeats are late or do not get
        through.
        """
        return bool(self.stage.silence) and seat in self.stage.far

    def disturbed(self, seat: str, since: float, until: float) -> bool:
        """Tells whether a fault, or an action of the session itself, disturbed the seat during that time."""
        return _any_within(self._disturbances.get(seat, []), since, until)

    @cached_property
    def _orphanings(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = defaultdict(list)
        for death in self.population.deaths:
            if death.kind in ("client", "supervisor"):
                found[death.seat].append(death.t)
        return {seat: sorted(times) for seat, times in found.items()}

    @cached_property
    def _given_up(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = defaultdict(list)
        for seat, line in self.lines("lost"):
            if line["why"] == "given up":
                found[seat].append(line["t"])
        return found

    def cancelled(self, seat: str, handed: float) -> bool:
        """Tells whether a hand-over may be the answer to a cancelled request: a stopped server answers late."""
        return _any_within(self._given_up.get(seat, []), handed - _LATE, handed)

    def orphaned(self, process: str, until: float) -> bool:
        """Tells whether the parent of the process was killed. The process may still be at work on its last request."""
        begun = self.population.born.get(process, self._listening.get(process, until))
        return _any_within(self._orphanings.get(self.seat_of(process), []), begun, until)

    @cached_property
    def _listening(self) -> dict[str, float]:
        return {step.by: step.t for step in self.evidence.steps if step.table == "listeners"}

    # -- contents of the models' conversations

    @cached_property
    def answered(self) -> dict[tuple[str, int], list[float]]:
        """The times at which the seat's model answered a request that carried the message."""
        found: dict[tuple[str, int], list[float]] = defaultdict(list)
        for seat, line in self.lines("answered"):
            for id_ in line["ids"]:
                found[seat, id_].append(line["t"])
        return found

    def had(self, seat: str, message: int, since: float, until: float) -> bool:
        return _any_within(self.answered.get((seat, message), []), since, until)

    @cached_property
    def _printed(self) -> dict[tuple[str, int], list[float]]:
        found: dict[tuple[str, int], list[float]] = defaultdict(list)
        for seat, line in self.lines("got"):
            for letter in line["letters"] if line["via"] == "command" else ():
                found[seat, letter["id"]].append(line["t"])
        return found

    def printed(self, seat: str, message: int, since: float) -> bool:
        """Tells whether a command of the seat printed the message, perhaps into a terminal that was killed before
        it was seen.
        """
        shown = _any_within(self._printed.get((seat, message), []), since, since + _LATE)
        return shown or _any_within(self._orphanings.get(seat, []), since, since + _LATE)

    @cached_property
    def _first_handed(self) -> dict[tuple[str, int], float]:
        found: dict[tuple[str, int], float] = {}
        for step in self.evidence.steps:
            if step.table == "deliveries" and step.state == "handed":
                found.setdefault((step.by, step.number), step.t)
        return found

    def first_handed(self, process: str, message: int) -> float:
        """When the process first handed the message over, under any name of its session; infinity if never."""
        return self._first_handed.get((process, message), math.inf)

    # -- reports

    def about(self, message: int) -> list[str]:
        """Everything that store and sessions recorded about a message."""
        told = [
            (s.t, f"store: {s.change} {s.name} {s.state} attempt {s.attempts} by {s.by}") for s in self._of(message)
        ]
        for seat, line in self.lines("got", "answered"):
            told += [(line["t"], f"{seat}: {line['what']} {note}") for note in _mentions(line, message)]
        seats = {seat for seat, journal in self.journals.items() if any(_mentions(line, message) for line in journal)}
        seats |= {self.seat_of(s.by) for s in self._of(message) if s.by}
        begin, end = (min(told)[0], max(told)[0]) if told else (0.0, 0.0)
        for seat, line in self.lines(*_DISTURBING):
            if seat in seats and begin - 0.1 < line["t"] < end + 0.1:
                told.append((line["t"], f"{seat}: {line['what']} {line.get('tool', '')} {line.get('why', '')}"))
        told += [
            (death.t, f"{death.seat}: {death.kind} killed, {death.moment}")
            for death in self.population.deaths
            if death.seat in seats and begin - 0.1 < death.t < end + 0.1
        ]
        return [f"{t:.3f} {what}" for t, what in sorted(told)[:60]]

    def _of(self, message: int) -> list[Step]:
        return [s for s in self.evidence.steps if s.table == "deliveries" and s.number == message]


def _mentions(line: Line, message: int) -> list[Any]:
    if line["what"] == "got":
        return [letter for letter in line["letters"] if letter["id"] == message]
    return [message] if message in line.get("ids", ()) else []


def _any_within(times: list[float], since: float, until: float) -> bool:
    """Tells whether one of the sorted times lies in this interval, as far as the clocks agree."""
    return bisect_left(times, since - SLACK) < bisect_right(times, until + SLACK)
