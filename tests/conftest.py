"""Fixtures that most tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from store_under_test import Store


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
