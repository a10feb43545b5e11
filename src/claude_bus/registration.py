"""Claude Code's knowledge of the bus: the client, its registered servers, the plugin; and the command of this program.

Read from the client's own files; changed only through its own commands. Needs nothing but the standard library, so
that an installation whose packages are lost can still be removed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .claude_settings import HOOKS_SINCE, SERVER, Refused
from .extras import EXTRAS, UV_CACHE

_PATIENCE = 120.0
"""Seconds after which a command of the client is given up."""
_VERSIONS = (re.compile(r"(\d+)\.(\d+)\.(\d+)\S* \(Claude Code\)"), re.compile(r"(\d+)\.(\d+)\.(\d+)"))
"""Forms in which a client prints its version; a wrapper may print another program's version before."""
_KNOWN = re.compile(r"claude[-_]bus|\bbus_server\.py\b|\.claude-plugin[/\\]launch\.py")
"""Text in a command that marks a server as that of claude-bus, or of the original."""
_SINCE = ">=0.3"
"""The versions of an index that are not the original."""

Definition = dict[str, Any]
"""A server as the client stores it: type, command, args, env, or url."""


@dataclass(frozen=True)
class Client:
    """One `claude` program on this machine."""

    path: str

    @cached_property
    def version(self) -> tuple[int, ...] | None:
        """Its version; None if it does not print one."""
        try:
            told = self.run("--version").stdout
        except Refused:
            return None
        found = next((match for form in _VERSIONS if (match := form.search(told))), None)
        return tuple(map(int, found.groups())) if found else None

    @property
    def knows_hooks(self) -> bool:
        """Whether it accepts settings with the hooks of claude-bus."""
        return self.version is not None and self.version >= HOOKS_SINCE

    def __str__(self) -> str:
        told = ".".join(map(str, self.version)) if self.version else "of unknown version"
        return f"Claude Code {told} ({self.path})"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the client to its end; it may fail. Raises `Refused` if it cannot be run."""
        root = Path(sys.executable).anchor or os.sep  # no project's settings apply there
        try:
            return subprocess.run(  # noqa: S603
                [self.path, *arguments],
                cwd=root,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_PATIENCE,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Refused(f"{self.path} cannot be run: {error}") from error

    def must(self, *arguments: str) -> None:
        """Run a command of the client. Raises `Refused` if it fails."""
        done = self.run(*arguments)
        if done.returncode:
            said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
            raise Refused(f"claude {' '.join(arguments[:2])}: {said}")


def clients(env: Mapping[str, str], home: Path) -> list[Client]:
    """Return the clients on PATH, then those in the usual folders of installers; each once, the one in use first."""
    folders = [*env.get("PATH", os.defpath).split(os.pathsep), str(home / ".claude/local"), str(home / ".local/bin")]
    found = [path for folder in folders if folder and (path := shutil.which("claude", path=folder))]
    once = {os.path.realpath(path): path for path in reversed(found)}
    return [Client(path) for path in found if path in once.values()]


# -- registered servers ---------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """The contents of Claude Code's files that concern the bus, read once."""

    config: Path
    """The user's configuration folder."""
    state: Mapping[str, Any]
    """The client's own file of servers and projects."""
    ours: Mapping[str, Path]
    """The ids under which the plugin of claude-bus is enabled for the user, each with its folder."""
    originals: tuple[str, ...]
    """The ids under which the original's plugin is enabled."""

    @classmethod
    def read(cls, env: Mapping[str, str], home: Path) -> Known:
        """Read the files of the configuration folder that the environment names, or of `~/.claude`."""
        given = env.get("CLAUDE_CONFIG_DIR")
        config = Path(given).absolute() if given else home / ".claude"
        state = _json(config / ".claude.json" if given else home / ".claude.json")
        ours, theirs = plugins(config, config / "settings.json")
        return cls(config, state, ours, theirs)

    @property
    def plugins(self) -> tuple[str, ...]:
        """The ids under which the plugin of claude-bus is enabled for the user."""
        return tuple(self.ours)

    def is_plugin(self, folder: Path) -> bool:
        """Return whether this is the folder of the plugin of claude-bus.

        The client copies an installed plugin; if the marketplace is a folder, it runs the plugin from that folder.
        """
        markets = _json(self.config / "plugins" / "known_marketplaces.json")
        named = [markets.get(name.partition("@")[2]) for name in self.ours]
        lie = [market.get("installLocation") for market in named if isinstance(market, dict)]
        places = [*map(str, self.ours.values()), *(place for place in lie if isinstance(place, str))]
        return os.path.realpath(folder) in [os.path.realpath(place) for place in places]

    @property
    def settings(self) -> Path:
        """The path of the user's settings."""
        return self.config / "settings.json"

    @property
    def server(self) -> Definition | None:
        """The server at user scope."""
        return _server(self.state)

    def local(self) -> dict[str, Definition]:
        """Return servers of the same name that apply in one project only, by the project's folder."""
        projects = self.state.get("projects")
        found = {folder: _server(project) for folder, project in projects.items()} if isinstance(projects, dict) else {}
        return {folder: server for folder, server in found.items() if server is not None}

    def switched_off(self, folder: Path) -> bool:
        """Return whether the user has switched the server off in this project."""
        projects = self.state.get("projects")
        project = projects.get(str(folder)) if isinstance(projects, dict) else None
        off = project.get("disabledMcpServers") if isinstance(project, dict) else None
        return isinstance(off, list) and SERVER in off


def in_project(folder: Path) -> Iterator[tuple[Path, Definition]]:
    """Yield servers of the same name in the `.mcp.json` of this folder and its parents, the one in effect first."""
    for place in (folder, *folder.parents):
        found = _server(_json(place / ".mcp.json"))
        if found is not None:
            yield place / ".mcp.json", found


def _server(holder: Any) -> Definition | None:
    servers = holder.get("mcpServers") if isinstance(holder, dict) else None
    found = servers.get(SERVER) if isinstance(servers, dict) else None
    return found if isinstance(found, dict) else None


def _json(path: Path) -> dict[str, Any]:
    """Return the content of a client's file; {} if it does not exist, or is not an object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def plugins(config: Path, settings: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Return the plugin ids of claude-bus, with their folders, and of the original, that these settings enable."""
    enabled = _json(settings).get("enabledPlugins")
    installed = _json(config / "plugins" / "installed_plugins.json").get("plugins")
    on = [name for name, value in enabled.items() if value] if isinstance(enabled, dict) else []
    places = {name: _path_of(installed.get(name)) for name in on} if isinstance(installed, dict) else {}
    ours = {name: place for name, place in places.items() if place and (place / ".claude-plugin/launch.py").is_file()}
    theirs = [name for name, place in places.items() if place and (place / "hooks" / "stop_bus.py").is_file()]
    return ours, tuple(theirs)


def _path_of(places: Any) -> Path | None:
    """Return the folder of a plugin from the client's record of its installations."""
    last = places[-1] if isinstance(places, list) and places else None
    path = last.get("installPath") if isinstance(last, dict) else None
    return Path(path) if isinstance(path, str) else None


def command_of(server: Definition) -> list[str]:
    """Return the command line of a server, as far as it is text; [] for a server that no command starts."""
    arguments = server.get("args") or []
    words = [server.get("command"), *(arguments if isinstance(arguments, list) else [])]
    return [word for word in words if isinstance(word, str)]


def is_known(server: Definition) -> bool:
    """Return whether a server is that of claude-bus, however installed, or of the original."""
    return bool(_KNOWN.search(" ".join(command_of(server))))


def env_of(server: Definition) -> dict[str, str]:
    """Return the environment variables that a server is started with."""
    env = server.get("env")
    return {str(name): str(value) for name, value in env.items()} if isinstance(env, dict) else {}


def shown(server: Definition) -> str:
    """Describe a server in one line, without the values of its variables."""
    where = server.get("url") or shlex.join(command_of(server))
    names = ", ".join(env_of(server))
    return f"{where}{f' (with {names})' if names else ''}"


def add(client: Client, command: Sequence[str], env: Mapping[str, str]) -> None:
    """Register the server at user scope."""
    variables = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
    client.must("mcp", "add", "-s", "user", SERVER, *variables, "--", *command)


def add_back(client: Client, server: Definition) -> None:
    """Register a server as it was before."""
    client.must("mcp", "add-json", "-s", "user", SERVER, json.dumps(server))


def remove(client: Client) -> None:
    """Remove the registration."""
    client.must("mcp", "remove", "-s", "user", SERVER)


# -- this program ---------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """This program as it is installed."""

    plugin: Path
    """The folder with `hooks` and `commands`."""
    command: tuple[str, ...]
    """The command that starts it, now and after an upgrade."""
    earlier: tuple[Path, ...] = ()
    """Copies of the program that earlier installations put there."""

    @property
    def again(self) -> str:
        """The shell command that sets Claude Code up."""
        return shlex.join([*self.command, "setup"])

    @classmethod
    def find(cls, env: Mapping[str, str], place: Path | None = None) -> Program:
        """Return this program: the installer's copy, a checkout or a plugin, an environment, or a run of uvx or pipx.

        With `place`, returns the installer's copy in that folder, whatever program runs this.
        """
        package = Path(__file__).parent
        root = package.parents[1]
        if not place and root.name.startswith("app-") and (root.parent / ".claude-bus").is_file():
            place = root.parent
        if place:
            return cls(root, (str(place / "bin" / "claude-bus"),), (root, *sorted(place.glob("app-*"))))
        if (root / ".claude-plugin" / "launch.py").is_file():
            python = "python3" if os.name != "nt" else sys.executable
            return cls(root, (python, "-I", "-S", str(root / ".claude-plugin" / "launch.py")))
        return cls(package / "plugin", _of_environment(Path(sys.prefix), env))


def _of_environment(prefix: Path, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the command that starts the package in this environment; uvx or pipx for one of their temporary ones."""
    path = env.get("PATH", os.defpath)
    if any(UV_CACHE.fullmatch(part) for part in prefix.parts):
        return shutil.which("uvx", path=path) or "uvx", "--from", _specification(), "claude-bus"
    if {"pipx", ".cache"} <= set(prefix.parts) or {"pipx", "Caches"} <= set(prefix.parts):
        return shutil.which("pipx", path=path) or "pipx", "run", "--spec", _specification(), "claude-bus"
    script = Path(sysconfig.get_path("scripts"), "claude-bus.exe" if os.name == "nt" else "claude-bus")
    on_path = shutil.which("claude-bus", path=path)
    if on_path and script.exists() and os.path.realpath(on_path) == os.path.realpath(script):
        return (str(Path(on_path).absolute()),)  # the link of uv tool and pipx outlives the environment
    return (str(script),) if script.exists() else (sys.executable, "-m", "claude_bus")


def _specification() -> str:
    """Return what uvx or pipx must fetch again: this package from its source, with the extras that are installed."""
    source, extras = _source(), [extra for extra, module in EXTRAS.items() if find_spec(module)]
    if not extras:
        return source or f"claude-bus{_SINCE}"
    name = f"claude-bus[{'all' if len(extras) == len(EXTRAS) else ','.join(extras)}]"
    if not source:
        return name + _SINCE
    return f"{name} @ {Path(source).as_uri() if Path(source).is_absolute() else source}"


def _source() -> str:
    """Return the source that the package was installed from; "" for an index."""
    try:
        told = json.loads(distribution("claude-bus").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return ""
    url = str(told.get("url", ""))
    if version := told.get("vcs_info"):
        revision = version.get("requested_revision")
        return f"{version['vcs']}+{url}{f'@{revision}' if revision else ''}"
    return unquote(urlsplit(url).path) if url.startswith("file:") else url
