"""Claims in nested repositories (submodules, repositories in others, worktrees), tested on real repositories."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from claude_bus import worktree
from claude_bus.errors import ClaimHeld
from claude_bus.model.identity import Folder
from claude_bus.session.session import Session
from tests.support.repository import Repository
from tests.support.sessions import Party
from tests.support.working_trees import git, repository

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SUBMODULE = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with `app`, which has a submodule `libs/sub` and a nested repository in `vendor/x`."""
    lib = repository(tmp_path / "lib")
    (lib / "z.py").write_text("1\n")
    git(lib, "add", "-A")
    git(lib, "commit", "-qm", "z")
    app = repository(tmp_path / "work" / "app")
    git(app, *SUBMODULE, str(lib), "libs/sub")
    git(app, "commit", "-qm", "sub")
    repository(app / "vendor" / "x")
    (app / "vendor" / "x" / "v.py").write_text("1\n")
    (app / "src").mkdir()
    (app / "src" / "a.py").write_text("1\n")
    (app / "way").symlink_to(app / "libs")
    return tmp_path / "work"


async def joined(party: Party, *folders: Path) -> list[Session]:
    return [await party.join(f"s{n}", folder=worktree.folder(folder)) for n, folder in enumerate(folders)]


async def claims(session: Session, path: str) -> None:
    await session.claim([path], ttl=600, shared=False, reason="")


@pytest.mark.parametrize(
    ("path", "file"),
    [
        (".", "libs/sub/z.py"),
        ("libs", "libs/sub/z.py"),
        ("libs/", "libs/sub/new.py"),
        ("libs/**", "libs/sub/z.py"),
        ("libs/*", "libs/sub/z.py"),
        ("libs/sub", "libs/sub/z.py"),
        ("libs/sub/z.py", "libs/sub/z.py"),
        ("**/*.py", "libs/sub/z.py"),
        ("way", "libs/sub/z.py"),
        ("libs", "way/sub/z.py"),
        ("vendor/", "vendor/x/v.py"),
        ("vendor/**/*.py", "vendor/x/v.py"),
        ("../app", "vendor/x/v.py"),
        ("..", "libs/sub/z.py"),
        ("..", "src/a.py"),
        ("../**/*.py", "vendor/x/v.py"),
    ],
)
async def test_what_is_claimed_outside_holds_inside_and_the_other_way_round(
    party: Party, work: Path, path: str, file: str
) -> None:
    """Edits inside are refused, and so is the second of two claims, in either order and from any folder."""
    app = work / "app"
    alice, bob, inside = await joined(party, app, app, (app / file).parent)
    await claims(alice, path)
    assert (await bob.edit(str(app / file))).action == "refuse"
    assert (await inside.edit(Path(file).name)).action == "refuse"
    for session, name in ((bob, file), (inside, Path(file).name), (bob, str(app / file))):
        with pytest.raises(ClaimHeld):
            await claims(session, name)

    assert await alice.release([path])
    await claims(inside, Path(file).name)
    with pytest.raises(ClaimHeld):
        await claims(alice, path)


@pytest.mark.parametrize(
    ("path", "file"), [("src", "libs/sub/z.py"), ("libs/*.py", "libs/sub/z.py"), ("lib", "vendor/x/v.py")]
)
async def test_what_lies_beside_it_is_free(party: Party, work: Path, path: str, file: str) -> None:
    """Only paths below a claim, or matching it, are covered."""
    app = work / "app"
    alice, bob = await joined(party, app, app)
    await claims(alice, path)

    assert (await bob.edit(str(app / file))).action == "pass"
    await claims(bob, file)


async def test_a_clone_elsewhere_of_what_is_inside_is_not_below(party: Party, work: Path, tmp_path: Path) -> None:
    """The library's own checkout is not part of the application; but a claim on its files covers both."""
    alice, bob, inside = await joined(party, work / "app", tmp_path / "lib", work / "app" / "libs" / "sub")
    await claims(alice, "libs")
    await claims(bob, "z.py")
    await bob.release(None)
    await alice.release(None)

    await claims(inside, "z.py")
    with pytest.raises(ClaimHeld):
        await claims(bob, "z.py")


async def test_a_worktree_inside_is_another_tree_of_the_same_files(party: Party, work: Path) -> None:
    """A claim applies there by the path from the worktree's root, not by the folder in which the worktree lies."""
    app = work / "app"
    git(app, "worktree", "add", "-q", str(app / ".claude" / "worktrees" / "x"))
    inside = app / ".claude" / "worktrees" / "x"
    alice, bob = await joined(party, app, inside)

    await claims(alice, ".claude/**")
    await claims(bob, "src/a.py")
    assert (await bob.edit(str(inside / "src" / "a.py"))).action == "pass"
    await bob.release(None)
    await alice.release(None)

    await claims(alice, "src")
    assert (await bob.edit("src/a.py")).action == "refuse"
    await alice.release(None)

    await alice.edit("src/a.py")
    assert (await bob.edit("src/a.py")).action == "pass"


async def test_an_edit_claim_inside_is_seen_from_outside(party: Party, work: Path) -> None:
    """The claim is on this very file, in every working tree."""
    alice, bob = await joined(party, work / "app" / "libs" / "sub", work / "app")
    await alice.edit("z.py")

    with pytest.raises(ClaimHeld):
        await claims(bob, "libs")


async def test_three_deep(party: Party, work: Path) -> None:
    """The repositories of all levels count."""
    deep = repository(work / "app" / "vendor" / "x" / "deep")
    alice, bob = await joined(party, work / "app", deep)
    await claims(alice, "vendor")

    assert (await bob.edit(str(deep / "d.py"))).action == "refuse"


async def test_the_answer_shows_what_is_claimed_as_one_would_write_it(party: Party, work: Path) -> None:
    """A claim is shown by its path from the outer folder, and can be released as it was written or as it is listed."""
    [alice] = await joined(party, work / "app")
    for listed in (False, True):
        [claimed] = await alice.claim(["libs/sub/z.py"], ttl=600, shared=False, reason="")
        assert alice.shown(claimed.scope, claimed.path) == "libs/sub/z.py"
        [found] = await alice.list_claims()
        [ended] = await alice.release([alice.shown(found.scope, found.path) if listed else "libs/sub/z.py"])
        assert listed or alice.shown(ended.scope, ended.path) == "libs/sub/z.py"
        assert await alice.list_claims() == []


async def test_overlaps_are_told_across_repositories(party: Party, work: Path) -> None:
    """The other agent's files are shown by their paths in the outer repository."""
    alice, bob = await joined(party, work / "app", work / "app" / "libs" / "sub")
    await alice.register("s0", owns=["libs/**"])
    await claims(bob, "z.py")

    found = {agent.name: agent.overlaps for agent in (await alice.agents(None, ""))[0]}

    assert [(o.name, o.paths) for o in found["s0"]] == [("s1", ("libs/sub/z.py",))]
    assert [(o.name, o.paths) for o in found["s1"]] == [("s0", ("libs/sub/z.py",))]


# -- at commit -----------------------------------------------------------------------------------


@pytest.fixture
def outer(tmp_path: Path) -> Repository:
    """A repository with the guard's hook, and with a submodule `sub`, which has one too."""
    lib = repository(tmp_path / "lib")
    found = Repository(tmp_path / "shop", tmp_path)
    git(found.root, *SUBMODULE, str(lib), "sub")
    found.git("commit", "-qm", "sub")
    assert found.guard("install").returncode == 0
    inner = within(found, "sub")
    inner.git("checkout", "-q", "-B", "main")
    assert inner.guard("install").returncode == 0
    return found


def within(outer: Repository, path: str) -> Repository:
    inner = copy.copy(outer)
    inner.root = outer.root / path
    return inner


@pytest.mark.parametrize("path", [".", "sub", "**/*.py", "sub/z.py"])
async def test_a_commit_in_a_submodule_of_what_is_claimed_outside_is_refused(outer: Repository, path: str) -> None:
    """The hook of the submodule checks the claims of the repositories around it."""
    await outer.claim(path)
    inner = within(outer, "sub")
    inner.write("z.py", "2\n")

    assert "alice" in inner.git("commit", "-qm", "z", fails=True)


@pytest.mark.parametrize(("path", "refused"), [("sub", True), (".", True), ("sub/z.py", False), ("src", False)])
async def test_a_commit_of_the_submodule_itself_is_one_of_its_entry(
    outer: Repository, path: str, refused: bool
) -> None:
    """A claim on the submodule applies; one on a file in it does not, because the commit does not change that file."""
    inner = within(outer, "sub")
    inner.write("z.py", "2\n")
    inner.git("commit", "-qm", "z")
    await outer.claim(path)
    outer.git("add", "sub")

    assert ("alice" in outer.git("commit", "-qm", "sub", fails=refused)) == refused


def test_a_folder_in_no_repository_has_no_place_above(tmp_path: Path) -> None:
    """Only its machine is above it."""
    found = worktree.claimed(Folder(str(tmp_path), str(tmp_path)), "x.py", "here")

    assert found.above == (("host:here", str(tmp_path / "x.py")),)
