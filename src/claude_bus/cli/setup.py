"""`claude-bus setup`: tells Claude Code about the bus, or removes all of that.

A failure at any step leaves a working state: everything is checked before anything is written. The server is
registered before the hooks that call it are written, and removed after them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from .. import __version__, claude_settings, detector, registration
from ..claude_settings import BACKUP, HOOKS_SINCE, RULES, SERVER, Refused
from ..config import shown_address
from ..registration import Client, Known, Program
from ..text import plural
from . import environments
from .output import show

NO_CLIENT = 3
"""Exit status if there is no Claude Code to set up."""
FOLDERS = "folders-made"
"""A file in the installer's copy: the folders that were created for it, to be removed with it once they are empty."""
_QUESTION = 'May sessions use the bus\'s tools without asking you each time (permission "{}")? [y/N] '
_NEXT = """\
Next: open two terminals, run claude in each, and type

    /bus backend        in one
    /bus frontend       in the other

From then on say what you want: "tell frontend that ...", "anything for me?", "who is connected?".
Sessions that are open now take part after a restart."""


@dataclass(frozen=True)
class Step:
    """One step: the text that announces it, and the work."""

    name: str
    text: str
    work: Callable[[], object]


@dataclass(frozen=True)
class Situation:
    """This program, and the Claude Code that it is set up in."""

    program: Program
    known: Known
    client: Client | None
    env: Mapping[str, str]
    home: Path

    @classmethod
    def find(cls, env: Mapping[str, str], home: Path, place: str = "") -> Situation:
        """Return the situation of this process; with `place`, the program is the installation in that folder."""
        found = registration.clients(env, home)
        return cls(
            Program.find(env, Path(place) if place else None),
            Known.read(env, home),
            found[0] if found else None,
            env,
            home,
        )

    @property
    def rule(self) -> str:
        """The permission rule for the bus's tools."""
        return RULES[1] if self.known.plugins else RULES[0]

    @property
    def hooks(self) -> bool:
        """Whether the settings should contain the hooks of claude-bus."""
        return bool(self.client and self.client.knows_hooks and not self.known.plugins)

    @property
    def kept(self) -> Path:
        """File that keeps another server of the same name, which made room."""
        return self.known.config / f"mcp-server-{SERVER}.json{BACKUP}"

    @property
    def passing(self) -> Path:
        """File that keeps an earlier registration of claude-bus while it is renewed."""
        return self.known.config / f"mcp-server-{SERVER}.json.being-renewed"

    @cached_property
    def variables(self) -> dict[str, str]:
        """The variables of the registration, or of one that a killed run had removed."""
        there = self.known.server
        if there is None:
            return registration.env_of(_kept(self.passing))
        return registration.env_of(there) if registration.is_known(there) else {}


def setup(options: argparse.Namespace, env: Mapping[str, str], home: Path) -> int:
    """Run `setup` or `setup --remove`; return the exit status."""
    try:
        situation = Situation.find(env, home, options.place)
        return _remove(options, situation) if options.remove else _install(options, situation)
    except Refused as error:
        show(options, {"error": "refused", "message": str(error)}, f"claude-bus: {error}", error=True)
        return 1


# -- install --------------------------------------------------------------------------


def _install(options: argparse.Namespace, at: Situation) -> int:
    if at.client is None:
        return _without_client(options, at)
    rule = _rule_given(options, at)
    wanted = _wanted(at, rule)
    _tell(options, at, wanted)
    if not rule and _may_ask(options, at) and _says_yes(_QUESTION.format(at.rule), default=False):
        wanted = _wanted(at, at.rule)
    if wanted and not _agreed(options):
        return 2
    done = _work(wanted)
    open_points = [*_open_points(at), *_permission_point(options, at)]
    if options.json:
        show(options, {"done": done, "open": open_points}, "")
        return 0
    print(f"\n{_NEXT}" if wanted else f"claude-bus {__version__} is set up in {at.client}: all is up to date.")
    for point in open_points:
        print(f"\nOpen: {point}")
    return 0


def _without_client(options: argparse.Namespace, at: Situation) -> int:
    """Without a client only the command can be put on PATH; the last line says how to do the rest."""
    told = "claude is not on your PATH, so Claude Code was told nothing. Where it is, run: " + at.program.again
    wanted = _link(at) if options.yes or _terminal(options) else []
    _tell(options, at, wanted)
    done = _work(wanted) if wanted and _agreed(options) else []
    open_points = [*_shell_points(at), told] if done else [told]
    if options.json:
        show(options, {"done": done, "open": open_points}, "")
    else:
        print("\n".join([*(f"\nOpen: {point}\n" for point in open_points[:-1]), told]))
    return NO_CLIENT


def _wanted(at: Situation, rule: str) -> list[Step]:
    return [*_server(at), *_settings(at, rule), *_command(at), *_link(at)]


def _server(at: Situation) -> list[Step]:
    """Return the steps for the server at user scope: the plugin's if there is one, otherwise this program."""
    there = at.known.server
    if at.known.plugins:
        ours = there is not None and registration.is_known(there)
        return [Step("server", f"'{SERVER}' is no longer registered: the plugin has its own", _unregister(at))] * ours
    if there is not None and "url" in there:  # a remote bus that the user has chosen
        return []
    if there is not None and registration.command_of(there) == list(at.program.command):
        return []
    text = f"register '{SERVER}' for all your projects: {shlex.join(at.program.command)}"
    if there is None and at.variables:
        text += f" (with {', '.join(at.variables)})"
    if there is not None:
        text += f"; until now it was {registration.shown(there)}"
        text += "" if registration.is_known(there) else ", which comes back with setup --remove"
    return [Step("server", text, lambda: _register(at))]


def _register(at: Situation) -> None:
    """Register the server with the variables it had; if that fails, restore the earlier registration.

    Between the client's two commands nothing is registered; a file keeps the earlier registration for a killed run.
    """
    assert at.client
    there = at.known.server
    place = at.passing if there is None or registration.is_known(there) else at.kept
    if there is not None:
        claude_settings.keep(place, json.dumps(there, indent=2) + "\n")
        registration.remove(at.client)
    try:
        registration.add(at.client, at.program.command, at.variables)
    except Refused:
        if there is not None:
            registration.add_back(at.client, there)
            place.unlink(missing_ok=True)
        raise
    at.passing.unlink(missing_ok=True)


def _kept(place: Path) -> registration.Definition:
    """Return the server that a file keeps; {} without one."""
    try:
        found = json.loads(claude_settings.kept(place) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _settings(at: Situation, rule: str) -> list[Step]:
    """Return the steps for hooks and permission. Duplicate hooks, and those that the client cannot use, are removed."""
    document, _ = claude_settings.read(at.known.settings)
    hooks = claude_settings.hooks_of(at.program.plugin) if at.hooks else {}
    hooked = claude_settings.with_hooks(document, hooks)
    if claude_settings.with_rule(hooked, rule) == document:
        return []
    parts = []
    if hooked != document:
        called = (at.known.server or {}).get("url")
        where = f" (they call the bus at {shown_address(str(called))})" if called else ""
        parts.append(f"hooks for {plural(len(hooks), 'event')}{where}" if hooks else "no hooks any more")
        parts += ["without the original's hooks"] * bool(claude_settings.originals(document))
    parts += [f'permission "{rule}"'] * bool(rule and rule not in claude_settings.allowed(document))
    text = f"{', '.join(parts)}: {at.known.settings}"
    change = lambda settings: claude_settings.with_rule(claude_settings.with_hooks(settings, hooks), rule)  # noqa: E731
    return [Step("settings", text, lambda: claude_settings.edit(at.known.settings, change))]


def _rule_given(options: argparse.Namespace, at: Situation) -> str:
    """Return the permission rule that the command line asks for; "" for none."""
    wanted = options.permissions or ("yes" if options.yes else "ask")
    return at.rule if wanted == "yes" and not _is_allowed(at) else ""


def _may_ask(options: argparse.Namespace, at: Situation) -> bool:
    """Return whether to ask the user about the permission now."""
    asks = options.permissions == "ask" or not (options.permissions or options.yes)
    return asks and _terminal(options) and not _is_allowed(at)


def _is_allowed(at: Situation) -> bool:
    return at.rule in claude_settings.allowed(claude_settings.read(at.known.settings)[0])


def _command(at: Situation) -> list[Step]:
    """Return the steps for `/bus`: the plugin's if there is one, otherwise this program's."""
    config, plugin, earlier = at.known.config, at.program.plugin, at.program.earlier
    place, state = claude_settings.command_path(config), claude_settings.command_state(config, plugin, earlier)
    if at.known.plugins:
        take = lambda: claude_settings.uninstall_command(config, [plugin, *earlier])  # noqa: E731
        return [Step("/bus", f"{place} goes: the plugin has its own", take)] * (state in ("current", "outdated"))
    if state == "current":
        return []
    kept = f"; the present file is kept as {place.name}{BACKUP}" if state == "users" else ""
    return [Step("/bus", f"{place}{kept}", lambda: claude_settings.install_command(config, plugin, earlier))]


def _link_place(at: Situation) -> Path:
    return at.home / ".local" / "bin" / "claude-bus"


def _link(at: Situation) -> list[Step]:
    """Return the step that puts the command on PATH, only for the installer's copy."""
    place, command = _link_place(at), at.program.command[0]
    if not at.program.earlier or place.exists() or place.is_symlink():
        return []

    def link() -> None:
        missing = [folder for folder in (place.parent, *place.parent.parents) if not folder.exists()]
        with (Path(command).parents[1] / FOLDERS).open("a", encoding="utf-8") as made:
            made.writelines(f"{folder}\n" for folder in missing)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(command)

    return [Step("command", str(place), link)]


def _open_points(at: Situation) -> list[str]:
    """Return remarks for the user after an installation, most with a command to run."""
    assert at.client
    found = []
    if at.known.plugins and not at.known.is_plugin(at.program.plugin):
        found.append(
            f"the plugin {' and '.join(at.known.plugins)} is enabled and brings server, hooks and /bus. "
            f"To use this installation instead: claude plugin uninstall {at.known.plugins[0]}, then {at.program.again}"
        )
    elif not at.known.plugins and not at.client.knows_hooks:
        found.append(
            f"{at.client} does not know our hooks (they need {'.'.join(map(str, HOOKS_SINCE))} or newer), so there are "
            f"no hooks. Tools and /bus work; mail is read when you ask for it. After updating it: {at.program.again}"
        )
    return [*found, *_shell_points(at)]


def _permission_point(options: argparse.Namespace, at: Situation) -> list[str]:
    if options.permissions == "no" or _is_allowed(at):
        return []
    return [f"sessions ask before they use the bus's tools. To let them: {at.program.again} --permissions yes"]


def _shell_points(at: Situation) -> list[str]:
    """Return remarks on the user's shell: its database, the command, its PATH."""
    place = _link_place(at)
    found = []
    bus = at.variables.get("BUS_DB")
    if bus and bus != at.env.get("BUS_DB", str(at.home / ".claude-bus" / "bus.db")):
        found.append(f"sessions use the database {bus}; for the same in your shell: export BUS_DB={shlex.quote(bus)}")
    if at.program.earlier and os.path.realpath(place) != os.path.realpath(at.program.command[0]):
        found.append(f"{place} is something else, and stays; the command is {at.program.command[0]}")
    elif at.program.earlier and str(place.parent) not in at.env.get("PATH", "").split(os.pathsep):
        found.append('for the command claude-bus in your shell: export PATH="$HOME/.local/bin:$PATH"')
    return found


# -- remove ---------------------------------------------------------------------------


def _remove(options: argparse.Namespace, at: Situation) -> int:
    there = at.known.server is not None and registration.is_known(at.known.server)
    wanted = [*_settings_out(at), *_command_out(at), *_server_out(at)]
    wanted += [Step("command", str(_link_place(at)), _link_place(at).unlink)] * _is_our_link(at)
    rules = detector.compiled(at.env, at.home, sys.platform)
    wanted += [Step("scanner", f"its rules in {rules[0].parent}", lambda: _forget(rules))] if rules else []
    wanted += _packages_out(at)
    _tell(options, at, wanted)
    if wanted and not _agreed(options):
        return 2
    done = _work(wanted)
    open_points = _left(at, registered=there and not at.client)
    if options.json:
        show(options, {"done": done, "open": open_points}, "")
        return 0
    print("Taken out." if open_points else "Claude Code no longer knows claude-bus.")
    for point in open_points:
        print(f"\nOpen: {point}")
    return 0


def _server_out(at: Situation) -> list[Step]:
    """Return the steps for the registration, and for the rest of an earlier run that was killed."""
    there, before = at.known.server, _kept(at.kept)
    if at.client and there is not None and registration.is_known(there):
        return [Step("server", f"'{SERVER}' is no longer registered", _unregister(at))]
    if at.client and there is None and before:
        return [Step("server", f"'{SERVER}' is {registration.shown(before)} again", lambda: _bring_back(at))]
    if at.passing.exists():
        return [Step("server", f"{at.passing} goes", at.passing.unlink)]
    return []


def _settings_out(at: Situation) -> list[Step]:
    document, _ = claude_settings.read(at.known.settings)
    ours = claude_settings.present(document) or claude_settings.rules_of_ours(document)
    take = lambda: claude_settings.uninstall_hooks(at.known.settings)  # noqa: E731
    return [Step("settings", f"hooks and permission, from {at.known.settings}", take)] if ours else []


def _command_out(at: Situation) -> list[Step]:
    config, plugins = at.known.config, [at.program.plugin, *at.program.earlier]
    ours = claude_settings.command_state(config, at.program.plugin, plugins) in ("current", "outdated")
    take = lambda: claude_settings.uninstall_command(config, plugins)  # noqa: E731
    return [Step("/bus", str(claude_settings.command_path(config)), take)] if ours else []


def _packages(at: Situation) -> list[Path]:
    """Return the folders of packages that the launcher of this checkout fetched into the user's cache."""
    is_checkout = (at.program.plugin / ".claude-plugin" / "launch.py").is_file() and not at.program.earlier
    return environments.made(at.env, at.home, sys.platform) if is_checkout else []


def _packages_out(at: Situation) -> list[Step]:
    unused = [folder for folder in _packages(at) if not environments.in_use(folder)]
    return [Step("packages", str(folder), partial(environments.remove, folder)) for folder in unused]


def _left(at: Situation, *, registered: bool) -> list[str]:
    """Return what `--remove` leaves to the user, with the commands for it."""
    found = []
    if registered:
        found.append(f"claude is not on your PATH. Run this where it is: claude mcp remove -s user {SERVER}")
    place = claude_settings.command_path(at.known.config)
    if at.program.earlier and claude_settings.command_state(at.known.config, at.program.plugin) == "users":
        found.append(f"{place} is not as it was installed, and stays")
    found += [
        f"{folder} stays: a session uses it. Once none does: {at.program.again} --remove" for folder in _packages(at)
    ]
    found += [f"the plugin {name} is still there: claude plugin uninstall {name}" for name in at.known.plugins]
    return found


def _unregister(at: Situation) -> Callable[[], None]:
    """Return the work that removes the server, and brings back the one that made room for it."""

    def work() -> None:
        assert at.client
        registration.remove(at.client)
        _bring_back(at)

    return work


def _bring_back(at: Situation) -> None:
    """Register the server that made room again, if nothing is registered."""
    assert at.client
    before = _kept(at.kept)
    if before:
        registration.add_back(at.client, before)
        at.kept.unlink()
    at.passing.unlink(missing_ok=True)


def _is_our_link(at: Situation) -> bool:
    place = _link_place(at)
    return bool(at.program.earlier) and place.is_symlink() and str(place.readlink()) == at.program.command[0]


def _forget(rules: list[Path]) -> None:
    """Remove the scanner's compiled rules, and the folders that this leaves empty."""
    for file in rules:
        file.unlink(missing_ok=True)
        for folder in (file.parent, file.parent.parent):
            if folder.name in ("rule-cache", "kingfisher") and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


# -- both -----------------------------------------------------------------------------


def _tell(options: argparse.Namespace, at: Situation, wanted: list[Step]) -> None:
    """Show the planned steps."""
    if not wanted:
        return
    if options.json:
        if not options.yes:
            show(options, {"planned": [f"{step.name}: {step.text}" for step in wanted], "done": []}, "")
        return
    head = f"claude-bus {__version__}, {at.client or 'no Claude Code on PATH'}, {at.known.config}"
    plan = [f"  {step.name:<10} {step.text}" for step in wanted]
    print("\n".join([head, "to take out:" if options.remove else "to set up:", *plan]), flush=True)


def _agreed(options: argparse.Namespace) -> bool:
    """Return whether the user agrees to the steps that were shown."""
    if options.yes:
        return True
    if not _terminal(options):
        if not options.json:
            print("claude-bus: nothing is changed yet; with --yes it is done", file=sys.stderr)
        return False
    return _says_yes("Go on? [Y/n] ", default=True)


def _work(wanted: list[Step]) -> list[str]:
    """Work step by step; return the names of the steps done. Raises `Refused`, naming the steps done before."""
    done: list[str] = []
    for step in wanted:
        try:
            step.work()
        except (Refused, OSError) as error:
            before = f" (done before: {', '.join(done)})" if done else ""
            raise Refused(f"{step.name}: {error}{before}") from error
        done.append(step.name)
    return done


def _terminal(options: argparse.Namespace) -> bool:
    return not options.json and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def _says_yes(question: str, *, default: bool) -> bool:
    try:
        answer = input(question).strip().lower()
    except EOFError:
        return False
    return default if not answer else answer in ("y", "yes")
