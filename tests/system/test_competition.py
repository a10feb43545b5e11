"""Several real processes on one file: no message is lost or repeated, and no claim is granted twice."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from claude_bus import processes
from claude_bus.sql import bindings, deliveries, state
from tests.support.processes import Actor, actor, together, wire
from tests.support.store import Store

pytestmark = pytest.mark.slow

CHANNEL = "default"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A bus file that exists already, as it does for every session but the very first."""
    path = tmp_path / "bus.db"
    Store(path).connection.close()
    return path


def by_sender(contents: list[str]) -> dict[str, list[int]]:
    """The numbers in each sender's messages, in the order in which they were read."""
    found: dict[str, list[int]] = {}
    for content in contents:
        name, number = content.split()
        found.setdefault(name, []).append(int(number))
    return found


def test_three_send_while_one_reads(path: Path) -> None:
    """Three processes send 500 messages each while one reads: all 1,500 arrive, each once, in each sender's order."""
    names = ["ann", "ben", "cid"]
    reader = actor("read", path, "zoe", 1500, "yes")
    senders = [actor("send", path, name, "zoe", 500) for name in names]

    *_, read = together([*senders, reader])

    ids = [int(line.split()[0]) for line in read]
    assert by_sender([line.split(maxsplit=1)[1] for line in read]) == {name: list(range(500)) for name in names}
    assert ids == sorted(set(ids))
    store = Store(path)
    assert store.rows("SELECT state, COUNT(*) FROM deliveries GROUP BY state") == [("read", 1500)]
    stamps = [ts for (ts,) in store.rows("SELECT ts FROM messages ORDER BY id")]
    assert all(one < other for one, other in itertools.pairwise(stamps))
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
    store.connection.close()


def test_broadcasts_of_many_reach_each_other_once(path: Path) -> None:
    """Processes that broadcast at the same time each receive all messages of the others, and none of their own."""
    names = ["ann", "ben", "cid"]

    together([actor("send", path, name, "all", 40) for name in names])

    store = Store(path)
    rows = store.rows(
        "SELECT d.recipient, m.sender, COUNT(*) FROM deliveries d JOIN messages m ON m.id = d.message GROUP BY 1, 2"
    )
    assert sorted(rows) == [(one, other, 40) for one in names for other in names if one != other]
    store.connection.close()


def test_compare_and_set_loses_no_increment(path: Path) -> None:
    """Four processes count to 50 each by compare-and-set, retrying on conflict: the value is 200."""
    versions = together([actor("increment", path, 50) for _ in range(4)])

    store = Store(path)
    entry = store(state.get_state, CHANNEL, "count")
    assert entry
    assert (entry.value, entry.version) == ("200", 200)
    assert sorted(int(v) for said in versions for v in said) == list(range(1, 201))
    assert store.rows("SELECT COUNT(*) FROM state_history WHERE key = 'count'") == [(200,)]
    store.connection.close()


def test_appends_lose_no_line(path: Path) -> None:
    """Four processes append 50 lines each: all 200 are there, in order for each writer."""
    together([actor("append", path, 50) for _ in range(4)])

    store = Store(path)
    entry = store(state.get_state, CHANNEL, "lines")
    assert entry
    lines = by_sender(str(entry.value).split("\n"))
    assert len(lines) == 4
    assert all(numbers == list(range(50)) for numbers in lines.values())
    store.connection.close()


def test_each_path_is_granted_to_one(path: Path) -> None:
    """Four processes claim the same 100 paths: each path is granted to exactly one of them."""
    claimers = [actor("claim", path, name, 100) for name in ("ann", "ben", "cid", "dan")]
    try:
        granted = _until_done(claimers)
    finally:
        for one in claimers:
            one.kill()

    assert sorted(granted) == list(range(100))


def _until_done(claimers: list[Actor]) -> list[int]:
    """Let all processes claim; returns the granted paths once each process has tried all of them."""
    for one in claimers:
        one.ready()
    for one in claimers:
        one.go()
    granted: list[int] = []
    for one in claimers:
        while (line := one.line()) != "done":
            granted.append(int(line))
    return granted


def test_a_name_is_won_by_one(path: Path) -> None:
    """Eight processes register the same name at once: one gets it, and each other is told a free one."""
    candidates = [actor("register", path, "backend") for _ in range(8)]
    try:
        for one in candidates:
            one.ready()
        for one in candidates:
            one.go()
        said = Counter(one.line() for one in candidates)
    finally:
        for one in candidates:
            one.kill()

    assert said == {"backend": 1, "taken, backend-2 is free": 7}


def test_a_killed_sender_sent_what_it_said_it_sent(path: Path) -> None:
    """After a sender is killed in mid-send, every message that it had an answer for is complete, and the file is
    sound.
    """
    sender = actor("send", path, "ann", "zoe", 100_000)
    try:
        sender.ready()
        sender.go()
        said = [int(sender.line()) for _ in range(50)]
    finally:
        sender.kill()

    store = Store(path)
    stored = by_sender([content for (content,) in store.rows("SELECT content FROM messages ORDER BY id")])["ann"]
    assert said == list(range(50))
    assert stored == list(range(len(stored)))
    assert len(stored) >= 50
    assert store.rows("SELECT COUNT(*) FROM messages WHERE id NOT IN (SELECT message FROM deliveries)") == [(0,)]
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
    store.connection.close()


def test_a_killed_reader_loses_nothing(path: Path) -> None:
    """The next bearer of the name gets its unconfirmed hand-overs again, marked, and the rest unmarked."""
    store = Store(path)
    sender = store.join("ann")
    for n in range(50):
        store.send(sender, "zoe", f"ann {n}")
    first = actor("read", path, "zoe", 50, "no")
    try:
        first.ready()
        first.go()
        handed = [first.line() for _ in range(20)]
    finally:
        first.kill()

    [read] = together([actor("read", path, "zoe", 50, "yes")])

    assert handed == [f"{n + 1} ann {n}" for n in range(20)]
    assert read == [f"{'again ' if n < 20 else ''}{n + 1} ann {n}" for n in range(50)]
    assert {row for (row,) in store.rows("SELECT state FROM deliveries")} == {"read"}
    store.connection.close()


def test_readers_that_are_killed_again_and_again_lose_nothing(path: Path) -> None:
    """Mail that flows while its reader is killed over and over is all read in the end, and only repeats are marked."""
    said: list[str] = []
    for n in range(1, 5):
        sender, reader = actor("send", path, f"ann{n}", "zoe", 75), actor("read", path, "zoe", 300, "yes")
        try:
            for one in (sender, reader):
                one.ready()
                one.go()
            said += [reader.line() for _ in range(15 * n)]
        finally:
            said += reader.kill()
            sender.rest()
    left = Store(path)
    missing = left.rows("SELECT COUNT(*) FROM deliveries WHERE recipient = 'zoe' AND state != 'read'")[0][0]
    left.connection.close()
    [rest] = together([actor("read", path, "zoe", missing, "yes")])

    seen = Counter(line.removeprefix("again ") for line in (*said, *rest))
    marked = {line.removeprefix("again ") for line in (*said, *rest) if line.startswith("again ")}
    sent = {f"ann{n} {number}" for n in range(1, 5) for number in range(75)}
    assert {line.split(maxsplit=1)[1] for line in seen} == sent
    assert {line for line, times in seen.items() if times > 1} <= marked


def test_a_killed_server_holds_nothing_up(path: Path) -> None:
    """A killed server leaves no lock, no name, no claim and no partial write behind."""
    with wire(path) as bob, wire(path) as alice:
        bob.call("register", name="bob")
        bob.call("claim", path="port:8080")
        alice.call("register", name="alice")
        alice.call("send", to="bob", content="kept")
        bob.call("inbox")
        bob.process.kill()
        bob.process.wait()
        assert alice.call("claim", path="port:8080").text == "claimed 'port:8080' for 1800s"
        assert "offline" in alice.call("send", to="bob", content="later").text
        with wire(path) as heir:
            assert heir.call("register", name="bob").text.startswith("registered 'bob'")
            found = heir.call("inbox").data["messages"]

    assert [(m["content"], m.get("possibly_seen", False)) for m in found] == [("kept", True), ("later", False)]


def test_a_process_killed_while_others_write_leaves_the_file_sound(path: Path) -> None:
    """Whenever a writer is killed, the others go on and every reference in the file is valid."""
    victims = [actor("send", path, f"victim-{n}", "zoe", 100_000) for n in range(2)]
    survivor = actor("send", path, "ann", "zoe", 200)
    try:
        for one in (*victims, survivor):
            one.ready()
            one.go()
        for one in victims:
            one.line()
            one.kill()
        assert survivor.rest() == [str(n) for n in range(200)]
    finally:
        for one in (*victims, survivor):
            one.kill()

    store = Store(path)
    assert store.rows("SELECT COUNT(*) FROM messages WHERE sender = 'ann'") == [(200,)]
    assert store.rows("PRAGMA integrity_check") == [("ok",)]
    assert store.rows("PRAGMA foreign_key_check") == []
    store.connection.close()


def test_the_upkeep_of_many_at_once_is_harmless(path: Path) -> None:
    """Processes that prune while others send remove no unread message."""
    sender = actor("send", path, "ann", "zoe", 100)
    pruners = [actor("prune", path, 20) for _ in range(2)]

    together([sender, *pruners])

    store = Store(path)
    zoe = store.join("zoe")
    assert store.contents(zoe) == [f"ann {n}" for n in range(100)]
    assert store(deliveries.waiting, zoe).count == 0
    assert store(bindings.reap) == 0
    store.connection.close()


# -- identity of processes -----------------------------------------------------------------------


def test_a_process_that_runs_is_alive_and_one_that_ended_is_not(path: Path) -> None:
    """A process also counts as ended while it is a zombie that its parent has not waited for."""
    one = actor("open", path)
    one.ready()
    which = processes.process(one.process.pid)
    assert which
    alive = processes.is_alive(which, 0.0, 0.0)
    one.process.kill()
    os.waitid(os.P_PID, one.process.pid, os.WEXITED | os.WNOWAIT)  # ended, but still a zombie
    zombie = processes.is_alive(which, 0.0, 0.0)
    one.kill()

    assert (alive, zombie, processes.is_alive(which, 0.0, 0.0)) == (True, False, False)


def test_a_pid_that_was_used_again_is_somebody_else() -> None:
    """The same pid with another start time is another process."""
    me = processes.this_process()

    assert processes.is_alive(me, 0.0, 0.0)
    assert not processes.is_alive(replace(me, started=me.started - 5), 0.0, 0.0)


def test_a_process_of_another_host_is_believed_by_its_heartbeat() -> None:
    """A process in a container on the same file cannot be probed; after minutes of silence it counts as gone."""
    there = replace(processes.this_process(), host="elsewhere")

    assert processes.is_alive(there, heartbeat=1000.0, now=1100.0)
    assert not processes.is_alive(there, heartbeat=1000.0, now=2000.0)


def test_a_process_reads_back_as_it_was_written() -> None:
    """A delivery stores its process in a form that still identifies it later."""
    me = processes.this_process()
    host, pid, started = str(me).rsplit(":", 2)

    assert (host, int(pid)) == (me.host, me.pid)
    assert processes.is_alive(replace(me, started=float(started)), 0.0, 0.0)
