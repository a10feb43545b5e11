"""Full text search in messages, of which a reader finds those that it may see.

The index holds the runs of one, two and three characters ("grams") of each text, in tables of SQLite's FTS5 that hold
no texts, one for each block of message ids. A text that contains what is searched has all its grams; whether one
that has them contains it is then seen in the text itself, so the index may lag behind, or know too much: it only
says where to look. That is why

- sending does not touch it: messages are indexed later, some hundred at once, by `keep_up`. Until then, and
  wherever there is no index, the reader's own messages are looked through.
- neither programs of earlier versions, nor an SQLite without FTS5, nor a damaged index can keep mail from being sent.
- what is deleted needs no update: ids are never used twice. A block goes when its messages are gone.

A search is bounded: after `BUDGET` it ends with the id that it came to.

Only the tables are particular to SQLite (`_create`, `_drop`, `_add`, `_matching`); an engine with an index of
its own for parts of words needs only `_matching`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, repeat

from .. import limits
from ..model.identity import Address
from . import columns
from .transaction import Row, Transaction
from .verbs import verb
from .visibility import VISIBLE, seen_by, visible_to

BUDGET = 10_000
"""Work of one search at most: one is a message looked at, about 2 microseconds."""
_TURN = 1_000
"""Work that one way of searching does before it is the other's turn."""
_OPENING = 300
"""Work of beginning with one block of the index. It can hold thousands of texts with all the grams but one."""
_ANY = 1 << 62
_CHARACTERS = 1_000
"""Characters of a text whose reading is one unit of work."""

BLOCK = 1 << 17
"""Message ids of one block. Blocks of other sizes in a file are respected."""
_AT_ONCE = 200
"""Messages, and
"""
_CHARACTERS_AT_ONCE = 50_000
"""characters of messages that are indexed in one transaction: others wait meanwhile."""
_MIN = 200
"""New messages that are worth a transaction: up to so many are looked through in each search."""
_FEW = 1_000
"""Messages of a block that has more or less been pruned: it needs no index."""
_MAX_GRAMS = 24
"""Grams of a search that are considered, and
"""
_RARE_GRAMS = 6
"""those that are looked up, the rarest: further ones seldom exclude anything."""
_SAMPLE = 50
"""The newest messages with a gram, which tell how rare it is."""
_MERGED = 80
"""Pages of the index that are merged with each step. FTS5's own merging now and then takes half a second at once."""


# -- searching -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """The newest messages that were found, newest first. `reached`: messages before this id were not looked at; 0: all
    were, or enough were found."""

    ids: list[int]
    reached: int = 0


_Look = tuple[int, str | None]
"""A message that is looked at: its id, and its content, or None where that is not for the reader."""


@dataclass
class _Walk:
    """Candidates, newest first, and which of them match."""

    candidates: Iterator[_Look]
    matches: Callable[[str], bool]
    limit: int
    reached: int
    hits: list[int] = field(default_factory=list)
    spent: int = 0
    done: bool = False
    _characters: int = 0

    def go(self, work: int) -> None:
        """Go on for so much work, or until it is done: all was looked at, or an answer is full."""
        until = self.spent + work
        for message, content in self.candidates:
            self.reached = message
            self.spent += 1
            if content is not None:
                self.spent += len(content) // _CHARACTERS
                if self.matches(content):
                    self._found(message, content)
            if self.done or self.spent >= until:
                return
        self.done = True

    def _found(self, message: int, content: str) -> None:
        self.hits.append(message)
        self._characters += len(content)
        self.done = len(self.hits) >= self.limit or self._characters > limits.MAX_ANSWER


def find(
    tx: Transaction, me: Address, search: str, *, since: int, before: int, limit: int, budget: int = BUDGET
) -> Found:
    """The newest messages between these ids that `me` sees and that mention `search`; all, if it is empty.

    Two ways are gone in turn, because either can be the long one: the reader's messages, one by one, for one with few
    messages or a word that is frequent in them; and the index, for a word that is rare.
    """
    if limit < 1:
        return Found([])
    top = before - 1 if before else _last(tx)
    matches = columns.finder(search)
    own = _Walk(seen_by(tx, me, since, top), matches, limit, top + 1)
    spans = list(_spans(tx, since, top)) if search else []
    if not search or all(span.block is None for span in spans):
        own.go(budget if search else _ANY)  # without a search each message is a hit
        return _found(own)
    own.go(_TURN)
    indexed = _Walk(_indexed(tx, me, search, spans), matches, limit, top + 1)
    while not (own.done or indexed.done) and own.spent + indexed.spent < budget:
        min(own, indexed, key=lambda walk: walk.spent).go(_TURN)
    return _found(min(own, indexed, key=lambda walk: (not walk.done, walk.reached)))


def among(tx: Transaction, me: Address, search: str, ids: list[int], *, since: int, before: int, limit: int) -> Found:
    """The newest of these messages that `me` sees and that mention `search`."""
    if limit < 1:
        return Found([])
    rows = tx.each(
        f"SELECT m.id, m.content FROM messages m WHERE m.id IN ({', '.join('?' * len(ids))}) AND m.id > ? "
        f"AND (? = 0 OR m.id < ?) AND {VISIBLE} ORDER BY m.id DESC",
        *ids,
        since,
        before,
        before,
        *visible_to(me),
    )
    walk = _Walk(((row["id"], row["content"]) for row in rows), columns.finder(search), limit, before)
    walk.go(BUDGET)
    return _found(walk)


def _found(walk: _Walk) -> Found:
    return Found(walk.hits, 0 if walk.done else walk.reached)


def _last(tx: Transaction) -> int:
    return int(tx.number("SELECT MAX(id) FROM messages"))


@dataclass(frozen=True, slots=True)
class _Span:
    """Message ids above `low` and up to `high`, all in one block of the index, or (None) in none."""

    low: int
    high: int
    block: int | None = None


def _spans(tx: Transaction, since: int, top: int) -> Iterator[_Span]:
    """The ids above `since` and up to `top`, split into those that are indexed and those that are not, newest first."""
    at = top
    for row in blocks(tx):
        low, high = max(row["low"], since), min(row["high"], at)
        if low >= high or row["dropped"]:
            continue
        if high < at:
            yield _Span(high, at)
        yield _Span(low, high, row["first"])
        at = low
    if at > since:
        yield _Span(since, at)


def _indexed(tx: Transaction, me: Address, search: str, spans: list[_Span]) -> Iterator[_Look]:
    """The messages that may match, with the help of the index where there is one, newest first."""
    grams: list[str] = []
    for span in spans:
        at = span.high
        if span.block is not None:
            yield from repeat((span.high + 1, None), _OPENING)
            try:
                grams = grams or _rarest(tx, _asked(search), span)[:_RARE_GRAMS]
                for look in _matching(tx, me, grams, span):
                    at = look[0] - 1
                    yield look
                continue
            except tx.connection.DatabaseError:
                pass  # an index that cannot be read: `repair` makes it anew
        yield from seen_by(tx, me, span.low, at)


def _rarest(tx: Transaction, grams: list[str], span: _Span) -> list[str]:
    """Some of the grams, the rarest first, going by the newest messages that have each."""
    table = _table(span.block or 0)
    sample = (
        f"SELECT ? AS gram, COUNT(*) AS n, MIN(id) AS id FROM (SELECT rowid AS id FROM {table} WHERE {table} MATCH ? "
        "AND rowid <= ? ORDER BY rowid DESC LIMIT ?)"
    )
    values = [value for gram in grams for value in (gram, _token(gram), span.high, _SAMPLE)]
    rows = tx.all(" UNION ALL ".join([sample] * len(grams)), *values)
    return [row["gram"] for row in sorted(rows, key=lambda row: row["n"] / (1 + span.high - (row["id"] or 0)))]


def _matching(tx: Transaction, me: Address, grams: list[str], span: _Span) -> Iterator[_Look]:
    """The messages that have all these grams, newest first."""
    table = _table(span.block or 0)
    rows = tx.each(
        f"SELECT m.id, CASE WHEN {VISIBLE} THEN m.content END AS content FROM {table} x "
        f"CROSS JOIN messages m ON m.id = x.rowid WHERE x.{table} MATCH ? AND x.rowid > ? AND x.rowid <= ? "
        "ORDER BY x.rowid DESC",
        *visible_to(me),
        " ".join(map(_token, grams)),
        span.low,
        span.high,
    )
    return ((row["id"], row["content"]) for row in rows)


def _grams(text: str) -> set[str]:
    """The grams of a text, each once; as `columns.mentions` compares, without the case of ASCII letters."""
    folded = _folded(text)
    return {folded[at : at + size] for size in (1, 2, 3) for at in range(len(folded) - size + 1)}


def _folded(text: str) -> str:
    return text.encode().lower().decode()


def _asked(search: str) -> list[str]:
    """The grams that stand for `search`: itself, or its longest ones, from all over it if they are many."""
    longest = min(3, len(search))
    folded = _folded(search)
    grams = list(dict.fromkeys(folded[at : at + longest] for at in range(len(folded) - longest + 1)))
    return grams[:: -(-len(grams) // _MAX_GRAMS)]


def _token(gram: str) -> str:
    """A gram as a word of the index: hexadecimal, so that no text is syntax."""
    return gram.encode().hex()


# -- keeping it ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Work:
    """Messages to index next: those above `low` and up to `high` from the block's lower or upper end."""

    block: int
    low: int
    high: int
    upwards: bool
    new: bool = False


@verb(mode="read")
def keep_up(tx: Transaction) -> bool:
    """Index a few messages, the newest first; whether there are more to do.

    Others can write between two steps. One that is given up half done is done anew.
    """
    work = _work(tx)
    if not work or not available(tx):
        return False
    tx.run("SAVEPOINT search")
    try:
        _index(tx, work)
    except tx.connection.DatabaseError as error:
        if isinstance(error, tx.connection.OperationalError):
            raise  # nothing is wrong with the index: no room, or no patience
        tx.run("ROLLBACK TO search")
        _drop(tx, work.block)
    tx.run("RELEASE search")
    return True


def repair(tx: Transaction) -> None:
    """Drop the index of blocks that were pruned, and of those that it does not find, which are then indexed anew."""
    if not available(tx):
        return
    newest = _last(tx)
    for row in blocks(tx):
        if row["dropped"]:
            if not _count(tx, row, 1):
                tx.run("DELETE FROM search_blocks WHERE first = ?", row["first"])
        elif not sound(tx, row):
            _drop(tx, row["first"])
        elif newest > row["last"] and (left := _count(tx, row, _FEW + 1)) <= _FEW:
            _drop(tx, row["first"])
            if left:
                tx.run("INSERT INTO search_blocks VALUES (?, ?, ?, ?, 1)", row["first"], row["last"], 0, 0)
            return  # one at a time: where SQLite overwrites what it deletes, it takes a quarter of a second


def sound(tx: Transaction, block: Row) -> bool:
    """Return whether the newest messages of a block are found with its index."""
    if block["dropped"] or not available(tx):
        return True
    rows = tx.all(
        "SELECT id, content FROM messages WHERE id > ? AND id <= ? AND content <> '' ORDER BY id DESC LIMIT 3",
        block["low"],
        block["high"],
    )
    try:
        return all(_has(tx, block["first"], row["id"], _asked(row["content"][:1000])) for row in rows)
    except tx.connection.DatabaseError:
        return False


def blocks(tx: Transaction) -> list[Row]:
    """The blocks of the index, the newest first."""
    return tx.all("SELECT first, last, low, high, dropped FROM search_blocks ORDER BY first DESC")


def unindexed(tx: Transaction) -> int:
    """How many messages only a look at each finds."""
    return int(
        tx.number(
            "SELECT COUNT(*) FROM messages m WHERE NOT EXISTS "
            "(SELECT 1 FROM search_blocks b WHERE m.id > b.low AND m.id <= b.high)"
        )
    )


def _count(tx: Transaction, block: Row, most: int) -> int:
    return int(
        tx.number(
            "SELECT COUNT(*) FROM (SELECT 1 FROM messages WHERE id BETWEEN ? AND ? LIMIT ?)",
            block["first"],
            block["last"],
            most,
        )
    )


def _work(tx: Transaction) -> _Work | None:
    """The messages to index next."""
    newest, oldest = _last(tx), int(tx.number("SELECT MIN(id) FROM messages"))
    known = {row["first"]: row for row in blocks(tx)}
    at = newest
    while at and at >= oldest:
        row = next((row for row in known.values() if row["first"] <= at <= row["last"]), None)
        if row is None:
            first = max([at - at % BLOCK, *(other["last"] + 1 for other in known.values() if other["last"] < at)])
            if at < newest or at - max(first, oldest) >= _MIN:
                return _Work(first, first - 1, at, upwards=False, new=True)
            at = first - 1
        else:
            if work := _in_block(row, newest):
                return work
            at = row["first"] - 1
        at = int(tx.number("SELECT MAX(id) FROM messages WHERE id <= ?", at))
    return None


def _in_block(row: Row, newest: int) -> _Work | None:
    if row["dropped"]:
        return None
    top = min(row["last"], newest)
    if top - row["high"] >= (_MIN if newest <= row["last"] else 1):
        return _Work(row["first"], row["high"], top, upwards=True)
    if row["low"] >= row["first"]:
        return _Work(row["first"], row["first"] - 1, row["low"], upwards=False)
    return None


def _index(tx: Transaction, work: _Work) -> None:
    if work.new:
        _create(tx, work)
    rows = _next(tx, work)
    for row in sorted(rows, key=lambda row: row["id"]):  # FTS5 takes ascending ids together
        _add(tx, work.block, row["id"], row["content"])
    _merge(tx, work.block)
    if work.upwards:
        high = rows[-1]["id"] if rows else work.high
        tx.run("UPDATE search_blocks SET high = ? WHERE first = ?", high, work.block)
    else:
        low = rows[-1]["id"] - 1 if rows else work.low
        tx.run("UPDATE search_blocks SET low = ? WHERE first = ?", low, work.block)


def _next(tx: Transaction, work: _Work) -> list[Row]:
    """As many messages as are indexed at once."""
    rows: list[Row] = []
    characters = 0
    each = tx.each(
        f"SELECT id, content FROM messages WHERE id > ? AND id <= ? ORDER BY id {'ASC' if work.upwards else 'DESC'}",
        work.low,
        work.high,
    )
    for row in islice(each, _AT_ONCE):
        rows.append(row)
        characters += len(row["content"])
        if characters > _CHARACTERS_AT_ONCE:
            break
    return rows


# -- the tables of the index ----------------------------------------------------------------------------


def _table(block: int) -> str:
    return f"search_{block}"


def available(tx: Transaction) -> bool:
    """Return whether this SQLite has FTS5."""
    return tx.one("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'") is not None


def _create(tx: Transaction, work: _Work) -> None:
    tx.run(f"DROP TABLE IF EXISTS {_table(work.block)}")
    tx.run(
        f"CREATE VIRTUAL TABLE {_table(work.block)} "
        "USING fts5 (grams, content = '', columnsize = 0, detail = none, tokenize = 'ascii')"
    )
    last = int(tx.number("SELECT MIN(first) FROM search_blocks WHERE first > ?", work.block)) or work.block + BLOCK
    for setting, value in (("automerge", 0), ("crisismerge", 1_000)):  # see `_merge`
        tx.run(f"INSERT INTO {_table(work.block)} ({_table(work.block)}, rank) VALUES (?, ?)", setting, value)
    tx.run(
        "INSERT INTO search_blocks (first, last, low, high) VALUES (?, ?, ?, ?)",
        work.block,
        min(last, work.block - work.block % BLOCK + BLOCK) - 1,
        work.high,
        work.high,
    )


def _drop(tx: Transaction, block: int) -> None:
    tx.run(f"DROP TABLE IF EXISTS {_table(block)}")
    tx.run("DELETE FROM search_blocks WHERE first = ?", block)


def _add(tx: Transaction, block: int, message: int, content: str) -> None:
    tx.run(f"INSERT INTO {_table(block)} (rowid, grams) VALUES (?, ?)", message, " ".join(map(_token, _grams(content))))


def _merge(tx: Transaction, block: int) -> None:
    """Keep the number of parts small that a search has to look into."""
    tx.run(f"INSERT INTO {_table(block)} ({_table(block)}, rank) VALUES ('merge', ?)", _MERGED)


def _has(tx: Transaction, block: int, message: int, grams: list[str]) -> bool:
    table = _table(block)
    asked = " ".join(map(_token, grams))
    return tx.one(f"SELECT 1 FROM {table} WHERE {table} MATCH ? AND rowid = ?", asked, message) is not None
