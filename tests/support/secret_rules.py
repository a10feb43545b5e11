"""The contents of every match of a scanner's rule, read from its pattern: some literal, and a run of characters.

`python -m tests.support.secret_rules` prints the table of `claude_bus.secret_hints`, made from the installed scanner.
"""

from __future__ import annotations

import random
import re
import string
import sys
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from claude_bus import secret_hints

sre: Any = import_module("re._constants")
sre_parser: Any = import_module("re._parser")

HEX = frozenset("0123456789abcdef")
ALNUM = frozenset("0123456789abcdefghijklmnopqrstuvwxyz")
WORD = ALNUM | frozenset("_-")
BASE = WORD | frozenset("+/=.~%")
CLASSES = {"hex": HEX, "alnum": ALNUM, "word": WORD, "base": BASE}
"""Classes of characters, without case, from narrow to wide."""
OTHER = frozenset("\0")
"""Stands for all characters that are in no class."""
LEAST = 10
"""A shorter run says nothing."""
SHORTEST = 2
"""Characters of a literal that says anything."""
ORDINARY = frozenset(
    {
        "server",
        "enterprise",
        "live",
        "development",
        "read",
        "password",
        "services",
        "sandbox",
        "secret",
        "key",
        "session",
        "auth",
        "account",
        "api",
        "test",
        "access-",
        "client",
        "user",
        "production",
        "security",
        "token",
        "private",
        "message",
        "write",
        "prod",
    }
)
"""Literals that any text may contain: a rule is known by another one, if it has any."""


class Need(NamedTuple):
    """Every match contains one of the literals (without case; none if empty), and a run of a class so long."""

    literals: frozenset[str]
    kind: str
    run: int


@cache
def rules() -> dict[str, str]:
    """The patterns of the rules whose findings are told, by their names."""
    from kingfisher_sdk import Rules

    found = Rules()
    return {rule["id"]: found.detail(rule["id"])["detection_regex"] for rule in found.metadata() if rule["visible"]}


def parsed(pattern: str) -> Any:
    """The syntax tree of a pattern in Rust's syntax, without case."""
    python = pattern.replace("[[:alnum:]]", "[A-Za-z0-9]").replace("[:alnum:]", "A-Za-z0-9").replace(r"\z", r"\Z")
    flags = "".join(sorted({"i", *re.findall(r"\(\?([imsx])\)", python), *("x" * ("(?x)" in python))}))
    python = re.sub(r"\(\?[imsx]+\)", "", python).replace("(?-i:", "(?:")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sre_parser.parse(f"(?{flags}){python}")


def need(pattern: str) -> Need:
    """Return the contents that every match of the pattern has."""
    nodes = list(_flat(parsed(pattern)))
    kind, run = _run(nodes)
    return Need(frozenset(_literals(nodes)), kind, run)


def _flat(nodes: Iterable[Any]) -> Iterable[Any]:
    """The sequence of nodes, groups dissolved."""
    for operator, argument in nodes:
        if operator is sre.SUBPATTERN:
            yield from _flat(argument[3])
        else:
            yield operator, argument


def _literals(nodes: Sequence[Any]) -> set[str]:
    """The best set of literals one of which is in each match; empty if there is none."""
    best: set[str] = set()
    text = ""
    for operator, argument in [*nodes, (None, None)]:
        if operator is sre.LITERAL and chr(argument).isascii():
            text += chr(argument).lower()
            continue
        if operator is sre.IN and len(one := _characters(argument)) == 1 and one != OTHER:
            text += next(iter(one))
            continue
        candidates: list[set[str]] = [{text}] if text else []
        text = ""
        if operator is sre.BRANCH:
            branches = [_literals(list(_flat(branch))) for branch in argument[1]]
            candidates += [set().union(*branches)] if all(branches) else []
        elif operator in (sre.MAX_REPEAT, sre.MIN_REPEAT) and argument[0] >= 1:
            candidates.append(_literals(list(_flat(argument[2]))))
        best = max([best, *candidates], key=_value)
    return best


def _value(literals: set[str]) -> tuple[bool, bool, int, int]:
    shortest = min(map(len, literals), default=0)
    return shortest >= SHORTEST, shortest > SHORTEST and not literals & ORDINARY, shortest, -len(literals)


def _run(nodes: Sequence[Any]) -> tuple[str, int]:
    """The class and length of the longest run that each match has."""
    best = ("base", 0)
    for operator, argument in nodes:
        if operator in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            inner = list(_flat(argument[2]))
            found = _run(inner) if argument[0] else ("base", 0)
            if len(inner) == 1 and inner[0][0] in (sre.IN, sre.LITERAL, sre.RANGE):
                characters = _characters(inner[0][1]) if inner[0][0] is sre.IN else {chr(inner[0][1]).lower()}
                found = max(found, (_class(characters), argument[0] if _class(characters) else 0), key=_worth)
        elif operator is sre.BRANCH:
            branches = [_run(list(_flat(branch))) for branch in argument[1]]
            widest = max((kind for kind, _ in branches), key=list(CLASSES).index)
            found = (widest, min(length for _, length in branches))
        else:
            continue
        best = max(best, found, key=_worth)
    return best if best[1] >= LEAST else ("base", 0)


def _worth(run: tuple[str, int]) -> tuple[bool, float]:
    kind, length = run
    return length >= LEAST, length / {"hex": 1, "alnum": 1.2, "word": 1.6, "base": 3}.get(kind, 99)


def _class(characters: frozenset[str] | set[str]) -> str:
    return next((name for name, known in CLASSES.items() if characters <= known), "")


def _characters(items: Iterable[Any]) -> frozenset[str]:
    """The characters of a class, without case; of a class that is not of ASCII alone also one that no class has."""
    found: set[str] = set()
    for operator, argument in items:
        if operator is sre.LITERAL:
            found.add(chr(argument).lower())
        elif operator is sre.RANGE and argument[1] < 128:
            found.update(chr(code).lower() for code in range(argument[0], argument[1] + 1))
        elif operator is sre.CATEGORY and argument is sre.CATEGORY_DIGIT:
            found.update("0123456789")
        elif operator is sre.CATEGORY and argument is sre.CATEGORY_WORD:
            found.update(ALNUM | {"_"})
        else:
            found |= OTHER
    return frozenset(found)


def sample(pattern: str, choose: random.Random) -> str:
    """A text that the pattern matches, but for assertions about what surrounds it."""
    return "".join(_made(node, choose) for node in parsed(pattern))


def _made(node: tuple[Any, Any], choose: random.Random) -> str:  # noqa: PLR0911 - one for each kind of node
    operator, argument = node
    if operator is sre.LITERAL:
        return chr(argument)
    if operator is sre.ANY:
        return choose.choice(string.ascii_letters + " ")
    if operator is sre.NOT_LITERAL:
        return choose.choice([c for c in string.ascii_letters if ord(c) != argument])
    if operator is sre.IN:
        return choose.choice(_members(argument))
    if operator is sre.BRANCH:
        return "".join(_made(node, choose) for node in choose.choice(argument[1]))
    if operator is sre.SUBPATTERN:
        return "".join(_made(node, choose) for node in argument[3])
    if operator in (sre.MAX_REPEAT, sre.MIN_REPEAT):
        least, most, inner = argument
        count = choose.randint(least, min(int(most), least + 4))
        return "".join(_made(node, choose) for _ in range(count) for node in inner)
    return ""


def _members(items: Iterable[Any]) -> str:
    """The printable characters of a class; of one that excludes some, the letters and digits that it leaves."""
    found, negated = "", False
    for operator, argument in items:
        if operator is sre.NEGATE:
            negated = True
        elif operator is sre.LITERAL:
            found += chr(argument)
        elif operator is sre.RANGE:
            found += "".join(map(chr, range(argument[0], min(argument[1], 126) + 1)))
        elif operator is sre.CATEGORY and argument is sre.CATEGORY_SPACE:
            found += " "
        elif operator is sre.CATEGORY and argument is sre.CATEGORY_DIGIT:
            found += string.digits
        elif operator is sre.CATEGORY and argument is sre.CATEGORY_WORD:
            found += string.ascii_letters + string.digits
        else:
            found += string.ascii_letters
    left = "".join(c for c in string.ascii_letters + string.digits if c not in found) if negated else found
    return "".join(c for c in left if c.isprintable()) or " "


def table() -> dict[tuple[str, int], set[str]]:
    """The literals of all rules that have no shape, by the class and length of the run that they need."""
    found: dict[tuple[str, int], set[str]] = {}
    for name, pattern in rules().items():
        if name not in secret_hints.SHAPES and name not in secret_hints.CHECKED:
            one = need(pattern)
            found.setdefault((one.kind, one.run), set()).update(one.literals or {""})
    return found


def written() -> str:
    """The table as `claude_bus.secret_hints` has it."""
    rows = (
        f"    ({kind!r}, {run}, {tuple(sorted(literals))!r}),\n" for (kind, run), literals in sorted(table().items())
    )
    return f"NEEDS: tuple[tuple[str, int, tuple[str, ...]], ...] = (\n{''.join(rows)})\n"


if __name__ == "__main__":
    sys.stdout.write(written())
