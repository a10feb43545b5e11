"""A campaign's rounds: each has a bus, sessions on it, faults, a time of peace, and a judgement."""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import audit, client, nursery, person, program, relay
from .blackboard import Blackboard, Phase
from .case import SLACK
from .hazards import BACK_AFTER, CUTTING_OFF, HAZARDS, LOCKING_OUT, PATIENCE, set_clock_right
from .judge import Case, Figures, Violation, judge
from .population import Member, Population
from .roll import Roll
from .stage import Stage

_VICTIMS = {"client": 3, "server": 6, "host": 2, "supervisor": 2, "command": 3, "checkpointer": 1, "locker": 1}
"""The kinds of processes that are killed at random moments, with their relative likelihood."""
_RESTARTS = 10.0
"""Mean interval, in seconds, at which the served bus is told to end and is started again."""
_ENDING = 6.0
"""Seconds that this restart may take."""
_ENDS = (-signal.SIGKILL, -signal.SIGTERM, 0)
SILENCE = 4.0
"""Seconds without a heartbeat after which a remote session counts as gone, in some rounds."""
_PEACE = 120.0
"""Seconds after which a session that neither finishes nor reads its waiting mail counts as stuck."""


@dataclass(frozen=True)
class Plan:
    """The parameters of a campaign."""

    seed: int
    rounds: int
    kills: int
    """The number of kills to aim for over all rounds."""
    sessions: int
    seconds: float
    """The longest time that a round's faults may last."""
    pace: float
    """Kills per second at random moments; about as many more happen at chosen moments inside the processes."""
    doom: float
    real: float
    impatience: float
    far: float
    """Probability that a seat of a round is remote."""
    outages: float
    """Mean interval, in seconds, between failures of the connection of remote seats."""
    sabotage: str


@dataclass
class Result:
    """The results of all rounds so far."""

    kills: Counter[str] = field(default_factory=Counter)
    hazards: Counter[str] = field(default_factory=Counter)
    figures: Figures = field(default_factory=Figures)
    violations: list[Violation] = field(default_factory=list)
    rounds: int = 0


class Round:
    """One bus from its creation to its judgement. `disk` is a folder on a small disk, `work` one on a normal disk."""

    def __init__(self, plan: Plan, number: int, kills: int, disk: Path, work: Path) -> None:
        self._plan, self._kills = plan, kills
        bus, notes = disk / f"round-{number}", work / f"r{number}"
        bus.mkdir()
        notes.mkdir()
        self._seats = [f"s{n}" for n in range(plan.sessions)]
        self.stage = _with_far_seats(
            Stage(
                plan.seed,
                number,
                bus,
                notes,
                Blackboard(),
                Roll(),
                plan.sabotage,
                plan.doom,
                plan.real,
                plan.impatience,
            ),
            [*self._seats, person.NAME],
            plan.far,
        )
        self.population = Population()
        self.hazards: Counter[str] = Counter()
        self._host = 0
        self._clients: dict[int, str] = {}
        self._generations: Counter[str] = Counter()
        self._said: dict[str, set[str]] = {"calm": set(), "drained": set()}
        self._stuck: list[str] = []
        self._trouble: list[float] = []
        self._outages: list[float] = []
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._rng = self.stage.rng("faults")

    # -- the course of a round

    def run(self) -> Case:
        """Run the round; returns all the evidence to judge."""
        audit.install(self.stage.db)
        try:
            self._begin()
            self._suffer()
            self._recover()
        finally:
            self._end()
        self._note_outages()
        return Case(
            self.stage,
            audit.collect(self.stage.db),
            self.population,
            self._seats,
            self._stuck,
            self._trouble,
            self._outages,
        )

    def _begin(self) -> None:
        if self.stage.far:
            self._start_line()
            self._start_host()
        for seat in self._seats:
            self._start(seat)
        self._person = nursery.fork(lambda: person.live(self.stage, self._seats), [self.stage.roll.into], tied=True)

    def _start_line(self) -> None:
        orders, into = os.pipe()
        self.stage = replace(self.stage, orders=into)
        nursery.fork(lambda: relay.run(self.stage, orders), [orders, self.stage.roll.into], tied=True)
        os.close(orders)

    def _start_host(self) -> None:
        label = str(self._generations["host"])
        self._generations["host"] += 1
        self._host = nursery.fork(lambda: program.host(self.stage, label), [self.stage.roll.into], tied=True)

    def _start(self, seat: str) -> None:
        generation = self._generations[seat]
        self._generations[seat] += 1
        body = lambda: client.live(self.stage, seat, self._seats, generation)  # noqa: E731
        self._clients[nursery.fork(body, [self.stage.roll.into], tied=True)] = seat

    def _suffer(self) -> None:
        """Inject faults until enough processes were killed or the time is up."""
        end = time.monotonic() + self._plan.seconds
        self._later(0.5, self._kill)
        self._later(1.0, self._stop)
        self._later(self._rng.expovariate(1 / _RESTARTS), self._restart_host)
        for name in HAZARDS:
            self._later(self._pause(name), lambda name=name: self._befall(name))  # type: ignore[misc]
        while not self._stuck and len(self.population.deaths) < self._kills and time.monotonic() < end:
            self._attend(end)

    def _recover(self) -> None:
        """The time of peace: every session finishes, then every session reads its mail."""
        self.stage.board.phase = Phase.CALM
        while self._agenda:
            _, _, action = heapq.heappop(self._agenda)
            action()  # endings planned for later happen now; during peace nothing new begins
        set_clock_right(self.stage)
        self.population.wake_all()
        for say, phase in (("calm", Phase.DRAIN), ("drained", Phase.END)):
            if not self._all_say(say):
                return
            self.stage.board.phase = phase
        self._wait_for_clients()

    def _all_say(self, say: str) -> bool:
        end = time.monotonic() + _PEACE
        everybody = {*self._seats, person.NAME}
        while not self._stuck and (missing := everybody - self._said[say]):
            if time.monotonic() > end:
                self._stuck += sorted(f"{seat} never got {say}" for seat in missing)
            self._attend(end)
        return not self._stuck

    def _wait_for_clients(self) -> None:
        end = time.monotonic() + _PEACE
        while self._clients and time.monotonic() < end:
            self._attend(time.monotonic() + 0.05)
        self._stuck += sorted(f"{seat} never ended" for seat in self._clients.values())

    def _end(self) -> None:
        """End every process that is left."""
        self.stage.board.phase = Phase.END
        while self._agenda:
            heapq.heappop(self._agenda)[2]()
        for line in self.stage.roll.news(0):
            self.population.hear(line)
        self.population.end_all()
        if self.stage.orders >= 0:
            os.close(self.stage.orders)
        while children := _children():  # orphans among them, which arrive one generation after the other
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        self.stage.roll.close()

    # -- the course of time

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time.monotonic() + seconds, next(self._order), action))

    def _attend(self, end: float) -> None:
        """Wait for the next event, and handle it."""
        due = min(end, self._agenda[0][0]) if self._agenda else end
        for line in self.stage.roll.news(min(0.2, due - time.monotonic())):
            self.population.hear(line)
            if line["what"] in self._said:
                self._said[line["what"]].add(line["seat"])
            elif line["what"] == "hung":
                self._stuck.append(f"{line['seat']}: no answer to {line['doing']} in a minute")
        while self._agenda and self._agenda[0][0] <= time.monotonic():
            heapq.heappop(self._agenda)[2]()
        self._reap()

    def _reap(self) -> None:
        """Collect dead processes. After a while, the user restarts a killed client, and the service manager a
        served bus.
        """
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0] > 0:
                pid, status = found
                seat = self._clients.pop(pid, "")
                if pid == self._host and os.waitstatus_to_exitcode(status) not in _ENDS:
                    self._stuck.append(f"{program.HOST}: ended by itself, status {os.waitstatus_to_exitcode(status)}")
                if self.stage.board.phase < Phase.END and not self._stuck and (seat or pid == self._host):
                    self._restart(functools.partial(self._start, seat) if seat else self._start_host)

    def _restart(self, start: Callable[[], None]) -> None:
        if self.stage.board.phase == Phase.FAULTS:
            self._later(self._rng.random() * 0.3, start)
        else:
            start()

    def _note_outages(self) -> None:
        """Note the outages caused by deaths of the served bus."""
        for death in self.population.deaths:
            if death.kind == "host":
                self._outages += _sample(death.t, death.end - death.t + BACK_AFTER)

    # -- faults

    @property
    def _faulty(self) -> bool:
        return self.stage.board.phase == Phase.FAULTS

    def _kill(self) -> None:
        if self._faulty:
            self.population.kill(self._rng, _VICTIMS)
            self._later(self._rng.expovariate(self._plan.pace), self._kill)

    def _stop(self) -> None:
        if not self._faulty:
            return
        stopped = self.population.stop(self._rng)
        if stopped:
            self.hazards["stopped"] += 1
            self._later(self._rng.uniform(0.02, 0.7), functools.partial(_go_on, stopped))
        self._later(self._rng.expovariate(1.0), self._stop)

    def _restart_host(self) -> None:
        """The administrator of the served bus restarts it, as for a new version."""
        host = self.population.members.get(self._host)
        if not self._faulty or not self.stage.far:
            return
        if host and host.signal(signal.SIGTERM):
            self.hazards["restarted"] += 1
            self._outages += _sample(time.time(), _ENDING + BACK_AFTER)
        self._later(self._rng.expovariate(1 / _RESTARTS), self._restart_host)

    def _befall(self, name: str) -> None:
        if not self._faulty or (name == "clock" and self.stage.silence):  # a heartbeat dated tomorrow never expires
            return
        begin, _ = HAZARDS[name]
        self.hazards[name] += 1
        seconds, end = begin(self.stage, self._rng)
        if name in LOCKING_OUT:
            self._trouble += _sample(time.time(), seconds + PATIENCE)
        if name in CUTTING_OFF:
            self._outages += _sample(time.time(), seconds + BACK_AFTER)
        self._later(seconds, end)
        self._later(seconds + self._pause(name), lambda: self._befall(name))

    def _pause(self, name: str) -> float:
        """Seconds until this hazard is injected again."""
        mean = self._plan.outages if name in CUTTING_OFF else HAZARDS[name][1]
        return self._rng.expovariate(1 / mean)


def _with_far_seats(stage: Stage, seats: list[str], share: float) -> Stage:
    rng = stage.rng("far")
    far = frozenset(seat for seat in seats if rng.random() < share)
    if not far:
        return stage
    stage = replace(stage, far=far, host=relay.free_port(), line=relay.free_port())
    # A server started with exec uses the product's own heartbeat interval, and would be taken for dead.
    return replace(stage, silence=SILENCE, real=0.0) if rng.random() < 1 / 3 else stage


def _sample(since: float, seconds: float) -> list[float]:
    """Sample a period so densely that no moment in it is more than `SLACK` away from a sample."""
    return [since + SLACK * n for n in range(int(seconds / SLACK) + 1)]


def _go_on(stopped: Member) -> None:
    stopped.signal(signal.SIGCONT)


def _children() -> list[int]:
    """All children of this process, including adopted ones. They remain until they are waited for."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(fields[1]) == os.getpid():
                    found.append(int(entry.name))
    return found


def run(plan: Plan, disk: Path, work: Path, tell: Callable[[str], None]) -> Result:
    """Run all rounds, one after the other; stops at the first that violates a rule."""
    result = Result()
    while result.rounds < plan.rounds and result.kills.total() < plan.kills and not result.violations:
        left = plan.kills - result.kills.total()
        share = -(-left // (plan.rounds - result.rounds))
        current = Round(plan, result.rounds, share, disk, work)
        case = current.run()
        figures, violations = judge(case)
        result.rounds += 1
        result.kills += current.population.kills()
        result.hazards += current.hazards
        result.figures += figures
        result.violations += violations
        tell(f"round {result.rounds}: {result.kills.total()} kills so far; {figures}")
        _clear_away(current.stage, keep=bool(violations))
    return result


def _clear_away(stage: Stage, *, keep: bool) -> None:
    if keep:
        shutil.copytree(stage.bus, stage.work / "bus")
    else:
        shutil.rmtree(stage.work)
    shutil.rmtree(stage.bus)
