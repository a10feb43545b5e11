"""The folder a session works in: its working tree, branch and repository.

Reads git's own files instead of running git: it is asked at every start of a server,
and for every claim.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

from . import patterns, rules
from .model import Folder, Place

_ORIGIN = re.compile(r'^\[remote "origin"\][^\[]*?^\s*url\s*=\s*\"?(.+?)\"?\s*$', re.MULTILINE)
_HOPS = 5
"""Clones of clones that are followed to what they were made from."""


def folder(cwd: Path) -> Folder:
    """What is to know about `cwd`; outside of a repository only itself."""
    cwd = cwd.resolve()
    for root in (cwd, *cwd.parents):
        git = _git_folder(root)
        if git:
            return Folder(str(cwd), str(root), _repository(git), _branch(git))
    return Folder(str(cwd), str(cwd))


def _git_folder(root: Path) -> Path | None:
    """The git folder of a working tree; in a linked worktree `.git` is a file that names it."""
    entry = root / ".git"
    if _is_folder(entry):
        return entry if _is_file(entry / "HEAD") else None
    text = _read(entry)
    if not text.startswith("gitdir:"):
        return None
    return _real(root / text.removeprefix("gitdir:").strip())


def _branch(git: Path) -> str:
    head = _read(git / "HEAD")
    return head.removeprefix("ref: refs/heads/").strip() if head.startswith("ref: refs/heads/") else ""


def _repository(git: Path, hops: int = _HOPS) -> str:
    """What worktrees and clones share, and a renamed folder keeps.

    The address of origin; for a clone of a folder, what that folder is; else the
    identity of the git folder in the file system.
    """
    common = _read(git / "commondir").strip()
    shared = _real(git / common)
    origin = _ORIGIN.search(_read(shared / "config"))
    if not origin:
        return _file_identity(shared)
    source = Path(origin[1].removeprefix("file://"))
    if not source.is_absolute() or hops == 0:
        return _address(origin[1])
    bare = source if _is_file(source / "HEAD") else _git_folder(source)
    return _repository(bare, hops - 1) if bare else _address(origin[1])


def _address(url: str) -> str:
    """`git@host:a/b.git`, `ssh://git@host/a/b` and `https://host/a/b.git` are one: `host/a/b`."""
    bare = re.sub(r"^\w+://(?:[^@/]*@)?|^[^@/]+@", "", url)
    return re.sub(r"^([^/:]+):(?!\d)", r"\1/", bare).removesuffix("/").removesuffix(".git")


def _file_identity(path: Path) -> str:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return str(path)
    return f"dir:{found.st_dev}:{found.st_ino}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # not there, or a name that no file can have
        return ""


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long for one
        return False


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _real(path: Path) -> Path:
    """The path without symlinks, where there can be one of its name."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):
        return path


# -- places: what is claimed ---------------------------------------------------------


def place(where: Folder, path: str) -> tuple[str, str]:
    """(scope, path) of a claim: relative to the repository that the path lies in, if any.

    So it means the same in another worktree or clone, however it is spelled and from
    wherever it is named. Resources (`port:8080`) have no scope, nor have paths outside
    of repositories, which stay absolute. Raises `InvalidInput` for what cannot be claimed.
    """
    path = rules.check_path(path)
    if rules.is_resource(path) or not where.cwd:
        return "", path
    return _locate(_resolve(Path(where.cwd, path)))[:2]


def claimed(where: Folder, path: str) -> Place:
    """The place to claim for a path or pattern, with the file's identity if it names one.

    What exists as it is spelled is meant as it is spelled: `app/[id]/page.tsx` is a file.
    """
    exists = bool(where.cwd) and not rules.is_resource(path) and _exists(Path(where.cwd, path))
    return target(where, path) if exists else Place(*place(where, path))


def target(where: Folder, path: str) -> Place:
    """The place of one very file or folder; any name will do."""
    return edited(where, path)[0]


def edited(where: Folder, path: str) -> tuple[Place, str]:
    """The place of the file that an edit is about to write, and the working tree it lies in."""
    real = Path(where.cwd, path).resolve()
    scope, name, tree = _locate(real)
    storable = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return Place(scope, patterns.literal(storable), _content_identity(real)), tree


def _locate(real: Path) -> tuple[str, str, str]:
    """(scope, path, working tree) of what is or would be at `real`."""
    lies_in = folder(_existing(real))
    inside = _below(_slashed(real), _slashed(lies_in.root)) if lies_in.repository else None
    if inside is None:
        return "", _slashed(real), str(real.parent)
    return lies_in.repository, inside, lies_in.root


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _content_identity(path: Path) -> str:
    """Of an existing file, what renaming keeps. With its time: another may get its number."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_dev}:{found.st_ino}:{found.st_mtime_ns}" if stat.S_ISREG(found.st_mode) else ""


def shown(where: Folder, scope: str, path: str) -> str:
    """A claim's path as somebody working in `where` would write it."""
    path = patterns.plain(path)
    if scope:
        return path if scope == where.repository else f"{path} (in {scope})"
    inside = _below(path, _slashed(where.root)) if where.root else None
    return path if inside is None else inside


def _resolve(path: Path) -> Path:
    """The path without `..` and symlinks, as far as it has no glob in it."""
    parts = path.parts
    plain = next((i for i, part in enumerate(parts) if patterns.is_glob(part)), len(parts))
    real = Path(*parts[:plain]).resolve()
    return Path(patterns.normalize(_slashed(Path(real, *parts[plain:]))))


def _existing(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    return next((folder for folder in (path, *path.parents) if _is_folder(folder)), path)


def _below(path: str, root: str) -> str | None:
    if path == root:
        return "."
    return path[len(root) + 1 :] if path.startswith(root.rstrip("/") + "/") else None


def _slashed(path: Path | str) -> str:
    return str(path).replace("\\", "/")
