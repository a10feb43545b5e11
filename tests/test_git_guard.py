"""Claims at commit: a real repository, the real hook, the real command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from claude_bus import worktree
from claude_bus.config import Config
from claude_bus.model import Address
from claude_bus.opening import open_bus

SOURCE = str(Path(__file__).parents[1] / "src")
ALICE = Address("alice", "default")
pytestmark = pytest.mark.anyio


class Repository:
    """A working tree whose user is wanda, with the guard's hook."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.config = Config(home / "bus.db")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LOGNAME": "wanda",
            "PYTHONPATH": SOURCE,
            "BUS_DB": str(self.config.db),
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"GIT_{who}_{what}": "wanda@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        root.mkdir()
        self.git("init", "-q", "-b", "main")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=False)

    def git(self, *arguments: str, fails: bool = False) -> str:
        """What git says; it must fail if `fails` says so."""
        done = self.run("git", *arguments)
        assert bool(done.returncode) == fails, done
        return done.stdout + done.stderr

    def guard(self, action: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "claude_bus", "guard", action)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)
        self.git("add", path)

    async def claim(self, path: str, who: Address = ALICE, *, shared: bool = False) -> None:
        """Alice, or who is named, claims a path of this repository."""
        async with open_bus(self.config) as bus:
            await bus.enlist(who, "test")
            place = worktree.claimed(worktree.folder(self.root), path)
            await bus.claim(who, [place], ttl=600, shared=shared, reason="moving the API")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    found = Repository(tmp_path / "shop", tmp_path)
    found.write("src/a.py", "1\n")
    found.write("src/b.py", "1\n")
    found.git("commit", "-qm", "first")
    assert found.guard("install").returncode == 0
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
    """Who commits may hold the file, alone or with others; what only others share is refused."""
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


@pytest.mark.parametrize("hooks_path", ["", "team-hooks"])
async def test_an_earlier_hook_still_runs(repository: Repository, hooks_path: str) -> None:
    """Installing keeps the hook that was there, in `core.hooksPath` too; uninstalling gives it back as it was."""
    assert repository.guard("uninstall").returncode == 0
    folder = repository.root / (hooks_path or ".git/hooks")
    if hooks_path:
        repository.git("config", "core.hooksPath", hooks_path)
    folder.mkdir(exist_ok=True)
    hook = folder / "pre-commit"
    hook.write_text("#!/bin/sh\ntouch ran\n")
    hook.chmod(0o755)

    for _ in range(2):  # installing again changes nothing
        assert repository.guard("install").returncode == 0
    repository.write("docs.md", "x\n")
    repository.git("commit", "-qm", "docs")
    assert (repository.root / "ran").exists()

    assert repository.guard("uninstall").returncode == 0
    assert hook.read_text() == "#!/bin/sh\ntouch ran\n"


async def test_a_broken_bus_stops_no_commit(repository: Repository) -> None:
    """If the claims cannot be read, that is said, and the commit goes through."""
    repository.config.db.write_bytes(b"not a database at all" * 100)
    repository.write("src/a.py", "2\n")
    assert "could not be looked at" in repository.git("commit", "-m", "change")


async def test_outside_of_a_repository_it_says_so(repository: Repository, tmp_path: Path) -> None:
    """Without a repository there is nothing to guard, and no hook is written anywhere."""
    repository.root = tmp_path
    done = repository.guard("install")
    assert done.returncode != 0
    assert "repository" in done.stderr


async def test_a_hook_that_cannot_be_written_is_said_to_be_that(repository: Repository) -> None:
    """What the system says of the place is told, with the place."""
    hooks = repository.root / ".git" / "hooks"
    shutil.rmtree(hooks)
    hooks.touch()

    done = repository.guard("install")

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert str(hooks) in done.stderr
