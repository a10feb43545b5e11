"""JSON-RPC by lines, as the stdio server and its supervisor speak it: lines of bounded size, refusals, error codes.

The supervisor uses this module, so it imports little.
"""

from __future__ import annotations

import json
import re

from . import jsons

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

MAX_LINE = 16 * 1024 * 1024
"""Bytes of one line. The largest value of the state needs a tenth, and the prompts of a person far less."""
_ENDS = 1024
"""Bytes that are kept of the beginning and of the end of a line that is longer."""
_ID = rb'"id"\s*:\s*(-?\d{1,19}|"(?:[^"\\]|\\.){0,200}")'
_FIRST = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID)
_LAST = re.compile(_ID + rb'\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')
_TOO_DEEP = f"the request is nested deeper than {jsons.MAX_DEPTH} levels of JSON: make it flatter, or send it as text"
_TOO_LONG = f"the request is longer than {MAX_LINE >> 20} MiB: send it in pieces, or write a file and send its path"


class Overlong(bytes):
    """The two ends of a line longer than `MAX_LINE`; the rest was dropped."""

    def request(self) -> int | str | None:
        """Return the id of the request, if it is the first or the last field, as clients write it."""
        found = _FIRST.match(self[:_ENDS]) or _LAST.search(self[_ENDS:])
        try:
            return identity(json.loads(found[1])) if found else None
        except ValueError:
            return None


class Lines:
    """Cuts a stream of bytes into lines. Of a line longer than `most` only the ends are kept: see `Overlong`."""

    def __init__(self, most: int | None = MAX_LINE) -> None:
        self._most = most
        self._kept = bytearray()
        self._head = b""
        """The beginning of a line that is too long; then `_kept` has its latest part."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that are complete with these bytes, each with its newline."""
        *whole, begun = data.split(b"\n")
        for line in whole:
            self._keep(line + b"\n")
            yield self.rest()
        self._keep(begun)

    def rest(self) -> bytes:
        """Take the line that has begun; b"" if none has."""
        line = Overlong(self._head + self._kept[-_ENDS:]) if self._head else bytes(self._kept)
        self._kept.clear()
        self._head = b""
        return line

    def _keep(self, data: bytes) -> None:
        self._kept += data
        if self._most is not None and len(self._kept) > self._most:
            self._head = self._head or bytes(self._kept[:_ENDS])
            del self._kept[:-_ENDS]


def refusal(line: bytes) -> bytes | None:
    """Return the answer to a line that must not be parsed, because it is too long or nested too deeply."""
    if isinstance(line, Overlong):
        return failure(line.request(), INVALID_REQUEST, _TOO_LONG)
    if jsons.is_deeper(line):
        return failure(identity(jsons.outline(line).get("id")), INVALID_REQUEST, _TOO_DEEP)
    return None


def identity(found: object) -> int | str | None:
    """Return the id of a request, or None for a value that is not a valid one."""
    return found if isinstance(found, int | str) and not isinstance(found, bool) else None


def failure(number: int | str | None, code: int, message: str, data: object = None) -> bytes:
    """Return the line that answers a request with an error; None stands for a request whose id is not known."""
    return encoded({"jsonrpc": "2.0", "id": number, "error": error(code, message, data)})


def error(code: int, message: str, data: object = None) -> dict[str, Any]:
    """Return the error of an answer."""
    return {"code": code, "message": message, **({} if data is None else {"data": data})}


def encoded(message: object) -> bytes:
    """Return a message as a line. Half of a surrogate pair, which UTF-8 has not, is escaped."""
    try:
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(message, separators=(",", ":")).encode() + b"\n"
