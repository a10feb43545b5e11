"""Full text search: finds what reading everything would find, costs little, and never stands in the way of mail."""

from __future__ import annotations

import itertools
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_bus import limits
from claude_bus.drivers.inspect import Finding, inspect
from claude_bus.errors import InvalidInput
from claude_bus.model.identity import Address
from claude_bus.model.messages import History
from claude_bus.sql import columns, messages, search, upkeep
from claude_bus.sql.transaction import Transaction
from tests.support.effort import looks
from tests.support.processes import PATIENCE
from tests.support.store import START, Store

NAMES = ("ann", "bob", "eve")
ALPHABETS = (
    "abAB ",
    "aA\u0301\u0130\u0131\u212aK\u00df\u1e9e\u00c9\u00e9e",
    "\u90e8\u7f72\u5b8c\u6210\u4e86",
    "\u0645\u0631\u062d\u0628\u0627 \u200f\u064e",
    "\U0001f389\U0001f469\u200d\U0001f4bb\ufe0f\U0001f3fd",
    "\"'*()-:^+{}.,;%_\\/\0\x1f\x7f\n\t ",
    'ORANDTNE "',
)
TEXT = st.sampled_from(ALPHABETS).flatmap(lambda alphabet: st.text(alphabet, min_size=1, max_size=12))
WORDS = st.lists(TEXT, min_size=1, max_size=4).map(" ".join)
"""Texts that often contain one another, of one script or several."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "bus.db")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index of many blocks and steps, though there are few messages."""
    for limit, value in (("BLOCK", 7), ("_AT_ONCE", 3), ("_MIN", 2), ("_FEW", 1)):
        monkeypatch.setattr(search, limit, value)


def fill(store: Store, texts: list[str], sender: str = "ann", to: str = "bob", first: int = 1) -> None:
    """Messages that were read, without the cost of sending each."""
    for name in (sender, to):
        store.connection.execute("INSERT OR IGNORE INTO agents (channel, name) VALUES ('default', ?)", (name,))
    store.connection.execute("BEGIN")
    store.connection.executemany(
        "INSERT INTO messages (id, ts, sender, recipient, content) VALUES (?, ?, ?, ?, ?)",
        ((n, START + n, sender, to, text) for n, text in enumerate(texts, first)),
    )
    store.connection.executemany(
        "INSERT INTO deliveries (message, recipient, state) VALUES (?, ?, 'read')",
        ((n, to) for n in range(first, first + len(texts))),
    )
    store.connection.execute("COMMIT")


def index(store: Store) -> int:
    """Index all that there is; in how many steps."""
    return next(n for n in itertools.count() if not store(search.keep_up))


def pages(store: Store, who: str, wanted: str, limit: int = 20) -> Iterator[History]:
    """All answers to a search, each going on where the one before ended."""
    before = 0
    while True:
        found = store(messages.look_back, Address(who, "default"), search=wanted, limit=limit, before=before)
        yield found
        before = found.searched_to or (found.messages[0].id if len(found.messages) == limit else 0)
        if not before:
            return


def found(store: Store, who: str, wanted: str, limit: int = 20) -> list[int]:
    """The ids that all these answers have, the newest first."""
    return [message.id for page in pages(store, who, wanted, limit) for message in reversed(page.messages)]


def by_index(store: Store, who: str, wanted: str) -> list[int]:
    """The same by the index alone, where there is one: a small bus is searched without it."""

    def step(tx: Transaction) -> list[int]:
        spans = list(search._spans(tx, 0, 1_000_000))
        walk = search._Walk(
            search._indexed(tx, Address(who, "default"), wanted, spans), columns.finder(wanted), 1_000_000, 0
        )
        walk.go(1 << 60)
        return walk.hits

    return store(step)


def read_through(store: Store, who: str, wanted: str) -> list[int]:
    """The same by reading everything."""
    rows = store.rows(
        "SELECT m.id, m.content FROM messages m WHERE m.sender = ? OR m.broadcast = 1 OR EXISTS "
        "(SELECT 1 FROM deliveries d WHERE d.message = m.id AND d.recipient = ?) ORDER BY m.id DESC",
        who,
        who,
    )
    return [id_ for id_, content in rows if ascii_lower(wanted) in ascii_lower(content)]


def ascii_lower(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


def steps(store: Store, act: Callable[[], object]) -> int:
    """Instructions of SQLite's machine that an act takes, by hundreds."""
    counter = itertools.count()
    store.connection.set_progress_handler(lambda: next(counter) and None, 100)
    act()
    store.connection.set_progress_handler(None, 1)
    return next(counter)


def statements(store: Store, act: Callable[[], object]) -> list[str]:
    """The statements that an act runs, without those that FTS5 runs for itself."""
    ran: list[str] = []
    store.connection.set_trace_callback(ran.append)
    act()
    store.connection.set_trace_callback(None)
    return [sql for sql in ran if not sql.startswith("--") and "'main'" not in sql]


# -- what is found -------------------------------------------------------------------------------------

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(NAMES), st.sampled_from((*NAMES, "all")), WORDS),
        st.tuples(st.just("index")),
        st.tuples(st.just("forget"), st.integers(0, 60)),
        st.tuples(st.just("edit"), st.integers(0, 60), WORDS),
        st.tuples(st.just("repair")),
        st.tuples(st.just("rename"), st.sampled_from(NAMES)),
    ),
    min_size=20,
    max_size=60,
)


class House:
    """A bus on which this and that is done."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.who = {name: self.store.join(name) for name in NAMES}
        self.sent: list[str] = []

    def send(self, sender: str, to: str, text: str) -> None:
        if sender != to:
            self.store.send(self.who[sender], "all" if to == "all" else self.who[to].name, text, kind="fyi")
            self.sent.append(text)

    def index(self) -> None:
        self.store(search.keep_up)

    def repair(self) -> None:
        self.store(search.repair)

    def forget(self, message: int) -> None:
        self.store.connection.execute("DELETE FROM messages WHERE id = ?", (message,))

    def edit(self, message: int, text: str) -> None:
        self.store.connection.execute("UPDATE messages SET content = ? WHERE id = ?", (text, message))

    def rename(self, name: str) -> None:
        other = f"{name}-2" if self.who[name].name == name else name
        self.who[name] = self.store.rename(self.who[name], other)


@pytest.mark.usefixtures("small")
@looks(60)
@given(actions=ACTIONS, data=st.data())
def test_a_search_finds_what_reading_everything_finds(
    actions: list[tuple[Any, ...]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For each reader, whatever was sent, indexed, forgotten, edited, renamed, and however short a look is."""
    house = House(tmp_path_factory.mktemp("search") / "bus.db")
    for action, *rest in actions:
        getattr(house, action)(*rest)
    pieces = [text[a : a + n] for text in house.sent for a in range(len(text)) for n in (1, 2, 3, 4, 7)]
    wanted = data.draw(st.sampled_from(pieces) | WORDS if pieces else WORDS)
    budget, turn = data.draw(st.sampled_from(((search.BUDGET, 1000), (12, 3), (3, 1))))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BUDGET", budget), ("_TURN", turn), ("_OPENING", 1)):
            patch.setattr(search, name, value)
        for address in house.who.values():
            expected = read_through(house.store, address.name, wanted)
            assert [found(house.store, address.name, wanted, limit) for limit in (20, 2)] == [expected] * 2
            assert by_index(house.store, address.name, wanted) == expected
    house.store.connection.close()


@pytest.mark.usefixtures("small")
def test_each_message_is_found_wherever_in_a_block_it_is(store: Store) -> None:
    """Also the first and the last of what was indexed at once."""
    fill(store, [f"number {n}!" for n in range(1, 31)])
    index(store)
    fill(store, [f"number {n}!" for n in range(31, 61)], first=31)
    store(search.keep_up)

    for n in range(1, 61):
        assert by_index(store, "bob", f"number {n}!") == [n]
        assert by_index(store, "bob", f"r {n}!") == [n]
    assert by_index(store, "bob", "r") == by_index(store, "bob", "er") == list(range(60, 0, -1))


TEXTS = [
    "Deploy is done, 100% (v0.3.2)",
    'the "quoted" AND NOT near(a b) OR c*',
    "部署完成了",
    "مرحبا بالعالم",
    "cafe\u0301 and café, CAFÉ",
    "👩\u200d💻 shipped 🎉",
    "DELETE FROM t; -- x:y ^z {a} +b",
    "a\0b \x1f c",
    "İstanbul ſtraße K",
]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ("deploy", [1]),
        ("is done", [1]),
        ("done is", []),
        ("100%", [1]),
        ("%", [1]),
        ("v0", [1]),
        ('"', [2]),
        ('"quoted" and', [2]),
        ("NOT NEAR(", [2]),
        ("c*", [2]),
        ("OR", [2]),
        ("部", [3]),
        ("部署", [3]),
        ("署完成", [3]),
        ("署部", []),
        ("حبا ب", [4]),
        ("CAFÉ", [5]),
        ("é", [5]),
        ("\u0301", [5]),
        ("💻", [6]),
        ("🎉", [6]),
        ("\u200d", [6]),
        ("; -- X:", [7]),
        ("^z {", [7]),
        ("\0b", [8]),
        ("\x1f", [8]),
        ("i\u0307", []),
        ("ſtra", [9]),
        ("K", [9]),
        ("straße", []),
    ],
)
@pytest.mark.parametrize("indexed", [False, True])
def test_text_is_taken_literally(store: Store, wanted: str, ids: list[int], *, indexed: bool) -> None:
    """In any script, from one character on, with and without the index; the case of ASCII letters does not matter."""
    fill(store, TEXTS)
    fill(store, ["filler"] * 300, first=100)
    if indexed:
        assert index(store)

    assert found(store, "bob", wanted) == by_index(store, "bob", wanted) == ids
    assert found(store, "eve", wanted) == by_index(store, "eve", wanted) == []


def test_what_no_text_is_searched_for_is_refused(store: Store) -> None:
    """A search has at most a thousand characters, and half a surrogate pair is not valid text."""
    fill(store, ["x" * 2_000] * 300)
    index(store)

    assert found(store, "bob", "x" * 1_000)[:2] == [300, 299]
    with pytest.raises(InvalidInput):
        found(store, "bob", "x" * 1_001)
    with pytest.raises(UnicodeEncodeError):
        found(store, "bob", "\ud800")


# -- what it costs ----------------------------------------------------------------------------------------


def test_mail_of_others_costs_a_reader_nothing(store: Store) -> None:
    """A word that is in every message is found at once by one who sees three of them, and by one who sees none."""
    fill(store, ["a word of all"] * 5_000)
    fill(store, ["a word of all"] * 3, to="eve", first=5_001)
    fill(store, ["a word of all"] * 5_000, first=5_004)
    index(store)

    assert found(store, "eve", "word") == [5_003, 5_002, 5_001]
    assert steps(store, lambda: found(store, "eve", "word")) < 20
    assert steps(store, lambda: found(store, "nobody", "word")) < 20


@pytest.mark.parametrize("wanted", ["needle", "word", "n", "wo", "nowhere", "zq", ""])
def test_a_search_runs_as_many_statements_whatever_is_stored(tmp_path: Path, wanted: str) -> None:
    """One for the reader's messages, and one or two for each block of the index."""
    counts = []
    for many in (1_500, 5_000):
        store = Store(tmp_path / f"{many}.db")
        fill(store, ["a word", *["other words"] * (many - 1)])
        index(store)
        counts.append(len(statements(store, lambda store=store: store(messages.look_back, BOB, search=wanted))))  # type: ignore[misc]

    assert counts[0] == counts[1] <= 12


BOB = Address("bob", "default")


def test_a_long_search_ends_early_and_says_where(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of messages that may match and do not, one answer looks at some; asked on, it comes to the end."""
    monkeypatch.setattr(search, "BUDGET", 1_000)
    fill(store, ["needle", *["nee eed edl dle"] * 5_000])
    index(store)

    first = store(messages.look_back, BOB, search="needle")
    answers = list(pages(store, "bob", "needle"))

    assert (first.messages, 1 < first.searched_to < 5_001) == ((), True)
    assert [[m.id for m in answer.messages] for answer in answers if answer.messages] == [[1]]
    assert len(answers) > 2


def test_an_unindexed_file_is_searched_from_its_newest_messages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the index is there, an answer looks at as many messages, and says where it ended."""
    monkeypatch.setattr(search, "BUDGET", 1_000)
    fill(store, ["needle", *["hay"] * 5_000])

    assert found(store, "bob", "needle") == [1]
    assert store(messages.look_back, BOB, search="needle").searched_to > 1


def test_a_program_of_an_earlier_version_is_answered_from_further_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not know that a search can end early."""
    monkeypatch.setattr(search, "BUDGET", 1_000)
    fill(store, ["needle", *["hay"] * 5_000])

    assert [m.id for m in store(messages.history, BOB, search="needle")] == [1]


def test_an_answer_is_no_longer_than_others(store: Store) -> None:
    """Hits of a million characters are enough; those before them come with `before`."""
    fill(store, [f"needle {'x' * 60_000}"] * 60)

    answer = store(messages.look_back, BOB, search="needle", limit=60)

    assert sum(len(m.content) for m in answer.messages) <= limits.MAX_ANSWER
    assert answer.searched_to == 0
    assert answer.messages[0].id > 1


# -- keeping the index -----------------------------------------------------------------------------------


def test_sending_and_reading_do_not_touch_the_index(store: Store) -> None:
    """No statement of theirs, and no trigger, writes a table of the search."""
    ann = store.join("ann")
    fill(store, ["hello"] * 300)
    index(store)
    assert store.rows("SELECT COUNT(*) FROM search_blocks") == [(1,)]

    ran = statements(store, lambda: store.send(ann, "bob", "hello"))

    assert not any("search_" in sql for sql in ran)
    triggers = store.rows("SELECT sql FROM sqlite_master WHERE type = 'trigger'")
    assert all("INSERT ON" not in sql and "DELETE ON" not in sql for (sql,) in triggers)


def test_a_small_bus_has_no_index(store: Store) -> None:
    """Some hundred messages are read as fast as they are looked up."""
    fill(store, ["hello"] * 150)

    assert index(store) == 0
    assert store.rows("SELECT name FROM sqlite_master WHERE name LIKE 'search_%' AND name <> 'search_blocks'") == []


def test_the_newest_messages_are_indexed_first(store: Store) -> None:
    """A file of an earlier version is indexed from its end, a little at a time; new mail comes before old."""
    fill(store, ["hello"] * 1_000)
    store(search.keep_up)
    assert store.rows("SELECT low, high FROM search_blocks") == [(800, 1_000)]

    fill(store, ["new"] * 250, first=1_001)
    store(search.keep_up)
    assert store.rows("SELECT low, high FROM search_blocks") == [(800, 1_200)]

    index(store)
    [(low, high)] = store.rows("SELECT low, high FROM search_blocks")
    assert (low, high) == (-1, 1_200)


def test_long_messages_are_indexed_a_few_at_a_time(store: Store) -> None:
    """Others wait for the end of each transaction."""
    fill(store, ["x" * 60_000] * 300)

    store(search.keep_up)

    assert store.rows("SELECT high - low FROM search_blocks") == [(1,)]


def test_a_step_that_fails_is_done_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it stays, and the next one does it."""
    fill(store, ["hello needle"] * 300)
    added: list[int] = []
    real = search._add

    def add(*arguments: object) -> None:
        added.append(1)
        if len(added) == 20:
            raise KeyboardInterrupt
        real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(search, "_add", add)
        with pytest.raises(KeyboardInterrupt):
            store(search.keep_up)

    assert store.rows("SELECT * FROM search_blocks") == []
    index(store)
    assert len(by_index(store, "bob", "needle")) == 300


KILLED = """
import sys
from pathlib import Path
from claude_bus.drivers.sqlite import connect, look
from claude_bus.sql import search
connection = connect(Path(sys.argv[1]), 5.0)
while look(connection, 0.0, lambda *_: True, search.keep_up):
    print("step", flush=True)
"""


def test_a_process_that_is_killed_leaves_an_index_that_goes_on(store: Store) -> None:
    """Its last step happened as a whole or not at all."""
    fill(store, [f"number {n}" for n in range(1, 4_001)])
    command = [sys.executable, "-c", KILLED, str(store.path)]
    for after in (1, 3, 5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert [process.stdout.readline() for _ in range(after)] == ["step\n"] * after
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)

    index(store)
    assert [by_index(store, "bob", f"number {n}")[-1:] for n in (4_000, 1_999, 7)] == [[4_000], [1_999], [7]]
    assert store.rows("SELECT low, high FROM search_blocks") == [(-1, 4_000)]


@pytest.mark.usefixtures("small")
def test_the_index_of_what_was_pruned_goes(store: Store) -> None:
    """With the messages of a block its table goes; where a few are left, these are looked at one by one."""
    fill(store, ["hello"] * 30)
    index(store)
    before = tables(store)
    store.connection.execute("DELETE FROM messages WHERE id < 21 AND id <> 3")

    for _ in range(5):
        store(upkeep.prune)

    assert before - tables(store) >= {"search_0", "search_7"}
    assert "search_28" in tables(store)
    assert found(store, "bob", "hello", limit=200)[-2:] == [21, 3]
    assert index(store) == 0
    store.connection.execute("DELETE FROM messages WHERE id = 3")
    for _ in range(5):
        store(upkeep.prune)
    assert store.rows("SELECT MIN(first) FROM search_blocks") == [(21,)]


def tables(store: Store) -> set[str]:
    return {name for (name,) in store.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}


# -- without it ----------------------------------------------------------------------------------------------


def damage(store: Store) -> None:
    store.connection.execute("UPDATE search_0_data SET block = x'ff00ff00' || substr(block, 5)")


def cut(store: Store) -> None:
    store.connection.execute("DELETE FROM search_0_data WHERE id > 10")


def remove(store: Store) -> None:
    store.connection.execute("DROP TABLE search_0")


def empty(store: Store) -> None:
    store.connection.execute("INSERT INTO search_0 (search_0) VALUES ('delete-all')")


def reopened(store: Store) -> Store:
    """FTS5 keeps parts of its tables in memory."""
    store.connection.close()
    return Store(store.path)


@pytest.mark.parametrize("harm", [damage, cut, remove])
def test_a_damaged_index_hinders_neither_mail_nor_search(store: Store, harm: Callable[[Store], None]) -> None:
    """Searches do without it, `doctor` tells of it, and upkeep makes it anew."""
    fill(store, ["needle", *["hay"] * 999])
    index(store)
    harm(store)
    store = reopened(store)
    ann = store.join("ann")

    assert by_index(store, "bob", "needle") == [1]
    assert store.send(ann, "bob", "needle too").id == 1_001
    assert by_index(store, "bob", "needle") == found(store, "bob", "needle") == [1_001, 1]
    assert doctor(store).ok is False

    store(upkeep.prune)
    index(store)
    assert doctor(store).ok is not False
    assert by_index(store, "bob", "needle") == [1_001, 1]
    assert store.rows("SELECT low FROM search_blocks") == [(-1,)]


@pytest.mark.parametrize("harm", [damage, cut])
def test_new_mail_is_indexed_though_the_index_was_damaged(store: Store, harm: Callable[[Store], None]) -> None:
    """The step that meets the damage begins anew."""
    fill(store, ["needle", *["hay"] * 999])
    index(store)
    harm(store)
    store = reopened(store)
    fill(store, ["hay"] * 400, first=1_001)

    index(store)

    assert by_index(store, "bob", "needle") == [1]


def test_an_index_that_lost_its_rows_is_made_anew(store: Store) -> None:
    """It is readable, and finds nothing: upkeep compares it with the newest messages."""
    fill(store, ["needle", *["hay"] * 999])
    index(store)
    empty(store)
    assert doctor(store).ok is False

    store(upkeep.prune)
    index(store)

    assert by_index(store, "bob", "needle") == [1]


def test_an_sqlite_without_fts5_searches_without_an_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a file that another program has indexed; `doctor` says so."""
    fill(store, ["needle", *["hay"] * 999])
    with monkeypatch.context() as patch:
        patch.setattr(search, "available", lambda _tx: False)
        assert index(store) == 0
        assert by_index(store, "bob", "needle") == [1]
        assert "no FTS5" in doctor(store).detail
        store(upkeep.prune)
    index(store)
    monkeypatch.setattr(search, "available", lambda _tx: False)
    without_fts5(store)

    assert by_index(store, "bob", "needle") == found(store, "bob", "needle") == [1]
    ann = store.join("ann")
    assert store.send(ann, "bob", "needle too").id == 1_001
    store.connection.execute("DELETE FROM messages WHERE id < 900")
    store(upkeep.prune)


def without_fts5(store: Store) -> None:
    """Refuse the tables of FTS5, as a library without it does."""

    def permit(action: int, table: str | None, *_rest: str | None) -> int:
        refused = action == sqlite3.SQLITE_READ and (table or "").startswith("search_0")
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    store.connection.set_authorizer(permit)


def doctor(store: Store) -> Finding:
    return next(finding for finding in inspect(store.path, 5.0) if finding.name == "search")


def test_doctor_counts_what_waits_for_the_index(store: Store) -> None:
    """It is information, and no fault."""
    fill(store, ["hay"] * 1_000)
    store(search.keep_up)
    assert (doctor(store).ok, doctor(store).detail) == (None, "800 messages not yet in the index")

    index(store)
    assert doctor(store).ok


def test_vacuum_and_copies_keep_the_index(store: Store, tmp_path: Path) -> None:
    """Its tables are tables like others."""
    fill(store, ["needle", *["hay"] * 999])
    index(store)
    store.connection.execute("VACUUM")
    with sqlite3.connect(tmp_path / "copy.db") as target:
        store.connection.backup(target)
    target.close()

    for each in (store, Store(tmp_path / "copy.db")):
        assert by_index(each, "bob", "needle") == [1]
        assert doctor(each).ok
        assert each.rows("PRAGMA integrity_check") == [("ok",)]
