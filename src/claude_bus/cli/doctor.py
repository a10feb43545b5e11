"""`claude-bus doctor`: is everything in order, and if not, what to do."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from .. import __version__, claude_code, detector, extras, text, worktree
from ..config import Config
from ..connect import open_for_command
from ..drivers.inspect import Finding, inspect
from ..errors import BusError
from ..sql import agents
from . import git_hooks, installation, printing
from .identity import session_of_shell
from .output import show
from .settings import home


async def doctor(options: argparse.Namespace, config: Config) -> int:
    """Check everything; 1 if something is wrong."""
    findings = await examine(config, os.environ, home() or Path(os.sep), worktree.here(os.environ))
    fine = all(finding.ok is not False for finding in findings)
    checks = [{"name": f.name, "ok": f.ok, "detail": f.detail} for f in findings]
    show(options, {"ok": fine, "checks": checks}, table(findings))
    return 0 if fine else 1


async def examine(config: Config, env: Mapping[str, str], home: Path, folder: Path) -> list[Finding]:
    """All findings, in the order they are told, of a user with this home who is in this folder."""
    case = installation.Case.find(env, home, folder, config.db)
    store = [await _elsewhere(config)] if config.url else inspect(config.db, config.busy_timeout)
    sound = store[-1].ok is True and all(finding.ok is not False for finding in store)
    return [
        Finding("claude-bus", True, f"{__version__}, Python {platform.python_version()}, {sys.platform}"),
        *store,
        _secrets(),
        *installation.examine(case),
        await _doorbell(config, env, sound=sound),
        *git_hooks.findings(),
    ]


async def _elsewhere(config: Config) -> Finding:
    """Whether the bus that is served elsewhere lets us in."""
    with_token = f"{'with' if config.access.shown else 'without'} a token"
    try:
        async with open_for_command(config) as bus:
            found = await bus.run(agents.listing, config.channel)
    except BusError as error:
        return Finding("served at", False, f"{config.shown_url}, {with_token}: {error.message}")
    here = [agent for agent in found if agent.status != "offline"]
    return Finding("served at", True, f"{config.shown_url}, {with_token}; {text.plural(len(here), 'agent')} there now")


def _secrets() -> Finding:
    reason = detector.unusable()
    if not reason:
        return Finding("secrets", True, "refused in messages and values")
    if extras.are_coming():
        return Finding("secrets", None, f"not yet looked for: {reason}")
    left_out = detector.is_missing() and not extras.launched_in()  # as the user chose
    return Finding("secrets", None if left_out else False, f"not looked for: {reason}")


async def _doorbell(config: Config, env: Mapping[str, str], *, sound: bool) -> Finding:
    """Whether the session in whose shell this runs can be woken. The bus is asked if it is `sound`."""
    mute = _mute(config, env)
    path = env.get("CLAUDE_CODE_MESSAGING_SOCKET", "")
    if mute or not sound:
        return mute or Finding("doorbell", None, f"inbox socket {path}; the bus cannot tell now who rings it")
    return await _rings(config, env, path)


def _mute(config: Config, env: Mapping[str, str]) -> Finding | None:
    """The reason on this side why the session cannot be woken, whatever the bus says; None without one."""
    if config.wake == "never":
        return Finding("doorbell", None, "off: BUS_WAKE=never")
    if not claude_code.keys_of_shell(env):
        return Finding("doorbell", None, "not in a Claude Code session's shell")
    path = env.get("CLAUDE_CODE_MESSAGING_SOCKET", "")
    if not path:
        return Finding("doorbell", None, "this client has no inbox socket: mail waits for the next prompt")
    if not (sys.platform == "win32" or Path(path).exists()):
        return Finding("doorbell", False, f"inbox socket {path} is gone")
    return None


async def _rings(config: Config, env: Mapping[str, str], path: str) -> Finding:
    try:
        async with open_for_command(config) as bus:
            session = await session_of_shell(bus, env)
    except BusError as error:
        return Finding("doorbell", False, error.message)
    if not session:
        return Finding("doorbell", False, "no bus server of this session is on this bus, so nothing wakes it: see /mcp")
    if not session.bell:
        why = "not before its first prompt, and in bypassPermissions only with BUS_WAKE=always"
        return Finding("doorbell", None, f"'{session.address.name}' is not woken now: {why}")
    return Finding("doorbell", True, f"inbox socket {path}, rung for '{session.address.name}'")


def table(findings: list[Finding]) -> str:
    """One line each, with what is wrong marked."""
    marks = {True: "ok", False: "PROBLEM", None: "--"}
    return printing.columns([(f.name, marks[f.ok], f.detail) for f in findings])
