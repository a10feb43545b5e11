"""A real bus file whose clock and whose dead processes a test decides."""

from __future__ import annotations

import copy
import weakref
from itertools import count
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from claude_bus.drivers.sqlite import Step, connect, transact
from claude_bus.model.identity import Address, Client, Folder, Process
from claude_bus.model.messages import Draft, HandOver, Message, Sent
from claude_bus.sql import agents, bindings, deliveries, messages
from claude_bus.sql.transaction import CallerContext, Transaction, Unconfirmed

P = ParamSpec("P")
T = TypeVar("T")

START = 1_800_000_000.0
HOST = "here"
NOBODY = Process("", 0, 0.0)
NO_LIMIT = 10_000_000


class Store:
    """Runs verbs on a file. `now` moves only when the test moves it; processes die by `die`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = connect(path, busy_timeout=5.0)
        weakref.finalize(self, self.connection.close)  # also where a test does not: Python 3.13 warns of it
        self.now = START
        self.caller = CallerContext()
        self.told: list[str] = []
        """The listeners that the last verb notified."""
        self.clients: dict[Address, Client] = {}
        self._dead: set[Process] = set()
        self._pids = count(100)

    def __call__(self, verb: Step[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one verb in its transaction."""

        def step(tx: Transaction, /, *args: P.args, **kwargs: P.kwargs) -> T:
            self.told = tx.notified
            return verb(tx.called_by(self.caller), *args, **kwargs)

        return transact(self.connection, self.now, self._alive, step, *args, **kwargs)

    def by(self, process: Process = NOBODY, **context: Any) -> Self:
        """This store for a caller: what is handed over is in the hands of its process."""
        found = copy.copy(self)
        found.caller = CallerContext(process, **context)
        return found

    def _alive(self, process: Process, heartbeat: float) -> bool:
        return process not in self._dead

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query, for facts that no verb tells."""
        return [tuple(row) for row in self.connection.execute(sql, values)]

    def process(self) -> Process:
        """A process that nobody else is."""
        pid = next(self._pids)
        return Process(HOST, pid, float(pid))

    def client(self, *, session_id: str = "", folder: Folder | None = None) -> Client:
        """A client program that just started."""
        process = self.process()
        return Client(f"client:{process}", process, folder or Folder(), session_id, hooked=True)

    def present(self, cwd: str, *, branch: str = "", channel: str = "default", session_id: str = "") -> Address:
        """A session that runs in a folder and has not registered."""
        client = self.client(session_id=session_id, folder=Folder(cwd, cwd, "", branch))
        who = self(bindings.attach, client, None, channel).address
        self.clients[who] = client
        return who

    def join(
        self, name: str, *, channel: str = "default", role: str = "", owns: tuple[str, ...] | None = None
    ) -> Address:
        """A session that runs and has registered."""
        client = self.client(session_id=f"conversation of {name}")
        self(bindings.attach, client, None, channel)
        who = self(agents.register, client.key, Address(name, channel), role, owns).address
        self.clients[who] = client
        return who

    def rename(self, who: Address, name: str, channel: str = "") -> Address:
        """The session registers again, under another name."""
        client = self.clients.pop(who)
        now = self(agents.register, client.key, Address(name, channel or who.channel), "", None).address
        self.clients[now] = client
        return now

    def die(self, who: Address) -> None:
        """The session's process is gone without a word."""
        self._dead.add(self.clients.pop(who).process)

    def kill(self, process: Process) -> None:
        self._dead.add(process)

    def send(self, me: Address, to: str | tuple[str, ...], content: str = "hello", **more: Any) -> Sent:
        draft = Draft(to=(to,) if isinstance(to, str) else to, content=content, **more)
        return self(messages.send, me, draft)

    def hand_over(
        self, me: Address, *, by: Process | None = None, held: Unconfirmed | None = None, **more: Any
    ) -> HandOver:
        """Hand over without proof, by default through the session's own process."""
        given: dict[str, Any] = {"limit": 1000, "max_chars": NO_LIMIT, "via": "inbox"} | more
        return self.by(by or self.clients[me].process, held=held)(deliveries.hand_over, me, **given)

    def read(self, me: Address) -> list[Message]:
        """Hand over all there is, and prove it read."""
        found = self.hand_over(me).messages
        self.by(self.clients[me].process)(deliveries.confirm, me, [m.id for m in found])
        return list(found)

    def recall(self, me: Address) -> list[Message]:
        """Remind of open requests; returns those."""
        found: list[Message] = self(deliveries.open_requests, me)
        self(deliveries.note_recalled, me, [m.id for m in found])
        return found

    def contents(self, me: Address) -> list[str]:
        """Return the contents of all that is read now."""
        return [m.content for m in self.read(me)]

    def states(self, me: Address, message: int) -> dict[str, str]:
        """How far a message is, by recipient."""
        return {r.recipient: r.state for r in self(messages.status, me, message).receipts}

    def outlook(self, sent: Sent) -> dict[str, str]:
        return {e.recipient: e.outlook for e in sent.expectations}
