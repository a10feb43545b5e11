"""Fixtures that most tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.api_client import Program, Serving, new_channel, serving
from tests.support.plugin_environment import Uv, checkout
from tests.support.sessions import Party
from tests.support.store import Store

settings.register_profile("patient", deadline=None)  # machines are shared: an example's duration says nothing
settings.load_profile("patient")


NO_SKIPS = "BUS_TEST_NO_SKIPS"
"""Set where every test has to run: a test that is skipped counts as failed."""
_BY_FOLDER = ("e2e", "faults", "conformance")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of some folders by the folder's name."""
    for item in items:
        for folder in _BY_FOLDER:
            if folder in item.path.parts:
                item.add_marker(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failure where nothing may be missing."""
    report = yield
    if report.skipped and os.environ.get(NO_SKIPS) and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"not run, but everything has to: {reason}"
    return report


def pytest_configure() -> None:
    """Restore Ctrl-C: tests started in the background ignore it, and the processes they start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the servers do."""
    return "asyncio"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new bus file, and the verbs of the bus on it."""
    store = Store(tmp_path / "bus.db")
    yield store
    store.connection.close()


@pytest.fixture(params=["local", "served"])
async def party(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Party]:
    """A new bus file with sessions on it: some in processes of their own, some over HTTP."""
    party = Party(tmp_path / "bus.db", served=request.param == "served")
    yield party
    await party.close()


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database file of `server`."""
    return tmp_path_factory.mktemp("served") / "bus.db"


@pytest.fixture(scope="module")
def server(db: Path) -> Iterator[Serving]:
    """One served bus, shared by the tests of a module that need no other; each test has a channel of its own."""
    with serving(db) as running:
        yield running


@pytest.fixture
def api(server: Serving) -> Program:
    """A program on a channel of its own."""
    return server.program(channel=new_channel())


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """A thread pool for calls that wait."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A copy of the plugin, in a folder whose name contains a space."""
    return checkout(tmp_path / "plug in")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The plugin's data folder, which the client creates."""
    folder = tmp_path / "da ta"
    folder.mkdir()
    return folder


@pytest.fixture
def uv(tmp_path: Path) -> Iterator[Uv]:
    """A stand-in for uv, to be put on PATH."""
    made = Uv(tmp_path / "uv")
    yield made
    made.open()
