"""Where a session works, and what a claimed path means there. On real repositories."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from claude_bus import spelling, worktree
from claude_bus.errors import InvalidInput
from claude_bus.model.identity import Folder
from claude_bus.spelling import Seen
from claude_bus.worktree import folder, place, shown
from tests.support.working_trees import git, repository

ORIGIN = "https://example.org/team/shop.git"


# -- folders -------------------------------------------------------------------------------------


def test_outside_of_a_repository_a_folder_is_only_itself(tmp_path: Path) -> None:
    """No root above it, no repository, no branch."""
    assert folder(tmp_path) == Folder(str(tmp_path), str(tmp_path))


def test_a_folder_in_a_repository_knows_its_root_and_branch(tmp_path: Path) -> None:
    """From anywhere within the working tree."""
    shop = repository(tmp_path / "shop", origin=ORIGIN)
    git(shop, "switch", "-c", "feature/cart")
    (shop / "web" / "src").mkdir(parents=True)

    found = folder(shop / "web" / "src")

    assert found == Folder(str(shop / "web" / "src"), str(shop), "example.org/team/shop", "feature/cart")


def test_a_detached_head_is_no_branch(tmp_path: Path) -> None:
    """A commit that is checked out by itself has no name to show."""
    shop = repository(tmp_path / "shop")
    git(shop, "checkout", "--detach")

    assert folder(shop).branch == ""


def test_a_worktree_is_of_the_same_repository_on_its_own_branch(tmp_path: Path) -> None:
    """Linked worktrees share what they are, not where they are."""
    shop = repository(tmp_path / "shop")
    git(shop, "worktree", "add", "-b", "fix", str(tmp_path / "fix"))

    main, fix = folder(shop), folder(tmp_path / "fix")

    assert main.repository == fix.repository != ""
    assert (fix.root, fix.branch) == (str(tmp_path / "fix"), "fix")


def test_clones_of_one_folder_are_of_one_repository(tmp_path: Path) -> None:
    """A clone, a clone of the clone, and the original are the same thing."""
    shop = repository(tmp_path / "shop")
    git(tmp_path, "clone", "-q", str(shop), "clone")
    git(tmp_path, "clone", "-q", str(tmp_path / "clone"), "again")

    assert len({folder(tmp_path / name).repository for name in ("shop", "clone", "again")}) == 1


def test_repositories_without_origin_are_different_ones(tmp_path: Path) -> None:
    """Two that share nothing are not confused, and one stays itself when its folder is renamed."""
    one, other = repository(tmp_path / "one"), repository(tmp_path / "other")
    before = folder(one).repository

    assert before != folder(other).repository
    one.rename(tmp_path / "renamed")
    assert folder(tmp_path / "renamed").repository == before


@pytest.mark.parametrize(
    "origin",
    [
        ORIGIN,
        "https://example.org/team/shop",
        "https://user:secret@example.org/team/shop.git",
        "http://example.org/team/shop.git/",
        "ssh://git@example.org/team/shop.git",
        "git@example.org:team/shop.git",
        "example.org:team/shop",
    ],
)
def test_one_address_however_it_is_written(tmp_path: Path, origin: str) -> None:
    """Clones over https and ssh are of one repository; a password is not part of it."""
    assert folder(repository(tmp_path / "shop", origin=origin)).repository == "example.org/team/shop"


def test_origins_in_folders_with_spaces_are_told_apart(tmp_path: Path) -> None:
    """A path is a path to its end."""
    found = []
    for name in ("my shop", "my store"):
        source = repository(tmp_path / name)
        git(tmp_path, "clone", "-q", str(source), f"clone of {name}")
        found.append(folder(tmp_path / f"clone of {name}").repository)

    assert found[0] != found[1]


@pytest.mark.parametrize("content", ["", "gitdir: nowhere\n", "nonsense", "\xff\xfe"])
def test_a_broken_git_file_does_not_break_the_session(tmp_path: Path, content: str) -> None:
    """Whatever lies there, a session in the folder starts."""
    (tmp_path / ".git").write_text(content, encoding="latin-1")

    assert folder(tmp_path).cwd == str(tmp_path)


# -- places --------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Folder:
    """A session in `web/` of a repository."""
    top = repository(tmp_path / "shop", origin=ORIGIN)
    (top / "web").mkdir()
    (top / "api").mkdir()
    (top / "link").symlink_to(top / "api")
    return folder(top / "web")


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("app.ts", "web/app.ts"),
        ("./app.ts", "web/app.ts"),
        ("src/../app.ts", "web/app.ts"),
        ("../api/users.py", "api/users.py"),
        ("../api/*.py", "api/*.py"),
        ("../link/users.py", "api/users.py"),
        ("../link/*.py", "api/*.py"),
        ("new/folder/x.ts", "web/new/folder/x.ts"),
        ("**", "web/**"),
        (".", "web"),
        ("..", "."),
        ("a\\b.ts", "web/a/b.ts"),
    ],
)
def test_a_path_is_relative_to_its_repository(shop: Folder, written: str, path: str) -> None:
    """However it is spelled, and whether or not it exists yet."""
    assert place(shop, written) == ("example.org/team/shop", path)
    assert place(shop, f"{shop.cwd}/{written}") == ("example.org/team/shop", path)


def test_the_same_file_in_another_worktree_or_clone_is_the_same_place(shop: Folder, tmp_path: Path) -> None:
    """Two sessions that edit one file on two branches will meet when they merge."""
    git(Path(shop.root), "worktree", "add", "-b", "fix", str(tmp_path / "fix"))
    elsewhere = folder(tmp_path / "fix")

    assert place(elsewhere, "web/app.ts") == place(shop, "app.ts")
    assert place(shop, str(tmp_path / "fix" / "web" / "app.ts")) == place(shop, "app.ts")


def test_a_path_outside_of_repositories_is_absolute(shop: Folder, tmp_path: Path) -> None:
    """It has no scope, whoever names it."""
    plain = folder(tmp_path)

    assert place(shop, f"{tmp_path}/notes.md") == ("", f"{tmp_path}/notes.md")
    assert place(plain, "notes.md") == ("", f"{tmp_path}/notes.md")
    assert place(plain, "shop/web/app.ts") == place(shop, "app.ts")


@pytest.mark.parametrize("resource", ["port:8080", "gpu:0", "branch:main"])
def test_a_resource_is_the_same_everywhere(shop: Folder, resource: str) -> None:
    """A resource that is not a path belongs to no repository."""
    assert place(shop, resource) == place(Folder(), resource) == ("", resource)


@pytest.mark.parametrize("wrong", ["", "a\nb", "x" * 1001])
def test_what_cannot_be_claimed_is_refused(shop: Folder, wrong: str) -> None:
    """A place is one printable line."""
    with pytest.raises(InvalidInput):
        place(shop, wrong)


def test_a_place_is_shown_as_its_reader_would_write_it(shop: Folder, tmp_path: Path) -> None:
    """Relative within the reader's own tree, with its repository otherwise."""
    scope, path = place(shop, "app.ts")
    plain = folder(tmp_path)

    assert shown(shop, scope, path) == "web/app.ts"
    assert shown(plain, scope, path) == "web/app.ts (in example.org/team/shop)"
    assert shown(plain, *place(plain, "notes.md")) == "notes.md"
    assert shown(shop, *place(plain, "notes.md")) == f"{tmp_path}/notes.md"
    assert shown(shop, "", "port:8080") == "port:8080"


@pytest.mark.parametrize("name", ["port:8080", "db:x/y", "https:x", "C:/x", "@types", "~me", "$x", "%x%", "!x", "-x"])
@pytest.mark.parametrize("below", ["", "web", "web/new"])
def test_a_file_that_would_be_read_as_something_else_is_shown_as_a_path(shop: Folder, name: str, below: str) -> None:
    """From any folder of the tree the text that is shown names the same file again."""
    root = Path(shop.root)
    (root / below).mkdir(exist_ok=True)
    (root / name.partition("/")[0]).mkdir(exist_ok=True)
    here, seen = folder(root / below), Seen(lambda path: (root / below / path).exists(), root=str(root), looks=True)
    scope, path = place(folder(root), f"./{name}")

    told = shown(here, scope, path)

    assert told != name
    assert [place(here, written) for written in spelling.paths([told], seen)] == [(scope, path)]


# -- hostile folders -----------------------------------------------------------------------------

_LOOK = (
    "import sys; from pathlib import Path; from claude_bus import worktree; print(worktree.folder(Path(sys.argv[1])))"
)


def looked_at(path: Path) -> str:
    """The output of another process that looks at a folder, within a minute."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, str(path)], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files in folders")
@pytest.mark.parametrize("name", [".git", ".git/HEAD", ".git/config", ".git/commondir"])
@pytest.mark.parametrize("kind", ["pipe", "zero", "endless", "socket"])
def test_gits_files_that_are_none_keep_nobody_waiting(tmp_path: Path, name: str, kind: str) -> None:
    """A pipe, a device, a socket, a huge file in place of each of them."""
    shop = tmp_path / "shop"
    shop.mkdir()
    if name != ".git":
        git(shop, "init")
        (shop / name).unlink(missing_ok=True)
    odd = shop / name
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "zero":
        odd.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            os.chdir(odd.parent)  # its path may be too long to bind
            bound.bind(odd.name)
    else:
        with odd.open("wb") as file:
            file.truncate(2**36)

    assert str(shop) in looked_at(shop)


@pytest.mark.parametrize(
    "filling", [" " * 200_000, "\t\n" * 100_000, "[a]\n" * 50_000, "[" * 200_000, '[remote "origin"]\n' * 10_000]
)
def test_a_padded_config_takes_no_time(tmp_path: Path, filling: str) -> None:
    """It is read line by line, once."""
    shop = repository(tmp_path / "shop", origin=ORIGIN)
    config = shop / ".git" / "config"
    config.write_text(f'{config.read_text()}\n[remote "other"]\n{filling}')

    assert "example.org/team/shop" in looked_at(shop)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ('[remote "origin"]\n\turl = https://example.org/a.git\n', "example.org/a"),
        ('[remote "origin"] url = https://example.org/a\n', "example.org/a"),
        ('[Remote "origin"]\n URL="https://example.org/a"\n', "example.org/a"),
        (
            '[remote "other"]\n url = https://example.org/b\n[remote "origin"]\nfetch = x\nurl=git@example.org:a\n',
            "example.org/a",
        ),
        ('[remote "origin"]\n\turl = https://example.org/a ; ours\n', "example.org/a"),
        ('[remote "origin"]\n# url = https://example.org/b\nurl = https://example.org/a\n', "example.org/a"),
    ],
)
def test_origin_is_read_as_git_reads_it(tmp_path: Path, config: str, found: str) -> None:
    """In one line or several, quoted, with remarks."""
    shop = repository(tmp_path / "shop")
    (shop / ".git" / "config").write_text(f"[core]\n\tbare = false\n{config}")

    assert folder(shop).repository == found


def test_a_path_of_a_million_steps_is_no_file(tmp_path: Path) -> None:
    """The guard does not follow it."""
    where = folder(tmp_path)

    assert place(where, "a/" * 400 + "x")[1].endswith("/x")
    with pytest.raises(InvalidInput):
        place(where, "a/" * 1_000_000)


# -- commits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", ["", "src"], ids=["as usual", "told which folder it is"])
def test_each_folder_is_looked_at_once_however_many_of_its_files_are_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """The folder above them is the same for all of them."""
    repository(tmp_path / "outer", origin=ORIGIN)
    shop = repository(tmp_path / "outer" / "shop")
    (shop / "src").mkdir()
    where = folder(shop / told)
    looked: list[Path] = []

    def look(path: Path) -> Folder:
        looked.append(path)
        return folder(path)

    monkeypatch.setattr(worktree, "folder", look)
    found = worktree.staged(where, [f"src/{number}.py" for number in range(500)], "here")

    assert found[499].above[0] == ("example.org/team/shop", f"shop/{'src/' if told else ''}src/499.py")
    assert len(looked) < 10
