"""The message text that a command sends."""

from __future__ import annotations

import argparse
import codecs
import sys

from .. import drafts
from ..errors import InvalidInput


def content(options: argparse.Namespace, *, files: bool = False) -> str:
    """Return the given text, or that of stdin unchanged. At a terminal, text is optional if files are sent."""
    if options.content != "-":
        return str(options.content)
    if sys.stdin.isatty() and files:
        return ""
    if sys.stdin.isatty():
        print("Type the message, then Ctrl-D:", file=sys.stderr)
    data = sys.stdin.buffer.read(_MOST)
    if len(data) == _MOST:  # too large in any encoding, which a later check reports
        return data.decode(errors="replace")
    declared = "utf-8" if sys.platform == "win32" else sys.stdin.encoding  # programs on Windows do not write that
    return _decoded(data, declared)


_MOST = 2 * drafts.MAX_CONTENT_BYTES + 4
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Encodings by the byte order mark that text of Windows programs may begin with."""


def _decoded(data: bytes, encoding: str) -> str:
    """Decode by the byte order mark; without one as UTF-8, or in the given encoding if it is not UTF-8. Never guess."""
    marked = next((known for mark, known in _MARKS.items() if data.startswith(mark)), "")
    if not marked and _is_utf8(data):
        marked = "utf-8"
    try:
        return data.decode(marked or encoding)
    except (UnicodeDecodeError, LookupError):
        raise InvalidInput("stdin is not UTF-8 text; send the path of the file instead") from None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
