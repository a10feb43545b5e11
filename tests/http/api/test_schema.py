"""The OpenAPI document is true: schemathesis sends a served bus every request that it permits, and many that it
does not.

schemathesis runs as a program of its own, because its imports cause warnings, and warnings are errors here. To run
it for longer: `BUS_TEST_EFFORT=50 pytest tests/http/api/test_schema.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.api_client import Serving, serving
from tests.support.effort import looks
from tests.support.tokens import token

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).with_name("schemathesis.toml")
STREAM = "/v1/events/stream"
"""Its answer never ends, so a tool that reads complete answers cannot call it."""


def ask(running: Serving, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Let schemathesis test all operations but one."""
    program = Path(sys.executable).with_name("schemathesis")
    chosen = ["--exclude-path", STREAM, "--max-examples", str(looks(15).max_examples), "--continue-on-failure"]
    # The duration, and the number of examples generated in vain, say nothing about the bus.
    command = [program, "--config-file", CONFIG, "run", *chosen, "--suppress-health-check", "all", *options]
    return subprocess.run(
        [*map(str, command), f"{running.url}/v1/openapi.json"], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "options",
    [
        ("--generation-codec", "ascii"),
        # Beyond ASCII the document permits more names than are valid, so permitted input may be refused.
        ("--generation-codec", "utf-8", "--exclude-checks", "positive_data_acceptance", "--phases", "fuzzing,stateful"),
    ],
    ids=["ascii", "unicode"],
)
def test_every_answer_is_as_documented(tmp_path: Path, options: tuple[str, ...]) -> None:
    """The server never fails; every status, header and form is in the document; valid requests are accepted and
    others refused.
    """
    with serving(tmp_path / "bus.db") as running:
        done = ask(running, tmp_path, *options)

    assert done.returncode == 0, done.stdout


def test_every_operation_needs_its_token(tmp_path: Path) -> None:
    """With tokens the document says so, and each operation refuses callers with no token or a wrong one."""
    db = tmp_path / "bus.db"
    secret = token(db)[1]
    with serving(db) as running:
        checks = ("--checks", "ignored_auth,not_a_server_error,status_code_conformance")
        done = ask(running, tmp_path, "--header", f"Authorization: Bearer {secret}", *checks, "--phases", "coverage")

    assert done.returncode == 0, done.stdout
