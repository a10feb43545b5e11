"""Tokens in the URL: for clients of the two original wires that can present one in no other way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compat_clients import Caller
from tests.support.processes import PATIENCE, environment
from tests.support.served_bus import Served, served
from tests.support.tokens import new_token, revoke, token_command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served") / "bus.db"


@pytest.fixture(scope="module")
def secret(db: Path) -> str:
    """The secret of a token for ann's names, created as a user does."""
    return new_token(db, "ann", "--in-url")[1]


@pytest.fixture(scope="module")
def server(db: Path, secret: str) -> Iterator[Served]:
    with served(db, "-vv", "--prefix", "/agent-bus") as running:
        yield running


def at(server: Served, secret: str) -> Caller:
    """A client that knows only a URL."""
    return Caller(f"{server.url}/t/{secret}")


def test_a_client_of_either_wire_needs_nothing_but_the_address(server: Served, secret: str) -> None:
    """It sends under the token's names, and reads their mail."""
    ann = at(server, secret)

    ann.send("ann", "ann-phone", "over the first wire")
    assert [m["msg"] for m in ann.recv("ann-phone")["messages"]] == ["over the first wire"]
    assert ann.get("/inbox").data["recipients"] == {"default": {"ann-phone": 1}}

    said = ann.say("ann", "over the second")
    assert [m["body"] for m in ann.messages(unread_by="ann-phone")] == ["over the first wire", "over the second"]
    assert ann.post(f"/ack/{said['id']}", {"reader": "ann-phone"}).status == 200
    assert ann.get("/health").status == ann.get("/healthz").status == 200


def test_it_permits_what_the_token_does(server: Served, secret: str) -> None:
    """Other names are 403, as with a token in a header."""
    ann = at(server, secret)
    assert ann.post("/send", {"from": "bob", "to": "ann", "msg": "x"}).status == 403
    assert ann.get("/recv", to="bob").status == 403


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/agents", "/mcp", "/rpc/agents", "/rpc/ear?address=a", "/metrics", "/", "/ackk"]
)
@pytest.mark.parametrize("where", ["address", "header"])
def test_it_is_for_the_two_wires_only(server: Served, secret: str, path: str, where: str) -> None:
    """More people than its owner may read it, so it grants no other access, wherever it is presented."""
    caller = at(server, secret) if where == "address" else Caller(server.url, secret)
    reply = caller.get(path)
    assert (reply.status, reply.data["error"]) == (403, "forbidden")


def test_any_other_token_may_not_stand_in_an_address(db: Path, server: Served) -> None:
    """It was not made to be seen by others. The caller who put it there is told to revoke it."""
    _, other = new_token(db, "bob")
    reply = at(server, other).get("/recv", to="bob")
    assert (reply.status, reply.data["error"]) == (403, "forbidden")
    assert "revoke it" in reply.data["message"]
    assert Caller(server.url, other).get("/recv", to="bob").status == 200


@pytest.mark.parametrize("path", ["/t/bus_wrong/send", "/t/bus_wrong/healthz", "/t//healthz", "/t/", "/t/bus_wrong"])
def test_a_wrong_one_opens_nothing(server: Served, path: str) -> None:
    """The answer is 401, as without a token."""
    assert Caller(server.url).get(path).status == 401


def test_it_ends_when_it_is_revoked(db: Path, server: Served, secret: str) -> None:
    """The revocation takes effect at once."""
    number, other = new_token(db, "bob", "--in-url")
    bob = at(server, other)
    assert bob.get("/recv", to="bob").status == 200
    revoke(db, number)
    assert bob.get("/recv", to="bob").status == 401
    assert at(server, secret).get("/recv", to="ann").status == 200


def test_nothing_tells_of_the_secret(server: Served, secret: str) -> None:
    """Neither the log nor an answer nor the metrics contain it, whatever the outcome of the request."""
    ann = at(server, secret)
    replies = [
        ann.get("/recv", to="ann"),
        ann.get("/nothing"),
        ann.get("/v1"),
        ann.get("/send"),
        ann.post("/send", raw=b"{"),
        ann.post("/send", raw=b"[" * 1_000_000),
        Caller(f"{server.url}/t/{secret}x").get("/recv", to="ann"),
    ]
    assert secret not in "".join(f"{reply.data} {reply.headers}" for reply in replies)
    log = server.log.read_text(encoding="utf-8")
    assert "GET /agent-bus/recv 200" in log
    assert secret not in log
    assert "/t/" not in log


def test_the_command_says_how_to_use_it_and_that_it_is_weaker(tmp_path: Path) -> None:
    """The URL is printed as each wire's clients take it; the list marks such tokens."""
    db = tmp_path / "bus.db"
    said = token_command(db, "create", "ann", "--in-url", "--names", "ann").stdout
    assert "export AGENT_BUS_URL=https://SERVER:8765/t/bus_" in said
    assert "BUS_URL=https://SERVER:8765/t/bus_" in said
    assert "Anyone who reads the address can use it" in said
    token_command(db, "create", "bob")
    listed = token_command(db, "list").stdout.splitlines()
    assert ["may stand in an address" in line for line in listed] == [True, False]


def test_where_no_token_is_needed_the_address_still_leads_there(tmp_path: Path) -> None:
    """A loopback bus without tokens admits every caller, also one that has a token of another server."""
    with served(tmp_path / "open.db") as server:
        assert Caller(f"{server.url}/t/bus_other").get("/healthz").status == 200


def test_our_own_client_does_not_show_it(tmp_path: Path) -> None:
    """If it cannot reach its bus, it shows the URL without the secret."""
    env = environment(tmp_path / "bus.db", AGENT_BUS_URL="http://127.0.0.1:9/t/bus_secret", AGENT_NAME="ann")
    done = subprocess.run(
        [sys.executable, "-m", "claude_bus", "post", "bob", "hello"],
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode != 0
    assert "bus_secret" not in done.stdout + done.stderr
