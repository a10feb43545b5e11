"""The folder a session works in: its working tree, branch and repository.

Reads git's own files instead of running git: it is asked at every start of a server,
and for every claim.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from . import claim_paths, patterns
from .model.claims import FOLDER, ClaimTarget
from .model.identity import Folder

Look = Callable[[Path], Folder]
"""`folder`, or what remembers its answers."""
_HOPS = 5
"""Clones of clones that are followed to what they were made from."""
_NAME_BYTES, _CONFIG_BYTES = 8_192, 262_144
"""Bytes read at most of a one-line file of git's, and of its config."""
_SECTION = re.compile(r"\[(\w+) \"origin\"\](.*)")


def here(env: Mapping[str, str]) -> Path:
    """The folder this process works in. Of one that was removed only the name is left, which the shell knows (PWD)."""
    try:
        return Path.cwd()
    except OSError:
        named = Path(env.get("PWD") or os.sep)
        return named if named.is_absolute() else Path(os.sep)


def folder(cwd: Path) -> Folder:
    """The folder `cwd` with its working tree; outside of a repository only itself."""
    cwd = cwd.resolve()
    for root in (cwd, *cwd.parents):
        git = _git_folder(root)
        if git:
            return Folder(str(cwd), str(root), _repository(git), _branch(git))
    return Folder(str(cwd), str(cwd))


def storable(name: str) -> str:
    """A name as Unicode text. Names of files may have bytes that are no text: those are replaced."""
    try:
        data = os.fsencode(name)
    except UnicodeEncodeError:  # text from one of git's files, where the system's encoding has no such letters
        data = name.encode("utf-8", "surrogateescape")
    return data.decode("utf-8", "replace")


def presented(where: Folder) -> Folder:
    """The folder as it is shown to others and stored."""
    return Folder(*map(storable, (where.cwd, where.root, where.repository, where.branch)))


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
    """The identity that worktrees and clones share, and a renamed folder keeps.

    The address of origin; for a clone of a folder, what that folder is; else the
    identity of the git folder in the file system.
    """
    common = _read(git / "commondir").strip()
    shared = _real(git / common)
    origin = _origin(_read(shared / "config", _CONFIG_BYTES))
    if not origin:
        return _file_identity(shared)
    source = Path(origin.removeprefix("file://"))
    if not source.is_absolute() or hops == 0:
        return _address(origin)
    bare = source if _is_file(source / "HEAD") else _git_folder(source)
    return _repository(bare, hops - 1) if bare else _address(origin)


def _origin(config: str) -> str:
    """The address of origin in a config of git's, or ""."""
    inside = False
    for line in map(str.strip, config.splitlines()):
        entry = line
        if line.startswith("["):
            found = _SECTION.match(line)
            inside = found is not None and found[1].lower() == "remote"
            entry = found[2].strip() if found else ""
        key, _, value = entry.partition("=")
        if inside and key.strip().lower() == "url" and value.strip():
            return re.split(r"\s[#;]", value.strip(), maxsplit=1)[0].strip().strip('"')
    return ""


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


def _read(path: Path, most: int = _NAME_BYTES) -> str:
    """The beginning of a regular file; "" for anything else, which is not even opened: a pipe would wait."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            return file.read(most).decode("utf-8", "replace") if stat.S_ISREG(os.fstat(descriptor).st_mode) else ""
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
    found = _named(where, path, "")
    return found.scope, found.path


def claimed(where: Folder, path: str, host: str = "") -> ClaimTarget:
    """The place to claim for a path or pattern, with what it names if that exists; `host` is this machine.

    A path that exists as it is spelled is meant as it is spelled: `app/[id]/page.tsx` is a file.
    """
    is_there = bool(where.cwd) and not claim_paths.is_resource(path) and exists(Path(where.cwd, path))
    return target(where, path, host) if is_there else _named(where, path, host)


def target(where: Folder, path: str, host: str = "") -> ClaimTarget:
    """The place of one very file or folder; any name will do."""
    return edited(where, path, host)[0]


def edited(where: Folder, path: str, host: str = "") -> tuple[ClaimTarget, str]:
    """The place of the file that an edit is about to write, and the working tree it lies in."""
    return _target(where, path, host)


def _target(where: Folder, path: str, host: str, look: Look = folder) -> tuple[ClaimTarget, str]:
    real = _real(Path(where.cwd, path))
    found, tree = _locate(real, host, look)
    return _literally(found, _identity(real)), tree


def staged(where: Folder, paths: Iterable[str], host: str = "") -> list[ClaimTarget]:
    """The places of entries of git's index, whose root is `where`: of a submodule the entry, not its files.

    Each folder is looked at once: a commit may have any number of files.
    """
    look = cache(folder)
    if not where.repository or where.cwd != where.root:  # git was told elsewhere which folder it is
        return [_target(where, path, host, look)[0] for path in paths]
    outer = list(_repositories(Path(where.root).parent, look))
    return [_entry(where, path, outer, host) for path in paths]


def _entry(where: Folder, path: str, outer: Iterable[Folder], host: str) -> ClaimTarget:
    identity = _identity(os.path.join(where.root, path), follow_symlinks=False)  # noqa: PTH118 - a Path takes long
    above = _above(where, path, outer, host)
    return _literally(ClaimTarget(where.repository, path, "", above), "" if identity == FOLDER else identity)


def _named(where: Folder, path: str, host: str) -> ClaimTarget:
    if claim_paths.is_resource(path) or not where.cwd:
        return ClaimTarget("", claim_paths.check_path(path))
    return _locate(_resolve(Path(where.cwd, claim_paths.check_path(path))), host)[0]


def _literally(found: ClaimTarget, identity: str) -> ClaimTarget:
    """The place of this very path, whatever characters it has."""
    above = tuple((scope, patterns.literal(storable(path))) for scope, path in found.above)
    return ClaimTarget(found.scope, patterns.literal(storable(found.path)), identity, above)


def _locate(real: Path, host: str, look: Look = folder) -> tuple[ClaimTarget, str]:
    """The place of what is or would be at `real`, and its working tree, as they can be stored."""
    lies_in = look(_existing(real))
    inside = _below(_slashed(real), _slashed(lies_in.root)) if lies_in.repository else None
    if inside is None:
        path = storable(_slashed(real))
        return ClaimTarget("", path, "", _on_machine(path, host)), storable(str(real.parent))
    outer = _repositories(Path(lies_in.root).parent, look)
    above = tuple((storable(scope), storable(path)) for scope, path in _above(lies_in, inside, outer, host))
    return ClaimTarget(storable(lies_in.repository), storable(inside), "", above), storable(lies_in.root)


def _above(where: Folder, path: str, outer: Iterable[Folder], host: str) -> tuple[tuple[str, str], ...]:
    """The same place as a path of each repository that this one lies in, `outer`, and of the machine.

    A worktree or clone within another of the same repository is no part of that one.
    """
    absolute = _slashed(where.root) if path == "." else f"{_slashed(where.root).rstrip('/')}/{path}"
    found = {where.repository: path}
    for repository in outer:
        inside = _below(absolute, _slashed(repository.root))
        if inside and len(found) < claim_paths.MAX_ABOVE:
            found.setdefault(repository.repository, inside)
    del found[where.repository]
    return (*found.items(), *_on_machine(absolute, host))


def _repositories(start: Path, look: Look) -> Iterator[Folder]:
    """The one that a folder lies in, the one that this lies in, and so on."""
    found = look(start)
    while found.repository:
        yield found
        found = look(Path(found.root).parent)


def _on_machine(absolute: str, host: str) -> tuple[tuple[str, str], ...]:
    return ((claim_paths.MACHINE + host, absolute),) if host else ()


def exists(path: Path) -> bool:
    """Whether there is a file or folder of that name; there is none of a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _identity(path: Path | str, *, follow_symlinks: bool = True) -> str:
    """Of an existing file, what renaming keeps. With its time: another may get its number."""
    try:
        found = os.stat(path, follow_symlinks=follow_symlinks)  # noqa: PTH116
    except (OSError, ValueError):
        return ""
    if stat.S_ISDIR(found.st_mode):
        return FOLDER
    return f"{found.st_dev}:{found.st_ino}:{found.st_mtime_ns}" if stat.S_ISREG(found.st_mode) else ""


def from_here(where: Folder, place: ClaimTarget) -> ClaimTarget:
    """The place as the repository of `where` has it, if it lies in that one."""
    above = dict(place.above)
    if place.scope == where.repository or where.repository not in above:
        return place
    return ClaimTarget(where.repository, above[where.repository])


def shown(where: Folder, scope: str, path: str) -> str:
    """A claim's path as somebody working in `where` would write it."""
    path = patterns.plain(path)
    if scope and scope not in ("*", where.repository):
        return f"{path} (in {scope})"
    if scope == "*":
        return path
    inside = path if scope or not where.root else _below(path, storable(_slashed(where.root)))
    return path if inside is None or not where.root else claim_paths.written(inside, _way_up(where))


def _way_up(where: Folder) -> str:
    """The beginning of a path from the folder to the root of its working tree."""
    inside = _below(_slashed(where.cwd), _slashed(where.root)) or "."
    return "./" if inside == "." else "../" * len(inside.split("/"))


def from_root(root: str, path: str) -> str:
    """A path as seen from a folder, if it lies in there."""
    inside = _below(patterns.normalize(path), _slashed(root)) if root else None
    return path if inside is None else claim_paths.written(inside)


def _resolve(path: Path) -> Path:
    """The path without `..` and symlinks, as far as it has no glob in it."""
    parts = path.parts
    plain = next((i for i, part in enumerate(parts) if patterns.is_glob(part)), len(parts))
    real = _real(Path(*parts[:plain]))
    return Path(patterns.normalize(_slashed(Path(real, *parts[plain:]))))


def _existing(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    return next((folder for folder in (path, *path.parents) if _is_folder(folder)), path)


def _below(path: str, root: str) -> str | None:
    if path == root:
        return "."
    return path[len(root.rstrip("/")) + 1 :] if path.startswith(root.rstrip("/") + "/") else None


def _slashed(path: Path | str) -> str:
    return str(path).replace("\\", "/")
