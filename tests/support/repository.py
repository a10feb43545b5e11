"""A real repository whose commits the guard looks at."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from claude_bus import worktree
from claude_bus.config import Config
from claude_bus.connect import open_bus
from claude_bus.model.identity import Address
from claude_bus.sql import agents, claims

SOURCE = str(Path(__file__).parents[2] / "src")
ALICE = Address("alice", "default")


class Repository:
    """A working tree whose user is wanda, with the guard's hook."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.config = Config(home / "bus.db")
        self.program: Sequence[str] = (sys.executable, "-m", "claude_bus")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "LOGNAME": "wanda",
            "PYTHONPATH": SOURCE,
            "BUS_DB": str(self.config.db),
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"GIT_{who}_{what}": "wanda@x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        root.mkdir()
        self.git("init", "-q", "-b", "main")
        self.write("src/a.py", "1\n")
        self.write("src/b.py", "1\n")
        self.git("commit", "-qm", "first")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=False)

    def git(self, *arguments: str, fails: bool = False) -> str:
        """The output of git, which must fail if and only if `fails`."""
        done = self.run("git", *arguments)
        assert bool(done.returncode) == fails, done
        return done.stdout + done.stderr

    def guard(self, action: str) -> subprocess.CompletedProcess[str]:
        return self.run(*self.program, "guard", action)

    def guarded(self) -> str:
        """Install the guard; what is said of it."""
        done = self.guard("install")
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    @property
    def script(self) -> Path:
        """The script that the lines in the hook call."""
        return self.root / ".git" / "claude-bus-guard"

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)
        self.git("add", path)

    def change(self, path: str = "src/a.py") -> None:
        """Stage some change of a file."""
        self.write(path, f"{len((self.root / path).read_text())}" * 3 + (self.root / path).read_text())

    def refuses(self) -> str:
        """Commit a file that Alice claims, which must be refused; returns the output."""
        self.change()
        said = self.git("commit", "-m", "refused", fails=True)
        assert "src/a.py: \"src/a.py\" is claimed by 'alice'" in said
        return said

    def passes(self) -> str:
        """Commit a file that Alice claims, which must go through unchecked; returns the one line that says why."""
        self.change()
        said = self.git("commit", "-qm", "unchecked")
        assert (said.count("\n"), said[:37]) == (1, "claude-bus: claims were not checked: "), said
        return said

    async def claim(self, path: str = "src/a.py", who: Address = ALICE, *, shared: bool = False) -> None:
        """Alice, or who is named, claims a path of this repository."""
        async with open_bus(self.config) as bus:
            await bus.run(agents.join_without_session, who, "test")
            place = worktree.claimed(worktree.folder(self.root), path)
            await bus.run(claims.claim, who, [place], ttl=600, shared=shared, reason="moving the API")
