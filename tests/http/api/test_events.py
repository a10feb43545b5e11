"""`/v1/events`: as a list with a cursor, as a long poll, and as a stream."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.api_client import Program, new_channel, serving, until_waiting, waiting
from tests.support.processes import PATIENCE, wire
from tests.support.tokens import revoke, token

pytestmark = pytest.mark.slow


def test_an_event_says_what_happened_and_not_what_was_said(api: Program) -> None:
    """Events contain no content, recipients, reasons, roles or session addresses."""
    api.put("/agents/ci", role="the-role")
    message = api.send("ci", "secret-recipient", "the-content")
    api.put("/state/key", **{"as": "ci"}, value="the-value")
    api.post("/claims", **{"as": "ci"}, paths=["port:1"], reason="the-reason")

    found = api.get("/events")["events"]

    told = [(event["verb"], event["actor"], event["subject"]) for event in found]
    assert told == [
        ("join", "ci", ""),
        ("send", "ci", str(message)),
        ("state_overwrite", "ci", "key"),
        ("claim", "ci", "port:1"),
    ]
    assert found[2]["version"] == 1
    assert not [word for word in ("the-", "secret-recipient") if word in json.dumps(found)]


def test_where_a_session_can_be_reached_is_nobodys_business(api: Program, db: Path) -> None:
    """The journal records the address of a session; the API does not return it."""
    with wire(db, BUS_NAME="bob", BUS_CHANNEL=api.channel) as session:
        session.call("whoami")
    found = [(event["verb"], event["subject"]) for event in api.get("/events")["events"]]
    assert ("attach", "") in found


def test_a_cursor_leads_through_all_events(api: Program) -> None:
    """Each event is on one page exactly once; at the end the cursor no longer moves."""
    for number in range(7):
        api.put(f"/state/k{number}", **{"as": "ci"}, value=number)
    last, seen = 0, []
    while page := api.get("/events", since=last, limit=3):
        last = page["last"]
        seen += [event["subject"] for event in page["events"]]
        if not page["events"]:
            break
    assert seen == ["", *(f"k{number}" for number in range(7))]
    assert api.get("/events", since=last)["last"] == last


def test_who_waits_for_events_gets_the_next(api: Program, pool: ThreadPoolExecutor) -> None:
    """An event on the same channel ends the waiting; one on another channel does not."""
    begin = api.another().get("")["last_event"]
    found = waiting(api, pool, "/events", since=begin)
    api.another(channel=new_channel()).put("/state/other", **{"as": "ci"}, value=1)
    api.put("/agents/ci")

    assert [event["verb"] for event in found.result(PATIENCE)["events"]] == ["join"]


def test_a_cursor_that_lies_ahead_is_now(api: Program, pool: ThreadPoolExecutor) -> None:
    """A cursor of a database that was replaced must not wait until the new one has as many events."""
    ahead = api.another().get("")["last_event"] + 1_000_000
    assert api.get("/events", since=ahead)["last"] < ahead
    found = waiting(api, pool, "/events", since=ahead)
    headers = {"Last-Event-ID": str(ahead)}
    with api.http.stream("GET", "/v1/events/stream", params={"channel": api.channel}, headers=headers) as answer:
        lines = answer.iter_lines()
        assert int(next(lines).removeprefix("id: ")) < ahead
        api.another(api.channel).put("/agents/ci")
        assert next(line for line in lines if line.startswith("event: ")) == "event: join"
    assert [event["verb"] for event in found.result(PATIENCE)["events"]] == ["join"]


def test_who_waits_while_the_database_is_replaced_gets_what_happens_in_the_new_one(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """The ids of the new database begin below the waiting cursors, which must not wait until they are reached."""
    db = tmp_path / "bus.db"
    with serving(db) as running:
        api = running.program()
        for number in range(20):
            api.put(f"/state/k{number}", **{"as": "ci"}, value=number)
        found = waiting(api, pool, "/events", since=api.get("")["last_event"])
        with api.http.stream("GET", "/v1/events/stream") as answer:
            lines = answer.iter_lines()
            until_waiting(api.another(), 2)
            for path in (db, Path(f"{db}-wal"), Path(f"{db}-shm")):
                path.unlink()
            api.another().put("/agents/new")
            assert [(event["verb"], event["actor"]) for event in found.result(PATIENCE)["events"]] == [("join", "new")]
            assert next(line for line in lines if line.startswith("event: ")) == "event: join"


class Stream:
    """A client of the event stream that can resume where it was."""

    def __init__(self, api: Program, since: int | None = None) -> None:
        self.api = api
        self.last = "" if since is None else str(since)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield events until the caller stops iterating; then the connection is closed."""
        headers = {"Last-Event-ID": self.last} if self.last else {}
        query = {"channel": self.api.channel}
        with self.api.http.stream("GET", "/v1/events/stream", params=query, headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    self.last = value
                if name == "data":
                    yield json.loads(value)


def test_a_stream_resumes_without_loss_or_repetition(api: Program, pool: ThreadPoolExecutor) -> None:
    """With four writers, a reader that disconnects again and again gets each event once, in order."""
    begin = api.another().get("")["last_event"]

    def write(name: str) -> None:
        with httpx2.Client(base_url=api.url, timeout=PATIENCE) as http:
            for number in range(50):
                body = {"as": name, "channel": api.channel, "value": number}
                http.put(f"/v1/state/{name}-{number}", json=body).raise_for_status()

    writers = [pool.submit(write, f"w{n}") for n in range(4)]
    stream = Stream(api, begin)
    seen: list[dict[str, Any]] = []
    while len(seen) < 204:  # four joined, and wrote 50 times each
        seen += itertools.islice(stream, min(9, 204 - len(seen)))
    for writer in writers:
        writer.result(PATIENCE)

    ids = [event["id"] for event in seen]
    assert ids == sorted(set(ids))
    written = [event["subject"] for event in seen if event["verb"] == "state_overwrite"]
    assert sorted(written) == sorted(f"w{n}-{number}" for n in range(4) for number in range(50))


def test_a_stream_begins_now_and_says_where(api: Program) -> None:
    """The first line is an id, so a client that disconnects before the first event resumes without loss."""
    api.put("/agents/early")
    now = api.another().get("")["last_event"]
    with api.http.stream("GET", "/v1/events/stream", params={"channel": api.channel}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        first = next(answer.iter_lines())
    assert first == f"id: {now}"
    api.put("/agents/late")
    assert next(iter(Stream(api, int(first.split()[1]))))["actor"] == "late"


@contextlib.contextmanager
def narrow(api: Program, path: str) -> Iterator[http.client.HTTPResponse]:
    """The answer to a GET over a connection that buffers almost nothing before it is read."""
    where = urlsplit(api.url)
    connection = http.client.HTTPConnection(str(where.hostname), where.port or 0, timeout=PATIENCE)
    connection.sock = socket.socket()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sock.settimeout(PATIENCE)
    connection.sock.connect((where.hostname, where.port))
    connection.request("GET", path)
    with contextlib.closing(connection), connection.getresponse() as answer:
        yield answer


def test_a_slow_reader_is_not_queued_for(api: Program, pool: ThreadPoolExecutor) -> None:
    """Events that come while it reads nothing delay no other client; later it reads each of them, in order."""
    begin = api.another().get("")["last_event"]

    def write(name: str) -> None:
        with httpx2.Client(base_url=api.url, timeout=PATIENCE) as http:
            for number in range(250):
                body = {"as": name, "channel": api.channel, "value": number}
                http.put(f"/v1/state/{'k' * 190}", json=body).raise_for_status()

    with narrow(api, f"/v1/events/stream?channel={api.channel}&since={begin}") as answer:
        list(pool.map(write, [f"w{n}" for n in range(4)]))
        data = (line.removeprefix(b"data: ") for line in answer if line.startswith(b"data: "))
        found = [json.loads(line) for line in itertools.islice(data, 1004)]

    assert [event["version"] for event in found if event["verb"] == "state_overwrite"] == list(range(1, 1001))
    assert [event["verb"] for event in found].count("join") == 4


def test_a_quiet_stream_is_kept_alive(api: Program) -> None:
    """Comments are sent, so that no proxy takes the stream for dead."""
    with api.http.stream("GET", "/v1/events/stream", params={"channel": api.channel}) as answer:
        assert next(line for line in answer.iter_lines() if line.startswith(":"))


def test_a_server_ends_though_somebody_listens(tmp_path: Path) -> None:
    """A stream does not keep the server from ending; its client resumes once a server runs again."""
    with serving(tmp_path / "bus.db") as running:
        api = running.program()
        with api.http.stream("GET", "/v1/events/stream") as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("id: ")
            running.process.terminate()
            running.process.wait(PATIENCE)


def test_a_stream_ends_with_its_token(tmp_path: Path) -> None:
    """Once the token is revoked nothing more is sent, not even an event of that very moment."""
    db = tmp_path / "bus.db"
    number, secret = token(db)
    admin = token(db)[1]
    with serving(db) as running:
        api = running.program(secret)
        with api.http.stream("GET", "/v1/events/stream") as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("id: ")
            revoke(db, number)
            running.program(admin).put("/agents/late")
            assert not [line for line in lines if line.startswith("data")]
        assert api.ask("GET", "/events/stream").status_code == 401
