"""`claude-bus guard`: claims looked at when git commits.

`check` is what the commit hook runs; `install` and `uninstall` see to that hook.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import claim_paths, claim_text, documents, limits, processes, quoting, text, worktree
from ..bus import Bus
from ..config import Config
from ..connect import open_for_command
from ..errors import BusError, TooLarge
from ..model.claims import Claim, ClaimTarget, Standing
from ..model.identity import Address
from ..sql import guard as sql_guard
from . import guard_script
from .git import git
from .identity import committer
from .output import show

if TYPE_CHECKING:
    from . import git_hooks

_SHOWN = 20
"""Files that a refusal names; a claim may cover all of a commit's."""
_SHOWN_UNCHECKED = 3
"""Files named in the line that says which were not checked."""


async def guard(options: argparse.Namespace, config: Config) -> int:
    """Run `guard install`, `guard uninstall` or `guard check`."""
    if options.action == "check":
        return await _check(options, config)
    from . import git_hooks, private_files

    repo = git_hooks.repository()
    hook = git_hooks.places(repo)[0].file
    try:
        told = _install(repo) if options.action == "install" else _uninstall(repo)
    except OSError as error:
        raise private_files.refusal(Path(error.filename or hook), error) from None
    show(options, {"hook": str(hook), "installed": options.action == "install"}, told)
    return 0


def _install(repo: git_hooks.Repository) -> str:
    from . import git_hooks

    said = git_hooks.install(repo, guard_script.this_program())
    if reason := git_hooks.tried(repo):
        said.append(f"it was tried: {reason}")
    return "\n".join([f"installed {git_hooks.places(repo)[0].file}", *said])


def _uninstall(repo: git_hooks.Repository) -> str:
    from . import git_hooks

    return "\n".join(git_hooks.uninstall(repo) or ["there is no commit hook of claude-bus here"])


async def _check(options: argparse.Namespace, config: Config) -> int:
    """`REFUSED` if a staged file is under somebody else's claim; 0 also if that cannot be found out, which is said."""
    if config.guard == "off":
        show(options, {"held": []}, "off: BUS_GUARD=off")
        return 0
    try:
        found = await _found(config)
    except BusError as error:  # it must not stop anybody's work
        why = f"claude-bus: claims were not checked: {quoting.one_line(error.message, 500)}"
        show(options, {"held": [], "unchecked": error.message}, why, error=True)
        return 0
    now = time.time()
    held = [(path, claim) for path, claim in found if isinstance(claim, Claim)]
    missed = [path for path, claim in found if claim == "unchecked"]
    said = [*_refusals(held, now), *_missed(missed)]
    document: dict[str, Any] = {"held": [documents.claim(claim, path, now) for path, claim in held]}
    if missed:
        document["unchecked_files"] = missed
    show(options, document, "\n".join(said) or "no staged file is claimed by another", error=bool(said))
    return guard_script.REFUSED if held else 0


def _missed(paths: list[str]) -> list[str]:
    """The line that names files which take too long to compare with all claims; none if there are none."""
    if not paths:
        return []
    one = len(paths) == 1
    files = (
        "1 staged file was not checked: it takes" if one else f"{len(paths)} staged files were not checked: they take"
    )
    named = ", ".join(paths[:_SHOWN_UNCHECKED]) + (", ..." if len(paths) > _SHOWN_UNCHECKED else "")
    return [f"claude-bus: {files} too long to compare with all claims: {named}"]


def _refusals(held: list[tuple[str, Claim]], now: float) -> list[str]:
    if not held:
        return []
    owners = ", ".join(dict.fromkeys(text.name(claim.owner) for _, claim in held))
    lines = [f"  {path}: {claim_text.held_by(claim, now)}" for path, claim in held[:_SHOWN]]
    lines += [f"  and {len(held) - _SHOWN} more"] if len(held) > _SHOWN else []
    return [
        "claude-bus: these staged files are claimed by others:",
        *lines,
        f"Ask {owners} (claude-bus send NAME ...), or commit all the same with: git commit --no-verify",
    ]


async def _found(config: Config) -> list[tuple[str, Standing]]:
    """The staged files that a claim stands against, or that were not checked."""
    if not (config.url or _is_there(config.db)):
        return []  # nobody has claimed anything, and a commit is no reason to make a bus
    root, merging = _repository()
    where = worktree.folder(root)
    staged = _staged(merging)
    async with open_for_command(config) as bus:
        me = await committer(bus, config, os.environ)
        places = worktree.staged(where, staged, processes.host())
        found = await standing(bus, me, places, where.root)
    return [(quoting.one_line(path, 300), claim) for path, claim in zip(staged, found, strict=True) if claim]


async def standing(bus: Bus, me: Address, places: list[ClaimTarget], tree: str) -> list[Standing]:
    """As the verb, some places at a time: a commit may have any number, and others want to write.

    Its files may be called anything, and one call that is refused leaves all of its places unchecked. So a
    character that no claim can have is replaced, and a path that is too long to be sent is `unchecked`, as is
    one that by itself is too much to compare with all claims.
    """
    sayable = [_sayable(place) for place in places]
    sent = [place for place in sayable if place]
    found: list[Standing] = []
    for at in range(0, len(sent), claim_paths.MAX_PLACES):
        found += await _standing(bus, me, sent[at : at + claim_paths.MAX_PLACES], _printable(tree))
    given = iter(found)
    return [next(given) if place else "unchecked" for place in sayable]


def _sayable(place: ClaimTarget) -> ClaimTarget | None:
    """The place as a call can name it; None if a path of it is too long."""
    above = tuple((_printable(scope), _printable(path)) for scope, path in place.above)
    if any(len(part) > limits.MAX_PATH_BYTES for spelling in (place[:2], *place.above) for part in spelling):
        return None
    return ClaimTarget(_printable(place.scope), _printable(place.path), place.file, above)


def _printable(given: str) -> str:
    """The text, each character that is not printable replaced by one that stands for it."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in given)


async def _standing(bus: Bus, me: Address, places: list[ClaimTarget], tree: str) -> list[Standing]:
    """In as many calls as it takes: what is too much to compare together is not too much in parts."""
    try:
        return [*await bus.run(sql_guard.conflicting_claims, me, places, tree)]
    except TooLarge:
        half = len(places) // 2
        if not half:
            return ["unchecked"]
    return [*await _standing(bus, me, places[:half], tree), *await _standing(bus, me, places[half:], tree)]


def _is_there(db: Path) -> bool:
    try:
        db.stat()
    except FileNotFoundError:
        return False
    except OSError:  # opening it tells what is wrong
        return True
    return True


def _repository() -> tuple[Path, Path]:
    """The top of the working tree, and the file that names the other parents of a merge that goes on."""
    top, merge = ["rev-parse", "--show-toplevel"], ["--path-format=absolute", "--git-path", "MERGE_HEAD"]
    found = git(*top, *merge).split("\n")
    if len(found) != 2:  # a folder has a newline in its name
        found = [git(*top), git("rev-parse", *merge)]
    return Path(found[0]), Path(found[1])


def _staged(merging: Path) -> list[str]:
    """The files that the commit changes itself, without those that a merge brings in unchanged."""
    changed = _changed_since(None)
    for head in merging.read_text(encoding="utf-8").split() if merging.exists() else []:
        changed &= _changed_since(head)
    return sorted(changed)


def _changed_since(commit: str | None) -> set[str]:
    names = git("diff", "--cached", "--name-only", "--no-renames", "-z", *([commit] if commit else []))
    return {name for name in names.split("\0") if name}
