"""Packages that only some commands need, and how to get those that are missing."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from .errors import MissingPackages

Extra = Literal["serve", "secrets"]
EXTRAS: dict[Extra, str] = {"serve": "fastapi", "secrets": "kingfisher_sdk"}
"""Each with a module that only it brings."""
UV_CACHE = re.compile(r"(archive|env\w+|builds)-v\d+")
"""A folder in uv's cache with the environments of `uvx`."""


def missing(what: str, extra: Extra) -> MissingPackages:
    """Return the error of a command that needs an extra which is not installed."""
    return MissingPackages(f"{what} needs more packages: {way_to_get(extra)}", extra=extra)


def launched_in(command: Sequence[str]) -> Path | None:
    """Return the environment in which the launcher of the plugin or installer started a program, if it did."""
    words = command[command.index("--in") + 1 :][:1] if "--in" in command else []
    return Path(words[0]) if words and words[0] else None


def way_to_get(extra: Extra, command: Sequence[str] | None = None, prefix: str = sys.prefix) -> str:
    """Return how to get an extra for the program that `command` started, in the environment `prefix`."""
    environment = launched_in(sys.orig_argv if command is None else command)
    if environment:
        return f"they are fetched in the background; if they do not come, see {environment / 'rest.log'}"
    if any(UV_CACHE.fullmatch(part) for part in Path(prefix).parts):
        return "run it with uvx --from 'claude-bus[all]' claude-bus"
    return f"pip install 'claude-bus[{extra}]'"
