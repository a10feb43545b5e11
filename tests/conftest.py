"""Fixtures that most tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sessions_under_test import Party
from store_under_test import Store

settings.register_profile("patient", deadline=None)  # machines are shared: how long an example takes says nothing
settings.load_profile("patient")


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the servers do."""
    return "asyncio"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new bus file, and verbs to run on it."""
    store = Store(tmp_path / "bus.db")
    yield store
    store.connection.close()


@pytest.fixture(params=["local", "served"])
async def party(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Party]:
    """A new bus file, and sessions to run on it: in their own processes, and over HTTP."""
    party = Party(tmp_path / "bus.db", served=request.param == "served")
    yield party
    await party.close()
