"""Output of commands, whatever encoding the terminal, the pipe or the locale has."""

from __future__ import annotations

import argparse
import io
import json
import sys
from datetime import datetime
from typing import Any


def prepare() -> None:
    """Make all text printable and all output complete; characters that the encoding lacks are written as `\\u2192`.

    Undoes PYTHONUNBUFFERED: without a buffer, Python drops output that the system does not accept at once, such as half
    a message of a process that is suspended while it writes.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(getattr(stream, "buffer", None), io.RawIOBase):
            whole = io.BufferedWriter(stream.buffer)
            stream = io.TextIOWrapper(whole, encoding=stream.encoding, line_buffering=True)
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def document(content: dict[str, Any]) -> str:
    """Return a JSON document that stdout can encode: escaped, as in `\\u00e9`, if its encoding is not UTF-8."""
    plain = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") != "utf8"
    return json.dumps(content, ensure_ascii=plain, default=str)


def show(options: argparse.Namespace, content: dict[str, Any], plain: str, *, error: bool = False) -> None:
    """Print the document with `--json`, otherwise the text; a refusal goes to stderr."""
    if options.json:
        print(document(content))
    else:
        print(plain, file=sys.stderr if error else sys.stdout)


def local(ts: float) -> str:
    """Format a time for people: `2026-11-20 11:31:02+01:00`."""
    return datetime.fromtimestamp(ts).astimezone().isoformat(sep=" ", timespec="seconds")
