"""Every benchmark still runs: a few rounds of each. The figures are not checked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "benchmarks"
BENCHMARKS = sorted(path.stem for path in FOLDER.glob("*.py") if "ArgumentParser" in path.read_text(encoding="utf-8"))
PARTS = ["cost", "figures", "nothing_http", "nothing_server", "nothing_stdlib", "wire"]


def test_every_file_is_a_benchmark_or_a_part_of_one() -> None:
    """No file of the folder is missing from these tests."""
    assert sorted([*BENCHMARKS, *PARTS]) == sorted(path.stem for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_few_rounds_of_each_come_to_their_figures(name: str) -> None:
    """The benchmark ends well, and prints a line for each figure."""
    only = ["--only", "Commands"] if name == "performance" else []  # the others have a test each
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick", *only]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5 * PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"\b\d+(\.\d+)?\b.*\b\d+(\.\d+)?\b", done.stdout)


def test_memory_and_idling_are_those_of_both_processes(tmp_path: Path) -> None:
    """A client starts a supervisor; the bus server below it must be counted as well."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import bench, pathlib; from wire import Server\n"
        "with Server(bench.BUS, bench.environment(pathlib.Path(sys.argv[2]))) as server:\n"
        "    found = bench.processes(server); print(len(found), bench.memory(server) > bench.memory_of(found[0]) * 1.5)"
    )
    command = [sys.executable, "-c", code, str(FOLDER), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "2 True\n"


def test_a_page_gets_the_tables_of_the_last_run_only(tmp_path: Path) -> None:
    """`performance.py --write` replaces the tables between the marks, and leaves the text around them."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n", encoding="utf-8")
    command = [sys.executable, str(FOLDER / "performance.py"), "--quick", "--only", "Commands", "--write", str(page)]
    subprocess.run(command, check=True, capture_output=True, timeout=5 * PATIENCE)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- measured: begin -->\n")
    assert text.endswith("\n<!-- measured: end -->\nafter\n")
    assert "| claude-bus inbox, wall |" in text
    assert "old" not in text.split("<!-- measured: end -->")[0].splitlines()
