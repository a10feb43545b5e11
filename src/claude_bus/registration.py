"""How Claude Code knows of us: the client, the servers registered with it, the plugin; and how this program is started.

Read from the client's own files; changed through its own commands only. Nothing here but the standard library is
needed, so that an installation whose packages are lost can still be taken out.
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
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .claude_settings import HOOKS_SINCE, SERVER, Refused

_PATIENCE = 120.0
"""Seconds until a command of the client is given up."""
_VERSIONS = (re.compile(r"(\d+)\.(\d+)\.(\d+)\S* \(Claude Code\)"), re.compile(r"(\d+)\.(\d+)\.(\d+)"))
"""How a client tells its version; a wrapper may print another program's before."""
_KNOWN = re.compile(r"claude[-_]bus|\bbus_server\.py\b|\.claude-plugin[/\\]launch\.py")
"""A part of the command that marks a server as ours, or as the original."""
_UV_CACHE = re.compile(r"(archive|env\w+|builds)-v\d+")
_INDEX = "claude-bus>=0.3"
"""The package as an index has it; older ones are the original."""

Definition = dict[str, Any]
"""A server as the client keeps it: type, command, args, env, or url."""


@dataclass(frozen=True)
class Client:
    """One `claude` on this machine."""

    path: str

    @cached_property
    def version(self) -> tuple[int, ...] | None:
        """Its version; None if it does not tell."""
        try:
            told = self.run("--version").stdout
        except Refused:
            return None
        found = next((match for form in _VERSIONS if (match := form.search(told))), None)
        return tuple(map(int, found.groups())) if found else None

    @property
    def knows_hooks(self) -> bool:
        """Whether settings with our hooks are settings to it."""
        return self.version is not None and self.version >= HOOKS_SINCE

    def __str__(self) -> str:
        told = ".".join(map(str, self.version)) if self.version else "of unknown version"
        return f"Claude Code {told} ({self.path})"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the client to its end; it may fail. Raises `Refused` if it cannot be run."""
        root = Path(sys.executable).anchor or os.sep  # no project's settings count there
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
        """A command of the client that must succeed."""
        done = self.run(*arguments)
        if done.returncode:
            said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
            raise Refused(f"claude {' '.join(arguments[:2])}: {said}")


def clients(env: Mapping[str, str], home: Path) -> list[Client]:
    """Those on PATH, then those in the places where installers put them; each once, the one that is used first."""
    folders = [*env.get("PATH", os.defpath).split(os.pathsep), str(home / ".claude/local"), str(home / ".local/bin")]
    found = [path for folder in folders if folder and (path := shutil.which("claude", path=folder))]
    once = {os.path.realpath(path): path for path in reversed(found)}
    return [Client(path) for path in found if path in once.values()]


# -- what is registered ---------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """The contents of Claude Code's files that concern the bus, read once."""

    config: Path
    """The user's configuration folder."""
    state: Mapping[str, Any]
    """The client's own file of servers and projects."""
    ours: Mapping[str, Path]
    """The ids of our plugin, where it is enabled for the user, and where each is."""
    originals: tuple[str, ...]
    """Those of the original's plugin."""

    @classmethod
    def read(cls, env: Mapping[str, str], home: Path) -> Known:
        """From the folder that the environment names, or `~/.claude`."""
        given = env.get("CLAUDE_CONFIG_DIR")
        config = Path(given).absolute() if given else home / ".claude"
        state = _json(config / ".claude.json" if given else home / ".claude.json")
        ours, theirs = plugins(config, config / "settings.json")
        return cls(config, state, ours, theirs)

    @property
    def plugins(self) -> tuple[str, ...]:
        """The ids of our plugin, where it is enabled for the user."""
        return tuple(self.ours)

    def is_plugin(self, folder: Path) -> bool:
        """Whether this is the folder of our plugin.

        The client copies an installed plugin, and runs one of a marketplace that is a folder from that folder.
        """
        markets = _json(self.config / "plugins" / "known_marketplaces.json")
        named = [markets.get(name.partition("@")[2]) for name in self.ours]
        lie = [market.get("installLocation") for market in named if isinstance(market, dict)]
        places = [*map(str, self.ours.values()), *(place for place in lie if isinstance(place, str))]
        return os.path.realpath(folder) in [os.path.realpath(place) for place in places]

    @property
    def settings(self) -> Path:
        """The user's settings."""
        return self.config / "settings.json"

    @property
    def server(self) -> Definition | None:
        """The server at user scope."""
        return _server(self.state)

    def local(self) -> dict[str, Definition]:
        """Servers of our name that hold in one project only, by the project's folder."""
        projects = self.state.get("projects")
        found = {folder: _server(project) for folder, project in projects.items()} if isinstance(projects, dict) else {}
        return {folder: server for folder, server in found.items() if server is not None}

    def switched_off(self, folder: Path) -> bool:
        """Whether the user has switched the server off in this project."""
        projects = self.state.get("projects")
        project = projects.get(str(folder)) if isinstance(projects, dict) else None
        off = project.get("disabledMcpServers") if isinstance(project, dict) else None
        return isinstance(off, list) and SERVER in off


def in_project(folder: Path) -> Iterator[tuple[Path, Definition]]:
    """Servers of our name in the `.mcp.json` of this folder and those above, the one that counts first."""
    for place in (folder, *folder.parents):
        found = _server(_json(place / ".mcp.json"))
        if found is not None:
            yield place / ".mcp.json", found


def _server(holder: Any) -> Definition | None:
    servers = holder.get("mcpServers") if isinstance(holder, dict) else None
    found = servers.get(SERVER) if isinstance(servers, dict) else None
    return found if isinstance(found, dict) else None


def _json(path: Path) -> dict[str, Any]:
    """A file of the client's; {} if it is not there, or not what it was."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def plugins(config: Path, settings: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """The ids of our plugin, with its folder, and of the original's, where these settings enable them."""
    enabled = _json(settings).get("enabledPlugins")
    installed = _json(config / "plugins" / "installed_plugins.json").get("plugins")
    on = [name for name, value in enabled.items() if value] if isinstance(enabled, dict) else []
    places = {name: _path_of(installed.get(name)) for name in on} if isinstance(installed, dict) else {}
    ours = {name: place for name, place in places.items() if place and (place / ".claude-plugin/launch.py").is_file()}
    theirs = [name for name, place in places.items() if place and (place / "hooks" / "stop_bus.py").is_file()]
    return ours, tuple(theirs)


def _path_of(places: Any) -> Path | None:
    """The folder of a plugin, of what the client keeps of its installations."""
    last = places[-1] if isinstance(places, list) and places else None
    path = last.get("installPath") if isinstance(last, dict) else None
    return Path(path) if isinstance(path, str) else None


def command_of(server: Definition) -> list[str]:
    """The command line of a server, as far as it is text; [] for one that is not started by a command."""
    arguments = server.get("args") or []
    words = [server.get("command"), *(arguments if isinstance(arguments, list) else [])]
    return [word for word in words if isinstance(word, str)]


def is_known(server: Definition) -> bool:
    """Whether a server is ours, however installed, or the original."""
    return bool(_KNOWN.search(" ".join(command_of(server))))


def env_of(server: Definition) -> dict[str, str]:
    """The variables that a server is started with."""
    env = server.get("env")
    return {str(name): str(value) for name, value in env.items()} if isinstance(env, dict) else {}


def shown(server: Definition) -> str:
    """A server in a line; values of its variables are not shown."""
    where = server.get("url") or shlex.join(command_of(server))
    names = ", ".join(env_of(server))
    return f"{where}{f' (with {names})' if names else ''}"


def add(client: Client, command: Sequence[str], env: Mapping[str, str]) -> None:
    """Register the server at user scope."""
    variables = [word for name, value in env.items() for word in ("-e", f"{name}={value}")]
    client.must("mcp", "add", "-s", "user", SERVER, *variables, "--", *command)


def add_back(client: Client, server: Definition) -> None:
    """Register a server as it was."""
    client.must("mcp", "add-json", "-s", "user", SERVER, json.dumps(server))


def remove(client: Client) -> None:
    """Register it no more."""
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
    """Copies of itself that an installation has put there before."""

    @property
    def again(self) -> str:
        """The command that sets Claude Code up, for a shell."""
        return shlex.join([*self.command, "setup"])

    @classmethod
    def find(cls, env: Mapping[str, str], place: Path | None = None) -> Program:
        """Wherever this runs from: the installer's copy, a checkout or a plugin, an environment, uvx or pipx run.

        With `place` the installer's copy that is there, whatever runs this.
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
    """The command that starts the package in this environment; for a passing one of uvx or pipx, that tool's own."""
    path = env.get("PATH", os.defpath)
    if any(_UV_CACHE.fullmatch(part) for part in prefix.parts):
        return shutil.which("uvx", path=path) or "uvx", "--from", _source() or _INDEX, "claude-bus"
    if {"pipx", ".cache"} <= set(prefix.parts) or {"pipx", "Caches"} <= set(prefix.parts):
        return shutil.which("pipx", path=path) or "pipx", "run", "--spec", _source() or _INDEX, "claude-bus"
    script = Path(sysconfig.get_path("scripts"), "claude-bus.exe" if os.name == "nt" else "claude-bus")
    on_path = shutil.which("claude-bus", path=path)
    if on_path and script.exists() and os.path.realpath(on_path) == os.path.realpath(script):
        return (str(Path(on_path).absolute()),)  # uv tool's and pipx's link outlives the environment
    return (str(script),) if script.exists() else (sys.executable, "-m", "claude_bus")


def _source() -> str:
    """Where the package was installed from, if from no index."""
    try:
        told = json.loads(distribution("claude-bus").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return ""
    url = str(told.get("url", ""))
    if version := told.get("vcs_info"):
        revision = version.get("requested_revision")
        return f"{version['vcs']}+{url}{f'@{revision}' if revision else ''}"
    return unquote(urlsplit(url).path) if url.startswith("file:") else url
