"""Messages as commands print them for people and programs. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from ..model.messages import Message
from ..quoting import one_line, visible
from ..text import ago, clock, name, path, plural


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of cells as aligned lines. Peers' text in a cell cannot break its line, or act on a terminal."""
    rows = [[path(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def printed_message(message: Message, when: Callable[[float], str] = clock) -> str:
    """Return a message for a user's terminal: sender and time, its files, then the text, indented."""
    marks: list[str] = [message.kind] if message.kind != "message" else []
    marks += [f"reply to #{message.reply_to}"] if message.reply_to is not None else []
    marks += ["to all"] if message.to == "all" else []
    marks += ["possibly seen before"] if message.possibly_seen else []
    marks += [f"{ago(message.age)} old"] if message.age else []
    head = f"#{message.id} from {name(message.sender)}, {when(message.ts)}" + (
        f" ({', '.join(marks)})" if marks else ""
    )
    files = [f"{f.state} file {path(f.path)} ({plural(f.size, 'byte')}, sha256 {f.sha256})" for f in message.files]
    content = visible(message.content).split("\n") if message.content else []
    return "\n".join([head, *files, *(f"  {line}".rstrip() for line in content)])


_BOUNDARY = re.compile(r"^([^\S\n]*+\\*)(?=---[^\S\n]*+$|\[\d\d:\d\d:\d\dZ\] from )", re.MULTILINE)


def recv_block(sender: str, ts: float, body: str) -> str:
    """Return a message as `recv` prints it: `[HH:MM:SSZ] from X:`, the body, `---`.

    A line of the body that could pass for the first or the last one begins with a
    backslash (one more than it had), so no sender can forge another's message.
    """
    head = f"[{datetime.fromtimestamp(ts, UTC):%H:%M:%S}Z] from {one_line(sender, 200)}:"
    return f"{head}\n{_BOUNDARY.sub(_backslash, visible(body))}\n---\n"


def _backslash(match: re.Match[str]) -> str:
    return f"{match[1]}\\"


def log_line(sender: str, ts: float, body: str) -> str:
    """Return a message as one line of `listen`'s log, separated by tabs: time, sender, the first 120 characters."""
    flat = visible(body[:1_000]).replace("\n", " | ").replace("\t", " ")
    return f"{ts!r}\t{one_line(sender, 200)}\t{flat[:120]}\n"


def mail_line(message: Message) -> str:
    """Return a message on one line: `[time] from: body`, and the files it names."""
    parts = [message.content, *(path(file.path) for file in message.files)]
    said = one_line(" ".join(part for part in parts if part), 1 << 20)
    return f"[{clock(message.ts)}] {name(message.sender)}: {said}"
