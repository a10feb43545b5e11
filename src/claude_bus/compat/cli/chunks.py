"""`claude-bus send-file` and `claude-bus recv-file`: a file in pieces, one message each.

For readers that share no disk with the sender. A piece is `<TAG> i/n sha=<sha256>`, a
newline, and its part of the file, packed by gzip and as base64; the digest is the file's.
The reader gets the file of that digest, or nothing.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import gzip
import hashlib
import os
import re
import sys
import zlib
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ... import drafts, event_loop, text
from ...cli import private_files
from ...cli.identity import speaker
from ...cli.output import show
from ...cli.settings import agent_bus
from ...config import AgentBus, Config
from ...connect import open_here
from ...detector import refuse_secrets
from ...errors import InvalidInput, NotFound, RateLimited, TooLarge
from ...local import LocalBus
from ...model.identity import Address
from ...model.messages import Draft
from ...records import record
from ...sql import messages
from ..client import AgentBusClient
from ..sql import chunks

_HEAD = re.compile(r"(\S+) ([0-9]{1,6})/([0-9]{1,6}) sha=([0-9a-fA-F]{64})\s*\n")


@record(frozen=True, slots=True)
class Piece:
    """A message that carries a part of a file. `message` is its id, where the bus knows such."""

    sender: str
    number: int
    of: int
    sha256: str
    data: str
    message: int = 0


@dataclass(slots=True)
class Parcel:
    """The pieces of one file that have come from one sender."""

    sender: str
    of: int
    sha256: str
    data: dict[int, str] = field(default_factory=dict)
    messages: list[int] = field(default_factory=list)

    @property
    def missing(self) -> list[int]:
        return [number for number in range(1, self.of + 1) if number not in self.data]


class Carrier(Protocol):
    """A bus that carries pieces."""

    async def post(self, to: str, body: str) -> None:
        """Send one; raises `RateLimited` where the next has to wait."""

    async def pieces(self, tag: str) -> list[Piece]:
        """All with this tag that were sent to the caller, oldest first."""

    async def received(self, parcel: Parcel) -> None:
        """The file is there."""


@record(frozen=True, slots=True)
class OwnBus:
    """The bus of this machine. Pieces wake nobody, and are acknowledged when the file is there."""

    bus: LocalBus
    me: Address

    async def post(self, to: str, body: str) -> None:
        await self.bus.run(messages.send, self.me, Draft((to,), body, kind="fyi", allow_secret=True))

    async def pieces(self, tag: str) -> list[Piece]:
        found = (piece(tag, m.sender, m.content, m.id) for m in await self.bus.run(chunks.chunks, self.me, tag))
        return [one for one in found if one]

    async def received(self, parcel: Parcel) -> None:
        await self.bus.run(chunks.acknowledge, self.me, parcel.messages)


@record(frozen=True, slots=True)
class OtherBus:
    """One that speaks the agent-bus protocol."""

    client: AgentBusClient
    name: str

    async def post(self, to: str, body: str) -> None:
        await self.client.send(to, body)

    async def pieces(self, tag: str) -> list[Piece]:
        found: list[Piece] = []
        since = 0.0
        while mail := (await self.client.recv(self.name, since, block=False)).mail:
            since = mail[-1].ts
            found += [one for m in mail if (one := piece(tag, m.sender, m.body))]
        return found

    async def received(self, parcel: Parcel) -> None:
        """Such a bus has no receipts."""


async def _carrier(options: argparse.Namespace, config: Config, stack: AsyncExitStack) -> Carrier:
    """The bus that AGENT_BUS_URL or BUS_URL names, unless `--as` or `--db` says that our own is meant.

    That is one of this machine. Where BUS_URL says that ours is elsewhere, nobody would look into this one.
    """
    settings: AgentBus = agent_bus(options)
    if settings.url and not (options.as_name or options.db):
        return OtherBus(await stack.enter_async_context(AgentBusClient(settings)), settings.name)
    bus = await stack.enter_async_context(open_here(config, "files go as AGENT_NAME, with --as only"))
    return OwnBus(bus, (await speaker(bus, config, os.environ, options.as_name)).me)


# -- sending -----------------------------------------------------------------------


async def send_file(options: argparse.Namespace, config: Config) -> int:
    """Send a file in pieces, and say how it is received."""
    content = _content(Path(options.path))
    digest = hashlib.sha256(content).hexdigest()
    tag = drafts.check_tag(options.tag) if options.tag else _tag(Path(options.path).name, digest)
    if not options.allow_secret:
        await refuse_secrets("the file", content.decode(errors="replace"))
    bodies = packed(tag, content)
    async with AsyncExitStack() as stack:
        carrier = await _carrier(options, config, stack)
        for body in bodies:
            await _post(carrier, options.to, body)
    document = {"tag": tag, "messages": len(bodies), "sha256": digest}
    took = text.plural(len(bodies), "message")
    show(options, document, f"sent to '{options.to}' in {took}; it is taken with: claude-bus recv-file {tag}")
    return 0


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if not path.is_file():
                raise InvalidInput(f"{text.path(str(path))} is not a regular file")
            content = file.read(drafts.MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"{text.path(str(path))} cannot be sent: {error.strerror}") from None
    if len(content) > drafts.MAX_FILE_BYTES:
        raise _too_large()
    return content


def _too_large() -> TooLarge:
    limit = drafts.MAX_FILE_BYTES
    return TooLarge(
        f"a file in pieces has at most {limit} bytes, and packed {drafts.MAX_CHUNKS} pieces: copy it otherwise, and "
        "send its path and sha256",
        limit=limit,
    )


def _tag(name: str, digest: str) -> str:
    """From the file's name and digest: sent again it has the same one."""
    plain = re.sub(r"[^\w.-]+", "_", name)[:60].lstrip(".-") or "file"
    return f"{plain}-{digest[:8]}"


def packed(tag: str, content: bytes) -> list[str]:
    """The bodies of the messages that carry the content."""
    data = base64.b64encode(gzip.compress(content, mtime=0)).decode()
    parts = [data[start : start + drafts.CHUNK] for start in range(0, len(data), drafts.CHUNK)]
    if len(parts) > drafts.MAX_CHUNKS:
        raise _too_large()
    head = f"sha={hashlib.sha256(content).hexdigest()}"
    return [f"{tag} {number}/{len(parts)} {head}\n{part}" for number, part in enumerate(parts, 1)]


async def _post(carrier: Carrier, to: str, body: str) -> None:
    """Send a piece, however long the bus wants that to take."""
    while True:
        try:
            return await carrier.post(to, body)
        except RateLimited as error:
            wait = error.data.get("retry_after")
            if not isinstance(wait, int):
                raise
            print(f"# waiting {wait} s: the bus limits how fast one may send", file=sys.stderr, flush=True)
            await event_loop.sleep(wait)


# -- receiving -----------------------------------------------------------------------


async def recv_file(options: argparse.Namespace, config: Config) -> int:
    """Put a file together from the pieces that came, and write it."""
    tag = drafts.check_tag(options.tag)
    path = _destination(options.out, tag)
    async with AsyncExitStack() as stack:
        carrier = await _carrier(options, config, stack)
        parcel = chosen(await carrier.pieces(tag), tag, options.sender)
        content = await event_loop.aside(unpacked, parcel)
        private_files.save(path, content, replace=options.force)
        await carrier.received(parcel)
    document = {"path": str(path), "size": len(content), "sha256": parcel.sha256, "from": parcel.sender}
    size = text.plural(len(content), "byte")
    show(options, document, f"{text.path(str(path))}: {size} from {text.name(parcel.sender)}, sha256 {parcel.sha256}")
    return 0


def _destination(out: str, tag: str) -> Path:
    if not out and (tag.startswith(".") or re.search(r'[/\\:*?"<>|]', tag)):
        raise InvalidInput(f"tag {tag!a} is no name for a file: say with --out where to write")
    path = Path(out or tag)
    if path.is_dir():
        raise InvalidInput(f"{text.path(str(path))} is a folder: name the file with --out")
    return path


def piece(tag: str, sender: str, body: str, message: int = 0) -> Piece | None:
    """The piece in a message; None if it holds none of this tag."""
    head = _HEAD.match(body.replace("\r\n", "\n"))
    if not head or head[1] != tag:
        return None
    number, of = int(head[2]), int(head[3])
    if not 1 <= number <= of <= drafts.MAX_CHUNKS:
        return None
    return Piece(sender, number, of, head[4].lower(), body.replace("\r\n", "\n")[head.end() :], message)


def chosen(pieces: Iterable[Piece], tag: str, sender: str) -> Parcel:
    """The one complete file with this tag: the newest of its sender.

    Raises `NotFound` if none is complete, and `InvalidInput` if several senders have one each.
    """
    parcels = [parcel for parcel in _parcels(pieces) if sender in ("", parcel.sender)]
    whole = [parcel for parcel in parcels if not parcel.missing]
    if not whole:
        raise NotFound(_lacking(parcels, tag))
    if len({parcel.sha256 for parcel in whole}) > 1 and len(senders := {parcel.sender for parcel in whole}) > 1:
        names = ", ".join(sorted(map(text.name, senders)))
        raise InvalidInput(f"several senders sent different files as '{tag}' ({names}): choose one with --from")
    return whole[-1]


def _parcels(pieces: Iterable[Piece]) -> list[Parcel]:
    """The files that the pieces belong to, the one with the newest piece last. A piece that comes again replaces."""
    found: dict[tuple[str, int, str], Parcel] = {}
    for one in pieces:
        key = (one.sender, one.of, one.sha256)
        parcel = found.pop(key, None) or Parcel(*key)
        parcel.data[one.number] = one.data
        parcel.messages.append(one.message)
        found[key] = parcel
    return list(found.values())


def _lacking(parcels: list[Parcel], tag: str) -> str:
    if not parcels:
        return f"no piece of '{tag}' has come to you"
    last = parcels[-1]
    missing = ", ".join(map(str, last.missing[:10])) + (", ..." if len(last.missing) > 10 else "")
    return (
        f"of '{tag}' from '{text.name(last.sender)}' {len(last.data)} of {last.of} pieces have come; missing: {missing}"
    )


def unpacked(parcel: Parcel) -> bytes:
    """The file; raises `InvalidInput` if the pieces do not make the one that the sender had."""
    data = "".join("".join(parcel.data[number].split()) for number in range(1, parcel.of + 1))
    try:
        content = _inflated(base64.b64decode(data, validate=True))
    except (binascii.Error, zlib.error, EOFError, ValueError):
        raise InvalidInput("the pieces are damaged: they are no gzip in base64; have it sent again") from None
    if hashlib.sha256(content).hexdigest() != parcel.sha256:
        raise InvalidInput("the pieces are damaged: their sha256 is not what the sender named; have it sent again")
    return content


def _inflated(data: bytes) -> bytes:
    """The unpacked content; no more than `MAX_FILE_BYTES` of it is unpacked."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    content = stream.decompress(data, drafts.MAX_FILE_BYTES + 1)
    if len(content) > drafts.MAX_FILE_BYTES:
        raise _too_large()
    if not stream.eof or stream.unused_data:
        raise EOFError
    return content
