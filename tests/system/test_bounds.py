"""Limits on the cost of one caller to the others: in time, in memory, and on the disk."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_bus import addresses, claude_code, documents, drafts, jsons, limits, quoting
from claude_bus.bus import Bus
from claude_bus.cli import printing
from claude_bus.compat.sql import feeds
from claude_bus.config import Access, Config, Serving
from claude_bus.connect import open_local
from claude_bus.errors import InvalidInput, RateLimited, TooLarge, from_dict, kinds
from claude_bus.http import bodies, responses
from claude_bus.http.app import create_app
from claude_bus.http.bodies import Bodies
from claude_bus.model.identity import Address, Client, Folder, Process
from claude_bus.model.messages import Draft, Search
from claude_bus.model.state import StateEntry
from claude_bus.model.tokens import UNRESTRICTED, Grant
from claude_bus.processes import this_process
from claude_bus.remote.bus import RemoteBus
from claude_bus.sql import agents, bindings, calls, columns, deliveries, listeners, messages, sessions, state
from claude_bus.sql.catalog import REMOTE
from claude_bus.sql.transaction import Transaction
from tests.support.effort import looks
from tests.support.expensive_requests import Target, api, rpc, shapes, wires
from tests.support.processes import Wire
from tests.support.sessions import Party
from tests.support.store import Store

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ALICE, BOB = Address("alice", "default"), Address("bob", "default")
LAPTOP = Process("laptop", 1, 1.0)
TARGETS = {target.name: target for target in (*wires(), *api(), *rpc())}


class House:
    """A served bus in this process; `caller` needs no token, programs elsewhere have some."""

    def __init__(self, path: Path, *, tokens: bool = False) -> None:
        config = Config(path)
        self.bus = open_local(config)
        self.app = create_app(self.bus, config, Serving(), tokens=tokens)
        self._transport = httpx2.ASGITransport(self.app)
        self.caller = httpx2.AsyncClient(transport=self._transport, base_url="http://127.0.0.1")
        self._elsewhere: list[RemoteBus] = []

    async def of(self, owner: str, *channels: str) -> Bus:
        """The bus as the owner of a new token has it."""
        _, secret = await self.bus.create_token(owner, (owner, f"{owner}-*"), channels or ("default",), None)
        bus = RemoteBus("http://127.0.0.1", Access(secret), LAPTOP, self._transport)
        self._elsewhere.append(bus)
        return bus

    async def ask(self, target: Target, body: bytes) -> httpx2.Response:
        headers = {"Content-Type": "application/json", **target.headers}
        return await self.caller.request(target.method, target.path, content=body, headers=headers)

    async def close(self) -> None:
        for each in self._elsewhere:
            await each.close()
        await self.caller.aclose()
        await self.bus.close()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path / "bus.db")
    yield house
    await house.close()


@pytest.fixture
async def closed_house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path / "bus.db", tokens=True)
    yield house
    await house.close()


# -- counting JSON -------------------------------------------------------------------------------

_TEXTS = st.text(st.sampled_from('"\\[]{},:a\n\u00e9\u2028')) | st.text()
_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
)


def depth_of(document: Any) -> int:
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    return (isinstance(document, dict | list)) + max(map(depth_of, inner), default=0)


@given(_DOCUMENTS, st.integers(0, 6), st.booleans())
@looks(300)
def test_depth_is_counted_as_a_parser_meets_it(document: Any, most: int, ascii_only: bool) -> None:
    """Brackets and quotes in texts make no difference, escaped or not."""
    written = json.dumps(document, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    assert jsons.is_deeper(written, most) == (depth_of(document) > most)


@given(st.dictionaries(st.sampled_from(("id", "method", "params", 'a"b')), _DOCUMENTS))
@looks(200)
def test_the_outline_of_an_object_has_its_plain_fields(document: dict[str, Any]) -> None:
    """A list or an object in it becomes null: however deep, it is not parsed."""
    plain = {name: None if isinstance(value, dict | list) else value for name, value in document.items()}
    assert jsons.outline(json.dumps(document).encode()) == plain
    deep = json.dumps({**document, "deep": "@"}).replace('"@"', "[" * 5_000 + "]" * 5_000).encode()
    assert jsons.outline(deep) == {**plain, "deep": None}


@pytest.mark.parametrize("document", ["", "[", "]", '"', '"\\', "[[[[", '{"id": 1', "null", "[1]", "{" * 100_000])
def test_an_outline_of_anything_else_is_empty(document: str) -> None:
    """Also of what is broken off."""
    assert jsons.outline(document.encode()) == {}


def test_as_many_values_as_there_may_be_pass() -> None:
    """And one more does not; text is no value, whatever stands in it."""
    jsons.check(json.dumps(["x"] * (jsons.MAX_VALUES - 1)).encode(), "it")
    jsons.check(json.dumps({f"f{n}": "," * 100 for n in range(jsons.MAX_VALUES - 1)}).encode(), "it")
    jsons.check(json.dumps('[,{"' * 500_000).encode(), "it")
    documents: list[Any] = [["x"], [[]], [0]]
    fields = {f"f{n}": 0 for n in range(jsons.MAX_VALUES)}
    for document in (*(each * jsons.MAX_VALUES for each in documents), fields):
        with pytest.raises(TooLarge, match="20,000 JSON values"):
            jsons.check(json.dumps(document).encode(), "it")


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_only_utf8_is_counted(coding: str) -> None:
    """In another coding, bytes that are not quotes would be taken for quotes."""
    with pytest.raises(InvalidInput, match="UTF-8"):
        jsons.check(json.dumps(["\u2222"] * 3).encode(coding), "it")


# -- requests --------------------------------------------------------------------------------------

REFUSED = {
    **dict.fromkeys(
        ("short texts", "numbers", "empty lists", "empty objects", "fields"), (413, "the body has more than")
    ),
    **dict.fromkeys(("nested", "half open"), (400, "the body is nested deeper than 64 levels")),
}


@pytest.mark.parametrize("name", TARGETS)
async def test_what_others_would_wait_for_is_refused_before_it_is_parsed(name: str, house: House) -> None:
    """Too many values or levels, at whichever route: by the one check in front of all of them."""
    target = TARGETS[name]
    _, before, behind = next(target.holes())
    for shape, (status, message) in REFUSED.items():
        answer = await house.ask(target, before + shapes()[shape] + behind)
        assert (shape, answer.status_code) == (shape, status)
        assert answer.json()["message"].startswith(message)


@pytest.mark.parametrize("name", TARGETS)
async def test_too_many_levels_are_refused_at_every_route(name: str, house: House) -> None:
    """With a sentence, and not by a RecursionError somewhere below."""
    target = TARGETS[name]
    for hole, before, behind in target.holes():
        for depth in (jsons.MAX_DEPTH + 1, 300, 940, 2_000):
            answer = await house.ask(target, before + b"[" * depth + b"]" * depth + behind)
            assert (hole, answer.status_code) == (hole, 400)
            assert "nested deeper than 64 levels" in answer.json()["message"]


@pytest.mark.parametrize("name", TARGETS)
async def test_no_route_fails_on_what_gets_past_the_count(name: str, house: House) -> None:
    """As many values and levels as there may be, in each field, and as unknown ones: an answer, and a short one."""
    target = TARGETS[name]
    values = [shapes()["permitted short texts"], shapes()["permitted depth"], b'"' + b"x" * 1_000_000 + b'"']
    bodies_ = [before + value + behind for _, before, behind in target.holes() for value in values]
    for body in (*bodies_, target.flood()):
        answer = await house.ask(target, body)
        assert answer.status_code < 500
        assert len(answer.content) < 10_000


def test_a_request_settles_so_many_messages(tmp_path: Path) -> None:
    """More are refused before the store is asked; so are those of a hook event."""
    with pytest.raises(InvalidInput, match="5000"):
        drafts.check_message_count(drafts.MAX_SETTLED + 1)


async def test_a_quarter_of_a_million_ids_do_not_hold_the_store(house: House) -> None:
    """Neither as a list of ids, nor in what happened to a session."""
    ids = list(range(1, drafts.MAX_SETTLED + 2))
    process = {"host": "h", "pid": 1, "started": 1.0}
    me = {"name": "ann", "channel": "default"}
    client = {"key": "c", "process": process}
    calls: dict[str, dict[str, Any]] = {
        "withdraw": {"me": me, "message_ids": ids},
        "confirm": {"me": me, "message_ids": ids},
        "pass_on": {"me": me, "message_ids": ids, "to": process},
        **{
            f"react?{field}": {"client": client, "happening": {"via": "hook", "space": 1, field: ids}}
            for field in ("proven", "lost", "recalled")
        },
    }
    for verb, arguments in calls.items():
        body = json.dumps({"process": process, "arguments": arguments, "held": []}).encode()
        answer = await house.ask(Target(verb, f"/rpc/{verb.partition('?')[0]}", {}), body)
        assert (verb, answer.status_code) == (verb, 400)
        assert "settle them in several requests" in answer.json()["message"]


def test_many_messages_are_settled_in_few_statements(store: Store) -> None:
    """All of them, each once, however often it is named."""
    alice, bob = store.join("alice"), store.join("bob")
    by = store.process()
    ids = [store.send(alice, "bob", str(n)).id for n in range(20)]
    store.hand_over(bob, by=by)
    assert store.by(by)(deliveries.confirm, bob, [*range(-2_000, 0), *ids, *ids]) == 20


@pytest.mark.parametrize(
    "prompt",
    [
        "<task-notification>" * 100_000,
        "<task-notification>" + "<task-id>a</task-id>" * 100_000,
        "<task-notification>" + "<task-id>a</task-id><status>" * 80_000,
        "<task-notification><task-id>" + "a" * 2_000_000,
    ],
    ids=["beginnings", "ids", "states", "one id"],
)
def test_a_prompt_is_searched_in_linear_time(prompt: str) -> None:
    """Its beginning, that is: a prompt holds anything."""
    assert claude_code.stopped_subagent(prompt) == ""


def test_the_end_of_a_subagent_is_found_at_the_beginning_of_a_prompt() -> None:
    """With other fields between, and whatever comes behind it."""
    said = "<task-notification>\n<task-id>a1b2</task-id>\n<output-file>/x</output-file>\n<status>killed</status>\n"
    assert claude_code.stopped_subagent(said + "x" * 1_000_000) == "a1b2"
    assert claude_code.stopped_subagent(said.replace("killed", "completed")) == ""
    assert claude_code.stopped_subagent(f"look: {said}") == ""


def test_one_line_reads_no_more_than_it_shows() -> None:
    """Of a name of two million characters it takes the first; blanks between words still do not count."""
    assert quoting.one_line("\x01" * 2_000_000, 64) == ("\\x01" * 16)[:63] + "…"
    assert quoting.one_line("a  \n  b", 64) == "a b"
    assert quoting.one_line("a" + " " * 1_000_000 + "b", 64) == "a…"


def test_a_message_of_line_breaks_is_printed_in_linear_time() -> None:
    """Lines that could pass for another message's are marked, wherever they stand."""
    assert printing.recv_block("ann", 0.0, "\n" * 60_000).count("\n") == 60_003
    assert printing.recv_block("ann", 0.0, "\n \n---\n  ---  \n x").splitlines()[2:6] == [
        " ",
        "\\---",
        "  \\---  ",
        " x",
    ]


# -- memory --------------------------------------------------------------------------------------


def grant(token: int) -> Grant:
    return Grant(f"owner{token}", token=token)


def test_bodies_are_held_up_to_a_limit() -> None:
    """Of all together, and of each token; what is over leaves its room."""
    held = Bodies()
    size = 2 * 1024 * 1024
    each = bodies.MAX_OF_TOKEN // size
    with pytest.raises(RateLimited, match="of 'owner1' in flight"):
        fill(held, grant(1), size, each + 1)
    fill(held, grant(1), size, each)
    with pytest.raises(RateLimited, match="of all requests in flight"):
        fill(held, UNRESTRICTED, size, bodies.MAX_HELD // size + 1)


def fill(held: Bodies, whose: Grant, size: int, count: int) -> None:
    """So many bodies of this size at once."""
    if count:
        with held.body(whose) as body:
            for so_far in range(65_536, size + 65_536, 65_536):
                body.grow(so_far + bodies.FREE)
            fill(held, whose, size, count - 1)


def test_ordinary_messages_get_through_while_others_send_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body as short as most messages does not count."""
    monkeypatch.setattr(bodies, "MAX_HELD", 100_000)
    held = Bodies()
    with held.body(UNRESTRICTED) as large:
        large.grow(100_000 + bodies.FREE)
        with held.body(UNRESTRICTED) as small:
            small.grow(bodies.FREE)
            with pytest.raises(RateLimited):
                small.grow(bodies.FREE + 1)


async def test_a_body_for_which_there_is_no_room_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 429 and the time to come back; the next one that fits is taken."""
    monkeypatch.setattr(bodies, "MAX_HELD", 50_000)
    answer = await house.caller.post("/send", json={"from": "a", "to": "b", "msg": "x" * 100_000})
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    for _ in range(3):
        assert (await house.caller.post("/send", json={"from": "a", "to": "b", "msg": "x" * 60_000})).status_code == 200


@pytest.mark.parametrize("code", [code for code, kind in kinds().items() if kind.http_status in (429, 503)])
def test_who_is_to_come_again_is_told_when(code: str) -> None:
    """Also where the error itself does not say."""
    assert responses.refusal(from_dict({"error": code, "message": "x"})).headers["Retry-After"] == "1"
    assert responses.refusal(from_dict({"error": code, "message": "x", "retry_after": 7})).headers["Retry-After"] == "7"


async def test_a_refused_body_is_not_kept_with_its_connection(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request's state has the error for as long as the connection is open: not what led to it, the body with it."""
    monkeypatch.setattr(bodies, "MAX_HELD", 50_000)
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/send",
        "http_version": "1.1",
        "scheme": "http",
        "headers": [(b"host", b"127.0.0.1")],
        "state": {},
    }
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 100_000, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    await house.app(scope, receive, send)

    assert sent[0]["status"] == 429
    error = scope["state"][responses.REFUSED]
    assert (error.code, error.__traceback__, error.__context__) == ("rate_limited", None, None)


# -- names, and what is kept for them ------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test can reach."""
    monkeypatch.setattr(addresses, "MAX_NAMES", 4)
    monkeypatch.setattr(addresses, "MAX_NAMES_OF_TOKEN", 2)
    monkeypatch.setattr(limits, "MAX_RETAINED", 3)


@pytest.mark.usefixtures("few")
async def test_a_channel_has_so_many_names_of_programs(house: House) -> None:
    """Through whichever route they come: each of them is kept every broadcast. Those that are there go on."""
    ask = house.caller
    routes: list[Callable[[str], Awaitable[httpx2.Response]]] = [
        lambda name: ask.get("/recv", params={"to": name, "channel": "default"}),
        lambda name: ask.get("/messages", params={"unread_by": name}),
        lambda name: ask.post("/send", json={"from": name, "to": "x", "msg": "x"}),
        lambda name: ask.post("/post", json={"from": name, "body": "x"}),
    ]
    more: list[Callable[[str], Awaitable[httpx2.Response]]] = [
        lambda name: ask.put(f"/v1/agents/{name}"),
        lambda name: ask.get(f"/v1/agents/{name}/inbox"),
        lambda name: ask.post("/v1/messages", json={"from": name, "to": "x", "content": "x"}),
    ]
    for number, route in enumerate(routes):
        assert (await route(f"p{number}")).status_code == 200
    for number, route in enumerate([*routes, *more]):
        assert (await route("p0")).status_code in (200, 201)
        refused = await route(f"q{number}")
        assert refused.status_code == 413
        assert "without a session" in refused.text
    assert (await ask.get("/recv", params={"to": "q", "channel": "another"})).status_code == 200
    assert (await ask.delete("/v1/agents/p1")).status_code == 204
    assert (await ask.put("/v1/agents/q")).status_code == 200


async def test_a_channel_keeps_so_many_names_that_left(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joining and leaving makes no room for any number of names. Those that left can come back."""
    monkeypatch.setattr(addresses, "MAX_LEFT", 3)
    for number in range(3):
        assert (await house.caller.put(f"/v1/agents/p{number}")).status_code == 200
        assert (await house.caller.delete(f"/v1/agents/p{number}")).status_code == 204
    refused = await house.caller.put("/v1/agents/p3")
    assert refused.status_code == 413
    assert "3 names that left" in refused.json()["message"]
    assert (await house.caller.put("/v1/agents/p1")).status_code == 200
    assert (await house.caller.put("/v1/agents/p3")).status_code == 200


def test_a_token_has_so_many_names_that_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one for some cannot take the room of all."""
    monkeypatch.setattr(addresses, "MAX_LEFT_OF_TOKEN", 2)
    of_ann = Grant("ann", ("ann", "ann-*"), token=1)
    for name in ("ann", "ann-2"):
        store.by(grant=of_ann)(
            agents.join_without_session,
            Address(name, "default"),
            "http",
        )
        store(agents.leave_without_session, Address(name, "default"))
    with pytest.raises(TooLarge, match="the token of 'ann' has 2 names that left"):
        store.by(grant=of_ann)(
            agents.join_without_session,
            Address("ann-3", "default"),
            "http",
        )
    store.by(grant=Grant("bob", ("bob",), token=2))(
        agents.join_without_session,
        BOB,
        "http",
    )


def test_mail_waits_for_so_many_names_that_nobody_had(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message more for a new name is refused and leaves nothing; known names and other channels get theirs."""
    monkeypatch.setattr(addresses, "MAX_EXPECTED", 3)
    alice, _ = store.join("alice"), store.join("bob")
    store.send(alice, ("n1", "n2"))
    for to in (("n3", "n4"), ("bob", "n3", "n4")):
        with pytest.raises(TooLarge, match="nothing was sent"):
            store.send(alice, to)
    assert "n3" not in {row["name"] for row in store.connection.execute("SELECT name FROM agents")}
    store.send(alice, "n3")
    for known in ("n3", "bob", "n4@other"):
        store.send(alice, known)


async def test_counts_of_unread_mail_are_for_so_many_names(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """`/inbox` says how many names it leaves out."""
    for name in ("n1", "n2", "n3"):
        await house.caller.post("/send", json={"from": "ci", "to": name, "msg": "x"})
    assert "more" not in (await house.caller.get("/inbox")).json()
    monkeypatch.setattr(addresses, "MAX_INBOXES", 2)
    found = (await house.caller.get("/inbox")).json()
    assert (found["recipients"], found["more"]) == ({"default": {"n1": 1, "n2": 1}}, 1)


@pytest.mark.usefixtures("few")
def test_a_token_has_so_many_names(store: Store) -> None:
    """Those it is for, so that one for some cannot take the room of all."""
    of_ann = Grant("ann", ("ann", "ann-*"), token=1)
    for name in ("ann", "ann-2"):
        store.by(grant=of_ann)(agents.join_without_session, Address(name, "default"), "http")
    with pytest.raises(TooLarge, match="the token of 'ann' has 2 names"):
        store.by(grant=of_ann)(agents.join_without_session, Address("ann-3", "default"), "http")
    store.by(grant=Grant("bob", ("bob",), token=2))(agents.join_without_session, BOB, "http")


@pytest.mark.usefixtures("few")
def test_sessions_of_this_machine_join_whatever_programs_do(store: Store) -> None:
    """A session elsewhere cannot take a new name each time it comes; one that has it goes on."""
    for number in range(addresses.MAX_NAMES):
        store(agents.join_without_session, Address(f"p{number}", "default"), "http")
    store.join("alice")
    far = Client("@ann@key", store.process(), Folder(), "conversation")
    store(bindings.attach, far, None, "default")
    with pytest.raises(TooLarge):
        store(agents.register, far.key, Address("far", "default"), "", None)


@pytest.mark.usefixtures("few")
def test_a_late_joiner_gets_the_newest_broadcasts(store: Store) -> None:
    """Older ones are in the history, for everybody."""
    alice = store.join("alice")
    for number in range(5):
        store.send(alice, "all", str(number))
    late = store.join("late")
    assert [m.content for m in store.hand_over(late).messages] == ["2", "3", "4"]
    assert [m.content for m in store(messages.history, late)] == list("01234")


def test_a_token_for_some_names_is_searched_for_without_listing_them(store: Store) -> None:
    """However many names there are that somebody once wrote to."""
    alice = store.join("alice")
    store.send(alice, "ann-1", "for her")
    store.send(alice, "bob", "for him")
    names = [("default", f"ann-{number}", 0) for number in range(2, 50_000)]
    store.connection.execute("BEGIN")
    store.connection.executemany("INSERT INTO agents (channel, name, registered) VALUES (?, ?, ?)", names)
    store.connection.execute("COMMIT")
    store.send(alice, "all", "for all")
    search = Search("default", to="ann-1")
    found = store.by(grant=Grant("ann", ("ann", "ann-*"), token=1))(feeds.posts, search)
    assert [m.content for m in found] == ["for her", "for all"]


def test_the_status_of_a_message_counts_those_it_does_not_show(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first by name, and of the others how many are how far."""
    monkeypatch.setattr(limits, "MAX_AT_ONCE", 3)
    alice = store.join("alice")
    names = [f"p{number}" for number in range(6)]
    for name in names:
        store(agents.join_without_session, Address(name, "default"), "http")
    sent = store.send(alice, "all")
    store.hand_over(Address("p5", "default"), limit=1, by=store.process())

    found = store(messages.status, alice, sent.id)

    assert [receipt.recipient for receipt in found.receipts] == names[:3]
    assert dict(found.more) == {"queued": 2, "handed": 1}
    assert documents.status(found)["more"] == {"queued": 2, "handed": 1}
    assert "more" not in documents.status(store(messages.status, alice, store.send(alice, "p1").id))


def test_replies_in_a_status_are_as_many_as_one_answer_carries(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest; the rest is in the thread."""
    monkeypatch.setattr(limits, "MAX_ANSWER", 2_500)
    alice, bob = store.join("alice"), store.join("bob")
    sent = store.send(alice, "bob")
    for number in range(5):
        store.send(bob, "alice", str(number) * 1_000, reply_to=sent.id)
    assert [reply.content[0] for reply in store(messages.status, alice, sent.id).replies] == ["3", "4"]


async def test_lists_for_programs_say_how_much_they_leave_out(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents, claims, and keys of the state: as many as one answer carries."""
    for name in ("p1", "p2", "p3"):
        await house.caller.put(f"/v1/agents/{name}")
        await house.caller.put(f"/v1/state/{name}", json={"as": name, "value": 1})
        await house.caller.post("/v1/claims", json={"as": name, "paths": [name]})
    assert "more" not in (await house.caller.get("/v1/agents")).json()
    monkeypatch.setattr(limits, "MAX_AT_ONCE", 2)
    for what in ("agents", "claims", "state"):
        found = (await house.caller.get(f"/v1/{what}")).json()
        assert (len(found[what]), found["more"]) == (2, 1)


# -- who listens ---------------------------------------------------------------------------------------


def session(key: str) -> Client:
    return Client(key, LAPTOP, Folder("/x", "/x"), f"conversation of {key}")


async def test_nobody_elsewhere_hears_of_all_mail(closed_house: House) -> None:
    """Without a client one would learn when anybody gets mail, on channels that the token is not for."""
    alice = await closed_house.of("alice")
    for call in (alice.run(sessions.listen, "ear", ""), alice.run(sessions.beat, ""), alice.run(bindings.bound, "")):
        with pytest.raises(InvalidInput, match="client is empty"):
            await call


async def test_a_program_elsewhere_hears_of_its_own_mail(closed_house: House) -> None:
    """As `inbox --wait` does; of names and channels of its token only."""
    alice = await closed_house.of("alice")
    await alice.run(listeners.listen_for, "ear", ALICE)
    assert await told(closed_house, Draft(("alice",), "x")) == ("@alice@ear",)
    assert await told(closed_house, Draft(("somebody",), "x")) == ()
    for other in (BOB, Address("alice", "elsewhere")):
        with pytest.raises(Exception, match="is not for the"):
            await alice.run(listeners.listen_for, "ear", other)


async def told(house: House, draft: Draft) -> tuple[str, ...]:
    """Send a message; returns the addresses that are told of it."""

    def send(tx: Transaction) -> tuple[str, ...]:
        messages.send(tx, BOB, draft)
        return tuple(tx.notified)

    return await house.bus._db.run(send)


async def test_an_owner_listens_at_so_many_addresses(closed_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """For sessions, for names and for keys; calls that are announced are limited, too."""
    for verb in REMOTE.values():
        if verb.rows:
            monkeypatch.setattr(verb, "rows", replace(verb.rows, most=2))
    alice, bob = await closed_house.of("alice"), await closed_house.of("bob")
    client = session("s").key
    await alice.run(bindings.attach, session("s"), None, "default")
    for number in range(2):
        await alice.run(sessions.listen, f"ear{number}", client)
        await alice.run(state.watch, f"ear{number}", "default", "key")
        await alice.run(calls.announce, client, f"call{number}", "agent")
    for call in (
        alice.run(sessions.listen, "ear2", client),
        alice.run(listeners.listen_for, "ear2", ALICE),
        alice.run(state.watch, "ear2", "default", "key"),
        alice.run(calls.announce, client, "call2", "agent"),
    ):
        with pytest.raises(RateLimited, match="which is the limit"):
            await call
    await bob.run(listeners.listen_for, "ear2", BOB)
    await alice.run(listeners.unlisten, "ear0")
    await alice.run(listeners.listen_for, "ear2", ALICE)


def test_a_listener_for_a_name_is_told_whoever_bears_it(store: Store) -> None:
    """A program, a session, nobody; and of mail for others it is not told."""
    by = this_process()
    store.by(by)(listeners.listen_for, "ear", BOB)
    alice = store.join("alice")
    store(messages.send, alice, Draft(("bob",), "x"))
    assert store.told == ["ear"]
    store.join("bob")
    store(messages.send, alice, Draft(("bob",), "x"))
    assert store.told == ["ear"]
    store(messages.send, alice, Draft(("carol",), "x"))
    assert store.told == []


# -- depth elsewhere -----------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    found: list[Any] = []
    for _ in range(depth - 1):
        found = [found]
    return found


class Supervised(Wire):
    """The program that a client starts: a supervisor with its server."""

    program = ("-m", "claude_bus")


@pytest.mark.parametrize("depth", [100, 2_000, 100_000])
def test_a_deep_line_is_answered_and_the_session_goes_on(tmp_path: Path, depth: int) -> None:
    """With the id of its request: its client would wait for ever."""
    wire = Supervised(tmp_path / "bus.db")
    try:
        wire.start()
        wire.write(b'{"params": {"name": "send", "arguments": %b}, "id": 77}' % (b"[" * depth + b"]" * depth))
        answer = wire.read()
        assert (answer["id"], answer["error"]["code"]) == (77, -32600)
        assert "nested deeper than 64 levels" in answer["error"]["message"]
        wire.write(b"{" * depth)
        assert wire.read()["id"] is None
        assert "result" in wire.ask("tools/call", name="whoami", arguments={})
    finally:
        wire.process.kill()
        wire.process.wait()
        for pipe in (wire.process.stdin, wire.process.stdout, wire.process.stderr):
            assert pipe
            pipe.close()


async def test_a_state_entry_has_so_many_levels(party: Party) -> None:
    """As deep as it may be it can be written and read through every route; deeper ones are refused."""
    alice = await party.join("alice")
    deepest = json.dumps(nested(jsons.MAX_VALUE_DEPTH))
    await alice.set_state("key", deepest, json=True)
    [entry] = await alice.get_state("key")
    assert json.dumps(documents.entry(entry)["value"]) == deepest
    for depth in (jsons.MAX_VALUE_DEPTH + 1, 300, 940):
        with pytest.raises(InvalidInput, match="value is nested deeper than 50 levels"):
            await alice.set_state("key", json.dumps(nested(depth)), json=True)
    with pytest.raises(TooLarge, match="value has more than"):
        await alice.set_state("key", json.dumps([1] * 30_000), json=True)
    await alice.set_state("key", json.dumps([1] * 30_000))


@pytest.mark.parametrize("depth", [300, 500, 940, 5_000])
def test_what_is_stored_too_deeply_is_text(depth: int) -> None:
    """An older claude-bus, or another program, may have put it there."""
    value = "[" * depth + "]" * depth
    assert documents.entry(StateEntry("key", value, 1, "ann", 0.0, json=True))["value"] == value
    assert columns.load_list(value) == ()


async def test_waiting_for_mail_works_as_before(closed_house: House) -> None:
    """The ear of a program elsewhere is rung for its name."""
    alice = await closed_house.of("alice")
    with anyio.fail_after(30):
        await alice.run(listeners.listen_for, "ear", ALICE)
        await alice.run(listeners.unlisten, "ear")
    assert await told(closed_house, Draft(("alice",), "x")) == ()
