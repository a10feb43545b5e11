"""What the guard costs an edit of an unclaimed file, beside a hook that does nothing.

    python benchmarks/guard.py [--rounds N] [--json]

The hook call of an edit, over stdio, with nobody's claims and with a thousand of another
session's in the same repository. The first edit of a file also claims it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench import BUS, NOTHING, Figures, beside, environment, median_ms, table
from wire import Server

CLAIMS = 1_000
AT_ONCE = 100


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


def measure(folder: Path, rounds: int) -> Figures:
    shop = repository(folder / "shop")
    env = environment(folder)
    taken: dict[str, float] = {}
    with ExitStack() as stack:
        nothing = stack.enter_context(Server(NOTHING, env))
        alice = stack.enter_context(Server(BUS, env))
        bob = stack.enter_context(Server(BUS, env))
        alice.call("register", name="alice")
        bob.call("register", name="bob")
        edits(bob, shop, "warm", 20)
        for kind, pattern in (("no claims", None), ("files and folders", ordinary), ("awkward globs", awkward)):
            alice.call("release")
            for start in range(0, CLAIMS if pattern else 0, AT_ONCE):
                paths = [f"{shop}/{pattern(n)}" for n in range(start, start + AT_ONCE)] if pattern else []
                alice.call("claim", path=paths)
            what = f"1,000 claims, {kind}" if pattern else kind
            taken |= {f"{edit}, {what}, ms": ms for edit, ms in edits(bob, shop, kind, rounds).items()}
        base = median_ms(lambda: nothing.call("nothing"), rounds)
    return {name: beside(ms, base) for name, ms in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), options.rounds)
    print(json.dumps(figures) if options.json else table(figures))


if __name__ == "__main__":
    main()
