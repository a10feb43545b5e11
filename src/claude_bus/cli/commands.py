"""The commands by their names. Each is a module that is imported when the command is given."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Coroutine, Mapping
from importlib import import_module
from typing import Any

from ..config import Config

Command = Callable[[argparse.Namespace, Config], Coroutine[Any, Any, int]]
"""Prints its outcome and returns the exit status."""

COMMANDS: Mapping[str | None, tuple[str, str]] = {
    None: ("cli.agents", "show_status"),
    "send": ("cli.send", "send"),
    "inbox": ("cli.inbox", "inbox"),
    "agents": ("cli.agents", "agents"),
    "doctor": ("cli.doctor", "doctor"),
    "guard": ("cli.guard", "guard"),
    "token": ("cli.tokens", "token"),
    "recv": ("compat.cli.recv", "recv"),
    "listen": ("compat.cli.listen", "listen"),
    "send-file": ("compat.cli.chunks", "send_file"),
    "recv-file": ("compat.cli.chunks", "recv_file"),
    "import": ("compat.cli.archive", "import_"),
    "export": ("compat.cli.archive", "export"),
}
"""Module and function of each command."""

_POSTS = ("send", "send-file", "recv-file")
"""Commands that use the bus that AGENT_BUS_URL names."""


def command(name: str | None) -> Command:
    """The function of a command; without a name it shows the status."""
    module, function = COMMANDS[name]
    found: Command = getattr(import_module(f"claude_bus.{module}"), function)
    return found


def waits(options: argparse.Namespace, config: Config, env: Mapping[str, str]) -> bool:
    """Whether the command waits, for mail or for a bus elsewhere, and so needs an event loop."""
    elsewhere = config.url or (options.command in _POSTS and env.get("AGENT_BUS_URL"))
    return bool(elsewhere or options.command in ("recv", "listen") or getattr(options, "wait", 0))
