"""Programs that compete for one bus file. Run as `python -m tests.support.actors ROLE ...`; BUS_DB names the file.

Each says "ready", waits for a line on stdin, acts, and prints what happened.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from claude_bus import processes
from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.errors import BusError, ClaimHeld, NameTaken, VersionConflict
from claude_bus.local import LocalBus
from claude_bus.model.identity import Address, Client
from claude_bus.model.messages import Draft
from claude_bus.sql import bindings, claims, deliveries, messages, sessions, state

CHANNEL = "default"


def say(line: object) -> None:
    print(line, flush=True)


def wait_for_go() -> None:
    say("ready")
    sys.stdin.readline()


async def join(bus: LocalBus, name: str) -> Address:
    """Take part as a session of this very process."""
    me = processes.this_process()
    client = Client(f"actor:{me}", me)
    await bus.run(bindings.attach, client, None, CHANNEL)
    binding, _, _ = await bus.run(sessions.join, client.key, Address(name, CHANNEL), "", None)
    return binding.address


async def open_only(bus: LocalBus) -> None:
    """Open the file and say how much is in it."""
    from claude_bus.sql.transaction import Transaction

    wait_for_go()

    def count(tx: Transaction) -> int:
        return int(tx.number("SELECT COUNT(*) FROM messages"))

    say(f"{await bus._db.run(count)} messages")


async def send(bus: LocalBus, name: str, to: str, count: str) -> None:
    """Send numbered messages; say each one that is stored."""
    me = await join(bus, name)
    wait_for_go()
    for n in range(int(count)):
        await bus.run(messages.send, me, Draft((to,), f"{name} {n}"))
        say(n)


async def write(bus: LocalBus, name: str, count: str, size: str) -> None:
    """Send large messages to nobody in particular."""
    me = await join(bus, name)
    wait_for_go()
    for _ in range(int(count)):
        await bus.run(messages.send, me, Draft(("archive",), "x" * int(size)))


async def read(bus: LocalBus, name: str, until: str, confirm: str) -> None:
    """Read until so many messages came; say each, marked if it may have been seen, before it is confirmed."""
    me = await join(bus, name)
    wait_for_go()
    count = 0
    while count < int(until):
        found = await bus.run(deliveries.hand_over, me, via="inbox", limit=20, max_chars=100_000)
        for message in found.messages:
            say(f"{'again ' if message.possibly_seen else ''}{message.id} {message.content}")
        count += len(found.messages)
        if confirm == "yes":
            await bus.run(deliveries.confirm, me, [m.id for m in found.messages])
        elif found.messages:
            await asyncio.Event().wait()  # never confirms: killed while holding them
        if not found.messages:
            await asyncio.sleep(0.01)


async def increment(bus: LocalBus, times: str) -> None:
    """Count a shared number up by compare-and-set."""
    me = Address(str(os.getpid()), CHANNEL)
    wait_for_go()
    for _ in range(int(times)):
        await _once(bus, me)


async def _once(bus: LocalBus, me: Address) -> None:
    while True:
        entry = await bus.run(state.get_state, CHANNEL, "count")
        value, version = (int(entry.value or 0), entry.version) if entry else (0, 0)
        try:
            say(await bus.run(state.set_state, me, "count", str(value + 1), expected_version=version))
        except VersionConflict:
            continue
        return


async def append(bus: LocalBus, times: str) -> None:
    """Append lines to a shared list."""
    me = Address(str(os.getpid()), CHANNEL)
    wait_for_go()
    for n in range(int(times)):
        await bus.run(state.set_state, me, "lines", f"{me.name} {n}", mode="append")


async def claim(bus: LocalBus, name: str, count: str) -> None:
    """Claim many paths; say those that were granted."""
    me = await join(bus, name)
    wait_for_go()
    for n in range(int(count)):
        try:
            await bus.run(claims.claim, me, [("", f"src/{n}.py")], ttl=600)
        except ClaimHeld:
            continue
        say(n)
    say("done")
    sys.stdin.readline()  # a claim ends with its session: stay until all have tried


async def register(bus: LocalBus, name: str) -> None:
    """Take a name, and keep it until told to end."""
    wait_for_go()
    try:
        say((await join(bus, name)).name)
    except NameTaken as taken:
        say(f"taken, {taken.data['suggestion']} is free")
    sys.stdin.readline()


async def prune(bus: LocalBus, times: str) -> None:
    """Do a server's upkeep over and over."""
    wait_for_go()
    for _ in range(int(times)):
        await bus.prune()


ROLES: dict[str, Callable[..., Awaitable[None]]] = {
    "open": open_only,
    "send": send,
    "write": write,
    "read": read,
    "increment": increment,
    "append": append,
    "claim": claim,
    "register": register,
    "prune": prune,
}


async def main(role: str, *args: str) -> None:
    async with open_local(Config.from_env(os.environ, Path.home())) as bus:
        try:
            await ROLES[role](bus, *args)
        except BusError as error:
            say(f"{error.code}: {error}")
            raise


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
