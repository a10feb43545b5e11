"""The tokens of a served bus, made and ended by the command, asked for by real servers."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import anyio
import pytest

from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.errors import StoreError
from claude_bus.http.token_cache import TokenCache
from claude_bus.sql import events, tokens
from tests.support.processes import PATIENCE, environment, eventually
from tests.support.raw_http import ask, connected, head, reply
from tests.support.served_bus import Served, served
from tests.support.tokens import new_token, revoke, token_command

pytestmark = pytest.mark.slow

GATED = "tests.support.gated_server"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


def refused_start(db: Path, *options: str, **env: str) -> str:
    """Return the message of a server that must not start."""
    command = [sys.executable, "-m", "claude_bus", "serve", "--port", "0", *options]
    done = subprocess.run(
        command, env=environment(db, **env), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


# -- when one is needed ----------------------------------------------------------------------


def test_loopback_needs_no_token_while_there_is_none(db: Path) -> None:
    """This machine's users may use a bus that only they can reach."""
    with served(db, program=GATED) as bus:
        assert ask(bus.url, "GET /whoami").document["owner"] == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_addresses_are_not_served_without_a_token(db: Path, host: str) -> None:
    """A bus that others can reach does not start before there is a token, and says how to make one."""
    assert "claude-bus token create NAME" in refused_start(db, "--host", host)


def test_a_token_that_ended_opens_nothing(db: Path) -> None:
    """Neither a revoked nor an expired token lets a server start where others can reach it."""
    revoke(db, new_token(db, "anna")[0])
    new_token(db, "bert", "--ttl", "0.001")

    assert "no valid token" in refused_start(db, "--host", "0.0.0.0")


def test_other_addresses_are_served_with_a_token(db: Path) -> None:
    """Once there is a token the bus is served to others, and they need it."""
    _, secret = new_token(db, "anna")
    with served(db, "--host", "0.0.0.0", program=GATED) as bus:
        url = bus.url.replace("0.0.0.0", "127.0.0.1")

        assert ask(url, "GET /whoami").status == 401
        assert ask(url, "GET /whoami", token=secret).document["owner"] == "anna"


def test_where_there_is_a_token_loopback_needs_one_too(db: Path) -> None:
    """A reverse proxy arrives on loopback: its users are not this machine's."""
    new_token(db, "anna")
    with served(db, program=GATED) as bus:
        assert ask(bus.url, "GET /whoami").status == 401


def test_a_proxy_in_front_of_an_open_bus_is_refused(db: Path) -> None:
    """A request through a proxy may come from anywhere, so it needs a token; the refusal says how to make one."""
    with served(db, program=GATED) as bus:
        for header in ("X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1", "Via: 1.1 proxy"):
            answer = ask(bus.url, "GET /whoami", header)
            assert (answer.status, "token create" in answer.document["message"]) == (401, True)


def test_http_1_0_is_for_those_with_a_token(db: Path) -> None:
    """Proxies speak it that say nothing of whom they speak for. The answer says what to do, and once that is done it
    is as good as any; curl and Python's library speak HTTP/1.1 anyhow."""
    with served(db, program=GATED) as bus:
        answer = ask(bus.url, "GET /whoami HTTP/1.0")
        assert (answer.status, answer.document["error"]) == (401, "unauthorized")
        assert "token create" in answer.document["message"]
        assert "HTTP/1.1" in answer.document["message"]
        with urllib.request.urlopen(f"{bus.url}/whoami", timeout=PATIENCE) as found:
            assert found.status == 200
        curl = ["curl", "--silent", "--fail", f"{bus.url}/whoami"]
        assert subprocess.run(curl, capture_output=True, timeout=PATIENCE, check=False).returncode == 0
        _, secret = new_token(db, "anna")
        assert ask(bus.url, "GET /whoami HTTP/1.0", token=secret).document["owner"] == "anna"
        assert ask(bus.url, "GET /healthz HTTP/1.0").status == 200


@pytest.mark.parametrize("closed", [False, True])
def test_an_open_bus_says_so_when_it_begins(db: Path, closed: bool) -> None:
    """One line, on who may do what; nothing of the kind where a token is needed."""
    if closed:
        new_token(db, "anna")
    with served(db) as bus:
        bus.process.terminate()
        assert bus.process.stdout
        said = bus.process.stdout.read().decode().splitlines()
    assert ["whoever reaches this port on this machine" in line for line in said] == ([] if closed else [True])


def test_the_first_token_closes_an_open_bus_for_good(db: Path) -> None:
    """It counts from the next request on, without a restart; and revoking it opens nothing."""
    with served(db, program=GATED) as bus:
        assert ask(bus.url, "GET /whoami").status == 200
        number, secret = new_token(db, "anna")
        assert ask(bus.url, "GET /whoami").status == 401
        assert ask(bus.url, "GET /whoami", token=secret).status == 200

        revoke(db, number)

        assert ask(bus.url, "GET /whoami").status == 401
        assert ask(bus.url, "GET /whoami", token=secret).status == 401


def test_whoever_waits_on_an_open_bus_that_is_closed_waits_no_more(db: Path) -> None:
    """A stream that began before the first token was made ends with it."""
    with served(db, program=GATED) as bus, connected(bus.url) as stream:
        stream.sendall(head(bus.url, "GET /stream?every=3600 HTTP/1.1"))
        said = b""
        while not said.endswith(b"data: here\n\n\r\n"):  # with the head, or after it
            said += stream.recv(65_536)

        new_token(db, "anna")

        while part := stream.recv(65_536):  # a stream that goes on is silent for longer than we listen
            said += part
            if said.endswith(b"0\r\n\r\n"):
                break
        assert said.count(b"data: here") == 1


def test_all_is_closed_but_whether_the_server_is_there(db: Path) -> None:
    """Without a token nobody learns which paths there are; a health check needs none."""
    new_token(db, "anna")
    with served(db, "--prefix", "/team", program=GATED) as bus:
        answers = {path: ask(bus.url, f"GET {path}") for path in ("/team/whoami", "/team/nothing", "/", "/healthz/")}
        assert {path: answer.status for path, answer in answers.items()} == dict.fromkeys(answers, 401)
        assert ask(bus.url, "GET /team/healthz").status != 401
        assert ask(bus.url, "POST /team/healthz/../whoami").status == 401


# -- which are valid -------------------------------------------------------------------------


def test_a_token_goes_as_bearer_or_as_password(db: Path) -> None:
    """Bearer, or Basic with any user name; the schemes in any case. A refusal says which schemes are understood."""
    _, secret = new_token(db, "anna")
    basic = base64.b64encode(f"claude:{secret}".encode()).decode()
    nameless = base64.b64encode(f":{secret}".encode()).decode()
    with served(db, program=GATED) as bus:
        for value in (f"Bearer {secret}", f"bearer  {secret}", f"Basic {basic}", f"BASIC {nameless}"):
            assert ask(bus.url, "GET /whoami", f"Authorization: {value}").document == {
                "owner": "anna",
                "scheme": "http",
            }

        answer = ask(bus.url, "GET /whoami")
        assert answer.status == 401
        assert "Bearer" in answer.headers["www-authenticate"]
        assert "Basic" in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "value",
    [
        "Bearer",
        "Bearer bus_wrong",
        "Bearer \xe9",
        "Basic",
        "Basic !!!",
        "Basic YQ==",
        "Basic /////w==",
        "Digest username=x",
        "{secret}",
        "Bearer {secret}x",
        "Bearer {digest}",
        "Token {secret}",
    ],
)
def test_nothing_else_goes(db: Path, value: str) -> None:
    """Wrong, damaged, half, and other kinds of credentials are refused, and so is what the database holds."""
    _, secret = new_token(db, "anna")
    digest = sqlite_dump(db).split("INSERT INTO \"tokens\" VALUES(1,'anna','")[1][:64]
    assert re.fullmatch("[0-9a-f]{64}", digest)
    with served(db, program=GATED) as bus:
        answer = ask(bus.url, "GET /whoami", "Authorization: " + value.format(secret=secret, digest=digest))
        assert (answer.status, answer.document["error"]) == (401, "unauthorized")


def sqlite_dump(db: Path) -> str:
    import sqlite3

    connection = sqlite3.connect(db)
    try:
        return "\n".join(connection.iterdump())
    finally:
        connection.close()


def test_an_expired_token_is_refused(db: Path) -> None:
    """Beside one that is still good."""
    _, lasting = new_token(db, "anna", "--ttl", "1h")
    _, brief = new_token(db, "bert", "--ttl", "0.001")
    with served(db, program=GATED) as bus:
        assert ask(bus.url, "GET /whoami", token=lasting).status == 200
        assert ask(bus.url, "GET /whoami", token=brief).status == 401


@pytest.mark.anyio
async def test_a_token_expires_while_nothing_is_stored(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gate that knows a token by heart knows its end too."""
    async with open_local(Config(db)) as bus:
        _, secret = await bus.create_token("anna", ["anna"], ["default"], 3600)
        gate = TokenCache(bus, closed=True)
        grant = await gate.grant(secret)
        assert grant
        assert await gate.still(grant)

        later = time.time() + 3600
        monkeypatch.setattr("claude_bus.http.token_cache.time.time", lambda: later)

        assert await gate.grant(secret) is None
        assert not await gate.still(grant)


def test_a_revoked_token_is_refused_at_once(db: Path) -> None:
    """Already the next request is refused; other tokens stay."""
    number, secret = new_token(db, "anna")
    _, other = new_token(db, "bert")
    with served(db, program=GATED) as bus:
        assert ask(bus.url, "GET /whoami", token=secret).status == 200
        revoke(db, number)
        assert ask(bus.url, "GET /whoami", token=secret).status == 401
        assert ask(bus.url, "GET /whoami", token=other).status == 200


def test_a_revoked_token_ends_what_waits(db: Path) -> None:
    """A caller that waits with it is told, its stream ends, and those of others go on."""
    number, secret = new_token(db, "anna")
    _, other = new_token(db, "bert")
    with (
        served(db, program=GATED) as bus,
        connected(bus.url) as poll,
        connected(bus.url) as stream,
        connected(bus.url) as theirs,
    ):
        poll.sendall(head(bus.url, "GET /wait HTTP/1.1", f"Authorization: Bearer {secret}"))
        stream.sendall(head(bus.url, "GET /stream HTTP/1.1", f"Authorization: Bearer {secret}"))
        theirs.sendall(head(bus.url, "GET /wait?block=5 HTTP/1.1", f"Authorization: Bearer {other}"))
        eventually(lambda: ask(bus.url, "GET /waiting", token=other).document["waiting"] == 2)

        revoke(db, number)

        assert reply(poll).status == 401
        assert reply(stream).body == b"data: here\n\n"
        assert reply(theirs).body == b"nothing"


def test_what_was_done_for_a_token_that_was_revoked_meanwhile_is_not_told(db: Path) -> None:
    """A request that may have done something is not cut off, but its answer says no more than that."""
    number, secret = new_token(db, "anna")
    with served(db, program=GATED) as bus, connected(bus.url) as slow:
        slow.sendall(head(bus.url, "POST /late HTTP/1.1", f"Authorization: Bearer {secret}"))
        revoke(db, number)

        answer = reply(slow)

    assert answer.status == 401
    assert "may have been done" in answer.document["message"]


def test_a_token_is_for_its_names(db: Path) -> None:
    """Its bearer may be whom it names, and nobody else; unless told otherwise OWNER and OWNER-*."""
    _, anna = new_token(db, "anna")
    _, team = new_token(db, "ci", "--names", "build-?,deploy")
    with served(db, program=GATED) as bus:

        def may_be(secret: str, name: str) -> bool:
            answer = ask(bus.url, "POST /be", token=secret, body=json.dumps({"name": name}).encode())
            assert answer.status in (200, 403)
            return answer.status == 200

        assert [may_be(anna, name) for name in ("anna", "anna-2", "annabel", "bert")] == [True, True, False, False]
        assert [may_be(team, name) for name in ("build-1", "deploy", "ci", "build-10")] == [True, True, False, False]


@pytest.mark.anyio
async def test_who_has_no_token_learns_nothing_of_the_store(db: Path) -> None:
    """A store that fails fails everybody, and says to nobody who has not shown a token yet where it is."""
    db.write_text("no database")  # noqa: ASYNC240 - before anything runs
    async with open_local(Config(db)) as bus:
        with pytest.raises(StoreError) as caught:
            await TokenCache(bus, closed=True).grant("bus_any")
    assert str(db) not in json.dumps(caught.value.as_dict())


# -- the command -----------------------------------------------------------------------------


def test_the_command_shows_a_secret_once_and_how_to_use_it(db: Path) -> None:
    """With the lines to use it; lists never show it again."""
    shown = token_command(db, "create", "anna", "--ttl", "30d", BUS_PORT="9000", BUS_PREFIX="bus").stdout
    [secret] = re.findall(r"bus_\S{40,}", shown)

    assert "names anna, anna-*; channels default" in shown
    assert "BUS_URL=https://SERVER:9000/bus BUS_TOKEN_FILE=" in shown
    assert "https://SERVER:9000/bus stands for the address by which that machine reaches" in shown
    assert "claude mcp add --transport http" in shown
    assert secret not in token_command(db, "list", "--all").stdout + token_command(db, "list", "--json").stdout


def test_the_command_writes_a_secret_to_a_file_of_its_own(db: Path, tmp_path: Path) -> None:
    """Readable by its owner only, and never over a file that is there; then it is printed nowhere."""
    file = tmp_path / "secret"
    done = token_command(db, "create", "anna", "--json", "--out", str(file))
    secret = file.read_text().strip()

    assert re.fullmatch(r"bus_\S{40,}", secret)
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret not in done.stdout
    assert "token" not in json.loads(done.stdout)

    again = token_command(db, "create", "bert", "--out", str(file), status=2)
    assert "exists" in again.stderr
    assert file.read_text().strip() == secret
    assert [each["owner"] for each in json.loads(token_command(db, "list", "--json").stdout)["tokens"]] == ["anna"]


def test_no_token_comes_about_that_nobody_can_be_told(db: Path, tmp_path: Path) -> None:
    """If the file cannot be made there is no token; if the token cannot be made there is no file."""
    token_command(db, "create", "anna", "--out", str(tmp_path / "missing" / "secret"), status=2)
    assert "there is no token" in token_command(db, "list", "--all").stdout

    db.unlink()
    db.write_text("no database")
    token_command(db, "create", "anna", "--out", str(tmp_path / "secret"), status=5)
    assert not (tmp_path / "secret").exists()


def test_the_command_lists_and_revokes(db: Path) -> None:
    """The list has the valid ones, or all; what is revoked twice stays revoked; what is unknown revokes nothing."""
    first, _ = new_token(db, "anna")
    new_token(db, "bert", "--channels", "default,shop-*")

    def states(*options: str) -> dict[str, str]:
        found = json.loads(token_command(db, "list", "--json", *options).stdout)["tokens"]
        return {each["owner"]: each["state"] for each in found}

    assert "no token 99" in token_command(db, "revoke", str(first), "99", status=3).stderr
    assert states() == {"anna": "valid", "bert": "valid"}
    token_command(db, "revoke", str(first))
    token_command(db, "revoke", str(first))
    assert states() == {"bert": "valid"}
    assert states("--all") == {"anna": "revoked", "bert": "valid"}
    assert "shop-*" in token_command(db, "list").stdout


def test_a_bad_pattern_is_named_as_it_was_given(db: Path) -> None:
    """Not as what it was tried with."""
    assert "'*@*'" in token_command(db, "create", "anna", "--names", "*@*", status=2).stderr
    assert "--names 'a b' is not valid" in token_command(db, "create", "anna", "--names", "a b", status=2).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", ""),
        ("create", "all"),
        ("create", "anna", "--names", "a b"),
        ("create", "anna", "--names", "[a]*"),
        ("create", "anna", "--names", "*@*"),
        ("create", "anna", "--channels", "x/y"),
        ("create", "anna", "--ttl", "soon"),
        ("create", "anna", "--ttl", "0"),
        ("create", "anna", "--ttl", "-1"),
        ("create", "anna", "--ttl", "nan"),
        ("revoke", "x"),
        ("revoke",),
        (),
    ],
)
def test_bad_arguments_make_no_token(db: Path, arguments: tuple[str, ...]) -> None:
    """Exit status 2, and nothing came about."""
    token_command(db, *arguments, status=2)
    assert "there is no token" in token_command(db, "list", "--all").stdout


def test_tokens_are_made_where_the_bus_is_served(db: Path) -> None:
    """Where BUS_URL names a bus elsewhere a token of this machine's file would be for nothing."""
    done = token_command(db, "create", "anna", status=2, BUS_URL="https://bus.example.org")
    assert "where the bus is served" in done.stderr
    token_command(db, "create", "anna", "--db", str(db), BUS_URL="https://bus.example.org")


def test_no_token_is_made_that_nobody_is_told(db: Path) -> None:
    """A fault in a setting of its address is reported before the token is made, not in place of its secret."""
    refused = token_command(db, "create", "anna", status=2, BUS_PORT="no-port")

    assert "BUS_PORT='no-port' is not valid: give a port up to 65535" in refused.stderr
    assert json.loads(token_command(db, "list", "--json").stdout) == {"tokens": []}


def test_doctor_counts_tokens(db: Path) -> None:
    """A health check says whether callers need a token, and never shows one."""
    _, secret = new_token(db, "anna")
    command = [sys.executable, "-m", "claude_bus", "doctor"]
    here, elsewhere = (
        subprocess.run(
            command, env=environment(db, BUS_TOKEN=secret, **env), capture_output=True, text=True, check=False
        )
        for env in ({}, {"BUS_URL": "http://127.0.0.1:9"})
    )

    assert "1 valid" in here.stdout
    assert "http://127.0.0.1:9, with a token" in elsewhere.stdout
    assert secret not in here.stdout + here.stderr + elsewhere.stdout + elsewhere.stderr


# -- where secrets must not be ----------------------------------------------------------------


def _use(bus: Served, secret: str) -> None:
    """Send the secret in every way that it can come, right and wrong."""
    basic = base64.b64encode(f"claude:{secret}".encode()).decode()
    ask(bus.url, "GET /whoami", token=secret)
    ask(bus.url, "GET /whoami", f"Authorization: Basic {basic}")
    ask(bus.url, "GET /whoami", f"Authorization: {secret}")
    ask(bus.url, "GET /crash", token=secret)
    ask(bus.url, f"GET /whoami?token={secret}")
    ask(bus.url, f"GET /{secret}")
    ask(bus.url, "GET /whoami", f"Host: {secret}")
    ask(bus.url, "GET /whoami", f"Origin: {secret}")
    ask(bus.url, f"GET /whoami {secret}")
    ask(bus.url, "POST /be", token=secret, body=json.dumps({"name": secret}).encode())
    ask(bus.url, "POST /be", token=secret, body=secret.encode())


def test_no_secret_is_anywhere(db: Path) -> None:
    """Not in a server's log, however much it logs, not in the database, its journal, or what `ps` shows."""
    number, secret = new_token(db, "anna")
    with served(db, "-vv", program=GATED) as bus:
        _use(bus, secret)
        shown = Path(f"/proc/{bus.process.pid}/cmdline").read_bytes()
        revoke(db, number)
        _use(bus, secret)
    log = bus.log.read_text()

    async def journal() -> str:
        async with open_local(Config(db)) as local:
            return (
                repr(await local.run(events.since, "", 0, 100))
                + repr(await local.run(tokens.listing))
                + repr(await local.run(tokens.valid, None))
            )

    assert "GET /whoami 200" in log
    assert "ZeroDivisionError" in log
    told = anyio.run(journal)
    assert "token_create" in told
    for text in (log, told, sqlite_dump(db), shown.decode()):
        assert secret not in text
        assert base64.b64encode(f"claude:{secret}".encode()).decode() not in text
    assert not [file for file in db.parent.iterdir() if secret.encode() in file.read_bytes()]
