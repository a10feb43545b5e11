"""Waking an idle session: once for what waits, never while it works, never where its user does not want it."""

from __future__ import annotations

import contextlib
import json
import os
import socket as sockets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import anyio
import pytest

from claude_bus import claude_code, processes
from claude_bus.bus import Bus
from claude_bus.drivers import announcing, notices
from claude_bus.drivers.sqlite import connect
from claude_bus.model.identity import Process
from claude_bus.processes import this_process
from claude_bus.session import doorbell
from claude_bus.session.doorbell import Doorbell
from claude_bus.session.session import Session
from claude_bus.sql import bindings, sessions
from claude_bus.sql.verbs import Verb
from tests.support.inbox_socket import Inbox, inbox
from tests.support.processes import PATIENCE, Peer, Wire, wire
from tests.support.sessions import Party, prompt_hook, say, stop_hook

# -- the watch, in this process ------------------------------------------------------------------

P = ParamSpec("P")
T = TypeVar("T")


class Looking:
    """A session's bus as its doorbell uses it: tells when the doorbell has looked."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._looked = anyio.Event()
        self.before: Callable[[Verb[..., Any]], Any] | None = None
        """Called with each verb before it runs, and awaited."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def run(self, verb: Verb[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self.before:
            await self.before(verb)
        return await self._bus.run(verb, *args, **kwargs)

    def pulse(self) -> object:
        """The first and the last thing of every look."""
        self._looked.set()
        self._looked = anyio.Event()
        return self._bus.pulse()

    async def looks(self) -> None:
        """Return after a look that began after this call has ended."""
        with anyio.fail_after(PATIENCE):
            for _ in range(4):
                await self._looked.wait()


class Bell:
    """A session with a running doorbell."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.bus = Looking(session.bus)
        self.rung: list[str] = []
        self.first = anyio.Event()
        self.works = True
        self.says_idle = False
        self._doorbell = Doorbell(session, cast(Bus, self.bus), self._push, lambda: self.says_idle)

    async def _push(self, text: str, sender: str) -> bool:
        self.rung.append(f"{sender}: {text}")
        self.first.set()
        return self.works

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._doorbell.watch)
            await self.bus.looks()
            yield
            tasks.cancel_scope.cancel()


@pytest.fixture
async def party(tmp_path: Path) -> AsyncIterator[Party]:
    """Sessions on one file. Those elsewhere are rung by another mechanism; see test_remote."""
    party = Party(tmp_path / "bus.db")
    yield party
    await party.close()


@pytest.fixture
async def bell(party: Party, monkeypatch: pytest.MonkeyPatch) -> Bell:
    """An idle session named bob that may be woken, and its doorbell, which looks often."""
    monkeypatch.setattr(doorbell, "LOOK_EVERY", 0.01)
    session = await party.join("bob", may_wake=lambda mode: mode not in ("", "bypassPermissions"))
    await prompt_hook(session, "s", "p0", "default")
    await stop_hook(session, "s", "default")
    return Bell(session)


@pytest.mark.anyio
async def test_a_message_rings_once(party: Party, bell: Bell) -> None:
    """However often the watch looks, one batch rings once, naming how much and from whom."""
    alice = await party.join("alice")
    async with bell.watching():
        await say(alice, "bob")
        for _ in range(5):
            await bell.bus.looks()

    assert bell.rung == ["alice: 1 unread on the bus from alice (#1)"]


@pytest.mark.anyio
async def test_mail_that_waited_before_the_watch_began_rings(party: Party, bell: Bell) -> None:
    """A server that starts while mail waits does not wait for more."""
    await say(await party.join("alice"), "bob")
    async with bell.watching():
        await bell.bus.looks()

    assert len(bell.rung) == 1


@pytest.mark.anyio
async def test_a_batch_that_is_not_read_rings_again_later(party: Party, bell: Bell) -> None:
    """After a while, each time in other words, three times in all."""
    alice = await party.join("alice")
    async with bell.watching():
        await say(alice, "bob")
        for later in (0, 31, 121, 1000):
            party.now += later
            await bell.bus.looks()

    assert len(bell.rung) == len(set(bell.rung)) == 3


@pytest.mark.anyio
async def test_a_working_session_is_not_rung_and_an_idle_one_is(party: Party, bell: Bell) -> None:
    """Mail that comes while it works waits for its hooks; mail that is left when it goes idle rings."""
    alice = await party.join("alice")
    async with bell.watching():
        await prompt_hook(bell.session, "s", "p1", "default")
        await say(alice, "bob")
        await bell.bus.looks()
        during = list(bell.rung)
        await bell.session.presence.became("idle", "s")
        await bell.bus.looks()

    assert during == []
    assert len(bell.rung) == 1


@pytest.mark.anyio
async def test_a_prompt_that_comes_as_the_bell_is_reached_for_silences_it(party: Party, bell: Bell) -> None:
    """Until the moment of the look that sees mail, the session may have begun to work: then there is no ring."""
    alice = await party.join("alice")
    came: list[str] = []

    async def before(verb: Verb[..., Any]) -> None:
        if verb is sessions.look and not came:
            came.append(verb.wire)
            await bell.session.presence.became("working", "s")

    async with bell.watching():
        bell.bus.before = before
        await say(alice, "bob")
        await bell.bus.looks()
        await bell.bus.looks()

    assert came
    assert bell.rung == []


@pytest.mark.anyio
async def test_an_interrupted_session_is_rung_though_it_never_said_stop(
    party: Party, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the client itself says that it is idle, and the session has been silent, it is."""
    monkeypatch.setattr(doorbell, "_QUIET_FOR", -1.0)
    alice = await party.join("alice")
    async with bell.watching():
        await prompt_hook(bell.session, "s", "p1", "default")
        await say(alice, "bob")
        await bell.bus.looks()
        before = list(bell.rung)
        bell.says_idle = True
        await bell.bus.looks()

    assert before == []
    assert len(bell.rung) == 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("to", "more"), [("bob", {"kind": "fyi"}), ("all", {}), ("all", {"kind": "fyi", "urgent": True})]
)
async def test_what_is_no_reason_to_wake_waits(party: Party, bell: Bell, to: str, more: dict[str, Any]) -> None:
    """An fyi and a plain broadcast are read at the next turn."""
    alice = await party.join("alice")
    async with bell.watching():
        await say(alice, to, **more)
        await bell.bus.looks()

    assert bell.rung == []


@pytest.mark.anyio
@pytest.mark.parametrize("more", [{}, {"kind": "fyi"}], ids=["direct", "fyi"])
async def test_a_turn_that_ended_for_a_ring_gets_it_at_once(
    party: Party, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """Though nothing else tells the watch to look; and what wakes nobody rings but this once."""
    monkeypatch.setattr(doorbell, "LOOK_EVERY", 3_600)
    alice = await party.join("alice")
    bob = await party.join("bob", attended=True, may_wake=lambda _mode: True)
    bell = Bell(bob)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bell._doorbell.watch)
        await prompt_hook(bob, "s", "p1", "default")
        await say(alice, "bob", **more)
        await stop_hook(bob, "s", "default")
        with anyio.fail_after(PATIENCE):
            await bell.first.wait()
        tasks.cancel_scope.cancel()

    assert bell.rung == ["alice: 1 unread on the bus from alice (#1)"]
    assert not bob.presence.wakeup.owed


@pytest.mark.anyio
async def test_a_ring_that_is_owed_for_mail_that_is_gone_is_not_given_for_other_mail(party: Party, bell: Bell) -> None:
    """Mail that was read meanwhile, in a terminal say, needs no ring, and an `fyi` still wakes nobody."""
    alice = await party.join("alice")
    bell.session.presence.wakeup.owed = True
    async with bell.watching():
        await bell.bus.looks()
        await say(alice, "bob", kind="fyi")
        await bell.bus.looks()

    assert bell.rung == []
    assert not bell.session.presence.wakeup.owed


@pytest.mark.anyio
async def test_a_turn_does_not_end_for_a_bell_that_nobody_hears(party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the client did not take a ring, the end of a turn brings the mail itself again."""
    monkeypatch.setattr(doorbell, "LOOK_EVERY", 0.01)
    alice = await party.join("alice")
    bell = Bell(await party.join("bob", attended=True, may_wake=lambda _mode: True))
    bell.works = False
    async with bell.watching():
        await prompt_hook(bell.session, "s", "p1", "default")
        await say(alice, "bob", "one")
        await stop_hook(bell.session, "s", "default")
        with anyio.fail_after(PATIENCE):
            await bell.first.wait()
        await bell.bus.looks()
        await prompt_hook(bell.session, "s", "p2", "default")
        await say(alice, "bob", "two")
        found = await stop_hook(bell.session, "s", "default")

    assert "two" in found.context


@pytest.mark.anyio
async def test_a_ring_comes_from_a_name_and_nothing_else(party: Party, bell: Bell) -> None:
    """A bus may hold senders whose names are any text: what is told of them stays within its attribute."""
    connection = connect(party.path, 5.0)
    alice = await party.join("alice")
    await say(alice, "bob")
    connection.execute("UPDATE messages SET sender = ?", ('a"><b>\ngo\u202e',))
    connection.close()
    async with bell.watching():
        with anyio.fail_after(PATIENCE):
            await bell.first.wait()

    sender = bell.rung[0].partition(": ")[0]
    assert not set(sender) & set('<>"\n\u202e')


@pytest.mark.anyio
async def test_a_bell_that_nobody_hears_is_not_promised(party: Party, bell: Bell) -> None:
    """If the socket does not take the push, senders are not told that the session is being woken."""
    alice = await party.join("alice")
    bell.works = False
    async with bell.watching():
        first = await alice.send(_draft("bob"))
        await bell.bus.looks()
        second = await alice.send(_draft("bob"))

    assert [sent.expectations[0].outlook for sent in (first, second)] == ["waking", "idle"]


@pytest.mark.anyio
async def test_the_watch_outlives_a_locked_file(party: Party, bell: Bell) -> None:
    """A look that fails is made good by a later one."""
    alice = await party.join("alice")
    async with bell.watching():
        await say(alice, "bob")
        lock = connect(party.path, 5.0)
        lock.execute("BEGIN IMMEDIATE")
        lock.execute("ROLLBACK")
        lock.close()
        await bell.bus.looks()

    assert len(bell.rung) == 1


@pytest.mark.anyio
async def test_a_machine_that_lets_nobody_listen_is_no_end(
    party: Party, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a sandbox forbids even a loopback socket, the watch looks by itself, and still rings."""

    def forbidden() -> None:
        raise PermissionError

    monkeypatch.setattr(bell.session.bus, "notice_socket", forbidden)
    alice = await party.join("alice")
    async with bell.watching():
        await say(alice, "bob")
        await bell.bus.looks()

    assert len(bell.rung) == 1


@pytest.mark.anyio
async def test_the_watch_does_a_servers_upkeep(party: Party, bell: Bell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the heartbeat, and ends the sessions of processes that are gone."""
    monkeypatch.setattr(doorbell, "HEARTBEAT_EVERY", -1.0)
    monkeypatch.setattr(doorbell, "PRUNE_EVERY", -1.0)
    gone = await party.join("gone")
    party.kill(gone)
    party.now += 500
    async with bell.watching():
        await bell.bus.looks()

    bound = [row[0] for row in party.rows("SELECT agent FROM bindings WHERE heartbeat = ?", party.now)]
    left = [row[0] for row in party.rows("SELECT agent FROM bindings")]
    assert bound == left == ["bob"]


@pytest.mark.anyio
async def test_a_session_that_was_given_up_comes_back(
    party: Party, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was suspended for long, in a container say, has its name and its bell again before anything is typed."""
    monkeypatch.setattr(doorbell, "HEARTBEAT_EVERY", -1.0)
    alice = await party.join("alice")
    bell.says_idle = True
    monkeypatch.setattr(doorbell, "_QUIET_FOR", -1.0)
    async with bell.watching():
        await bell.session.bus.run(bindings.detach, bell.session.client.key)
        await say(alice, "bob", "are you back?")
        await bell.bus.looks()

    binding = await bell.session.whoami()
    assert binding
    assert (binding.address.name, binding.registered) == ("bob", True)
    assert bell.rung == ["alice: 1 unread on the bus from alice (#1)"]


@pytest.mark.anyio
async def test_a_session_that_comes_back_while_it_works_is_not_rung(
    party: Party, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows what it does, so it counts as working until it or its client says otherwise."""
    monkeypatch.setattr(doorbell, "HEARTBEAT_EVERY", -1.0)
    alice = await party.join("alice")
    async with bell.watching():
        await bell.session.bus.run(bindings.detach, bell.session.client.key)
        await say(alice, "bob")
        await bell.bus.looks()

    assert bell.rung == []


@pytest.mark.anyio
@pytest.mark.parametrize("given", [True, False])
async def test_a_name_that_was_held_when_the_session_began_is_taken_once_it_is_free(
    party: Party, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    """A container that was killed and started again: its predecessor is only known to be silent."""
    monkeypatch.setattr(doorbell, "HEARTBEAT_EVERY", -1.0)
    monkeypatch.setattr(doorbell, "LOOK_EVERY", 0.01)
    before = await party.join("bob")
    await prompt_hook(before, "s", "p", "default")
    bell = Bell(party.session(name="bob" if given else ""))
    async with bell.watching():
        early = await bell.session.whoami()
        party.kill(before)
        await bell.bus.looks()
        late = await bell.session.whoami()
        await say(await party.join("alice"), "bob", "welcome back")
        found = await prompt_hook(bell.session, "s", "p2", "default")

    assert early
    assert late
    assert (early.address.name, early.registered, late.address.name, late.registered) == ("shop", False, "bob", True)
    assert "You are 'bob' on the bus." in found.context
    assert "BUS_NAME" not in found.context


@pytest.mark.anyio
async def test_a_session_that_left_does_not_come_back(
    party: Party, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving is its own wish."""
    monkeypatch.setattr(doorbell, "HEARTBEAT_EVERY", -1.0)
    async with bell.watching():
        await bell.session.leave()
        await bell.bus.looks()

    assert [row[0] for row in party.rows("SELECT agent FROM bindings")] == []


@pytest.mark.anyio
async def test_the_heart_beats_though_nothing_else_works(
    party: Party, bell: Bell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that fails each time does not make the session seem dead."""
    monkeypatch.setattr(doorbell, "HEARTBEAT_EVERY", -1.0)

    async def fail(verb: Verb[..., Any]) -> None:
        if verb is sessions.look:
            raise OSError("always")

    bell.bus.before = fail
    party.now += 500
    async with bell.watching():
        await bell.bus.looks()

    [row] = party.rows("SELECT heartbeat FROM bindings WHERE agent = 'bob'")
    assert row[0] == party.now


class Clocks:
    """The clock on the wall, and how long the machine ran."""

    wall = 1_000.0
    awake = 0.0


def test_a_heart_beats_at_once_when_the_machine_slept() -> None:
    """So that nobody who wakes first takes all others for dead; also when the clock was put back."""
    clocks = Clocks()
    beat = doorbell.Beat(lambda: clocks.wall, lambda: clocks.awake)
    due = [beat.due(60.0)]
    for wall, awake in ((30, 30), (31, 61), (8_000, 1), (-20_000, 1)):
        clocks.wall += wall
        clocks.awake += awake
        due.append(beat.due(60.0))
        beat.given()

    assert due == [False, False, True, True, True]


def test_a_heartbeat_that_failed_is_due_again_soon() -> None:
    """Not at once: a bus that cannot be reached is not asked all the time."""
    clocks = Clocks()
    beat = doorbell.Beat(lambda: clocks.wall, lambda: clocks.awake)
    due = []
    for passed in (61, 1, 5, 1):
        clocks.wall += passed
        clocks.awake += passed
        due.append(beat.due(60.0))

    assert due == [True, False, True, False]


def _draft(to: str) -> Any:
    from claude_bus.model.messages import Draft

    return Draft((to,), "x")


# -- notices ------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_notice_is_heard_and_a_deaf_address_is_no_error() -> None:
    """Listeners that are gone, foreign or malformed are passed over; the others hear."""
    async with notices.notice_socket() as gone:
        pass
    async with notices.notice_socket() as notice_socket:
        assert not await notice_socket.heard(0.0)
        announcing.announce([gone.address, "udp:192.0.2.1:9", "tcp:127.0.0.1:1", "nonsense", "", notice_socket.address])
        with anyio.fail_after(PATIENCE):
            assert await notice_socket.heard(PATIENCE)


@pytest.mark.anyio
async def test_containers_with_one_port_are_two_addresses() -> None:
    """Each has a loopback of its own: what another one listens at is not rung here."""
    async with notices.notice_socket() as notice_socket:
        place, _, network = notice_socket.address.partition("/")
        announcing.announce([f"{place}/another"])
        assert not await notice_socket.heard(0.0)
        announcing.announce([place])
        with anyio.fail_after(PATIENCE):
            assert await notice_socket.heard(PATIENCE)

    assert network == processes.network()


@pytest.mark.anyio
async def test_a_stranger_s_datagrams_are_not_heard() -> None:
    """Only those who can read the store know the word. A flood of others costs hardly any looks at the socket."""
    async with notices.notice_socket() as notice_socket:
        port = int(notice_socket.address.split(":")[2])
        looks = 0
        told = notice_socket._told

        def counted() -> bool:
            nonlocal looks
            looks += 1
            return told()

        notice_socket._told = counted  # type: ignore[method-assign]

        def flood() -> None:
            with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as out:
                for _ in range(20_000):
                    out.sendto(b"mail", ("127.0.0.1", port))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, flood)
            tasks.start_soon(notice_socket.heard, 1.0)
        assert not await notice_socket.heard(0.0)
        assert looks < 200

        announcing.announce([notice_socket.address])
        assert await notice_socket.heard(PATIENCE)


# -- whose server this is -----------------------------------------------------------------------


def _socket(folder: Path, pid: int) -> dict[str, str]:
    """Variables that name an inbox socket of the client with this pid."""
    return {"CLAUDE_CODE_MESSAGING_SOCKET": str(folder / f"{pid}.sock"), "CLAUDE_CODE_MESSAGING_TOKEN": "t"}


def test_servers_of_one_session_have_one_key(tmp_path: Path) -> None:
    """The session's socket names it, whichever of its servers asks, and its shell."""
    env = _socket(tmp_path, os.getppid())

    client, bell = claude_code.client(env, tmp_path)
    (tmp_path / f"{os.getppid()}.sock").touch()
    by_its_file, _ = claude_code.client(env, tmp_path)

    assert client.process == processes.process(os.getppid())
    assert bell == claude_code.Inbox(env["CLAUDE_CODE_MESSAGING_SOCKET"], "t")
    assert claude_code.keys_of_shell(env)[0] == by_its_file.key


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """Ancestors of this process, nearest first, none of which is a launcher that we know."""
    found = [Process("here", pid, float(pid)) for pid in (30, 20, 10)]
    monkeypatch.setattr(processes, "ancestors", lambda: [(process, "doppler") for process in found])
    return found


def test_a_client_is_named_by_its_socket_whatever_stands_between(tmp_path: Path, line: list[Process]) -> None:
    """Any ancestor's socket is its servers' bell, however far up it is and whatever programs wrap them."""
    for process in line:
        client, bell = claude_code.client(_socket(tmp_path, process.pid), tmp_path)
        assert (client.process, bool(bell), client.program) == (process, True, "claude-code")


@pytest.mark.parametrize("mark", ["CLAUDE_CODE_CHILD_SESSION", "CLAUDE_PID"])
def test_a_server_of_a_program_in_a_sessions_shell_is_not_the_sessions(tmp_path: Path, mark: str) -> None:
    """The client marks what runs in its shell; a server that is started there has another's socket, and no bell."""
    marks = {mark: str(os.getppid())}
    env = {**_socket(tmp_path, os.getppid()), "CLAUDE_CODE_SESSION_ID": "s1", **marks}

    client, bell = claude_code.client(env, tmp_path)
    without_socket, _ = claude_code.client({"CLAUDE_CODE_SESSION_ID": "s1", **marks}, tmp_path)

    assert (bell, client.process, client.program) == (None, processes.this_process(), "mcp")
    assert "CLAUDE_PID" in marks or without_socket.program == "mcp"


def test_a_session_that_another_one_started_has_its_own_bell(tmp_path: Path, line: list[Process]) -> None:
    """A client that runs in a session's shell passes that one's pid on to its servers; their socket is its own."""
    [inner, outer, _] = line

    client, bell = claude_code.client({**_socket(tmp_path, inner.pid), "CLAUDE_PID": str(outer.pid)}, tmp_path)

    assert (client.process, bool(bell)) == (inner, True)


def test_a_socket_of_a_process_that_is_no_ancestor_is_not_ours(tmp_path: Path) -> None:
    """Variables that outlived their session name nobody."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        client, bell = claude_code.client(_socket(tmp_path, other.pid), tmp_path)
        other.kill()

    assert (bell, client.program) == (None, "mcp")


def test_two_sockets_at_one_path_are_two_sessions(tmp_path: Path) -> None:
    """Containers have the same paths and pids; the socket file tells them apart, or the namespace if it is missing."""
    env = _socket(tmp_path, os.getppid())
    path = Path(env["CLAUDE_CODE_MESSAGING_SOCKET"])
    path.touch()
    [first, _] = claude_code.keys_of_shell(env)
    path.rename(tmp_path / "other.sock")
    [nowhere, _] = claude_code.keys_of_shell(env)
    path.touch()
    [second, _] = claude_code.keys_of_shell(env)

    assert len({first, second, nowhere}) == 3
    assert processes.domain().namespace in nowhere


@pytest.mark.skipif(sys.platform != "linux", reason="the file's times of start are Linux's")
def test_a_client_without_a_socket_is_named_by_its_session_file(tmp_path: Path, line: list[Process]) -> None:
    """Behind a wrapper too, unless the file is of another process that had the same pid."""
    process = line[1]
    env = {"CLAUDE_CODE_SESSION_ID": "s1", "CLAUDECODE": "1", "CLAUDE_CONFIG_DIR": str(tmp_path)}
    (tmp_path / "sessions").mkdir()
    noted = tmp_path / "sessions" / f"{process.pid}.json"

    noted.write_text(json.dumps({"pid": process.pid, "procStart": processes.ticks(process)}))
    client, _ = claude_code.client(env, tmp_path)
    noted.write_text(json.dumps({"pid": process.pid, "procStart": "1"}))
    other, _ = claude_code.client(env, tmp_path)

    assert client.process == process
    assert client.key in claude_code.keys_of_shell(env)
    assert other.process == line[0]


def test_a_session_without_a_socket_is_known_by_its_process(tmp_path: Path) -> None:
    """An older client, or one with the socket switched off, has no bell; its shell finds it all the same."""
    env = {"CLAUDE_CODE_SESSION_ID": "s1", "CLAUDECODE": "1"}

    client, bell = claude_code.client(env, tmp_path)

    assert (bell, client.session_id) == (None, "s1")
    assert client.key in claude_code.keys_of_shell(env)


def test_a_server_of_another_program_is_a_session_of_its_own(tmp_path: Path) -> None:
    """It lives and ends with this very process, and is in nobody's shell."""
    client, bell = claude_code.client({}, tmp_path)

    assert bell is None
    assert client.process == processes.this_process()
    assert claude_code.keys_of_shell({}) == []


# -- the real server --------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def socket() -> Iterator[Inbox]:
    """The inbox socket of the session that the test plays."""
    with inbox() as opened:
        yield opened


def turn(server: Wire, prompt: str, mode: str = "default") -> str:
    """A whole turn of the session; returns what its prompt brought."""
    brought = server.hook("UserPromptSubmit", prompt=prompt, mode=mode)
    while server.hook("Stop", prompt=prompt, mode=mode):
        pass
    return brought


def test_an_idle_session_is_woken_and_reads_its_mail_in_the_turn_it_was_woken_for(path: Path, socket: Inbox) -> None:
    """One line through the socket, without the mail itself; the prompt hook that fires for it brings the mail."""
    with socket.server(path) as bob:
        bob.call("register", name="bob")
        alice = Peer(path, "alice")
        turn(bob, "p1")
        sent = alice.send("bob", "the secret plan")
        rung = socket.ring()
        brought = turn(bob, "p2")
        state = alice.state(1)

    assert (sent, state) == ("waking", "read")
    assert (rung.token, rung.sender, rung.line) == ("secret", "alice", "1 unread on the bus from alice (#1)")
    assert "the secret plan" in brought


def test_a_burst_rings_once_and_the_next_batch_again(path: Path, socket: Inbox) -> None:
    """Ten messages at once are one ring; once they are read, the next message is a new one."""
    with socket.server(path) as bob:
        bob.call("register", name="bob")
        alice = Peer(path, "alice")
        turn(bob, "p1")
        for n in range(10):
            alice.send("bob", str(n))
        first = socket.ring()
        brought = turn(bob, "p2")
        alice.send("bob", "one more")
        second = socket.ring()

    assert brought.count("</bus-message-") == 10
    assert first.line != second.line
    assert second.line == "1 unread on the bus from alice (#11)"
    assert socket.unheard() == []


def test_nothing_rings_before_its_mode_is_known_while_it_works_or_for_what_can_wait(path: Path, socket: Inbox) -> None:
    """Of all that comes, only the direct message to the idle session rings."""
    with socket.server(path) as bob:
        bob.call("register", name="bob")
        alice = Peer(path, "alice")
        early = alice.send("bob", "before any turn")
        bob.hook("UserPromptSubmit", prompt="p1")
        alice.send("bob", "while it works")
        assert "while it works" in bob.hook("PostToolBatch", prompt="p1")
        bob.hook("Stop", prompt="p1")
        alice.send("bob", "for your information", kind="fyi")
        alice.send("all", "everybody")
        alice.send("bob", "you")
        rung = socket.ring()

    assert early == "inbox"  # its settings have no hooks
    assert rung.line == "3 unread on the bus from alice (#5)"
    assert socket.unheard() == []


def test_a_session_that_bypasses_permissions_is_left_alone(path: Path, socket: Inbox) -> None:
    """Its user keeps the messages of others out; in another mode it rings again."""
    with socket.server(path) as bob:
        bob.call("register", name="bob")
        alice = Peer(path, "alice")
        turn(bob, "p1", "bypassPermissions")
        sent = alice.send("bob", "one")
        assert "one" in turn(bob, "p2", "bypassPermissions")
        turn(bob, "p3", "acceptEdits")
        alice.send("bob", "two")
        rung = socket.ring()

    assert sent == "idle"
    assert rung.line == "1 unread on the bus from alice (#2)"
    assert socket.unheard() == []


def test_a_user_may_want_to_be_woken_always(path: Path, socket: Inbox) -> None:
    """BUS_WAKE=always rings in every mode, even before one is known."""
    with socket.server(path, BUS_WAKE="always") as bob:
        bob.call("register", name="bob")
        alice = Peer(path, "alice")
        alice.send("bob", "early")
        first = socket.ring()
        turn(bob, "p1", "bypassPermissions")
        alice.send("bob", "in bypass")
        second = socket.ring()

    assert (first.line, second.line) == (
        "1 unread on the bus from alice (#1)",
        "1 unread on the bus from alice (#2)",
    )


def test_a_user_may_want_never_to_be_woken(path: Path, socket: Inbox) -> None:
    """BUS_WAKE=never rings nowhere, and senders are not promised it; mail comes with the next prompt."""
    with socket.server(path, BUS_WAKE="never") as bob:
        bob.call("register", name="bob")
        alice = Peer(path, "alice")
        turn(bob, "p1")
        sent = alice.send("bob", "one", urgent=True)
        _until_it_looked(bob, alice)
        assert "one" in turn(bob, "p2")
        assert bob.end() == 0

    assert sent == "idle"
    assert socket.unheard() == []


def _until_it_looked(bob: Wire, alice: Peer) -> None:
    """Return when bob's watch has looked for mail: that is what ends a waiting call."""
    bob.call("inbox")
    waiting = bob.post("tools/call", name="wait", arguments={"timeout": PATIENCE})
    assert bob.call("whoami").text == "bob"
    alice.send("bob", "one", kind="fyi")
    assert bob.read()["id"] == waiting


def test_two_servers_of_one_session_ring_once(path: Path, socket: Inbox) -> None:
    """A plugin's and a configured server share the session: one name, one ring for each batch."""
    with socket.server(path) as bob, socket.server(path) as twin:
        bob.call("register", name="bob")
        assert twin.call("whoami").text == "bob"
        alice = Peer(path, "alice")
        turn(bob, "p1")
        rungs = []
        for n in range(5):
            alice.send("bob", str(n))
            rungs.append(socket.ring().line)
            assert turn(bob, f"q{n}").count("</bus-message-") == 1

    assert rungs == [f"1 unread on the bus from alice (#{n})" for n in range(1, 6)]
    assert socket.unheard() == []


@pytest.mark.parametrize(
    ("said", "idle"),
    [('{"status": "idle"}', True), ('{"status": "busy"}', False), ("[]", False), ("{", False), (None, False)],
)
def test_a_client_says_of_itself_whether_it_is_idle(tmp_path: Path, said: str | None, idle: bool) -> None:
    """Its session file is believed if it says so plainly; anything else is no."""
    me = this_process()
    (tmp_path / "sessions").mkdir()
    if said is not None:
        (tmp_path / "sessions" / f"{me.pid}.json").write_text(said)

    assert claude_code.says_idle({"CLAUDE_CONFIG_DIR": str(tmp_path)}, me) == idle


@pytest.mark.parametrize(
    ("place", "said", "lets_in"),
    [
        ("config/settings.json", "accept", True),
        ("config/settings.json", "hold", False),
        ("project/.claude/settings.local.json", "refuse", False),
        ("elsewhere.json", "refuse", True),
    ],
)
def test_a_client_may_let_no_ring_in(tmp_path: Path, place: str, said: str, lets_in: bool) -> None:
    """Its user, the project, or an administrator may have other sessions' messages held or refused."""
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"crossSessionInbound": said}))

    env = {"CLAUDE_CONFIG_DIR": str(tmp_path / "config")}
    assert claude_code.lets_in(env, tmp_path / "project") is lets_in


def test_a_server_below_somebody_elses_session_does_not_ring_it(path: Path, socket: Inbox) -> None:
    """A program in a session's shell inherits its variables, and the client's mark; a server below it is not woken."""
    env = {
        "CLAUDE_CODE_MESSAGING_SOCKET": str(socket.path),
        "CLAUDE_CODE_SESSION_ID": "s1",
        "CLAUDE_CODE_CHILD_SESSION": "1",
        "BUS_WAKE": "always",
    }
    with wire(path, **env) as bob:
        bob.call("register", name="bob")
        alice = Peer(path, "alice")
        sent = alice.send("bob", "one", urgent=True)
        _until_it_looked(bob, alice)

    assert sent == "inbox"
    assert socket.unheard() == []


def test_the_session_outlives_one_of_its_servers(path: Path, socket: Inbox) -> None:
    """When one of two servers ends the session is still here, and still rings."""
    with socket.server(path) as bob, socket.server(path) as twin:
        bob.call("register", name="bob")
        twin.call("whoami")
        alice = Peer(path, "alice")
        turn(twin, "p1")
        assert bob.end() == 0
        alice.send("bob", "one")
        rung = socket.ring()
        assert twin.end() == 0
        later = alice.send("bob", "two")

    assert rung.sender == "alice"
    assert later == "offline"


def test_clearing_the_conversation_keeps_name_and_bell(path: Path, socket: Inbox) -> None:
    """After `/clear` the same process goes on under another session id."""
    with socket.server(path) as bob:
        bob.call("register", name="bob")
        alice = Peer(path, "alice")
        turn(bob, "p1")
        bob.hook("UserPromptSubmit", session="s2", prompt="p2")
        bob.hook("Stop", session="s2", prompt="p2")
        alice.send("bob", "one")
        rung = socket.ring()
        brought = bob.hook("UserPromptSubmit", session="s2", prompt="p3")

    assert rung.line == "1 unread on the bus from alice (#1)"
    assert "one" in brought


def test_a_restarted_server_finds_its_session_again(path: Path, socket: Inbox) -> None:
    """A crash of the server is not the end of the session: name, mail and bell are there."""
    with socket.server(path) as bob:
        bob.call("register", name="bob")
        alice = Peer(path, "alice")
        turn(bob, "p1")
        alice.send("bob", "one")
        socket.ring()
        bob.call("inbox")
        bob.process.kill()
        bob.process.wait()
        with socket.server(path) as again:
            name = again.call("whoami").text
            brought = turn(again, "p2")
            alice.send("bob", "two")
            rung = socket.ring()

    assert name == "bob"
    assert 'possibly_seen="true"' in brought
    assert rung.line == "1 unread on the bus from alice (#2)"


def test_the_listing_shows_the_client_not_its_server(path: Path, socket: Inbox) -> None:
    """A session is bound to its client's process, which this test is."""
    with socket.server(path) as bob:
        bob.call("register", name="bob")
        with contextlib.closing(connect(path, 1.0)) as connection:
            row = connection.execute("SELECT client, pid FROM bindings").fetchone()
        [key, _] = claude_code.keys_of_shell({"CLAUDE_CODE_MESSAGING_SOCKET": str(socket.path)})

    assert tuple(row) == (key, os.getpid())
