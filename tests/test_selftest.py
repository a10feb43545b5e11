"""The self-test of an installation, run as a program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE, environment

pytestmark = pytest.mark.slow


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are asked for")
def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """All of its processes have ended: a server that lived longer would recreate its database, and report it."""
    env = environment(tmp_path / "bus.db", TMPDIR=str(tmp_path))
    proof = subprocess.Popen(
        [sys.executable, "-m", "claude_bus.selftest"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert proof.wait(PATIENCE) == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(proof.pid, 0)
    out, complaints = proof.communicate()

    assert (out.splitlines()[-1][:8], complaints) == (b"It works", b"")
    assert list(tmp_path.iterdir()) == []
