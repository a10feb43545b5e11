"""Proxies on the way to a remote bus: this machine is never reached through one, and failures name the proxy."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from claude_bus.remote import proxies
from tests.support.processes import environment
from tests.support.served_bus import served

pytestmark = pytest.mark.slow

VARIABLES = [f"{name}{suffix}" for name in ("HTTP", "HTTPS", "ALL", "NO") for suffix in ("_PROXY", "_proxy")]
VARIABLES = [one if one.isupper() else one.lower() for one in VARIABLES]
BUS = "http://bus.example.org:8765"


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


class Proxy(http.server.BaseHTTPRequestHandler):
    """A proxy that answers every request itself."""

    status = 200
    asked: list[str]

    def do_POST(self) -> None:
        type(self).asked.append(self.path)
        body = b"<html>blocked by the company's proxy"
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_CONNECT = do_POST  # noqa: N815 - the name that the library calls

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def proxy(status: int) -> Iterator[tuple[str, list[str]]]:
    """The proxy's address, and the requests that it received."""
    handler: type[Proxy] = type("Handler", (Proxy,), {"status": status, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", handler.asked
        server.shutdown()


def run(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    whole = {name: value for name, value in environment(tmp_path / "no.db").items() if name not in VARIABLES} | env
    command = [sys.executable, "-m", "claude_bus", *arguments]
    return subprocess.run(command, env=whole, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "api.localhost", "127.0.0.1", "127.8.9.1", "127.1", "[::1]"),
        *("[::ffff:127.0.0.1]", "0.0.0.0", "[::]"),
    ],
)
def test_this_machine_is_never_reached_through_a_proxy(host: str, env: pytest.MonkeyPatch) -> None:
    """This holds for any variables and any spelling of its name."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        env.setenv(name, "http://proxy:3128")
    for scheme in ("http", "https"):
        assert proxies.route(f"{scheme}://{host}:8765/prefix").proxy == ""


def test_the_proxy_is_the_one_of_the_scheme(env: pytest.MonkeyPatch) -> None:
    """ALL_PROXY serves schemes without a proxy of their own; an address may lack its scheme."""
    env.setenv("ALL_PROXY", "socks5://everywhere:1080")
    env.setenv("https_proxy", "me:hidden@tls:3128")

    plain, tls = proxies.route(BUS), proxies.route("https://bus.example.org")
    assert (plain.proxy, plain.named_by) == ("socks5://everywhere:1080", "ALL_PROXY")
    assert (tls.proxy, tls.named_by) == ("http://me:hidden@tls:3128", "https_proxy")
    assert "the proxy http://tls:3128, which https_proxy names: NO_PROXY=bus.example.org goes past it" in tls.blame
    assert "hidden" not in tls.blame + repr(tls)


@pytest.mark.parametrize(
    ("no_proxy", "host", "out"),
    [
        ("*", "bus.example.org", True),
        ("bus.example.org", "bus.example.org", True),
        ("other, BUS.example.org", "bus.example.org", True),
        (".example.org", "bus.example.org", True),
        ("*.example.org", "bus.example.org", True),
        ("example.org", "bus.example.org", True),
        ("ample.org", "bus.example.org", False),
        ("bus.example.org:8765", "bus.example.org", True),
        ("bus.example.org:80", "bus.example.org", False),
        ("http://bus.example.org", "bus.example.org", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("fd00::/8", "fd00::1", True),
        ("[fd00::1]", "fd00::1", True),
        ("fd00::1", "10.1.2.3", False),
        ("", "bus.example.org", False),
        (",,", "bus.example.org", False),
        ("10.0.0.0/8", "bus.example.org", False),
    ],
)
def test_no_proxy_is_understood_as_others_do(no_proxy: str, host: str, out: bool, env: pytest.MonkeyPatch) -> None:
    """It may list names (which include their subdomains), ports, addresses and networks."""
    env.setenv("HTTP_PROXY", "http://proxy:3128")
    env.setenv("NO_PROXY", no_proxy)
    shown = f"[{host}]" if ":" in host else host
    assert (proxies.route(f"http://{shown}:8765").proxy == "") is out


@pytest.mark.parametrize("status", [200, 403, 407, 502, 503])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("variable", ["BUS_URL", "AGENT_BUS_URL"])
def test_a_failure_behind_a_proxy_names_it(status: int, scheme: str, variable: str, tmp_path: Path) -> None:
    """The user learns whom to ask, and how to bypass the proxy. A password in its address is not shown."""
    with proxy(status) as (address, asked):
        given = {variable: f"{scheme}://bus.example.org:8765", f"{scheme.upper()}_PROXY": f"http://me:hidden@{address}"}
        done = run(tmp_path, "send", "bob", "hi", **given)

    assert asked, "the proxy was not asked"
    assert done.returncode not in (0, 1)
    assert f"the proxy http://{address}, which {scheme.upper()}_PROXY names" in done.stderr
    assert "NO_PROXY=bus.example.org" in done.stderr
    assert "hidden" not in done.stderr
    if status == 407 and scheme == "http":
        assert "a user and a password" in done.stderr


def test_a_proxy_that_is_gone_is_named(tmp_path: Path) -> None:
    """The error says that the proxy, and not the bus, cannot be reached."""
    done = run(tmp_path, "agents", BUS_URL=BUS, ALL_PROXY="http://127.0.0.1:9")
    assert (done.returncode, "the proxy http://127.0.0.1:9, which ALL_PROXY names" in done.stderr) == (5, True)


def test_a_bus_on_this_machine_works_whatever_proxies_there_are(tmp_path: Path) -> None:
    """Even proxies that cannot be used at all make no difference."""
    with served(tmp_path / "bus.db") as server, proxy(200) as (address, asked):
        for value in (f"http://{address}", "http://127.0.0.1:9", "socks5://127.0.0.1:1080", "nonsense://"):
            given = dict.fromkeys(("HTTP_PROXY", "ALL_PROXY"), value)
            done = run(tmp_path, "send", "--as", "ann", "bob", value, "--json", BUS_URL=server.url, **given)
            assert json.loads(done.stdout)["recipients"][0]["recipient"] == "bob"
    assert asked == []
