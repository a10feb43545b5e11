"""The cost of the guard for an edit of an unclaimed file, beside a hook that does nothing.

    python benchmarks/guard.py [--rounds N] [--quick] [--json]

The hook call of an edit, over stdio, with nobody's claims and with as many of others in the same
repository as a channel may have globs, and twice as many. The first edit of a file also claims it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import BUS, NO_OP, NOTHING, environment, median_ms
from figures import Figure, plain
from wire import Server

from claude_bus import claim_paths, worktree
from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.model.identity import Address
from claude_bus.sql import agents
from claude_bus.sql import claims as sql_claims

HOLDERS = 5
AT_ONCE = 10
"""Patterns in one claim: to compare many with all that there are is refused."""


def repository(folder: Path) -> Path:
    """As much of a repository as is looked at."""
    git = folder / ".git"
    git.mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (folder / "src").mkdir()
    return folder


def ordinary(number: int) -> str:
    """Files and folders, as people claim them."""
    return f"lib/part{number}/**" if number % 4 == 0 else f"lib/part{number}/module.py"


def awkward(number: int) -> str:
    """Globs that no common beginning tells apart from a path."""
    return f"**/part{number}*/**/*.md"


KINDS = (
    ("no claims", ordinary, 0),
    ("files and folders", ordinary, 2 * claim_paths.MAX_CHANNEL_GLOB_CLAIMS),
    ("awkward globs", awkward, claim_paths.MAX_CHANNEL_GLOB_CLAIMS),
)


async def claims(config: Config, shop: Path, patterns: list[str]) -> None:
    """Have others claim these patterns, each its share, and nothing else; shared, as they may overlap."""
    where = worktree.folder(shop)
    async with open_local(config) as bus:
        holders = [Address(f"holder{number}", "default") for number in range(HOLDERS)]
        for holder in holders:
            await bus.run(agents.join_without_session, holder, "benchmark")
            await bus.run(sql_claims.release, holder, None)
        for number, holder in enumerate(holders):
            share = [worktree.claimed(where, pattern) for pattern in patterns[number::HOLDERS]]
            for start in range(0, len(share), AT_ONCE):
                await bus.run(
                    sql_claims.claim, holder, share[start : start + AT_ONCE], ttl=3_600, shared=True, reason=""
                )


def hook(server: Server, path: Path) -> None:
    server.call("hook", event="PreToolUse", session_id="s", path=str(path))


def edits(server: Server, shop: Path, name: str, rounds: int) -> dict[str, float]:
    """Milliseconds of the hook for files nobody edited yet, and for one that was edited before."""
    numbers = iter(range(rounds))
    first = median_ms(lambda: hook(server, shop / "src" / f"{name}{next(numbers)}.py"), rounds)
    return {
        "first edit of a file": first,
        "further edits of it": median_ms(lambda: hook(server, shop / "src" / f"{name}0.py"), rounds),
    }


def measured(folder: Path, rounds: int) -> list[Figure]:
    shop = repository(folder / "shop")
    env = environment(folder)
    taken: dict[str, float] = {}
    with ExitStack() as stack:
        nothing = stack.enter_context(Server(NOTHING, env))
        bob = stack.enter_context(Server(BUS, env))
        bob.call("register", name="bob")
        edits(bob, shop, "warm", rounds)
        for kind, pattern, count in KINDS:
            asyncio.run(claims(Config(Path(env["BUS_DB"])), shop, [pattern(n) for n in range(count)]))
            what = f"{count:,} claims, {kind}" if count else kind
            taken |= {f"{edit}, {what}": ms for edit, ms in edits(bob, shop, kind, rounds).items()}
        base = median_ms(lambda: nothing.call("nothing"), rounds)
    return [Figure(f"guard: {name}", ms, "ms", base, NO_OP) for name, ms in taken.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2
    with tempfile.TemporaryDirectory() as name:
        figures = measured(Path(name), options.rounds)
    print(json.dumps([each.as_dict() for each in figures]) if options.json else plain(figures))


if __name__ == "__main__":
    main()
