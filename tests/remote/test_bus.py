"""A remote bus: sessions and commands keep their promises when the connection fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.bad_connection import Line, line
from tests.support.certificates import certificate
from tests.support.inbox_socket import inbox
from tests.support.processes import PATIENCE, Peer, Wire, environment, eventually, wire
from tests.support.served_bus import Served, served
from tests.support.tokens import new_token, revoke

pytestmark = pytest.mark.slow


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def server(db: Path) -> Iterator[Served]:
    with served(db) as running:
        yield running


@pytest.fixture
def relay(server: Served) -> Iterator[Line]:
    with line(server.url) as relay:
        yield relay


class Far:
    """Starts remote sessions: stdio servers that reach the bus over `url`, and do not have its file."""

    def __init__(self, url: str, folder: Path, running: ExitStack) -> None:
        self._url, self._folder, self._running = url, folder, running

    def __call__(self, name: str, **env: str) -> Wire:
        session = self._running.enter_context(wire(self._folder / "no.db", BUS_URL=self._url, **env))
        assert not session.call("register", name=name).failed
        return session


@pytest.fixture
def far(relay: Line, tmp_path: Path) -> Iterator[Far]:
    with ExitStack() as running:
        yield Far(relay.url, tmp_path, running)


def contents(found: Any) -> list[str]:
    return [message["content"] for message in found["messages"]]


# -- sessions -------------------------------------------------------------------------------------------


def test_sessions_here_and_elsewhere_are_on_one_bus(far: Far, db: Path, tmp_path: Path) -> None:
    """They see each other, write to each other, and share state and claims."""
    with wire(db) as near:
        near.call("register", name="near")
        there = far("there")
        there.call("send", to="near", content="from afar", kind="request")
        [message] = near.call("inbox").data["messages"]
        near.call("send", to="there", content="from here", reply_to=message["id"])
        brought = there.hook("UserPromptSubmit")
        there.call("set_state", key="k", value=1, expected_version=0)
        claimed = there.call("claim", path="port:8080")
        refused = near.call("claim", path="port:8080")

        assert "from here" in brought
        assert near.call("get_state", key="k").data["state"][0]["value"] == 1
        assert (claimed.failed, refused.failed) == (False, True)
        assert {agent["name"] for agent in near.call("agents").data["agents"]} == {"near", "there"}
    assert not (tmp_path / "no.db").exists()


def test_one_who_waits_elsewhere_is_told_at_once(far: Far, db: Path) -> None:
    """A remote `wait` returns as soon as a local session sends a message or changes the value."""
    there = far("there")
    number = there.post("tools/call", name="wait", arguments={"timeout": PATIENCE})
    Peer(db, "near").send("there", "now")
    assert contents(there.read_answer(number).data) == ["now"]

    number = there.post("tools/call", name="wait", arguments={"timeout": PATIENCE, "key": "k"})
    with wire(db) as near:
        near.call("register", name="other")
        near.call("set_state", key="k", value="v")
        assert there.read_answer(number).data["state"][0]["value"] == "v"


def test_an_idle_session_elsewhere_is_woken(relay: Line, db: Path, tmp_path: Path) -> None:
    """The bell of a remote session rings for mail from a local sender, and again after an outage."""
    with inbox() as socket, socket.server(tmp_path / "no.db", BUS_URL=relay.url) as there:
        there.call("register", name="there")
        near = Peer(db, "near")
        there.hook("UserPromptSubmit", prompt="p1")
        there.hook("Stop", prompt="p1")
        assert near.send("there", "the secret plan") == "waking"
        rung = socket.ring()
        assert rung.line == "1 unread on the bus from near (#1)"
        assert "the secret plan" in there.hook("UserPromptSubmit", prompt="p2")
        there.hook("Stop", prompt="p2")

        relay.condition = "cut"
        near.send("there", "while nobody was listening")
        relay.condition = "good"
        assert socket.ring().line == "1 unread on the bus from near (#2)"


# -- lost answers -----------------------------------------------------------------------------------------


def test_a_message_whose_answer_is_lost_is_sent_once(far: Far, relay: Line, db: Path) -> None:
    """The error says that the same call is safe to repeat; afterwards there is one message."""
    near, there = Peer(db, "near"), far("there")
    relay.condition, relay.about = "swallows answers", "/rpc/send "
    failed = there.call("send", to="near", content="once")
    relay.condition = "good"
    again = until_reached(there, "send", to="near", content="once")

    assert failed.failed
    assert "send the same again, it will not arrive twice" in failed.text
    assert relay.swallowed >= 2
    assert "already sent" in again.text
    assert near.state(1) == "queued"
    assert contents(there.call("history").data) == ["once"]


def test_two_messages_that_say_the_same_are_two(far: Far, db: Path) -> None:
    """Only a call whose outcome was unknown counts as repeated."""
    Peer(db, "near")
    there = far("there")
    there.call("send", to="near", content="again")
    there.call("send", to="near", content="again")

    assert contents(there.call("history").data) == ["again", "again"]


@pytest.mark.parametrize("fetch", ["inbox", "hook"])
def test_mail_in_a_lost_answer_is_never_called_read(far: Far, relay: Line, db: Path, fetch: str) -> None:
    """Mail lost in the answer is never confirmed, however the turn goes on, and comes again, marked."""
    near, there = Peer(db, "near"), far("there")
    there.hook("UserPromptSubmit", prompt="p1")
    near.send("there", "did you get this?")

    relay.condition, relay.about = "swallows answers", "/rpc/hand_over " if fetch == "inbox" else "/rpc/react "
    if fetch == "inbox":
        assert there.call("inbox").failed
    else:
        assert there.hook("PostToolBatch", prompt="p1") == ""
    assert relay.swallowed >= 2
    assert near.state(1) == "handed"

    relay.condition = "good"
    brought = eventually(lambda: there.hook("PostToolBatch", prompt="p1"), "the mail comes again")
    assert "did you get this?" in brought
    assert 'possibly_seen="true"' in brought
    assert near.state(1) == "handed"

    there.hook("Stop", prompt="p1")
    assert near.state(1) == "read"


def test_mail_that_was_held_stays_held_through_an_outage(far: Far, relay: Line, db: Path) -> None:
    """Mail that the model received before the outage is read when its turn goes on, and does not come again."""
    near, there = Peer(db, "near"), far("there")
    near.send("there", "one")
    assert "one" in there.hook("UserPromptSubmit", prompt="p1")

    relay.condition = "cut"
    assert there.call("agents").failed
    relay.condition = "good"
    until_reached(there, "agents")
    assert there.hook("PostToolBatch", prompt="p1") == ""

    assert near.state(1) == "read"


def test_what_cannot_be_repeated_is_said_to_be_unknown(far: Far, relay: Line) -> None:
    """An append whose outcome is unknown is not repeated behind the caller's back."""
    there = far("there")
    there.call("set_state", key="log", value="first")
    relay.condition, relay.about = "swallows answers", "/rpc/set_state "
    failed = there.call("set_state", key="log", value="second", mode="append")
    relay.condition = "good"

    assert failed.failed
    assert "not known whether" in failed.text
    assert until_reached(there, "get_state", key="log").data["state"][0]["value"] == "first\nsecond"


# -- outages ----------------------------------------------------------------------------------------------


def until_reached(session: Wire, tool: str, **arguments: Any) -> Any:
    """Retry until the bus can be reached; returns the tool's answer."""

    def reached() -> Any:
        found = session.call(tool, **arguments)
        return None if found.failed and "cannot be reached" in found.text else found

    return eventually(reached, "the bus is reached again")


def test_an_outage_is_said_clearly_and_ends_by_itself(db: Path, tmp_path: Path) -> None:
    """Tools fail at once and name the bus's address; prompts go on, and their user is told once. Afterwards the
    session has the same identity, and gets the mail that came meanwhile.
    """
    with ExitStack() as running:
        first = running.enter_context(ExitStack())
        server = first.enter_context(served(db))
        port = server.url.rpartition(":")[2]
        there = running.enter_context(wire(tmp_path / "no.db", BUS_URL=server.url))
        there.call("register", name="there")
        server.process.kill()
        first.close()

        failed = there.call("send", to="all", content="anybody?")
        hook = there.call("hook", event="UserPromptSubmit", session_id="s1", prompt_id="p1")
        again = there.call("hook", event="UserPromptSubmit", session_id="s1", prompt_id="p2")
        Peer(db, "near").send("there", "while you could not be reached")
        running.enter_context(served(db, port=port))
        me = until_reached(there, "whoami")
        brought = there.hook("UserPromptSubmit", prompt="p3")

    assert failed.failed
    assert f"the bus at {server.url} cannot be reached" in failed.text
    assert f"bus: the bus at {server.url} cannot be reached" in json.loads(hook.text)["systemMessage"]
    assert json.loads(again.text) == {}
    assert me.text == "there"
    assert "while you could not be reached" in brought


def told(session: Wire, prompt: str) -> str:
    """The text that the user sees with a prompt."""
    found = session.call("hook", event="UserPromptSubmit", session_id="s1", prompt_id=prompt)
    return str(json.loads(found.text).get("systemMessage", ""))


def test_each_outage_is_told_once(far: Far, relay: Line) -> None:
    """An outage is reported once, however long it lasts and whatever its errors say; the next one is reported again."""
    there = far("there")
    relay.condition = "cut"
    first = told(there, "p0")
    eventually(lambda: "tried again in 4 s" in there.call("whoami").text, "it is tried later and later")
    later = [told(there, f"p{number}") for number in range(1, 4)]
    relay.condition = "good"
    until_reached(there, "whoami")
    over = told(there, "p4")
    relay.condition = "cut"
    second = told(there, "p5")

    assert "cannot be reached" in first
    assert later == ["", "", ""]
    assert over == ""
    assert "cannot be reached" in second


def test_a_server_that_is_no_bus_is_named(tmp_path: Path) -> None:
    """If something else answers at the address, the error says so."""
    script = (
        "import http.server as s; h = s.ThreadingHTTPServer(('127.0.0.1', 0), s.BaseHTTPRequestHandler); "
        "print(h.server_port, flush=True); h.serve_forever()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        assert other.stdout
        url = f"http://127.0.0.1:{int(other.stdout.readline())}"
        done = run(tmp_path, url, "agents")
        other.kill()

    assert done.returncode == 5
    assert f"{url} answers with 501, and not as a claude-bus does" in done.stderr


def run(tmp_path: Path, url: str, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the bus at `url`."""
    return subprocess.run(
        [sys.executable, "-m", "claude_bus", *command],
        env=environment(tmp_path / "no.db", BUS_URL=url, **env),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def test_commands_work_on_a_bus_elsewhere(server: Served, tmp_path: Path) -> None:
    """A script sends, waits for the answer and reads it, and lists the agents."""
    assert run(tmp_path, server.url, "send", "deploy", "is it done?", "--as", "ci").returncode == 0
    read = run(tmp_path, server.url, "inbox", "--as", "deploy", "--wait", "5", "--json")
    run(tmp_path, server.url, "send", "ci", "yes", "--as", "deploy", "--reply-to", "1")
    answer = run(tmp_path, server.url, "inbox", "--as", "ci", "--wait", "5")
    status = run(tmp_path, server.url, "agents", "--json")

    assert contents(json.loads(read.stdout)) == ["is it done?"]
    assert "yes" in answer.stdout
    assert {agent["name"] for agent in json.loads(status.stdout)["agents"]} == {"ci", "deploy"}
    assert not (tmp_path / "no.db").exists()


def test_doctor_asks_the_bus_elsewhere(server: Served, tmp_path: Path) -> None:
    """It tests access to the remote bus, and does not check the unused local database; so does the bare command."""
    fine = run(tmp_path, server.url, "doctor", "--json")
    bad = run(tmp_path, "http://127.0.0.1:9", "doctor", "--json")
    status = run(tmp_path, server.url, "agents", "--json")

    [served_at] = [check for check in json.loads(fine.stdout)["checks"] if check["name"] == "served at"]
    [problem] = [check for check in json.loads(bad.stdout)["checks"] if check["ok"] is False]
    assert (fine.returncode, served_at["ok"]) == (0, True)
    assert (bad.returncode, problem["name"]) == (1, "served at")
    assert "cannot be reached" in problem["detail"]
    assert json.loads(status.stdout) == {"agents": []}
    assert "no.db" not in fine.stdout


def test_a_named_database_is_meant_whatever_the_address_says(server: Served, tmp_path: Path) -> None:
    """`--db` takes precedence over BUS_URL."""
    run(tmp_path, server.url, "send", "bob", "hello", "--as", "ann", "--db", str(tmp_path / "other.db"))

    assert (tmp_path / "other.db").exists()
    assert json.loads(run(tmp_path, server.url, "agents", "--json").stdout) == {"agents": []}


def test_the_status_is_that_of_the_bus_elsewhere(far: Far, server: Served, tmp_path: Path) -> None:
    """The bare command, in a terminal, shows the remote agents, though there is no local file."""
    far("there")
    terminal, end = os.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "claude_bus"],
        env=environment(tmp_path / "no.db", BUS_URL=server.url),
        stdin=end,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    os.close(terminal)
    os.close(end)

    assert f"on {server.url}, channel 'default'" in done.stdout
    assert "there  idle" in done.stdout


def test_a_command_waits_for_mail_elsewhere(server: Served, db: Path, tmp_path: Path) -> None:
    """`inbox --wait` returns the message that comes while it waits."""
    waiting = subprocess.Popen(
        [sys.executable, "-m", "claude_bus", "inbox", "--as", "ci", "--wait", str(PATIENCE)],
        env=environment(tmp_path / "no.db", BUS_URL=server.url),
        stdout=subprocess.PIPE,
        text=True,
    )
    near = Peer(db, "near")
    eventually(lambda: listening(db), "the command listens")
    near.send("ci", "come in")

    assert "come in" in waiting.communicate(timeout=PATIENCE)[0]
    assert near.state(1) == "read"


def test_a_command_says_how_its_message_is_not_sent_twice(relay: Line, db: Path, tmp_path: Path) -> None:
    """A repetition runs in another process, so it needs the key that the first one used."""
    Peer(db, "near")
    relay.condition, relay.about = "swallows answers", "/rpc/send "
    failed = run(tmp_path, relay.url, "send", "near", "once", "--as", "ci")
    relay.condition = "good"
    key = failed.stderr.rpartition("--key ")[2].strip()
    again = run(tmp_path, relay.url, "send", "near", "once", "--as", "ci", "--key", key, "--json")

    assert failed.returncode == 5
    assert key.startswith("once-")
    assert json.loads(again.stdout)["duplicate"] is True


def test_what_a_command_has_printed_is_all_that_it_prints(relay: Line, db: Path, tmp_path: Path) -> None:
    """If the receipt cannot be sent, stdout still holds exactly one document, and the mail comes again."""
    near = Peer(db, "near")
    near.send("ci", "come in")
    relay.condition, relay.about = "swallows answers", "/rpc/confirm "
    done = run(tmp_path, relay.url, "inbox", "--as", "ci", "--json")
    relay.condition = "good"

    assert done.returncode == 5
    assert contents(json.loads(done.stdout)) == ["come in"]
    assert "cannot be reached" in done.stderr
    assert "may come again, marked" in done.stderr


def listening(db: Path) -> bool:
    """Tells whether any remote session listens for all mail."""
    import sqlite3

    with sqlite3.connect(db) as look:
        return bool(look.execute("SELECT 1 FROM listeners WHERE address LIKE '@@remote:%'").fetchall())


# -- addresses and access -------------------------------------------------------------------------------------


def test_an_address_with_https_where_http_is_spoken(server: Served, tmp_path: Path) -> None:
    """The error says that the scheme of the address may be wrong."""
    done = run(tmp_path, server.url.replace("http:", "https:"), "agents")

    assert (done.returncode, "is it http:// that is spoken there?" in done.stderr) == (5, True)


def test_over_https_with_a_token_from_a_file(db: Path, tmp_path: Path) -> None:
    """A self-signed certificate is trusted if it is configured; otherwise nothing is sent."""
    cert, key = certificate(tmp_path, "localhost")
    token = tmp_path / "token"
    token.write_text(new_token(db, "ann")[1], encoding="utf-8")
    token.chmod(0o600)
    with served(db, "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        trusted = run(
            tmp_path, url, "send", "bob", "hello", "--as", "ann", BUS_TOKEN_FILE=str(token), BUS_CA_FILE=str(cert)
        )
        doubted = run(tmp_path, url, "agents", BUS_TOKEN_FILE=str(token))
        foreign = run(
            tmp_path, url, "send", "bob", "hello", "--as", "zoe", BUS_TOKEN_FILE=str(token), BUS_CA_FILE=str(cert)
        )
        nobody = run(tmp_path, url, "agents", BUS_CA_FILE=str(cert))

    assert (trusted.returncode, trusted.stderr) == (0, "")
    assert (doubted.returncode, "BUS_CA_FILE can name a certificate to trust" in doubted.stderr) == (5, True)
    assert (foreign.returncode, nobody.returncode) == (2, 2)
    assert "not for the name 'zoe'; it may use ann, ann-*" in foreign.stderr
    assert "set BUS_TOKEN or BUS_TOKEN_FILE" in nobody.stderr


def test_a_certificate_is_trusted_whoever_issued_it(db: Path, tmp_path: Path) -> None:
    """The server's own certificate is enough; that of its issuer is not needed."""
    cert, key = certificate(tmp_path, "server", issued=True)
    with served(db, "--tls-cert", str(cert), "--tls-key", str(key)) as server:
        trusted = run(tmp_path, server.url, "agents", BUS_CA_FILE=str(cert))
        doubted = run(tmp_path, server.url, "agents")

    assert (trusted.returncode, trusted.stderr) == (0, "")
    assert (doubted.returncode, "BUS_CA_FILE can name a certificate to trust" in doubted.stderr) == (5, True)


def test_a_session_whose_token_ends_is_told(db: Path, tmp_path: Path) -> None:
    """The user is told once why no mail comes; the tools say so each time."""
    number, secret = new_token(db, "ann")
    with served(db) as server, wire(tmp_path / "no.db", BUS_URL=server.url, BUS_TOKEN=secret) as there:
        there.call("register", name="ann")
        revoke(db, number)
        told, again = (there.call("hook", event="UserPromptSubmit", session_id="s", prompt_id=p) for p in ("1", "2"))
        failed = there.call("inbox")

    assert "refuses the token in BUS_TOKEN" in json.loads(told.text)["systemMessage"]
    assert json.loads(again.text) == {}
    assert failed.failed
    assert "refuses the token in BUS_TOKEN" in failed.text


def test_a_session_with_a_setting_of_no_use_lives_and_says_so(server: Served, tmp_path: Path) -> None:
    """Its tools say what to fix and the user is told once; after the file is fixed, the session works."""
    token = tmp_path / "token"
    token.write_text("bus_first\nbus_second", encoding="utf-8")
    token.chmod(0o600)
    with wire(tmp_path / "no.db", BUS_URL=server.url, BUS_TOKEN_FILE=str(token)) as there:
        failed = there.call("register", name="there")
        told, again = (there.call("hook", event="UserPromptSubmit", session_id="s", prompt_id=p) for p in ("1", "2"))
        token.write_text("bus_whole", encoding="utf-8")
        mended = there.call("register", name="there")

    assert f"BUS_TOKEN_FILE='{token}' holds no token" in failed.text
    assert "holds no token" in json.loads(told.text)["systemMessage"]
    assert json.loads(again.text) == {}
    assert not mended.failed
    assert "bus_" not in failed.text + told.text


def test_without_a_name_one_is_what_the_token_makes_of_the_login(db: Path, tmp_path: Path) -> None:
    """Its name is listed like a session's; if the token permits other names only, the error says how to choose."""
    (_, ann), (_, ci) = new_token(db, "ann"), new_token(db, "ci", "--names", "ci")
    with served(db) as server:
        read = run(tmp_path, server.url, "inbox", BUS_TOKEN=ann, LOGNAME="wanda")
        refused = run(tmp_path, server.url, "inbox", BUS_TOKEN=ci, LOGNAME="wanda")

    assert (read.returncode, read.stdout) == (0, "no messages for ann-wanda\n")
    assert refused.returncode == 2
    assert "it may use ci: say as whom, with --as NAME or BUS_NAME" in refused.stderr


def test_a_password_in_the_address_lets_in_and_is_not_shown(db: Path, tmp_path: Path) -> None:
    """The password is sent as Basic; no text that shows the address contains it."""
    url = "http://ann:{}@127.0.0.1:{}"
    _, secret = new_token(db, "ann")
    with served(db) as server:
        port = server.url.rpartition(":")[2]
        fine = run(tmp_path, url.format(secret, port), "doctor")
        wrong = run(tmp_path, url.format("hidden", port), "doctor", "--json")
    nobody = run(tmp_path, url.format("hidden", port), "agents")
    here = run(tmp_path, url.format("hidden", port), "token", "list")

    assert f"{server.url}, with a token" in fine.stdout
    assert [done.returncode for done in (fine, wrong, nobody, here)] == [0, 1, 5, 2]
    assert "the user and password in its address" in wrong.stdout
    shown = "".join(done.stdout + done.stderr for done in (fine, wrong, nobody, here))
    assert secret not in shown
    assert "hidden" not in shown


def test_a_broken_token_file_stops_nobody_who_needs_none(tmp_path: Path) -> None:
    """Commands on a local database do not read it."""
    done = run(tmp_path, "", "agents", "--db", str(tmp_path / "here.db"), BUS_TOKEN_FILE=str(tmp_path / "none"))

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="its files have no modes")
def test_a_token_that_others_can_read_is_refused(server: Served, tmp_path: Path) -> None:
    """The error says what to do, and the token is not used."""
    token = tmp_path / "token"
    token.write_text("bus_secret", encoding="utf-8")
    token.chmod(0o644)
    done = run(tmp_path, server.url, "agents", BUS_TOKEN_FILE=str(token))

    assert done.returncode == 2
    assert f"chmod 600 {token}" in done.stderr
    assert "bus_secret" not in done.stderr
