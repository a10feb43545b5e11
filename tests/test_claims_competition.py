"""Eight real processes claim overlapping globs: no path is ever held by two, no list is granted in part.

Run as `python -m test_claims_competition NAME SEED COUNT` the module is one of them; BUS_DB names the file.
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
from itertools import product
from pathlib import Path

from actors import join, say, wait_for_go
from claude_bus.bus import open_bus
from claude_bus.config import Config
from claude_bus.errors import ClaimHeld
from claude_bus.model import Address
from claude_bus.sql import claims
from processes_under_test import Actor, environment
from store_under_test import Store

NAMES = ("ann", "ben", "cid", "dan", "eve", "fay", "gus", "hal")
GRANTS = 125
"""Lists that each process claims before it ends: a thousand together."""
REPO = "example.org/shop"

FOLDERS = ("api", "app", "web")
FILES = ("a.py", "b.py", "ab.py", "a.md", "b.md")
SEGMENTS = (*FOLDERS, "a*", "*b", "?pi", "[ab]*", "[!w]*", "*p*", "*", "**")
LEAVES = (*FILES, "*.py", "*.md", "a.*", "?.py", "[ab].md", "[!a]*", "*b.*", "*", "**")
TREE = [*FILES, *map("/".join, product(FOLDERS, FILES)), *map("/".join, product(FOLDERS, FOLDERS, FILES))]


def pattern(chance: random.Random) -> str:
    """A random path or glob over the tree: a file, a folder, or any mixture of wild segments."""
    folders = [chance.choice(SEGMENTS) for _ in range(chance.choice((0, 1, 1, 2)))]
    if folders and chance.random() < 0.2:
        return "/".join(folders)
    return "/".join([*folders, chance.choice(LEAVES)])


# -- one of the processes --------------------------------------------------------------------


async def compete(name: str, seed: str, count: str) -> None:
    """Claim random lists, giving everything back after each refusal and now and then besides.

    The reason of a claim is the list it belongs to, for the journal to show what was granted as one.
    """
    chance = random.Random(f"{seed} {name}")
    granted = refused = 0
    async with open_bus(Config.from_env(os.environ, Path.home())) as bus:
        me = await join(bus, name)
        wait_for_go()
        while granted < int(count):
            wanted = sorted({pattern(chance) for _ in range(chance.choice((1, 1, 2, 3)))})
            try:
                await bus.claim(me, [(REPO, path) for path in wanted], ttl=3600, reason=f"{len(wanted)} {name}{granted}")
            except ClaimHeld:
                refused += 1
                await bus.release(me, None)
                continue
            granted += 1
            if chance.random() < 0.3:
                await bus.release(me, [(REPO, chance.choice(wanted))])
        say(f"{granted} {refused}")
        sys.stdin.readline()  # claims end with their session: stay until all are done


class Competitor(Actor):
    """A process of this module."""

    def __init__(self, db: Path, name: str, seed: int) -> None:
        command = [sys.executable, "-m", "test_claims_competition", name, str(seed), str(GRANTS)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment(db), stdin=pipe, stdout=pipe, text=True)


# -- the check -------------------------------------------------------------------------------


def covers(glob: str) -> frozenset[str]:
    """The paths of the tree a pattern stands for, by a translation to regular expressions."""
    parts = [r"(?:[^/]+/)*" if part == "**" else f"{_segment(part)}/" for part in glob.split("/")]
    whole = re.compile("".join(parts) + r"(?:[^/]+/)*")
    return frozenset(path for path in TREE if whole.fullmatch(f"{path}/"))


def _segment(part: str) -> str:
    translated = {"*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\[[^]]+\]|.", part)
    return "".join(translated.get(t) or (t.replace("[!", "[^/") if len(t) > 1 else re.escape(t)) for t in tokens)


class Journal:
    """What was claimed and released, in the database's own order."""

    def __init__(self, store: Store) -> None:
        query = "SELECT actor, verb, subject, detail FROM events WHERE verb IN ('claim', 'release') ORDER BY id"
        self._rows = store.rows(query)

    def moments(self) -> Iterator[tuple[str, str, dict[str, set[str]]]]:
        """At each grant: to whom, of what, and the patterns everybody holds from then on."""
        held: dict[str, set[str]] = defaultdict(set)
        for actor, verb, path, _ in self._rows:
            if verb == "release":
                held[actor].remove(path)
            else:
                held[actor].add(path)
                yield actor, path, held

    def held(self) -> set[tuple[str, str]]:
        """What is held at the end, by whom."""
        *_, (_, _, held) = self.moments()
        for actor, verb, path, _ in self._rows[self._last_grant() + 1 :]:
            assert (actor, verb) != (actor, "release") or path not in held[actor]
        return {(actor, path) for actor, paths in held.items() for path in paths}

    def _last_grant(self) -> int:
        return max(n for n, row in enumerate(self._rows) if row[1] == "claim")

    def lists(self) -> Counter[str]:
        """How many claims of each list were granted; the reason tells how many there should be."""
        return Counter(detail for _, verb, _, detail in self._rows if verb == "claim")


def test_no_path_is_ever_held_by_two_and_no_list_granted_in_part(tmp_path: Path) -> None:
    """Eight processes are granted a thousand random lists of overlapping globs; brute force over all paths agrees."""
    db = tmp_path / "bus.db"
    store = Store(db)
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")

    said = _compete([Competitor(db, name, seed) for name in NAMES], store)

    journal = Journal(store)
    for actor, path, held in journal.moments():
        mine = covers(path)
        for other, patterns in held.items():
            assert other == actor or not any(mine & covers(p) for p in patterns), (seed, actor, path, other, patterns)
    assert sum(granted for granted, _ in said) == 1000
    assert sum(refused for _, refused in said) > 100
    partial = {reason: count for reason, count in journal.lists().items() if count != int(reason.split()[0])}
    assert partial == {}
    assert len(journal.lists()) == 1000
    store.connection.close()
