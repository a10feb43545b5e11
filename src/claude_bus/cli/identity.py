"""As whom a command speaks."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from dataclasses import dataclass

from .. import claude_code, rules
from ..bus import Bus
from ..config import Config
from ..model import Address, Binding

PROGRAM = "claude-bus"


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who speaks, on which bus. `session` is set in the shell of a Claude Code session."""

    me: Address
    bus: Bus
    session: Binding | None = None


async def speaker(bus: Bus, config: Config, env: Mapping[str, str], as_name: str) -> Speaker:
    """In a session's shell the session itself; else `as_name`, BUS_NAME, or the user's login name.

    Raises `NameTaken` for the name of somebody else's live session.
    """
    session = await _session(bus, env)
    if session and as_name in ("", session.address.name):
        return Speaker(session.address, bus, session)
    who = Address(rules.check_name(as_name or config.name or _login()), config.channel)
    await bus.enlist(who, PROGRAM)
    return Speaker(who, bus)


async def committer(bus: Bus, config: Config, env: Mapping[str, str]) -> Address:
    """Whose claims are no obstacle: the session's in whose shell this runs, else the user's own.

    Nobody joins the bus by committing, and whoever has the user's name does not matter.
    """
    session = await _session(bus, env)
    return session.address if session else Address(config.name or _login(), config.channel)


async def _session(bus: Bus, env: Mapping[str, str]) -> Binding | None:
    for key in claude_code.keys_of_shell(env):
        binding = await bus.binding(key)
        if binding:
            return binding
    return None


def _login() -> str:
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry
        name = "user"
    return rules.folder_name(name, "")
