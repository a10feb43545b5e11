"""As whom a command speaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from .. import addresses, claude_code, grants, names
from ..bus import Bus
from ..config import Config
from ..errors import Forbidden
from ..model.identity import Address, Binding
from ..model.tokens import Grant
from ..records import record
from ..sql import agents, bindings

PROGRAM = "claude-bus"


@record(frozen=True, slots=True)
class Speaker:
    """The speaker, and the bus. `session` is set in the shell of a Claude Code session."""

    me: Address
    bus: Bus
    session: Binding | None = None


async def speaker(bus: Bus, config: Config, env: Mapping[str, str], as_name: str) -> Speaker:
    """In a session's shell the session itself; else `as_name`, BUS_NAME, or the user's login name as permitted.

    Raises `NameTaken` for the name of somebody else's live session.
    """
    session = await session_of_shell(bus, env)
    if session and as_name in ("", session.address.name):
        return Speaker(session.address, bus, session)

    async def join(who: Address) -> None:
        await bus.run(agents.join_without_session, who, PROGRAM)

    return Speaker(await _permitted(as_name or config.name, config.channel, join), bus)


async def committer(bus: Bus, config: Config, env: Mapping[str, str]) -> Address:
    """The agent whose claims are no obstacle: the session in whose shell this runs, else the user.

    Nobody joins the bus by committing, and whoever has the user's name does not matter.
    """

    from ..sql import guard

    async def look(who: Address) -> None:
        await bus.run(guard.conflicting_claims, who, [], "")

    session = await session_of_shell(bus, env)
    return session.address if session else await _permitted(config.name, config.channel, look)


async def session_of_shell(bus: Bus, env: Mapping[str, str]) -> Binding | None:
    """The session in whose shell this program runs, if it is on the bus."""
    for key in claude_code.keys_of_shell(env):
        binding = await bus.run(bindings.bound, key)
        if binding and claude_code.is_session_of_shell(binding, env):
            return binding
    return None


async def _permitted(name: str, channel: str, act: Callable[[Address], Awaitable[None]]) -> Address:
    """The caller's address, after `act` on its behalf: `name`, or the login name if there is none.

    A token may be for other names than that one: then, as sessions are listed, what its
    pattern makes of the login name. Raises `Forbidden` where that is no name either.
    """
    if name:
        who = Address(names.check_name(name), channel)
        await act(who)
        return who
    who = Address(_login(), channel)
    try:
        await act(who)
    except Forbidden as error:
        who = replace(who, name=_made_of(who.name, error))
        await act(who)
    return who


def _made_of(name: str, error: Forbidden) -> str:
    """The name that a token which is not for `name` makes of it; raises the error if it makes none."""
    names = error.data.get("names")
    grant = Grant(names=tuple(map(str, names)) if isinstance(names, list) else ())
    made = grants.permitted_name(grant, name)
    if made == name:
        raise Forbidden(f"{error.message}: say as whom, with --as NAME or BUS_NAME", **error.data)
    return made


def _login() -> str:
    import getpass

    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user without an entry
        name = "user"
    return addresses.folder_name(name, "", otherwise="person")
