"""The examples of docs/reference/api.md are what happens."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_client import serving
from tests.support.processes import PATIENCE, environment

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[3] / "docs" / "reference" / "api.md"


def examples(text: str) -> Iterator[tuple[str, list[Any]]]:
    """The commands to type, and the documents that they print."""
    for commands, printed in re.findall(r"```sh\n(.*?)```\n\n```json\n(.*?)```", text, re.DOTALL):
        yield commands, [json.loads(line) for line in printed.splitlines()]


def documents(printed: str) -> list[Any]:
    """Parse JSON documents that follow one another."""
    found, rest = [], printed.strip()
    while rest:
        document, end = json.JSONDecoder().raw_decode(rest)
        found.append(document)
        rest = rest[end:].lstrip()
    return found


def alike(expected: Any, found: Any) -> bool:
    """Compare two documents; "..." in the expected one matches anything."""
    if expected == "...":
        return bool(found)
    if isinstance(expected, dict) and isinstance(found, dict):
        return expected.keys() == found.keys() and all(alike(value, found[key]) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(alike, expected, found))
    return bool(expected == found)


def test_the_examples_of_the_guide_print_what_it_says(tmp_path: Path) -> None:
    """One after the other, in a shell, on a new bus."""
    db = tmp_path / "bus.db"
    told = list(examples(GUIDE.read_text(encoding="utf-8")))
    assert len(told) >= 7
    with serving(db) as running:
        for commands, expected in told:
            done = subprocess.run(
                ["bash", "-euc", commands],
                env=environment(db, BUS=running.url),
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert alike(expected, documents(done.stdout)), (commands, done.stdout)


def test_every_example_is_tested() -> None:
    """Every block of commands is followed by its output."""
    text = GUIDE.read_text(encoding="utf-8")
    assert text.count("```sh\n") == len(list(examples(text)))


def test_every_metric_is_documented(tmp_path: Path) -> None:
    """Each metric is documented by its name, without the suffixes of the format."""
    with serving(tmp_path / "bus.db") as running:
        text = running.program().http.get("/metrics").text
    names = set(re.findall(r"^# TYPE (\w+?)(?:_created)? ", text, re.MULTILINE))
    guide = GUIDE.read_text(encoding="utf-8")
    assert names
    assert [name for name in names if f"`{name}`" not in guide] == []
