"""A stand-in for the client where a test needs no model: its version, and the servers registered with it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_CLAUDE = """\
#!{python}
import json, os, sys
from pathlib import Path

state, refuses, kills = Path({state!r}), {refuses!r}, {kills!r}
arguments = sys.argv[1:]
known = json.loads(state.read_text()) if state.exists() else {{}}
servers = known.setdefault("mcpServers", {{}})
if arguments == ["--version"]:
    print({version!r})
elif kills and arguments[1] == kills:
    os.kill(os.getppid(), 9)
    sys.exit()
elif refuses and arguments[1] == refuses:
    sys.exit(f"{{refuses}} is refused")
elif arguments[:4] == ["mcp", "remove", "-s", "user"]:
    if not servers.pop(arguments[4], None):
        sys.exit("No MCP server found")
elif arguments[1] in ("add", "add-json"):
    assert arguments[2:4] == ["-s", "user"]
    name, rest = arguments[4], arguments[5:]
    if name in servers:
        sys.exit(f"MCP server {{name}} already exists in user config")
    if arguments[1] == "add-json":
        servers[name] = json.loads(rest[0])
    else:
        cut = rest.index("--")
        env = dict(word.split("=", 1) for word in rest[:cut] if word != "-e")
        servers[name] = {{"type": "stdio", "command": rest[cut + 1], "args": rest[cut + 2 :], "env": env}}
if arguments[0] == "mcp":
    if not servers:
        del known["mcpServers"]
    state.write_text(json.dumps(known))
"""


class FakeClaude:
    """A `claude` in a folder for PATH that keeps its registered servers in the file `state`."""

    def __init__(
        self, folder: Path, state: Path, version: str = "2.1.332", *, refuses: str = "", kills: str = ""
    ) -> None:
        """`refuses` is a `claude mcp` command that fails; `kills` is one during which the calling process is killed."""
        self.folder, self.state = folder, state
        folder.mkdir(parents=True, exist_ok=True)
        told = f"{version} (Claude Code)"
        values = {"python": sys.executable, "state": str(state), "version": told, "refuses": refuses, "kills": kills}
        self.program = folder / "claude"
        self.program.write_text(_CLAUDE.format(**values), encoding="utf-8")
        self.program.chmod(0o755)

    def read(self) -> dict[str, Any]:
        """Everything that it keeps."""
        found: dict[str, Any] = json.loads(self.state.read_text(encoding="utf-8")) if self.state.exists() else {}
        return found

    @property
    def server(self) -> dict[str, Any] | None:
        """The registered server `bus`."""
        found: dict[str, Any] | None = self.read().get("mcpServers", {}).get("bus")
        return found

    def has(self, **state: Any) -> None:
        """Replace what it keeps."""
        self.state.write_text(json.dumps(self.read() | state), encoding="utf-8")

    def registered(self, **server: Any) -> None:
        """Register a server `bus`."""
        self.has(mcpServers={"bus": {"type": "stdio", "args": [], "env": {}, **server}})
