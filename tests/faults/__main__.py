"""`python -m tests.faults`: run a campaign and report on it. Exit status 1 if a promise was broken."""

from __future__ import annotations

import argparse
import gc
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from claude_bus import detector

from . import nursery
from .campaign import Plan, run
from .report import report
from .sabotage import SABOTAGES

_DISK = "FAULTS_SMALL_DISK"
_MOUNT = 'mount -t tmpfs -o size=48m,mode=755 none "$0" && exec "$@"'


def main() -> int:
    plan = _plan()
    if _DISK not in os.environ:
        return _on_small_disk(plan.seed)
    disk = Path(os.environ.pop(_DISK))
    print(f"seed {plan.seed}", flush=True)
    nursery.end_with_parent()
    nursery.adopt_orphans()
    detector._scanner()  # half a second for each process that is not forked along with it
    gc.collect()
    gc.freeze()
    (disk / "bus").mkdir()
    work = disk.with_suffix(".work")
    result = run(plan, disk / "bus", work, lambda line: print(line, flush=True))
    print(report(plan, result, work))
    return 1 if result.violations else 0


def _plan() -> Plan:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, default=secrets.randbelow(1_000_000), help="of all decisions (default: printed)")
    add("--rounds", type=int, default=10, help="at most so many (default: 10)")
    add("--kills", type=int, default=1000, help="over all rounds, as far as time allows (default: 1000)")
    add("--sessions", type=int, default=6, help="in each round (default: 6)")
    add("--seconds", type=float, default=60.0, help="of faults in a round at most (default: 60)")
    add("--pace", type=float, default=3.0, help="kills at any moment, per second (default: 3)")
    add("--doom", type=float, default=0.01, help="probability of a kill at each worst moment (default: 0.01)")
    add("--real", type=float, default=0.02, help="share of servers started with exec (default: 0.02)")
    add("--impatience", type=float, default=0.0, help="probability that a hook is given up early (default: 0)")
    add("--far", type=float, default=0.5, help="probability that a session is elsewhere, on a bad line (default: 0.5)")
    add("--outages", type=float, default=1.5, help="mean seconds between two failures of that line (default: 1.5)")
    add("--sabotage", choices=sorted(SABOTAGES), default="", help="break the bus on purpose")
    return Plan(**vars(parser.parse_args()))


def _on_small_disk(seed: int) -> int:
    """Run the campaign in a mount namespace of its own, where a folder is a disk of 48 MB."""
    disk = Path(tempfile.mkdtemp(prefix="faults-"))
    work = disk.with_suffix(".work")
    work.mkdir()
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    again = [sys.executable, "-m", "tests.faults", *sys.argv[1:], "--seed", str(seed)]
    command = ["unshare", *user, "--mount", "sh", "-c", _MOUNT, str(disk), *again]
    status = os.spawnvpe(os.P_WAIT, command[0], command, {**os.environ, _DISK: str(disk)})
    disk.rmdir()
    if not any(work.iterdir()):
        shutil.rmtree(work)
    return status


if __name__ == "__main__":
    sys.exit(main())
