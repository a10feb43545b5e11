"""The plugin's files are consistent with the program and with each other."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import claude_bus
from claude_bus import claude_settings
from claude_bus.mcp import hooks
from claude_bus.mcp.tools import TOOLS
from claude_bus.session.hook_event import HookEvent
from tests.support.plugin_environment import ROOT, Launched, machine

SKILL = (ROOT / "commands" / "bus" / "SKILL.md").read_text(encoding="utf-8")


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


# -- manifests ------------------------------------------------------------------------


def test_the_plugin_has_the_programs_version() -> None:
    """plugin.json names the plugin `bus`, in the version of the package."""
    manifest = read(".claude-plugin/plugin.json")
    assert (manifest["name"], manifest["version"]) == ("bus", claude_bus.__version__)


def test_the_marketplace_offers_it() -> None:
    """Marketplace `claude-bus` offers this folder under a name that the client permits, that is, without a claude-
    prefix.
    """
    marketplace = read(".claude-plugin/marketplace.json")
    assert marketplace["name"] == "claude-bus"
    assert {entry["name"]: entry["source"] for entry in marketplace["plugins"]} == {"bus": "./"}


def test_the_plugins_server_is_the_launcher() -> None:
    """plugin.json starts the launcher, isolated from the user's Python, and has its tools loaded at once."""
    (server,) = read(".claude-plugin/plugin.json")["mcpServers"].items()
    name, settings = server
    *options, script = settings["args"]
    assert (name, settings["command"], options, settings["alwaysLoad"]) == ("bus", "python3", ["-I", "-S"], True)
    assert (ROOT / script.replace("${CLAUDE_PLUGIN_ROOT}/", "")).is_file()


def test_the_projects_server_is_another_to_the_client() -> None:
    """.mcp.json is for users who open a clone. It names the same server, which plugin.json overrides for the
    plugin. Its command must differ: of two servers with equal commands the client drops one, the plugin's, whose
    hooks then fail.
    """
    ours, plugins = read(".mcp.json")["mcpServers"], read(".claude-plugin/plugin.json")["mcpServers"]
    assert list(ours) == list(plugins)
    assert ours["bus"]["args"] != plugins["bus"]["args"]
    assert "${" not in json.dumps(ours)


@pytest.mark.parametrize("plugin_root", ["", "/of/another/plugin"])
@pytest.mark.parametrize("folder", [".", "src/claude_bus"])
def test_the_projects_server_starts_anywhere_in_a_clone(folder: str, plugin_root: str, tmp_path: Path) -> None:
    """The client may be started in any folder of the clone."""
    server = read(".mcp.json")["mcpServers"]["bus"]
    env = machine(
        {"CLAUDE_BUS_PYTHON": sys.executable, "CLAUDE_PLUGIN_ROOT": plugin_root, "BUS_DB": str(tmp_path / "bus.db")}
    )
    running = Launched([sys.executable, *server["args"]], env, ROOT / folder)
    try:
        running.start()
        assert running.end() == 0
    finally:
        running.kill()


def test_the_clients_are_named_alike() -> None:
    """CI installs the oldest client that gets hooks from the installer, and README lists the tested clients."""
    script, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("scripts/client", "README.md"))
    versions = dict(re.findall(r"^(CLAUDE_CODE_\w+)=(\S+)$", script, re.MULTILINE))
    oldest, tested = versions["CLAUDE_CODE_OLDEST"], versions["CLAUDE_CODE_VERSION"]
    assert oldest == ".".join(map(str, claude_settings.HOOKS_SINCE))
    assert f"Needs Claude Code {oldest} or newer" in readme
    assert f"with {oldest} and {tested}" in readme


def test_the_icon_is_what_the_directory_takes() -> None:
    """A square PNG of 512 to 2048 pixels."""
    head = (ROOT / ".claude-plugin" / "icon.png").read_bytes()[:24]
    width, height = struct.unpack(">II", head[16:])
    assert head.startswith(b"\x89PNG\r\n")
    assert width == height
    assert 512 <= width <= 2048


# -- hooks ----------------------------------------------------------------------------


def declared() -> list[tuple[str, dict[str, Any]]]:
    """Every hook with its event."""
    groups = read("hooks/hooks.json")["hooks"]
    return [(event, hook) for event in groups for group in groups[event] for hook in group["hooks"]]


def test_every_event_the_server_reacts_to_is_hooked() -> None:
    """Each is hooked exactly once, and no other; the one before a tool call once for edits and once for the bus's
    own tools.
    """
    groups = read("hooks/hooks.json")["hooks"]
    matchers = {event: [group.get("matcher") for group in groups[event]] for event in groups}
    edits, calls = matchers.pop("PreToolUse")

    assert sorted([*matchers, "PreToolUse"]) == sorted(hooks.EVENTS)
    assert all(found == [None] for found in matchers.values())
    assert re.fullmatch(edits, "NotebookEdit")
    for name in ("mcp__plugin_bus_bus__send", "mcp__plugin_claude-bus_bus__send", "mcp__bus__send"):
        assert re.fullmatch(calls, name)


@pytest.mark.parametrize(("event", "hook"), declared())
def test_a_hook_calls_the_plugins_own_server(event: str, hook: dict[str, Any]) -> None:
    """It calls the hook tool of server plugin:bus:bus, with its event and the client's values for the event's
    fields.
    """
    assert (hook["type"], hook["server"], hook["tool"]) == ("mcp_tool", "plugin:bus:bus", hooks.NAME)
    assert hook["input"]["event"] == event
    fields = {name: value for name, value in hook["input"].items() if name != "event"}
    assert set(fields) <= {field.name for field in dataclasses.fields(HookEvent)}
    assert all(re.fullmatch(r"\$\{[\w.]+\}( \$\{[\w.]+\})*", value) for value in fields.values())


# -- the command ----------------------------------------------------------------------


def front_matter() -> dict[str, str]:
    head = SKILL.split("---\n")[1]
    return dict(line.split(": ", 1) for line in head.splitlines())


def calls() -> list[tuple[str, str]]:
    """The tool calls in the command's text, with their arguments."""
    return re.findall(r"`(\w+)\(([^`]*)\)`", SKILL)


def test_the_command_answers_to_its_bare_name() -> None:
    """As a skill named `bus` it is available as `/bus backend`, without a prefix."""
    assert front_matter()["name"] == "bus"
    assert "$ARGUMENTS" in SKILL


def test_the_command_may_use_the_tools_of_plugin_and_installation() -> None:
    """The tools need no permission in its turn, under either prefix; and its description costs the model no tokens."""
    assert front_matter()["allowed-tools"] == "mcp__plugin_bus_bus, mcp__bus"
    assert front_matter()["disable-model-invocation"] == "true"


def test_the_command_names_tools_and_arguments_that_exist() -> None:
    """Every call in its text names a tool of the bus and arguments of that tool."""
    for name, arguments in calls():
        named = re.findall(r"(\w+)(?=[,=)]|$)", re.sub(r'=("[^"]*"|\[[^]]*\]|<[^>]*>|\w+)', "=", arguments))
        assert set(named) <= set(TOOLS[name].arguments.names()), name


def test_the_command_tells_what_each_tool_is_for() -> None:
    """Its map covers every use of the bus."""
    assert {name for name, _ in calls()} == set(TOOLS)
    assert {"peek", "expected_version"} <= set(re.findall(r"\w+", " ".join(arguments for _, arguments in calls())))


def test_the_command_is_compact() -> None:
    """Each use costs its length in tokens: about 700."""
    assert len(SKILL.encode()) < 3_000


# -- locked dependencies --------------------------------------------------------------


def locked(name: str) -> dict[str, str]:
    """The packages of a lock file, with their versions."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split()[0].split("==") for line in lines if "==" in line and not line.startswith("#"))


ALL, SESSION, DEVELOPERS = LOCKS = (
    ".claude-plugin/requirements.txt",
    ".claude-plugin/requirements-session.txt",
    "requirements-dev.txt",
)


@pytest.mark.parametrize(("name", "groups"), [(ALL, []), (DEVELOPERS, ["dev"]), (SESSION, ["session"])])
def test_what_is_needed_is_locked(name: str, groups: list[str]) -> None:
    """Each requirement of pyproject.toml is locked, in a permitted version; a session needs only its own."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, wanted = document["project"], [r for group in groups for r in document["dependency-groups"][group]]
    if name != SESSION:
        extras = project["optional-dependencies"]
        wanted += [*project["dependencies"], *extras["serve"], *extras["secrets"]]
    for requirement in map(Requirement, wanted):
        assert locked(name)[requirement.name] in requirement.specifier


def test_developers_have_the_versions_that_users_get() -> None:
    """The lock file for developers contains the one for users, which contains what a session runs with."""
    assert locked(SESSION).items() <= locked(ALL).items() <= locked(DEVELOPERS).items()


@pytest.mark.parametrize("name", LOCKS)
def test_locks_pin_hashes_and_no_address(name: str) -> None:
    """Every package has hashes; the package index is the user's setting."""
    text = (ROOT / name).read_text(encoding="utf-8")
    packages = re.split(r"\n(?=\S)", text)
    assert all("--hash=sha256:" in package for package in packages if not package.startswith("#"))
    assert "://" not in text
    assert "-index" not in text.replace("--no-emit-index-url", "")
