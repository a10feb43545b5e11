"""Eight real processes claim overlapping globs: no path is ever held by two, no list is granted in part.

The module is one of them when it is run as `python -m tests.system.test_claims_competition NAME SEED COUNT`;
BUS_DB names the file.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import count, product
from pathlib import Path

import pytest

from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.errors import ClaimHeld
from claude_bus.local import LocalBus
from claude_bus.model.identity import Address
from claude_bus.sql import claims
from tests.support.actors import CHANNEL, join, say, wait_for_go
from tests.support.processes import Actor, environment
from tests.support.store import Store

pytestmark = pytest.mark.slow

NAMES = ("ann", "ben", "cid", "dan", "eve", "fay", "gus", "hal")
GRANTS = 125
"""Lists that each process claims before it ends: a thousand together."""
REPO = "example.org/shop"

FOLDERS = ("api", "app", "doc", "web")
FILES = ("a.py", "b.py", "ab.py", "a.md", "b.md")
SEGMENTS = (*FOLDERS * 3, "a*", "*b", "?pi", "[ab]*", "[!w]*", "*p*", "*", "**")
LEAVES = (*FILES * 2, "*.py", "*.md", "a.*", "?.py", "[ab].md", "[!a]*", "*b.*", "*", "**")
TREE = [*FILES, *map("/".join, product(FOLDERS, FILES)), *map("/".join, product(FOLDERS, FOLDERS, FILES))]


def pattern(chance: random.Random) -> str:
    """A random path or glob over the tree: a file, a folder, or any mixture of wild segments."""
    folders = [chance.choice(SEGMENTS) for _ in range(chance.choice((1, 2, 2)))]
    return "/".join(folders if chance.random() < 0.1 else [*folders, chance.choice(LEAVES)])


# -- one of the processes --------------------------------------------------------------------


async def compete(name: str, seed: str, grants: str) -> None:
    """Claim random lists until so many were granted; says how many were refused.

    A process that is refused gives back all it has, so that some process always gets on. The reason
    of a claim is the list it belongs to: the journal then shows what was granted as one.
    """
    chance = random.Random(f"{seed} {name}")
    refused = 0
    async with open_local(Config.from_env(os.environ, Path.home())) as bus:
        me = await join(bus, name)
        wait_for_go()
        for number in range(int(grants)):
            refused += await claim_a_list(bus, me, chance, f"{name} {number}")
            if chance.random() < 0.4:
                held = [claim.path for claim in await bus.run(claims.list_claims, CHANNEL) if claim.owner == name]
                await bus.run(
                    claims.release, me, [(REPO, path) for path in chance.sample(held, chance.randint(1, len(held)))]
                )
        await bus.run(claims.release, me, None)
        say(refused)
        sys.stdin.readline()  # a session that ends gives its claims back: stay until all are done


async def claim_a_list(bus: LocalBus, me: Address, chance: random.Random, label: str) -> int:
    """Be granted a random list; returns how many were refused before."""
    for refused in count():
        wanted = sorted({pattern(chance) for _ in range(chance.choice((1, 2, 3)))})
        try:
            await bus.run(
                claims.claim, me, [(REPO, path) for path in wanted], ttl=3600, reason=f"{len(wanted)} {label}"
            )
        except ClaimHeld:
            await bus.run(claims.release, me, None)
        else:
            return refused
    raise AssertionError


class Competitor(Actor):
    """A process of this module."""

    def __init__(self, db: Path, name: str, seed: int) -> None:
        command = [sys.executable, "-m", "tests.system.test_claims_competition", name, str(seed), str(GRANTS)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment(db), stdin=pipe, stdout=pipe, text=True)


# -- the check -------------------------------------------------------------------------------

Held = dict[str, set[str]]
"""The patterns that each process holds."""


@cache
def covers(glob: str) -> frozenset[str]:
    """The paths of the tree a pattern stands for, by a regular expression instead of the code under test."""
    folders = ["(?:[^/]+/)*" if part == "**" else f"{_segment(part)}/" for part in glob.split("/")]
    whole = re.compile("".join(folders) + "(?:[^/]+/)*")
    return frozenset(path for path in TREE if whole.fullmatch(f"{path}/"))


def _segment(part: str) -> str:
    wild = {"*": "[^/]*", "?": "[^/]", "[!w]": "[^w/]", "[!a]": "[^a/]", "[ab]": "[ab]"}
    return "".join(wild.get(token) or re.escape(token) for token in re.findall(r"\[[^]]+\]|.", part))


def replay(store: Store, held: Held) -> Iterator[tuple[str, str]]:
    """Follow the journal, in the database's own order: after each grant, to whom and of what."""
    query = "SELECT actor, verb, subject FROM events WHERE verb IN ('claim', 'release') ORDER BY id"
    for actor, verb, path in store.rows(query):
        if verb == "release":
            held[actor].remove(path)
        else:
            held[actor].add(path)
            yield actor, path


def rivals(held: Held, actor: str, path: str) -> list[tuple[str, str]]:
    """The other agents that hold a path which the pattern stands for."""
    others = ((other, pattern) for other, patterns in held.items() if other != actor for pattern in patterns)
    return [(other, pattern) for other, pattern in others if covers(path) & covers(pattern)]


def lists(store: Store) -> Counter[str]:
    """How many claims of each list were granted; the reason begins with how many there should be."""
    return Counter(detail for (detail,) in store.rows("SELECT detail FROM events WHERE verb = 'claim'"))


def compete_together(competitors: list[Competitor]) -> list[int]:
    """Let all claim at once until each is done; how often each was refused."""
    try:
        for one in competitors:
            one.ready()
        for one in competitors:
            one.go()
        refused = [int(one.line()) for one in competitors]
        for one in competitors:
            one.go()
            one.rest()
        return refused
    finally:
        for one in competitors:
            one.kill()


def test_no_path_is_ever_held_by_two_and_no_list_is_granted_in_part(store: Store) -> None:
    """Eight processes are granted a thousand random lists of globs: brute force over all paths finds no two holders."""
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")
    refused = compete_together([Competitor(store.path, name, seed) for name in NAMES])

    held: Held = defaultdict(set)
    conflicts = [(*grant, found) for grant in replay(store, held) if (found := rivals(held, *grant))]
    granted = lists(store)

    assert conflicts == []
    assert {reason: claims for reason, claims in granted.items() if claims != int(reason.split()[0])} == {}
    assert len(granted) == GRANTS * len(NAMES)
    assert all(refused)
    assert not any(held.values())


def test_the_brute_force_knows_what_patterns_stand_for() -> None:
    """The check above relies on these: wild segments, sets, any depth, and what lies below a folder."""
    assert covers("a.py") == {"a.py"}
    assert covers("api/[ab].md") == {"api/a.md", "api/b.md"}
    assert covers("**/ab.py") == {path for path in TREE if path.endswith("ab.py")}
    assert covers("?pi") == covers("api/**") == covers("api") == {path for path in TREE if path.startswith("api/")}
    assert covers("[!a]*") == {path for path in TREE if not path.startswith("a")}
    assert covers("*/web/*") == {f"{folder}/web/{file}" for folder in FOLDERS for file in FILES}
    assert covers("**") == covers("*") == set(TREE)


if __name__ == "__main__":
    asyncio.run(compete(*sys.argv[1:]))
