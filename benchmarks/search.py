"""The cost of searching many messages, beside reading through them as far as the same answer needs.

    python benchmarks/search.py [--messages N] [--rounds N] [--quick]

Also: what the index adds to the file, how long one step of indexing keeps writers waiting, how long a file of the
version before takes to open for the first time, and a writer's latency while four programs search without a pause.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from figures import Figure, plain

from claude_bus.drivers.sqlite import checkpoint, connect, look, transact
from claude_bus.model.identity import Address
from claude_bus.model.messages import Draft
from claude_bus.sql import columns, messages, search

NAMES = ("ann", "bob", "carol", "dave")
SEARCHERS = 4
KINDS = {
    "a word in every message": ("ann", "everywhere"),
    "a word in a few": ("ann", "needle"),
    "a word in none": ("ann", "zzyzx"),
    "a word whose parts are frequent": ("ann", "thereve nd"),
    "several words, in none": ("ann", "everywhere needle"),
    "one frequent character": ("ann", "e"),
    "one rare character": ("ann", "\u90e8"),
    "two rare characters": ("ann", "\u90e8\u7f72"),
    "an emoji": ("ann", "\U0001f389"),
    "quotes and operators": ("ann", '"x" AND NOT (y*)'),
    "a word in every message, few of them mine": ("few", "everywhere"),
    "a word in every message, none of them mine": ("nobody", "everywhere"),
}
LOOP = "import sys; sys.path[:0] = sys.argv[2:]; import search; search.search_on(sys.argv[1])"


def texts(count: int) -> Iterator[str]:
    """Texts of 5 to 35 made-up words, of which some are frequent, as in a language."""
    dice = random.Random(1)
    letters = "etaoinshrdlcumwfgypbvkjxqz"
    words = ["".join(dice.choices(letters[: dice.choice((8, 14, 20, 26))], k=dice.randint(2, 9))) for _ in range(8_000)]
    weights = list(itertools.accumulate(1 / (n + 3) for n in range(len(words))))
    for n in range(1, count + 1):
        rare = " needle \u90e8\u7f72 \U0001f389" if n % max(20, count // 40) == 7 else ""
        yield " ".join(dice.choices(words, cum_weights=weights, k=dice.randint(5, 35))) + rare + " everywhere"


def fill(connection: sqlite3.Connection, count: int) -> None:
    """Messages between four names, each read; one name that got five of them."""
    dice = random.Random(2)
    pairs = [dice.sample(NAMES, 2) for _ in range(count)]
    few = range(1, count + 1, max(1, count // 5))
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO agents (channel, name) VALUES ('default', ?)", [(n,) for n in (*NAMES, "few")])
    connection.executemany(
        "INSERT INTO messages (ts, sender, recipient, content) VALUES (?, ?, ?, ?)",
        ((float(n), *pair, text) for n, (pair, text) in enumerate(zip(pairs, texts(count), strict=True), 1)),
    )
    read = itertools.chain(((n, to) for n, (_, to) in enumerate(pairs, 1)), ((n, "few") for n in few))
    connection.executemany("INSERT INTO deliveries (message, recipient, state) VALUES (?, ?, 'read')", read)
    connection.execute("COMMIT")


def find(connection: sqlite3.Connection, who: str, wanted: str) -> None:
    look(connection, 0.0, _alive, lambda tx: messages.look_back(tx, Address(who, "default"), search=wanted))


def read_through(connection: sqlite3.Connection, who: str, wanted: str) -> None:
    """The search of versions without an index."""
    connection.execute(
        "SELECT m.id FROM messages m WHERE (m.sender = ? OR m.broadcast = 1 OR EXISTS (SELECT 1 FROM deliveries v "
        "WHERE v.message = m.id AND v.channel = 'default' AND v.recipient = ?)) AND mentions(m.content, ?) "
        "ORDER BY m.id DESC LIMIT 20",
        (who, who, wanted),
    ).fetchall()


def _alive(_process: object, _heartbeat: float) -> bool:
    return True


def seconds(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def index(connection: sqlite3.Connection, path: Path) -> list[float]:
    """Index all; the seconds that each step took."""
    taken: list[float] = []
    more = True

    def step() -> None:
        nonlocal more
        more = look(connection, 0.0, _alive, search.keep_up)

    while more:
        taken.append(seconds(step))
        if len(taken) % 50 == 0:
            checkpoint(connection, path)
    checkpoint(connection, path)
    return taken


def search_on(path: str) -> None:
    """Search for good, as another program."""
    connection = connect(Path(path), 5.0)
    print("ready", flush=True)
    for who, wanted in itertools.cycle(KINDS.values()):
        find(connection, who, wanted)


@contextmanager
def searchers(path: Path, count: int) -> Iterator[None]:
    command = [sys.executable, "-c", LOOP, str(path), str(Path(__file__).parent), *sys.path]
    programs = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for program in programs:
            assert program.stdout
            program.stdout.readline()
        yield
    finally:
        for program in programs:
            program.kill()
            program.communicate()


def sending(connection: sqlite3.Connection, rounds: int) -> list[float]:
    """Milliseconds of each of so many messages, which are committed to the disk."""
    ann = Address("ann", "default")
    draft = Draft(("bob",), "hello")
    return [1000 * seconds(lambda: transact(connection, 1e9, _alive, messages.send, ann, draft)) for _ in range(rounds)]


def first_opening(path: Path) -> float:
    """Seconds in which a file of schema version 7 becomes one of today's."""
    connection = connect(path, 5.0)
    connection.executescript(
        "DROP INDEX messages_sender; DROP TRIGGER messages_edited; DROP TABLE search_blocks; PRAGMA user_version = 7"
    )
    connection.close()
    return seconds(lambda: connect(path, 5.0).close())


def measured(folder: Path, stored: int, rounds: int) -> list[Figure]:
    """All figures of this file, with so many messages stored."""
    path = folder / "bus.db"
    connection = connect(path, 5.0)
    connection.create_function(
        "mentions", 2, lambda content, wanted: columns.finder(wanted)(content), deterministic=True
    )
    connection.execute("PRAGMA synchronous = OFF")
    fill(connection, stored)
    checkpoint(connection, path)
    opened, size = first_opening(path), path.stat().st_size
    steps = index(connection, path)
    many = f"{stored:,} messages"
    figures = [
        Figure(f"the index of {many}", (path.stat().st_size - size) / 2**20, "MiB", size / 2**20, "the file without"),
        Figure("a step of indexing, median", 1000 * statistics.median(steps), "ms", 0.0, f"{len(steps)} steps"),
        Figure("a step of indexing, longest", 1000 * max(steps), "ms", 0.0, ""),
        Figure("the first opening of a file without an index", 1000 * opened, "ms", 0.0, ""),
    ]
    for name, (who, wanted) in KINDS.items():
        ours = [seconds(partial(find, connection, who, wanted)) for _ in range(rounds)]
        base = min(seconds(partial(read_through, connection, who, wanted)) for _ in range(2))
        what = f"20 hits: {name}"
        figures.append(
            Figure(what, 1000 * statistics.median(ours), "ms", 1000 * base, "reading through them", "<= 50 ms")
        )
    connection.execute("PRAGMA synchronous = FULL")
    quiet = sending(connection, 50 * rounds)
    with searchers(path, SEARCHERS):
        busy = sending(connection, 50 * rounds)
    connection.close()
    what = f"sending while {SEARCHERS} programs search"
    for part, choose in (("median", statistics.median), ("longest", max)):
        figures.append(Figure(f"{what}, {part}", choose(busy), "ms", choose(quiet), "while none does"))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few messages and rounds: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.messages, options.rounds = 2_000, 2
    with tempfile.TemporaryDirectory() as name:
        print(plain(measured(Path(name), options.messages, options.rounds)))


if __name__ == "__main__":
    main()
