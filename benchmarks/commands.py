"""The cost of a command of the shell, beside a Python interpreter that does nothing.

    python benchmarks/commands.py [--rounds N] [--quick] [--json]

Each command runs in a process of its own, as a person's or a script's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from bench import BUS, environment
from cost import Cost, cost
from figures import Figure, plain

NOTHING = [sys.executable, "-c", "pass"]
PATH_IN_TEXT = "look at src/claude_bus/http/api/messages.py:88 and https://example.org/a/long/path?page=2"
COMMANDS = {
    "send bob 'hello there'": ["send", "bob", "hello there"],
    "send bob '<a path and an address>'": ["send", "bob", PATH_IN_TEXT],
    "inbox": ["inbox"],
    "agents": ["agents"],
}
GOALS = dict.fromkeys(list(COMMANDS)[:2], "<= 80 ms, <= 25 MiB")


def measured(folder: Path, rounds: int) -> list[Figure]:
    """Return the figures of all commands: medians of so many rounds, taken by turns."""
    env = environment(folder)
    asked = {"": NOTHING, **{name: [*BUS, *words] for name, words in COMMANDS.items()}}
    for command in asked.values():  # the first one creates the bus
        cost(command, env, folder)
    found: dict[str, list[Cost]] = {name: [] for name in asked}
    for _ in range(rounds):
        for name, command in asked.items():
            found[name].append(cost(command, env, folder))
    figures = []
    for name in COMMANDS:
        for part, unit in (("wall", "ms"), ("processor", "ms"), ("memory", "MiB")):
            ours, base = (statistics.median(getattr(each, part) for each in found[which]) for which in (name, ""))
            what = f"claude-bus {name}, {part}"
            figures.append(Figure(what, ours, unit, base, "an empty Python", GOALS.get(name, "")))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = measured(Path(name), 2 if options.quick else options.rounds)
    print(json.dumps([each.as_dict() for each in figures]) if options.json else plain(figures))


if __name__ == "__main__":
    main()
