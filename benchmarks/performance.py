"""One table of all costs that this project promises, each beside its baseline of the same run.

    python benchmarks/performance.py [--peers] [--only SECTION] [--without SECTION] [--write FILE] [--quick]

`--peers` also measures what a user could take instead. `--write` puts the tables into a page, in place of those that
it has; `docs/performance.md` is made like this. Needs CLAUDE_BIN and tmux, and takes some minutes. Machines differ and
are shared: compare the ratios, on a quiet machine.
"""

from __future__ import annotations

import argparse
import platform
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import bench
import client
import guard
import peers
import psutil
import search
import serving
import stored
from figures import Figure, markdown, plain

import commands

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
Measure = Callable[[Path, bool], list[Figure]]
"""Takes a folder of its own, and whether a few rounds are enough."""

SECTIONS: dict[str, Measure] = {
    "In Claude Code": lambda folder, quick: client.measured(folder, *((1, 1) if quick else (10, 20))),
    "A session's server": lambda folder, quick: bench.measured(folder, *((2, 0.5) if quick else (200, 30.0))),
    "Commands": lambda folder, quick: commands.measured(folder, 2 if quick else 20),
    "An edit with the claims of others": lambda folder, quick: guard.measured(folder, 2 if quick else 100),
    "A served bus": lambda folder, quick: serving.measured(folder, *((serving.BLOCK, 0.1) if quick else (400, 4.0))),
    "Search": lambda folder, quick: search.measured(folder, *((2_000, 2) if quick else (1_000_000, 5))),
    "With much mail stored": lambda folder, quick: stored.measured(folder, *((1_000, 2) if quick else (100_000, 50))),
}
PEERS = "Beside others"


def machine() -> str:
    """The machine and the versions of a run."""
    python, sqlite = platform.python_version(), sqlite3.sqlite_version
    cores, memory = psutil.cpu_count(), psutil.virtual_memory().total / 2**30
    day = datetime.now(UTC).date()
    system = f"{platform.system()} {platform.machine()}"
    return f"{system}, {cores} cores, {memory:.0f} GiB, Python {python}, SQLite {sqlite}, on {day:%d %B %Y}"


def page(text: str, tables: Sequence[tuple[str, list[Figure]]], command: str) -> str:
    """The text of a page with new tables. Raises `ValueError` if it has no place for them."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no lines {BEGIN} and {END}")
    parts = [f"Measured by `{command}` on {machine()}."]
    parts += [f"## {title}\n\n{markdown(figures)}" for title, figures in tables]
    return f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", action="store_true", help="also what a user could take instead")
    parser.add_argument("--only", choices=SECTIONS, help="one section")
    parser.add_argument("--without", choices=SECTIONS, help="all sections but one")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the page to put the tables into")
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run?")
    options = parser.parse_args()
    sections = {options.only: SECTIONS[options.only]} if options.only else dict(SECTIONS)
    sections.pop(options.without, None)
    if options.peers:
        sections[PEERS] = lambda folder, quick: peers.measured(folder, 2 if quick else 100)
    tables = []
    with tempfile.TemporaryDirectory() as name:
        for number, (title, measure) in enumerate(sections.items()):
            folder = Path(name) / str(number)
            folder.mkdir()
            figures = measure(folder, options.quick)
            print(title, plain(figures), sep="\n", end="\n\n", flush=True)
            tables.append((title, figures))
    if options.write:
        command = " ".join(["python benchmarks/performance.py", *sys.argv[1:]])
        text = options.write.read_text(encoding="utf-8")
        options.write.write_text(page(text, tables, command), encoding="utf-8")


if __name__ == "__main__":
    main()
