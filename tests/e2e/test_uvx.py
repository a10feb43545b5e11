"""The bus as `uvx` runs it, registered with `claude mcp add` alone: tools, and no hooks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.plugin_environment import ROOT

from .claude_e2e import Sandbox
from .fake_anthropic import PATIENCE, FakeAnthropic, Request, text, tool


@pytest.fixture(scope="module")
def uvx(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A uvx of the package index, with a Python that it finds."""
    place = tmp_path_factory.mktemp("uv")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--target", place, "uv>=0.9"], check=True, timeout=3 * PATIENCE)
    return str(place / "bin" / "uvx")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", place, ROOT], check=True, timeout=3 * PATIENCE)
    (found,) = place.iterdir()
    return found


def turn(box: Sandbox, name: str, *script: Any) -> list[Request]:
    """Run a headless session under this name; returns the requests that its model read."""
    with FakeAnthropic(script) as model:
        box.run("-p", stdin="go on", env={"ANTHROPIC_BASE_URL": model.url, "BUS_NAME": name})
        return model.main


@pytest.mark.parametrize("everything", [False, True], ids=["claude-bus", "claude-bus[all]"])
def test_a_first_message_arrives(box: Sandbox, uvx: str, wheel: Path, everything: bool) -> None:
    """One session sends it, another reads it with the tool `inbox`."""
    source = f"claude-bus[all] @ {wheel.as_uri()}" if everything else str(wheel)
    box.env["UV_CACHE_DIR"] = str(box.home / "uv")
    box.env |= {name: value for name, value in os.environ.items() if name.startswith(("UV_", "PIP_", "SSL_"))}
    box.settings(permissions={"allow": ["mcp__bus"]})
    command = [uvx, "--python", sys.executable, "--from", source, "claude-bus"]
    version = subprocess.run([*command, "--version"], env=box.env, capture_output=True, text=True, check=True)
    assert version.stdout.startswith("claude-bus ")
    box.run("mcp", "add", "-s", "user", "bus", "--", *command, env={"ANTHROPIC_BASE_URL": "http://127.0.0.1:9"})

    sent = turn(box, "alice", tool("mcp__bus__send", to="bob", content="the first message"), text("sent"))
    read = turn(box, "bob", tool("mcp__bus__inbox"), text("read"))

    assert "id" in sent[-1].tool_results()[-1]
    assert "the first message" in read[-1].tool_results()[-1]

    lacking = subprocess.run(
        [*command, "serve", "--host", "192.0.2.1"], env=box.env, capture_output=True, text=True, check=False
    )
    assert ("uvx --from 'claude-bus[all] @ ADDRESS' claude-bus" in lacking.stderr) != everything
