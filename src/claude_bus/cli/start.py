"""The start of a session's server, with no more imports than it needs."""

from __future__ import annotations

import os
import sys

from .. import supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ..config import Config


def supervised(serve: Callable[[], int] | None = None) -> NoReturn:
    """Run the server of a session below a parent that restarts it; `serve` is all that the server does."""
    if supervisor.forks():
        supervisor.supervise(supervisor.forking(serve or _serve))
    supervisor.supervise(supervisor.spawning([sys.executable, *sys.orig_argv[1:], "stdio"]))


def _serve() -> int:
    """Serve with the settings of the environment; return the exit status.

    A client whose settings are refused must not be answered. Most users have none, and need not wait for the check.
    """
    from ..mcp.stdio import serve

    if _are_defaults():
        serve(_config)
        return 0
    from ..errors import BusError

    try:
        config = _config()
    except BusError as error:
        from ..quoting import visible

        print(f"claude-bus: {visible(error.message)}", file=sys.stderr)
        return error.exit_status
    serve(lambda: config)
    return 0


def _are_defaults() -> bool:
    """Return whether nothing is set that could be refused."""
    return os.path.isabs(os.environ.get("HOME", "")) and not any(  # noqa: PTH117 - pathlib is not loaded for this
        name.startswith(("BUS_", "AGENT_BUS_")) for name in os.environ
    )


def _config() -> Config:
    from ..config import Config
    from .settings import home

    return Config.from_env(os.environ, home())
