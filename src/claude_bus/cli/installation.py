"""Checks of `doctor` on Claude Code: registration, hooks, `/bus`, permissions, plugins, remains of the original.

Each check is a function of a `Case` that yields findings; a finding of a problem says how to fix it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import claude_settings, registration, text
from ..claude_settings import HOOKS_SINCE, RULES, SERVER, Refused
from ..config import shown_address
from ..drivers.inspect import Finding
from ..registration import Client, Definition, Known, Program

_OF_THE_ORIGINAL = re.compile(r"\bbus_server\.py\b")
_ITS_COMMAND = "Bus de mensajes y estado compartido con otras sesiones"


@dataclass(frozen=True)
class Case:
    """Subjects of the checks: this program, the user's Claude Code, the working directory, the database."""

    program: Program
    known: Known
    clients: list[Client]
    env: Mapping[str, str]
    home: Path
    folder: Path
    db: Path

    @classmethod
    def find(cls, env: Mapping[str, str], home: Path, folder: Path, db: Path) -> Case:
        """Return the case of this process."""
        return cls(Program.find(env), Known.read(env, home), registration.clients(env, home), env, home, folder, db)

    @property
    def setup(self) -> str:
        """The fix for most problems."""
        return f"run: {self.program.again}"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The user's settings; {} if they cannot be read, which `hooks` reports."""
        try:
            return claude_settings.read(self.known.settings)[0]
        except Refused:
            return {}

    @property
    def server(self) -> Definition | None:
        """The server at user scope, if it is that of claude-bus or of the original."""
        there = self.known.server
        return there if there is not None and registration.is_known(there) else None

    @property
    def above(self) -> list[Path]:
        """The folders whose settings apply in this one: itself and its parents, except the user's home."""
        return [place for place in (self.folder, *self.folder.parents) if place != self.home]


Check = Callable[[Case], Iterator[Finding]]


def client(case: Case) -> Iterator[Finding]:
    """Check the client in use; one that is too old does not start with the hooks in its settings."""
    if not case.clients:
        yield Finding("claude", None, "not on PATH (only needed to set it up)")
        return
    used, *others = case.clients
    hooked = bool(claude_settings.present(case.settings))
    oldest = ".".join(map(str, HOOKS_SINCE))
    if used.knows_hooks:
        yield Finding("claude", True, str(used))
    elif hooked:
        told = f"{used} refuses settings with our hooks, which need {oldest}: update it, or {case.setup}"
        yield Finding("claude", False, told)
    else:
        yield Finding("claude", None, f"{used} does not know our hooks: they need {oldest} or newer")
    for other in others:
        if hooked and not other.knows_hooks:
            yield Finding("claude", None, f"{other} is there as well, and refuses settings with our hooks: update it")


def server(case: Case) -> Iterator[Finding]:
    """Check the server at user scope."""
    there = case.known.server
    if there is None:
        yield _unregistered(case)
    elif "url" in there:
        yield Finding("server", None, f"'{SERVER}' is served at {shown_address(str(there['url']))}")
    elif case.server is None:
        told = f"'{SERVER}' is another program: {registration.shown(there)}; to replace it, {case.setup}"
        yield Finding("server", False, told)
    elif case.known.plugins:
        told = f"registered, beside the plugin {case.known.plugins[0]}, so sessions have two; {case.setup}"
        yield Finding("server", False, told)
    else:
        yield from _ours(case, there)


def _unregistered(case: Case) -> Finding:
    if case.known.plugins:
        return Finding("server", True, f"that of the plugin {case.known.plugins[0]}")
    half = claude_settings.present(case.settings)
    told = "hooks call a server that is not registered" if half else "not registered with Claude Code"
    return Finding("server", False if half else None, f"{told}; {case.setup}")


def _ours(case: Case, there: Definition) -> Iterator[Finding]:
    command = registration.command_of(there)
    if _OF_THE_ORIGINAL.search(" ".join(command)):
        yield Finding("server", False, f"that of the original: {registration.shown(there)}; {case.setup}")
    elif not shutil.which(command[0], path=case.env.get("PATH", os.defpath)):
        yield Finding("server", False, f"{command[0]} is gone; {case.setup}")
    elif missing := next((word for word in command[1:] if word.startswith("/") and not Path(word).exists()), ""):
        yield Finding("server", False, f"{missing} is gone; {case.setup}")
    else:
        yield Finding("server", True, registration.shown(there))
    env = registration.env_of(there)
    if "BUS_DB" in env and os.path.realpath(env["BUS_DB"]) != os.path.realpath(case.db):
        told = f"sessions use {env['BUS_DB']}, this command {case.db}: to use the same, export BUS_DB={env['BUS_DB']}"
        yield Finding("server", None, told)


def shadows(case: Case) -> Iterator[Finding]:
    """Check for servers of the same name that take precedence over the user's."""
    for place, found in case.known.local().items():
        if Path(place) in case.above and not _same(found, case.known.server):
            told = f"in {place} '{SERVER}' is {registration.shown(found)}; to be rid of it, there: "
            yield Finding("server", _harmless(found), f"{told}claude mcp remove -s local {SERVER}")
    for file, found in registration.in_project(case.folder):
        told = f"{file} has a server '{SERVER}' of its own, which counts there: {registration.shown(found)}"
        way_out = "" if _harmless(found) is None else f"; rename it, or: claude mcp remove -s project {SERVER}"
        yield Finding("server", _harmless(found), told + way_out)
        break
    if case.known.switched_off(case.folder):
        yield Finding("server", False, f"'{SERVER}' is switched off in {case.folder}: switch it on with /mcp")


def _same(one: Definition, other: Definition | None) -> bool:
    return other is not None and registration.command_of(one) == registration.command_of(other)


def _harmless(found: Definition) -> bool | None:
    """Return None for a server of claude-bus, False for any other."""
    original = _OF_THE_ORIGINAL.search(" ".join(registration.command_of(found)))
    return None if registration.is_known(found) and not original else False


def hooks(case: Case) -> Iterator[Finding]:
    """Check the hooks in the user's settings: all of them, each once, and none of the original."""
    try:
        document, _ = claude_settings.read(case.known.settings)
    except Refused as refused:
        yield Finding("hooks", False, str(refused))
        return
    if claude_settings.originals(document):
        told = f"{case.known.settings} has hooks of the original, which fail at each turn; {case.setup}"
        yield Finding("hooks", False, told)
    if document.get("disableAllHooks"):
        yield Finding("hooks", False, f"switched off by disableAllHooks in {case.known.settings}: take it out")
    yield _own_hooks(case, document)


def _own_hooks(case: Case, document: dict[str, Any]) -> Finding:
    there, place = claude_settings.present(document), case.known.settings
    if case.known.plugins:
        told = f"that of the plugin, and again in {place}; {case.setup}" if there else "those of the plugin"
        return Finding("hooks", not there, told)
    if not there:
        wanted = case.server is not None and any(found.knows_hooks for found in case.clients[:1])
        told = f"none, so mail does not come by itself; {case.setup}" if case.known.server else "none"
        return Finding("hooks", False if wanted else None, told)
    if there == claude_settings.hooks_of(case.program.plugin):
        return Finding("hooks", True, f"{text.plural(len(there), 'event')} in {place}")
    return Finding("hooks", False, f"those in {place} are not those of this version, or not there once; {case.setup}")


def projects(case: Case) -> Iterator[Finding]:
    """Check hooks and plugins in a project's settings, which apply in addition to the user's."""
    for place in case.above:
        for file in (place / ".claude" / "settings.json", place / ".claude" / "settings.local.json"):
            yield from _project(case, file)


def _project(case: Case, file: Path) -> Iterator[Finding]:
    try:
        document, _ = claude_settings.read(file)
    except Refused:
        return
    if claude_settings.originals(document):
        yield Finding("hooks", False, f"{file} has hooks of the original, which fail at each turn: take them out")
    if claude_settings.present(document) and (case.known.plugins or claude_settings.present(case.settings)):
        yield Finding("hooks", False, f"{file} has our hooks a second time: take them out")
    ours, theirs = registration.plugins(case.known.config, file)
    if ours and case.server is not None:
        yield Finding(
            "plugin", False, f"{file} enables {next(iter(ours))} beside the server that is registered: take it out"
        )
    for name in theirs:
        yield Finding("plugin", False, f"{file} enables {name}, which is the original's: take it out")


def command(case: Case) -> Iterator[Finding]:
    """Check the user's `/bus`."""
    config, plugin = case.known.config, case.program.plugin
    place = claude_settings.command_path(config)
    state = claude_settings.command_state(config, plugin, case.program.earlier)
    ours = state in ("current", "outdated")
    if case.known.plugins:
        told = f"that of the plugin, and again in {place}; {case.setup}" if ours else "that of the plugin"
        yield Finding("/bus", not ours, told)
    elif state == "users":
        old = _ITS_COMMAND in place.read_text(encoding="utf-8", errors="replace")
        told = f"{place} is that of the original; {case.setup}" if old else f"{place} is not ours"
        yield Finding("/bus", False if old else None, told)
    elif state == "current":
        yield Finding("/bus", True, str(place))
    else:
        wanted = case.server is not None or state == "outdated"
        told = "of another version" if state == "outdated" else "not there"
        yield Finding("/bus", False if wanted else None, f"{told}; {case.setup}")


def permission(case: Case) -> Iterator[Finding]:
    """Check whether sessions may use the tools without asking."""
    permissions = case.settings.get("permissions", {})
    rule = RULES[1] if case.known.plugins else RULES[0]
    denied = permissions.get("deny", [])
    if isinstance(denied, list) and rule in denied:
        yield Finding("tools", False, f'"{rule}" is denied in {case.known.settings}: take it out')
    elif rule in claude_settings.allowed(case.settings):
        yield Finding("tools", True, f'run without a question ("{rule}")')
    elif case.server is not None or case.known.plugins:
        yield Finding("tools", None, f"each use is asked for; to allow them, {case.setup} --permissions yes")


def plugins(case: Case) -> Iterator[Finding]:
    """Check for the plugin of claude-bus, and that of the original."""
    if case.known.plugins:
        first, *more = case.known.plugins
        told = "".join(f"; the same again, so uninstall it: claude plugin uninstall {name}" for name in more)
        yield Finding("plugin", not more, first + told)
    for name in case.known.originals:
        yield Finding("plugin", False, f"{name} is the original's: claude plugin uninstall {name}")


def leftovers(case: Case) -> Iterator[Finding]:
    """Check for the original's program in the folder of its installation."""
    place = case.home / "claude-bus"
    if (place / "bus_server.py").is_file() and (place / "setup.sh").is_file():
        yield Finding("original", None, f"{place} is its program; it may be removed when no session uses it")


def examine(case: Case) -> Iterator[Finding]:
    """Yield all findings. A check that fails is a finding itself; the others still run."""
    for check in CHECKS:
        try:
            yield from check(case)
        except (OSError, ValueError, Refused) as error:
            yield Finding(check.__name__, False, f"could not be checked: {error}")


CHECKS: tuple[Check, ...] = (
    client,
    server,
    shadows,
    hooks,
    projects,
    command,
    permission,
    plugins,
    leftovers,
)
