"""The cost of the prompt hook as the real Claude Code client sees it.

    python benchmarks/client.py [--prompts N] [--quick]

Reads the client's debug log: the time from its call of the hook until it takes the answer,
for prompts without mail, next to a hook of a server that does nothing. Needs CLAUDE_BIN, tmux.
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

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.e2e.claude_e2e import Sandbox, Tui  # noqa: E402
from tests.e2e.fake_anthropic import FakeAnthropic  # noqa: E402

_CALL = re.compile(r"^(\S+) .*mcp_tool calling plugin:\S+/")
_ANSWER = re.compile(r"^(\S+) .*(?:Hook output|Successfully parsed)")


def nothing_plugin(folder: Path) -> Path:
    """Write a plugin whose server and hook do nothing; return its folder."""
    hook = {"type": "mcp_tool", "server": "plugin:nothing:nothing", "tool": "nothing", "input": {}}
    server = {"command": sys.executable, "args": [str(ROOT / "benchmarks" / "nothing_server.py")]}
    files = {
        ".claude-plugin/plugin.json": {"name": "nothing", "version": "1.0.0"},
        "hooks/hooks.json": {"hooks": {event: [{"hooks": [hook]}] for event in ("UserPromptSubmit", "Stop")}},
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="few prompts: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.prompts = 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nothing = hook_times(nothing_plugin(folder / "plugin"), folder / "nothing", options.prompts)
        ours = hook_times(ROOT, folder / "bus", options.prompts)
    base, median = statistics.median(nothing), statistics.median(ours)
    print(f"a hook call in the client's log, {len(ours)} of ours and {len(nothing)} that do nothing, median ms:")
    print(f"ours {median:.1f}, nothing {base:.1f}, ratio {median / base:.2f}")


if __name__ == "__main__":
    main()
