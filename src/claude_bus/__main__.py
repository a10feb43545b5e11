"""`python -m claude_bus` and the console script `claude-bus`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; returns the exit status."""
    from .cli.main import run

    return run(sys.argv[1:])


def serve() -> int:
    """`claude-bus-http`: the command `serve`, under the name that the original has for it."""
    from .cli.main import run

    return run(["serve", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
