"""A session's own disk, which may not answer: a mount whose server is gone."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client

from claude_bus import workspace, worktree
from claude_bus.errors import BusError, InvalidInput, NoAnswer
from claude_bus.mcp import tools
from claude_bus.mcp.server import create_server
from claude_bus.model.identity import Folder
from claude_bus.offload import Offload
from claude_bus.session.session import Session
from claude_bus.session.subagents import SessionGroup
from tests.support.processes import PATIENCE
from tests.support.sessions import Party
from tests.support.working_trees import repository

pytestmark = pytest.mark.anyio


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No look at a path with `hangs` in it comes back until this is set, or the test ends."""
    answers = threading.Event()

    def hanging(real: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def look(path: Any, *more: Any, **given: Any) -> os.stat_result:
            if "hangs" in str(path):
                answers.wait(PATIENCE)
            return real(path, *more, **given)

        return look

    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, hanging(getattr(os, name)))
    monkeypatch.setattr(workspace, "LOOK", 0.2)
    monkeypatch.setattr(workspace, "_offload", Offload(workspace.MAX_HANGING))
    yield answers
    answers.set()


async def join(party: Party, folder: Path, name: str, **config: Any) -> Session:
    return await party.join(name, folder=Folder(str(folder), str(folder)), **config)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("claim", {"path": ["a.py", "mnt/hangs.py"]}),
        ("claim", {"path": "mnt/hangs (the login)"}),
        ("release", {"path": "mnt/hangs.py"}),
        ("release", {"path": "mnt/hangs.py", "force": "gone"}),
        ("register", {"name": "alice", "owns": ["mnt/hangs"]}),
    ],
    ids=["claim", "claim with a remark", "release", "release by force", "owns"],
)
async def test_a_disk_that_does_not_answer_ends_one_call_and_names_the_path(
    party: Party, tmp_path: Path, silent: threading.Event, tool: str, arguments: dict[str, Any]
) -> None:
    """The session goes on meanwhile; nothing is claimed, and it works again with the disk."""
    alice = await join(party, tmp_path, "alice")
    refusals: list[str] = []

    async def call() -> None:
        with pytest.raises(BusError, match="did not answer") as refused:
            await tools.call(alice, tool, arguments)
        refusals.append(refused.value.message)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            assert await tools.call(alice, "whoami", {}) == "alice"
    assert "mnt/hangs" in refusals[0]
    assert not await alice.list_claims()

    silent.set()
    await tools.call(alice, tool, arguments)


async def test_looks_that_hang_hold_so_many_threads(party: Party, tmp_path: Path, silent: threading.Event) -> None:
    """Then no other is begun until the disk answers."""
    alice = await join(party, tmp_path, "alice")
    for number in range(workspace.MAX_HANGING + 3):
        with pytest.raises(NoAnswer):
            await alice.claim([f"hangs/{number}"], ttl=60, shared=False, reason="")
    assert sum(thread.name == "offload" for thread in threading.enumerate()) <= workspace.MAX_HANGING
    silent.set()


async def test_a_claim_is_released_as_it_is_listed_where_the_disk_does_not_answer(
    party: Party, tmp_path: Path, silent: threading.Event
) -> None:
    """The store has the claim's name."""
    alice = await join(party, tmp_path, "alice")
    silent.set()
    await alice.claim(["mnt/hangs.py"], ttl=60, shared=False, reason="")
    silent.clear()

    [listed] = await alice.list_claims()
    assert await alice.release([alice.shown(listed.scope, listed.path)])
    assert not await alice.list_claims()


async def test_an_edit_that_could_not_be_checked_passes_and_a_line_says_so(
    party: Party, tmp_path: Path, silent: threading.Event
) -> None:
    """The edit itself waits for the disk, or not; the guard holds nobody up."""
    alice = await join(party, tmp_path, "alice")
    async with Client(create_server(lambda _context: SessionGroup(alice))) as client:
        said = await client.call_tool("hook", {"event": "PreToolUse", "path": str(tmp_path / "hangs.py")})
    answer = json.loads(getattr(said.content[0], "text", ""))
    assert "hookSpecificOutput" not in answer
    assert "hangs.py" in answer["systemMessage"]
    assert "not checked" in answer["systemMessage"]
    assert not silent.is_set()


async def test_what_is_wrong_with_a_path_is_said_as_ever(party: Party, tmp_path: Path) -> None:
    """Also by a look on a thread."""
    alice = await join(party, tmp_path, "alice")
    with pytest.raises(InvalidInput, match="is empty"):
        await alice.claim([""], ttl=60, shared=False, reason="")


async def test_a_file_named_like_a_resource_is_claimed_listed_and_released_as_a_file(
    party: Party, tmp_path: Path
) -> None:
    """The resource of that name is another thing: both can be held at once."""
    shop = worktree.folder(repository(tmp_path / "shop"))
    alice, bob = await party.join("alice", folder=shop), await party.join("bob", folder=shop)

    assert "claimed './port:8080'" in str(await tools.call(alice, "claim", {"path": "./port:8080"}))
    assert "claimed 'port:8080'" in str(await tools.call(bob, "claim", {"path": "port:8080"}))

    with pytest.raises(BusError, match=r"\./port:8080"):
        await tools.call(bob, "claim", {"path": "./port:8080"})
    listed: Any = await tools.call(bob, "list_claims", {})
    assert {claim["path"]: claim["owner"] for claim in listed["claims"]} == {"./port:8080": "alice", "port:8080": "bob"}
    assert "released './port:8080'" in str(await tools.call(alice, "release", {"path": "./port:8080"}))
