"""The wire of agent-bus: what its clients rely on holds on our server."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from claude_bus.compat.http import recv_send
from claude_bus.compat.sql import feeds
from claude_bus.model.tokens import Grant
from tests.support.compat_clients import Caller, caller, states
from tests.support.likely_secrets import SECRETS
from tests.support.processes import PATIENCE, actor, eventually, wire
from tests.support.served_bus import served
from tests.support.store import Store
from tests.support.tokens import token

pytestmark = pytest.mark.slow

EVERYTHING = Grant()


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A served bus for those tests that use names of their own."""
    with caller(tmp_path_factory.mktemp("bus") / "bus.db") as one:
        yield one


def texts(answer: Any) -> list[str]:
    return [message["msg"] for message in answer["messages"]]


def in_background(act: Callable[[], Any]) -> Future[Any]:
    """Start it in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


# -- the answers -----------------------------------------------------------------


def test_what_is_sent_is_received(bus: Caller) -> None:
    """`/send` answers ok, time and channel; `/recv` has that time, the sender, the text, and the channel."""
    sent = bus.send("alice", "b1", "hello ☃\nsecond line")

    answer = bus.recv("b1")

    assert sent["ok"] is True
    assert sent["channel"] == "default"
    [message] = answer["messages"]
    assert (message["ts"], message["from"], message["msg"]) == (sent["ts"], "alice", "hello ☃\nsecond line")
    assert message["channel"] == "default"
    assert isinstance(answer["now"], float)


@pytest.mark.parametrize(
    "body",
    [
        {"from": "alice"},
        {"from": "alice", "to": "bob"},
        {"to": "bob", "msg": "x"},
        {"from": "", "to": "bob", "msg": "x"},
        {"from": "alice", "to": None, "msg": "x"},
        {"from": "alice", "to": "bob", "msg": 5},
        {"from": "alice", "to": "bob", "msg": ["x"]},
        {"from": 7, "to": "bob", "msg": "x"},
        {"from": "alice", "to": ["bob"], "msg": "x"},
    ],
)
def test_sender_recipient_and_text_are_required(bus: Caller, body: object) -> None:
    """Without one of them, or where it is no text, nothing is sent: 400, in the words of the original."""
    reply = bus.post("/send", body)

    assert reply.status == 400
    assert reply.data["error"] == "from, to, msg required"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 50_000, b"9" * 5_000, b"from=a&to=b&msg=c"])
def test_what_is_no_json_object_is_refused(bus: Caller, raw: bytes) -> None:
    """400, whatever it is instead."""
    assert bus.post("/send", raw=raw).status == 400
    assert bus.post("/send", raw=raw, kind="application/x-www-form-urlencoded").status == 400


def test_a_json_object_is_taken_under_any_content_type(bus: Caller) -> None:
    """`curl -d` calls everything a form."""
    raw = json.dumps({"from": "alice", "to": "b2", "msg": "by curl"}).encode()

    assert bus.post("/send", raw=raw, kind="application/x-www-form-urlencoded").status == 200
    assert texts(bus.recv("b2")) == ["by curl"]


def test_64_kilobytes_and_no_more(bus: Caller) -> None:
    """65,536 bytes of UTF-8 are taken, one more is 413; D6: one limit for all wires."""
    assert bus.post("/send", {"from": "alice", "to": "b3", "msg": "é" * 32_768}).status == 200
    assert bus.post("/send", {"from": "alice", "to": "b3", "msg": "é" * 32_768 + "x"}).status == 413
    assert bus.post("/post", {"from": "alice", "to": "b3", "body": "x" * 65_536}).status == 200
    assert bus.post("/post", {"from": "alice", "to": "b3", "body": "x" * 65_537}).status == 413
    assert [len(text.encode()) for text in texts(bus.recv("b3"))] == [65_536, 65_536]


def test_the_recipient_of_recv_is_required(bus: Caller) -> None:
    """400 without it."""
    assert bus.get("/recv").status == 400
    assert bus.get("/recv", to="").status == 400


HOSTILE_NAMES = [
    "a b",
    "../../x",
    "x\x00y",
    "<b>",
    "a;b",
    "all",
    "any",
    "*",
    "bob@other",
    "-x",
    "e\u0301",
    "x" * 65,
    "\u202e",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_odd_names_are_refused(bus: Caller, name: str) -> None:
    """A name is letters, digits and a few marks: 400 for others, as sender, reader and channel."""
    assert bus.post("/send", {"from": name, "to": "bob", "msg": "x"}).status == 400
    assert bus.post("/send", {"from": "alice", "to": "bob", "msg": "x", "channel": name}).status == 400
    assert bus.get("/recv", to=name).status == 400
    assert bus.get("/recv", to="bob", channel=name).status == 400


def test_names_of_other_scripts_are_names(bus: Caller) -> None:
    """Letters are those of all people."""
    bus.send("алиса", "日本", "x")

    assert bus.recv("日本")["messages"][0]["from"] == "алиса"


@pytest.mark.parametrize("body", [{"from": "\ud800"}, {"msg": "half \ud800"}, {"channel": "\ud800"}, {"channel": 5}])
def test_half_characters_are_refused(bus: Caller, body: dict[str, object]) -> None:
    """Text that is not valid Unicode is 400, and is not on the bus."""
    reply = bus.post("/send", {"from": "alice", "to": "b4", "msg": "x", **body})

    assert reply.status == 400
    assert bus.recv("b4")["messages"] == []


@pytest.mark.parametrize("since", ["nan", "inf", "-inf", "-1", "1e400", "yesterday", "0x10", "1,5", "1_0", "١"])
def test_a_cursor_is_a_time(bus: Caller, since: str) -> None:
    """An invalid cursor is 400; the original broke off the connection."""
    reply = bus.get("/recv", to="bob", since=since)

    assert reply.status == 400
    assert "since" in reply.data["error"]


@pytest.mark.parametrize("most", ["-1", "1.5", "many", "١", "+5", "1e3"])
def test_a_number_of_messages_is_a_number(bus: Caller, most: str) -> None:
    """An invalid number is 400."""
    assert bus.get("/recv", to="bob", max=most).status == 400


@pytest.mark.parametrize("most", ["1001", "9" * 30, "9" * 4_000])
def test_a_huge_number_of_messages_is_taken_as_the_largest(bus: Caller, most: str) -> None:
    """There is a bound, and no error."""
    assert bus.get("/recv", to="bob", max=most).status == 200


def test_parameters_are_given_once(bus: Caller) -> None:
    """Of two values nobody knows which one is meant: 400."""
    assert bus.get("/recv?to=alice&to=bob").status == 400
    assert bus.get("/recv?to=bob&since=0&since=9").status == 400


def test_unknown_paths_are_not_found(bus: Caller) -> None:
    """404, in the words of the original; a known path in the wrong way is 405. With code and message, as all errors."""
    missing, wrong = bus.get("/nothing"), bus.get("/send")
    assert (missing.status, missing.data["error"], missing.data["code"]) == (404, "not found", "not_found")
    assert (bus.post("/nowhere", {}).status, bus.get("/recv/more").status) == (404, 404)
    assert (wrong.status, wrong.data["error"], wrong.data["code"]) == (405, "method not allowed", "method_not_allowed")
    assert "nothing at this path" in missing.data["message"]
    assert "GET is not possible here; use POST" in wrong.data["message"]


def test_the_server_says_that_it_is_there(bus: Caller) -> None:
    """`/healthz` answers ok and its time."""
    data = bus.get("/healthz").data

    assert data["ok"] is True
    assert abs(data["now"] - time.time()) < PATIENCE


def test_secrets_are_refused(bus: Caller) -> None:
    """422, and the text that says so does not repeat it."""
    secret = SECRETS["github classic"]
    reply = bus.post("/send", {"from": "alice", "to": "b5", "msg": f"the key is {secret}"})

    assert reply.status == 422
    assert secret not in json.dumps(reply.data)
    assert bus.recv("b5")["messages"] == []


# -- reading ----------------------------------------------------------------------


def test_reading_marks_nothing(tmp_path: Path) -> None:
    """D3: what `/recv` gave is unread still, comes again for the same cursor, and `/inbox` counts it."""
    db = tmp_path / "bus.db"
    with caller(db) as bus:
        bus.send("alice", "bob", "one")

        assert texts(bus.recv("bob")) == texts(bus.recv("bob")) == ["one"]

        assert states(db) == {(1, "bob"): "queued"}
        assert bus.get("/inbox").data["recipients"] == {"default": {"bob": 1}}


def test_what_was_acknowledged_elsewhere_is_still_received(tmp_path: Path) -> None:
    """D3: a reader with a cursor of its own gets what another door acknowledged; `/inbox` counts it no more."""
    with caller(tmp_path / "bus.db") as bus:
        bus.send("alice", "bob", "one")
        assert bus.post("/ack/1", {"reader": "bob"}).status == 200

        assert texts(bus.recv("bob")) == ["one"]
        assert bus.get("/inbox").data["recipients"] == {}


def test_a_cursor_excludes_what_it_was_taken_from(bus: Caller) -> None:
    """`ts > since`, ascending; with `now` nothing comes again."""
    sent = [bus.send("alice", "b6", str(n))["ts"] for n in range(5)]

    assert sent == sorted(set(sent))
    assert texts(bus.recv("b6", sent[1])) == ["2", "3", "4"]
    assert texts(bus.recv("b6", bus.recv("b6")["now"])) == []


def test_a_full_answer_does_not_move_the_cursor_past_its_last_message(bus: Caller) -> None:
    """150 messages through answers of 100: `now` of the first is the time of its last message."""
    for n in range(150):
        bus.send("alice", "b7", str(n))

    first = bus.recv("b7")
    second = bus.recv("b7", max(first["messages"][-1]["ts"], first["now"]))

    assert first["now"] == first["messages"][-1]["ts"]
    assert (len(first["messages"]), len(second["messages"])) == (100, 50)
    assert texts(first) + texts(second) == [str(n) for n in range(150)]


def test_an_answer_stays_within_its_size(tmp_path: Path) -> None:
    """However many are asked for, an answer ends after a million characters, and the cursor with it."""
    with caller(tmp_path / "bus.db") as bus:
        for n in range(40):
            bus.send("alice", "bob", f"{n} " + "x" * 65_000)

        answer, found = bus.recv("bob", max=1000), list[str]()
        while answer["messages"]:
            assert sum(map(len, texts(answer))) <= 1_000_000
            found += texts(answer)
            answer = bus.recv("bob", answer["now"], max=1000)

        assert [text.split()[0] for text in found] == [str(n) for n in range(40)]


def test_without_channel_all_channels_are_read(bus: Caller) -> None:
    """B4: messages say their channel; with a channel only its own come."""
    bus.send("alice", "b8", "there", channel="servers")
    bus.send("alice", "b8", "here")

    assert [(m["channel"], m["msg"]) for m in bus.recv("b8")["messages"]] == [("servers", "there"), ("default", "here")]
    assert texts(bus.recv("b8", channel="servers")) == ["there"]
    assert texts(bus.recv("b8", channel="default")) == ["here"]


@pytest.mark.parametrize("how", [("--recv-default-channel",), ()])
def test_the_other_reading_is_a_switch(tmp_path: Path, how: tuple[str, ...]) -> None:
    """B4: with the option or the variable, no channel means `default`."""
    env = {} if how else {"BUS_RECV_CHANNEL": "default"}
    with caller(tmp_path / "bus.db", *how, **env) as bus:
        bus.send("alice", "bob", "there", channel="servers")
        bus.send("alice", "bob", "here")

        assert texts(bus.recv("bob")) == ["here"]
        assert texts(bus.recv("bob", channel="servers")) == ["there"]


def test_the_first_reading_makes_a_name_known(tmp_path: Path) -> None:
    """From then on broadcasts reach it, D1: to `all` or `any`; the ones before it, too."""
    with caller(tmp_path / "bus.db") as bus:
        bus.send("alice", "all", "early")
        assert texts(bus.recv("bob")) == ["early"]
        bus.send("alice", "any", "late")

        assert texts(bus.recv("bob")) == ["early", "late"]
        assert bus.recv("bob")["messages"][0]["to"] == "all"


def test_looking_again_writes_nothing(tmp_path: Path) -> None:
    """A poll that finds nothing leaves the database as it is."""
    db = tmp_path / "bus.db"
    with caller(db) as bus, closing(sqlite3.connect(db)) as connection:
        bus.recv("bob")
        eventually(
            lambda: bool(connection.execute("SELECT 1 FROM listeners").fetchone())
        )  # the server has settled down

        def version() -> int:
            found: int = connection.execute("PRAGMA data_version").fetchone()[0]
            return found

        before = version()
        for _ in range(10):
            bus.recv("bob")

        assert version() == before
        bus.send("alice", "bob", "x")
        assert version() != before


def test_what_was_accepted_survives_the_server(tmp_path: Path) -> None:
    """B10: a server that is killed right after its answer has lost nothing, and cursors go on with the next one."""
    db = tmp_path / "bus.db"
    with served(db) as server:
        first = Caller(server.url).send("alice", "bob", "one")
        Caller(server.url).send("alice", "bob", "two")
        server.process.kill()
    with caller(db) as bus:
        assert texts(bus.recv("bob")) == ["one", "two"]
        assert texts(bus.recv("bob", first["ts"])) == ["two"]


def test_a_prefix_goes_before_all_paths(tmp_path: Path) -> None:
    """B21: `https://host/agent-bus/send`, and nothing outside of it."""
    with caller(tmp_path / "bus.db", "--prefix", "/agent-bus") as bus:
        bus.send("alice", "bob", "x")
        assert texts(bus.recv("bob")) == ["x"]

        outside = Caller(bus.url.removesuffix("/agent-bus"))
        for elsewhere in (outside.get("/recv", to="bob"), outside.get("/agent-bus"), bus.get("/"), bus.get("/recv/")):
            assert elsewhere.status == 404
            assert elsewhere.data["error"] == "not found"


# -- waiting ----------------------------------------------------------------------


def test_a_waiting_reader_is_woken(bus: Caller) -> None:
    """`block=true` answers as soon as mail is there."""
    bus.recv("b9")
    waiting = in_background(lambda: bus.recv("b9", block="true"))
    bus.send("alice", "b9", "wake up")

    assert texts(waiting.result(PATIENCE)) == ["wake up"]


def test_mail_for_another_channel_wakes_only_who_reads_it(bus: Caller) -> None:
    """A reader of one channel waits on; one of all channels has it."""
    everything = in_background(lambda: bus.recv("b10", block="true"))
    one = in_background(lambda: bus.recv("b10", block="true", channel="quiet"))
    bus.send("alice", "b10", "loud", channel="loud")

    assert texts(everything.result(PATIENCE)) == ["loud"]
    bus.send("alice", "b10", "at last", channel="quiet")
    assert texts(one.result(PATIENCE)) == ["at last"]


def test_each_of_many_waiting_readers_is_woken(tmp_path: Path) -> None:
    """Forty readers wait while processes send, over HTTP and into the file: each gets its message."""
    db = tmp_path / "bus.db"
    with caller(db) as bus, ThreadPoolExecutor(48) as pool:
        names = [f"reader-{n}" for n in range(40)]
        for name in names:
            bus.recv(name)
        waiting = {name: pool.submit(bus.recv, name, 0, block="true") for name in names}
        local = [actor("send", db, f"local-{name}", name, 1) for name in names[:4]]
        for one in local:
            one.ready()
            one.go()
        sending = [pool.submit(bus.send, "http", name, f"http {name}") for name in names[4:]]

        for name in names[:4]:
            assert texts(waiting[name].result(PATIENCE)) == [f"local-{name} 0"]
        for name in names[4:]:
            assert texts(waiting[name].result(PATIENCE)) == [f"http {name}"]
        assert all(future.result(PATIENCE)["ok"] for future in sending)
        for one in local:
            one.rest()


def test_the_hold_is_shorter_than_a_client_waits() -> None:
    """B3: clients give up after 35 s; the documents promise 30 to 35."""
    assert 30 <= recv_send.HOLD <= 33


# -- the cursor --------------------------------------------------------------------

SENDER = """
import json, sys, urllib.request
url, name, to, count = sys.argv[1:]
for n in range(int(count)):
    body = json.dumps({"from": name, "to": to, "msg": f"{name} {n}"}).encode()
    urllib.request.urlopen(urllib.request.Request(url + "/send", data=body), timeout=60).read()
"""


def follow(bus: Caller, name: str, count: int, sent: threading.Event) -> list[str]:
    """Return the messages of a client that keeps its cursor as the protocol says, until it has so many."""
    since, got = 0.0, list[str]()
    while len(got) < count:
        all_sent = sent.is_set()
        answer = bus.recv(name, since, block="true", channel="default")
        if all_sent and not answer["messages"]:
            break  # nothing came for as long as a poll is held: what is missing now is lost
        got += texts(answer)
        since = max([since, answer["now"], *(m["ts"] for m in answer["messages"])])
    return got


def test_ten_thousand_messages_and_none_is_missing(tmp_path: Path) -> None:
    """B5, D2: four processes send while a client with the documented cursor reads: each message once, in order.

    Meanwhile another client waits for mail that never comes: it is answered before it gives up.
    """
    db, sent = tmp_path / "bus.db", threading.Event()
    with caller(db, program="tests.support.gated_server", GATE_HOLD="8") as bus:
        idle = in_background(lambda: bus.recv("nobody-writes-me", block="true"))
        local = [actor("send", db, f"local-{n}", "reader", 4_000) for n in range(2)]
        reader = in_background(lambda: follow(bus, "reader", 10_000, sent))
        for one in local:
            one.ready()
            one.go()
        remote = [
            subprocess.Popen([sys.executable, "-c", SENDER, bus.url, f"http-{n}", "reader", "1000"]) for n in range(2)
        ]
        for one in local:
            one.rest()
        assert [process.wait(PATIENCE) for process in remote] == [0, 0]
        sent.set()

        got = reader.result(PATIENCE)

        assert len(got) == 10_000
        for sender, count in (("local-0", 4_000), ("local-1", 4_000), ("http-0", 1_000), ("http-1", 1_000)):
            assert [text for text in got if text.startswith(f"{sender} ")] == [f"{sender} {n}" for n in range(count)]
        assert idle.result(PATIENCE)["messages"] == []


def test_a_client_whose_clock_is_ahead_loses_nothing(tmp_path: Path) -> None:
    """Its cursor begins in the future: it gets what comes while it waits and what comes between its polls, once each.

    It does not get messages from before it began, as with a clock that is right.
    """
    with caller(tmp_path / "bus.db") as bus:
        bus.send("alice", "bob", "before")
        since = time.time() + 1_000

        def poll() -> list[str]:
            nonlocal since
            answer = bus.recv("bob", since, block="true")
            since = max([since, answer["now"], *(m["ts"] for m in answer["messages"])])
            return texts(answer)

        assert bus.recv("bob", since)["messages"] == []
        waiting = in_background(poll)
        bus.send("alice", "bob", "0")
        assert waiting.result(PATIENCE) == ["0"]
        for n in range(1, 4):
            bus.send("alice", "bob", str(n))
        assert poll() == ["1", "2", "3"]


def test_an_answer_that_nobody_took_comes_again(tmp_path: Path) -> None:
    """A client that hangs up while waiting gets the missed mail with the same cursor, even if its clock is ahead."""
    with caller(tmp_path / "bus.db") as bus:
        address = urllib.parse.urlsplit(bus.url)
        for cursor in (0.0, time.time() + 1_000):
            now = bus.recv("bob", cursor)["now"]
            witness = in_background(partial(bus.recv, "bob", now, block="true"))
            with socket.create_connection((address.hostname or "", address.port or 0)) as broken:
                broken.sendall(f"GET /recv?to=bob&since={cursor}&block=true HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                bus.recv("alice")  # on another connection, so the server has that request already
            bus.send("alice", "bob", f"after {cursor}")
            assert texts(witness.result(PATIENCE)) == [f"after {cursor}"]  # what was waiting was woken
            bus.recv("alice")

            assert f"after {cursor}" in texts(bus.recv("bob", cursor, block="true"))


def test_readers_with_different_names_do_not_disturb_one_another(bus: Caller) -> None:
    """Two cursors beyond everything, the same number, and two names: each gets its own."""
    for name in ("b11", "b12"):
        assert bus.recv(name, 9e9)["messages"] == []
    bus.send("alice", "b11", "for 11")
    bus.send("alice", "b12", "for 12")

    assert texts(bus.recv("b11", 9e9)) == ["for 11"]
    assert texts(bus.recv("b12", 9e9)) == ["for 12"]


def test_a_server_remembers_only_so_many_that_are_ahead() -> None:
    """A client that invents cursors cannot fill its memory: the oldest is forgotten, and goes on from what it gave."""
    ahead = recv_send.Ahead(most=2)
    readings = [recv_send.Reading("bob", None, 9e9 + n, 0) for n in range(3)]
    for reading in readings:
        ahead.note(reading, 5.0)

    assert [ahead.position(reading) for reading in readings] == [readings[0].since, 5.0, 5.0]
    ahead.note(readings[1], 1e10)
    assert ahead.position(readings[1]) == readings[1].since


def received(store: Store, since: float, limit: int = 100) -> tuple[list[str], float]:
    feed = store.by(grant=EVERYTHING)(feeds.received, "bob", "default", since, limit)
    return [r.message.content for r in feed.received], feed.now


def test_the_cursor_is_no_clock(store: Store) -> None:
    """A clock that jumps back, and stands still, loses nothing: `now` is the time of the newest message."""
    alice = store.join("alice")
    store.send(alice, "bob", "first")
    _, now = received(store, 0)
    store.now -= 3_600
    store.send(alice, "bob", "an hour before")
    store.send(alice, "bob", "at the same time")

    assert received(store, now)[0] == ["an hour before", "at the same time"]


def test_an_empty_bus_gives_a_cursor_before_everything(store: Store) -> None:
    """Whatever comes first is later."""
    _, now = received(store, 0)
    store.send(store.join("alice"), "bob", "first")

    assert received(store, now)[0] == ["first"]


def test_mail_of_others_moves_the_cursor(store: Store) -> None:
    """`now` is that of the newest message whoever it is for: a reader does not look at the same again and again."""
    alice = store.join("alice")
    store.send(alice, "bob", "for bob")
    store.send(alice, "carol", "for carol")
    newest = store.rows("SELECT MAX(ts) FROM messages")[0][0]

    assert received(store, 0) == (["for bob"], newest)


def test_what_has_run_out_is_not_received(store: Store) -> None:
    """Mail whose ttl ended before anybody had it; what was read before stays."""
    alice, bob = store.join("alice"), store.join("bob")
    store.send(alice, "bob", "read in time", ttl=10)
    store.read(bob)
    store.send(alice, "bob", "too late", ttl=10)
    store.send(alice, "bob", "lasting")
    store.now += 60

    assert received(store, 0)[0] == ["read in time", "lasting"]


def test_a_reader_is_seen_once_a_minute(store: Store) -> None:
    """A polling reader is noted as present now and then, so that a sender is told the truth about it."""
    received(store, 0)
    store.now += 30
    received(store, 0)
    early = store.rows("SELECT last_seen FROM agents WHERE name = 'bob'")[0][0]
    store.now += 45
    received(store, 0)

    assert early == store.now - 75
    assert store.rows("SELECT last_seen FROM agents WHERE name = 'bob'") == [(store.now,)]


# -- who may ----------------------------------------------------------------------


def test_nobody_sends_as_a_live_session(tmp_path: Path) -> None:
    """409 for a name that a session bears; looking at its mail is allowed and changes nothing of it."""
    db = tmp_path / "bus.db"
    with caller(db) as bus, wire(db, BUS_NAME="backend") as session:
        session.call("register", name="backend")
        assert bus.post("/send", {"from": "backend", "to": "bob", "msg": "x"}).status == 409
        bus.send("alice", "backend", "for the session")

        assert texts(bus.recv("backend")) == ["for the session"]
        assert session.call("inbox").data["messages"][0]["content"] == "for the session"


def test_a_token_reads_and_sends_only_for_its_names(tmp_path: Path) -> None:
    """403 for the name or channel of another; a reading of all channels has those it is for; 401 without a token."""
    db = tmp_path / "bus.db"
    limited, full = token(db, "ci-*", channels=("team-*",))[1], token(db)[1]
    with caller(db) as nobody:
        ci, root = Caller(nobody.url, limited), Caller(nobody.url, full)
        root.send("boss", "ci-1", "secretly", channel="board")
        root.send("boss", "ci-1", "openly", channel="team-a")
        root.send("boss", "dev", "for dev", channel="team-a")

        assert nobody.get("/recv", to="ci-1").status == 401
        assert nobody.get("/inbox").status == 401
        assert nobody.get("/healthz").status == 200
        assert ci.post("/send", {"from": "boss", "to": "dev", "msg": "x", "channel": "team-a"}).status == 403
        assert ci.post("/send", {"from": "ci-1", "to": "dev", "msg": "x"}).status == 403
        assert ci.post("/send", {"from": "ci-1", "to": "dev@board", "msg": "x", "channel": "team-a"}).status == 403
        assert ci.post("/send", {"from": "ci-1", "to": "dev", "msg": "x", "channel": "team-a"}).status == 200
        assert ci.get("/recv", to="dev").status == 403
        assert ci.get("/recv", to="dev", channel="team-a").status == 403
        assert ci.get("/recv", to="ci-1", channel="board").status == 403
        assert texts(ci.recv("ci-1")) == ["openly"]
        assert ci.get("/inbox").data["recipients"] == {"team-a": {"ci-1": 1}}
        assert root.get("/inbox").data["recipients"] == {"board": {"ci-1": 1}, "team-a": {"ci-1": 1, "dev": 2}}


# -- the clients of the original, in our words -----------------------------------------

LISTENER = """
import json, os, sys, time, urllib.request
name = sys.argv[1]
since = time.time()
while True:
    query = f"to={name}&since={since}&block=true&channel={os.environ.get('AGENT_BUS_CHANNEL', 'default')}"
    url = os.environ["AGENT_BUS_URL"] + "/recv?" + query
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0"})
    with urllib.request.urlopen(request, timeout=35) as answer:
        data = json.loads(answer.read())
    for message in data["messages"]:
        print(f"[{time.strftime('%H:%M:%S', time.gmtime(message['ts']))}Z] from {message['from']}:")
        print(message["msg"])
        print("---", flush=True)
        since = max(since, message["ts"])
    since = max(since, data["now"])
"""


def test_a_listener_prints_a_block_for_each_message(tmp_path: Path) -> None:
    """The listener's loop, started before anybody sends: each message once, in order, none from another channel."""
    db = tmp_path / "bus.db"
    with caller(db) as bus:
        env = {**os.environ, "AGENT_BUS_URL": bus.url, "AGENT_BUS_CHANNEL": "servers"}
        listener = subprocess.Popen(
            [sys.executable, "-u", "-c", LISTENER, "bob"], env=env, stdout=subprocess.PIPE, text=True
        )
        try:
            eventually(lambda: "bob" in _names(db))
            bus.send("alice", "bob", "elsewhere")
            for n in range(3):
                bus.send("alice", "bob", f"hello {n}", channel="servers")
            assert listener.stdout
            lines = [listener.stdout.readline().rstrip("\n") for _ in range(9)]
        finally:
            listener.send_signal(signal.SIGKILL)
            listener.communicate()

        assert lines[1::3] == ["hello 0", "hello 1", "hello 2"]
        assert set(lines[2::3]) == {"---"}
        assert all(line.endswith("Z] from alice:") for line in lines[::3])


def _names(db: Path) -> set[str]:
    with closing(sqlite3.connect(db)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM agents")}


def test_curl_sends_and_receives(bus: Caller) -> None:
    """One line each in a shell."""
    body = '{"channel":"default","from":"spark","to":"dell","msg":"done"}'
    sent = _shell(f"curl -sS -X POST -H 'Content-Type: application/json' -d '{body}' {bus.url}/send")
    got = _shell(f"curl -sS -A Mozilla/5.0 --max-time 15 '{bus.url}/recv?to=dell&channel=default&max=50'")

    assert json.loads(sent)["ok"] is True
    assert texts(json.loads(got)) == ["done"]


def _shell(line: str) -> str:
    return subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True, timeout=PATIENCE).stdout
