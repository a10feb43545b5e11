"""The sample deployments: their settings are correct, and those for proxies run."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped] # stubs for three calls

from tests.support.certificates import certificate
from tests.support.processes import PATIENCE, eventually
from tests.support.raw_http import ask, connect, head, reply
from tests.support.served_bus import Served, served
from tests.support.tokens import new_token

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[2] / "deploy"
PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"


def sample(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def instructions(name: str) -> list[list[str]]:
    """The instructions of a Dockerfile, split into words."""
    joined = sample(name).replace("\\\n", " ")
    return [line.split() for line in joined.splitlines() if line and not line.startswith("#")]


def test_the_image_runs_as_nobody_in_particular() -> None:
    """The user is numeric, so that a runtime can see that it is not root; installed packages are locked by hashes."""
    last = instructions("Dockerfile")[max(n for n, i in enumerate(instructions("Dockerfile")) if i[0] == "FROM") :]
    [user] = [words[1] for words in last if words[0] == "USER"]

    assert int(user) > 0
    assert "--require-hashes" in sample("Dockerfile")
    assert any(words[0] == "HEALTHCHECK" and "healthz" in words[-2] for words in last)
    assert ["CMD", '["serve"]'] in last


def test_the_health_check_asks_a_served_bus(tmp_path: Path) -> None:
    """The check is run from the image's own program: it fails where no bus answers, and respects the prefix."""
    [check] = [words for words in instructions("Dockerfile") if words[0] == "HEALTHCHECK"]
    command = [sys.executable, *yaml.safe_load(" ".join(check[check.index("CMD") + 1 :]))[1:]]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    failed = subprocess.run(command, env={"BUS_PORT": port}, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "refused" in failed.stderr

    with served(tmp_path / "bus.db", "--prefix", "/team", "--verbose") as bus:
        port = bus.url.rsplit(":", 1)[1].split("/")[0]
        subprocess.run(command, env={"BUS_PORT": port, "BUS_PREFIX": "/team"}, capture_output=True, check=False)
    assert "GET /team/healthz " in bus.log.read_text()


def test_the_composed_bus_can_do_little_to_its_machine() -> None:
    """The container is read-only, without capabilities, on loopback, with one volume."""
    composed: dict[str, Any] = yaml.safe_load(sample("compose.yaml"))
    bus = composed["services"]["bus"]

    assert bus["read_only"] is True
    assert bus["cap_drop"] == ["ALL"]
    assert bus["security_opt"] == ["no-new-privileges:true"]
    assert bus["ports"] == ["127.0.0.1:8765:8765"]
    assert [volume.split(":")[0] for volume in bus["volumes"]] == list(composed["volumes"])
    assert (DEPLOY / bus["build"]["context"] / bus["build"]["dockerfile"]).resolve() == (
        DEPLOY / "Dockerfile"
    ).resolve()


@pytest.mark.skipif(sys.platform != "linux", reason="a unit is for Linux")
def test_the_unit_is_one(tmp_path: Path) -> None:
    """systemd finds no fault in the unit, except that the program is not installed here."""
    unit = tmp_path / "claude-bus.service"
    unit.write_text(sample("claude-bus.service").replace("/opt/claude-bus/bin/claude-bus", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- proxies ----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    assert found, f"these tests need {name}: install it (Debian: apt-get install {name})"
    return found


def nginx(folder: Path, bus: Served, port: int) -> list[str]:
    """The command that runs the sample unchanged, except for ports, paths and certificate."""
    chain, key = certificate(folder, "proxy")
    text = sample("nginx.conf").replace("127.0.0.1:8765", bus.url.split("/")[2])
    text = text.replace("listen 80;", f"listen 127.0.0.1:{free_port()};")
    text = text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;")
    text = re.sub(r"ssl_certificate /\S+;", f"ssl_certificate {chain};", text)
    return nginx_with(folder, re.sub(r"ssl_certificate_key /\S+;", f"ssl_certificate_key {key};", text))


def nginx_with(folder: Path, servers: str) -> list[str]:
    """The command that runs nginx in `folder` with these `server` blocks."""
    user = "user root;\n" if os.geteuid() == 0 else ""
    places = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    path = folder / "nginx.conf"
    path.write_text(
        f"{user}pid {folder}/pid;\ndaemon off;\nevents {{}}\nhttp {{\naccess_log off;\n{places}{servers}}}\n"
    )
    command = [program("nginx"), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(path)]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    return command


def caddy(folder: Path, bus: Served, port: int) -> list[str]:
    """The command that runs the sample unchanged, except for ports, and for a certificate that need not be fetched."""
    chain, key = certificate(folder, "proxy")
    text = sample("Caddyfile").replace("127.0.0.1:8765", bus.url.split("/")[2])
    site = f"https://127.0.0.1:{port} {{\nbind 127.0.0.1\ntls {chain} {key}\n"
    options = f"{{\nadmin off\nauto_https disable_redirects\nstorage file_system {folder}\n}}\n"
    path = folder / "Caddyfile"
    path.write_text(options + text.replace("bus.example.org {\n", site))
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(path)]


Command = Callable[[Path, Served, int], list[str]]
BOTH = pytest.mark.parametrize("proxy", [nginx, caddy])


@contextlib.contextmanager
def proxied(proxy: Command, folder: Path, bus: Served) -> Iterator[tuple[str, ssl.SSLContext]]:
    """A proxy in front of the bus: its address, and a TLS context that trusts its certificate."""
    port = free_port()
    with running(proxy(folder, bus, port), f"https://127.0.0.1:{port}") as url:
        yield url, ssl.create_default_context(cafile=str(folder / "proxy.pem"))


@contextlib.contextmanager
def running(command: list[str], url: str) -> Iterator[str]:
    """Run a proxy; yields once it can be reached at `url`."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            connect(url).close()
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        else:
            return


@BOTH
def test_a_bus_behind_a_proxy(tmp_path: Path, proxy: Command) -> None:
    """The bus accepts pages of the proxy's https address and requires tokens; bodies, events and long polls pass."""
    db = tmp_path / "bus.db"
    _, secret = new_token(db, "anna")
    with served(db, program="tests.support.gated_server") as bus, proxied(proxy, tmp_path, bus) as (url, trusted):
        assert ask(url, "GET /whoami", trusted=trusted).status == 401
        foreign = ask(url, "GET /whoami", "Host: evil.example", token=secret, trusted=trusted)
        assert foreign.status == 421 or not foreign.body  # Caddy sends an empty answer for hosts that it does not know
        assert ask(url, "GET /whoami", "Origin: https://evil.example", token=secret, trusted=trusted).status == 403
        own = ask(url, "GET /whoami", f"Origin: {url}", "X-Forwarded-Proto: http", token=secret, trusted=trusted)
        assert own.document == {"owner": "anna", "scheme": "https"}
        assert "max-age" in own.headers["strict-transport-security"]
        body = b"x" * 2**20
        assert ask(url, "POST /echo", token=secret, body=body, trusted=trusted).document == {"size": 2**20}
        assert ask(url, "GET /wait?block=2", token=secret, trusted=trusted).body == b"nothing"
        with contextlib.closing(connect(url, trusted)) as stream:
            stream.sendall(head(url, "GET /stream?every=60 HTTP/1.1", f"Authorization: Bearer {secret}"))
            said = b""
            while b"data: here" not in said:  # at once, though the answer never ends
                part = stream.recv(65_536)
                assert part
                said += part


@BOTH
def test_who_goes_away_waits_no_longer(tmp_path: Path, proxy: Command) -> None:
    """When a client leaves, the proxy ends its request, so mail that comes later is not handed to a closed
    connection.
    """
    db = tmp_path / "bus.db"
    _, secret = new_token(db, "anna")

    def waiting() -> int:
        return int(ask(bus.url, "GET /waiting", token=secret).document["waiting"])

    with served(db, program="tests.support.gated_server") as bus, proxied(proxy, tmp_path, bus) as (url, trusted):
        with contextlib.closing(connect(url, trusted)) as client:
            client.sendall(head(url, "GET /wait?block=600 HTTP/1.1", f"Authorization: Bearer {secret}"))
            eventually(lambda: waiting() == 1, "the client waits")
        eventually(lambda: waiting() == 0, "nobody waits")


@BOTH
def test_a_proxy_in_front_of_an_open_bus_lets_nobody_in(tmp_path: Path, proxy: Command) -> None:
    """Until there is a token, requests through the proxy are refused, and the first answer says what to do."""
    with (
        served(tmp_path / "bus.db", program="tests.support.gated_server") as bus,
        proxied(proxy, tmp_path, bus) as (url, trusted),
    ):
        answer = ask(url, "GET /whoami", trusted=trusted)
        assert answer.status == 401
        assert "token create" in answer.document["message"]
        assert ask(bus.url, "GET /whoami").status == 200


def test_a_proxy_that_says_nothing_lets_nobody_into_an_open_bus(tmp_path: Path) -> None:
    """It sends the bus's own Host and no forwarding header; but it speaks HTTP/1.0, as nginx did until 1.29.7."""
    with served(tmp_path / "bus.db", program="tests.support.gated_server") as bus:
        port = free_port()
        way = f"location / {{ proxy_pass {bus.url}; proxy_http_version 1.0; }}"
        command = nginx_with(tmp_path, f"server {{ listen 127.0.0.1:{port}; {way} }}\n")
        with running(command, f"http://127.0.0.1:{port}") as url:
            answer = ask(url, "POST /echo", "Host: evil.example", body=b"x")
        assert answer.status == 401
        assert "token create" in answer.document["message"]
        assert ask(bus.url, "POST /echo", body=b"x").status == 200


@BOTH
def test_many_requests_on_few_connections_pass_a_proxy(tmp_path: Path, proxy: Command) -> None:
    """The proxy keeps connections to the bus open, and none of them is closed during a request."""
    db = tmp_path / "bus.db"
    _, secret = new_token(db, "anna")
    with (
        served(db, program="tests.support.gated_server") as bus,
        proxied(proxy, tmp_path, bus) as (url, trusted),
        contextlib.closing(connect(url, trusted)) as made,
    ):
        for _ in range(300):
            made.sendall(head(url, "GET /whoami HTTP/1.1", f"Authorization: Bearer {secret}"))
            assert reply(made).status == 200
