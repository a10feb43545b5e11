"""Packages that only some commands need, and how to get those that are missing."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from .errors import MissingPackages

Extra = Literal["serve", "secrets"]
EXTRAS: dict[Extra, str] = {"serve": "fastapi", "secrets": "kingfisher_sdk"}
"""Each with a module that only it brings."""
UV_CACHE = re.compile(r"(archive|env\w+|builds)-v\d+")
"""A folder in uv's cache with the environments of `uvx`."""
SOURCE = "'claude-bus[all] @ ADDRESS'"
"""On the package index the name alone may be that of the original."""
_TOOLS: dict[str, Callable[[str, str], object]] = {
    "uvx --from {} claude-bus": lambda _, folder: UV_CACHE.fullmatch(folder),
    "uv tool install {}": lambda above, folder: (above, folder) == ("uv", "tools"),
    "pipx install --force {}": lambda above, folder: (above, folder) == ("pipx", "venvs"),
    "pipx run --spec {} claude-bus": lambda above, folder: above == "pipx" and folder in (".cache", "Caches"),
}
"""Commands that make environments of their own, with the folders in which those lie."""


def missing(what: str, extra: Extra) -> MissingPackages:
    """Return the error of a command that needs an extra which is not installed."""
    return MissingPackages(f"{what} needs more packages: {way_to_get(extra)}", extra=extra)


def launched_in(command: Sequence[str] | None = None) -> Path | None:
    """Return the environment in which the launcher of the plugin or installer started a program, if it did.

    `command` is that of the program, by default of this process.
    """
    words = sys.orig_argv if command is None else command
    environment = words[words.index("--in") + 1 :][:1] if "--in" in words else []
    return Path(environment[0]) if environment and environment[0] else None


def way_to_get(extra: Extra, command: Sequence[str] | None = None, prefix: str = sys.prefix) -> str:
    """Return how to get an extra for the program that `command` started, in the environment `prefix`."""
    environment = launched_in(command)
    if environment:
        state = "being fetched" if are_coming(command) else "fetching failed"
        return f"{state}, see {environment / 'rest.log'}"
    parts = Path(prefix).parts
    for tool, made in _TOOLS.items():
        if any(made(*pair) for pair in pairwise(parts)):
            return f"run {tool.format(SOURCE)}, with the address that you gave before"
    pip = Path(prefix, "bin", "pip")
    is_own = prefix != sys.base_prefix and pip.exists()  # a venv's, which may not be the one on PATH
    return f"{shlex.quote(str(pip)) if is_own else 'pip'} install 'claude-bus[{extra}]'"


def are_coming(command: Sequence[str] | None = None) -> bool:
    """Return whether the plugin is fetching the extras for the program that `command` started."""
    environment = launched_in(command)
    if not environment or (environment / ".rest-failed").exists():
        return False
    rest = environment / "rest"  # empty until all of them are there that this system can have
    return not (rest.is_dir() and any(rest.iterdir()))
