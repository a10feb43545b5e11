"""`/v1`: the effect of each operation, tested over a socket of a server in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

import claude_bus
from tests.support.api_client import Program, Serving, metric, serving, until_waiting, waiting
from tests.support.processes import PATIENCE, environment, eventually, wire

pytestmark = pytest.mark.slow

# -- what this is ------------------------------------------------------------------------


def test_the_root_says_what_the_caller_may_do(server: Serving) -> None:
    """The root tells name, version and, where no token is needed, that everything is permitted."""
    found = server.program().get("")

    assert (found["name"], found["version"]) == ("claude-bus", claude_bus.__version__)
    assert (found["names"], found["channels"], found["channel"]) == (["*"], ["*"], "default")


def test_everything_is_below_the_prefix_too(tmp_path: Path) -> None:
    """With a prefix, all operations are below it, also for keys with slashes, and the document gives the prefix."""
    with serving(tmp_path / "bus.db", "--prefix", "/team/bus") as running:
        api = running.program()
        assert api.put("/state/a%2Fb", **{"as": "ci"}, value=1)["version"] == 1
        assert api.get("/state/a%2Fb")["value"] == 1
        assert api.get("/openapi.json")["servers"] == [{"url": "/team/bus"}]
        assert api.refused("PATCH", "/state/a%2Fb") == (405, "method_not_allowed")


# -- agents ------------------------------------------------------------------------------


def test_a_program_joins_and_is_found(api: Program) -> None:
    """A program has a role and files, and earlier broadcasts wait for it."""
    api.send("ann", "all", "welcome")

    joined = api.put("/agents/ci", role="builds", owns=["src/**"])

    assert (joined["name"], joined["channel"], joined["pending_count"]) == ("ci", api.channel, 1)
    [ci] = [agent for agent in api.get("/agents")["agents"] if agent["name"] == "ci"]
    assert (ci["role"], ci["owns"], ci["client"]) == ("builds", ["src/**"], "http")


def test_joining_again_keeps_what_it_does_not_name(api: Program) -> None:
    """Fields that are not given keep their values, so a retry is harmless."""
    api.put("/agents/ci", role="builds", owns=["src/**"])
    api.put("/agents/ci")
    assert api.ask("PUT", "/agents/ci").json()["channel"] == "default"

    [ci] = api.get("/agents", active_within=3600)["agents"]
    assert (ci["role"], ci["owns"]) == ("builds", ["src/**"])


def test_a_program_leaves(api: Program) -> None:
    """Its claims end and its mail is kept; an agent that is not present cannot leave."""
    api.put("/agents/ci")
    api.post("/claims", **{"as": "ci"}, paths=["port:1"])
    mail = api.send("ann", "ci")

    assert api.ask("DELETE", "/agents/ci", params={"channel": api.channel}).status_code == 204

    assert api.get("/claims")["claims"] == []
    assert [message["id"] for message in api.inbox("ci")] == [mail]
    assert api.refused("DELETE", f"/agents/nobody?channel={api.channel}") == (404, "not_found")


def test_nobody_acts_as_a_live_session(api: Program, db: Path) -> None:
    """Every operation that acts or reads under a live session's name is refused, and changes nothing."""
    with wire(db, BUS_NAME="bob", BUS_CHANNEL=api.channel) as session:
        assert session.call("whoami").text == f"bob@{api.channel}"
        here: dict[str, Any] = {"channel": api.channel}
        me = {**here, "as": "bob"}
        mail = api.send("ann", "bob")
        for method, path, body in (
            ("PUT", "/agents/bob", here),
            ("DELETE", f"/agents/bob?channel={api.channel}", {}),
            ("GET", "/agents/bob/inbox", here),
            ("POST", "/agents/bob/inbox/ack", {**here, "ids": [mail]}),
            ("POST", "/messages", {**here, "from": "bob", "to": "ann", "content": "x"}),
            ("PUT", "/state/key", {**me, "value": 1}),
            ("DELETE", "/state/key", me),
            ("POST", "/claims", {**me, "paths": ["port:1"]}),
            ("DELETE", "/claims", {**me, "all": True}),
        ):
            assert api.refused(method, path, **body) == (409, "name_taken"), (method, path)
        assert api.states(mail, "ann") == {"bob": "queued"}
        assert [message["id"] for message in api.get("/messages", **{"as": "bob"})["messages"]] == [mail]


# -- messages ----------------------------------------------------------------------------


def test_a_message_goes_to_whom_it_is_addressed(api: Program) -> None:
    """For a name, a list, a glob, everybody or another channel, `recipients` names each recipient and its prospects."""
    for name in ("api-1", "api-2", "web"):
        api.put(f"/agents/{name}")

    def recipients(to: str | list[str]) -> list[str]:
        sent = api.post("/messages", **{"from": "ann"}, to=to, content="hello")
        return sorted(one["recipient"] for one in sent["recipients"])

    assert recipients("web") == ["web"]
    assert recipients(["web", "api-1"]) == ["api-1", "web"]
    assert recipients("api-*") == ["api-1", "api-2"]
    assert recipients("all") == ["api-1", "api-2", "web"]
    assert recipients("web@elsewhere") == ["web@elsewhere"]
    sent = api.post("/messages", **{"from": "ann"}, to="wbe", content="hello")
    assert sent["recipients"] == [{"recipient": "wbe", "outlook": "unknown", "hint": "did you mean 'web'?"}]


def test_a_message_arrives_with_all_that_was_given(api: Program) -> None:
    """Kind, tags, urgency and the message that it answers, which is thereby acknowledged."""
    first = api.send("ann", "ci", "build it", kind="request", tags=["a", "b"], urgent=True)
    [message] = api.inbox("ci")
    assert message.pop("sent")
    assert message == {
        "id": first,
        "from": "ann",
        "to": "ci",
        "content": "build it",
        "reply_to": None,
        "kind": "request",
        "tags": ["a", "b"],
        "urgent": True,
    }
    assert api.get(f"/messages/{first}", **{"as": "ann"})["open"]
    api.post("/agents/ci/inbox/ack", ids=[first])

    answer = api.send("ci", "ann", "done", reply_to=first)

    status = api.get(f"/messages/{first}", **{"as": "ann"})
    assert [reply["id"] for reply in status["replies"]] == [answer]
    assert "open" not in status


@pytest.mark.parametrize("where", ["body", "header", "both"])
def test_a_key_makes_a_retry_harmless(api: Program, where: str) -> None:
    """The retry returns the same id, 200 instead of 201, and `duplicate`."""
    body = {"from": "ci", "to": "ann", "content": "done", "channel": api.channel}
    more: dict[str, Any] = {"json": body if where == "header" else {**body, "key": "run 7"}}
    if where != "body":
        more["headers"] = {"Idempotency-Key": "run 7"}

    first, again = (api.ask("POST", "/messages", **more) for _ in range(2))

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert (first.json()["duplicate"], again.json()["duplicate"]) == (False, True)
    assert len(api.inbox("ann")) == 1


def test_keys_that_contradict_each_other_are_refused(api: Program) -> None:
    """A key in the header and another in the body would be ambiguous."""
    body = {"from": "ci", "to": "ann", "content": "done", "key": "a"}
    answer = api.ask("POST", "/messages", json=body, headers={"Idempotency-Key": "b"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_input")


def test_history_is_what_the_name_may_see(api: Program) -> None:
    """By text, by thread, after an id. Messages between others are not included."""
    first = api.send("ann", "ci", "the blue one")
    second = api.send("ci", "ann", "which?", reply_to=first)
    third = api.send("ann", "bob", "not for ci, blue")
    fourth = api.send("bob", "all", "hello")

    def seen(name: str, **query: Any) -> list[int]:
        return [message["id"] for message in api.get("/messages", **{"as": name}, **query)["messages"]]

    assert seen("ci") == [first, second, fourth]
    assert seen("ci", search="BLUE") == [first]
    assert seen("ann", search="blue") == [first, third]
    assert seen("ci", thread=second) == [first, second]
    assert seen("ci", since=second) == [fourth]
    assert seen("ci", limit=1) == [fourth]
    assert api.refused("GET", f"/messages/{third}", **{"as": "ci", "channel": api.channel}) == (404, "not_found")


def test_a_secret_is_refused_unless_it_is_allowed(api: Program) -> None:
    """The refusal names kind and line, and never contains the secret."""
    secret = "ghp_" + "wQ7rT2yU9iO4pA1sD6fG3hJ8kL5zX0cV2bN7"
    body = {"from": "ci", "to": "ann", "content": f"use\n{secret}", "channel": api.channel}
    answer = api.ask("POST", "/messages", json=body)
    if answer.status_code != 422:
        pytest.skip("the sample is no likely secret to the scanner")
    assert answer.json()["error"] == "secret_refused"
    assert secret not in answer.text
    assert api.ask("POST", "/messages", json={**body, "allow_secret": True}).status_code == 201


# -- the inbox of a program --------------------------------------------------------------


def test_looking_marks_nothing_and_acknowledging_does(api: Program) -> None:
    """Delivery is at least once; a message written into an answer has no receipt yet."""
    sent = [api.send("ann", "ci", str(n)) for n in range(3)]
    for _ in range(2):
        found = api.get("/agents/ci/inbox", limit=2)
        assert [message["id"] for message in found["messages"]] == sent[:2]
        assert found["pending_count"] == 3
    assert api.states(sent[0], "ann") == {"ci": "queued"}

    answers = [api.post("/agents/ci/inbox/ack", ids=[*sent[:2], 10**9, sent[0]]) for _ in range(2)]

    assert answers == [{"acked": sent[:2], "expired": [], "unknown": [10**9]}] * 2
    assert api.states(sent[0], "ann") == {"ci": "acked"}
    assert [message["id"] for message in api.inbox("ci")] == sent[2:]


def test_looking_makes_a_participant(api: Program) -> None:
    """A program that waits for mail is listed, and gets broadcasts."""
    assert api.inbox("ci") == []
    broadcast = api.send("ann", "all")
    assert [message["id"] for message in api.inbox("ci")] == [broadcast]


def test_who_waits_in_vain_gets_an_empty_answer(api: Program) -> None:
    """The answer comes after the given number of seconds, and is not an error."""
    assert api.get("/agents/ci/inbox", wait=0.05) == {"messages": [], "pending_count": 0}


def test_a_session_wakes_who_waits(api: Program, db: Path, pool: ThreadPoolExecutor) -> None:
    """A message sent through a stdio server, another process, is answered to the poll that waited for it."""
    found = waiting(api, pool, "/agents/ci/inbox")
    with wire(db, BUS_NAME="bob", BUS_CHANNEL=api.channel) as session:
        session.call("send", to="ci", content="wake up")

        assert [message["content"] for message in found.result(PATIENCE)["messages"]] == ["wake up"]


def test_a_command_wakes_who_waits(api: Program, db: Path, pool: ThreadPoolExecutor) -> None:
    """So does `claude-bus send` in a shell."""
    found = waiting(api, pool, "/agents/ci/inbox")
    command = [sys.executable, "-m", "claude_bus", "--channel", api.channel, "send", "ci", "wake up", "--as", "ann"]
    subprocess.run(command, env=environment(db), check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)

    assert [message["from"] for message in found.result(PATIENCE)["messages"]] == ["ann"]


def test_a_session_that_takes_the_name_ends_the_waiting(api: Program, db: Path, pool: ThreadPoolExecutor) -> None:
    """Its mail is its own from then on; a poll that began before is ended."""
    before = metric(api, "claude_bus_waiting")
    look = {"params": {"channel": api.channel, "wait": 60}}
    found = pool.submit(api.ask, "GET", "/agents/bob/inbox", **look)
    until_waiting(api, int(before) + 1)
    with wire(db, BUS_NAME="bob", BUS_CHANNEL=api.channel) as session:
        session.call("whoami")
        api.send("ann", "bob", "for the session")

        assert found.result(PATIENCE).status_code == 409
        assert "for the session" in json.dumps(session.call("inbox").data)


def test_two_hundred_who_wait_disturb_nobody(tmp_path: Path) -> None:
    """While they wait, everything else is answered; one broadcast then answers all of them."""
    with serving(tmp_path / "bus.db") as running:
        api = running.program()
        limits = httpx2.Limits(max_connections=300)
        answers: list[Any] = []

        async def waits(http: httpx2.AsyncClient, name: str) -> None:
            answers.append((await http.get(f"/v1/agents/{name}/inbox", params={"wait": 60})).json()["messages"])

        def meanwhile() -> int:
            until_waiting(api, 200)
            for number in range(20):
                api.post("/messages", **{"from": "ann"}, to="bob", content=str(number))
            assert len(api.inbox("bob", limit=50)) == 20
            assert answers == []
            return api.send("ann", "all", "now")

        async def run() -> int:
            async with (
                httpx2.AsyncClient(base_url=running.url, limits=limits, timeout=PATIENCE) as http,
                anyio.create_task_group() as tasks,
            ):
                for number in range(200):
                    tasks.start_soon(waits, http, f"w{number}")
                return await anyio.to_thread.run_sync(meanwhile)
            raise AssertionError

        broadcast = anyio.run(run)

        assert [[message["id"] for message in found] for found in answers] == [[broadcast]] * 200
        assert metric(api, "claude_bus_waiting") == 0


def test_nobody_waits_for_who_has_gone(tmp_path: Path) -> None:
    """The server notices a client that closed its connection, and ends its request."""
    with serving(tmp_path / "bus.db") as running:
        api = running.program()
        with pytest.raises(httpx2.ReadTimeout):
            api.ask("GET", "/agents/ci/inbox", params={"wait": 60}, timeout=0.5)
        eventually(lambda: metric(api, "claude_bus_waiting") == 0)


# -- state -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["text", "", 7, 1.5, True, None, [], {"a": [None, "é"]}, "[1]"])
def test_a_value_is_any_json(api: Program, value: Any) -> None:
    """A value comes back unchanged: text that looks like JSON stays text."""
    written = api.put("/state/key", **{"as": "ci"}, value=value)
    found = api.get("/state/key")
    assert written == {"key": "key", "version": 1}
    assert (found["value"], found["updated_by"], found["version"]) == (value, "ci", 1)
    assert type(found["value"]) is type(value)


@pytest.mark.parametrize("key", ["a/b", "a/history", "50% done", "ключ?#&", "a b", "%2F"])
def test_a_key_is_any_printable_line(api: Program, key: str) -> None:
    """Percent-encoded, a key may contain characters with a meaning in paths."""
    path = "/state/" + "".join(f"%{byte:02X}" for byte in key.encode())
    api.put(path, **{"as": "ci"}, value=1)
    assert api.get(path)["key"] == key
    assert [entry["version"] for entry in api.get(f"{path}/history")["history"]] == [1]
    assert [entry["key"] for entry in api.get("/state", prefix=key[:1])["state"]] == [key]


def test_state_is_listed_with_values_if_asked(api: Program) -> None:
    """All keys with the prefix, in order."""
    for key in ("b", "ab", "aa"):
        api.put(f"/state/{key}", **{"as": "ci"}, value=key)
    assert [entry["key"] for entry in api.get("/state", prefix="a")["state"]] == ["aa", "ab"]
    assert all("value" not in entry for entry in api.get("/state")["state"])
    assert [entry["value"] for entry in api.get("/state", values=True)["state"]] == ["aa", "ab", "b"]


@pytest.mark.parametrize("how", ["body", "header"])
def test_compare_and_set(api: Program, how: str) -> None:
    """Only the version that was read may be overwritten or deleted; `ETag` gives it."""

    def put(value: Any, version: int) -> httpx2.Response:
        more: dict[str, Any] = {"expected_version": version} if how == "body" else {}
        headers = {"If-Match": f'"{version}"'} if how == "header" and version else {}
        headers |= {"If-None-Match": "*"} if how == "header" and not version else {}
        body = {"as": "ci", "channel": api.channel, "value": value, **more}
        return api.ask("PUT", "/state/key", json=body, headers=headers)

    assert put("new", 0).json()["version"] == 1
    assert put("newer", 0).status_code == 409
    tag = api.ask("GET", "/state/key", params={"channel": api.channel}).headers["etag"]
    assert tag == '"1"'
    assert put("newer", 1).headers["etag"] == '"2"'
    stale = put("stale", 1)
    assert (stale.status_code, stale.json()["error"], stale.json()["current"]) == (409, "version_conflict", 2)
    who = {"as": "ci", "channel": api.channel}
    gone = [api.ask("DELETE", "/state/key", params=who, headers={"If-Match": tag}) for tag in ('"1"', '"2"', '"2"')]
    assert [answer.status_code for answer in gone] == [409, 200, 409]
    assert api.refused("DELETE", "/state/key", **who) == (404, "not_found")


def test_appending_adds_lines(api: Program) -> None:
    """A line can be appended to text only."""
    for line in ("one", "two"):
        api.put("/state/log", **{"as": "ci"}, value=line, mode="append")
    assert api.get("/state/log")["value"] == "one\ntwo"
    status = api.refused("PUT", "/state/log", **{"as": "ci"}, channel=api.channel, value=3, mode="append")
    assert status == (400, "invalid_input")


def test_history_of_a_key_shows_its_deletion(api: Program) -> None:
    """Newest first; a deletion has a version and no value."""
    api.put("/state/key", **{"as": "ci"}, value=1)
    api.ask("DELETE", "/state/key", params={"as": "ann", "channel": api.channel})

    deletion, creation = api.get("/state/key/history")["history"]

    assert (deletion["version"], deletion["updated_by"], "value" in deletion) == (2, "ann", False)
    assert (creation["version"], creation["updated_by"], creation["value"]) == (1, "ci", 1)


def test_who_waits_for_a_change_gets_it(api: Program, db: Path, pool: ThreadPoolExecutor) -> None:
    """Creation, overwriting and deletion, by any process, are reported."""
    with wire(db, BUS_NAME="bob", BUS_CHANNEL=api.channel) as session:
        for version, change in (
            (0, {"value": "one"}),
            (1, {"value": {"two": 2}}),
            (2, {"mode": "delete"}),
        ):
            found = waiting(api, pool, "/state/key", after_version=version)
            session.call("set_state", key="key", **change)
            entry = found.result(PATIENCE)
            assert (entry["version"], entry.get("value")) == (version + 1, change.get("value"))
    assert api.get("/state/key", after_version=3, wait=0.05)["version"] == 3
    assert api.get("/state/key", after_version=1)["version"] == 3
    assert api.refused("GET", "/state/key", channel=api.channel) == (404, "not_found")


# -- claims ------------------------------------------------------------------------------


def test_claims_are_granted_all_or_none(api: Program) -> None:
    """A refusal names the holder, and no path has been claimed."""
    assert len(api.post("/claims", **{"as": "ci"}, paths=["src/**", "port:1"], reason="release")["claims"]) == 2

    answer = api.ask("POST", "/claims", json={"as": "ann", "channel": api.channel, "paths": ["doc", "src/a.py"]})

    assert (answer.status_code, answer.json()["error"], answer.json()["holder"]) == (409, "claim_held", "ci")
    found = api.get("/claims")["claims"]
    assert [(claim["path"], claim["owner"], claim["reason"]) for claim in found] == [
        ("port:1", "ci", "release"),
        ("src/**", "ci", "release"),
    ]


def test_paths_and_names_are_understood_as_models_write_them(api: Program) -> None:
    """They are understood if that needs no files of the caller's machine; otherwise the refusal says what to write."""
    wanted = ["src/{a,b}.ts:10", "`docs/x.md` (guide)", '["port:1", "port:2"]']
    claimed = api.post("/claims", **{"as": "ci"}, paths=wanted)["claims"]
    assert [claim["path"] for claim in claimed] == ["src/a.ts", "src/b.ts", "docs/x.md", "port:1", "port:2"]
    unclear = {"as": "ci", "channel": api.channel, "paths": ["~/a.ts"]}
    assert api.refused("POST", "/claims", **unclear) == (400, "invalid_input")
    assert api.delete("/claims", **{"as": "ci"}, paths=["src/a.ts, src/b.ts"]) == {"released": ["src/a.ts", "src/b.ts"]}

    sent = api.post("/messages", **{"from": "ci"}, to="@ann, `bob`", content="hello")
    assert [found["recipient"] for found in sent["recipients"]] == ["ann", "bob"]


def test_shared_claims_stand_side_by_side(api: Program) -> None:
    """Shared claims exclude exclusive ones only."""
    for name in ("ann", "ci"):
        api.post("/claims", **{"as": name}, paths=["gpu:0"], shared=True, ttl=60)
    assert {claim["ttl_remaining"] <= 60 for claim in api.get("/claims")["claims"]} == {True}
    wanted = {"as": "bob", "channel": api.channel, "paths": ["gpu:0"]}
    assert api.refused("POST", "/claims", **wanted) == (409, "claim_held")


def test_claims_are_released_by_their_holder(api: Program) -> None:
    """The holder may release some or all of its claims, and none of another's."""
    api.post("/claims", **{"as": "ci"}, paths=["a", "b", "c"])
    theirs = {"as": "ann", "channel": api.channel, "paths": ["a"]}
    assert api.refused("DELETE", "/claims", **theirs) == (403, "claim_of_other")
    assert api.delete("/claims", **{"as": "ci"}, paths=["a", "nothing"]) == {"released": ["a"]}
    assert api.delete("/claims", **{"as": "ci"}, all=True) == {"released": ["b", "c"]}
    assert api.delete("/claims", **{"as": "ci"}, all=True) == {"released": []}
