"""`claude-bus import` and `export`: files of messages as JSON lines."""

from __future__ import annotations

import fcntl
import json
import signal
import sqlite3
import subprocess
import sys
import termios
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_bus.compat.sql import archive
from claude_bus.model.messages import ArchivedMessage
from claude_bus.sql import deliveries
from tests.support.agent_bus_server import environment, run
from tests.support.processes import eventually, suspend
from tests.support.store import START, Store

pytestmark = pytest.mark.slow

STORE: list[dict[str, Any]] = [
    {"id": 1, "ts": "2026-05-25T08:00:00Z", "from": "mac", "to": "any", "body": "hello all", "tags": ["hi"]},
    {"id": 2, "ts": "2026-05-25T08:00:00.250Z", "from": "win", "to": "mac", "body": "two\nlines ü", "tags": []},
    {
        "id": "m-3",
        "ts": "2026-05-25T10:00:01+02:00",
        "from": "mac",
        "to": "win",
        "body": "x",
        "tags": [],
        "acks": ["win"],
    },
    {"id": 4, "ts": "2026-05-25T08:00:02", "from": "win", "body": "no to", "acks": {"mac": "2026-05-25T09:00:00Z"}},
]


class Desk:
    """A user's shell and files."""

    def __init__(self, folder: Path, home: str = "home") -> None:
        self.folder = folder
        (folder / home).mkdir()
        self.db = folder / home / ".claude-bus" / "bus.db"
        self.env = environment(folder / home)

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return run(self.env, *arguments, stdin=stdin)

    def json(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        done = self.run(*arguments, "--json")
        assert done.returncode == status, done
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def file(self, entries: list[Any], name: str = "bus.jsonl") -> str:
        path = self.folder / name
        path.write_bytes(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries))
        return str(path)

    def exported(self) -> list[dict[str, Any]]:
        done = self.run("export")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def inbox(self, name: str) -> list[str]:
        return [m["content"] for m in self.json("inbox", "--as", name, "--peek")["messages"]]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with sqlite3.connect(f"file:{self.db}?mode=ro", uri=True) as db:
            return db.execute(sql).fetchall()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_store_is_taken_in(desk: Desk) -> None:
    """Order, times, senders, recipients, tags; what was acknowledged is read, the rest waits for its reader."""
    assert desk.json("import", desk.file(STORE)) == {"imported": 4, "known": 0}

    assert desk.inbox("mac") == ["two\nlines ü"]
    assert desk.inbox("win") == ["hello all"]
    assert desk.inbox("new") == ["hello all", "no to"]
    found = desk.json("inbox", "--as", "new", "--peek")["messages"]
    assert [(m["from"], m["to"], m["sent"], m.get("tags", [])) for m in found] == [
        ("mac", "all", "2026-05-25 08:00:00Z", ["hi"]),
        ("win", "all", "2026-05-25 08:00:02Z", []),
    ]


def test_what_comes_out_is_what_went_in(desk: Desk, tmp_path: Path) -> None:
    """Exported, an imported store has its own ids and all its fields; imported elsewhere it is the same again."""
    desk.json("import", desk.file(STORE))
    out = desk.exported()

    assert [(m["id"], m["from"], m["to"], m["body"], m["tags"], m.get("acks", [])) for m in out] == [
        (1, "mac", "any", "hello all", ["hi"], []),
        (2, "win", "mac", "two\nlines ü", [], []),
        ("m-3", "mac", "win", "x", [], ["win"]),
        (4, "win", "any", "no to", [], ["mac"]),
    ]
    assert [m["ts"] for m in out] == [
        f"2026-05-25T08:00:0{s}Z" for s in ("0.000000", "0.250000", "1.000000", "2.000000")
    ]
    other = Desk(tmp_path, "other")
    other.json("import", desk.file(out, "out.jsonl"))
    assert other.exported() == out


def test_our_own_messages_go_out_and_in(desk: Desk, tmp_path: Path) -> None:
    """Lists, globs, other channels, kinds and answers survive; what was read counts as acknowledged."""
    for to, body, *options in (
        ("bob,eve", "to two", "--kind", "request"),
        ("b*", "to a glob"),
        ("bob@shop", "elsewhere"),
        ("all", "to all", "--kind", "fyi"),
    ):
        assert desk.run("send", to, body, "--as", "ann", *options).returncode == 0, body
        desk.run("inbox", "--as", "bob", "--peek")
    desk.run("inbox", "--as", "bob")
    desk.run("send", "ann", "the answer", "--as", "bob", "--reply-to", "1")
    out = desk.exported()

    assert [(m["to"], m.get("kind"), m.get("reply_to"), m.get("acks")) for m in out] == [
        (["bob", "eve"], "request", None, ["bob"]),
        ("bob", None, None, ["bob"]),
        ("bob@shop", None, None, None),
        ("any", "fyi", None, ["bob"]),
        ("ann", None, 1, None),
    ]
    other = Desk(tmp_path, "other")
    other.json("import", desk.file(out))
    assert other.exported() == out
    assert desk.json("import", desk.file(out)) == {"imported": 0, "known": 5}


def test_importing_again_stores_nothing_twice(desk: Desk) -> None:
    """Repeated, or with more lines than before, only what is new is stored; acknowledgements are added."""
    desk.json("import", desk.file(STORE[:2]))
    grown = [STORE[0] | {"acks": ["win"]}, *STORE[1:]]
    assert desk.json("import", desk.file(grown)) == {"imported": 2, "known": 2}
    assert desk.json("import", desk.file(grown)) == {"imported": 0, "known": 4}
    assert [m["id"] for m in desk.exported()] == [1, 2, "m-3", 4]
    assert desk.inbox("win") == []


def test_another_store_may_use_the_same_ids(desk: Desk) -> None:
    """An id is known by what its message says, so two stores can be taken in."""
    desk.json("import", desk.file(STORE))
    other = [STORE[0] | {"body": "another first"}]
    assert desk.json("import", desk.file(other)) == {"imported": 1, "known": 0}


BAD = {
    "no JSON": b"{",
    "no object": b"[1]",
    "no id": b'{"ts": 1, "from": "a", "body": "x"}',
    "id true": b'{"id": true, "ts": 1, "from": "a", "body": "x"}',
    "a large id": b'{"id": 9223372036854775808, "ts": 1, "from": "a", "body": "x"}',
    "no time": b'{"id": 1, "from": "a", "body": "x"}',
    "a bad time": b'{"id": 1, "ts": "yesterday", "from": "a", "body": "x"}',
    "an endless time": b'{"id": 1, "ts": NaN, "from": "a", "body": "x"}',
    "no sender": b'{"id": 1, "ts": 1, "body": "x"}',
    "a bad sender": b'{"id": 1, "ts": 1, "from": "a b", "body": "x"}',
    "everybody as sender": b'{"id": 1, "ts": 1, "from": "all", "body": "x"}',
    "a glob as sender": b'{"id": 1, "ts": 1, "from": "a*", "body": "x"}',
    "a bad recipient": b'{"id": 1, "ts": 1, "from": "a", "to": ["b", 3], "body": "x"}',
    "no recipient": b'{"id": 1, "ts": 1, "from": "a", "to": [], "body": "x"}',
    "no body": b'{"id": 1, "ts": 1, "from": "a"}',
    "a long body": json.dumps({"id": 1, "ts": 1, "from": "a", "body": "x" * 65_537}).encode(),
    "half a pair": b'{"id": 1, "ts": 1, "from": "a", "body": "\\ud800"}',
    "bad tags": b'{"id": 1, "ts": 1, "from": "a", "body": "x", "tags": "t"}',
    "bad acks": b'{"id": 1, "ts": 1, "from": "a", "body": "x", "acks": "b"}',
    "no UTF-8": b'{"id": 1, "ts": 1, "from": "a", "body": "\xff"}',
    "deep": b"[" * 100_000,
}


def test_bad_lines_are_named_and_nothing_is_stored(desk: Desk) -> None:
    """Every line that is no message is told by its number with the reason; the good ones wait for the repair."""
    good = json.dumps(STORE[0]).encode()
    path = desk.folder / "bad.jsonl"
    path.write_bytes(b"\n".join([good, b"", *BAD.values(), good]))
    refused = desk.json("import", str(path), status=2)

    assert [one["line"] for one in refused["lines"]] == list(range(3, 3 + len(BAD)))
    assert all(one["reason"].isprintable() for one in refused["lines"])
    reasons = dict(zip(BAD, (one["reason"] for one in refused["lines"]), strict=True))
    assert [reasons[bad].split()[0] for bad in BAD if bad.endswith("sender")] == ["from"] * 4
    assert "line 3: not JSON" in refused["message"]
    assert not desk.db.exists()


def test_what_is_not_there_cannot_be_imported(desk: Desk) -> None:
    """A file that cannot be read is named; a pipe can."""
    assert desk.run("import", str(desk.folder / "none")).returncode == 2
    assert desk.run("import", "-", stdin=json.dumps(STORE[0]).encode()).returncode == 0


def test_export_overwrites_nothing_unless_forced(desk: Desk) -> None:
    """The file is the user's alone, and written at once or not at all."""
    desk.json("import", desk.file(STORE))
    out = desk.folder / "out.jsonl"
    assert desk.json("export", str(out)) == {"exported": 4}
    assert out.stat().st_mode & 0o777 == 0o600
    assert "--force" in desk.json("export", str(out), status=2)["message"]
    assert desk.json("export", str(out), "--force") == {"exported": 4}
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == [1, 2, "m-3", 4]
    assert desk.json("export", status=2)["error"] == "invalid_input"


@pytest.mark.skipif(sys.platform == "win32", reason="nothing suspends a process there")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_export_that_is_suspended_meanwhile_is_whole(desk: Desk, unbuffered: str) -> None:
    """Output that the system took only in part is written again; with PYTHONUNBUFFERED Python would drop the rest."""
    desk.json("import", desk.file([{**STORE[0], "id": n, "body": f"{n} " + "x" * 40_000} for n in range(20)]))
    env = {**desk.env, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen([sys.executable, "-m", "claude_bus", "export"], env=env, stdout=subprocess.PIPE) as export:
        assert export.stdout
        pipe = export.stdout.fileno()
        held = array("i", [0])
        begun = 45_000  # bytes: of the second message, which a pipe has no room for
        eventually(lambda: not fcntl.ioctl(pipe, termios.FIONREAD, held) and held[0] > begun, "it is being written")
        suspend(export.pid)
        export.send_signal(signal.SIGCONT)
        lines = export.stdout.read().splitlines()

    assert [json.loads(line)["body"].split()[0] for line in lines] == [str(n) for n in range(20)]


def test_thousands_are_imported(desk: Desk) -> None:
    """More than one transaction's worth keeps its order, and times only increase, whatever the file says."""
    entries = [{"id": n, "ts": 1_700_000_000 + n % 7, "from": f"m{n % 5}", "body": str(n)} for n in range(2_500)]
    assert desk.json("import", desk.file(entries)) == {"imported": 2_500, "known": 0}
    found = desk.rows("SELECT content, ts FROM messages ORDER BY id")
    assert [content for content, _ in found] == [str(n) for n in range(2_500)]
    assert [ts for _, ts in found] == sorted({ts for _, ts in found})


# -- the verbs ------------------------------------------------------------------------------


def letter(number: int | str, body: str = "x", **more: Any) -> ArchivedMessage:
    return ArchivedMessage(**{"id": number, "ts": START - 100, "sender": "mac", "to": (), "body": body} | more)


def test_times_give_way_to_what_is_there(store: Store) -> None:
    """Old mail comes after what the bus has: ids and times only increase, and none lies ahead of now."""
    ann, _ = store.join("ann"), store.join("bob")
    store.send(ann, "bob", "first")
    store(archive.import_messages, "default", [letter(1), letter(2, ts=START + 9_999), letter(3)])
    store.now += 1
    store.send(ann, "bob", "last")

    times = [ts for (ts,) in store.rows("SELECT ts FROM messages ORDER BY id")]
    assert times == sorted(set(times))
    assert START <= times[0] < times[3] < START + 1
    assert times[4] == START + 1


def test_whoever_is_here_gets_the_broadcasts(store: Store) -> None:
    """An imported broadcast is one: whoever has registered has it unread, late joiners get it, its sender does not."""
    bob = store.join("bob")
    store(archive.import_messages, "default", [letter(1, "to all", acks=("eve",)), letter(2, "direct", to=("bob",))])

    assert store.contents(bob) == ["to all", "direct"]
    assert store.contents(store.join("mac")) == []
    assert store.contents(store.join("eve")) == []
    assert store.contents(store.join("new")) == ["to all"]


def test_an_acknowledgement_ends_what_waits(store: Store) -> None:
    """Imported again with an acknowledgement, a message that was unread or handed over is acknowledged."""
    bob = store.join("bob")
    store(archive.import_messages, "default", [letter(1, to=("bob",))])
    store.hand_over(bob)
    store(archive.import_messages, "default", [letter(1, to=("bob",), acks=("bob",))])

    assert store.by(store.process())(deliveries.hand_over, bob, limit=9, max_chars=9_999, via="x").messages == ()
    assert store.rows("SELECT state FROM deliveries") == [("acked",)]


def test_the_journal_tells_of_it(store: Store) -> None:
    """One row per import, and no row per message that would count as somebody's sending."""
    store(archive.import_messages, "default", [letter(n) for n in range(50)])
    assert store.rows("SELECT verb, detail FROM events") == [("import", "50 messages")]
    assert store(archive.import_messages, "default", [letter(n) for n in range(50)]) == 0


NAMES = st.sampled_from(["ann", "bob", "eve", "bob@shop"])


@given(
    st.lists(
        st.builds(
            ArchivedMessage,
            id=st.integers(1, 10**6) | st.text("ab#:\"'-é", max_size=8),
            ts=st.floats(1e9, START),
            sender=NAMES,
            to=st.lists(NAMES, unique=True, max_size=3).map(tuple),
            body=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
            tags=st.lists(st.sampled_from(["a", "b c"]), max_size=2).map(tuple),
            acks=st.lists(NAMES, unique=True, max_size=3).map(lambda names: tuple(sorted(names))),
            kind=st.sampled_from(["message", "request", "fyi"]),
        ),
        max_size=6,
        unique_by=lambda one: (one.id, one.sender, one.to, one.body),
    )
)
def test_any_store_goes_in_and_out(letters: list[ArchivedMessage]) -> None:
    """An export equals the import but for times that had to give way; importing it again changes nothing."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "bus.db")
        try:
            assert store(archive.import_messages, "default", letters) == len(letters)
            found = store(archive.export_messages, "default", 0, 100)
            assert store(archive.import_messages, "default", found) == 0
            assert store(archive.export_messages, "default", 0, 100) == found
        finally:
            store.connection.close()
    what = [(o.id, o.sender, o.to, o.body, o.tags, set(o.acks), o.kind) for o in found]
    assert what == [(o.id, o.sender, o.to, o.body, o.tags, set(o.acks), o.kind) for o in letters]
