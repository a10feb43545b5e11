"""`claude-bus token`: who may use the bus over HTTP, and as whom.

A token's secret is shown once, or written to a file, and never an argument of a command:
those are for all users of a machine to see.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TextIO

from .. import grants, limits
from ..config import Config, Serving
from ..connect import open_here
from ..errors import InvalidInput, NotFound
from ..local import LocalBus
from ..model.tokens import Token
from ..names import check_name
from ..sql import tokens
from . import printing
from .output import local, show
from .settings import home


async def token(options: argparse.Namespace, config: Config) -> int:
    """Make, list or end tokens, on the machine that serves the bus."""
    async with open_here(config, "tokens are made") as bus:
        await _ACTIONS[options.action](options, config, bus)
    return 0


async def _create(options: argparse.Namespace, config: Config, bus: LocalBus) -> None:
    owner = check_name(options.owner, "owner")
    names = grants.check_patterns(_listed(options.names) or (owner, f"{owner}-*"), "--names")
    channels = grants.check_patterns(_listed(options.channels) or (config.channel,), "--channels")
    ttl, url = _ttl(options.ttl), _address()
    with _secret_file(options.out) as file:
        made, secret = await bus.create_token(owner, names, channels, ttl, in_url=options.in_url)
        if file:
            print(secret, file=file)
    kept = {"file": options.out} if file else {"token": secret}
    show(options, {**_row(made), **kept}, _created(made, secret, options.out, url))


def _listed(given: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in given.split(",") if part.strip())


def _ttl(given: str) -> float | None:
    try:
        return limits.check_seconds(limits.parse_seconds(given), "--ttl", grants.MAX_TOKEN_TTL) if given else None
    except ValueError as error:
        raise InvalidInput(f"--ttl {given!a} is not valid: {error}") from None


@contextlib.contextmanager
def _secret_file(path: str) -> Iterator[TextIO | None]:
    """A new file that only its owner can read; gone again if the token does not come about. None without a path."""
    if not path:
        yield None
        return
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidInput(f"--out {path}: the file exists; name a new one, or remove it first") from None
    except OSError as error:
        raise InvalidInput(f"--out {path} cannot be made: {error.strerror}") from None
    try:
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            yield file
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


def _address() -> str:
    """Where others reach the bus, as far as this process can know: how it is served is the settings' of another."""
    here = Serving.from_env(os.environ, home())
    return f"https://SERVER:{here.port}{here.prefix}"


def _created(made: Token, secret: str, out: str, url: str) -> str:
    where = [f"Its secret is in {out}."] if out else ["", f"    {secret}", "", "This is shown once."]
    return "\n".join(
        [
            f"Token {made.id} of '{made.owner}': {_scope(made)}, {_until(made)}.",
            *where,
            *_use(made, secret if not out else "SECRET", url),
        ]
    )


def _use(made: Token, secret: str, url: str) -> list[str]:
    """How to use it."""
    if made.in_url:
        return [
            "It stands in the address, for /send, /recv, /post, /messages and /ack only:",
            "",
            f"    export AGENT_BUS_URL={url}/t/{secret}",
            f"    BUS_URL={url}/t/{secret}     # in ~/.secrets/claude-bus.env",
            "",
            "Anyone who reads the address can use it, and addresses get into logs of proxies and histories of shells:",
            "give it few names, an end (--ttl), and https.",
        ]
    return [
        "Where it is to be used, put it into a file of its owner's only:",
        "",
        '    (umask 077; mkdir -p ~/.claude-bus; read -rsp "token: " t && echo "$t" > ~/.claude-bus/token)',
        f"    export BUS_URL={url} BUS_TOKEN_FILE=~/.claude-bus/token",
        "",
        f"{url} stands for the address by which that machine reaches this server, or the proxy in front of it.",
        "",
        "Or without claude-bus on that machine, and so without the doorbell:",
        "",
        "    export BUS_TOKEN=$(cat ~/.claude-bus/token)",
        f"    claude mcp add --transport http bus {url}/mcp --header 'Authorization: Bearer ${{BUS_TOKEN}}'",
    ]


def _scope(found: Token) -> str:
    where = "; may stand in an address" if found.in_url else ""
    return f"names {', '.join(found.names)}; channels {', '.join(found.channels)}{where}"


def _until(found: Token) -> str:
    return f"valid until {local(found.expires)}" if found.expires else "valid until it is revoked"


async def _list(options: argparse.Namespace, _config: Config, bus: LocalBus) -> None:
    found = [each for each in await bus.run(tokens.listing) if options.all or _state(each) == "valid"]
    show(options, {"tokens": [_row(each) for each in found]}, _table(found))


def _table(found: list[Token]) -> str:
    if not found:
        return "there is no token; make one with: claude-bus token create NAME"
    return printing.columns([(str(each.id), each.owner, _state(each), _scope(each), _until(each)) for each in found])


def _state(found: Token) -> str:
    if found.revoked is not None:
        return "revoked"
    return "expired" if found.expires is not None and found.expires <= time.time() else "valid"


def _row(found: Token) -> dict[str, Any]:
    return {
        "id": found.id,
        "owner": found.owner,
        "state": _state(found),
        "names": list(found.names),
        "channels": list(found.channels),
        "created": found.created,
        "expires": found.expires,
        "revoked": found.revoked,
        "in_url": found.in_url,
    }


async def _revoke(options: argparse.Namespace, _config: Config, bus: LocalBus) -> None:
    known = {each.id for each in await bus.run(tokens.listing)}
    if unknown := [number for number in options.ids if number not in known]:
        raise NotFound(f"there is no token {unknown[0]}; nothing was revoked. See: claude-bus token list --all")
    ended = [each for number in options.ids if (each := await bus.run(tokens.revoke, number))]
    shown = "\n".join(f"token {each.id} of '{each.owner}' is {_state(each)}" for each in ended)
    show(options, {"tokens": [_row(each) for each in ended]}, shown)


_ACTIONS: dict[str, Callable[[argparse.Namespace, Config, LocalBus], Coroutine[Any, Any, None]]] = {
    "create": _create,
    "list": _list,
    "revoke": _revoke,
}
