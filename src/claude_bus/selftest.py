"""`python -m claude_bus.selftest [SERVER COMMAND]`: proof that the bus works on this machine.

Starts two server processes, as two Claude Code sessions would, on a temporary database,
and lets them exchange messages. The server is this package, unless a command is given.
Exit status 1 means that it does not work; stdout says why.

The few protocol messages it needs are written here, without the MCP library, which the
servers load already and which need not be loaded a third time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

TIMEOUT = 60.0
"""Seconds after which a server that does not answer is ended; a slow machine needs three or four for everything."""
_LEAVING = 10.0
"""Seconds after which a server that does not end with its input is killed. If it were killed at once, its child process
would stay behind and create the database again after it was deleted."""


class Broken(Exception):
    """A step did not have the expected result; the message says which."""


class Server:
    """A server process and the session it serves, which is called `name`."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.name = name
        self._id = 0
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, encoding="utf-8")  # noqa: S603
        except OSError as error:
            raise Broken(f"{command[0]}: {error.strerror}") from error
        self._limit = threading.Timer(TIMEOUT, self._process.kill)

    def __enter__(self) -> Self:
        self._limit.start()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._process.communicate(timeout=_LEAVING)  # the end of its input ends it, and its child processes
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._limit.cancel()

    def greet(self) -> None:
        """Open the conversation as a client does."""
        client = {"name": "claude-bus selftest", "version": "1"}
        self.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client})
        self._write({"method": "notifications/initialized"})

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a request. Raises `Broken` for an error or no answer."""
        self._id += 1
        self._write({"id": self._id, "method": method, "params": params})
        answer = self._read()
        while answer.get("id") != self._id:
            answer = self._read()
        if "result" not in answer:
            raise Broken(f"{method} is refused: {answer.get('error')}")
        result: dict[str, Any] = answer["result"]
        return result

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Broken(f"the server of '{self.name}' ended") from None

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError:
            raise Broken(f"the server of '{self.name}' " + (f"says {line!r}" if line else "ended")) from None
        return message

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Return the result of a tool. Raises `Broken` if it fails."""
        result = self.ask("tools/call", {"name": tool, "arguments": arguments})
        if result.get("isError"):
            raise Broken(f"{tool} of '{self.name}' fails: {_text(result)}")
        return result

    def does(self, tool: str, **arguments: Any) -> None:
        """Call a tool that answers with text, and print that."""
        self._show(_text(self.call(tool, **arguments)))

    def receives(self, content: str) -> int:
        """Read the inbox, which must contain exactly this message; return its id."""
        messages = self.call("inbox")["structuredContent"]["messages"]
        if [message["content"] for message in messages] != [content]:
            raise Broken(f"'{self.name}' reads {messages} instead of {content!r}")
        self._show(f"reads \"{content}\" from '{messages[0]['from']}'")
        return int(messages[0]["id"])

    def sees(self, message: int, state: str) -> None:
        """Check that the receipt of a message has this state."""
        deliveries = self.call("message_status", message_id=message)["structuredContent"]["deliveries"]
        states = [delivery["state"] for delivery in deliveries]
        if states != [state]:
            raise Broken(f"the receipt of message {message} says {states} instead of {state!r}")
        self._show(f"sees its receipt: {state}")

    def _show(self, line: str) -> None:
        print(f"  {self.name:<6} {line}", flush=True)


def _text(result: dict[str, Any]) -> str:
    return " ".join(block["text"] for block in result["content"])


def converse(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Let two sessions join and exchange a request. Raises `Broken` if a result is not as expected."""
    with Server("alice", command, env) as alice, Server("bob", command, env) as bob:
        alice.greet()
        bob.greet()
        alice.does("register", name="alice")
        bob.does("register", name="bob", role="reviewer")
        alice.does("send", to="bob", content="Is the build green?", kind="request")
        alice.sees(1, "queued")
        question = bob.receives("Is the build green?")
        alice.sees(question, "handed")
        bob.does("send", to="alice", content="Green since noon.", reply_to=question)
        alice.sees(question, "acked")
        alice.receives("Green since noon.")


def environment(db: Path) -> dict[str, str]:
    """Return the servers' environment without the user's bus settings and those of a surrounding session."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BUS_", "CLAUDE", "MCP_"))}
    return {**kept, "BUS_DB": str(db), "PYTHONPATH": str(Path(__file__).parents[1])}


def main(command: Sequence[str]) -> int:
    """Print the exchange, and in the last line whether it worked; return the exit status."""
    started = time.monotonic()
    print("Two servers, as two Claude Code sessions start them, on a new database:", flush=True)
    with tempfile.TemporaryDirectory(prefix="claude-bus-") as folder:
        try:
            converse(command or [sys.executable, "-m", "claude_bus"], environment(Path(folder, "bus.db")))
        except Broken as error:
            print(f"It does not work: {error}")
            return 1
    print(f"It works ({time.monotonic() - started:.1f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
