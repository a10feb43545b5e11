"""The start of a session's server, with no more imports than it needs."""

from __future__ import annotations

import os
import sys

from .. import supervisor
from .settings import home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


def supervised(serve: Callable[[], int] | None = None) -> NoReturn:
    """Run the server of a session below a parent that restarts it; `serve` is all that the server does."""
    if supervisor.forks():
        supervisor.supervise(supervisor.forking(serve or _serve))
    supervisor.supervise(supervisor.spawning([sys.executable, *sys.orig_argv[1:], "stdio"]))


def _serve() -> int:
    """Serve with the settings of the environment; return the exit status."""
    from ..config import Config
    from ..errors import BusError

    try:
        config = Config.from_env(os.environ, home())
    except BusError as error:
        from ..quoting import visible

        print(f"claude-bus: {visible(error.message)}", file=sys.stderr)
        return error.exit_status
    from ..mcp.stdio import serve

    serve(config)
    return 0
