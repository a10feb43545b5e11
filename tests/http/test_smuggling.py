"""Request smuggling: two servers in a row might parse these requests differently; none may hide a second request."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from itertools import count
from urllib.parse import urlsplit

import pytest

from tests.support.raw_http import ask, connected, reply
from tests.support.served_bus import Served, served

pytestmark = pytest.mark.slow

ECHO = "POST /echo HTTP/1.1"
CHUNKED = "Transfer-Encoding: chunked"
_VICTIMS = (f"victim-{number}" for number in count())


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for all tests: it answers each request, whatever came before."""
    with served(tmp_path_factory.mktemp("bus") / "bus.db", program="tests.support.gated_server") as running:
        yield running


def request(bus: Served, line: str, *headers: str, end: str = "\r\n") -> bytes:
    """The head of a request."""
    lines = [line, f"Host: {urlsplit(bus.url).netloc}", *headers, ""]
    return "".join(f"{each}{end}" for each in lines).encode("latin-1")


def smuggled(bus: Served, victim: str) -> bytes:
    """A complete request that sends a message."""
    body = json.dumps({"from": "mallory", "to": victim, "msg": "smuggled"}).encode()
    return request(bus, "POST /send HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(body)}") + body


def got(bus: Served, victim: str) -> int:
    """The number of messages that arrived."""
    return len(ask(bus.url, f"GET /recv?to={victim}").document["messages"])


def answers(bus: Served, sent: bytes, *, in_pieces: bool) -> list[int]:
    """The statuses of all answers to these bytes and a final request, until the connection ends."""
    last = request(bus, "GET /whoami HTTP/1.1", "Connection: close")
    said = b""
    with connected(bus.url) as made, contextlib.suppress(ConnectionError):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(sent + last), step := 1 if in_pieces else 1_000_000):
                made.sendall((sent + last)[start : start + step])
        while part := made.recv(65_536):
            said += part
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3})", said)]


REFUSED = {
    "both lengths, chunks first": (ECHO, CHUNKED, "Content-Length: 3", "\r\n0\r\n\r\n{}"),
    "both lengths, chunks last": (ECHO, "Content-Length: 300", CHUNKED, "\r\n0\r\n\r\n{}"),
    "both lengths, one folded": (ECHO, "Content-Length: 300", "Transfer-Encoding:\r\n chunked", "\r\n0\r\n\r\n{}"),
    "both lengths, one after a bare LF": (ECHO, "Content-Length: 300", f"X: a\n{CHUNKED}", "\r\n0\r\n\r\n{}"),
    "chunks in HTTP/1.0": ("POST /echo HTTP/1.0", "Connection: keep-alive", CHUNKED, "\r\n0\r\n\r\n{}"),
    "chunks, then identity": (ECHO, "Transfer-Encoding: chunked, identity", "\r\n0\r\n\r\n{}"),
    "identity": (ECHO, "Transfer-Encoding: identity", "Content-Length: 0", "\r\n{}"),
    "no coding there is": (ECHO, "Transfer-Encoding: xchunked", "Content-Length: 0", "\r\n{}"),
    "a coding in quotes": (ECHO, 'Transfer-Encoding: "chunked"', "\r\n0\r\n\r\n{}"),
    "a coding after a vertical tab": (ECHO, "Transfer-Encoding: \x0bchunked", "\r\n0\r\n\r\n{}"),
    "chunks twice": (ECHO, CHUNKED, CHUNKED, "\r\n0\r\n\r\n{}"),
    "chunks, with a space before the colon": (ECHO, "Transfer-Encoding : chunked", "Content-Length: 0", "\r\n{}"),
    "two lengths": (ECHO, "Content-Length: 0", "Content-Length: 300", "\r\n{}"),
    "two lengths in one": (ECHO, "Content-Length: 0, 300", "\r\n{}"),
    "a length with a sign": (ECHO, "Content-Length: +0", "\r\n{}"),
    "a length in hex": (ECHO, "Content-Length: 0x0", "\r\n{}"),
    "no length after all": (ECHO, "Content-Length:", "\r\n{}"),
    "a length of many digits": (ECHO, f"Content-Length: {'0' * 30}", "\r\n{}"),
    "a length with a space before the colon": (ECHO, "Content-Length : 0", "\r\n{}"),
    "a line that continues none": ("POST /echo HTTP/1.1\r\n Content-Length: 0", "\r\n{}"),
    "NUL in a value": (ECHO, "X: a\0b", "Content-Length: 0", "\r\n{}"),
    "NUL in a name": (ECHO, "Content-Length\0: 0", "\r\n{}"),
    "a bare CR in a value": (ECHO, "X: a\rContent-Length: 300", "\r\n{}"),
    "a chunk longer than said": (ECHO, CHUNKED, "\r\n1\r\nxx\r\n0\r\n\r\n{}"),
    "a chunk shorter than said": (ECHO, CHUNKED, "\r\n5\r\nxx\r\n0\r\n\r\n{}"),
    "a chunk of less than nothing": (ECHO, CHUNKED, "\r\n-1\r\nxx\r\n0\r\n\r\n{}"),
    "a chunk with 0x": (ECHO, CHUNKED, "\r\n0x2\r\nxx\r\n0\r\n\r\n{}"),
    "a chunk's size of many digits": (ECHO, CHUNKED, f"\r\n{'0' * 30}2\r\nxx\r\n0\r\n\r\n{{}}"),
    "a chunk's size after a space": (ECHO, CHUNKED, "\r\n 2\r\nxx\r\n0\r\n\r\n{}"),
    "a chunk's line with a bare LF": (ECHO, CHUNKED, "\r\n2\nxx\n0\n\n{}"),
    "a chunk's extension with a bare LF": (ECHO, CHUNKED, "\r\n2;a\nxx\r\n0\r\n\r\n{}"),
    "what is no trailer": (ECHO, CHUNKED, "\r\n2\r\nxx\r\n0\r\nbad\0\r\n\r\n{}"),
    "the start of HTTP/2": ("PRI * HTTP/2.0", "\r\nSM\r\n\r\n{}"),
    "HTTP/2 by name": ("POST /echo HTTP/2.0", "Content-Length: 0", "\r\n{}"),
    "HTTP/0.9 by name": ("GET /whoami HTTP/0.9", "\r\n{}"),
}
"""The header lines of each request, and the bytes that follow; `{}` stands for a complete second request."""


def filled(bus: Served, lines: tuple[str, ...], victim: str) -> bytes:
    *given, rest = lines
    return request(bus, *given)[:-2] + rest.encode("latin-1").replace(b"{}", smuggled(bus, victim))


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_could_be_read_in_two_ways_is_refused(bus: Served, case: str, in_pieces: bool) -> None:
    """The answer is 400 and the connection is closed; the bytes behind the request are never executed."""
    victim = next(_VICTIMS)

    statuses = answers(bus, filled(bus, REFUSED[case], victim), in_pieces=in_pieces)

    assert statuses == [400] or (
        in_pieces and not statuses
    )  # the answer is lost if more was sent to a closed connection
    assert got(bus, victim) == 0


INSIDE = {
    "the length is said": (ECHO, "Content-Length: {length}"),
    "of a GET": ("GET /whoami HTTP/1.1", "Content-Length: {length}"),
    "the length is said twice alike": (ECHO, "Content-Length: {length}", "Content-Length: {length}"),
    "a header only looks like the coding's": (ECHO, "Transfer_Encoding: chunked", "Content-Length: {length}"),
    "a header only continues with the coding's": (ECHO, f"X: a\r\n {CHUNKED}", "Content-Length: {length}"),
    "a refused request's": (ECHO, "Origin: https://evil.example", "Content-Length: {length}"),
    "of one that wants another protocol": (ECHO, "Connection: Upgrade", "Upgrade: h2c", "Content-Length: {length}"),
}
"""Heads of requests whose body looks like a request."""


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", INSIDE)
def test_a_body_is_no_request(bus: Served, case: str, in_pieces: bool) -> None:
    """The bytes of a body are never executed, whatever they look like; the connection continues after them."""
    victim = next(_VICTIMS)
    body = b"0\r\n\r\n" + smuggled(bus, victim)
    line, *headers = (each.format(length=len(body)) for each in INSIDE[case])

    statuses = answers(bus, request(bus, line, *headers) + body, in_pieces=in_pieces)

    assert statuses == [403 if "refused" in case else 200, 200]
    assert got(bus, victim) == 0


ORDINARY = {
    "its length said": (ECHO, "Content-Length: 2", "\r\nxx{}"),
    "in a list of the same": (ECHO, "Content-Length: 2, 2", "\r\nxx{}"),
    "in chunks": (ECHO, CHUNKED, "\r\n2\r\nxx\r\n0\r\n\r\n{}"),
    "in chunks, in capitals": (ECHO, "transfer-encoding: CHUNKED", "\r\n2\r\nxx\r\n0\r\n\r\n{}"),
    "in chunks, in a folded line": (ECHO, "Transfer-Encoding:\r\n chunked", "\r\n2\r\nxx\r\n0\r\n\r\n{}"),
    "chunks with extensions": (ECHO, CHUNKED, '\r\n2;a="0";b\r\nxx\r\n0;c\r\n\r\n{}'),
    "chunks with a trailer that says a length": (ECHO, CHUNKED, "\r\n2\r\nxx\r\n0\r\nContent-Length: 300\r\n\r\n{}"),
    "lines that end with LF": (f"{ECHO}\nContent-Length: 2", "\r\nxx{}"),
    "an upgrade that is not made": (ECHO, "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 2", "\r\nxx{}"),
}


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("case", ORDINARY)
def test_one_request_after_the_other_is_served_once(bus: Served, case: str, in_pieces: bool) -> None:
    """With pipelining, each request is executed once, in order."""
    victim = next(_VICTIMS)

    statuses = answers(bus, filled(bus, ORDINARY[case], victim), in_pieces=in_pieces)

    assert statuses == [200, 200, 200]
    assert got(bus, victim) == 1


@pytest.mark.parametrize(("line", "status"), [(ECHO, 200), ("POST /echo HTTP/1.0", 401)])
def test_nothing_follows_on_a_connection_that_ends(bus: Served, line: str, status: int) -> None:
    """After a request with `Connection: close`, or of HTTP/1.0, nothing more is read."""
    victim = next(_VICTIMS)
    more = ["Connection: close"] if line is ECHO else []
    sent = request(bus, line, *more, "Content-Length: 2") + b"xx" + smuggled(bus, victim)
    assert answers(bus, sent, in_pieces=False) == [status]
    assert got(bus, victim) == 0


def test_a_body_that_breaks_off_after_its_answer(bus: Served) -> None:
    """After an early refusal, no second answer follows the incomplete body: it would be taken for the next
    request's.
    """
    victim = next(_VICTIMS)
    with connected(bus.url) as made:
        made.sendall(request(bus, ECHO, "Origin: https://evil.example", CHUNKED))
        assert reply(made).status == 403
        made.sendall(b"no chunk\r\n" + smuggled(bus, victim))
        with contextlib.suppress(ConnectionError):
            assert made.recv(65_536) == b""
    assert got(bus, victim) == 0


def test_a_chunk_that_never_ends(tmp_path_factory: pytest.TempPathFactory) -> None:
    """After a huge chunk size, all bytes belong to that chunk, until the time limit."""
    limits = {"GATE_BODY_PATIENCE": "2", "GATE_HEAD_PATIENCE": "2"}
    with served(tmp_path_factory.mktemp("bus") / "bus.db", program="tests.support.gated_server", **limits) as bus:
        sent = request(bus, ECHO, CHUNKED) + b"f" * 20 + b"\r\nxx\r\n0\r\n\r\n" + smuggled(bus, "victim")
        assert answers(bus, sent, in_pieces=False) == [408]
        assert got(bus, "victim") == 0
