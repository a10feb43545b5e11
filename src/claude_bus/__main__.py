"""`python -m claude_bus` and the console script `claude-bus`."""

from __future__ import annotations

import sys

_OLDEST = (3, 11)


def main() -> int:
    """Run the command line; returns the exit status."""
    if sys.version_info[:2] < _OLDEST:  # a checkout's, or one that a tool took: installed it cannot be
        print("claude-bus needs Python 3.11 or newer; this is {}.{}".format(*sys.version_info[:2]), file=sys.stderr)
        return 1
    from .cli.main import run

    return run(sys.argv[1:])


def serve() -> int:
    """`claude-bus-http`: the command `serve`, under the name that the original has for it."""
    from .cli.main import run

    return run(["serve", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
