"""The folder a session works in: its working tree, branch and repository.

Reads git's own files instead of running git: it is asked at every start of a server.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from . import patterns, rules
from .model import Folder

_ORIGIN = re.compile(r'^\[remote "origin"\][^\[]*?^\s*url\s*=\s*(\S+)', re.MULTILINE)


def folder(cwd: Path) -> Folder:
    """What is to know about `cwd`; outside of a repository only itself."""
    cwd = cwd.resolve()
    for root in (cwd, *cwd.parents):
        git = _git_folder(root / ".git")
        if git:
            return Folder(str(cwd), str(root), _repository(git), _branch(git))
    return Folder(str(cwd), str(cwd))


def _git_folder(entry: Path) -> Path | None:
    """The git folder of a working tree; in a linked worktree `.git` is a file that names it."""
    if entry.is_dir():
        return entry if (entry / "HEAD").is_file() else None
    text = _read(entry)
    if not text.startswith("gitdir:"):
        return None
    return (entry.parent / text.removeprefix("gitdir:").strip()).resolve()


def _branch(git: Path) -> str:
    head = _read(git / "HEAD")
    return head.removeprefix("ref: refs/heads/").strip() if head.startswith("ref: refs/heads/") else ""


def _repository(git: Path) -> str:
    """What clones share: the address of origin; else the folder all worktrees share."""
    common = _read(git / "commondir").strip()
    shared = (git / common).resolve() if common else git.resolve()
    origin = _ORIGIN.search(_read(shared / "config"))
    if not origin:
        return str(shared)
    address = re.sub(r"^\w+://(?:[^@/]*@)?|^[^@/]+@", "", origin[1])
    return address.replace(":", "/", 1).removesuffix("/").removesuffix(".git")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def place(where: Folder, path: str) -> tuple[str, str]:
    """(scope, path) of a claim: relative to the repository where it is inside of one.

    So it means the same in another worktree or clone. Resources (`port:8080`) have no
    scope. Raises `InvalidInput` for what cannot be claimed.
    """
    path = rules.check_path(path)
    if rules.is_resource(path) or not where.cwd:
        return "", path
    absolute = _resolve(path if Path(path).is_absolute() else f"{where.cwd}/{path}")
    inside = _below(absolute, _slashed(where.root))
    if where.repository and inside is not None:
        return where.repository, inside
    return "", absolute


def shown(where: Folder, scope: str, path: str) -> str:
    """A claim's path as somebody working in `where` would write it."""
    if scope:
        return path if scope == where.repository else f"{scope}: {path}"
    inside = _below(path, _slashed(where.root)) if where.root else None
    return path if inside is None else inside


def _resolve(path: str) -> str:
    """The path without `..` and symlinks, as far as it has no glob in it."""
    parts = patterns.normalize(path).split("/")
    plain = next((i for i, part in enumerate(parts) if patterns.is_glob(part)), len(parts))
    real = _slashed(os.path.realpath("/".join(parts[:plain]) or "/"))
    return patterns.normalize("/".join([real, *parts[plain:]]))


def _below(path: str, root: str) -> str | None:
    if path == root:
        return "."
    return path[len(root) + 1 :] if path.startswith(root.rstrip("/") + "/") else None


def _slashed(path: str) -> str:
    return path.replace("\\", "/")
