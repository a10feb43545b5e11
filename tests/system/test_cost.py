"""The work and the memory that one caller can cause have limits. Counted in steps and sizes, never in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest

from claude_bus import addresses, claim_paths, drafts, limits, patterns, state_values
from claude_bus.compat.sql import feeds
from claude_bus.errors import BusError, InvalidInput, TooLarge
from claude_bus.model.claims import ClaimTarget
from claude_bus.model.identity import Address
from claude_bus.model.messages import Draft, File, Message, Search
from claude_bus.model.tokens import Grant
from claude_bus.patterns import StepBudget
from claude_bus.sql import agents, claims, deliveries, guard, inboxes, messages, overlaps, state
from tests.support.store import Store

ANN, BOB = Address("ann", "default"), Address("bob", "default")
HOSTILE = [f"{'*a' * 490}*{n}" for n in range(20)]
"""Patterns of an earlier version's database, which no rule held back."""


@pytest.fixture
def store(store: Store) -> Store:
    """With ann and bob, who are programs."""
    for who in (ANN, BOB):
        store(agents.join_without_session, who, "test")
    return store


def refused(act: Callable[[], Any]) -> BusError:
    with pytest.raises(BusError) as refusal:
        act()
    return refusal.value


def claim(store: Store, who: Address, *paths: str, **more: Any) -> Any:
    return store(claims.claim, who, [ClaimTarget("", path) for path in paths], **{"ttl": 600} | more)


def store_as_before(store: Store, who: Address, paths: list[str]) -> None:
    """Claims that are in the file already, from a time without limits."""
    for path in paths:
        store.connection.execute(
            "INSERT INTO claims (channel, path, stem, owner, created, expires) VALUES ('default', ?, ?, ?, ?, ?)",
            (path, patterns.stem(path), who.name, store.now, store.now + 600),
        )


# -- patterns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [50, 500])
@pytest.mark.parametrize(
    ("one", "other"), [("*a", "*b"), ("a*/", "b*/"), ("**/", "*/"), ("[ab]", "[!c]"), ("a/", "?/"), ("a", "?")]
)
def test_two_patterns_take_as_many_steps_as_they_are_long(one: str, other: str, size: int) -> None:
    """Not as the product of their lengths: twenty stars or five hundred, each part is looked at once."""
    effort = StepBudget(10**9)

    patterns.overlap((one * size).strip("/") + "z", (other * size).strip("/") + "y", effort)

    assert 10**9 - effort.steps <= 20 * size * (len(one) + len(other))


def test_comparing_ends_when_its_steps_are_spent() -> None:
    """Each comparison is given a budget of steps."""
    with pytest.raises(patterns.BudgetExceeded):
        patterns.overlap("*a*b*c", "*x*y*z", StepBudget(5))


@pytest.mark.parametrize(
    "path", ["src/**/*.py", "app/[[]id]/[[]slug]/page.tsx", "**/test_[a-c]*.py", "a" * 1000, "*a" * 10, "port:8080"]
)
def test_what_people_claim_and_own_is_within_the_limits(store: Store, path: str) -> None:
    """Files with brackets in their names count as what they are."""
    claim(store, ANN, path)
    store(agents.join_without_session, BOB, "test", "", (path,))


@pytest.mark.parametrize("path", ["*a" * 11, "?b" * 11, "[ab]c" * 11, "*" + "a" * 500, "**/a/" * 11])
def test_a_pattern_has_so_many_wildcards_and_characters(store: Store, path: str) -> None:
    """Wherever it comes from, claimed or owned; the refusal names the limit and what to do."""
    for act in (lambda: claim(store, ANN, path), lambda: store(agents.join_without_session, ANN, "test", "", (path,))):
        message = refused(act).message
        assert str(claim_paths.MAX_WILDCARDS) in message or str(claim_paths.MAX_GLOB) in message
        assert "name the folder" in message


def test_a_name_owns_so_many_globs(store: Store) -> None:
    """One more is refused."""
    most = tuple(f"src/{n}/**" for n in range(claim_paths.MAX_OWNS))
    store(agents.join_without_session, ANN, "test", "", most)

    assert (
        str(claim_paths.MAX_OWNS)
        in refused(lambda: store(agents.join_without_session, ANN, "test", "", (*most, "docs"))).message
    )


# -- claims ------------------------------------------------------------------------------------


def test_one_request_names_so_many_paths(store: Store) -> None:
    """Of those that claim, release, take away and judge."""
    places = [ClaimTarget("", str(n)) for n in range(claim_paths.MAX_PLACES + 1)]
    for act in (
        lambda: store(claims.claim, ANN, places, ttl=1),
        lambda: store(claims.release, ANN, places),
        lambda: store(guard.force_release, ANN, places, "why"),
        lambda: store(guard.conflicting_claims, ANN, places, ""),
    ):
        assert str(claim_paths.MAX_PLACES) in refused(act).message


@pytest.mark.parametrize(
    ("limit", "path", "owners"),
    [
        ("MAX_CLAIMS", "{}", [ANN]),
        ("MAX_GLOB_CLAIMS", "{}*", [ANN]),
        ("MAX_CHANNEL_CLAIMS", "{}", [ANN, BOB]),
        ("MAX_CHANNEL_GLOB_CLAIMS", "{}/[ab]", [ANN, BOB]),
    ],
)
def test_a_name_and_a_channel_have_so_many_claims(
    store: Store, monkeypatch: pytest.MonkeyPatch, limit: str, path: str, owners: list[Address]
) -> None:
    """One more is refused, and is not there; what is held can be renewed, and what is released makes room."""
    monkeypatch.setattr(claim_paths, limit, 6)
    for n in range(6):
        claim(store, owners[n % len(owners)], path.format(n))

    assert "the limit is 6: release some" in refused(lambda: claim(store, ANN, path.format(6))).message
    claim(store, ANN, path.format(0))
    assert len(store(claims.list_claims, "default")) == 6

    store(claims.release, ANN, [ClaimTarget("", path.format(0))])
    claim(store, ANN, path.format(6))


def test_a_quoted_name_is_no_glob(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files that have brackets in their names one may claim as many as of others."""
    monkeypatch.setattr(claim_paths, "MAX_GLOB_CLAIMS", 1)
    for n in range(3):
        claim(store, ANN, f"app/[[]id{n}]/page.tsx")


def test_an_edit_beyond_the_limit_claims_nothing_and_goes_through(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that edits more files than it may claim is not held up."""
    monkeypatch.setattr(claim_paths, "MAX_CLAIMS", 2)
    carol = store.join("carol")

    for n in range(4):
        verdict = store(guard.edit, store.clients[carol], ClaimTarget("", f"{n}.py"), "/tree", "deny")
        assert verdict.action == "pass"

    assert [found.path for found in store(claims.list_claims, "default")] == ["0.py", "1.py"]


def test_old_patterns_are_compared_all_the_same(store: Store) -> None:
    """A claim from before there were limits still excludes what it meets, and costs little."""
    store_as_before(store, ANN, HOSTILE)
    effort = StepBudget(claim_paths.MAX_EFFORT)

    assert store(claims.holding, BOB, ClaimTarget("", "src/*.py"), effort) is None
    assert claim_paths.MAX_EFFORT - effort.steps < 20 * 4 * len(HOSTILE[0])
    assert refused(lambda: claim(store, BOB, f"{'a' * 500}7")).code == "claim_held"


def test_a_claim_that_takes_too_much_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever others claimed, a verb has an end; fewer paths at once go through."""
    monkeypatch.setattr(claim_paths, "MAX_EFFORT", 2_000)
    claim(store, ANN, *(f"*{n}" for n in range(40)))

    error = refused(lambda: claim(store, BOB, *(f"x{n}*y" for n in range(40))))

    assert isinstance(error, TooLarge)
    assert "fewer paths" in error.message
    claim(store, BOB, "xy")


def test_looking_for_overlaps_has_an_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The roster is complete whatever the sessions own; it shows as many overlaps as there is effort for."""
    spent: list[StepBudget] = []

    class Noted(StepBudget):
        def __init__(self, steps: int) -> None:
            super().__init__(steps)
            spent.append(self)

    monkeypatch.setattr(overlaps, "StepBudget", Noted)
    monkeypatch.setattr(claim_paths, "MAX_EFFORT", 20_000)
    for n in range(20):
        store.join(f"s{n}", owns=("src/a.py", *(f"*{n}{k}*" for k in range(30))))

    found = store(agents.listing, "default", None)

    assert len(found) == 22
    assert spent[-1].steps < 0
    assert sum(len(path) for agent in found for met in agent.overlaps for path in met.paths) <= 20_000
    assert overlaps.all_of({"x": {("", "src/a.py")}, "y": {("", "src")}}, {"x"})["x"][0].name == "y"


def test_plain_paths_that_do_not_meet_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty sessions with twenty files each cost sixty times twenty, not the square of that."""
    monkeypatch.setattr(patterns, "overlap", lambda *_: pytest.fail("compared"))
    prints = {f"s{n}": {("", f"src/{n}/{k}.py") for k in range(20)} for n in range(60)}

    assert overlaps.all_of(prints, set(prints)) == {}


def test_the_limit_of_a_line_is_that_of_a_path() -> None:
    """A path that is owned may be as long as one that is claimed."""
    with pytest.raises(InvalidInput):
        claim_paths.check_owns(["a" * (claim_paths.MAX_PATH + 1)])


# -- recipients --------------------------------------------------------------------------------


def test_names_are_guessed_for_two_recipients_among_those_seen_last(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message to two hundred unknown names compares two of them with two hundred."""
    looked: list[tuple[str, list[str]]] = []

    def similar(name: str, known: Iterable[str]) -> str:
        looked.append((name, list(known)))
        return ""

    monkeypatch.setattr(addresses, "closest_name", similar)
    for n in range(addresses.MAX_CANDIDATES + 20):
        store.now += 1
        store(agents.join_without_session, Address(f"known-{n}", "default"), "test")

    sent = store.send(ANN, tuple(f"unknown-{n}" for n in range(addresses.MAX_RECIPIENTS)))

    assert [name for name, _ in looked] == ["unknown-0", "unknown-1"]
    assert {len(known) for _, known in looked} == {addresses.MAX_CANDIDATES}
    assert "known-219" in looked[0][1]
    assert {e.outlook for e in sent.expectations} == {"unknown"}


@pytest.mark.parametrize(
    ("to", "says"),
    [
        (("a*",) * (addresses.MAX_RECIPIENT_GLOBS + 1), str(addresses.MAX_RECIPIENT_GLOBS)),
        (("*a" * 40,), "shorter"),
        (("b",) * (addresses.MAX_RECIPIENTS + 1), str(addresses.MAX_RECIPIENTS)),
    ],
)
def test_a_message_has_so_many_recipients_and_globs(store: Store, to: tuple[str, ...], says: str) -> None:
    """Each glob is matched with every name."""
    assert says in refused(lambda: store.send(ANN, to)).message


def test_a_message_has_so_many_tags(store: Store) -> None:
    """They come with every reading."""
    store.send(ANN, "bob", tags=("t",) * drafts.MAX_TAGS)

    assert str(drafts.MAX_TAGS) in refused(lambda: store.send(ANN, "bob", tags=("t",) * (drafts.MAX_TAGS + 1))).message


def test_a_hint_names_no_channel_that_the_sender_may_not_use(store: Store) -> None:
    """Of names elsewhere only those are told that a token could reach."""
    for n, channel in enumerate(("ops", "hidden")):
        store.now += n
        store(agents.join_without_session, Address("carol", channel), "test")
    store(agents.join_without_session, Address("secretagent", "hidden"), "test")

    def hints(*channels: str) -> list[str]:
        draft = Draft(("carol", "secretagent"), "hello")
        sent = store.by(grant=Grant("ann", channels=channels))(messages.send, ANN, draft)
        return [e.hint for e in sent.expectations]

    assert hints("default") == ["", ""]
    assert hints("default", "ops") == ["that name is on channel 'ops': 'carol@ops'", ""]
    assert "hidden" in " ".join(hints("*"))


# -- answers -----------------------------------------------------------------------------------

BIG = "x" * 60_000
MANY = limits.MAX_ANSWER // len(BIG)


def characters(found: Sequence[Message]) -> int:
    return sum(len(message.content) for message in found)


@pytest.fixture
def full(store: Store) -> Store:
    """Bob has three answers' worth of mail."""
    for _ in range(3 * MANY):
        store.send(ANN, "bob", BIG)
    return store


@pytest.mark.parametrize("limit", [200, 10**9, -1])
def test_every_answer_with_messages_has_so_many_characters(full: Store, limit: int) -> None:
    """At whichever door, whatever was asked for."""
    by = full.process()
    answers = [
        full(messages.history, BOB, limit=limit),
        full(inboxes.peek, BOB, limit=limit, max_chars=10**12).messages,
        full.by(by)(deliveries.hand_over, BOB, limit=limit, max_chars=10**12, via="x").messages,
        full.by(grant=Grant())(feeds.posts, Search("default", since=0, limit=200)),
        [r.message for r in full.by(grant=Grant())(feeds.received, "bob", "default", 0.0, 1000).received],
    ]

    assert max(map(characters, answers)) <= limits.MAX_ANSWER
    assert limit < 0 or min(map(characters, answers)) > limits.MAX_ANSWER / 2


def test_of_mail_that_does_not_fit_little_is_read(full: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook has room for a few thousand characters: it does not load a hundred long messages to find that out."""
    loaded: list[int] = []
    by_id = deliveries.by_id
    monkeypatch.setattr(deliveries, "by_id", lambda tx, ids: loaded.extend(ids) or by_id(tx, ids))  # type: ignore[func-returns-value]

    found = full.by(full.process())(deliveries.hand_over, BOB, limit=100, max_chars=9_000, via="x")

    assert (found.messages, found.next_id, found.pending, len(loaded)) == ((), 1, 3 * MANY, 1)


def test_what_messages_name_counts_too(store: Store) -> None:
    """Paths of files make an answer as large as text does."""
    files = tuple(File("/" + "a" * 4_000, 1, "0" * 64, "here") for _ in range(20))
    for _ in range(30):
        store.send(ANN, "bob", "see", files=files)

    found = store(messages.history, BOB, limit=200)

    assert 0 < sum(len(file.path) for message in found for file in message.files) <= limits.MAX_ANSWER


@pytest.mark.parametrize(
    ("search", "found"),
    [("needle", True), ("NEEDLE é", True), ("needle É", False), ("%", False), ("x" * 1_000, False), ("\0b", True)],
)
def test_what_is_looked_for_costs_one_reading_of_each_message(store: Store, search: str, found: bool) -> None:
    """However much of it a text repeats. LIKE tries all of it at each place of the text: a few messages that are made
    for that, and a search of a thousand characters, took all others' turns for minutes."""
    message = store.send(ANN, ("bob",), f"{'x' * 999}y Needle é a\0b")
    asked: list[str] = []
    store.connection.set_trace_callback(asked.append)

    assert [m.id for m in store(messages.history, BOB, search=search)] == [message.id] * found
    assert sum("m.content" in sql and "ORDER BY" in sql for sql in asked) == 1
    assert not any("LIKE" in sql or "instr" in sql.lower() for sql in asked)


def test_history_goes_on_where_an_answer_ended(full: Store) -> None:
    """Asked for what is before the first message of each answer, it gives all, and then nothing."""
    ids: list[int] = []
    while found := full(messages.history, BOB, limit=200, before=ids[0] if ids else 0):
        ids = [m.id for m in found] + ids

    assert ids == list(range(1, 3 * MANY + 1))


def test_more_values_than_an_answer_carries_are_refused(store: Store) -> None:
    """With the way to them: the keys alone, and those with a prefix."""
    for n in range(5):
        store(state.set_state, ANN, f"big/{n}", "x" * state_values.MAX_VALUE_BYTES)
    store(state.set_state, ANN, "small", "y")

    message = refused(lambda: store(state.list_state, "default", values=True)).message
    assert str(limits.MAX_ANSWER) in message
    assert "prefix" in message
    assert [e.value for e in store(state.list_state, "default")] == [None] * 6
    assert [e.value for e in store(state.list_state, "default", prefix="small", values=True)] == ["y"]


@pytest.mark.parametrize("limit", [100, 10**9, -1])
def test_versions_come_as_many_as_fit_and_then_those_before(store: Store, limit: int) -> None:
    """A long history is read answer by answer."""
    for n in range(12):
        store(state.set_state, ANN, "k", str(n % 10) * 200_000)
    versions: list[int] = []
    while found := store(state.history, "default", "k", limit, versions[-1] if versions else 0):
        assert sum(len(e.value or "") for e in found) <= limits.MAX_ANSWER
        versions += [e.version for e in found]

    assert versions == ([] if limit < 0 else list(range(12, 0, -1)))


def test_a_channel_has_so_many_keys(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are there can be written; deleting one, or its end, makes room; another channel has its own."""
    monkeypatch.setattr(state_values, "MAX_KEYS", 3)
    for n in range(3):
        store(state.set_state, ANN, str(n), "x", ttl=60 if n else None)

    error = refused(lambda: store(state.set_state, ANN, "3", "x"))
    assert isinstance(error, TooLarge)
    assert "delete some" in error.message
    store(state.set_state, ANN, "0", "y")
    store(state.set_state, Address("ann", "ops"), "3", "x")
    store(state.set_state, ANN, "0", "", mode="delete")
    store(state.set_state, ANN, "3", "x")
    store.now += 61
    store(state.set_state, ANN, "4", "x")
