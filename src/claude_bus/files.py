"""Files that messages name: measuring them when they are sent, and checking later whether they changed.

A message carries a file's path, size and digest, never its content. A path may lead
anywhere: to a pipe, a device, an endless file, a server that does not respond. So every
check is limited in bytes and in time, and runs on a thread that may hang.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, repeat

from . import drafts, processes
from .errors import InvalidInput
from .model.messages import File, FileState, Message
from .offload import GivenUp, Offload

HASHED_PER_READING = 64 * 1024 * 1024
"""Bytes that are hashed to check whether files still match, each time messages are read."""
LOOK = 1.0
"""Seconds for these checks. Mail does not wait longer: the remaining files are `unchecked`."""
MEASURE = 30.0
"""Seconds within which the files of a message must have been read for it to be sent."""
MAX_HANGING = 4
"""Hanging checks at which no new one is started, because each of them holds a thread."""

_CHUNK = 1024 * 1024
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_BINARY"))
_offload = Offload(MAX_HANGING)


class _GaveUp(Exception):
    """The time is over: the caller no longer waits for the digest."""


async def measured(
    cwd: str, written: Sequence[str], understood: Callable[[Sequence[str]], Sequence[str]] = list
) -> tuple[File, ...]:
    """Return the files as they are now; relative paths start at `cwd`.

    `understood` makes paths of the written texts, and may access the disk for that. Raises `InvalidInput` for anything
    but a readable, regular file, or if reading takes more than `MEASURE` seconds.
    """
    drafts.check_file_count(len(written))
    if not written:
        return ()
    paths: list[str] = []
    found: list[File | InvalidInput] = []

    def measure(given_up: GivenUp) -> None:
        try:
            paths.extend(understood(written))
            _measure_all(cwd, paths, found, given_up)
        except InvalidInput as error:
            found.append(error)

    done = await _offload.run(measure, MEASURE)
    known = found.copy()
    for one in known:
        if isinstance(one, InvalidInput):
            raise one
    if not done or len(known) < len(paths):
        late = paths[len(known)] if len(known) < len(paths) else ", ".join(written)
        raise InvalidInput(
            f"files: {late[:200]!a} was not read within {MEASURE:.0f} s: the disk does not answer, or it "
            "is too large. Put its path into the content instead"
        )
    return tuple(file for file in known if isinstance(file, File))


async def examined(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages, each of their files with its state; after `LOOK` seconds, with the states known by then."""
    named = [file for message in messages for file in message.files]
    if not named:
        return tuple(messages)
    found: list[FileState] = []
    await _offload.run(lambda given_up: _look_at_all(named, found, given_up), LOOK)
    unknown: FileState = "unchecked"
    states = chain(found.copy(), repeat(unknown))
    return tuple(
        replace(message, files=tuple(replace(file, state=next(states)) for file in message.files))
        for message in messages
    )


def _measure_all(cwd: str, paths: Sequence[str], found: list[File | InvalidInput], given_up: GivenUp) -> None:
    """Append a `File` for each path to `found`, as far as the time allows. Raises `InvalidInput` for others."""
    drafts.check_file_count(len(paths))
    for path in paths:
        try:
            found.append(_measure(cwd, path, given_up))
        except _GaveUp:
            return


def _measure(cwd: str, path: str, given_up: GivenUp) -> File:
    try:
        absolute = os.path.abspath(os.path.join(cwd, os.path.expanduser(path)))  # noqa: PTH100, PTH111, PTH118 - keeps links
        size, digest = _digest(absolute, None, given_up)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"files: {path[:200]!a} cannot be sent: {reason}") from None
    return drafts.check_file(File(absolute, size, digest, processes.host()))


def _digest(path: str, most: int | None, given_up: GivenUp) -> tuple[int, str]:
    """Return size and SHA-256 of a regular file. Raises `ValueError` for anything else.

    With `most`, reads at most one byte more than that. Without it, reads the size that the file has when it is opened,
    and raises `ValueError` if the file does not report its size, as those of `/proc` do not.
    """
    import hashlib

    real = os.path.realpath(path)
    _require_regular(os.stat(real))  # noqa: PTH116 - text suffices. Opening a device may trigger it
    descriptor = os.open(real, _FLAGS)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        size = _require_regular(os.fstat(descriptor))
        left = size if most is None else most + 1
        digest, begin = hashlib.sha256(), left
        while left and (chunk := file.read(min(left, _CHUNK))):
            if given_up():
                raise _GaveUp
            digest.update(chunk)
            left -= len(chunk)
        if most is None and not left and file.read(1) and os.fstat(descriptor).st_size == size:
            raise ValueError("it holds more than its size says, as files of the system do; send a copy of it")
        return begin - left, digest.hexdigest()


def _require_regular(found: os.stat_result) -> int:
    """Return the size of a regular file. Raises `ValueError` for anything else."""
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")
    return found.st_size


def _look_at_all(files: Sequence[File], found: list[FileState], given_up: GivenUp) -> None:
    """Append the state of each file to `found`, as far as time and bytes allow."""
    left = HASHED_PER_READING
    for file in files:
        if given_up():
            return
        state, read = _state(file, left, given_up)
        left -= read
        found.append(state)


def _state(file: File, most: int, given_up: GivenUp) -> tuple[FileState, int]:
    """Return the state of the file, and how many bytes were read for it."""
    try:
        now = os.stat(file.path)  # noqa: PTH116 - text suffices
        here = file.host == processes.host()
        other: FileState = "changed" if here else "unchecked"  # a path of another machine may mean another file here
        if not stat.S_ISREG(now.st_mode) or now.st_size != file.size:
            return other, 0
        if file.size > most:
            return "unchecked", 0
        same = _digest(file.path, file.size, given_up) == (file.size, file.sha256)
        return ("unchanged" if same else other), file.size
    except (FileNotFoundError, NotADirectoryError):
        return ("missing" if file.host == processes.host() else "unchecked"), 0
    except (OSError, ValueError, _GaveUp):
        return "unchecked", 0
