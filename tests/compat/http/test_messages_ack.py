"""The wire of WholeTech's claude-bus: what its recipes rely on holds on our server."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_bus import limits
from claude_bus.compat.sql import feeds
from claude_bus.model.identity import Address
from claude_bus.model.messages import Search
from claude_bus.model.tokens import Grant
from tests.support.compat_clients import Caller, caller, states
from tests.support.effort import looks
from tests.support.foreign_input import anything, arguments, clean_texts, numbers, texts
from tests.support.likely_secrets import SECRETS
from tests.support.processes import PATIENCE, environment, wire
from tests.support.store import Store
from tests.support.tokens import token

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A served bus for those tests that use names and channels of their own."""
    with caller(tmp_path_factory.mktemp("bus") / "bus.db") as one:
        yield one


def bodies(found: list[Any]) -> list[str]:
    return [message["body"] for message in found]


def unread(bus: Caller, name: str, **more: object) -> list[str]:
    return bodies(bus.messages(unread_by=name, **more))


# -- posting ----------------------------------------------------------------------


def test_what_is_posted_comes_back_as_it_was_stored(bus: Caller) -> None:
    """`/post` answers the message with its id and an ISO time; `/messages` has the very same."""
    posted = bus.say("mac", "hello ☃", to="win", tags=["ping", "t 2"], channel="c1")

    assert set(posted) == {"id", "ts", "from", "to", "body", "tags"}
    assert (posted["from"], posted["to"], posted["body"], posted["tags"]) == ("mac", "win", "hello ☃", ["ping", "t 2"])
    assert isinstance(posted["id"], int)
    assert datetime.fromisoformat(posted["ts"]).tzinfo == UTC
    assert bus.messages(channel="c1") == [posted]


@pytest.mark.parametrize("to", [{}, {"to": "any"}, {"to": "all"}, {"to": None}])
def test_no_recipient_any_and_all_are_one_broadcast(bus: Caller, to: dict[str, object]) -> None:
    """D1: it is shown as `any` here, reaches who is known and who comes later."""
    channel = f"broadcast-{len(to)}-{to.get('to')}"
    bus.messages(unread_by="early", channel=channel)
    posted = bus.say("mac", "everybody", channel=channel, **to)

    assert posted["to"] == "any"
    assert unread(bus, "early", channel=channel) == unread(bus, "late", channel=channel) == ["everybody"]
    assert unread(bus, "mac", channel=channel) == []
    assert bodies(bus.messages(to="any", channel=channel)) == bodies(bus.messages(to="all", channel=channel))
    assert [m["msg"] for m in bus.recv("late", channel=channel)["messages"]] == ["everybody"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"from": "mac"},
        {"body": "x"},
        {"from": "mac", "body": ""},
        {"from": "mac", "body": 5},
        {"from": "mac", "body": "x", "to": ""},
        {"from": "mac", "body": "x", "to": ["win"]},
        {"from": "a b", "body": "x"},
        {"from": "all", "body": "x"},
        {"from": "mac", "body": "x", "to": "a/b"},
        {"from": "mac", "body": "x", "tags": "ping"},
        {"from": "mac", "body": "x", "tags": [1]},
        {"from": "mac", "body": "x", "tags": ["long" * 50]},
        {"from": "mac", "body": "x", "tags": ["two\nlines"]},
        {"from": "mac", "body": "half \ud800"},
        {"from": "mac", "body": "x", "channel": "no channel"},
        {"from": "mac", "body": "x", "channel": ["c"]},
        {"from": "mac", "body": "to myself", "to": "mac"},
    ],
)
def test_what_cannot_be_posted_is_refused(bus: Caller, body: object) -> None:
    """400 with one text that says why."""
    reply = bus.post("/post", body)

    assert reply.status == 400
    assert isinstance(reply.data["error"], str)


@pytest.mark.parametrize("path", ["/post", "/ack/1"])
@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 50_000, b'{"a":' * 20_000, b"9" * 5_000])
def test_what_is_no_json_object_is_refused(bus: Caller, path: str, raw: bytes) -> None:
    """400, whatever it is instead."""
    assert bus.post(path, raw=raw).status == 400
    assert bus.post(path, raw=raw, kind="text/plain").status == 400


def test_secrets_are_refused(bus: Caller) -> None:
    """422, and the text that says so does not repeat it."""
    secret = SECRETS["password in a url"]
    reply = bus.post("/post", {"from": "mac", "body": f"see {secret}", "channel": "c2"})

    assert reply.status == 422
    assert secret not in json.dumps(reply.data)
    assert bus.messages(channel="c2") == []


# -- looking ----------------------------------------------------------------------


def test_since_is_an_id_after_which_everything_comes(bus: Caller) -> None:
    """Oldest first, in portions from which one goes on: nothing is skipped."""
    ids = [bus.say("mac", str(n), channel="c3")["id"] for n in range(7)]
    got: list[Any] = []
    while found := bus.messages(channel="c3", since=got[-1]["id"] if got else 0, limit=3):
        got += found

    assert [m["id"] for m in got] == ids
    assert bus.messages(channel="c3", since=ids[-1]) == []


def test_without_since_the_newest_come(bus: Caller) -> None:
    """The last of them, oldest first: what one wants to see who only looks."""
    for n in range(5):
        bus.say("mac", str(n), channel="c4")

    assert bodies(bus.messages(channel="c4", limit=2)) == ["3", "4"]


def test_filters_are_for_recipient_and_sender(bus: Caller) -> None:
    """`to` is that recipient plus broadcasts, `from` a sender; both may be given."""
    bus.say("mac", "to win", to="win", channel="c5")
    bus.say("mac", "to phone", to="phone", channel="c5")
    bus.say("phone", "to all", channel="c5")
    bus.say("win", "to phone too", to="phone", channel="c5")

    assert bodies(bus.messages(channel="c5", to="win")) == ["to win", "to all"]
    assert bodies(bus.messages(channel="c5", **{"from": "mac"})) == ["to win", "to phone"]
    assert bodies(bus.messages(channel="c5", to="phone", **{"from": "win"})) == ["to phone too"]
    assert bodies(bus.messages(channel="c5", to="any")) == ["to all"]
    assert bodies(bus.messages(channel="c5")) == ["to win", "to phone", "to all", "to phone too"]
    assert bus.messages(channel="elsewhere") == []


def test_a_message_to_several_is_to_each_of_them(bus: Caller) -> None:
    """A message that another transport sent to a glob or across channels is found by each recipient, on its channel."""
    for name in ("api-1", "api-2"):
        bus.messages(unread_by=name, channel="c6")
    bus.send("boss", "api-*", "to both", channel="c6")
    bus.send("boss", "api-1@c6", "from elsewhere", channel="c7")

    assert unread(bus, "api-1", channel="c6") == ["to both", "from elsewhere"]
    assert bodies(bus.messages(to="api-2", channel="c6")) == ["to both"]
    assert [m["from"] for m in bus.messages(to="api-1", channel="c6")] == ["boss", "boss@c7"]


def test_a_limit_is_clamped(bus: Caller) -> None:
    """50 unless given, never more than 500, one at least."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: bus.say("mac", str(n), channel="c8"), range(510)))

    assert len(bus.messages(channel="c8")) == 50
    assert len(bus.messages(channel="c8", limit=501)) == 500
    assert len(bus.messages(channel="c8", limit="9" * 30)) == 500
    assert len(bus.messages(channel="c8", limit=0)) == 1


@pytest.mark.parametrize(
    "query",
    [
        "since=-1",
        "since=1.5",
        "since=nan",
        "since=abc",
        "limit=-1",
        "limit=x",
        "to=a%20b",
        "unread_by=all",
        "unread_by=%00",
        "from=%F0",
        "from=a@b%20c",
        "from=a@",
        "channel=*",
        "since=1&since=2",
        "unread_by=a&unread_by=b",
    ],
)
def test_a_wrong_query_is_refused(bus: Caller, query: str) -> None:
    """400 with one text that says why; no 5xx."""
    reply = bus.get(f"/messages?{query}")

    assert reply.status == 400
    assert re.search(rf"\b({query.split('=', maxsplit=1)[0]}|channel|twice)\b", reply.data["error"])


def test_an_id_beyond_all_is_an_id(bus: Caller) -> None:
    """No message comes after it, and no message has it."""
    assert bus.messages(since="9" * 30) == []
    assert bus.post(f"/ack/{'9' * 30}", {"reader": "win"}).status == 404


def test_the_server_says_how_many_there_are(tmp_path: Path) -> None:
    """`/health`: ok, a count, and an ISO time."""
    with caller(tmp_path / "bus.db") as bus:
        bus.say("mac", "x")
        bus.say("mac", "y", channel="other")
        data = bus.get("/health").data

        assert (data["ok"], data["count"]) == (True, 2)
        assert datetime.fromisoformat(data["now"]).tzinfo == UTC


# -- reading ----------------------------------------------------------------------


def test_what_is_acknowledged_is_not_unread(bus: Caller) -> None:
    """By its reader only; once is as good as twice; the message stays."""
    posted = bus.say("mac", "read me", channel="c9")
    for name in ("win", "phone"):
        assert unread(bus, name, channel="c9") == ["read me"]

    for _ in range(2):
        reply = bus.post(f"/ack/{posted['id']}", {"reader": "win", "channel": "c9"})
        assert (reply.status, reply.data["ok"]) == (200, True)

    assert unread(bus, "win", channel="c9") == []
    assert unread(bus, "phone", channel="c9") == ["read me"]
    assert bodies(bus.messages(channel="c9")) == ["read me"]


def test_the_oldest_unread_come_first(bus: Caller) -> None:
    """However many wait: reading and acknowledging gets through to the newest."""
    for n in range(120):
        bus.say("mac", str(n), to="slow", channel="c10")
    got = []
    while found := bus.messages(unread_by="slow", channel="c10"):
        for message in found:
            got.append(message["body"])
            bus.post(f"/ack/{message['id']}", {"reader": "slow", "channel": "c10"})

    assert got == [str(n) for n in range(120)]


def test_who_asks_for_unread_is_known_from_then_on(bus: Caller) -> None:
    """A new name has the earlier broadcasts unread, and gets the later ones."""
    bus.say("mac", "early", channel="c11")
    assert unread(bus, "newcomer", channel="c11") == ["early"]
    bus.say("mac", "late", channel="c11")

    assert unread(bus, "newcomer", channel="c11") == ["early", "late"]


def test_only_mail_of_ones_own_can_be_acknowledged(bus: Caller) -> None:
    """404 for another's, and for what is not there; one's own words need no acknowledgement."""
    posted = bus.say("mac", "to win", to="win", channel="c12")

    assert bus.post(f"/ack/{posted['id']}", {"reader": "phone", "channel": "c12"}).status == 404
    assert bus.post(f"/ack/{posted['id']}", {"reader": "win"}).status == 404  # another channel
    assert bus.post("/ack/999999", {"reader": "win", "channel": "c12"}).status == 404
    assert bus.post(f"/ack/{posted['id']}", {"reader": "mac", "channel": "c12"}).status == 200
    assert unread(bus, "win", channel="c12") == ["to win"]


@pytest.mark.parametrize("path", ["/ack/abc", "/ack/-1", "/ack/1.5", "/ack/%D9%A1"])
def test_what_is_no_id_is_refused(bus: Caller, path: str) -> None:
    """400."""
    assert bus.post(path, {"reader": "win"}).status == 400


def test_a_reader_is_required(bus: Caller) -> None:
    """400 without a valid one; another way of asking is 405, another path 404."""
    for reader in ({}, {"reader": ""}, {"reader": 5}, {"reader": "a b"}, {"reader": "all"}):
        assert bus.post("/ack/1", reader).status == 400
    assert bus.get("/ack/1").status == 405
    assert bus.post("/ack", {"reader": "win"}).status == 404


def test_all_doors_have_one_view_of_what_is_unread(tmp_path: Path) -> None:
    """D3: what a session read is not unread here; what `/recv` gave is; what is acknowledged here no session gets."""
    db = tmp_path / "bus.db"
    with caller(db) as bus, wire(db) as session:
        session.call("register", name="win")
        bus.say("mac", "read by its session", to="win")
        assert unread(bus, "win") == ["read by its session"]
        session.call("inbox")
        assert unread(bus, "win") == ["read by its session"]  # handed over, and nobody knows yet whether it arrived
        session.call("agents")
        assert states(db) == {(1, "win"): "read"}
        assert unread(bus, "win") == []

        bus.say("mac", "through recv", to="phone")
        assert len(bus.recv("phone")["messages"]) == 1
        assert unread(bus, "phone") == ["through recv"]
        bus.post("/ack/2", {"reader": "phone"})
        session.call("leave")
        session.call("register", name="phone")
        assert session.call("inbox").data["messages"] == []


def test_what_has_run_out_is_not_unread(store: Store) -> None:
    """Mail whose ttl ended is still there to look at, and waits for nobody."""
    alice = store.join("alice")
    store.send(alice, "bob", "too late", ttl=10)
    store.send(alice, "bob", "lasting")
    store.now += 60

    found = store.by(grant=Grant())(feeds.posts, Search("default", unread_by="bob"))
    assert [m.content for m in found] == ["lasting"]
    assert len(store.by(grant=Grant())(feeds.posts, Search("default"))) == 2
    assert store.by(grant=Grant())(feeds.unread) == {Address("bob", "default"): 1}


def test_an_answer_stays_within_its_size(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for, an answer ends with what it can carry: one message at least."""
    monkeypatch.setattr(limits, "MAX_ANSWER", 250)
    alice = store.join("alice")
    for n in range(5):
        store.send(alice, "bob", str(n) * 100)
    store.send(alice, "bob", "x" * 1_000)

    def found(**search: Any) -> list[str]:
        return [m.content[0] for m in store.by(grant=Grant())(feeds.posts, Search("default", **search))]

    assert found(since=0) == ["0", "1"]
    assert found(since=5) == ["x"]
    assert found(unread_by="bob") == ["0", "1"]
    assert found() == ["x"]


# -- who may ----------------------------------------------------------------------


def test_nobody_posts_or_acknowledges_for_a_live_session(tmp_path: Path) -> None:
    """409 for a name that a session bears; looking at what it has not read is allowed."""
    db = tmp_path / "bus.db"
    with caller(db) as bus, wire(db) as session:
        session.call("register", name="backend")
        posted = bus.say("mac", "for the session", to="backend")

        assert bus.post("/post", {"from": "backend", "body": "x"}).status == 409
        assert bus.post(f"/ack/{posted['id']}", {"reader": "backend"}).status == 409
        assert unread(bus, "backend") == ["for the session"]
        assert session.call("inbox").data["messages"][0]["content"] == "for the session"


def test_a_token_for_some_names_sees_no_mail_of_others(tmp_path: Path) -> None:
    """It sees the broadcasts and what is from or to its names, however it asks; 403 where it names another reader."""
    db = tmp_path / "bus.db"
    limited, full = token(db, "ci-*")[1], token(db)[1]
    with caller(db) as nobody:
        ci, root = Caller(nobody.url, limited), Caller(nobody.url, full)
        private = root.say("boss", "between us", to="dev")
        root.say("boss", "to ci", to="ci-1")
        root.say("boss", "to all")
        ci.say("ci-1", "from ci", to="dev")
        mine = ["to ci", "to all", "from ci"]

        assert bodies(ci.messages()) == bodies(ci.messages(since=0)) == mine
        assert bodies(ci.messages(**{"from": "boss"})) == ["to ci", "to all"]
        assert bodies(ci.messages(to="ci-1")) == ["to ci", "to all"]
        assert bodies(ci.messages(to="any")) == ["to all"]
        assert bodies(ci.messages(unread_by="ci-1")) == ["to ci", "to all"]
        assert ci.get("/messages", to="dev").status == 403
        assert ci.get("/messages", unread_by="dev").status == 403
        assert ci.post(f"/ack/{private['id']}", {"reader": "dev"}).status == 403
        assert ci.post(f"/ack/{private['id']}", {"reader": "ci-1"}).status == 404
        assert ci.post("/post", {"from": "boss", "body": "x"}).status == 403
        assert bodies(root.messages()) == ["between us", *mine]


def test_a_token_for_some_channels_has_only_those(tmp_path: Path) -> None:
    """403 for reading from, posting to and acknowledging on another; `/health` counts its own."""
    db = tmp_path / "bus.db"
    limited, full = token(db, channels=("team",))[1], token(db)[1]
    with caller(db) as nobody:
        team, root = Caller(nobody.url, limited), Caller(nobody.url, full)
        posted = root.say("boss", "on default")
        root.say("boss", "on team", channel="team")

        assert team.get("/messages").status == 403
        assert team.get("/messages", channel="other").status == 403
        assert team.post("/post", {"from": "dev", "body": "x"}).status == 403
        assert team.post("/post", {"from": "dev", "body": "x", "to": "all@default", "channel": "team"}).status == 403
        assert team.post(f"/ack/{posted['id']}", {"reader": "dev"}).status == 403
        assert bodies(team.messages(channel="team")) == ["on team"]
        assert (team.get("/health").data["count"], root.get("/health").data["count"]) == (1, 2)
        for path in ("/messages", "/health"):
            assert nobody.get(path).status == 401


# -- whatever comes ---------------------------------------------------------------------

PATHS = ["/send", "/post", "/ack/1", "/ack/2"]
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "from": st.sampled_from(("alice", "bob")),
    "to": st.sampled_from(("bob", "all", "a*", "bob@other")),
    "reader": st.sampled_from(("alice", "bob")),
    "msg": texts,
    "body": texts,
    "tags": st.lists(texts, max_size=3),
    "channel": st.sampled_from(("fuzz", "other")),
}


@looks(150)
@given(path=st.sampled_from(PATHS), body=arguments(FIELDS) | anything)
def test_no_body_makes_the_server_stumble(bus: Caller, path: str, body: Any) -> None:
    """Every answer is 200 or a refusal of what was asked; never a fault of the server's own."""
    assert bus.post(path, body).status in (200, 400, 404, 413, 422)


@looks(150)
@given(
    path=st.sampled_from(("/recv", "/messages", "/inbox", "/health")),
    query=st.dictionaries(
        st.sampled_from(("to", "since", "max", "channel", "from", "unread_by", "limit")),
        st.sampled_from(("bob", "all", "0", "1e9", "3")) | clean_texts | numbers,
    ),
)
def test_no_query_makes_the_server_stumble(bus: Caller, path: str, query: dict[str, object]) -> None:
    """Every answer is 200 or a refusal of what was asked; never a fault of the server's own."""
    assert bus.get(path, **query).status in (200, 400)


# -- recipes, in our words ------------------------------------------------------------

RECIPE = """
set -eu
. "$HOME/.secrets/claude-bus.env"
ME=win
curl -fsS -u "$BUS_USER:$BUS_PASS" "$BUS_URL/health"; echo
curl -fsS -u "$BUS_USER:$BUS_PASS" -X POST "$BUS_URL/post" -H 'Content-Type: application/json' \\
  -d '{"from":"mac","to":"win","body":"pull main","tags":["deploy"]}'; echo
curl -fsS -u "$BUS_USER:$BUS_PASS" -d '{"from":"mac","body":"good morning"}' "$BUS_URL/post"; echo
curl -fsS -u "$BUS_USER:$BUS_PASS" "$BUS_URL/messages?to=$ME&unread_by=$ME"; echo
curl -fsS -u "$BUS_USER:$BUS_PASS" -X POST "$BUS_URL/ack/1" -H 'Content-Type: application/json' \\
  -d "{\\"reader\\":\\"$ME\\"}"; echo
curl -fsS -u "$BUS_USER:$BUS_PASS" "$BUS_URL/messages?unread_by=$ME"; echo
curl -fsS -u "$BUS_USER:$BUS_PASS" "$BUS_URL/messages?since=1&limit=10"; echo
"""


def credentials(home: Path, url: str, secret: str) -> None:
    """The file in which those clients keep where the bus is, and who they are."""
    file = home / ".secrets" / "claude-bus.env"
    file.parent.mkdir()
    file.write_text(f"BUS_USER=claude\nBUS_PASS={secret}\nBUS_URL={url}\n", encoding="utf-8")
    file.chmod(0o600)


def test_the_shell_recipes_run(tmp_path: Path) -> None:
    """C10, C14, D4: credentials from the file, Basic with the token as the password, post, read, acknowledge."""
    db = tmp_path / "bus.db"
    _, secret = token(db)
    with caller(db, "--prefix", "/bus") as bus:
        credentials(tmp_path, bus.url, secret)
        env = {**os.environ, "HOME": str(tmp_path)}
        done = subprocess.run(["bash", "-c", RECIPE], env=env, check=True, capture_output=True, timeout=PATIENCE)

    health, direct, broadcast, mine, ack, left, since = map(json.loads, done.stdout.splitlines())
    assert health["ok"] is True
    assert (direct["id"], direct["to"], direct["tags"]) == (1, "win", ["deploy"])
    assert broadcast["to"] == "any"
    assert bodies(mine["messages"]) == ["pull main", "good morning"]
    assert ack["ok"] is True
    assert bodies(left["messages"]) == bodies(since["messages"]) == ["good morning"]


PROGRAM = """
import base64, json, os, pathlib, urllib.request

lines = pathlib.Path.home().joinpath(".secrets/claude-bus.env").read_text().splitlines()
env = dict(line.split("=", 1) for line in lines if "=" in line)
basic = base64.b64encode(f"{env['BUS_USER']}:{env['BUS_PASS']}".encode()).decode()

def call(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": "Basic " + basic, "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(env["BUS_URL"] + path, data, headers), timeout=10) as answer:
        return json.load(answer)

call("/post", {"from": "mac", "to": "win", "body": "hello"})
for m in call("/messages?unread_by=win")["messages"]:
    print(f"[{m['ts']}] {m['from']}: {m['body']}")
    call(f"/ack/{m['id']}", {"reader": "win"})
print(len(call("/messages?unread_by=win")["messages"]))
"""


def test_the_python_recipe_runs(tmp_path: Path) -> None:
    """C14, C15: post, print what is unread as `[ts] from: body`, acknowledge."""
    db = tmp_path / "bus.db"
    _, secret = token(db)
    with caller(db) as bus:
        credentials(tmp_path, bus.url, secret)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "HOME": str(tmp_path)},
            check=True,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    line, count = done.stdout.splitlines()
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\] mac: hello", line)
    assert count == "0"


# -- conflicts of the earlier systems, where no other test has them ---------------------


def test_one_order_for_both_cursors(bus: Caller) -> None:
    """D2: an id and a time are two names of one place: what comes after the one comes after the other."""
    sent = [bus.send("mac", "reader", str(n), channel="c13") for n in range(4)]

    for n, place in enumerate(sent):
        by_id = bodies(bus.messages(since=place["id"], to="reader", channel="c13"))
        by_time = [m["msg"] for m in bus.recv("reader", place["ts"], channel="c13")["messages"]]
        assert by_id == by_time == [str(later) for later in range(n + 1, 4)]


def does_not_serve(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A server that ends by itself, and what it said."""
    return subprocess.run(
        [sys.executable, "-m", "claude_bus", "serve", *options],
        env=environment(folder / "bus.db"),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    """D5: other programs use 8765, too; the server says how to choose another one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = does_not_serve(tmp_path, "--port", str(taken.getsockname()[1]))

    assert done.returncode == 2
    assert "--port" in done.stderr


def test_open_on_loopback_only(tmp_path: Path) -> None:
    """D4: nobody needs a token on loopback; at another address the server does not start without one."""
    done = does_not_serve(tmp_path, "--host", "0.0.0.0", "--port", "0")

    assert done.returncode == 2
    assert "token create" in done.stderr
