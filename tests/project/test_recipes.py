"""The recipes of the documentation run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from tests.support.api_client import Serving, serving
from tests.support.processes import PATIENCE, ROOT, environment, eventually

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "recipes.md"
TESTED = re.findall(
    r"^### (?P<title>[^\n]+)$|^<!-- tested: (?P<how>[^\n]+?) -->\n```\w+\n(?P<code>.*?)^```$",
    PAGE.read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)


def recipes(*kinds: str) -> list[ParameterSet]:
    """The tested blocks of some kinds, each under the title above it."""
    found: list[ParameterSet] = []
    title = ""
    for above, how, code in TESTED:
        title = above or title
        if how in kinds:
            found.append(pytest.param(code, id=title))
    return found


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


@pytest.fixture
def served(db: Path) -> Iterator[Serving]:
    with serving(db) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the command and the page's own module."""
    place = tmp_path / "work"
    place.mkdir()
    command = place / "claude-bus"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m claude_bus "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    for _, how, code in TESTED:
        if how.startswith("file "):
            (place / how.removeprefix("file ")).write_text(code, encoding="utf-8")
    return place


def variables(db: Path, folder: Path, **more: str) -> dict[str, str]:
    found = environment(db, **more)
    paths = os.pathsep.join([str(folder), found["PYTHONPATH"]])
    return found | {"PATH": f"{folder}{os.pathsep}{found['PATH']}", "PYTHONPATH": paths}


def run(command: list[str], folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("code", recipes("shell"))
def test_a_recipe_for_the_shell_runs(code: str, db: Path, folder: Path) -> None:
    run(["bash", "-euc", code], folder, variables(db, folder))


@pytest.mark.parametrize("code", recipes("served"))
def test_a_recipe_for_the_shell_runs_against_a_served_bus(code: str, db: Path, folder: Path, served: Serving) -> None:
    assert "deploying" in run(["bash", "-euc", code], folder, variables(db, folder, BUS=served.url))
    taken = {"as": "other", "paths": ["env:staging"], "ttl": 60}
    served.program().post("/claims", **taken)
    assert "deploying" not in run(["bash", "-euc", code], folder, variables(db, folder, BUS=served.url))


@pytest.mark.parametrize("code", recipes("answered"))
def test_a_recipe_that_waits_prints_the_answer(code: str, db: Path, folder: Path, served: Serving) -> None:
    """It asks, its reader answers, and the answer is what it prints last."""
    program = served.program()
    with subprocess.Popen(
        ["bash", "-euc", code], cwd=folder, env=variables(db, folder), stdout=subprocess.PIPE, text=True
    ) as waiting:
        [asked] = eventually(lambda: program.inbox("backend"))
        program.send("backend", asked["from"], "yes, go ahead", reply_to=asked["id"])
        told, _ = waiting.communicate(timeout=PATIENCE)
    assert asked["kind"] == "request"
    assert told.rstrip().endswith("yes, go ahead")


@pytest.mark.parametrize("code", recipes("python"))
def test_a_recipe_in_python_runs(code: str, db: Path, folder: Path, served: Serving) -> None:
    run([sys.executable, "-c", code], folder, variables(db, folder, BUS=served.url))


@pytest.mark.parametrize("code", recipes("worker"))
def test_the_worker_acknowledges_what_it_has_done(code: str, db: Path, folder: Path, served: Serving) -> None:
    """A message to it is printed, and its sender sees `acked`."""
    program = served.program()
    sent = program.send("boss", "worker", "count the files")
    command = [sys.executable, "-u", "-c", code]
    with subprocess.Popen(
        command, cwd=folder, env=variables(db, folder, BUS=served.url), stdout=subprocess.PIPE, text=True
    ) as worker:
        try:
            eventually(lambda: program.states(sent, "boss") == {"worker": "acked"})
        finally:
            worker.terminate()
        assert worker.stdout
        assert worker.stdout.read() == "boss: count the files\n"


def test_every_kind_of_mark_is_known() -> None:
    """No recipe is marked as tested in a way that nothing here tests."""
    kinds = {how for _, how, _ in TESTED if how and not how.startswith("file ")}
    assert kinds == {"shell", "served", "answered", "python", "worker"}
    assert PAGE.read_text(encoding="utf-8").count("<!-- tested:") == sum(bool(how) for _, how, _ in TESTED)
