"""Settings that commands take from their environment: the home folder, and those of the agent-bus commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from ..config import AgentBus


def home() -> Path | None:
    """Return this user's home folder.

    None for a user without one, and if HOME is relative, because it would differ in each folder.
    """
    try:
        found = Path(os.environ.get("HOME") or _of_passwd()) if os.name == "posix" else Path.home()
    except (ImportError, KeyError, RuntimeError):
        return None
    return found if found.is_absolute() else None


def _of_passwd() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_dir


def agent_bus(options: argparse.Namespace, *, needed: bool = False) -> AgentBus:
    """Return the settings from the environment; `--channel` overrides it. With `needed` an address must be set."""
    from dataclasses import replace

    from .. import limits
    from ..config import AgentBus
    from ..errors import InvalidInput

    settings = AgentBus.from_env(os.environ, home(), sys.platform)
    if needed and not settings.url:
        raise InvalidInput("AGENT_BUS_URL env var required: the address of the bus, such as https://host:8765")
    if options.channel:
        settings = replace(settings, channel=options.channel)
    return replace(settings, channel=limits.check_line(settings.channel, "AGENT_BUS_CHANNEL"))
