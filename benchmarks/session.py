"""The cost of a whole session: `claude -p` with a prompt to which the model answers at once.

    python benchmarks/session.py [--rounds N] [--quick]

With the plugin, with a plugin whose server and hooks do nothing, and without any, in turns. Prints wall time, and the
processor time of all processes. Needs CLAUDE_BIN.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.e2e.claude_e2e import Sandbox  # noqa: E402
from tests.e2e.fake_anthropic import FakeAnthropic  # noqa: E402

NOTHING = """
import json, sys

TOOL = {"name": "hook", "inputSchema": {"type": "object"}, "_meta": {"ui": {"visibility": ["app"]}}}
for line in sys.stdin:
    asked = json.loads(line)
    method, params = asked["method"], asked.get("params", {})
    results = {
        "initialize": {
            "protocolVersion": params.get("protocolVersion"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "nothing", "version": "1"},
        },
        "tools/list": {"tools": [TOOL]},
        "tools/call": {"content": [{"type": "text", "text": "{}"}]},
        "ping": {},
    }
    if "id" in asked:
        error = {"error": {"code": -32601, "message": "Method not found"}}
        found = {"result": results[method]} if method in results else error
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **found}), flush=True)
"""
"""A server of the standard library that does nothing."""
_SUBREAPER = 36
_ENDING = 10.0


def nothing_plugin(folder: Path) -> Path:
    """Write a plugin with our hooks and a server that does nothing; return its folder."""
    hooks = (
        (ROOT / "hooks" / "hooks.json").read_text(encoding="utf-8").replace("plugin:bus:bus", "plugin:nothing:nothing")
    )
    server = {"command": sys.executable, "args": ["-I", "-S", str(folder / "server.py")], "alwaysLoad": True}
    manifest = {"name": "nothing", "version": "1.0.0", "mcpServers": {"nothing": server}}
    files = {".claude-plugin/plugin.json": json.dumps(manifest), "hooks/hooks.json": hooks, "server.py": NOTHING}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def session(box: Sandbox, address: str, *arguments: str) -> tuple[float, float]:
    """Run one session; return its seconds, and those of the processor until all its processes have ended."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [box.binary, "-p", *arguments, "hi"],
        cwd=box.project,
        env=box.env | {"ANTHROPIC_BASE_URL": address},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    taken, end = time.perf_counter() - begin, time.monotonic() + _ENDING
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.01)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one round: does it run?")
    options = parser.parse_args()
    if sys.platform == "linux":  # what outlives the client is waited for here
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as name, FakeAnthropic() as model:
        folder = Path(name)
        box = Sandbox(folder / "box", BUS_DB=str(folder / "bus.db"), CLAUDE_BUS_PYTHON=sys.executable)
        kinds: dict[str, tuple[str, ...]] = {
            "without a plugin": (),
            "with one that does nothing": ("--plugin-dir", str(nothing_plugin(folder / "nothing"))),
            "with claude-bus": ("--plugin-dir", str(ROOT)),
        }
        figures: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for number in range(1 if options.quick else options.rounds + 1):
            for kind, arguments in kinds.items():
                found = session(box, model.url, *arguments)
                if number or options.quick:  # the first session of each prepares files
                    figures[kind].append(found)
    medians = {
        kind: [statistics.median(found[place] for found in rounds) for place in (0, 1)]
        for kind, rounds in figures.items()
    }
    least = medians["without a plugin"]
    print(f"{'claude -p, medians':28} {'s':>6} {'more':>6}   {'s of CPU':>8} {'more':>6}")
    for kind, (wall, cpu) in medians.items():
        print(f"{kind:28} {wall:6.2f} {wall - least[0]:6.2f}   {cpu:8.2f} {cpu - least[1]:6.2f}")


if __name__ == "__main__":
    main()
