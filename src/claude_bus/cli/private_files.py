"""Files of the user's own: nobody else may read them, and none is ever half written."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from ..errors import BusError, InvalidInput, StoreFull, StoreReadOnly
from ..text import path as shown


def refusal(path: Path, error: OSError) -> BusError:
    """The bus's error for what the system says of a file."""
    if isinstance(error, FileExistsError | FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return InvalidInput(f"{shown(str(path))}: {error.strerror}")
    kind = StoreReadOnly if isinstance(error, PermissionError) else StoreFull
    return kind(f"{shown(str(path))} cannot be written: {error.strerror}")


def save(path: Path, content: bytes, *, replace: bool) -> None:
    """Write a file that the user asked for; what stands against it is a `BusError`."""
    if path.exists() and not path.is_file():
        raise InvalidInput(f"{shown(str(path))} is no file that can be replaced")
    try:
        write(path, content, replace=replace)
    except FileExistsError:
        raise InvalidInput(f"{shown(str(path))} is there already; --force replaces it") from None
    except OSError as error:
        raise refusal(path, error) from None


def folder_of(path: Path) -> None:
    """Make the folder that the file is in, for the user alone; one that is there stays as it is."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def write(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Put the content where `path` says, at once or not at all; raises `OSError`.

    Without `replace` a file that is there already is a `FileExistsError`. A link that is
    replaced is replaced itself: nothing is written where it points.
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
    """Append to each file what is given for it: to all of them or, where the disk is full, to none."""
    before: list[tuple[int, int]] = []
    try:
        for path, content in parts:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            before.append((descriptor, os.fstat(descriptor).st_size))
            while content:
                content = content[os.write(descriptor, content) :]  # noqa: PLW2901 - what is left of it
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
    """Wait until it is on the disk, where it goes to one."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a pipe or a terminal
            raise


def note(path: Path, content: bytes) -> None:
    """Make this the whole content of a small file, whatever kind of file it is."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
