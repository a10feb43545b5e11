"""`python -m claude_bus` and the console script `claude-bus`."""

from __future__ import annotations

import sys

_OLDEST = (3, 11)


def main() -> int:
    """Run the command line; return the exit status."""
    if sys.version_info[:2] < _OLDEST:  # from a checkout, or copied by a tool: it cannot be installed there
        print("claude-bus needs Python 3.11 or newer; this is {}.{}".format(*sys.version_info[:2]), file=sys.stderr)
        return 1
    if len(sys.argv) == 1 and sys.stdin and not sys.stdin.isatty():  # a client: it starts with each of its sessions
        from .cli.start import supervised

        supervised()
    from .cli.main import run

    return run(sys.argv[1:])


def serve() -> int:
    """Run `claude-bus-http`: the command `serve`, under the original system's name for it."""
    from .cli.main import run

    return run(["serve", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
