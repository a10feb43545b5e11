"""Private files of the user: nobody else can read them, and they are written atomically."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from ..errors import BusError, InvalidInput, StoreFull, StoreReadOnly
from ..text import path as shown


def refusal(path: Path, error: OSError) -> BusError:
    """Return the bus's error for a system error of a file."""
    if isinstance(error, FileExistsError | FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return InvalidInput(f"{shown(str(path))}: {error.strerror}")
    kind = StoreReadOnly if isinstance(error, PermissionError) else StoreFull
    return kind(f"{shown(str(path))} cannot be written: {error.strerror}")


def save(path: Path, content: bytes, *, replace: bool) -> None:
    """Write a file that the user asked for. Raises `BusError` if that is not possible."""
    if path.exists() and not path.is_file():
        raise InvalidInput(f"{shown(str(path))} is not a file that can be replaced")
    try:
        write(path, content, replace=replace)
    except FileExistsError:
        raise InvalidInput(f"{shown(str(path))} is there already; --force replaces it") from None
    except OSError as error:
        raise refusal(path, error) from None


def folder_of(path: Path) -> None:
    """Create the folder of the file for the user alone; an existing folder is not changed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def write(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write the file atomically. Raises `OSError`.

    Without `replace`, raises `FileExistsError` if the file exists. A link is replaced itself:
    nothing is written to its target.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)  # 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        if replace:
            Path(temporary).replace(path)
        else:
            _appear(Path(temporary), path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()


def _appear(temporary: Path, path: Path) -> None:
    """Give the file its name, unless that is taken."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a file system without links
        if path.exists() or path.is_symlink():
            raise FileExistsError(17, "File exists") from None
        temporary.rename(path)


def append(*parts: tuple[Path, bytes]) -> None:
    """Append the given content to each file: to all of them or, if the disk is full, to none."""
    before: list[tuple[int, int]] = []
    try:
        for path, content in parts:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            before.append((descriptor, os.fstat(descriptor).st_size))
            while content:
                content = content[os.write(descriptor, content) :]  # noqa: PLW2901 - the rest of it
            _settle(descriptor)
    except OSError:
        for descriptor, size in before:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
        raise
    finally:
        for descriptor, _ in before:
            os.close(descriptor)


def _settle(descriptor: int) -> None:
    """Wait until the data is on the disk, if the file is on one."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a pipe or a terminal
            raise


def note(path: Path, content: bytes) -> None:
    """Overwrite a small file, whatever kind of file it is."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
