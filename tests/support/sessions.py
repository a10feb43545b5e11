"""Sessions on one real file, each with a server process of its own, and the clock the test's."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx2

from claude_bus.bus import Bus
from claude_bus.config import Access, Config, Serving
from claude_bus.drivers.sqlite import connect
from claude_bus.drivers.worker import Database
from claude_bus.http.app import create_app
from claude_bus.local import LocalBus
from claude_bus.model.hooks import Injection
from claude_bus.model.identity import Client, Folder, Process
from claude_bus.model.messages import Draft
from claude_bus.remote.bus import RemoteBus
from claude_bus.session.hook_event import HookEvent
from claude_bus.session.membership import Membership
from claude_bus.session.presence import Presence
from claude_bus.session.session import Session
from claude_bus.session.wakeup import Wakeup
from claude_bus.sql.transaction import CallerContext
from claude_bus.workspace import Workspace
from tests.support.store import HOST, START


class Party:
    """Sessions on one file, each with a server process of its own. `served`: they reach it over HTTP."""

    def __init__(self, path: Path, *, served: bool = False) -> None:
        self.path = path
        self.served = served
        self.now = START
        self._dead: set[Process] = set()
        self._pids = count(100)
        self._buses: dict[Bus, Process] = {}
        """Each with the process whose it is."""

    def rows(self, query: str, *values: object) -> list[Any]:
        """The rows of a query, over a connection of its own."""
        with closing(connect(self.path, 1.0)) as connection:
            return connection.execute(query, values).fetchall()

    def process(self) -> Process:
        pid = next(self._pids)
        return Process(HOST, pid, float(pid))

    def session(
        self,
        client: Client | None = None,
        *,
        folder: Folder | None = None,
        may_wake: Callable[[str], bool] = lambda _mode: False,
        attended: bool = False,
        **config: Any,
    ) -> Session:
        """A server of a client, by default of a new one."""
        process = self.process()
        where = folder or Folder("/home/me/shop", "/home/me/shop")
        client = client or Client(f"client:{process}", process, where, "s")
        given = Config(self.path, busy_timeout=0.2, **{"rate": 0, **config})
        wakeup = Wakeup(may_wake, attended=attended)
        presence = Presence(self.bus(given), given, client, wakeup=wakeup)
        return Session.of(Membership(presence, Workspace(client.folder)))

    def bus(self, config: Config) -> Bus:
        """The bus of one server process."""
        process = self.process()
        database = Database(self.path, 0.2, alive=self._alive, clock=lambda: self.now)
        local = LocalBus(database, CallerContext(process, rate=config.rate))
        self._buses[local] = process
        if not self.served:
            return local
        transport = httpx2.ASGITransport(create_app(local, config, Serving(), tokens=False))
        process = self.process()
        remote = RemoteBus("http://127.0.0.1", Access(), process, transport)
        self._buses[remote] = process
        return remote

    def _alive(self, process: Process, _heartbeat: float) -> bool:
        """Those elsewhere are known by another name of their host."""
        return replace(process, host=HOST) not in self._dead

    async def join(self, name: str, **more: Any) -> Session:
        session = self.session(**more)
        await session.register(name)
        return session

    def kill(self, session: Session) -> None:
        """Client and server are gone without a word."""
        self._dead |= {session.client.process, self._buses[session.bus]}

    async def close(self) -> None:
        for bus in self._buses:
            await bus.close()


async def say(session: Session, to: str, content: str = "hello", **more: Any) -> int:
    return (await session.send(Draft((to,), content, **more))).id


async def state_of(sender: Session, message: int) -> str:
    [receipt] = (await sender.message_status(message)).receipts
    return receipt.state


def carried(context: str) -> list[str]:
    """The contents of the messages in an injection."""
    return re.findall(r"<bus-message-\w+ [^\n]*>\n(.*?)\n</bus-message-", context, re.DOTALL)


# -- hook events of the main conversation ---------------------------------------------


async def prompt_hook(
    session: Session, conversation: str, prompt_id: str, mode: str, prompt: str = "", *, typed: bool = True
) -> Injection:
    """A prompt is submitted."""
    event = HookEvent("UserPromptSubmit", conversation, prompt_id, permission_mode=mode, prompt=prompt)
    return await session.conversation.prompt(event, typed=typed)


async def batch_hook(
    session: Session, conversation: str, mode: str, prompt_id: str = "", *, worked: bool = True
) -> Injection:
    """A batch of tools is over."""
    event = HookEvent("PostToolBatch", conversation, prompt_id, permission_mode=mode)
    return await session.conversation.batch(event, worked=worked)


async def stop_hook(session: Session, conversation: str, mode: str, prompt_id: str = "") -> Injection:
    """The model is about to end its turn."""
    return await session.conversation.stop(HookEvent("Stop", conversation, prompt_id, permission_mode=mode))


async def failure_hook(session: Session, conversation: str) -> None:
    """The model could not be reached."""
    await session.conversation.failed(HookEvent("StopFailure", conversation))
