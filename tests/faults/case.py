"""What is known of a round when it is over: journals, the store's steps, deaths; and what follows from them."""

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
"""Seconds by which the store's clock and the journals' may seem to differ: one of them has milliseconds."""

_LATE = 3.0
"""Seconds for which a server may be stopped or locked out, generously."""

_DISTURBING = frozenset(
    {
        *("started", "ending", "server gone", "lost", "interrupted", "cleared", "registering", "leaving"),
    }
)
"""Lines of a journal after which what was handed over and not proven may come again."""


@dataclass(frozen=True)
class Violation:
    """A promise that was broken, with what is known of it."""

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
    """When writes to the store failed for everybody: a sample of these times."""
    outages: list[float] = field(default_factory=list)
    """When sessions elsewhere could not, or did not know that they could, reach the bus: the same."""

    @cached_property
    def journals(self) -> dict[str, list[Line]]:
        return {seat: read(self.stage.journal(seat)) for seat in [*self.seats, NAME]}

    def lines(self, *what: str) -> Iterator[tuple[str, Line]]:
        """Lines of these kinds with their seats, each seat's in order."""
        for seat, journal in self.journals.items():
            yield from ((seat, line) for line in journal if line["what"] in what)

    # -- whose a process is

    @cached_property
    def seat_of_client(self) -> dict[int, str]:
        """Seats by the pid of their clients."""
        return {line["pid"]: seat for seat, line in self.lines("started")}

    def seat_of_key(self, client: str) -> str:
        """The seat of a client by its key in the store: its socket is named by its pid."""
        stem = client.rpartition("/")[2].removesuffix(".sock")
        return self.seat_of_client.get(int(stem), "") if stem.isdigit() else ""

    @cached_property
    def _seat_of_server(self) -> dict[str, str]:
        listening = {s.by: self.seat_of_key(s.name) for s in self.evidence.steps if s.table == "listeners"}
        return {**listening, **self.population.seat_of}

    def seat_of(self, process: str) -> str:
        """The seat of a process that handed mail over."""
        return self._seat_of_server.get(process, "")

    # -- when something befell a seat

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
        """When the turn began that the seat was in at that time."""
        times = self._turns.get(seat, [])
        at = bisect_right(times, t)
        return times[at - 1] if at else t

    def may_be_silent(self, seat: str) -> bool:
        """Whether others may take the seat for gone while it lives: its heartbeats come late, or not through."""
        return bool(self.stage.silence) and seat in self.stage.far

    def disturbed(self, seat: str, since: float, until: float) -> bool:
        """Whether a fault, or its session's own doing, hit the seat in that time."""
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
        """Whether a hand-over may be the answer to a request that was given up: a stopped server is late with it."""
        return _any_within(self._given_up.get(seat, []), handed - _LATE, handed)

    def orphaned(self, process: str, until: float) -> bool:
        """Whether what the process was there for was killed. It may still be at work on its last request."""
        begun = self.population.born.get(process, self._listening.get(process, until))
        return _any_within(self._orphanings.get(self.seat_of(process), []), begun, until)

    @cached_property
    def _listening(self) -> dict[str, float]:
        return {step.by: step.t for step in self.evidence.steps if step.table == "listeners"}

    # -- what the models had

    @cached_property
    def answered(self) -> dict[tuple[str, int], list[float]]:
        """When the model of a seat answered a request that carried the message."""
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
        """Whether a command of the seat showed the message, or into a terminal that was killed before it was seen."""
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
        """When the process handed the message over first, to whatever name its session bore; else never."""
        return self._first_handed.get((process, message), math.inf)

    # -- what to show of a message

    def about(self, message: int) -> list[str]:
        """All that store and sessions say of a message."""
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
    """Whether one of the sorted times lies between these, as far as clocks agree."""
    return bisect_left(times, since - SLACK) < bisect_right(times, until + SLACK)
