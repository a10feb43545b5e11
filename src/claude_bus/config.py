"""Settings, read once by an entry point from its environment.

| variable | meaning | default |
|---|---|---|
| `BUS_DB` | the database file | `~/.claude-bus/bus.db` |
| `BUS_NAME` | register under this name at start | none |
| `BUS_ROLE` | role for `BUS_NAME` | none |
| `BUS_CHANNEL` | channel to join | `default` |
| `BUS_WAKE` | doorbell: `auto`, `always` (also in bypassPermissions mode), `never` | `auto` |
| `BUS_GUARD` | edits of files others claim: `off`, `warn`, `confirm` (refused once), `deny` | `confirm` |
| `BUS_SHARE_PROMPTS` | `1`: peers see the first words of your last prompt | off |
| `BUS_RATE` | messages a session may send per minute, a quarter of them to one recipient; `0`: any number | 120 |
| `BUS_BUSY_TIMEOUT` | seconds to wait for another process's write | 5 |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from .errors import InvalidInput
from .model import Guard
from .rules import DEFAULT_CHANNEL, check_line, check_name

Wake = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True)
class Config:
    """One process's settings. Built by `from_env`; tests build it directly."""

    db: Path
    name: str = ""
    role: str = ""
    channel: str = DEFAULT_CHANNEL
    wake: Wake = "auto"
    guard: Guard = "confirm"
    share_prompts: bool = False
    rate: int = 120
    busy_timeout: float = 5.0

    @classmethod
    def from_env(cls, env: Mapping[str, str], home: Path) -> Config:
        """Settings from environment variables; an unusable one is an `InvalidInput` naming it."""
        wake = _one_of(env, "BUS_WAKE", "auto", ("auto", "always", "never"))
        guard = _one_of(env, "BUS_GUARD", "confirm", ("off", "warn", "confirm", "deny"))
        name = env.get("BUS_NAME") or ""
        return cls(
            db=_path(env.get("BUS_DB") or "", home),
            name=check_name(name, "BUS_NAME") if name else "",
            role=check_line(env.get("BUS_ROLE") or "", "BUS_ROLE"),
            channel=check_name(env.get("BUS_CHANNEL") or DEFAULT_CHANNEL, "BUS_CHANNEL"),
            wake=cast(Wake, wake),
            guard=cast(Guard, guard),
            share_prompts=_one_of(env, "BUS_SHARE_PROMPTS", "0", ("0", "1")) == "1",
            rate=_count(env.get("BUS_RATE") or "120", "BUS_RATE"),
            busy_timeout=_seconds(env.get("BUS_BUSY_TIMEOUT") or "5", "BUS_BUSY_TIMEOUT"),
        )


def _one_of(env: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = env.get(name) or default
    if value not in allowed:
        raise InvalidInput(f"{name}={value!a} is not valid: use {', '.join(allowed[:-1])} or {allowed[-1]}")
    return value


def _path(text: str, home: Path) -> Path:
    if not text:
        return home / ".claude-bus" / "bus.db"
    if text == "~" or text.startswith(("~/", "~\\")):
        return home / text[2:]
    return Path(text).absolute()


def _count(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise InvalidInput(f"{name}={text!a} is not valid: give a whole number, or 0 for no limit")
    return int(text)


def _seconds(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 600:
        raise InvalidInput(f"{name}={text!a} is not valid: give seconds from 0 to 600")
    return value
