"""The rules of shared state: versions without gaps, each write accepted once, everything linearizable."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from sqlite3 import Row

from .case import SLACK, Case, Violation
from .journal import Line

_VERSION = re.compile(r"\(version (\d+)\)")


def versions(case: Case) -> Iterator[Violation]:
    """The history of each key counts from one without a gap, and ends with the key's current value."""
    for key, rows in _histories(case).items():
        found = [row["version"] for row in rows]
        if found != list(range(1, len(rows) + 1)):
            yield Violation("linearizable", f"versions of '{key}' have gaps: {found}")
        now = [row for row in case.evidence.state if row["key"] == key]
        if [(row["version"], row["value"]) for row in now] != [(rows[-1]["version"], rows[-1]["value"])]:
            yield Violation("linearizable", f"'{key}' holds {[tuple(r) for r in now]}, its last is {tuple(rows[-1])}")


def swaps(case: Case) -> Iterator[Violation]:
    """Each value was made from the one before; accepted values are stored, refused ones are not."""
    histories = _histories(case)
    for key in ("x", "y"):
        rows = histories.get(key, [])
        for before, after in itertools.pairwise(rows):
            if _made_from(after) != before["value"].split("<")[0]:
                yield Violation("linearizable", f"'{key}': {after['value']} came after {before['value']}")
    for seat, line in case.lines("swapped"):
        yield from _swapped(seat, line, histories.get(line["key"], []))


def _made_from(row: Row) -> str:
    value: str = row["value"]
    return value.partition("<")[2]


def _swapped(seat: str, line: Line, rows: list[Row]) -> Iterator[Violation]:
    stored = [row["version"] for row in rows if row["value"] == line["value"]]
    told = _VERSION.search(line["text"])
    if line["outcome"] == "ok" and (not told or stored != [int(told[1])] or stored != [line["expected"] + 1]):
        yield Violation("linearizable", f"{seat} was told of {line}; it is stored as {stored}")
    if line["outcome"] == "refused" and stored:
        yield Violation("linearizable", f"{seat} was refused {line}; it is stored as {stored}")


def appends(case: Case) -> Iterator[Violation]:
    """Each version of the log is the one before plus a line; an accepted line is there exactly once."""
    rows = _histories(case).get("log", [])
    lines: list[str] = []
    for row in rows:
        now = row["value"].split("\n")
        if now[:-1] != lines:
            yield Violation("linearizable", f"version {row['version']} of 'log' does not continue the one before")
        lines = now
    for seat, line in case.lines("appended"):
        count = lines.count(line["token"])
        if count > 1 or (line["outcome"] == "ok") > count or (line["outcome"] == "refused" and count):
            yield Violation("linearizable", f"{line['token']} of {seat}: {line['outcome']}, {count} times in the log")


def real_time(case: Case) -> Iterator[Violation]:
    """An operation that ends before another begins also precedes it in the history, for reads as well."""
    done: dict[str, list[tuple[float, float, int, str]]] = defaultdict(list)
    for seat, line in case.lines("swapped", "looked"):
        version = line.get("version")
        if line.get("outcome") == "ok":
            version = line["expected"] + 1
        if version is not None:
            done[line["key"]].append((line["begun"], line["t"], version, seat))
    for key, operations in done.items():
        yield from _in_real_time(key, operations)


def _in_real_time(key: str, operations: list[tuple[float, float, int, str]]) -> Iterator[Violation]:
    """No operation begins after the end of one that had seen, or made, a later version."""
    ends = sorted((end, version, seat) for _, end, version, seat in operations)
    position, newest = 0, (0.0, 0, "")
    for begun, _, version, seat in sorted(operations):
        while position < len(ends) and ends[position][0] < begun - SLACK:
            newest = max(newest, ends[position], key=lambda one: one[1])
            position += 1
        if version < newest[1]:
            yield Violation(
                "linearizable", f"{seat} met version {version} of '{key}' after {newest[2]} had {newest[1]}"
            )


def _histories(case: Case) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in case.evidence.history:
        found[row["key"]].append(row)
    return found
