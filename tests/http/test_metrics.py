"""`/metrics`: a server's figures in the format of Prometheus."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.support.api_client import Program, metric, serving, waiting
from tests.support.processes import PATIENCE, eventually, wire
from tests.support.served_bus import locked, served, served_busy
from tests.support.tokens import token


def requests(api: Program, method: str, route: str, status: int) -> float:
    return metric(api, f'claude_bus_requests_total{{method="{method}",route="{route}",status="{status}"}}')


def test_requests_are_counted_by_the_route_that_was_declared(api: Program) -> None:
    """The label is the declared route and not the requested path, so names and keys do not add figures."""
    for number in range(5):
        api.put(f"/state/key-{number}", **{"as": "ci"}, value=1)
    api.refused("GET", "/state/nothing", channel=api.channel)

    assert requests(api, "PUT", "/v1/state/{key}", 200) == 5
    assert requests(api, "GET", "/v1/state/{key}", 404) == 1
    assert metric(api, 'claude_bus_request_seconds_count{method="PUT",route="/v1/state/{key}"}') == 5


def test_nobody_can_make_figures_without_end(api: Program) -> None:
    """All unknown paths share one figure, below the API and elsewhere, and so do all unknown methods."""
    before = requests(api, "GET", "other", 404)
    for number in range(20):
        api.http.get(f"/nothing-{number}")
        api.http.get(f"/v1/nothing-{number}")
        api.http.request(f"METHOD{number}", "/v1/agents")
    assert requests(api, "GET", "other", 404) == before + 40
    text = api.http.get("/metrics").text
    assert "nothing-" not in text
    assert "METHOD" not in text
    assert requests(api, "other", "/v1/agents", 405) == 20


def test_who_waits_and_what_is_under_way_is_told(api: Program, pool: ThreadPoolExecutor) -> None:
    """The figures are current: they show calls only while these last."""
    found = waiting(api, pool, "/agents/ci/inbox")
    assert metric(api, "claude_bus_waiting") == 1
    assert metric(api, "claude_bus_requests_under_way") == 2  # the poll, and this very request
    api.send("ann", "ci")
    found.result(PATIENCE)
    eventually(lambda: metric(api, "claude_bus_waiting") == 0)


def test_messages_are_counted_whoever_sends_them(api: Program, db: Path) -> None:
    """Messages through the API and of sessions on the same file are all counted."""
    before = metric(api, "claude_bus_messages_total")
    api.send("ann", "ci")
    with wire(db, BUS_NAME="bob", BUS_CHANNEL=api.channel) as session:
        session.call("send", to="ci", content="hello")
    eventually(lambda: metric(api, "claude_bus_messages_total") == before + 2)


def test_it_is_what_prometheus_reads(api: Program) -> None:
    """The text format and its content type are those that Prometheus expects."""
    api.get("/agents")
    answer = api.http.get("/metrics")
    families = {family.name for family in text_string_to_metric_families(answer.text)}
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert {"claude_bus_requests", "claude_bus_request_seconds", "claude_bus_messages"} <= families


def test_failures_of_the_store_are_counted_by_their_code(tmp_path: Path) -> None:
    """Another program holds the lock: nothing was changed, and the next request succeeds."""
    db = tmp_path / "bus.db"
    with serving(db, BUS_BUSY_TIMEOUT="0.1") as running:
        api = running.program()
        api.get("/agents")
        with locked(db):
            api.get("/agents")  # a read needs no lock
            assert api.refused("PUT", "/agents/ci") == (503, "store_busy")
        api.get("/agents")
        assert metric(api, 'claude_bus_store_errors_total{code="store_busy"}') == 1


def test_the_store_fails_at_every_door_alike(tmp_path: Path) -> None:
    """This includes the original wires, which have error formats of their own, and the lookup of tokens."""
    db = tmp_path / "bus.db"
    with served_busy(db) as (server, free), httpx2.Client(base_url=server.url, timeout=PATIENCE) as http:
        assert http.get("/health").status_code == 503
        free()
        with locked(db):
            message = {"from": "ann", "to": "bob", "msg": "hello", "body": "hello"}
            assert [http.post(path, json=message).status_code for path in ("/send", "/post")] == [503, 503]
        counted = [line for line in http.get("/metrics").text.splitlines() if "store_errors_total{" in line]
    assert counted == ['claude_bus_store_errors_total{code="store_busy"} 3.0']


def test_what_the_server_itself_failed_is_no_failure_of_the_store(tmp_path: Path) -> None:
    """An internal error of the server does not count as an error of the store."""
    db = tmp_path / "bus.db"
    with (
        served(db, program="tests.support.gated_server") as server,
        httpx2.Client(base_url=server.url, timeout=PATIENCE) as http,
    ):
        assert http.get("/crash").status_code == 500
        assert "store_errors_total{" not in http.get("/metrics").text


def test_it_needs_a_token_where_everything_does(tmp_path: Path) -> None:
    """Any valid token will do, because no figure or label contains a name."""
    db = tmp_path / "bus.db"
    secret = token(db, "ci*")[1]
    with serving(db) as running:
        assert running.program().http.get("/metrics").status_code == 401
        api = running.program(secret)
        api.send("ci-secret-name", "ann")
        answer = api.http.get("/metrics")
        assert answer.status_code == 200
        assert not re.search("secret-name|ann", answer.text)
        assert metric(api, 'claude_bus_requests_total{method="GET",route="other",status="401"}') == 1
