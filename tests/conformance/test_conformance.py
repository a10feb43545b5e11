"""The official MCP conformance suite, in both protocol eras."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.served_bus import served

ROOT = Path(__file__).parents[2]
REVISIONS = ("2025-11-25", "2026-07-28")


def test_the_suite_passes(tmp_path: Path) -> None:
    """Every check of the suite passes except the listed ones, and those fail."""
    with served(tmp_path / "bus.db") as server:
        done = subprocess.run(
            [ROOT / "scripts" / "conformance", server.url], capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr}\n{server.log.read_text(encoding='utf-8')}"
    for revision in REVISIONS:
        assert f"== MCP {revision}" in done.stdout
    assert done.stdout.count("server-initialize: 3 passed, 0 failed") == 1
    assert len(re.findall(r"tools-list: \d passed, 0 failed", done.stdout)) == len(REVISIONS)


@pytest.mark.parametrize("revision", REVISIONS)
def test_each_exception_has_a_reason(revision: str) -> None:
    """The page lists exactly the checks that are expected to fail, each with its reason."""
    expected = re.findall(
        r"^  - (\S+)$", (ROOT / "tests" / "conformance" / f"{revision}.yaml").read_text(), re.MULTILINE
    )
    page = (ROOT / "docs" / "design" / "conformance.md").read_text(encoding="utf-8").split("\n## ")
    sections = [part for part in page if part.startswith(("In both revisions", revision))]
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| (.+) \|$", "\n".join(sections), re.MULTILINE)
    assert sorted(f"{scenario}:{check}" for scenario, check, _why in rows) == sorted(expected)
    assert expected
