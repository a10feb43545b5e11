"""The guard in the real client: an edit of what another agent claims is refused once, and nothing else is."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from claude_bus import worktree
from claude_bus.sql import claims
from tests.support.working_trees import git, repository

from . import reading
from .claude_e2e import Sandbox
from .conftest import PLUGIN, TOOLS, StartSession
from .fake_anthropic import FakeAnthropic, Request, Script, Turn, text, tool
from .peer import Peer

ALLOWED = f"{TOOLS},Write,Edit"
DOCUMENTED = (PLUGIN / "docs" / "guides" / "claims.md").read_text(encoding="utf-8")


class Holder(Peer):
    """An agent that is no session and claims what it is told to."""

    def claim(self, folder: Path, *paths: str, reason: str = "moving the API") -> None:
        """Claim paths as somebody would who works in `folder`."""
        places = [worktree.claimed(worktree.folder(folder), path) for path in paths]
        self._do(lambda bus: bus.run(claims.claim, self.me, places, ttl=1800, reason=reason))

    def told(self) -> list[str]:
        """Return the messages that were written to it."""
        query = "SELECT m.content FROM messages m JOIN deliveries d ON d.message = m.id WHERE d.recipient = ?"
        return [content for (content,) in self.rows(query, self.me.name)]

    def verbs(self) -> list[str]:
        """Return the outcomes of edits, as the journal has them."""
        return [verb for (verb,) in self.rows("SELECT verb FROM events WHERE verb LIKE 'edit%' ORDER BY id")]


@pytest.fixture
def holder(db: Path) -> Holder:
    holder = Holder(db, "backend")
    holder.join()
    return holder


Run = Callable[..., list[Request]]


@pytest.fixture
def run(box: Sandbox) -> Run:
    """Run a headless session called frontend with a scripted model; its requests."""

    def run(
        *script: Script, folder: Path | None = None, plugin: bool = True, more: str = "", **env: str
    ) -> list[Request]:
        here = copy.copy(box)
        here.project = folder or box.project
        arguments = ["--plugin-dir", str(PLUGIN)] if plugin else []
        arguments += ["--permission-mode", "manual", "--allowedTools", f"{ALLOWED},{more}".rstrip(",")]
        with FakeAnthropic(script) as model:
            variables = {"ANTHROPIC_BASE_URL": model.url, "BUS_NAME": "frontend"} | env
            here.run("-p", *arguments, stdin="go", env=variables)
            return model.main

    return run


def write(path: Path | str, content: str = "new\n") -> Turn:
    return tool("Write", file_path=str(path), content=content)


def read_and_edit(path: Path | str, old: str = "1", new: str = "2") -> list[Script]:
    """The two turns of changing an existing file."""
    return [tool("Read", file_path=str(path)), edit(path, old, new)]


def edit(path: Path | str, old: str = "1", new: str = "2") -> Turn:
    return tool("Edit", file_path=str(path), old_string=old, new_string=new)


def results(requests: list[Request]) -> list[str]:
    """Return the outcome of each tool call, in the words that the model reads."""
    return requests[-1].tool_results()


def refused(result: str) -> bool:
    return "is claimed by '" in result


@pytest.fixture
def shop(box: Sandbox) -> Path:
    """The project as a repository with two files."""
    repository(box.project)
    (box.project / "src").mkdir()
    for name in ("a.py", "b.py"):
        (box.project / "src" / name).write_text("x = 1\n")
    git(box.project, "add", "-A")
    git(box.project, "commit", "-m", "files")
    return box.project


def test_a_claimed_edit_is_refused_once_and_the_holder_is_told(session: StartSession, run: Run, shop: Path) -> None:
    """The model reads holder, reason and time left; repeating the edit changes the file, and the holder reads of it."""
    claim = tool(f"{TOOLS}__claim", path="src/**", reason="moving the API", ttl="2h")
    backend = session("backend", claim, text("claimed"))
    backend.turn("claim the sources")

    file = shop / "src" / "a.py"
    requests = run(*read_and_edit(file), edit(file), text("done"))

    first, second = results(requests)[1:]
    assert refused(first)
    assert all(word in first for word in ('"src/**"', "'backend'", "1h", "moving the API", "repeat the same edit"))
    assert "updated successfully" in second
    assert file.read_text() == "x = 2\n"
    (mail,) = reading.mail(backend.turn("go on"))
    assert mail.attributes["from"] == "frontend"
    assert "src/a.py" in mail.content
    assert "moving the API" in mail.content


def test_a_refused_edit_leaves_the_file_alone(run: Run, holder: Holder, shop: Path) -> None:
    """An edit that is not repeated changes nothing, an existing file nor a new one; and the holder is not troubled."""
    holder.claim(shop, "src/**")

    requests = run(*read_and_edit("src/a.py"), write("src/new.py"), text("then not"))

    assert [refused(result) for result in results(requests)] == [False, True, True]
    assert (shop / "src" / "a.py").read_text() == "x = 1\n"
    assert not (shop / "src" / "new.py").exists()
    assert holder.verbs() == ["edit_refused", "edit_refused"]
    assert holder.told() == []


def test_an_unclaimed_edit_passes_untouched(run: Run, holder: Holder, shop: Path) -> None:
    """With a claim elsewhere, the model reads of its edits what it reads without the plugin, to the character."""
    holder.claim(shop, "src/b.py", "docs/**")
    script = [write("c.py"), *read_and_edit("src/a.py"), text("done")]

    guarded = run(*script)
    (shop / "c.py").unlink()
    (shop / "src" / "a.py").write_text("x = 1\n")
    alone = run(*script, plugin=False)

    assert len(guarded) == len(alone) == 4
    assert [request.last_user() for request in guarded[1:]] == [request.last_user() for request in alone[1:]]
    assert (shop / "src" / "a.py").read_text() == "x = 2\n"


def test_spelling_and_links_do_not_evade_a_claim(run: Run, holder: Holder, shop: Path, box: Sandbox) -> None:
    """A file is guarded under every path that leads to it."""
    holder.claim(shop, "src/a.py")
    (shop / "folder-link").symlink_to(shop / "src")
    (shop / "file-link.py").symlink_to(shop / "src" / "a.py")
    (box.home / "shop").symlink_to(shop)
    (shop / "hard.py").hardlink_to(shop / "src" / "a.py")
    spellings = [
        "src/a.py",
        "./src/../src//a.py",
        f"{shop}/./docs/../src/a.py",
        "folder-link/a.py",
        "file-link.py",
        "hard.py",
        "~/shop/src/a.py",
    ]

    requests = run(
        *(turn for path in spellings for turn in read_and_edit(path)), text("no"), BUS_GUARD="deny", more="Read"
    )

    found = dict(zip(spellings, results(requests)[1::2], strict=True))
    assert [path for path, result in found.items() if not refused(result)] == []
    assert (shop / "src" / "a.py").read_text() == "x = 1\n"


def test_a_renamed_folder_is_still_claimed(run: Run, holder: Holder, shop: Path) -> None:
    """Neither the repository under another name nor a file moved within it is free."""
    holder.claim(shop, "src/a.py")
    moved = shop.rename(shop.with_name("market"))

    script = [*read_and_edit("src/a.py"), tool("Bash", command="mv src lib"), *read_and_edit("lib/a.py"), text("no")]
    requests = run(*script, folder=moved, more="Bash", BUS_GUARD="deny")

    assert [refused(result) for result in results(requests)] == [False, True, False, False, True]
    assert (moved / "lib" / "a.py").read_text() == "x = 1\n"


def test_two_worktrees_of_one_repository(session: StartSession, run: Run, shop: Path, tmp_path: Path) -> None:
    """A claim of a session holds in both; an edit claims the file in its own working tree only."""
    feature = tmp_path / "feature"
    git(shop, "worktree", "add", str(feature))
    claims = tool(f"{TOOLS}__claim", path="src/a.py")
    backend = session("backend", claims, write("src/new.py"), text("done"), args=("--allowedTools", "Write"))
    backend.turn("claim a, write new")
    assert (shop / "src" / "new.py").exists()

    there = run(*read_and_edit("src/a.py"), write("src/new.py"), text("done"), folder=feature)
    here = run(*read_and_edit("src/new.py", "new", "old"), text("done"), folder=shop)

    assert [refused(result) for result in results(there)] == [False, True, False]
    assert (feature / "src" / "new.py").exists()
    assert [refused(result) for result in results(here)] == [False, True]
    assert 'reason: "editing"' in results(here)[-1]


def test_a_subagent_is_guarded_as_its_session(run: Run, holder: Holder, shop: Path) -> None:
    """A subagent's edit is refused, and once repeated by its session goes through."""
    holder.claim(shop, "src/**")
    job = "write the new module"

    def answer(request: Request) -> Turn:
        if job in request.texts():
            return text("it is claimed") if request.tool_results() else write("src/new.py")
        return write("src/new.py") if not (shop / "src" / "new.py").exists() else text("done")

    task = {"description": "writing", "prompt": job, "subagent_type": "general-purpose", "run_in_background": False}
    requests = run(tool("Agent", **task), *[answer] * 4, more="Agent")

    of_subagent = [request for request in requests if job in request.texts()]
    assert any(map(refused, of_subagent[-1].tool_results()))
    assert (shop / "src" / "new.py").exists()
    assert holder.verbs() == ["edit_refused", "edit_override"]


@pytest.mark.parametrize(
    ("policy", "through", "told"),
    [("off", [True, True], []), ("warn", [True, True], [True, True]), ("deny", [False, False], [True, True])],
)
def test_the_other_policies(
    run: Run, holder: Holder, shop: Path, policy: str, through: list[bool], told: list[bool]
) -> None:
    """`off` lets edits through in silence, `warn` with a word to the model, `deny` never; none troubles the holder."""
    holder.claim(shop, "src/**")

    requests = run(write("src/c.py"), write("src/d.py"), text("done"), BUS_GUARD=policy)

    assert ["created successfully" in result for result in results(requests)] == through
    news = ["\n".join(request.last_user()) for request in requests[1:]]
    assert [refused(part) for part in news] == (told or [False, False])
    assert ["The edit was let through" in part for part in news] == [policy == "warn"] * 2
    assert holder.told() == []
    assert [claim.owner for claim in holder.claims()] == ["backend"]


FILES_SERVER = '''
"""Another MCP server that writes files."""

import pathlib
from typing import Any

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}}


async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[types.Tool(name="write", input_schema=SCHEMA)])


async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    pathlib.Path(params.arguments["path"]).write_text("written")
    return types.CallToolResult(content=[types.TextContent(type="text", text="written")])


async def main() -> None:
    server = Server("files", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


anyio.run(main)
'''


def documented_settings() -> dict[str, Any]:
    """The example of docs/guides/claims.md for other servers' tools."""
    example = re.search(r"```json\n(.*?)```", DOCUMENTED, re.DOTALL)
    assert example
    settings: dict[str, Any] = json.loads(example[1])
    return settings


def test_another_servers_tool_can_be_guarded(run: Run, holder: Holder, shop: Path, box: Sandbox) -> None:
    """With the documented entry in the user's settings, another MCP server's tool is guarded like the client's own."""
    server = box.home / "files.py"
    server.write_text(FILES_SERVER)
    box.run("mcp", "add", "--scope", "user", "files", "--", sys.executable, str(server))
    box.settings(**documented_settings())
    holder.claim(shop, "src/**")
    script = [tool("mcp__files__write", path=path) for path in ("free.py", "src/new.py", "src/new.py")]

    requests = run(*script, text("done"), more="mcp__files")

    assert [refused(result) for result in results(requests)] == [False, True, False]
    assert (shop / "free.py").read_text() == (shop / "src" / "new.py").read_text() == "written"
    assert len(holder.told()) == 1
    assert "src/new.py" in holder.told()[0]
