"""`claude-bus doctor`: is everything in order, and if not, what to do."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from .. import __version__, claude_code, detector, text
from ..config import Config
from ..drivers.inspect import Finding, inspect
from ..errors import BusError
from ..opening import open_bus
from . import git_hooks, installation


async def examine(config: Config, env: Mapping[str, str], home: Path, folder: Path) -> list[Finding]:
    """All findings, in the order they are told, of a user with this home who is in this folder."""
    case = installation.Case.find(env, home, folder, config.db)
    return [
        Finding("claude-bus", True, f"{__version__}, Python {platform.python_version()}, {sys.platform}"),
        *([await _elsewhere(config)] if config.url else inspect(config.db, config.busy_timeout)),
        _secrets(),
        *installation.examine(case),
        _doorbell(config, env),
        *git_hooks.findings(),
    ]


async def _elsewhere(config: Config) -> Finding:
    """Whether the bus that is served elsewhere lets us in."""
    with_token = f"{'with' if config.access.shown else 'without'} a token"
    try:
        async with open_bus(config) as bus:
            found = await bus.agents(config.channel)
    except BusError as error:
        return Finding("served at", False, f"{config.url}, {with_token}: {error.message}")
    here = [agent for agent in found if agent.status != "offline"]
    return Finding("served at", True, f"{config.url}, {with_token}; {text.plural(len(here), 'agent')} there now")


def _secrets() -> Finding:
    reason = detector.unusable()
    return Finding("secrets", not reason, f"not looked for: {reason}" if reason else "refused in messages and values")


def _doorbell(config: Config, env: Mapping[str, str]) -> Finding:
    if config.wake == "never":
        return Finding("doorbell", None, "off: BUS_WAKE=never")
    if not claude_code.keys_of_shell(env):
        return Finding("doorbell", None, "not in a Claude Code session's shell")
    path = env.get("CLAUDE_CODE_MESSAGING_SOCKET", "")
    if not path:
        return Finding("doorbell", None, "this client has no inbox socket: mail waits for the next prompt")
    there = sys.platform == "win32" or Path(path).exists()
    return Finding("doorbell", there, f"inbox socket {path}" + ("" if there else " is gone"))


def table(findings: list[Finding]) -> str:
    """One line each, with what is wrong marked."""
    marks = {True: "ok", False: "PROBLEM", None: "--"}
    return text.columns([(f.name, marks[f.ok], f.detail) for f in findings])
