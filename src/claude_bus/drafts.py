"""The limits on what a message may hold. Pure."""

from __future__ import annotations

import re

from .addresses import MAX_RECIPIENT_GLOBS, check_recipient_count, is_name_glob
from .errors import InvalidInput
from .limits import MAX_PATH_BYTES, check_line, check_seconds, check_utf8
from .model.messages import KINDS, Draft, File
from .names import MAX_NAME

MAX_CONTENT_BYTES = 65_536
MAX_TAGS = 100
MAX_FILES = 20
MAX_SEARCH = 1_000
MAX_TTL = 365 * 86_400.0
MAX_SETTLED = 5_000
"""Messages that one request may acknowledge or give back."""
_SHA256 = re.compile("[0-9a-f]{64}")


def check_draft(draft: Draft) -> Draft:
    """Return the draft if all parts that can be checked without the database are valid."""
    check_recipient_count(len(draft.to))
    globs = sum(is_name_glob(name) for name in draft.to)
    if globs > MAX_RECIPIENT_GLOBS:
        raise InvalidInput(f"to has {globs} globs, the limit is {MAX_RECIPIENT_GLOBS}: combine them into fewer")
    if draft.kind not in KINDS:
        raise InvalidInput(f"kind {draft.kind!a} is unknown: use {', '.join(KINDS)}")
    if not draft.content and not draft.files:
        raise InvalidInput("content is empty: say something")
    check_utf8(
        draft.content,
        "content",
        MAX_CONTENT_BYTES,
        "put it into a file and name that in files, which sends its path and sha256",
    )
    if len(draft.tags) > MAX_TAGS:
        raise InvalidInput(f"tags has {len(draft.tags)} entries, the limit is {MAX_TAGS}: say the rest in content")
    for tag in draft.tags:
        check_line(tag, "a tag", MAX_NAME)
    if draft.ttl is not None:
        check_seconds(draft.ttl, "ttl", MAX_TTL)
    check_line(draft.key, "key")
    check_file_count(len(draft.files))
    for file in draft.files:
        check_file(file)
    return draft


def check_file_count(count: int) -> None:
    """Raise `InvalidInput` if a message may not name this many files."""
    if count > MAX_FILES:
        raise InvalidInput(f"files has {count} entries, a message names at most {MAX_FILES}: put them into an archive")


def check_file(file: File) -> File:
    """Return `file` if it can be stored. Raises `InvalidInput` if its path, host, size or digest is not valid."""
    check_utf8(file.path, f"files: the path {file.path[:200]!a}", MAX_PATH_BYTES, "give the file a shorter one")
    check_line(file.host, "a file's host", 255)
    if not file.path or "\0" in file.path or file.size < 0 or not _SHA256.fullmatch(file.sha256):
        raise InvalidInput(f"files: {file.path[:200]!a} has no valid path, size or sha256")
    return file


def check_search(search: str) -> str:
    """Return `search` if it is a text of at most 1,000 characters to search messages for."""
    if len(search) > MAX_SEARCH:
        raise InvalidInput(
            f"search has {len(search)} characters, at most {MAX_SEARCH} can be looked for: take a few words"
        )
    return search


CHUNK = 5_000
"""Characters of a base64-encoded file that go into one message."""
MAX_CHUNKS = 5_000
MAX_FILE_BYTES = 64 * 1024 * 1024
"""The largest file, in bytes, that is sent or received in pieces."""


def check_tag(tag: str) -> str:
    """Return `tag` if it is valid for a file sent in pieces: 1 to 100 printable characters without a space.

    Raises `InvalidInput` otherwise.
    """
    if not tag or len(tag) > 100 or not tag.isprintable() or " " in tag:
        raise InvalidInput(f"tag {tag[:100]!a} is not valid: use 1-100 printable characters without spaces")
    return tag


def check_message_count(count: int) -> None:
    """Raise `InvalidInput` if one request may not settle this many messages."""
    if count > MAX_SETTLED:
        raise InvalidInput(f"{count} messages at once, the limit is {MAX_SETTLED}: settle them in several requests")
