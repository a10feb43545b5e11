"""The workspace of a session's client: its folder and its files, as far as this process sees them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from . import claim_paths, drafts, files, patterns, processes, spelling, worktree
from .errors import InvalidInput, NoAnswer
from .model.claims import ClaimTarget
from .model.identity import Folder
from .model.messages import File, Message
from .offload import Offload

T = TypeVar("T")
Noted = Callable[[str], object]
"""Told of each path before the disk is asked about it."""
LOOK = 3.0
"""Seconds within which the disk must have said what paths name."""
MAX_HANGING = 8
"""Looks that hang, with which no other is begun: each of them holds a thread."""
_offload = Offload(MAX_HANGING)


def _ignored(_path: str) -> None:
    """Tell nobody."""


class Workspace:
    """The workspace of a client on this machine, in `folder`."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    async def measured(self, paths: Sequence[str]) -> tuple[File, ...]:
        """Return the files at these paths, for a message. Raises `InvalidInput` if they cannot be sent."""
        drafts.check_file_count(len(paths))
        return await files.measured(self._folder.cwd, paths, lambda written: self.understood(written, "files"))

    async def examined(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """Return the messages, each of their files with its state."""
        return await files.examined(messages)

    async def owned(self, written: Sequence[str]) -> list[str]:
        """The globs that are meant as owned, from the root of the working tree; `NoAnswer` if the disk gives none."""
        root = self._folder.root

        def look(noted: Noted) -> list[str]:
            return [worktree.from_root(root, path) for path in spelling.paths(written, self._seen(root, noted), "owns")]

        return await self._looked(look, written) if written else []

    async def claimed(self, written: Sequence[str], budget: spelling.Budget | None = None) -> list[ClaimTarget]:
        """The places to claim for paths, globs and resources, however they are written; `NoAnswer` as `owned`."""

        def look(noted: Noted) -> list[ClaimTarget]:
            return [self._claimed(path, noted) for path in self.understood(written, "path", budget, noted)]

        return await self._looked(look, written)

    async def edited(self, path: str) -> tuple[ClaimTarget, str]:
        """The place of the file that an edit is about to write, and its working tree; `NoAnswer` as `owned`."""
        return await self._looked(lambda _noted: worktree.edited(self._folder, path, processes.host()), [path])

    def understood(
        self, written: Sequence[str], what: str, budget: spelling.Budget | None = None, noted: Noted = _ignored
    ) -> list[str]:
        """The paths that are meant, however written; `what` names them in errors. Looks at the disk, which may hang."""
        return spelling.paths(written, self._seen(self._folder.cwd, noted), what, budget)

    def _claimed(self, path: str, noted: Noted) -> ClaimTarget:
        noted(path)
        return worktree.claimed(self._folder, path, processes.host())

    async def _looked(self, look: Callable[[Noted], T], written: Sequence[str]) -> T:
        """The result of a look at the disk, which may hang: a mount whose server is gone, say."""
        at, found, wrong = list(written[:1]), list[T](), list[Exception]()

        def work(_given_up: object) -> None:
            try:
                found.append(look(at.append))
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                wrong.append(error)

        await _offload.run(work, LOOK)
        if wrong:
            raise wrong[0]
        if not found:
            raise NoAnswer(at[-1], LOOK)
        return found[0]

    def _seen(self, cwd: str, noted: Noted = _ignored) -> spelling.Seen:
        def exists(path: str) -> bool:
            noted(path)
            return worktree.exists(Path(cwd, path))

        return spelling.Seen(
            exists=exists,
            root=self._folder.root,
            home=os.path.expanduser("~"),  # noqa: PTH111 - as text
            looks=bool(cwd),
            windows=os.name == "nt",
        )

    def from_here(self, place: ClaimTarget) -> ClaimTarget:
        """Return the target as seen from this workspace: for a submodule's file, the path in the outer repository."""
        return worktree.from_here(self._folder, place)

    def shown(self, scope: str, path: str) -> str:
        """Return a claim's path as an agent in this workspace would write it."""
        return worktree.shown(self._folder, scope, path)


class RemoteWorkspace(Workspace):
    """The workspace of a client that is, or may be, on another machine: none of its files are accessed.

    `tree` stands for its working tree, which no other client shares.
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

    async def _looked(self, look: Callable[[Noted], T], written: Sequence[str]) -> T:  # noqa: ARG002 - looks at no disk
        return look(_ignored)

    def _seen(self, cwd: str, noted: Noted = _ignored) -> spelling.Seen:  # noqa: ARG002 - whichever it is, it is elsewhere
        return spelling.UNSEEN

    async def edited(self, path: str) -> tuple[ClaimTarget, str]:
        return ClaimTarget("", patterns.literal(claim_paths.check_path(path))), self._tree
