"""The documentation says what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from claude_bus import addresses, claim_paths, config, drafts, files, jsons, spelling, state_values, text, waking
from claude_bus.cli.commands import COMMANDS
from claude_bus.compat.http import messages_ack, recv_send
from claude_bus.config import Serving
from claude_bus.errors import kinds
from claude_bus.http import auth, bodies, connection, quotas, rpc
from claude_bus.http.serve import HANDSHAKE, OTHER_FILES
from claude_bus.limits import MAX_ANSWER, MAX_AT_ONCE, MAX_REPLIES, MAX_RETAINED, SILENCE
from claude_bus.mcp import participants
from claude_bus.mcp.participants import Patience
from claude_bus.mcp.tools import TOOLS
from claude_bus.sql.catalog import REMOTE

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


def row(name: str) -> str:
    """The row of a table in the reference that begins with `name`."""
    found = re.search(rf"^\| `{re.escape(name)}(?:`| ).*$", REFERENCE, re.MULTILINE)
    assert found, f"docs/reference.md has no row for {name}"
    return found[0]


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_is_documented_with_its_arguments(name: str) -> None:
    """The reference has a row for each tool, naming each of its arguments."""
    missing = [field for field in TOOLS[name].arguments.model_fields if f"`{field}`" not in row(name)]
    assert missing == []


def test_no_tool_is_documented_that_is_not_there() -> None:
    """The table of tools has no other rows."""
    table = REFERENCE.split("## Tools")[1].split("\n\n")[2]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(TOOLS)


def test_every_command_is_documented() -> None:
    """The reference has a row for each command."""
    for command in (*COMMANDS, "setup"):
        row(f"claude-bus {command}")


def test_every_setting_is_documented_alike() -> None:
    """The reference's settings are those of `config`, word for word."""
    settings = [line for line in (config.__doc__ or "").splitlines() if line.startswith("| `")]
    assert settings
    assert [line for line in settings if line not in REFERENCE] == []


def test_every_exit_status_is_documented() -> None:
    """Each that stands for an error."""
    said = REFERENCE.split("Exit status:")[1].split("\n\n")[0]
    assert [
        status
        for status in {kind.exit_status for kind in kinds().values()}
        if not re.search(rf"[;:\s]{status} [a-z]", said)
    ] == []


def test_every_status_of_the_api_is_documented() -> None:
    """Each that an operation may refuse with; 502 is for those who ask a bus elsewhere."""
    said = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").split("## Refusals")[1].split("##")[0]
    assert [
        status for status in {kind.http_status for kind in kinds().values()} - {502} if str(status) not in said
    ] == []


def test_every_module_has_its_place() -> None:
    """The table of those who change the code names each module and folder of it."""
    said = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = [path for path in (ROOT / "src" / "claude_bus").iterdir() if not path.name.startswith("__")]
    names = [path.stem for path in found if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert [name for name in names if not re.search(rf"\b{name}\b", said)] == []


PAGES = [
    *("README.md", "CONTRIBUTING.md", "deploy/README.md"),
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))),
]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link of a page names a file of the repository."""
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_limit_is_documented() -> None:
    """The page on security has the numbers that the code has."""
    said = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = [line for line in said.split("## Limits")[1].splitlines() if line.startswith("| ")]
    limits = {
        "request line": f"{connection.MAX_HEADER_BYTES // 1024} KiB",
        "body,": f"{auth.MAX_BODY_BYTES // 1024**2} MiB",
        "values in a JSON body": f"{jsons.MAX_VALUES:,}; {jsons.MAX_DEPTH}",
        "bytes of bodies": f"{bodies.MAX_OF_TOKEN >> 20} MiB; {bodies.MAX_HELD >> 20} MiB ({bodies.FREE >> 10} KiB",
        "addresses at which": "; ".join(
            f"{most.most:,}" for verb in ("listen", "watch", "announce_call") if (most := REMOTE[verb].rows)
        ),
        "messages that one request": f"{drafts.MAX_SETTLED:,}",
        "time for a head": f"{connection.HEAD_PATIENCE:.0f} s",
        "time for a body": f"{auth.BODY_PATIENCE:.0f} s",
        "time without reading": f"{connection.WRITE_PATIENCE:.0f} s",
        "time for TLS": f"{HANDSHAKE:.0f} s",
        "connections": f"{connection.MAX_SILENT:,}",
        "connections in all": f"less {OTHER_FILES}",
        "requests under way": f"{Serving().connections:,}",
        "requests of one token": f"{Serving().requests:,}",
        "wrong tokens": str(quotas.WRONG_TOKENS),
        "sessions elsewhere": f"{rpc.MAX_SESSIONS:,}",
        "MCP sessions": f"{participants.MAX_OF_TOKEN:,}",
        "MCP sessions, of one token": f"{participants.MAX_PARTICIPANTS:,}",
        "time until a silent MCP session": f"{Patience().forgotten / 60:.0f} min",
        "requests under way, of one MCP session": str(participants.MAX_REQUESTS),
        "characters of messages, versions or values": f"{MAX_ANSWER:,}",
        "characters of a tool's answer": f"{text.INBOX_LIMIT:,}; {text.MOST_SHOWN:,}",
        "messages in one answer": f"{MAX_AT_ONCE:,}; `inbox` and `/messages` {messages_ack.MAX_LIMIT}",
        "recipients in the status": f"{MAX_AT_ONCE:,}; {MAX_REPLIES}",
        "agents, claims, and state keys": f"{MAX_AT_ONCE:,}",
        "names in one answer of `/inbox`": f"{addresses.MAX_INBOXES:,}",
        "names that left one channel": f"{addresses.MAX_LEFT:,}; {addresses.MAX_LEFT_OF_TOKEN:,}",
        "names on one channel that somebody wrote to": f"{addresses.MAX_EXPECTED:,}",
        "names on one channel": f"{addresses.MAX_NAMES:,}; {addresses.MAX_NAMES_OF_TOKEN}",
        "earlier broadcasts": str(MAX_RETAINED),
        "levels of a JSON value": f"{jsons.MAX_VALUE_DEPTH}; {jsons.MAX_VALUES:,}",
        "bytes that are read": f"{files.HASHED_PER_READING // 1024**2} MiB; {files.LOOK:.0f} s",
        "time to read the files": f"{files.MEASURE:.0f} s",
        "characters that messages are": f"{drafts.MAX_SEARCH:,}",
        "state keys": f"{state_values.MAX_KEYS:,}",
        "recipients": f"{addresses.MAX_RECIPIENTS}; {addresses.MAX_RECIPIENT_GLOBS}",
        "tags": str(drafts.MAX_TAGS),
        "wildcards": f"{claim_paths.MAX_WILDCARDS}; {claim_paths.MAX_GLOB}",
        "paths in one request": f"{claim_paths.MAX_PLACES}; {claim_paths.MAX_OWNS}",
        "characters in which paths are listed": f"{spelling.MAX_WRITTEN:,}",
        "claims of one name": f"{claim_paths.MAX_CLAIMS:,}; {claim_paths.MAX_GLOB_CLAIMS}",
        "claims on one channel": f"{claim_paths.MAX_CHANNEL_CLAIMS:,}; {claim_paths.MAX_CHANNEL_GLOB_CLAIMS}",
        "steps": f"{claim_paths.MAX_EFFORT:,}",
        "wakes of a session by mail of programs": f"{waking.WAKE_BURST[1]}; {waking.WAKE_EVERY[1]:.0f} s",
        "wakes of a session by mail of sessions": f"{waking.WAKE_BURST[0]}; {waking.WAKE_EVERY[0]:.0f} s",
        "time that mail waits": f"{SILENCE / 86_400:.0f} days",
    }
    for what, limit in limits.items():
        assert [row for row in rows if row.startswith(f"| {what}") and limit in row], what


def test_the_rings_of_a_batch_are_documented() -> None:
    """With the seconds between them."""
    said = " ".join((ROOT / "docs" / "delivery.md").read_text(encoding="utf-8").split())
    at_once, second, third = waking.RING_AFTER
    assert at_once == 0
    assert f"it rings again {second:.0f} s later, and a last time {third:.0f} s after that" in said


def test_the_protocols_say_how_long_a_poll_is_held() -> None:
    """Within what its clients wait for."""
    said = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
    assert f"`block=true` waits for {recv_send.HOLD:.0f} seconds" in said
    assert 30 <= recv_send.HOLD < 35


def test_the_readme_demonstrates_within_a_screen() -> None:
    """One sentence, then the demonstration, within 50 lines."""
    head = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:50]
    assert any("/bus backend" in line for line in head)
    assert "bash install_claude_bus.sh" in "\n".join(head)
