"""The cost of a hook call and an inbox with much read mail in the store, beside the same on an empty bus.

    python benchmarks/stored.py [--messages N] [--rounds N] [--quick]

Both are meant to cost what is unread, not what is stored: the ratios should stay near 1.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import Figure, plain

from claude_bus import processes
from claude_bus.compat.sql import feeds
from claude_bus.drivers.sqlite import connect, transact
from claude_bus.model.hooks import HookReport
from claude_bus.model.identity import Address, Client
from claude_bus.model.messages import Draft, Search
from claude_bus.model.tokens import Grant
from claude_bus.sql import agents, bindings, deliveries, inboxes, messages, sessions
from claude_bus.sql.transaction import CallerContext, Transaction

ME = processes.this_process()
CALLER = CallerContext(ME, Grant("anybody"))
BOB = Address("bob", "default")
SCRIPT = Address("script", "default")
CLIENT = Client("client of bob", ME)
PROMPT = HookReport("hook", 9_000, session_id="s", prompt_id="p")
END = HookReport("hook", 9_000, session_id="s", prompt_id="p", ends=True)
UNREAD = Search("default", unread_by="script", limit=50)


class Store:
    """A bus file with a session (bob) and a program (script) that have read so many messages."""

    def __init__(self, path: Path, stored: int) -> None:
        self._connection = connect(path, 5.0)
        self._run(bindings.attach, CLIENT, None, "default")
        self._run(agents.register, CLIENT.key, BOB, "", None)
        self._run(agents.join_without_session, SCRIPT, "script")
        self._fill(stored)

    def _run(self, verb: Any, *arguments: Any, **named: Any) -> Any:
        def step(tx: Transaction) -> Any:
            return verb(tx.called_by(CALLER), *arguments, **named)

        return transact(self._connection, time.time(), lambda _process, _heartbeat: True, step)

    def _fill(self, stored: int) -> None:
        start = time.time() - stored
        rows = [(n, start + n) for n in range(1, stored + 1)]
        to = [(n, name, "read" if n % 2 else "acked", 1, start + n) for n, _ in rows for name in ("bob", "script")]
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            "INSERT INTO messages (id, ts, sender, recipient, content) VALUES (?, ?, 'alice', 'bob, script', 'hello')",
            rows,
        )
        self._connection.executemany(
            "INSERT INTO deliveries (message, recipient, state, recalled, read_at) VALUES (?, ?, ?, ?, ?)", to
        )
        self._connection.execute("COMMIT")

    def send(self) -> None:
        """One more message for both, which stays unread."""
        self._run(agents.join_without_session, Address("alice", "default"), "script")
        self._run(messages.send, Address("alice", "default"), Draft(("bob", "script"), "hello", kind="fyi"))

    def actions(self) -> dict[str, Callable[[], object]]:
        return {
            "prompt hook": lambda: self._run(sessions.handle_hook_event, CLIENT, PROMPT),
            "stop hook": lambda: self._run(sessions.handle_hook_event, CLIENT, END),
            "waiting": lambda: self._run(deliveries.waiting, BOB),
            "inbox of a session": lambda: self._run(
                deliveries.hand_over, BOB, limit=100, max_chars=90_000, via="inbox", peek=True
            ),
            "inbox of a program": lambda: self._run(inboxes.peek, SCRIPT, limit=100, max_chars=90_000),
            "messages unread by a program": lambda: self._run(feeds.posts, UNREAD),
            "unread of everybody": lambda: self._run(feeds.unread),
        }


def medians(full: Store, empty: Store, rounds: int, when: str) -> list[Figure]:
    figures = []
    others = empty.actions()
    for name, action in full.actions().items():
        pairs = [(milliseconds(action), milliseconds(others[name])) for _ in range(rounds)]  # a busy moment hits both
        ours, base = (statistics.median(side) for side in zip(*pairs, strict=True))
        figures.append(Figure(f"{name}, {when}", ours, "ms", base, "on an empty bus", "near 1"))
    return figures


def milliseconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1000


def measured(folder: Path, stored: int, rounds: int) -> list[Figure]:
    """All figures of this file."""
    full, empty = Store(folder / "full.db", stored), Store(folder / "empty.db", 0)
    figures = medians(full, empty, rounds, "nothing new")
    for store in (full, empty):
        store.send()
    return [*figures, *medians(full, empty, rounds, "one message open")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="few messages and rounds: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.messages, options.rounds = 1_000, 2
    with tempfile.TemporaryDirectory() as name:
        figures = measured(Path(name), options.messages, options.rounds)
    print(f"with {options.messages} messages stored and read", plain(figures), sep="\n")


if __name__ == "__main__":
    main()
