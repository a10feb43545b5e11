"""Claims at commit: a real repository, the real hook, the real command."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from claude_bus.cli.guard_script import REFUSED
from claude_bus.errors import kinds
from claude_bus.model.identity import Address
from tests.support.processes import eventually
from tests.support.repository import SOURCE, Repository

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository(tmp_path / "shop", tmp_path)
    found.guarded()
    return found


async def test_a_commit_of_what_another_claims_is_refused_naming_whom_to_ask(repository: Repository) -> None:
    """The refusal names file, holder, reason and the way past it; the other files stay committable."""
    await repository.claim("src/**")
    repository.write("src/a.py", "2\n")
    said = repository.git("commit", "-qm", "change", fails=True)
    assert all(word in said for word in ("src/a.py", "alice", "moving the API", "--no-verify"))

    repository.git("reset", "-q", "--hard")
    repository.write("docs.md", "x\n")
    repository.git("commit", "-qm", "docs")


async def test_it_can_be_bypassed_knowingly(repository: Repository) -> None:
    """Git's own switch, and the guard's, let the commit through."""
    await repository.claim("src/a.py")
    repository.write("src/a.py", "2\n")
    repository.git("commit", "-qm", "one", fails=True)
    repository.git("commit", "-qm", "one", "--no-verify")
    repository.write("src/a.py", "3\n")
    repository.env["BUS_GUARD"] = "off"
    repository.git("commit", "-qm", "two")


async def test_deleting_and_renaming_count_as_changes(repository: Repository) -> None:
    """A claimed file cannot be removed or moved away either."""
    await repository.claim("src/a.py")
    repository.git("mv", "src/a.py", "src/c.py")
    assert "src/a.py" in repository.git("commit", "-qm", "move", fails=True)


async def test_a_shared_claim_and_ones_own_are_no_obstacle(repository: Repository) -> None:
    """The committer may hold the file, alone or with others; a file that only others share is refused."""
    wanda = Address("wanda", "default")
    await repository.claim("src/a.py", shared=True)
    repository.write("src/a.py", "2\n")
    assert "alice" in repository.git("commit", "-qm", "a", fails=True)

    await repository.claim("src/a.py", wanda, shared=True)
    await repository.claim("src/b.py", wanda)
    repository.write("src/b.py", "2\n")
    repository.git("commit", "-qm", "both")


async def test_a_claim_holds_in_every_worktree(repository: Repository) -> None:
    """The hook of a repository guards its worktrees, where the same claims stand."""
    await repository.claim("src/a.py")
    feature = repository.root.with_name("feature")
    repository.git("worktree", "add", "-q", "-b", "feature", str(feature))
    repository.root = feature
    repository.write("src/a.py", "2\n")

    assert "src/a.py" in repository.git("commit", "-qm", "change", fails=True)


async def test_what_only_a_merge_brings_in_is_not_refused(repository: Repository) -> None:
    """A merge may carry a claimed file as the other side has it; a change made while merging is refused."""
    repository.git("checkout", "-qb", "feature")
    repository.write("src/a.py", "theirs\n")
    repository.git("commit", "-qm", "theirs")
    repository.git("checkout", "-q", "main")
    repository.write("src/b.py", "ours\n")
    repository.git("commit", "-qm", "ours")
    await repository.claim("src/a.py")

    repository.git("merge", "-q", "--no-commit", "--no-ff", "feature")
    repository.git("commit", "-qm", "merge")

    repository.git("reset", "-q", "--hard", "HEAD~1")
    repository.git("merge", "-q", "--no-commit", "--no-ff", "feature")
    repository.write("src/a.py", "neither\n")
    assert "src/a.py" in repository.git("commit", "-qm", "evil merge", fails=True)


async def test_checking_without_a_commit_says_the_same(repository: Repository) -> None:
    """`guard check` exits with a status of its own if a commit would be refused, with 0 if not."""
    assert (repository.guard("check").returncode, REFUSED in {kind.exit_status for kind in kinds().values()}) == (
        0,
        False,
    )
    await repository.claim()
    repository.change()
    refused = repository.guard("check")
    assert (refused.returncode, "alice" in refused.stderr) == (REFUSED, True)


async def test_a_refusal_of_many_stays_short(repository: Repository) -> None:
    """Twenty files are named, the others counted."""
    await repository.claim("**")
    for number in range(25):
        repository.write(f"new/{number}.py", "x")
    said = repository.git("commit", "-m", "many", fails=True)
    assert (said.count("  new/"), "and 5 more" in said) == (20, True)


async def test_part_of_what_is_staged_is_looked_at_alone(repository: Repository) -> None:
    """`git commit PATH` leaves the rest of the index out, and so does the check."""
    await repository.claim("src/a.py")
    repository.change("src/a.py")
    repository.change("src/b.py")
    repository.git("commit", "-qm", "b", "src/b.py")
    repository.git("commit", "-qm", "a", "src/a.py", fails=True)


async def test_before_there_is_a_bus_a_commit_makes_none(repository: Repository) -> None:
    """Without a database nobody has claimed anything, and the commit does not create one."""
    repository.change()
    assert repository.git("commit", "-qm", "change") == ""
    assert not repository.config.db.exists()


# -- whatever else happens, the commit goes through ----------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        "BUS_WAKE=sometimes",
        "BUS_GUARD=maybe",
        "BUS_RATE=-1",
        "BUS_CHANNEL=no such/channel",
        "BUS_BUSY_TIMEOUT=soon",
        "BUS_URL=nowhere",
        "BUS_DB=/dev/null/bus.db",
        "BUS_DB=/",
    ],
)
async def test_a_bad_setting_stops_no_commit(repository: Repository, setting: str) -> None:
    """It is named, in one line."""
    await repository.claim()
    name, _, value = setting.partition("=")
    repository.env[name] = value
    assert value in repository.passes()


async def test_a_broken_database_stops_no_commit(repository: Repository) -> None:
    """If the claims cannot be read, that is said, and the commit goes through."""
    repository.config.db.write_bytes(b"not a database at all" * 100)
    assert "is not a database" in repository.passes()


async def test_a_locked_database_stops_no_commit(repository: Repository) -> None:
    """After the busy timeout the commit no longer waits."""
    await repository.claim()
    repository.env["BUS_BUSY_TIMEOUT"] = "0.1"
    with sqlite3.connect(repository.config.db) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        repository.passes()
    other.close()
    repository.git("commit", "-q", "--amend", "-m", "again")


async def test_a_served_bus_that_is_down_or_silent_stops_no_commit(repository: Repository) -> None:
    """Nobody answers, or somebody who never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        repository.env["BUS_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with hurried(repository):
            assert "no answer within 2 seconds" in repository.passes()
    assert "127.0.0.1" in repository.passes()


@contextlib.contextmanager
def hurried(repository: Repository) -> Iterator[None]:
    """Make the deadline one that a test can wait for."""
    script = repository.script.read_text()
    assert "limit=10 " in script
    repository.script.write_text(script.replace("limit=10 ", "limit=2 "))
    yield
    repository.script.write_text(script)


def runs(repository: Repository, program: str, tmp_path: Path) -> None:
    """Have the guard script run something else than claude-bus."""
    fake = tmp_path / "fake"
    fake.write_text(f"#!/bin/sh\n{program}\n")
    fake.chmod(0o755)
    before, _, rest = repository.script.read_text().partition("\nset -- ")
    repository.script.write_text(f"{before}\nset -- '{fake}'\n{rest.partition(chr(10))[2]}")


async def test_a_program_that_fails_stops_no_commit(repository: Repository, tmp_path: Path) -> None:
    """Any exit status and any signal will do; of its output only the last line is shown."""
    for status in (1, 2, 3, 4, 5, 85, 87, 120, 126, 127):
        runs(repository, f"echo one >&2; echo why >&2; echo output; exit {status}", tmp_path)
        assert f"why (exit status {status})" in repository.passes()
    for signal in ("SEGV", "TERM", "ABRT", "XCPU"):
        runs(repository, f"kill -{signal} $$; sleep 60", tmp_path)
        assert "exit status" in repository.passes()
    runs(repository, "kill -KILL $$", tmp_path)
    assert "no answer" in repository.passes()
    runs(repository, "ulimit -v 2000; exec awk 'BEGIN { while (1) x = x \"more\" }'", tmp_path)
    assert "exit status" in repository.passes()


async def test_a_program_that_hangs_is_ended(repository: Repository, tmp_path: Path) -> None:
    """The commit waits until the deadline, whatever signals the program ignores, and nothing of it goes on."""
    runs(repository, f"trap '' TERM INT HUP\necho $$ >'{tmp_path}/pid'\nwhile :; do sleep 1; done", tmp_path)
    with hurried(repository):
        assert "no answer within 2 seconds" in repository.passes()
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "it has ended")


async def test_a_quick_check_leaves_no_process(repository: Repository) -> None:
    """The process that waits for the deadline ends with the commit."""
    await repository.claim()
    script = repository.script.read_text()
    repository.script.write_text(script.replace("limit=10 ", "limit=7531 "))
    repository.refuses()
    eventually(lambda: b"7531" not in b"".join(commands()), "nobody sleeps")


def commands() -> list[bytes]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(entry.read_bytes())
        except OSError:  # it has ended
            continue
    return found


async def test_claude_bus_that_is_gone_stops_no_commit(repository: Repository, tmp_path: Path) -> None:
    """Its Python, its package, or a part of it."""
    await repository.claim()
    script = repository.script.read_text()
    assert shlex.quote(sys.executable) in script
    other = script.replace(shlex.quote(sys.executable), sys._base_executable).replace(SOURCE, str(tmp_path / "gone"))  # type: ignore[attr-defined]
    repository.script.write_text(other)
    assert "No module named 'claude_bus'" in repository.passes()

    shutil.copytree(Path(SOURCE) / "claude_bus", tmp_path / "gone" / "claude_bus")
    (tmp_path / "gone" / "claude_bus" / "errors.py").write_text("this is no Python")
    assert "SyntaxError" in repository.passes()

    repository.script.write_text(script.replace(shlex.quote(sys.executable), "/gone/python"))
    assert "claude-bus is no longer at" in repository.passes()


async def test_without_a_home_a_commit_goes_through(repository: Repository) -> None:
    """For a user who has none, nor an entry that names one, it is checked or said."""
    del repository.env["HOME"]
    await repository.claim()
    assert "alice" in repository.refuses()


# -- neither the folder nor the environment has a say ---------------------------------------


async def test_files_of_the_project_are_no_modules_of_the_check(repository: Repository, tmp_path: Path) -> None:
    """Not even those that are called like some, here or where PYTHONPATH leads; claims are checked all the same."""
    await repository.claim()
    for name in ("typing", "types", "queue", "token", "anyio", "sqlite3", "sitecustomize", "usercustomize", "git"):
        for folder in (repository.root, tmp_path / "lib"):
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for name in ("claude_bus", "logging"):
        (repository.root / name).mkdir()
        (repository.root / name / "__init__.py").touch()
    for variable in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONPLATLIBDIR"):
        repository.env[variable] = str(tmp_path / "lib")
    repository.env |= {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}

    repository.refuses()

    assert not (tmp_path / "ran").exists()


async def test_a_poor_path_is_enough(repository: Repository) -> None:
    """Graphical clients run hooks with that of the system."""
    await repository.claim()
    repository.env["PATH"] = "/usr/bin:/bin"
    repository.refuses()


async def test_nothing_at_all_is_needed_of_the_environment(repository: Repository) -> None:
    """Where not even sleep or cat is found, claims are checked."""
    await repository.claim()
    tools = repository.root.parent / "tools"
    tools.mkdir()
    for name in ("git", "sh"):
        (tools / name).symlink_to(shutil.which(name) or name)
    repository.env["PATH"] = str(tools)
    repository.refuses()


@pytest.mark.parametrize("name", ['it\'s a "shop"', "the\nshop", "$HOME `id` \\ %s", "магазин 店", "-n"])
async def test_a_folder_may_be_called_anything(tmp_path: Path, name: str) -> None:
    """Spaces, quotes, newlines, other scripts: in the repository's path."""
    repository = Repository(tmp_path / name, tmp_path)
    repository.guarded()
    await repository.claim()
    repository.refuses()


# -- where commits are made ---------------------------------------------------------------------


async def test_a_submodule_has_a_hook_of_its_own(repository: Repository, tmp_path: Path) -> None:
    """It is installed there, for instance with `git submodule foreach`, and checks the submodule's claims."""
    part = Repository(tmp_path / "part", tmp_path)
    repository.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(part.root), "part")
    repository.git("submodule", "foreach", f"{shutil.which('env')} {' '.join(repository.program)} guard install")
    part.root = repository.root / "part"
    await part.claim()
    part.refuses()


async def test_a_worktree_without_its_main_tree_is_guarded(repository: Repository) -> None:
    """The hook of a worktree finds the guard from wherever the commit is made."""
    feature = repository.root.with_name("feature")
    repository.git("worktree", "add", "-q", "-b", "feature", str(feature))
    await repository.claim()
    repository.root = feature
    repository.change()
    repository.root = feature / "src"
    assert "alice" in repository.git("commit", "-m", "change", fails=True)


async def test_outside_of_a_repository_it_says_so(repository: Repository, tmp_path: Path) -> None:
    """Without a repository there is nothing to guard, and no hook is written anywhere."""
    repository.root = tmp_path
    done = repository.guard("install")
    assert done.returncode != 0
    assert "repository" in done.stderr


async def test_a_hook_that_cannot_be_written_is_said_to_be_that(repository: Repository) -> None:
    """The system's reason is reported together with the place."""
    hooks = repository.root / ".git" / "hooks"
    shutil.rmtree(hooks)
    hooks.touch()

    done = repository.guard("install")

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert str(hooks) in done.stderr


async def test_a_file_that_takes_too_long_to_compare_leaves_the_others_checked(repository: Repository) -> None:
    """It is named, and what another claims is refused all the same; by itself it stops no commit."""
    slow = "/".join(["a" * 240] * 3) + ".py"
    await repository.claim("src/a.py")
    await repository.claim("**/z*.py")
    with contextlib.closing(sqlite3.connect(repository.config.db)) as db, db:
        db.executemany(
            "INSERT INTO claims (channel, scope, path, stem, owner, shared, reason, created, expires) "
            "SELECT channel, scope, ?, stem, owner || ?, shared, reason, created, expires FROM claims "
            "WHERE path = '**/z*.py'",
            [("**/" + "*a" * 230 + "*.py", number) for number in range(600)],
        )
    repository.write(slow, "x")
    said = repository.git("commit", "-qm", "slow")
    assert said.startswith("claude-bus: 1 staged file was not checked: it takes too long to compare"), said
    assert slow[:250] in said

    repository.write("b/" + slow, "x")
    repository.change("src/a.py")
    said = repository.git("commit", "-qm", "both", fails=True)
    assert "src/a.py\" is claimed by 'alice'" in said
    assert "1 staged file was not checked" in said
