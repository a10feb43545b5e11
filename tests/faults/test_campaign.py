"""The fault campaign in short: the bus keeps its promises under it, and a bus that is broken on purpose does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.support.plugin_environment import ROOT

FINISHED = 300.0
"""Seconds after which a campaign counts as hanging."""


def campaign(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m tests.faults` to its end."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "src")))
    command = [sys.executable, "-m", "tests.faults", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=FINISHED, check=False)


def test_nothing_is_lost_and_no_receipt_is_false() -> None:
    """Some sessions, here and elsewhere, live through two rounds of every fault there is, without a promise broken."""
    done = campaign("--seed", 1, "--rounds", 2, "--kills", 80, "--seconds", 30, "--real", 0.05)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("0 violations\n")


@pytest.mark.parametrize(
    ("sabotage", "rules"),
    [
        ("cursor-at-max", {"no false receipt"}),
        ("without-lock", {"identity", "linearizable", "sends", "marked"}),
        ("receipt-before-answer", {"no false receipt"}),
        ("unmarked", {"marked", "in order"}),
    ],
)
def test_the_campaign_sees_a_bus_that_breaks_its_promise(sabotage: str, rules: set[str]) -> None:
    """Broken in one way that real systems are, a few rounds suffice to tell, and the report says which promise was
    broken: one of those, whichever the first kills happened to meet."""
    done = campaign(
        *("--seed", 1, "--rounds", 8, "--kills", 240, "--doom", 0.006, "--pace", 1, "--real", 0),
        *("--far", 0, "--sabotage", sabotage),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"^VIOLATION ({'|'.join(sorted(rules))}): ", done.stdout, re.MULTILINE), done.stdout


def test_the_campaign_sees_a_bus_that_takes_lost_answers_for_read() -> None:
    """Sessions elsewhere, and a line that loses answers, tell of what no fault of a process does."""
    done = campaign(
        *("--seed", 37, "--rounds", 12, "--kills", 400, "--seconds", 8, "--doom", 0, "--pace", 0.2, "--real", 0),
        *("--far", 1, "--outages", 0.4, "--sabotage", "proof-of-all"),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "VIOLATION no false receipt" in done.stdout
