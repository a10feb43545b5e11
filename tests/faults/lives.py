"""The rules of sessions, claims and processes: one bearer of a name, one holder of a path, no unforced death."""

from __future__ import annotations

from collections.abc import Iterator

from claude_bus import claim_paths, patterns

from .audit import Step
from .case import Case, Violation
from .program import HOST

_START = 3.0
"""A generous upper bound for the seconds in which a server starts."""
_MOMENT = 0.02
"""A generous upper bound for the seconds that a transaction takes."""
_TRIES = 5
"""How many servers in a row a supervisor starts before it gives up."""


def claims(case: Case) -> Iterator[Violation]:
    """Two agents never hold conflicting claims. (No claim of a round lives long enough to expire.)

    A renaming moves the claims one by one, so conflicts that last no longer than that do not count.
    """
    live: dict[int, Step] = {}
    met: list[tuple[Step, Step]] = []
    for step in case.evidence.steps:
        while met and step.t - met[0][0].t > _MOMENT:
            one, other = met.pop(0)
            if live.get(one.row) is one and live.get(other.row) is other:
                what = f"{one.name} has '{one.state}' while {other.name} has '{other.state}'"
                yield Violation("claims", what, [str(one), str(other)])
        if step.table == "claims":
            live.pop(step.row, None)
            if step.change != "delete":
                met += ((step, other) for other in live.values() if _exclude(step, other))
                live[step.row] = step


def _exclude(one: Step, other: Step) -> bool:
    if one.name == other.name or (one.number and other.number) or one.by != other.by:
        return False
    if claim_paths.is_resource(one.state) or claim_paths.is_resource(other.state):
        return one.state == other.state
    return patterns.overlap(one.state, other.state)


def bindings(case: Case) -> Iterator[Violation]:
    """A name has one bearer at a time, who loses it only by an action of its own or by its end."""
    live: dict[int, Step] = {}
    for step in case.evidence.steps:
        if step.table != "bindings":
            continue
        was = live.pop(step.row, None)
        if step.change == "delete":
            yield from _unbound(case, was or step, step)
            continue
        for other in live.values():
            if other.name == step.name:
                yield Violation("identity", f"{step.by} and {other.by} are both '{step.name}'", [str(step), str(other)])
        live[step.row] = step


def _unbound(case: Case, since: Step, step: Step) -> Iterator[Violation]:
    """A server whose parent was killed during the start may still bind its client, and then end the session."""
    seat = case.seat_of_key(step.by)
    if seat and not case.may_be_silent(seat) and not case.disturbed(seat, since.t - _START, step.t):
        yield Violation("identity", f"{seat} lost the name '{step.name}', and nothing had hit it", [str(step)])


def processes(case: Case) -> Iterator[Violation]:
    """No process hangs, no server ends except by a kill or with its client, and no answer reports a crash."""
    for what in case.stuck:
        yield Violation("alive", what, _last_lines(case, what.split(maxsplit=1)[0].rstrip(":")))
    for seat, line in case.lines("server gone", "ended"):
        expected = (-9, 1) if line["what"] == "server gone" and _gave_up(case, seat, line["t"]) else (-9,)
        if line["status"] not in (expected if line["what"] == "server gone" else (0, -9)):
            yield Violation("alive", f"a server of {seat} ended by itself: {line}", _log(case, seat))
    if any("Traceback" in line for line in _log(case, HOST)):
        yield Violation("alive", "what serves the bus met an error of its own", _log(case, HOST))
    for seat, line in case.lines("strange"):
        yield Violation("alive", f"{seat}: {line}", _log(case, seat))


def _gave_up(case: Case, seat: str, t: float) -> bool:
    """Tells whether the supervisor may have given up (exit status 1) because enough servers of the seat were killed."""
    recent = [d for d in case.population.deaths if d.kind == "server" and d.seat == seat and t - 60 < d.t < t]
    return len(recent) >= _TRIES


def _last_lines(case: Case, seat: str) -> list[str]:
    return [str(line) for line in case.journals.get(seat, [])[-5:]] + _log(case, seat)


def _log(case: Case, seat: str) -> list[str]:
    path = case.stage.log(seat)
    return path.read_text(encoding="utf-8").splitlines()[-30:] if path.exists() else []


def store(case: Case) -> Iterator[Violation]:
    """SQLite finds no fault in the file."""
    for problem in case.evidence.problems:
        yield Violation("integrity", problem)
