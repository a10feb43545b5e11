"""The rules of mail: no message is lost, repeated without a fault, out of order, or falsely reported as read."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from claude_bus.sql.deliveries import EARLIER

from .audit import Step
from .case import SLACK, Case, Violation
from .journal import Line

_SENT = re.compile(r"(?:^sent to|^already sent with this key to) .*\(id (\d+)\)", re.MULTILINE)
_PROMISED = re.compile(r"^- ([^:]+): ", re.MULTILINE)


# -- accepted messages are stored ------------------------------------------------------


def sends(case: Case) -> Iterator[Violation]:
    """An accepted message is stored once, for every recipient named; a refused message is not stored."""
    stored: dict[str, list[int]] = defaultdict(list)
    for id_, row in case.evidence.messages.items():
        stored[row["content"].split()[0]].append(id_)
    addressed = defaultdict(set)
    for step in case.evidence.steps:
        if step.table == "deliveries":
            addressed[step.number].add(step.name)  # under its new name too, if the sender heard of it after a renaming
    outcomes: dict[str, list[Line]] = defaultdict(list)
    for _, line in case.lines("sending", "sent"):
        outcomes[line["token"]].append(line)
    for token, lines in outcomes.items():
        yield from _one_send(token, lines, stored[token], addressed)
    for token in stored.keys() - outcomes.keys():
        yield Violation("sends", f"'{token}' is on the bus, and nobody sent it")


def _one_send(token: str, lines: list[Line], stored: list[int], addressed: dict[int, set[str]]) -> Iterator[Violation]:
    told = [str(line) for line in lines]
    if len(stored) > 1:
        yield Violation("sends", f"'{token}' was stored {len(stored)} times: {stored}", told)
    states = [line["outcome"] for line in lines if line["what"] == "sent"]
    attempts = sum(line["what"] == "sending" for line in lines)
    if stored and attempts == len(states) and set(states) == {"refused"}:
        yield Violation("sends", f"'{token}' was refused and is stored", told)
    for line in lines:
        if line.get("outcome") != "ok":
            continue
        id_, recipients = _promised(line)
        if id_ not in stored:
            yield Violation("nothing lost", f"'{token}' was accepted as {id_} and is stored as {stored}", told)
        elif missing := recipients - addressed[id_]:
            yield Violation("nothing lost", f"'{token}' was accepted and is not there for {missing}", told)


def _promised(line: Line) -> tuple[int, set[str]]:
    if "id" in line:
        return line["id"], set(line["recipients"])
    found = _SENT.search(line["text"])
    return (int(found[1]) if found else 0), set(_PROMISED.findall(line["text"]))


# -- deliveries in the store -------------------------------------------------------------


@dataclass
class Delivery:
    """One message on its way to one recipient, as far as the replay has come."""

    message: int
    name: str
    state: str = "queued"
    attempts: int = 0
    handed: list[Step] = field(default_factory=list)
    is_earlier: bool = False
    """A broadcast from long before its recipient joined."""


def deliveries(case: Case) -> Iterator[Violation]:
    """Each step is legal: the oldest first, requeued only after a fault, read only after an answer, never simply
    gone.
    """
    live: dict[int, Delivery] = {}
    for step in case.evidence.steps:
        if step.table != "deliveries":
            continue
        if step.change == "insert":
            live[step.row] = Delivery(step.number, step.name, is_earlier=step.by == f"retained {EARLIER}")
        elif step.change == "delete":
            yield from _gone(case, live.pop(step.row), live)
        else:
            delivery = live[step.row]
            yield from _changed(case, delivery, step, live)
            delivery.name, delivery.state, delivery.attempts = step.name, step.state, step.attempts
    yield from _left(case, live)


def _changed(case: Case, delivery: Delivery, step: Step, live: dict[int, Delivery]) -> Iterator[Violation]:
    if step.attempts > delivery.attempts:
        delivery.handed.append(step)
        yield from _in_order(case, step, live)
    elif step.state == delivery.state:
        return
    elif step.state in ("read", "acked"):
        yield from _receipt(case, delivery, step)
    elif step.state == "queued":
        yield from _requeued(case, delivery, step)
    elif step.state == "expired" and case.evidence.messages[step.number]["expires"] is None:
        yield Violation("nothing lost", f"{step.number} expired, and had no ttl", case.about(step.number))


def _in_order(case: Case, step: Step, live: dict[int, Delivery]) -> Iterator[Violation]:
    """Each message handed over is the oldest that waits, but for broadcasts from long before its recipient joined."""
    overtaken = [
        d.message
        for d in live.values()
        if d.name == step.name and d.state == "queued" and d.message < step.number and not d.is_earlier
    ]
    if overtaken:
        what = f"{step.number} was handed to {step.name} while {sorted(overtaken)} waited"
        yield Violation("in order", what, case.about(step.number) + case.about(min(overtaken)))


def _requeued(case: Case, delivery: Delivery, step: Step) -> Iterator[Violation]:
    """A fault excuses a requeue if it hit the turn of the hand-over; the server may not know which turn that is."""
    handed = delivery.handed[-1]
    seat = case.seat_of(handed.by)
    excuses = (
        case.may_be_silent(seat),
        case.disturbed(seat, case.turn_of(seat, handed.t), step.t),
        case.orphaned(handed.by, step.t),
        case.cancelled(seat, handed.t),
    )
    if not any(excuses):
        what = f"{step.number} was taken back from {step.name} ({seat}), which no fault had hit"
        yield Violation("exactly once", what, case.about(step.number))


def _receipt(case: Case, delivery: Delivery, step: Step) -> Iterator[Violation]:
    """A receipt needs a hand-over, followed by an answer of the model that it was made to.

    A reply to the message (`acked`) may rest on an earlier hand-over. Mail that a command printed counts as read by
    the person whose name the command used. Mail that the model had under one of its names counts for all of them.
    """
    if delivery.state == "read":
        return
    if not delivery.handed:
        yield Violation("no false receipt", f"{step.number} is {step.state} and was never handed over")
        return
    handed = delivery.handed[0 if step.state == "acked" else -1]
    seats = {case.seat_of(one.by) for one in delivery.handed} if step.state == "acked" else {case.seat_of(handed.by)}
    if case.population.kind_of.get(step.by) == "command":
        fine = any(case.printed(seat, step.number, handed.t) for seat in seats)
    else:
        since = min(handed.t, case.first_handed(step.by, step.number))
        fine = any(case.had(seat, step.number, since, step.t) for seat in seats)
    if not fine:
        what = f"{step.number} counts as {step.state} by {step.name} ({', '.join(seats)}), whose model never had it"
        yield Violation("no false receipt", what, case.about(step.number))


def _gone(case: Case, delivery: Delivery, live: dict[int, Delivery]) -> Iterator[Violation]:
    """A delivery vanishes only when a name takes over another: duplicates, and the sender's own copy."""
    sender, seat = case.evidence.messages[delivery.message]["sender"], _token(case, delivery.message).split(".")[0]
    others = [d for d in live.values() if d.message == delivery.message]
    if delivery.state in ("queued", "handed") and not others and not _is_own(delivery.name, sender, seat):
        yield Violation(
            "nothing lost", f"{delivery.message} for {delivery.name} vanished", case.about(delivery.message)
        )


def _is_own(name: str, sender: str, seat: str) -> bool:
    """Tells whether both names belong to one seat, allowing for renamings and for names that several may bear."""
    return "shared" in (name, sender) or name.split("-", maxsplit=1)[0] in (sender.split("-", maxsplit=1)[0], seat)


def _left(case: Case, live: dict[int, Delivery]) -> Iterator[Violation]:
    """Every session that reads all of its waiting mail has all of it."""
    drained = {line["name"] for _, line in case.lines("drained")}
    for delivery in live.values():
        if delivery.name in drained and delivery.state in ("queued", "handed"):
            what = f"{delivery.message} is still {delivery.state} for {delivery.name}, who read all"
            yield Violation("nothing lost", what, case.about(delivery.message))


# -- mail in the sessions ----------------------------------------------------------------


def marks(case: Case) -> Iterator[Violation]:
    """A first hand-over is unmarked, a repeated one is marked, and no message arrives without a hand-over."""
    handed: dict[tuple[str, int], list[Step]] = defaultdict(list)
    attempts: Counter[int] = Counter()
    for step in case.evidence.steps:
        if step.table == "deliveries" and step.change == "insert":
            attempts[step.row] = 0
        elif step.table == "deliveries" and step.change == "update" and step.attempts > attempts[step.row]:
            attempts[step.row] = step.attempts
            handed[case.seat_of(step.by), step.number].append(step)
    for seat, line in case.lines("got"):
        for letter in line["letters"]:
            before = [s for s in handed[seat, letter["id"]] if s.t <= line["t"] + SLACK]
            surely = [s for s in before if s.t <= line["t"] - SLACK]
            if not before:
                yield Violation("no false receipt", f"{seat} got {letter['id']} that was not handed to it")
            elif letter["marked"] not in {s.attempts > 1 for s in before[max(0, len(surely) - 1) :]}:
                what = f"{letter['id']} came to {seat} by attempt {before[-1].attempts}, marked: {letter['marked']}"
                yield Violation("marked", what, case.about(letter["id"]))
            if letter["token"] != _token(case, letter["id"]):
                yield Violation("nothing lost", f"{letter['id']} came as {letter['token']}")


def _token(case: Case, message: int) -> str:
    content: str = case.evidence.messages[message]["content"]
    return content.split(maxsplit=1)[0]


def sequence(case: Case) -> Iterator[Violation]:
    """Messages that arrive for the first time arrive in the order sent, for each sender."""
    late = _late(case)
    for seat, journal in case.journals.items():
        last: dict[str, int] = {}
        for line in journal:
            if line["what"] in ("registering", "leaving", "started"):
                last = {}  # another name's mail, which may be older
            for letter in line.get("letters", ()) if line["what"] == "got" else ():
                sender = letter["token"].split(".")[0]
                if letter["marked"] or letter["id"] in late:
                    continue
                if letter["id"] < last.get(sender, 0):
                    what = f"{seat} got {letter['id']} of {sender} after {last[sender]}"
                    yield Violation("in order", what, case.about(letter["id"]))
                last[sender] = letter["id"]


def _late(case: Case) -> set[int]:
    """Messages whose delivery to some recipient was created after the send: retained broadcasts."""
    found, newest = set(), 0
    for step in case.evidence.steps:
        if step.table == "deliveries" and step.change == "insert":
            if step.number < newest:
                found.add(step.number)
            newest = max(newest, step.number)
    return found
