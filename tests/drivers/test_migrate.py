"""Opening files of the original claude-bus, of newer versions, and of other programs."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from claude_bus.drivers import migrate
from claude_bus.drivers.inspect import inspect
from claude_bus.drivers.sqlite import connect
from claude_bus.errors import ClaimHeld, StoreCorrupt
from claude_bus.model.claims import ClaimTarget
from claude_bus.model.identity import Address
from claude_bus.names import check_name
from claude_bus.sql import agents, claims, messages, state
from tests.support.processes import actor, together, wire
from tests.support.store import Store

VERSION_1 = """
CREATE TABLE agents (name TEXT PRIMARY KEY, role TEXT, last_seen REAL);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ts REAL, sender TEXT, recipient TEXT, content TEXT, read INTEGER DEFAULT 0
);
CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT, updated_by TEXT, ts REAL);
INSERT INTO agents VALUES ('alice', 'api', 100.5), ('bob', NULL, NULL);
INSERT INTO messages (ts, sender, recipient, content, read) VALUES (1.0, 'alice', 'bob', 'old', 0);
INSERT INTO state VALUES ('schema', 'v1', 'alice', 90.0), ('empty', NULL, NULL, NULL);
"""

VERSION_2 = """
CREATE TABLE agents (
    name TEXT PRIMARY KEY, role TEXT, owns TEXT, last_seen REAL, last_read_id INTEGER DEFAULT 0
);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, ts REAL, sender TEXT, recipient TEXT, content TEXT, reply_to INTEGER
);
CREATE TABLE deliveries (
    message_id INTEGER, recipient TEXT, read INTEGER DEFAULT 0, read_ts REAL, PRIMARY KEY (message_id, recipient)
);
CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT, version INTEGER DEFAULT 1, updated_by TEXT, ts REAL);
CREATE TABLE claims (path TEXT PRIMARY KEY, owner TEXT, ts REAL, ttl REAL);
"""

TALK = """
INSERT INTO agents VALUES
    ('alice', 'api', '["src/**"]', 1000.0, 9), ('bob', 'web', NULL, 1001.0, 9), ('carol', NULL, '', NULL, 0);
INSERT INTO messages VALUES
    (1, 1000.0, 'alice', 'bob', 'read by bob', NULL),
    (2, 1000.0, 'bob', 'alice', 'an answer', 1),
    (3, 1000.0, 'alice', 'all', 'to everybody', NULL),
    (4, 999.0, 'bob', 'all', 'clock went back', NULL),
    (5, NULL, NULL, 'bob', NULL, NULL),
    (6, 1002.0, 'alice', 'dave', 'for one who never came', NULL),
    (7, 1002.0, 'bob', 'alice', 'skipped by the cursor', NULL),
    (9, 1003.0, 'alice', NULL, 'to nobody in particular', NULL);
INSERT INTO deliveries VALUES (1, 'bob', 1, 1000.5), (2, 'alice', 1, 1000.6), (3, 'bob', 1, 1001.0), (3, 'erin', 1, 1);
INSERT INTO state VALUES ('port', '8080', 7, 'alice', 1000.0), ('odd', NULL, NULL, NULL, NULL);
INSERT INTO claims VALUES ('src/a.py', 'alice', 1799999000.0, 1800.0), ('b.py', 'zoe', NULL, NULL);
PRAGMA user_version = 2;
"""

VERSION_3 = (Path(__file__).parent / "schema_of_version_3.sql").read_text(encoding="utf-8") + "PRAGMA user_version = 3;"

VERSION_4 = (
    VERSION_3
    + files("claude_bus.sql").joinpath("migrations/0004_heartbeats_and_unread.sql").read_text(encoding="utf-8")
    + "PRAGMA user_version = 4;"
)

VERSION_7 = (
    VERSION_4
    + "".join(
        files("claude_bus.sql").joinpath(f"migrations/{name}.sql").read_text(encoding="utf-8")
        for name in ("0005_earlier_mail_and_wakes", "0006_places_above", "0007_bounds")
    )
    + "PRAGMA user_version = 7;"
)

MAIL = """
INSERT INTO agents (name, last_seen) VALUES ('alice', 1000.0), ('bob', 1000.0);
INSERT INTO messages (ts, sender, recipient, content, kind) VALUES
    (1.0, 'alice', 'bob', 'a question that was read', 'request'),
    (2.0, 'alice', 'bob', 'a question that was recalled', 'request'),
    (3.0, 'alice', 'bob', 'read', 'message'),
    (4.0, 'alice', 'bob', 'unread', 'message'),
    (5.0, 'alice', 'bob', 'an unread question', 'request');
INSERT INTO deliveries (message, recipient, state, recalled) VALUES
    (1, 'bob', 'read', 0), (2, 'bob', 'read', 1), (3, 'bob', 'read', 0),
    (4, 'bob', 'queued', 0), (5, 'bob', 'queued', 0);
INSERT INTO listeners (address, host, pid, started) VALUES ('udp:127.0.0.1:1', 'here', 1, 1.0);
"""


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    """A function that creates an SQLite file from a script."""

    def make(script: str) -> Path:
        path = tmp_path / "old.db"
        with closing(sqlite3.connect(path)) as db:
            db.executescript(script)
        return path

    return make


def schema(path: Path) -> dict[str, str]:
    """The definitions of a database by name, without comments and spaces, which an older file may have in another
    form.
    """
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
        return {name: _plain(sql) for name, sql in rows}


def _plain(sql: str) -> str:
    """A canonical spelling; the columns of a table are sorted, because a column that was added later stands at the
    end.
    """
    words = " ".join(re.sub(r"--.*", "", sql).split())
    spelled = re.sub(r" ?([(),]) ?", r"\1", words)
    found = re.fullmatch(r"(CREATE TABLE [^(]*)\((.*)\)(.*)", spelled)
    if not found:
        return spelled
    parts = re.findall(r"(?:[^,(]|\([^)]*\))+", re.sub(r"\(([^()]*\([^()]*\)[^()]*)*\)", _flat, found[2]))
    return f"{found[1]}({','.join(sorted(parts))}){found[3]}"


def _flat(nested: re.Match[str]) -> str:
    """Flatten nested parentheses to one level."""
    return "(" + nested[0][1:-1].replace("(", "<").replace(")", ">") + ")"


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


# -- the original's files -------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        VERSION_1,
        VERSION_1 + "PRAGMA user_version = 1;",
        VERSION_2,
        VERSION_2 + TALK,
        VERSION_3,
        VERSION_3 + MAIL,
        VERSION_4,
        VERSION_7,
    ],
)
def test_both_ways_arrive_at_one_schema(script: str, file: Callable[[str], Path], tmp_path: Path) -> None:
    """A migrated file has exactly the definitions of a new one."""
    Store(file(script)).connection.close()
    Store(tmp_path / "new.db").connection.close()

    assert schema(tmp_path / "old.db") == schema(tmp_path / "new.db")
    assert version(tmp_path / "old.db") == version(tmp_path / "new.db") == migrate.VERSION


@pytest.mark.parametrize("mark", ["", "PRAGMA user_version = 1;"])
def test_version_1_keeps_state_and_agents_and_drops_messages(file: Callable[[str], Path], mark: str) -> None:
    """As in the original's own migration; the file may even have no version."""
    store = Store(file(VERSION_1 + mark))

    entries = {e.key: (e.value, e.version, e.updated_by) for e in store(state.list_state, "default", values=True)}
    assert entries == {"schema": ("v1", 1, "alice"), "empty": ("", 1, "")}
    assert store.rows("SELECT name, role, last_seen, registered FROM agents ORDER BY name") == [
        ("alice", "api", 100.5, 1),
        ("bob", "", 0.0, 1),
    ]
    assert store.rows("SELECT * FROM messages") == []
    assert store.contents(store.join("bob")) == []


def test_version_2_keeps_agents_with_their_globs(file: Callable[[str], Path]) -> None:
    """Names, roles and globs are kept; an agent that only received mail, or only holds a claim, gets a mailbox."""
    store = Store(file(VERSION_2 + TALK))

    assert store.rows("SELECT name, role, owns, registered FROM agents ORDER BY name") == [
        ("alice", "api", '["src/**"]', 1),
        ("bob", "web", "[]", 1),
        ("carol", "", "[]", 1),
        ("dave", "", "[]", 0),
        ("erin", "", "[]", 0),
        ("zoe", "", "[]", 0),
    ]
    assert {a.status for a in store(agents.listing, "default", None)} == {"offline"}


def test_version_2_keeps_messages_in_order_with_increasing_times(file: Callable[[str], Path]) -> None:
    """Ids stay, so that replies stay valid; equal, missing and decreasing times become strictly increasing."""
    store = Store(file(VERSION_2 + TALK))

    rows = store.rows("SELECT id, ts, sender, recipient, broadcast, content, reply_to FROM messages ORDER BY id")

    assert [row[0] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 9]
    times = [row[1] for row in rows]
    assert times == sorted(set(times))
    assert all(
        abs(ts - was) < 2 for ts, was in zip(times, [1000, 1000, 1000, 999, 1000, 1002, 1002, 1003], strict=True)
    )
    assert rows[1][2:] == ("bob", "alice", 0, "an answer", 1)
    assert rows[4][2:] == ("", "bob", 0, "", None)
    assert store.send(store.join("alice"), "bob", "new").id == 10


def test_what_has_a_receipt_is_read_and_the_rest_is_unread(file: Callable[[str], Path]) -> None:
    """Messages that the original's cursor skipped without returning them are delivered now."""
    store = Store(file(VERSION_2 + TALK))
    alice, bob, carol = store.join("alice"), store.join("bob"), store.join("carol")

    assert store.contents(alice) == ["clock went back", "skipped by the cursor"]
    assert store.contents(bob) == ["", "to nobody in particular"]
    assert store.contents(carol) == ["to everybody", "clock went back", "to nobody in particular"]
    assert store.contents(store.join("dave")) == [
        "to everybody",
        "clock went back",
        "for one who never came",
        "to nobody in particular",
    ]


def test_receipts_of_version_2_go_over(file: Callable[[str], Path]) -> None:
    """A sender can still see who read a message, and when."""
    store = Store(file(VERSION_2 + TALK))
    alice = store.join("alice")

    assert store.states(alice, 3)["bob"] == "read"
    [receipt] = store(messages.status, alice, 1).receipts
    assert (receipt.recipient, receipt.state, receipt.read_at, receipt.attempts) == ("bob", "read", 1000.5, 1)
    assert [reply.id for reply in store(messages.status, alice, 1).replies] == [2]


def test_state_of_version_2_keeps_its_versions(file: Callable[[str], Path]) -> None:
    """Compare-and-set continues from the old version, and versions do not repeat after a deletion."""
    store = Store(file(VERSION_2 + TALK))
    alice = store.join("alice")

    assert store(state.set_state, alice, "port", "8081", expected_version=7) == 8
    store(state.set_state, alice, "odd", "", mode="delete")
    assert store(state.set_state, alice, "odd", "again", expected_version=0) == 3


def test_live_claims_of_version_2_hold_on(file: Callable[[str], Path]) -> None:
    """A claim keeps its expiry; one without times has ended."""
    store = Store(file(VERSION_2 + TALK))

    assert [(c.path, c.owner, c.expires) for c in store(claims.list_claims, "default")] == [
        ("src/a.py", "alice", 1_800_000_800.0)
    ]


HELD = """
INSERT INTO claims VALUES
    ('src/b.py', 'alice', 1799999000.0, 9000.0), ('./lib/', 'alice', 1799999000.0, 9000.0),
    ('port:8080', 'alice', 1799999000.0, 9000.0), ('/srv/x.py', 'alice', 1799999000.0, 9000.0),
    ('C:\\y.py', 'alice', 1799999000.0, 9000.0);
"""


def test_relative_claims_of_version_2_hold_in_every_repository_until_they_are_released(
    file: Callable[[str], Path],
) -> None:
    """The original did not store their root. Resources and absolute paths keep their meaning."""
    store = Store(file(VERSION_2 + TALK + HELD))
    alice, bob = Address("alice", "default"), store.join("bob")
    for place in (
        ClaimTarget("example.org/shop", "src/b.py"),
        ClaimTarget("example.org/tools", "src"),
        ClaimTarget("example.org/shop", "LIB/c.py"),
        ClaimTarget("", "port:8080"),
        ClaimTarget("", "/srv/x.py"),
        ClaimTarget("", "C:/y.py"),
    ):
        with pytest.raises(ClaimHeld):
            store(claims.claim, bob, [place], ttl=60)
    store(
        claims.claim,
        bob,
        [ClaimTarget("example.org/shop", "docs"), ClaimTarget("", "/lib/x.py"), ClaimTarget("", "port:1")],
        ttl=60,
    )

    assert store(claims.release, alice, [ClaimTarget("example.org/shop", "src/b.py")])
    store(claims.claim, bob, [ClaimTarget("example.org/shop", "src/b.py")], ttl=60)
    assert {place.path for place in store(claims.release, alice, None)} == {
        *("src/a.py", "lib", "port:8080", "/srv/x.py", "C:/y.py")
    }
    assert [c.owner for c in store(claims.list_claims, "default")] == ["bob"] * 4


def test_a_sound_file_comes_out_sound(file: Callable[[str], Path]) -> None:
    """After a migration every reference has its row, and the integrity check passes."""
    store = Store(file(VERSION_2 + TALK))

    assert store.rows("PRAGMA foreign_key_check") == []
    assert store.rows("PRAGMA integrity_check") == [("ok",)]


def test_many_processes_that_open_an_old_file_at_once_migrate_it_once(file: Callable[[str], Path]) -> None:
    """Sessions may start together; each finds the migrated file, whichever was first."""
    path = file(VERSION_2 + TALK)

    answers = together([actor("open", path) for _ in range(6)])

    assert answers == [["8 messages"]] * 6
    assert Store(path).rows("SELECT COUNT(*) FROM deliveries WHERE recipient = 'carol'") == [(3,)]


def test_many_processes_that_make_a_new_file_at_once_make_one(tmp_path: Path) -> None:
    """The first start of several sessions creates one database for all."""
    path = tmp_path / "deep" / "er" / "bus.db"

    answers = together([actor("open", path) for _ in range(6)])

    assert answers == [["0 messages"]] * 6
    assert version(path) == migrate.VERSION


def test_a_migration_that_fails_leaves_the_file_as_it_was(file: Callable[[str], Path]) -> None:
    """An old file that does not fit is refused as a whole; no part of it is migrated."""
    path = file(VERSION_2 + TALK + "CREATE TABLE bindings (something TEXT);")
    before = schema(path)

    with pytest.raises(sqlite3.Error):
        connect(path, 1.0)

    assert schema(path) == before
    assert version(path) == 2
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT COUNT(*) FROM messages").fetchone() == (8,)
    assert not [found for found in path.parent.iterdir() if ".version-" in found.name]


ODD = """
INSERT INTO agents VALUES
    ('Bob Smith', 'web', '[]', 1001.0, 0), ('bob-smith', 'other', '[]', 1001.0, 0), ('alice', '', '[]', 1.0, 0),
    ('<system>', '', '[]', 1.0, 0), ('', '', '[]', 1.0, 0), ('all', '', '[]', 1.0, 0);
INSERT INTO messages VALUES
    (1, 1000.0, 'alice', 'Bob Smith', 'for Bob', NULL), (2, 1001.0, 'Bob Smith', 'alice', 'from Bob', NULL),
    (3, 1002.0, 'a\tb', 'alice', 'from one who never joined', NULL), (4, 1003.0, 'alice', 'all', 'to all', NULL);
INSERT INTO state VALUES ('k', 'v', 1, 'Bob Smith', 1000.0);
INSERT INTO claims VALUES ('b.py', 'Bob Smith', 1799999000.0, 1800.0);
PRAGMA user_version = 2;
"""


@pytest.mark.parametrize("script", [VERSION_1, VERSION_1 + "PRAGMA user_version = 1;", VERSION_2 + TALK])
def test_an_original_file_is_kept_as_a_copy(
    script: str, file: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """The copy lies beside it, complete and private to this user; it is announced once, and a later start makes
    none.
    """
    path = file(script)
    path.chmod(0o644)
    with closing(sqlite3.connect(path)) as db:
        before = list(db.iterdump())
    connect(path, 1.0).close()
    connect(path, 1.0).close()

    [copy] = [found for found in path.parent.iterdir() if ".version-" in found.name]
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(copy)) as db:
        assert list(db.iterdump()) == before
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    [said] = [record.getMessage() for record in caplog.records]
    assert str(copy) in said


def test_an_earlier_copy_is_not_written_over(file: Callable[[str], Path]) -> None:
    """A user who restores the old file and starts again has two copies."""
    path = file(VERSION_2 + TALK)
    Path(f"{path}.version-2").write_text("mine", encoding="utf-8")
    connect(path, 1.0).close()

    assert Path(f"{path}.version-2").read_text(encoding="utf-8") == "mine"
    assert version(Path(f"{path}.version-2.1")) == 2


def test_our_own_file_is_not_copied(file: Callable[[str], Path]) -> None:
    """Migrations of our own files only add to them."""
    path = file(VERSION_3 + MAIL)
    connect(path, 1.0).close()
    assert not [found for found in path.parent.iterdir() if ".version-" in found.name]


def test_a_name_that_is_not_valid_any_more_is_changed_with_all_that_is_its_own(
    file: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Mail for the old name can be read and answered, and its claim released; the log gives the new name."""
    store = Store(file(VERSION_2 + ODD))

    names = {row[0] for row in store.rows("SELECT name FROM agents")}
    assert names >= {"alice", "bob-smith", "Bob-Smith", "session", "session-2"}  # `system` could pass for the bus
    for name in names:
        assert check_name(name) == name
    bob, alice = store.join("Bob-Smith"), store.join("alice")
    assert store.contents(bob) == ["for Bob", "to all"]
    found = store.read(alice)
    assert [(message.sender, message.content) for message in found] == [
        ("Bob-Smith", "from Bob"),
        ("a-b", "from one who never joined"),
    ]
    assert store.send(alice, found[1].sender, "an answer").id
    [entry] = store(state.list_state, "default", values=True)
    assert entry.updated_by == "Bob-Smith"
    assert [claim.owner for claim in store(claims.list_claims, "default")] == ["Bob-Smith"]
    assert store.rows("PRAGMA foreign_key_check") == []
    assert any("'Bob Smith' is not valid here, it is 'Bob-Smith' now" in r.getMessage() for r in caplog.records)


def test_doctor_says_what_the_first_start_will_do(file: Callable[[str], Path], tmp_path: Path) -> None:
    """A file that waits to be migrated is not a problem, and `doctor` does not change it."""
    path = file(VERSION_2 + TALK)
    path.chmod(0o600)
    found = inspect(path, 1.0)
    assert not [finding for finding in found if finding.ok is False]
    [told] = [finding.detail for finding in found if finding.name == "schema"]
    assert "version 2: the first start brings it to version" in told
    assert "keeps a copy" in told
    assert version(path) == 2
    (tmp_path / "empty.db").touch(0o600)
    assert not [finding for finding in inspect(tmp_path / "empty.db", 1.0) if finding.ok is False]


# -- our own earlier files ---------------------------------------------------------------------


def test_version_3_keeps_what_waits_and_what_was_recalled(file: Callable[[str], Path]) -> None:
    """A migration does not change what is read; a request that was read is recalled once before idling."""
    store = Store(file(VERSION_3 + MAIL))
    bob = store.join("bob")

    assert [m.content for m in store.recall(bob)] == ["a question that was read"]
    assert store.contents(bob) == ["unread", "an unread question"]
    assert [m.content for m in store.recall(bob)] == ["an unread question"]
    assert store.rows("SELECT heartbeat FROM listeners") == [(0.0,)]
    assert store.rows("PRAGMA integrity_check") == [("ok",)]


def test_claims_of_version_4_hold_on(file: Callable[[str], Path]) -> None:
    """They stay unchanged, without the repositories above them; a renewal adds these."""
    held = (
        "INSERT INTO agents (name) VALUES ('alice'); INSERT INTO claims (scope, path, stem, owner, created, expires) "
        "VALUES ('example.org/sub', 'z.py', 'z.py', 'alice', 1.0, 9e9);"
    )
    store = Store(file(VERSION_4 + held))
    alice, bob = Address("alice", "default"), store.join("bob")
    place = ClaimTarget("example.org/sub", "z.py", "", (("example.org/app", "sub/z.py"),))
    with pytest.raises(ClaimHeld):
        store(claims.claim, bob, [place], ttl=60)

    store(claims.claim, alice, [place], ttl=60)
    with pytest.raises(ClaimHeld):
        store(claims.claim, bob, [ClaimTarget("example.org/app", "sub")], ttl=60)


# -- newer files ----------------------------------------------------------------------------


def test_a_newer_file_is_left_alone_and_works(tmp_path: Path) -> None:
    """Because migrations only add, an old process works on a newer file, and does not downgrade it."""
    path = tmp_path / "bus.db"
    Store(path).connection.close()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "ALTER TABLE messages ADD COLUMN mood TEXT; ALTER TABLE agents ADD COLUMN face TEXT NOT NULL DEFAULT 'x';"
            f"CREATE TABLE moods (a TEXT); PRAGMA user_version = {migrate.VERSION + 1};"
        )
    before = schema(path)

    store = Store(path)
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "all", "hello")

    assert store.contents(bob) == ["hello"]
    assert (schema(path), version(path)) == (before, migrate.VERSION + 1)


# -- files that are not ours -------------------------------------------------------------------

FOREIGN = {
    "another program's": "CREATE TABLE bookmarks (url TEXT); INSERT INTO bookmarks VALUES ('x');",
    "another program's, with a version": "CREATE TABLE bookmarks (url TEXT); PRAGMA user_version = 9;",
    "another program's, with agents": "CREATE TABLE agents (id INTEGER); CREATE TABLE messages (id INTEGER);",
}


@pytest.mark.parametrize("script", FOREIGN.values(), ids=FOREIGN)
def test_somebody_elses_database_is_refused_and_untouched(script: str, file: Callable[[str], Path]) -> None:
    """A wrong BUS_DB does no harm: no byte, mode or neighbouring file changes."""
    path = file(script)
    path.chmod(0o644)
    before = path.read_bytes()

    with pytest.raises(StoreCorrupt, match="BUS_DB"):
        connect(path, 1.0)

    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o644
    assert [found.name for found in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"# my notes\n" * 500, b"\x00" * 4096, b"SQLite format 3\x00" + b"\xff" * 4080])
def test_a_file_that_is_no_database_is_refused_and_untouched(content: bytes, tmp_path: Path) -> None:
    """A non-empty file that cannot be read as a database is never written."""
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    path.chmod(0o644)

    with pytest.raises(sqlite3.DatabaseError):
        connect(path, 1.0)

    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_server_on_such_a_file_says_so_and_lives(file: Callable[[str], Path], tmp_path: Path) -> None:
    """The tool's answer names the file and the way out; after the user has fixed it, the same server works."""
    path = file(FOREIGN["another program's"])
    with wire(path) as server:
        refused = server.call("register", name="alice")
        path.unlink()
        for rest in ("-wal", "-shm"):
            Path(f"{path}{rest}").unlink(missing_ok=True)
        accepted = server.call("register", name="alice")

    assert refused.failed
    assert "BUS_DB" in refused.text
    assert accepted.text.startswith("registered 'alice'")


def test_the_schema_reads_with_the_plain_sqlite3_program(tmp_path: Path) -> None:
    """Tables are STRICT and relational, so that any user can inspect them with the system's own tools."""
    Store(tmp_path / "bus.db").connection.close()

    tables = [name for name, sql in schema(tmp_path / "bus.db").items() if sql.startswith("CREATE TABLE")]

    assert {"agents", "messages", "deliveries", "state", "claims", "events"} <= set(tables)
    for name in tables:
        assert schema(tmp_path / "bus.db")[name].endswith("STRICT")
