"""The text that a command sends."""

from __future__ import annotations

import argparse
import sys

from .. import rules
from ..errors import InvalidInput


def content(options: argparse.Namespace, *, files: bool = False) -> str:
    """The text; where none is given, stdin's, as it is. A person who names files need not say more."""
    if options.content != "-":
        return str(options.content)
    if sys.stdin.isatty() and files:
        return ""
    if sys.stdin.isatty():
        print("Type the message, then Ctrl-D:", file=sys.stderr)
    try:
        return sys.stdin.buffer.read(rules.MAX_CONTENT_BYTES + 1).decode()
    except UnicodeDecodeError:
        raise InvalidInput("stdin is not UTF-8 text; send the path of the file instead") from None
