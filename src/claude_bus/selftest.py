"""`python -m claude_bus.selftest [SERVER COMMAND]`: proof that it works here.

Starts two server processes, as two Claude Code sessions would, on a database made for
the purpose, and lets them exchange messages. The server is this package, unless a
command is given. Exit status 1 says that it does not work, and stdout why.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from mcp import Client, MCPError, StdioServerParameters, stdio_client

TIMEOUT = 60.0
"""Seconds for everything; a slow machine needs three or four."""


class Broken(Exception):
    """Something did not happen as it must; the message says what."""


class Participant:
    """A named session: what it calls is shown."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self.name = name

    async def call(self, tool: str, **arguments: Any) -> types.CallToolResult:
        """Call a tool; raises `Broken` if it fails."""
        result = await self._client.call_tool(tool, arguments)
        if result.is_error:
            raise Broken(f"{tool} of '{self.name}' fails: {_text(result)}")
        return result

    async def say(self, tool: str, **arguments: Any) -> str:
        """Call a tool that answers in words, and show them."""
        answer = _text(await self.call(tool, **arguments))
        self.show(answer)
        return answer

    def show(self, line: str) -> None:
        print(f"  {self.name:<6} {line}")

    async def receives(self, content: str) -> int:
        """Read the inbox, which must hold this one message; returns its id."""
        found = (await self.call("inbox")).structured_content or {}
        messages = found.get("messages", [])
        if [message["content"] for message in messages] != [content]:
            raise Broken(f"'{self.name}' reads {messages} instead of {content!r}")
        self.show(f"reads \"{content}\" from '{messages[0]['from']}'")
        return int(messages[0]["id"])

    async def sees(self, message: int, state: str) -> None:
        """The receipt of a message must say this."""
        found = (await self.call("message_status", message_id=message)).structured_content or {}
        states = [delivery["state"] for delivery in found.get("deliveries", [])]
        if states != [state]:
            raise Broken(f"the receipt of message {message} says {states} instead of {state!r}")
        self.show(f"sees its receipt: {state}")


async def converse(command: Sequence[str], env: dict[str, str]) -> None:
    """Two sessions join, and one writes to the other; raises `Broken` if anything is not as it must be."""
    server = StdioServerParameters(command=command[0], args=list(command[1:]), env=env)
    async with Client(stdio_client(server)) as one, Client(stdio_client(server)) as two:
        alice, bob = Participant(one, "alice"), Participant(two, "bob")
        await alice.say("register", name="alice")
        await bob.say("register", name="bob", role="reviewer")
        await alice.say("send", to="bob", content="Is the build green?", kind="request")
        await alice.sees(1, "queued")
        question = await bob.receives("Is the build green?")
        await alice.sees(question, "handed")
        await bob.say("send", to="alice", content="Green since noon.", reply_to=question)
        await alice.sees(question, "acked")
        await alice.receives("Green since noon.")


def prove(command: Sequence[str], env: dict[str, str]) -> None:
    """Raises `Broken` unless two servers, started with this command, exchange messages."""

    async def in_time() -> None:
        with anyio.fail_after(TIMEOUT):
            await converse(command, env)

    try:
        anyio.run(in_time)
    except (OSError, MCPError) as error:
        raise Broken(f"{command[0]}: {error}") from error
    except ExceptionGroup as group:
        raise _first(group) from group


def _first(group: ExceptionGroup) -> Broken:
    """What a group is about."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Broken) else Broken(f"{type(error).__name__}: {error}")


def _text(result: types.CallToolResult) -> str:
    return " ".join(block.text for block in result.content if isinstance(block, types.TextContent))


def surroundings(db: Path) -> dict[str, str]:
    """The environment of the servers: none of the user's bus, nor of a session this may run in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BUS_", "CLAUDE", "MCP_"))}
    source = str(Path(__file__).parents[1])
    return {**kept, "BUS_DB": str(db), "PYTHONPATH": source}


def main(command: Sequence[str]) -> int:
    """Print the exchange, and in the last line whether it was as it must be."""
    started = time.monotonic()
    print("Two servers, as two Claude Code sessions start them, on a new database:")
    with tempfile.TemporaryDirectory(prefix="claude-bus-") as folder:
        try:
            prove(command or [sys.executable, "-m", "claude_bus"], surroundings(Path(folder, "bus.db")))
        except Broken as error:
            print(f"It does not work: {error}")
            return 1
    print(f"It works ({time.monotonic() - started:.1f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
