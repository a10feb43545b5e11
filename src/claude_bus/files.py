"""Files that messages name: what they are when they are sent, and whether they still are that.

A message carries a file's path, size and digest, never its content.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Sequence
from dataclasses import replace

from . import processes, rules
from .errors import InvalidInput
from .model import File, FileState, Message

HASHED_PER_READING = 64 * 1024 * 1024
"""Bytes that are read to see whether files still match, each time messages are read."""


async def measured(cwd: str, paths: Sequence[str]) -> tuple[File, ...]:
    """The files as they are now; relative paths are meant from `cwd`.

    Raises `InvalidInput` for whatever is not a readable, regular file.
    """
    rules.check_file_count(len(paths))
    return await asyncio.to_thread(lambda: tuple(_measure(cwd, path) for path in paths)) if paths else ()


async def examined(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, each of their files with its state."""
    if not any(message.files for message in messages):
        return tuple(messages)
    return await asyncio.to_thread(_examine, messages)


def _measure(cwd: str, path: str) -> File:
    try:
        absolute = os.path.abspath(os.path.join(cwd, os.path.expanduser(path)))  # noqa: PTH100, PTH111, PTH118 - keeps links
        size, digest = _digest(absolute)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"files: {path[:200]!a} cannot be sent: {reason}") from None
    return rules.check_file(File(absolute, size, digest, processes.host()))


def _digest(path: str) -> tuple[int, str]:
    """Size and SHA-256 of a regular file; `ValueError` for anything else. A pipe keeps nobody waiting."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()


def _examine(messages: Sequence[Message]) -> tuple[Message, ...]:
    left = HASHED_PER_READING
    found = []
    for message in messages:
        files = []
        for file in message.files:
            state, read = _state(file, left)
            left -= read
            files.append(replace(file, state=state))
        found.append(replace(message, files=tuple(files)))
    return tuple(found)


def _state(file: File, most: int) -> tuple[FileState, int]:
    """What became of the file, and how many bytes it took to see."""
    try:
        now = os.stat(file.path)  # noqa: PTH116 - it is text, and stays it
        here = file.host == processes.host()
        other: FileState = "changed" if here else "unchecked"  # of another machine: here it may be something else
        if not stat.S_ISREG(now.st_mode) or now.st_size != file.size:
            return other, 0
        if file.size > most:
            return "unchecked", 0
        same = _digest(file.path) == (file.size, file.sha256)
        return ("unchanged" if same else other), file.size
    except (FileNotFoundError, NotADirectoryError):
        return ("missing" if file.host == processes.host() else "unchecked"), 0
    except (OSError, ValueError):
        return "unchecked", 0
