"""How commands say what they did, whatever encoding the terminal, the pipe or the locale has."""

from __future__ import annotations

import argparse
import io
import json
import sys
from datetime import datetime
from typing import Any


def prepare() -> None:
    """Let everything be printed: what the encoding lacks is written as `\\u2192`, and nothing is lost on the way.

    Undoes PYTHONUNBUFFERED: without a buffer Python drops what the system does not take at once, half a message, say,
    of a process that is suspended while it writes.
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
    """A JSON document as stdout can take it: with `\\u00e9` in it where stdout's encoding is not UTF-8."""
    plain = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") != "utf8"
    return json.dumps(content, ensure_ascii=plain, default=str)


def show(options: argparse.Namespace, content: dict[str, Any], plain: str, *, error: bool = False) -> None:
    """Print the document with `--json`, else the text: on stderr if it tells of a refusal."""
    if options.json:
        print(document(content))
    else:
        print(plain, file=sys.stderr if error else sys.stdout)


def local(ts: float) -> str:
    """A time for a person: `2026-11-20 11:31:02+01:00`."""
    return datetime.fromtimestamp(ts).astimezone().isoformat(sep=" ", timespec="seconds")
