"""The cost of the bus in the real Claude Code client: of a run from start to end, and of a prompt hook.

    python benchmarks/client.py [--runs N] [--prompts N] [--quick] [--json]

A run is `claude -p` with a model that says one word: without plugins, with a plugin that has the hooks of ours and a
server that does nothing, and with ours, by turns. The figure is how much longer ours takes than the run without.
A hook's time is that between the client's call and its answer in the client's debug log.
Needs CLAUDE_BIN and tmux.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from cost import Cost, cost
from figures import Figure, plain

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.e2e.claude_e2e import Sandbox, Tui  # noqa: E402
from tests.e2e.fake_anthropic import FakeAnthropic  # noqa: E402

_CALL = re.compile(r"^(\S+) .*mcp_tool calling plugin:\S+/")
_ANSWER = re.compile(r"^(\S+) .*(?:Hook output|Successfully parsed)")


def nothing_plugin(folder: Path, program: str = "nothing_server.py") -> Path:
    """Write a plugin with our hooks, whose server and hooks do nothing; return its folder."""
    hook = {"type": "mcp_tool", "server": "plugin:nothing:nothing", "tool": "nothing", "input": {}}
    server = {"command": sys.executable, "args": [str(ROOT / "benchmarks" / program)]}
    ours = json.loads((ROOT / "hooks" / "hooks.json").read_text(encoding="utf-8"))["hooks"]
    files = {
        ".claude-plugin/plugin.json": {"name": "nothing", "version": "1.0.0"},
        "hooks/hooks.json": {"hooks": {event: [{"hooks": [hook]}] for event in ours}},
        ".mcp.json": {"mcpServers": {"nothing": {**server, "alwaysLoad": True}}},
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


def hook_times(plugin: Path, folder: Path, prompts: int) -> list[float]:
    """Return the milliseconds of each hook call of a session with this many quiet prompts."""
    log = folder / "debug.log"
    with FakeAnthropic() as model:
        settings = {"BUS_DB": str(folder / "bus.db"), "CLAUDE_BUS_PYTHON": sys.executable, "BUS_NAME": "frontend"}
        box = Sandbox(folder, **settings)
        arguments = ("--plugin-dir", str(plugin), "--permission-mode", "manual", "--debug-file", str(log))
        with Tui(box, *arguments, env={"ANTHROPIC_BASE_URL": model.url}) as tui:
            for number in range(prompts):
                tui.prompt(f"prompt {number}")
                model.wait_main(number + 1)
                tui.wait_until_idle()
    return differences(log.read_text(encoding="utf-8").splitlines())


def differences(lines: list[str]) -> list[float]:
    times, called = [], None
    for line in lines:
        if found := _CALL.match(line):
            called = datetime.fromisoformat(found[1])
        elif called and (found := _ANSWER.match(line)):
            times.append((datetime.fromisoformat(found[1]) - called).total_seconds() * 1000)
            called = None
    return times


def hooks(folder: Path, prompts: int) -> list[Figure]:
    """The figure of a prompt hook, in the client's log."""
    nothing = hook_times(nothing_plugin(folder / "plugin"), folder / "nothing", prompts)
    ours = hook_times(ROOT, folder / "bus", prompts)
    what = "a hook call, as the client sees it"
    return [Figure(what, statistics.median(ours), "ms", statistics.median(nothing), "of a bare SDK server")]


def runs(folder: Path, rounds: int) -> list[Figure]:
    """The figures of `claude -p`: what a plugin adds to a run without one, ours and one that does nothing."""
    plugins = {
        "without": None,
        "nothing": nothing_plugin(folder / "nothing", "nothing_stdlib.py"),
        "ours": ROOT,
    }
    found: dict[str, list[Cost]] = {name: [] for name in plugins}
    with FakeAnthropic() as model:
        settings = {"BUS_DB": str(folder / "bus.db"), "CLAUDE_BUS_PYTHON": sys.executable, "BUS_NAME": "frontend"}
        box = Sandbox(folder / "user", ANTHROPIC_BASE_URL=model.url, **settings)
        for round_ in range(rounds + 1):
            for name, plugin in plugins.items():
                arguments = ["-p", "say ok", *(("--plugin-dir", str(plugin)) if plugin else ())]
                taken = cost([box.binary, *arguments], box.env, box.project)
                if round_:  # the first fills caches
                    found[name].append(taken)
    figures = []
    for part, goal in (("wall", "<= 250 ms more"), ("processor", "<= 300 ms more")):
        alone, nothing, ours = (statistics.median(getattr(each, part) for each in found[name]) for name in plugins)
        figures.append(Figure(f"claude -p, {part}, in all", ours, "ms", alone, "without plugins"))
        what = f"claude -p, {part}, more than without plugins"
        figures.append(Figure(what, ours - alone, "ms", nothing - alone, "with a server that does nothing", goal))
    return figures


def measured(folder: Path, rounds: int, prompts: int) -> list[Figure]:
    """All figures of this file."""
    return [*runs(folder / "runs", rounds), *hooks(folder / "hooks", prompts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="few runs and prompts: does it work?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.runs = options.prompts = 1
    with tempfile.TemporaryDirectory() as name:
        figures = measured(Path(name), options.runs, options.prompts)
    print(json.dumps([each.as_dict() for each in figures]) if options.json else plain(figures))


if __name__ == "__main__":
    main()
