"""Access control and limits of a served bus: real servers, raw sockets, and requests that are malformed, huge, slow
or many.
"""

from __future__ import annotations

import contextlib
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from claude_bus.http import auth
from tests.support.certificates import certificate
from tests.support.processes import PATIENCE, environment, eventually
from tests.support.raw_http import Reply, ask, connect, connected, head, reply
from tests.support.served_bus import Served, locked, served
from tests.support.tokens import new_token

pytestmark = pytest.mark.slow

GATED = "tests.support.gated_server"
KIB = 1024
MIB = 1024 * KIB


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture(scope="module")
def open_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A bus on loopback without tokens; pages of one other origin may call it."""
    db = tmp_path_factory.mktemp("open") / "bus.db"
    with served(db, "--allow-origins", "https://pages.example", program=GATED) as bus:
        yield bus


@pytest.fixture(scope="module")
def closed_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    """A bus that requires a token and is reached by two names; and such a token."""
    db = tmp_path_factory.mktemp("closed") / "bus.db"
    _, secret = new_token(db, "anna")
    hosts = "bus.example.org,*.team.example"
    with served(db, "--allow-hosts", hosts, "--allow-origins", "https://pages.example", program=GATED) as bus:
        yield bus, secret


# -- the Host check ---------------------------------------------------------------------------


def test_a_name_that_was_made_to_lead_here_is_refused(open_bus: Served) -> None:
    """The answer is 421, with the way out. After DNS rebinding a browser still sends the attacker's name."""
    for host in ("evil.example", "evil.example:8765", "10.0.0.7", "0.0.0.0", socket.gethostname() + ".evil"):
        answer = ask(open_bus.url, "GET /whoami", f"Host: {host}")
        assert (answer.status, answer.document["error"]) == (421, "wrong_host")
        assert "BUS_ALLOWED_HOSTS" in answer.document["message"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1", "[::1]", "127.8.8.8:80"])
def test_loopback_is_answered_by_any_of_its_names(open_bus: Served, host: str) -> None:
    """Any port is accepted as well: forwarded ports are common, and they say nothing about the caller."""
    assert ask(open_bus.url, "GET /whoami", f"Host: {host}").status == 200


@pytest.mark.parametrize("host", ["bus.example.org", "a.b.TEAM.example:443", "192.0.2.7", "[2001:db8::1]:8765", "HERE"])
def test_a_bus_with_tokens_is_answered_by_its_names(closed_bus: tuple[Served, str], host: str) -> None:
    """It answers to configured names, any IP address, and this machine's names."""
    bus, secret = closed_bus
    name = socket.gethostname() if host == "HERE" else host
    assert ask(bus.url, "GET /whoami", f"Host: {name}", token=secret).status == 200


def test_a_foreign_name_is_refused_before_the_token_is_looked_at(closed_bus: tuple[Served, str]) -> None:
    """The health check is no exception."""
    bus, secret = closed_bus
    assert ask(bus.url, "GET /whoami", "Host: evil.example", token=secret).status == 421
    assert ask(bus.url, "GET /healthz", "Host: evil.example").status == 421


@pytest.mark.parametrize(
    ("line", "headers"),
    [
        ("GET /whoami HTTP/1.0", ["Host"]),
        ("GET /whoami HTTP/1.1", ["Host"]),
        ("GET /whoami HTTP/1.1", ["Host: "]),
        ("GET /whoami HTTP/1.1", ["Host: 127.0.0.1", "Host: 127.0.0.1"]),
        ("GET /whoami HTTP/1.0", ["Host: 127.0.0.1", "Host: evil.example"]),
        ("GET /whoami HTTP/1.1", ["Host: user@127.0.0.1"]),
        ("GET /whoami HTTP/1.1", ["Host: 127.0.0.1:99999"]),
        ("GET /whoami HTTP/1.1", ["Host: ::1"]),
        ("GET /whoami HTTP/1.1", ["Origin: http://a", "Origin: http://a"]),
        ("GET http://127.0.0.1/whoami HTTP/1.1", []),
        ("GET http://evil.example/whoami HTTP/1.1", ["Host: 127.0.0.1"]),
        ("CONNECT evil.example:443 HTTP/1.1", ["Host: 127.0.0.1"]),
        ("OPTIONS * HTTP/1.1", []),
        ("GET whoami HTTP/1.1", []),
        ("GET /whoami", []),
        ("\x16\x03\x01\x02", []),
        ("GET /who ami HTTP/1.1", []),
        ("GET /whoami HTTP/1.1", ["No colon"]),
        ("GET /whoami HTTP/1.1", ["Content-Length: x"]),
        ("GET /whoami HTTP/1.1", ["Content-Length: 1", "Content-Length: 2"]),
        ("GET /whoami HTTP/1.1", ["Content-Length: -1"]),
        ("POST /echo HTTP/1.1", ["Transfer-Encoding: gzip, chunked"]),
    ],
)
def test_what_is_no_proper_request_is_refused(open_bus: Served, line: str, headers: list[str]) -> None:
    """No Host or several, users in it, absolute targets as for a proxy, and data that is not HTTP: 400."""
    with connected(open_bus.url) as made:
        made.sendall(head(open_bus.url, line, *headers))
        answer = reply(made)
    assert (answer.status, answer.document["error"]) == (400, "invalid_input")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert ask(open_bus.url, "GET /whoami").status == 200


# -- the Origin check -------------------------------------------------------------------------


def test_pages_elsewhere_are_refused(open_bus: Served, closed_bus: tuple[Served, str]) -> None:
    """The answer is 403 with the way out, with or without a token, for every request that needs no preflight."""
    for bus, secret in ((open_bus, ""), closed_bus):
        for header in ("Origin: https://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site", "Origin: "):
            answer = ask(bus.url, "POST /echo", header, "Content-Type: text/plain", body=b"{}", token=secret)
            assert (answer.status, answer.document["error"]) == (403, "forbidden")
            assert "BUS_ALLOWED_ORIGINS" in answer.document["message"]
            assert "access-control-allow-origin" not in answer.headers


def test_the_servers_own_pages_may_call(open_bus: Served) -> None:
    """Their origin equals the address of the request; another port or scheme is another origin."""
    assert ask(open_bus.url, "GET /whoami", f"Origin: {open_bus.url}", "Sec-Fetch-Site: same-origin").status == 200
    named = open_bus.url.replace("127.0.0.1", "localhost")
    assert ask(open_bus.url, "GET /whoami", f"Host: {named[7:]}", f"Origin: {named}").status == 200
    assert ask(open_bus.url, "GET /whoami", f"Origin: {named}").status == 403
    assert ask(open_bus.url, "GET /whoami", "Origin: http://127.0.0.1:1").status == 403
    assert ask(open_bus.url, "GET /whoami", f"Origin: {open_bus.url.replace('http', 'https')}").status == 403


def test_a_proxy_on_this_machine_says_which_scheme_it_is(closed_bus: tuple[Served, str]) -> None:
    """X-Forwarded-Proto from loopback is trusted: https pages are same-origin, and browsers stay on https."""
    bus, secret = closed_bus
    via = ("Host: bus.example.org", "X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.1")

    answer = ask(bus.url, "GET /whoami", *via, "Origin: https://bus.example.org", token=secret)

    assert answer.document["scheme"] == "https"
    assert "max-age" in answer.headers["strict-transport-security"]
    assert ask(bus.url, "GET /whoami", *via, "Origin: http://bus.example.org", token=secret).status == 403


def test_configured_pages_are_answered_and_told_so(closed_bus: tuple[Served, str]) -> None:
    """A browser first sends a preflight without the token, and may then read all answers, including refusals."""
    bus, secret = closed_bus
    page = ("Origin: https://pages.example", "Sec-Fetch-Site: cross-site")
    asked = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization, content-type")

    first = ask(bus.url, "OPTIONS /echo", *page, *asked)
    assert first.status == 200
    assert "authorization" in first.headers["access-control-allow-headers"].lower()
    for answer in (first, ask(bus.url, "GET /whoami", *page, token=secret), ask(bus.url, "GET /whoami", *page)):
        assert answer.headers["access-control-allow-origin"] == "https://pages.example"
        assert "access-control-allow-credentials" not in answer.headers

    foreign = ask(bus.url, "OPTIONS /echo", "Origin: https://evil.example", *asked)
    assert (foreign.status, "access-control-allow-origin" in foreign.headers) == (403, False)


# -- answers ----------------------------------------------------------------------------------


def test_every_answer_has_the_security_headers(closed_bus: tuple[Served, str]) -> None:
    """Routes, refusals, failures and answers to malformed requests have them; no answer names the server's software."""
    bus, secret = closed_bus
    with connected(bus.url) as broken:
        broken.sendall(b"nonsense\r\n\r\n")
        answers = {400: reply(broken)}
    for status, line, header in (
        (200, "GET /whoami", ""),
        (404, "GET /nothing", ""),
        (405, "DELETE /whoami", ""),
        (500, "GET /crash", ""),
        (421, "GET /whoami", "Host: evil.example"),
        (403, "GET /whoami", "Origin: null"),
    ):
        answers[status] = ask(bus.url, line, *filter(None, [header]), token=secret)
    answers[401] = ask(bus.url, "GET /whoami")
    answers[413] = ask(bus.url, "POST /echo", f"Content-Length: {10 * MIB}", token=secret)

    assert {status: answer.status for status, answer in answers.items()} == {status: status for status in answers}
    for answer in answers.values():
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-robots-tag"] == "noindex"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "strict-transport-security" not in answer.headers
        assert "server" not in answer.headers
        if answer.status not in (200, 404):
            assert set(answer.document) >= {"error", "message"}
        if answer.status in (404, 405):
            assert set(answer.document) == {"error", "code", "message"}
    assert answers[404].document["error"] == "not found"
    assert "ZeroDivision" not in answers[500].body.decode()
    assert answers[405].headers["allow"]


# -- size limits ------------------------------------------------------------------------------


def large(url: str, line: str, size: int) -> bytes:
    """A request head of this size in bytes."""
    made = head(url, line, "Connection: close", "X-Long: {}")
    return made.replace(b"{}", b"x" * (size - len(made) + 2))


FOREIGN = "Origin: https://evil.example"
BEFORE = {
    "nothing": ("", [], b"", []),
    "a request": ("GET /whoami HTTP/1.1", [], b"", [200]),
    "a refused body": ("POST /echo HTTP/1.1", [FOREIGN, "Content-Length: 5"], b"12345", [403]),
}


@pytest.mark.parametrize("step", [1300, 1_000_000], ids=["in pieces", "whole"])
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "after its answer"])
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("size", [31 * KIB, 32 * KIB, 32 * KIB + 1, 33 * KIB])
def test_a_head_may_be_so_large(open_bus: Served, size: int, before: str, waits: bool, step: int) -> None:
    """A head of 32 KiB is accepted, however it arrives and on any request of a connection; a larger one is 431 and
    closes it.
    """
    line, headers, body, statuses = BEFORE[before]
    with connected(open_bus.url) as made:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent = large(open_bus.url, "GET /whoami HTTP/1.1", size)
        if line and waits:
            made.sendall(head(open_bus.url, line, *headers))
            assert [reply(made).status] == statuses
            sent, statuses = body + sent, []
        elif line:
            sent = head(open_bus.url, line, *headers) + body + sent
        for start in reversed(range(len(sent) - 1, -1, -step)):
            made.sendall(sent[max(0, start + 1 - step) : start + 1])
        answered = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", ended(made))]
    assert answered == [*statuses, 200 if size <= 32 * KIB else 431]


def test_the_blanks_of_a_head_count_too(open_bus: Served) -> None:
    """The limit applies to the bytes sent, not to the parsed contents."""
    assert ask(open_bus.url, "GET /whoami", "X-Blank:" + " " * 40 * KIB + "x").status == 431
    assert ask(open_bus.url, "GET /whoami", "X-Blank:" + " " * 30 * KIB + "x").status == 200


def test_a_head_of_a_megabyte_is_refused(open_bus: Served) -> None:
    """It makes no difference whether one header, many headers or the path is so large."""
    for headers in (["X-Long: " + "x" * MIB], [f"X-{n}: {'x' * 1000}" for n in range(1000)]):
        answer = ask(open_bus.url, "GET /whoami", *headers)
        assert (answer.status, answer.document["error"]) == (431, "too_large")
    assert ask(open_bus.url, "GET /" + "x" * MIB).status == 431


def chunked(url: str, body: bytes) -> Reply:
    """Send a body in chunks, without announcing its length."""
    with connected(url) as made:
        with contextlib.suppress(ConnectionError):
            made.sendall(head(url, "POST /echo HTTP/1.1", "Transfer-Encoding: chunked"))
            for start in range(0, len(body), 65_536):
                part = body[start : start + 65_536]
                made.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            made.sendall(b"0\r\n\r\n")
        return reply(made)


@pytest.mark.parametrize("size", [0, MIB, auth.MAX_BODY_BYTES])
def test_a_body_may_be_so_large(open_bus: Served, size: int) -> None:
    """A body up to the limit is accepted, with or without a Content-Length."""
    assert ask(open_bus.url, "POST /echo", body=b"x" * size).document == {"size": size}
    assert chunked(open_bus.url, b"x" * size).document == {"size": size}


@pytest.mark.parametrize("size", [auth.MAX_BODY_BYTES + 1, 10 * MIB])
def test_a_larger_body_is_refused(open_bus: Served, size: int) -> None:
    """The answer, 413, can be read though not all was sent; with a Content-Length it comes before the body is sent."""
    for answer in (
        ask(open_bus.url, "POST /echo", body=b"x" * size),
        chunked(open_bus.url, b"x" * size),
        ask(open_bus.url, "POST /echo", f"Content-Length: {size}"),
        ask(open_bus.url, "POST /echo", f"Content-Length: {size}", "Expect: 100-continue"),
        ask(open_bus.url, "POST /echo", f"Content-Length: {'9' * 19}"),
    ):
        assert (answer.status, answer.document["error"]) == (413, "too_large")


def test_a_body_is_not_read_of_somebody_unknown(closed_bus: tuple[Served, str]) -> None:
    """A caller without a token is refused before the body is sent."""
    bus, _ = closed_bus
    assert ask(bus.url, "POST /echo", f"Content-Length: {MIB}").status == 401


# -- timeouts ---------------------------------------------------------------------------------


@pytest.fixture
def hasty_bus(db: Path) -> Iterator[Served]:
    """A bus with short timeouts for slow clients."""
    with served(db, program=GATED, GATE_HEAD_PATIENCE="2", GATE_BODY_PATIENCE="2") as bus:
        yield bus


def ended(made: socket.socket) -> bytes:
    """All data until the server closes the connection."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while part := made.recv(65_536):
            said += part
    return said


def test_half_a_head_is_not_waited_for(hasty_bus: Served) -> None:
    """It is answered with 408, even if its bytes keep coming one by one; a silent connection is closed without an
    answer.
    """
    with connected(hasty_bus.url) as half, connected(hasty_bus.url) as silent, connected(hasty_bus.url) as slow:
        half.sendall(b"GET /whoami HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        slow.sendall(b"GET /whoami HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        end = time.monotonic() + PATIENCE
        with contextlib.suppress(ConnectionError):
            while not select.select([slow], [], [], 0.2)[0]:
                assert time.monotonic() < end
                slow.sendall(b"x")

        assert b" 408 " in ended(half)
        assert b" 408 " in ended(slow)
        assert ended(silent) == b""


def test_half_a_head_after_an_answer_is_not_waited_for_either(hasty_bus: Served) -> None:
    """This also holds for a connection that has served a request, and for one whose refused body never arrives."""
    with connected(hasty_bus.url) as used, connected(hasty_bus.url) as refused:
        used.sendall(head(hasty_bus.url, "GET /whoami HTTP/1.1"))
        assert reply(used).status == 200
        used.sendall(b"GET /whoami HTTP/1.1\r\n")
        refused.sendall(head(hasty_bus.url, "POST /echo HTTP/1.1", f"Content-Length: {10 * MIB}"))
        assert reply(refused).status == 413
        refused.sendall(b"x" * 1000)

        assert ended(used) == b""
        assert ended(refused) == b""


def test_half_a_body_is_not_waited_for(hasty_bus: Served) -> None:
    """It is answered with 408, with or without a Content-Length."""
    with connected(hasty_bus.url) as half, connected(hasty_bus.url) as chunk:
        half.sendall(head(hasty_bus.url, "POST /echo HTTP/1.1", "Content-Length: 100") + b"x")
        chunk.sendall(head(hasty_bus.url, "POST /echo HTTP/1.1", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n")

        assert reply(half).document["error"] == "too_slow"
        assert reply(chunk).status == 408


def memory(bus: Served) -> int:
    """The resident memory of the server, in bytes."""
    return int(psutil.Process(bus.process.pid).memory_info().rss)


def connections(bus: Served) -> int:
    """The number of the server's connections."""
    found = psutil.Process(bus.process.pid).net_connections()
    return sum(each.status == psutil.CONN_ESTABLISHED for each in found)


def test_an_answer_that_nobody_reads_is_not_kept(db: Path) -> None:
    """Its connection is closed after a while, and the answer takes little memory until then."""
    with served(db, program=GATED, GATE_WRITE_PATIENCE="3") as bus, connected(bus.url) as reader:
        ask(bus.url, "GET /whoami")
        before = memory(bus)
        reader.sendall(head(bus.url, "GET /flood HTTP/1.1"))
        select.select([reader], [], [], PATIENCE)

        eventually(lambda: connections(bus) == 0)

        assert memory(bus) - before < 50 * MIB
        assert ask(bus.url, "GET /whoami").status == 200


def test_half_a_handshake_is_not_waited_for(db: Path, tmp_path: Path) -> None:
    """A client that connects to a TLS port and sends nothing is disconnected."""
    chain, key = certificate(tmp_path, "bus")
    tls = ("--tls-cert", str(chain), "--tls-key", str(key))
    with served(db, *tls, program=GATED, GATE_HANDSHAKE="2") as bus, connected(bus.url) as silent:
        assert ended(silent) == b""


def test_requests_under_way_have_all_their_time(hasty_bus: Served) -> None:
    """The time limits apply to the client's side: a long poll outlasts them, and its connection is used again."""
    with connected(hasty_bus.url) as made:
        for _ in range(2):
            made.sendall(head(hasty_bus.url, "GET /wait?block=4 HTTP/1.1"))
            assert reply(made).body == b"nothing"


# -- quotas -----------------------------------------------------------------------------------


def test_half_open_connections_do_not_keep_others_out(db: Path) -> None:
    """If several hundred exceed the limit, the oldest are closed, and other clients are served at once."""
    with served(db, program=GATED, GATE_MAX_SILENT="300") as bus, contextlib.ExitStack() as stack:
        ask(bus.url, "GET /whoami")
        before = memory(bus)
        junk = b"GET /whoami HTTP/1.1\r\nX-Junk: " + b"x" * 20_000
        half = [stack.enter_context(connected(bus.url)) for _ in range(700)]
        for each in half:
            with contextlib.suppress(ConnectionError):
                each.sendall(junk)

        assert ask(bus.url, "GET /whoami").status == 200
        for each in half[:400]:
            assert ended(each) == b""
        assert not select.select(half[-100:], [], [], 0)[0]
        assert connections(bus) <= 301
        assert memory(bus) - before < 100 * MIB


def test_a_thousand_wait_and_nobody_is_disturbed(db: Path) -> None:
    """A long poll costs a connection and little memory; other clients are served meanwhile, and all polls are
    answered.
    """
    with served(db, program=GATED) as bus, contextlib.ExitStack() as stack:
        ask(bus.url, "GET /whoami")
        before = memory(bus)
        polls = [stack.enter_context(connected(bus.url)) for _ in range(1000)]
        for each in polls:
            each.sendall(head(bus.url, "GET /wait?block=600 HTTP/1.1"))
        eventually(lambda: ask(bus.url, "GET /waiting").document["waiting"] == 1000)

        assert ask(bus.url, "POST /echo", body=b"x" * MIB).document == {"size": MIB}
        used = memory(bus) - before
        assert ask(bus.url, "POST /release").status == 200
        assert {reply(each).body for each in polls} == {b"released"}
    assert used < 150 * MIB
    assert bus.log.read_text() == ""


def test_the_stores_trouble_keeps_no_answer_back(db: Path) -> None:
    """While the store cannot confirm a token, waiting clients and streams are served by the last known state."""
    with (
        served(db, program=GATED, BUS_BUSY_TIMEOUT="0.1") as server,
        connected(server.url) as waiting,
        connected(server.url) as listening,
    ):
        waiting.sendall(head(server.url, "GET /wait?block=2 HTTP/1.1"))
        listening.sendall(head(server.url, "GET /stream?every=0.2 HTTP/1.1"))
        eventually(lambda: ask(server.url, "GET /waiting").document["waiting"] == 1)
        with locked(db):
            answer = reply(waiting)
            heard = b""
            while heard.count(b"data: here") < 15 and (part := listening.recv(65_536)):
                heard += part

        assert (answer.status, answer.body) == (200, b"nothing")
        assert heard.count(b"data: here") >= 15
    assert "Traceback" not in server.log.read_text(encoding="utf-8")


def test_a_token_has_so_many_requests_under_way(db: Path) -> None:
    """One more is 429 and says when to retry; other tokens are not affected, and a closed connection makes room."""
    _, anna = new_token(db, "anna")
    _, bert = new_token(db, "bert")
    with served(db, "--connections", "3", program=GATED) as bus, contextlib.ExitStack() as stack:
        polls = [stack.enter_context(contextlib.closing(connect(bus.url))) for _ in range(3)]
        for each in polls:
            each.sendall(head(bus.url, "GET /wait HTTP/1.1", f"Authorization: Bearer {anna}"))
        eventually(lambda: ask(bus.url, "GET /waiting", token=bert).document["waiting"] == 3)

        answer = ask(bus.url, "GET /whoami", token=anna)
        assert (answer.status, answer.document["error"]) == (429, "rate_limited")
        assert int(answer.headers["retry-after"]) >= 1
        assert "BUS_CONNECTIONS" in answer.document["message"]
        assert ask(bus.url, "GET /whoami", token=bert).status == 200

        polls[0].close()
        eventually(lambda: ask(bus.url, "GET /whoami", token=anna).status == 200)


def test_an_open_bus_has_so_many_requests_under_way(db: Path) -> None:
    """The limit is then shared by all callers; there is no rate limit."""
    with served(db, "--connections", "2", "--requests", "5", program=GATED) as bus:
        assert {ask(bus.url, "GET /whoami").status for _ in range(20)} == {200}
        with connected(bus.url) as one, connected(bus.url) as other:
            for each in (one, other):
                each.sendall(head(bus.url, "GET /wait HTTP/1.1"))
            eventually(lambda: ask(bus.url, "GET /whoami").status == 429)


def test_a_token_has_so_many_requests_a_minute(db: Path) -> None:
    """One more is 429 and says when to retry; other tokens are not affected."""
    _, anna = new_token(db, "anna")
    _, bert = new_token(db, "bert")
    with served(db, "--requests", "10", program=GATED) as bus:
        assert {ask(bus.url, "GET /whoami", token=anna).status for _ in range(10)} == {200}
        answer = ask(bus.url, "GET /whoami", token=anna)
        assert (answer.status, answer.document["error"]) == (429, "rate_limited")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert ask(bus.url, "GET /whoami", token=bert).status == 200


def test_who_tries_tokens_is_slowed_down_and_nobody_else(db: Path) -> None:
    """Several wrong tokens lead to 429; a valid one still works from that address, and so do other addresses behind
    a proxy.
    """
    _, anna = new_token(db, "anna")
    with served(db, program=GATED, GATE_WRONG_TOKENS="5") as bus:
        tried = [ask(bus.url, "GET /whoami", token=f"bus_{n}") for n in range(7)]
        assert [each.status for each in tried] == [401] * 5 + [429] * 2
        assert int(tried[-1].headers["retry-after"]) >= 1
        assert ask(bus.url, "GET /whoami").status == 401
        assert ask(bus.url, "GET /whoami", token=anna).status == 200
        assert ask(bus.url, "GET /whoami", "X-Forwarded-For: 192.0.2.9", token="bus_other").status == 401


# -- TLS --------------------------------------------------------------------------------------


def test_the_bus_is_served_over_tls(db: Path, tmp_path: Path) -> None:
    """Certificate and key come from files; browsers are told to stay with https. Plain HTTP gets no answer."""
    chain, key = certificate(tmp_path, "bus")
    with served(db, "--tls-cert", str(chain), "--tls-key", str(key), program=GATED) as bus:
        assert bus.url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cafile=str(chain))

        answer = ask(bus.url, "GET /whoami", trusted=trusted)
        assert answer.document == {"owner": "", "scheme": "https"}
        assert "max-age" in answer.headers["strict-transport-security"]
        assert ask(bus.url, "GET /whoami", f"Origin: {bus.url}", trusted=trusted).status == 200
        assert ask(bus.url, "POST /echo", body=b"x" * MIB, trusted=trusted).document == {"size": MIB}

        with connected(bus.url) as plain:
            plain.sendall(head(bus.url, "GET /whoami HTTP/1.1"))
            assert b"HTTP/" not in ended(plain)
        assert ask(bus.url, "GET /whoami", trusted=trusted).status == 200


def refused(db: Path, *options: str) -> str:
    """The message of a server that cannot start."""
    command = [sys.executable, "-m", "claude_bus", "serve", "--port", "0", *options]
    done = subprocess.run(command, env=environment(db), capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def test_wrong_files_are_named(db: Path, tmp_path: Path) -> None:
    """Missing, mismatched, swapped, damaged or encrypted files, or only one of two: one sentence, and exit status 2."""
    chain, key = certificate(tmp_path, "bus")
    _, other = certificate(tmp_path, "other")
    _, locked = certificate(tmp_path, "locked", password=b"word")
    junk = tmp_path / "junk"
    junk.write_text("junk")

    def said(cert: Path, private: Path) -> str:
        return refused(db, "--tls-cert", str(cert), "--tls-key", str(private))

    assert "missing cannot be read: No such file" in said(tmp_path / "missing", key)
    assert "BUS_TLS_KEY: " in said(chain, tmp_path / "missing")
    assert "is not the one of the certificate" in said(chain, other)
    for pair in ((key, chain), (junk, key), (chain, junk), (chain, locked)):
        assert "both in PEM" in said(*pair)
    assert "go together" in refused(db, "--tls-cert", str(chain))


# -- beginning and end ------------------------------------------------------------------------


def test_a_port_that_is_taken_is_named(db: Path) -> None:
    """One sentence, and exit status 2; an address that is not this machine's is treated alike."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = refused(db, "--port", str(taken.getsockname()[1]))
    assert re.search(r"cannot listen at 127.0.0.1 port \d+: .*in use; choose another", said)
    assert "attempting" not in said
    assert "cannot listen at" in refused(db, "--host", "192.0.2.1")
    unknown = refused(db, "--host", "no-such-host.invalid")
    assert "cannot listen at no-such-host.invalid port" in unknown
    assert not re.search("attempting|Unknown error", unknown)
    assert "BUS_ALLOWED_ORIGINS" in refused(db, "--allow-origins", "*")
    assert "BUS_ALLOWED_HOSTS: 'http://foo' is not a host" in refused(db, "--allow-hosts", "http://foo")


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_end_ends(db: Path, told: signal.Signals) -> None:
    """Waiting clients are answered, streams end; idle, half-open, busy and unread connections do not delay the end."""
    with (
        served(db, program=GATED) as bus,
        connected(bus.url) as poll,
        connected(bus.url) as stream,
        connected(bus.url) as idle,
        connected(bus.url) as half,
        connected(bus.url) as busy,
        connected(bus.url) as unread,
    ):
        busy.sendall(head(bus.url, "POST /late HTTP/1.1"))
        unread.sendall(head(bus.url, "GET /flood HTTP/1.1"))
        poll.sendall(head(bus.url, "GET /wait HTTP/1.1"))
        stream.sendall(head(bus.url, "GET /stream HTTP/1.1"))
        idle.sendall(head(bus.url, "GET /whoami HTTP/1.1"))
        half.sendall(b"GET /whoami HTTP/1.1\r\n")
        assert reply(idle).status == 200
        eventually(lambda: ask(bus.url, "GET /waiting").document["waiting"] == 1)

        bus.process.send_signal(told)

        assert reply(poll).document["error"] == "ending"
        assert reply(stream).body == b"data: here\n\n"
        assert "may have been done" in reply(busy).document["message"]
        assert bus.process.wait(PATIENCE) == (0 if told is signal.SIGTERM else 130)
    assert "Traceback" not in bus.log.read_text(encoding="utf-8")


def test_answers_are_sent_at_once(db: Path) -> None:
    """The server's sockets never hold data back until the client has acknowledged earlier data (TCP_NODELAY)."""
    from claude_bus.config import Serving
    from claude_bus.http.serve import _listening

    with _listening(Serving(port=0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_the_log_is_quiet_unless_asked(db: Path) -> None:
    """Requests are logged only with --verbose, one line each, without the query string."""
    with served(db, program=GATED) as bus:
        ask(bus.url, "GET /whoami")
    assert bus.log.read_text() == ""

    with served(db, "--verbose", program=GATED) as bus:
        ask(bus.url, "GET /whoami?private=1")
        ask(bus.url, "GET /a%0Ab")
    lines = [" ".join(line.split()[:4]) for line in bus.log.read_text().splitlines()]
    assert lines == [
        "claude-bus: GET /whoami 200,",
        "claude-bus: GET /a%0Ab 404,",
    ]
    assert "private" not in bus.log.read_text()
