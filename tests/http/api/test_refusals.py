"""Refusals of `/v1`: invalid input, things that do not exist, and requests that a token does not permit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.api_client import Program, Serving, serving, until_waiting
from tests.support.processes import PATIENCE
from tests.support.tokens import revoke, token

pytestmark = pytest.mark.slow

# -- what is not valid -------------------------------------------------------------------

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("POST", "/messages", {"content": b"{", "headers": JSON}),
        ("POST", "/messages", {"content": b"\xff", "headers": JSON}),
        ("POST", "/messages", {"content": b"[" * 50_000, "headers": JSON}),
        ("POST", "/messages", {"content": b"[]", "headers": JSON}),
        ("POST", "/messages", {"content": b'{"from":"ci","to":"a","content":"\\ud800"}', "headers": JSON}),
        ("POST", "/messages", {"data": {"from": "ci", "to": "a", "content": "x"}}),
        ("POST", "/messages", {"json": {"from": "ci", "to": "a"}}),
        ("POST", "/messages", {"json": {"from": "ci", "to": "a", "content": "x", "sender": "bob"}}),
        ("POST", "/messages", {"json": {"from": "ci", "to": "a", "content": "x", "reply_to": "1"}}),
        ("POST", "/messages", {"json": {"from": "ci", "to": "a", "content": "x", "reply_to": 2**63}}),
        ("POST", "/messages", {"json": {"from": "ci", "to": "a", "content": "x", "reply_to": 10**400}}),
        ("POST", "/messages", {"json": {"from": "ci", "to": "a", "content": "x", "ttl": -1}}),
        ("POST", "/messages", {"json": {"from": "c\0i", "to": "a", "content": "x"}}),
        ("POST", "/messages", {"json": {"from": "all", "to": "a", "content": "x"}}),
        ("POST", "/messages", {"json": {"from": "ci", "to": [], "content": "x"}}),
        ("POST", "/messages", {"json": {"from": "ci", "to": "a", "content": "x", "channel": "no channel"}}),
        ("PUT", "/state/key", {"content": b'{"as":"ci","value":NaN}', "headers": JSON}),
        ("PUT", "/state/key", {"content": b'{"as":"ci","value":1e999}', "headers": JSON}),
        ("PUT", "/state/key", {"content": b'{"as":"ci","value":["\\udc00"]}', "headers": JSON}),
        ("PUT", "/state/key", {"content": b'{"as":"ci","value":%s}' % (b"[" * 500 + b"]" * 500), "headers": JSON}),
        ("PUT", "/state/key", {"content": b'{"as":"ci","value":1,"ttl":NaN}', "headers": JSON}),
        ("PUT", "/state/%00", {"json": {"as": "ci", "value": 1}}),
        ("PUT", "/state/%FF", {"json": {"as": "ci", "value": 1}}),
        ("PUT", "/state/" + "k" * 201, {"json": {"as": "ci", "value": 1}}),
        ("PUT", "/state/key", {"json": {"as": "ci", "value": 1}, "headers": {"If-Match": "1"}}),
        ("PUT", "/state/key", {"json": {"as": "ci", "value": 1}, "headers": {"If-Match": '"99999999999999999999"'}}),
        ("PUT", "/state/key", {"json": {"as": "ci", "value": 1}, "headers": {"If-None-Match": '"1"'}}),
        ("GET", "/messages?as=ci&search=%00", {}),
        ("GET", "/messages?as=ci&since=9223372036854775808", {}),
        ("GET", "/messages?as=ci&since=-1", {}),
        ("GET", "/messages?as=ci&limit=nan", {}),
        ("GET", "/messages?as=ci&unknown=1", {}),
        ("GET", "/messages", {}),
        ("GET", "/messages/x?as=ci", {}),
        ("GET", "/agents?active_within=inf", {}),
        ("GET", "/agents/ci/inbox?wait=61", {}),
        ("GET", "/agents/ci/inbox?wait=nan", {}),
        ("GET", "/agents/%2e%2e%2fci/inbox", {}),
        ("GET", "/events/stream?since=x", {}),
        ("GET", "/events/stream", {"headers": {"Last-Event-ID": "x"}}),
        ("GET", "/events/stream", {"headers": {"Last-Event-ID": "9" * 30}}),
        ("GET", "/events/stream", {"headers": {"Last-Event-ID": f"{'0' * 20}{'9' * 20}"}}),
        ("GET", "/events/stream", {"headers": {"Last-Event-ID": "0" * 5000}}),
        ("POST", "/claims", {"json": {"as": "ci", "paths": []}}),
        ("POST", "/claims", {"json": {"as": "ci", "paths": ["a\0b"]}}),
        ("DELETE", "/claims", {"json": {"as": "ci"}}),
        ("DELETE", "/claims", {"json": {"as": "ci", "paths": ["a"], "all": True}}),
        ("DELETE", "/claims", {"json": {"as": "ci", "all": False}}),
        ("POST", "/agents/ci/inbox/ack", {"json": {"ids": [True]}}),
        ("POST", "/agents/ci/inbox/ack", {"json": {"ids": list(range(1, 502))}}),
    ],
)
def test_what_is_not_valid_is_a_400(api: Program, method: str, path: str, more: dict[str, Any]) -> None:
    """The answer has the documented code, and a sentence."""
    answer = api.ask(method, path, **more)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_input"), answer.text
    assert answer.json()["message"]


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded"])
def test_json_is_said_to_be_json(api: Program, kind: str) -> None:
    """`curl -d` declares a form: a caller who forgets the header is told which one to send."""
    answer = api.ask("POST", "/messages", content=b'{"from": "ci"}', headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("GET", "/state/a/b", 404, "not_found"),
        ("POST", "", 405, "method_not_allowed"),
        ("PATCH", "/state/key", 405, "method_not_allowed"),
        ("DELETE", "/openapi.json", 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there_is_said_alike(api: Program, method: str, path: str, status: int, code: str) -> None:
    """All refusals have the same form; a 405 names the permitted methods."""
    answer = api.ask(method, path)
    assert (answer.status_code, answer.json()["error"], answer.json()["code"]) == (status, code, code)
    assert ("allow" in answer.headers) is (status == 405)


def test_what_is_too_large_is_a_413(api: Program) -> None:
    """A message of more than 64 KB, or a value of more than 256 KB, is refused."""
    message = {"from": "ci", "to": "ann", "content": "é" * 40_000, "allow_secret": True}
    assert api.refused("POST", "/messages", **message) == (413, "too_large")
    assert api.refused("PUT", "/state/key", **{"as": "ci"}, value="x" * 262_145) == (413, "too_large")


# -- tokens ------------------------------------------------------------------------------

SAMPLES: dict[str, Any] = {
    "name": "ci",
    "as": "ci",
    "from": "ci",
    "to": "ci",
    "content": "x",
    "key": "key",
    "value": 1,
    "id": 1,
    "ids": [1],
    "paths": ["port:1"],
    "all": True,
}
"""A valid value for every parameter and field that any operation requires."""


@dataclass(frozen=True)
class Operation:
    """One operation of the OpenAPI document, to be called with valid values."""

    method: str
    path: str
    parameters: tuple[str, ...]
    fields: tuple[str, ...] = ()
    """The required fields of its body."""
    required: tuple[str, ...] = ()

    @property
    def takes(self) -> set[str]:
        return {*self.parameters, *self.fields}

    def call(self, program: Program, **given: Any) -> httpx2.Response:
        """Call it with its required values and the given ones."""
        values = SAMPLES | given
        query = {name: values[name] for name in self.parameters if name in values and f"{{{name}}}" not in self.path}
        more: dict[str, Any] = {"params": query}
        if self.fields:
            wanted = [name for name in self.fields if name in self.required or name in given]
            more["json"] = {name: values[name] for name in wanted}
        return program.ask(self.method, self.path.removeprefix("/v1").format(**values), **more)


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """All operations of the document; if a body has alternatives, with the first one."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parameters = tuple(parameter["name"] for parameter in operation.get("parameters", ()))
            found = Operation(method.upper(), path, parameters)
            if "requestBody" in operation:
                schema = operation["requestBody"]["content"]["application/json"]["schema"]
                reference = next(iter(schema.get("anyOf", [schema])))["$ref"]
                body = document["components"]["schemas"][reference.rsplit("/", 1)[1]]
                fields, required = tuple(body["properties"]), tuple(body.get("required", ()))
                found = Operation(method.upper(), path, parameters, fields, required)
            yield found


@pytest.fixture(scope="module")
def guarded_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guarded") / "bus.db"


@pytest.fixture(scope="module")
def guarded(guarded_db: Path) -> Iterator[Serving]:
    """A server on which every caller needs a token."""
    token(guarded_db, owner="admin")
    with serving(guarded_db) as running:
        yield running


def test_nobody_acts_or_reads_for_a_name_that_is_not_theirs(guarded: Serving, guarded_db: Path) -> None:
    """Every operation with a `name`, `as` or `from` answers 403 for another's name, and works for one's own."""
    mine = guarded.program(token(guarded_db, "ci*")[1])
    asked = 0
    for operation in operations(mine.get("/openapi.json")):
        for field in operation.takes & {"name", "as", "from"}:
            asked += 1
            own = operation.call(mine, to="ann")
            assert own.status_code in (200, 201, 204, 404), (operation, own.text)
            answer = operation.call(mine, to="ann", **{field: "bob"})
            assert (answer.status_code, answer.json()["error"]) == (403, "forbidden"), (operation, answer.text)
            assert answer.json()["name"] == "bob"
    assert asked >= 11
    assert "bob" not in [agent["name"] for agent in mine.get("/agents")["agents"]]


def test_nobody_reaches_a_channel_that_is_not_theirs(guarded: Serving, guarded_db: Path) -> None:
    """Every operation with a `channel` refuses a foreign one; recipients on another channel are refused as well."""
    mine = guarded.program(token(guarded_db, channels=("team-*",))[1])
    asked = 0
    for operation in operations(mine.get("/openapi.json")):
        if "channel" in operation.takes:
            asked += 1
            answer = operation.call(mine, channel="theirs")
            assert (answer.status_code, answer.json()["error"]) == (403, "forbidden"), (operation, answer.text)
            assert answer.json()["channel"] == "theirs"
    assert asked >= 17
    for to in ("bob@theirs", ["bob", "all@theirs"]):
        message = {"from": "ci", "channel": "team-a", "to": to, "content": "x"}
        assert mine.refused("POST", "/messages", **message) == (403, "forbidden")


def test_nothing_is_answered_without_a_token(guarded: Serving) -> None:
    """No operation, not even the document or the metrics, is answered without a valid token."""
    for secret in ("", "bus_wrong"):
        nobody = guarded.program(secret)
        for path in ("/v1", "/v1/openapi.json", "/v1/agents", "/v1/events/stream", "/v1/nothing", "/metrics"):
            answer = nobody.http.get(path)
            assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
            assert "www-authenticate" in answer.headers


def test_the_document_says_that_a_token_is_needed(guarded: Serving, guarded_db: Path) -> None:
    """On a server that needs a token, the document says so; the root tells what the token permits."""
    mine = guarded.program(token(guarded_db, "ci*", owner="build machine", channels=("team-*",))[1])
    assert mine.get("/openapi.json")["security"] == [{"bearer": []}, {"basic": []}]
    found = mine.get("")
    assert (found["owner"], found["names"], found["channels"]) == ("build machine", ["ci*"], ["team-*"])


def test_who_waits_gets_nothing_after_the_token_is_revoked(guarded: Serving, guarded_db: Path) -> None:
    """Mail that comes after the revocation is not returned to a poll that began before."""
    number, secret = token(guarded_db, "waiter")
    mine, other = guarded.program(secret), guarded.program(token(guarded_db)[1])
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(mine.ask, "GET", "/agents/waiter/inbox", params={"wait": 60})
        until_waiting(other, 1)
        revoke(guarded_db, number)
        other.send("ann", "waiter", "not for you any more")

        answer = found.result(PATIENCE)
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")


def test_the_document_has_every_refusal_in_one_form(guarded: Serving, guarded_db: Path) -> None:
    """Each operation lists its possible refusals; none uses FastAPI's own form."""
    document = guarded.program(token(guarded_db)[1]).get("/openapi.json")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            refusals = {status: found for status, found in operation["responses"].items() if status >= "400"}
            assert {"400", "401", "403", "413", "429", "503", "507"} <= set(refusals), (method, path)
            for found in refusals.values():
                reference = found["content"]["application/json"]["schema"]["$ref"]
                assert reference == "#/components/schemas/Refusal"
    assert "ValidationError" not in str(document)
