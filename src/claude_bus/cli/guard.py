"""`claude-bus guard`: claims looked at when git commits.

`install` adds a pre-commit hook beside what is there; `check` is what the hook runs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from .. import processes, rows, text, worktree
from ..config import Config
from ..errors import BusError, InvalidInput
from ..model import Claim
from ..opening import open_bus
from . import private
from .identity import committer
from .output import show

_MARK = "# claude-bus guard"
_KEPT = "pre-commit.before-claude-bus"
_HOOK = """\
#!/bin/sh
{mark}: refuses a commit of files under another session's claim.
# Bypass it knowingly with `git commit --no-verify` or BUS_GUARD=off.
if [ -x {python} ]; then
  {command} guard check || exit 1
fi
earlier="$(dirname "$0")/{kept}"
[ ! -x "$earlier" ] || exec "$earlier" "$@"
"""


async def guard(options: argparse.Namespace, config: Config) -> int:
    """Run `guard install`, `guard uninstall` or `guard check`."""
    if options.action == "check":
        return await _check(options, config)
    hook = _hooks_folder() / "pre-commit"
    try:
        told = _install(hook) if options.action == "install" else _uninstall(hook)
    except OSError as error:
        raise private.refusal(hook, error) from None
    show(options, {"hook": str(hook), "installed": options.action == "install"}, told)
    return 0


# -- the hook -----------------------------------------------------------------------


def _install(hook: Path) -> str:
    hook.parent.mkdir(parents=True, exist_ok=True)
    earlier = hook.with_name(_KEPT)
    if hook.exists() and not _is_ours(hook):
        if earlier.exists():
            raise InvalidInput(f"{earlier} exists already: move it away, then install again")
        hook.rename(earlier)
    command = f"{shlex.quote(sys.executable)} -m claude_bus"
    hook.write_text(
        _HOOK.format(mark=_MARK, python=shlex.quote(sys.executable), command=command, kept=_KEPT), encoding="utf-8"
    )
    hook.chmod(0o755)
    return f"installed {hook}" + (
        f"; the hook that was there runs after it, as {earlier.name}" if earlier.exists() else ""
    )


def _uninstall(hook: Path) -> str:
    if not (hook.exists() and _is_ours(hook)):
        return f"no hook of claude-bus at {hook}"
    hook.unlink()
    earlier = hook.with_name(_KEPT)
    if earlier.exists():
        earlier.rename(hook)
    return f"removed {hook}" + ("; the earlier hook is back" if hook.exists() else "")


def _is_ours(hook: Path) -> bool:
    return _MARK in hook.read_text(encoding="utf-8", errors="replace")


def _hooks_folder() -> Path:
    """Where git looks for hooks, `core.hooksPath` included."""
    return Path(_git("rev-parse", "--path-format=absolute", "--git-path", "hooks"))


# -- the check ----------------------------------------------------------------------


async def _check(options: argparse.Namespace, config: Config) -> int:
    """1 if a staged file is under somebody else's exclusive claim."""
    if config.guard == "off":
        show(options, {"held": []}, "off: BUS_GUARD=off")
        return 0
    try:
        held = await _held(config)
    except BusError as error:
        print(f"claude-bus: claims could not be looked at: {error.message}", file=sys.stderr)
        return 0  # what is wrong with the bus must not stop anybody's work
    now = time.time()
    document = {"held": [rows.claim(claim, path, now) for path, claim in held]}
    show(options, document, "\n".join(_refusals(held, now)) or "no staged file is claimed by another", error=bool(held))
    return 1 if held else 0


def _refusals(held: list[tuple[str, Claim]], now: float) -> list[str]:
    if not held:
        return []
    owners = ", ".join(dict.fromkeys(claim.owner for _, claim in held))
    lines = [f"  {path}: {text.held(claim, now)}" for path, claim in held]
    return [
        "claude-bus: these staged files are claimed by others:",
        *lines,
        f"Ask {owners} (claude-bus send NAME ...), or commit all the same with: git commit --no-verify",
    ]


async def _held(config: Config) -> list[tuple[str, Claim]]:
    """The staged files that others claim, each with the claim."""
    root = Path(_git("rev-parse", "--show-toplevel"))
    where = worktree.folder(root)
    staged = _staged()
    async with open_bus(config) as bus:
        me = await committer(bus, config, os.environ)
        places = [worktree.staged(where, path, processes.host()) for path in staged]
        found = await bus.standing(me, places, where.root)
    return [(text.one_line(path, 300), claim) for path, claim in zip(staged, found, strict=True) if claim]


def _staged() -> list[str]:
    """What the commit changes itself; what a merge brings in unchanged is not its doing."""
    changed = _changed_since(None)
    for head in _merge_heads():
        changed &= _changed_since(head)
    return sorted(changed)


def _changed_since(commit: str | None) -> set[str]:
    names = _git("diff", "--cached", "--name-only", "--no-renames", "-z", *([commit] if commit else []))
    return {name for name in names.split("\0") if name}


def _merge_heads() -> list[str]:
    heads = Path(_git("rev-parse", "--path-format=absolute", "--git-path", "MERGE_HEAD"))
    return heads.read_text(encoding="utf-8").split() if heads.exists() else []


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], check=True, capture_output=True)  # noqa: S603, S607
    except FileNotFoundError:
        raise InvalidInput("git is not on PATH") from None
    except subprocess.CalledProcessError as error:
        raise BusError(f"git {arguments[0]}: {os.fsdecode(error.stderr).strip()}") from error
    return os.fsdecode(done.stdout).rstrip("\n")
