"""`claude-bus import` and `claude-bus export`: messages as JSON lines.

A line is `{"id", "ts", "from", "to", "body", "tags"}`, as WholeTech's claude-bus stores
them, and `"acks"`: who acknowledged it. Ours add `"kind"` and `"reply_to"` where they
say something.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ... import addresses, drafts, jsons, limits, names, text
from ...cli import private_files
from ...cli.output import show
from ...config import Config
from ...connect import open_here
from ...errors import BusError, InvalidInput
from ...local import LocalBus
from ...model.messages import KINDS, ArchivedMessage
from ...names import BROADCASTS
from ..sql import archive

_PER_TRANSACTION = 1_000
"""Messages stored at once: nobody else waits for long, and what was interrupted is finished by repeating it."""
_NAMED = 20
"""Bad lines that are told."""


async def import_(options: argparse.Namespace, config: Config) -> int:
    """Store the messages of a file. If a line of it is bad, nothing is stored."""
    letters = _letters(_lines(options.file), config.channel)
    async with open_here(config, "messages are imported") as bus:
        new = 0
        for start in range(0, len(letters), _PER_TRANSACTION):
            new += await bus.run(archive.import_messages, config.channel, letters[start : start + _PER_TRANSACTION])
    known = len(letters) - new
    there = f"; {known} were there already" if known else ""
    show(options, {"imported": new, "known": known}, f"imported {text.plural(new, 'message')}{there}")
    return 0


def _lines(file: str) -> list[bytes]:
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{text.path(file)} cannot be read: {error.strerror}") from None
    return content.split(b"\n")


def _letters(lines: Iterable[bytes], channel: str) -> list[ArchivedMessage]:
    """The messages in the lines; raises `InvalidInput` that names those that hold none."""
    found: list[ArchivedMessage] = []
    bad: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_letter(line, channel))
        except BusError as error:
            bad.append((number, error.message))
    if bad:
        told = "; ".join(f"line {number}: {why}" for number, why in bad[:_NAMED])
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise InvalidInput(
            f"nothing was imported, {text.plural(len(bad), 'line')} cannot be: {told}{more}",
            lines=[{"line": number, "reason": why} for number, why in bad],
        )
    return found


def _letter(line: bytes, channel: str) -> ArchivedMessage:
    try:
        fields = jsons.loads(line.decode())
    except ValueError:
        raise InvalidInput("not JSON in UTF-8") from None
    if not isinstance(fields, dict):
        raise InvalidInput("not a JSON object")
    body = fields.get("body")
    if not isinstance(body, str):
        raise InvalidInput("body is not text")
    return ArchivedMessage(
        id=_id(fields.get("id"), "id"),
        ts=_time(fields.get("ts")),
        sender=_name(fields.get("from"), "from", channel),
        to=_to(fields.get("to"), channel),
        body=limits.check_utf8(body, "body", drafts.MAX_CONTENT_BYTES, "shorten it"),
        tags=_tags(fields.get("tags")),
        acks=_acks(fields.get("acks"), channel),
        kind=next((kind for kind in KINDS if kind == fields.get("kind")), "message"),
        reply_to=None if fields.get("reply_to") is None else _id(fields["reply_to"], "reply_to"),
    )


def _id(value: object, what: str) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
        return value
    if not isinstance(value, str) or len(value) > 100:
        raise InvalidInput(f"{what} is neither a whole number of 64 bits nor a text of at most 100 characters")
    return limits.check_line(value, what)


def _time(value: object) -> float:
    """ISO 8601, in UTC unless it says otherwise, or seconds since the epoch."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
            raise ValueError
    except (ValueError, OverflowError):
        raise InvalidInput("ts is not a time such as 2026-05-25T10:31:02Z") from None
    return float(value)


def _name(value: object, what: str, channel: str) -> str:
    """A name, of this channel or of another one."""
    if not isinstance(value, str):
        raise InvalidInput(f"{what} is not a name")
    who = addresses.parse_address(value, channel, what)
    names.check_name(who.name, what)
    return who.seen_from(channel)


def _to(value: object, channel: str) -> tuple[str, ...]:
    """Names; none for everybody."""
    if value is None or (isinstance(value, str) and value in ("", *BROADCASTS)):
        return ()
    names = value if isinstance(value, list) else [value]
    if not names or len(names) > addresses.MAX_RECIPIENTS:
        raise InvalidInput(f"to names none, or more than {addresses.MAX_RECIPIENTS}")
    return tuple(dict.fromkeys(_name(name, "to", channel) for name in names))


def _tags(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise InvalidInput("tags is not a list of texts")
    return tuple(limits.check_line(tag, "a tag", names.MAX_NAME) for tag in value)


def _acks(value: object, channel: str) -> tuple[str, ...]:
    """Those who acknowledged it: a list of names or of `{"reader": name}`, or an object with the names as keys."""
    if value is None:
        return ()
    if not isinstance(value, list | dict):
        raise InvalidInput("acks is neither a list nor an object")
    readers = [one.get("reader") if isinstance(one, dict) else one for one in value]
    return tuple(dict.fromkeys(_name(reader, "acks", channel) for reader in readers))


async def export(options: argparse.Namespace, config: Config) -> int:
    """Write the channel's messages to a file, or to stdout."""
    if options.json and not options.file:
        raise InvalidInput("with --json name a file to export to: stdout is for the one document")
    async with open_here(config, "messages are exported") as bus:
        if options.file:
            lines = [line async for line in _exported(bus, config.channel)]
            private_files.save(Path(options.file), b"".join(lines), replace=options.force)
            show(options, {"exported": len(lines)}, f"exported {text.plural(len(lines), 'message')}")
            return 0
        async for line in _exported(bus, config.channel):
            sys.stdout.buffer.write(line)
    sys.stdout.flush()
    return 0


async def _exported(bus: LocalBus, channel: str) -> AsyncIterator[bytes]:
    after = 0
    while letters := await bus.run(archive.export_messages, channel, after, _PER_TRANSACTION):
        for letter in letters:
            yield json.dumps(_fields(letter), ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        after = letters[-1].row


def _fields(letter: ArchivedMessage) -> dict[str, Any]:
    moment = datetime.fromtimestamp(letter.ts, UTC).isoformat(timespec="microseconds")
    more = {
        "acks": list(letter.acks),
        "kind": letter.kind if letter.kind != "message" else "",
        "reply_to": letter.reply_to,
    }
    return {
        "id": letter.id,
        "ts": moment.replace("+00:00", "Z"),
        "from": letter.sender,
        "to": _spelled(letter.to),
        "body": letter.body,
        "tags": list(letter.tags),
        **{field: value for field, value in more.items() if value},
    }


def _spelled(to: Sequence[str]) -> str | list[str]:
    return "any" if not to else to[0] if len(to) == 1 else list(to)
