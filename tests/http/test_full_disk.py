"""A served bus on a full disk: every transport reports it, no accepted message is lost, and service continues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.processes import PATIENCE
from tests.support.served_bus import Served, served_busy
from tests.support.small_disk import on_small_disk
from tests.support.tokens import token

pytestmark = pytest.mark.slow

ROUTES = {"/send", "/post", "/v1", "/mcp", "/rpc"}


def scenario(name: str, folder: Path) -> Any:
    return on_small_disk(name, folder / "disk", "tests.support.small_disk_served")


def says_that_it_is_full(said: dict[str, list[Any]]) -> None:
    """Check that each answer is the documented error and names the way out."""
    for route, (status, text) in said.items():
        assert status in (0, 507), (route, status, text)
        assert "store_full" in text or status == 0, (route, text)
        assert "full" in text, (route, text)
        assert "free some space" in text, (route, text)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The observations made while a disk was filled over all transports."""
    return scenario("fill", tmp_path_factory.mktemp("filled"))


def test_every_door_says_that_the_disk_is_full(filled: Any) -> None:
    """Every write is refused with 507 (a tool: an error), and with a sentence that names the way out."""
    assert set(filled["refused"]) == ROUTES
    says_that_it_is_full(filled["refused"])
    says_that_it_is_full(filled["written"])


def test_whoever_only_looks_is_answered_on_a_full_disk(filled: Any) -> None:
    """Reading works on every transport, though presence cannot be stored."""
    failed = {route: said for route, said in filled["looked"].items() if said[0] != 200}
    assert failed == {}


def test_what_was_accepted_on_a_full_disk_is_there(filled: Any) -> None:
    """Exactly the accepted messages are stored, and the file is sound."""
    assert filled["accepted"] > 20
    assert filled["lost"] == []
    assert filled["inside"]["integrity"] == "ok"


def test_with_room_again_every_door_works(filled: Any) -> None:
    """No restart is needed."""
    assert set(filled["joined"]) == {"/mcp", "/rpc"}
    assert set(filled["after"]) == ROUTES
    assert set(filled["written_after"]) == set(filled["written"])
    assert filled["well"]


def test_a_bus_is_served_on_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    """The server runs, reports the problem on every transport, and needs no restart once there is room."""
    seen = scenario("full_from_the_start", tmp_path)

    assert set(seen["refused"]) == ROUTES
    says_that_it_is_full(seen["refused"])
    assert set(seen["joined"]) == {"/mcp", "/rpc"}
    assert set(seen["after"]) == ROUTES
    assert seen["well"]


def test_a_server_that_is_killed_on_a_full_disk_comes_back(tmp_path: Path) -> None:
    """It starts on the full disk, has all accepted messages, serves readers, and accepts writes once there is room."""
    seen = scenario("killed_while_full", tmp_path)

    says_that_it_is_full(seen["refused"])
    assert {route: said for route, said in seen["looked"].items() if said[0] != 200} == {}
    assert seen["inside"]["integrity"] == "ok"
    assert seen["accepted"] > 20
    assert seen["lost"] == []
    assert set(seen["joined"]) == {"/mcp", "/rpc"}
    assert set(seen["after"]) == ROUTES
    assert seen["well"]


# -- a store that cannot answer when the server starts ------------------------------------------------------


def test_a_server_starts_while_somebody_has_the_file_to_himself(tmp_path: Path) -> None:
    """It reports that the store is busy for as long as it is."""
    with served_busy(tmp_path / "bus.db") as (server, free):
        before = agents(server)
        free()
        after = agents(server)

    assert (before.status_code, before.json()["error"]) == (503, "store_busy")
    assert after.status_code == 200


def test_a_server_that_could_not_look_for_tokens_lets_nobody_in_without(tmp_path: Path) -> None:
    """Whether tokens exist is determined before the first caller is admitted, not only at the start."""
    db = tmp_path / "bus.db"
    _, secret = token(db)
    with served_busy(db) as (server, free):
        before = agents(server)
        free()
        stranger, known = agents(server), agents(server, Authorization=f"Bearer {secret}")

    assert [answer.status_code for answer in (before, stranger, known)] == [503, 401, 200]


def agents(server: Served, **headers: str) -> httpx2.Response:
    """The server's answer to a request for the agents."""
    return httpx2.get(f"{server.url}/v1/agents", headers=headers, timeout=PATIENCE)
