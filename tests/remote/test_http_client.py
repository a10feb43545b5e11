"""The line to a server elsewhere: what is wrong with it is told, and what goes over it is not."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import httpx2
import pytest

from claude_bus.config import Access, Config
from claude_bus.errors import BusError, Misconfigured, NotFound, Unauthorized, Unreachable
from claude_bus.model.identity import Address
from claude_bus.processes import this_process
from claude_bus.remote import http_client
from claude_bus.remote.bus import RemoteBus
from claude_bus.sql import agents, state
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.anyio
URL = "https://bus.example.org/team"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A token's file, for its owner alone."""
    path = tmp_path / "token"
    path.touch(0o600)
    return path


def bus(answer: Callable[[httpx2.Request], httpx2.Response], access: Access | None = None) -> RemoteBus:
    """A bus elsewhere whose server answers like this."""
    return RemoteBus(URL, access or Access(), this_process(), httpx2.MockTransport(answer))


# -- tokens


@pytest.mark.parametrize("written", ["bus_x", "bus_x\n", "\N{BYTE ORDER MARK}bus_x\r\n", " bus_x "])
def test_a_token_is_what_editors_and_shells_make_of_it(file: Path, written: str) -> None:
    """Lines may end, and a file begin, as programs of any system write them."""
    file.write_text(written, encoding="utf-8", newline="")

    assert http_client.secret(Access(token=written)) == "bus_x"
    assert http_client.secret(Access(token_file=file)) == "bus_x"
    assert http_client.secret(Access(token="bus_other", token_file=file)) == "bus_other"


@pytest.mark.parametrize("token", ["bus_first\nbus_second", "bus_first bus_second", "bus_first\0", "bus_firstü"])
def test_what_can_be_no_token_is_refused_and_not_shown(file: Path, token: str) -> None:
    """The error names where it comes from, and nothing of it."""
    file.write_text(token, encoding="utf-8")
    for access, where in ((Access(token=token), "BUS_TOKEN"), (Access(token_file=file), f"BUS_TOKEN_FILE='{file}'")):
        with pytest.raises(Misconfigured) as refused:
            http_client.client(URL, access, "tester")
        assert refused.value.message.startswith(f"{where} holds no token")
        assert not re.search("first|second", refused.value.message)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0, "cannot be read: No such file"),
        (b"", 0o600, "is empty"),
        ("bus_x".encode("utf-16"), 0o600, "is not text in UTF-8"),
        (b"bus_x", 0o640, "can be read by others"),
    ],
)
def test_a_token_s_file_is_read_when_it_is_needed(file: Path, content: bytes | None, mode: int, said: str) -> None:
    """An unusable file is named when it is needed, and is in the way of nothing before."""
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
        file.chmod(mode)
    config = Config.from_env({"BUS_TOKEN_FILE": str(file)}, Path("/home/me"))

    with pytest.raises(Misconfigured, match=said) as refused:
        http_client.client(URL, config.access, "tester")
    assert "BUS_TOKEN_FILE" in refused.value.message
    assert "bus_x" not in refused.value.message


# -- certificates and proxies


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "BUS_CA_FILE"])
@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read: No such file"), ("no PEM", "no certificates")])
def test_a_file_of_no_certificates_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, content: str | None, said: str
) -> None:
    """Whichever of the two it is in; where nothing is encrypted none is needed."""
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content, encoding="utf-8")
    if variable == "SSL_CERT_FILE":
        monkeypatch.setenv(variable, str(path))
    access = Access(ca_file=path if variable == "BUS_CA_FILE" else None)

    with pytest.raises(Misconfigured, match=f"^{variable}='{path}' .*{said}"):
        http_client.client(URL, access, "tester")
    http_client.client("http://bus.example.org", access, "tester")


@pytest.mark.parametrize(
    "address", ["socks5://me:hidden@proxy:1", "gopher://me:hidden@proxy", "http://me:hidden@proxy:no"]
)
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """By its variable; what it says may hold a password."""
    monkeypatch.setenv("ALL_PROXY", address)

    with pytest.raises(Misconfigured, match="the proxy that ALL_PROXY names cannot be used") as refused:
        http_client.client(URL, Access(), "tester")
    assert "hidden" not in refused.value.message


@pytest.mark.parametrize("url", ["http://ü..x", "https://\N{HEAVY BLACK HEART}"])
def test_a_host_that_can_be_none_is_named(url: str) -> None:
    """As the address, and not as anything else that is wrong."""
    with pytest.raises(Misconfigured, match="is not an address"):
        http_client.client(url, Access(), "tester")


# -- failures and answers


@pytest.mark.parametrize(
    "error", [httpx2.LocalProtocolError, httpx2.ProxyError, httpx2.InvalidURL, OSError, UnicodeError, ValueError]
)
async def test_of_a_failure_only_the_kind_is_told(error: type[Exception]) -> None:
    """Whatever a library says of it: that may quote a header."""

    def fail(_request: httpx2.Request) -> httpx2.Response:
        raise error("Illegal header value b'Bearer bus_hidden'")

    with pytest.raises(Unreachable) as told:
        await bus(fail, Access("bus_hidden")).run(agents.listing, "default")
    assert told.value.message == f"the bus at {URL} cannot be reached ({error.__name__})"


PATH = "at this path; is its prefix missing"


@pytest.mark.parametrize(
    ("status", "content", "kind", "said"),
    [
        (404, b'{"error": "not found"}', Unreachable, PATH),
        (404, b"<html>", Unreachable, PATH),
        (404, b'{"error": "Not Found", "message": "No static resource"}', Unreachable, PATH),
        (405, b'{"error": "method not allowed", "message": "Method Not Allowed"}', Unreachable, "answers with 405"),
        (502, b"", Unreachable, "answers with 502"),
        (400, b'{"message": "no", "self": 1}', Unreachable, "answers with 400"),
        (400, b'{"error": "error", "message": "no", "self": 1}', BusError, "^no$"),
        (404, b'{"error": "not_found", "message": "it has no verb"}', NotFound, "it has no verb"),
    ],
)
async def test_a_refusal_is_a_bus_s_own_or_none(status: int, content: bytes, kind: type[BusError], said: str) -> None:
    """Any other answer means no claude-bus, or none at this path; every error has words."""
    with pytest.raises(kind, match=said):
        await bus(lambda _: httpx2.Response(status, content=content)).run(agents.listing, "default")


@pytest.mark.parametrize(("status", "unknown"), [(502, True), (504, True), (200, True), (404, False)])
async def test_a_proxy_that_gave_up_does_not_know_what_was_done(status: int, *, unknown: bool) -> None:
    """The server behind it may have written: whoever would write again is told to look before. 404 is at no server."""
    there = bus(lambda _: httpx2.Response(status, content=b"<html>"))
    me = Address("ann", "default")
    with pytest.raises(Unreachable) as told:
        await there.run(state.set_state, me, "log", "a line", mode="append")
    assert ("It is not known whether it took effect" in told.value.message) == unknown
    with pytest.raises(Unreachable) as told:
        await there.run(agents.listing, "default")
    assert "not known" not in told.value.message  # asking again does no harm


@pytest.mark.parametrize(
    ("access", "said"),
    [
        (Access(), "requires a token: set BUS_TOKEN or BUS_TOKEN_FILE"),
        (Access("bus_x"), "refuses the token in BUS_TOKEN: .* Ask the server's operator for another"),
        (Access(token="bus_x", basic=("me", "hidden")), "the user and password in its address"),
    ],
)
async def test_who_is_not_let_in_is_told_what_to_do(access: Access, said: str) -> None:
    """As a user can: with variables, not with headers."""
    refusal = {"error": "unauthorized", "message": "send 'Authorization: Bearer <token>'"}

    with pytest.raises(Unauthorized, match=said) as refused:
        await bus(lambda _: httpx2.Response(401, json=refusal), access).run(agents.listing, "default")
    assert not re.search("Bearer|bus_x|hidden", refused.value.message)


async def test_a_token_that_was_replaced_in_its_file_lets_in_again(file: Path) -> None:
    """Without a new process; until then each try is refused."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.headers["Authorization"] == "Bearer bus_new":
            return httpx2.Response(200, json=[])
        return httpx2.Response(401, json={"error": "unauthorized", "message": "no"})

    file.write_text("bus_old", encoding="utf-8")  # noqa: ASYNC240 - before anything runs
    there = bus(answer, Access(token_file=file))
    for _ in range(2):
        with pytest.raises(Unauthorized, match="BUS_TOKEN_FILE"):
            await there.run(agents.listing, "default")
    file.write_text("bus_new", encoding="utf-8")  # noqa: ASYNC240 - as an editor does

    assert await there.run(agents.listing, "default") == []


async def without_end(part: bytes) -> AsyncIterator[bytes]:
    while True:
        yield part


async def test_an_answer_without_an_end_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a line of what an ear hears."""
    monkeypatch.setattr(http_client, "ANSWER_BYTES", 1024**2)
    with pytest.raises(Unreachable, match="answers with more than 1 MiB"):
        await bus(lambda _: httpx2.Response(200, content=without_end(b"x" * 999))).run(agents.listing, "default")
    with pytest.raises(Unreachable, match="a line that does not end"):
        async for _ in http_client.lines(httpx2.Response(200, content=without_end(b"x" * 99)), URL):
            pass


# -- outages


class Reachable:
    """A server that can be reached, or not. Its ear says at once that there may be something."""

    def __init__(self) -> None:
        self.is_reachable = False
        self.was_asked = anyio.Event()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.was_asked.set()
        if not self.is_reachable:
            raise httpx2.ConnectError("nobody there")
        if request.method == "GET":
            return httpx2.Response(200, stream=Rings())
        return httpx2.Response(404, json={"error": "not_found", "message": "here I am"})


class Rings(httpx2.AsyncByteStream):
    """One ring, and no end."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"ring\n"
        await anyio.sleep_forever()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Says how many seconds are between two attempts."""
    return lambda seconds: monkeypatch.setattr("claude_bus.remote.connection.BACKOFF", (seconds,))


async def test_an_outage_is_over_for_calls_once_the_ear_is_back(patient: Callable[[float], None]) -> None:
    """Nobody is told that the bus is out of reach while the session hears from it already."""
    server = Reachable()
    elsewhere = bus(server)
    patient(1800.0)
    with pytest.raises(Unreachable):
        await elsewhere.run(agents.listing, "default", None)
    with pytest.raises(Unreachable, match="it is tried again in 1800 s"):
        await elsewhere.run(agents.listing, "default", None)

    server.is_reachable = True
    async with elsewhere.notice_socket() as notice_socket:
        assert await notice_socket.heard(PATIENCE)
        with pytest.raises(NotFound, match="here I am"):
            await elsewhere.run(agents.listing, "default", None)


async def test_an_outage_is_over_for_the_ear_once_a_call_goes_through(patient: Callable[[float], None]) -> None:
    """Mail that came meanwhile is looked for at once."""
    server = Reachable()
    elsewhere = bus(server)
    patient(1800.0)
    async with elsewhere.notice_socket() as notice_socket:
        await server.was_asked.wait()
        patient(0.0)
        with pytest.raises(Unreachable):
            await elsewhere.run(agents.listing, "default", None)
        server.is_reachable = True
        with pytest.raises(NotFound, match="here I am"):
            await elsewhere.run(agents.listing, "default", None)
        assert await notice_socket.heard(PATIENCE)
