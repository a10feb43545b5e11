"""The Python environments that the launcher of a checkout makes in the user's cache folder, for their removal."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path


def made(env: Mapping[str, str], home: Path, platform: str) -> list[Path]:
    """Return the folders of environments that `launch.py` may have made, on a system named as in `sys.platform`."""
    caches = [home / "Library" / "Caches"] if platform == "darwin" else [home / ".cache"]
    caches += [Path(env[name]) for name in ("XDG_CACHE_HOME", "LOCALAPPDATA") if env.get(name)]
    found = dict.fromkeys(cache / "claude-bus" / "environments" for cache in caches)
    return [folder for folder in found if folder.is_dir() and not folder.is_symlink()]


def in_use(folder: Path) -> bool:
    """Return whether a process runs in one of the environments, or makes one."""
    return any(map(_is_locked, [folder / ".lock", *folder.glob("*/.lock")]))


def remove(folder: Path) -> None:
    """Remove the environments, and the folder around them if nothing else is in it."""
    shutil.rmtree(folder)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()


def _is_locked(lock: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # on Windows files that are in use cannot be removed
        return False
    try:
        with lock.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
