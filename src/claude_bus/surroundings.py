"""Where a session's client runs: its folder and its files, as far as this process sees them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from . import files, patterns, processes, rules, spelling, worktree
from .errors import InvalidInput
from .model import File, Folder, Message, Place


class Surroundings:
    """A client on this machine, in `folder`."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    async def measured(self, paths: Sequence[str]) -> tuple[File, ...]:
        """The files at these paths, for a message that names them; `InvalidInput` if they cannot be sent."""
        rules.check_file_count(len(paths))
        return await files.measured(self._folder.cwd, paths, lambda written: self.understood(written, "files"))

    async def examined(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The messages, each of their files with its state."""
        return await files.examined(messages)

    def understood(self, written: Sequence[str], what: str, budget: spelling.Budget | None = None) -> list[str]:
        """The paths, globs and resources that are meant, however they are written; `what` they are, for errors."""
        return spelling.paths(written, self._seen(self._folder.cwd), what, budget)

    def owned(self, written: Sequence[str]) -> list[str]:
        """The globs that are meant as owned, from the root of the working tree."""
        root = self._folder.root
        return [worktree.from_root(root, path) for path in spelling.paths(written, self._seen(root), "owns")]

    def _seen(self, cwd: str) -> spelling.Seen:
        return spelling.Seen(
            exists=lambda path: worktree.exists(Path(cwd, path)),
            root=self._folder.root,
            home=os.path.expanduser("~"),  # noqa: PTH111 - as text
            looks=bool(cwd),
            windows=os.name == "nt",
        )

    def claimed(self, path: str) -> Place:
        """The place to claim for a path or pattern."""
        return worktree.claimed(self._folder, path, processes.host())

    def edited(self, path: str) -> tuple[Place, str]:
        """The place of the file that an edit is about to write, and the working tree it lies in."""
        return worktree.edited(self._folder, path, processes.host())

    def from_here(self, place: Place) -> Place:
        """The place as somebody working there has it: of a submodule's file, the path in the outer repository."""
        return worktree.from_here(self._folder, place)

    def shown(self, scope: str, path: str) -> str:
        """A claim's path as somebody working there would write it."""
        return worktree.shown(self._folder, scope, path)


class Elsewhere(Surroundings):
    """A client on another machine, or on one we must take for another: nothing of ours is looked at for it.

    `tree` stands for its working tree, which may be nobody else's.
    """

    def __init__(self, tree: str) -> None:
        super().__init__(Folder())
        self._tree = tree

    async def measured(self, paths: Sequence[str]) -> tuple[File, ...]:
        if paths:
            raise InvalidInput(
                "files: over HTTP the server cannot see your files. Put path and sha256 into the content, or connect "
                "through the stdio server with BUS_URL, which can"
            )
        return ()

    async def examined(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(messages)

    def _seen(self, cwd: str) -> spelling.Seen:  # noqa: ARG002 - whichever it is, it is elsewhere
        return spelling.UNSEEN

    def edited(self, path: str) -> tuple[Place, str]:
        return Place("", patterns.literal(rules.check_path(path))), self._tree
