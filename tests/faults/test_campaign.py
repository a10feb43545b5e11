"""A short fault campaign: the bus keeps its promises, and a deliberately broken bus is caught."""

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
    """Local and remote sessions go through two rounds of all faults without a broken promise."""
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
    """A bus broken in one realistic way is detected within a few rounds. The report names a broken promise; which
    of the expected ones depends on the first kills.
    """
    done = campaign(
        *("--seed", 1, "--rounds", 8, "--kills", 240, "--doom", 0.006, "--pace", 1, "--real", 0),
        *("--far", 0, "--sabotage", sabotage),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf"^VIOLATION ({'|'.join(sorted(rules))}): ", done.stdout, re.MULTILINE), done.stdout


def test_the_campaign_sees_a_bus_that_takes_lost_answers_for_read() -> None:
    """Remote sessions on a connection that loses answers reveal a fault that no death of a process reveals.

    A message that counts as read although nobody had it is a false receipt. One that is held back for good is
    overtaken by all later ones. Which of the two shows first depends on the first lost answer.
    """
    done = campaign(
        *("--seed", 37, "--rounds", 12, "--kills", 400, "--seconds", 8, "--doom", 0, "--pace", 0.2, "--real", 0),
        *("--far", 1, "--outages", 0.4, "--sabotage", "proof-of-all"),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^VIOLATION (no false receipt|in order): ", done.stdout, re.MULTILINE), done.stdout
