"""`claude-bus inbox`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

from .. import documents, drafts, fence, files, limits, text
from ..config import Config
from ..connect import open_for_command
from ..errors import BusError
from ..model.messages import HandOver, Message
from ..sql import deliveries, listeners
from ..sql.deliveries import PRINTED
from . import printing
from .identity import Speaker, speaker
from .output import document, local

_LOOK_EVERY = 2.0
"""Seconds after which a waiting `inbox` looks by itself, should a notice get lost."""


async def inbox(options: argparse.Namespace, config: Config) -> int:
    """Print unread messages. Printed messages count as read, except in a session's shell:

    there the model's next answer proves it, and once it is printed the session's server
    sees to that. Killed before, this process leaves it unread.
    """
    if options.wait:
        limits.check_seconds(options.wait, "--wait", drafts.MAX_TTL)
    async with open_for_command(config) as bus:
        who = await speaker(bus, config, os.environ, options.as_name)
        found = await _hand_over(who, options)
        if options.wait and not (found.messages or found.pending):
            found = await _wait(who, options)
        found = replace(found, messages=await files.examined(found.messages))
        if shown := _shown(who, found, options):
            print(shown)
        if options.oneline and not options.json and (more := _more(found, peeked=options.peek)):
            print(more, file=sys.stderr)
        sys.stdout.flush()
        if options.peek:
            return 0
        try:
            await _printed(who, [message.id for message in found.messages])
        except BusError as error:  # what is printed is a whole answer already: nothing may follow it there
            print(f"claude-bus: {error.message}; what was printed may come again, marked", file=sys.stderr)
            return error.exit_status
    return 0


async def _printed(who: Speaker, messages: list[int]) -> None:
    """Say what becomes of the messages, now that they are shown."""
    if not who.session:
        await who.bus.run(deliveries.confirm, who.me, messages)
    elif server := await who.bus.run(listeners.server_of, who.session.client):
        await who.bus.run(deliveries.transfer, who.me, messages, server)


async def _hand_over(who: Speaker, options: argparse.Namespace) -> HandOver:
    if who.session:
        return await _hand_over_in_shell(who, options)
    found = await _next(who, options, max_chars=text.INBOX_LIMIT)
    if found.pending and not found.messages:  # one that is too long for a tool's answer
        return await _next(who, options, max_chars=limits.MAX_ANSWER, limit=1)
    return found


async def _next(who: Speaker, options: argparse.Namespace, *, max_chars: int, limit: int = 100) -> HandOver:
    return await who.bus.run(
        deliveries.hand_over,
        who.me,
        via=PRINTED,
        max_chars=max_chars,
        limit=limit,
        at_least_one=True,
        peek=options.peek,
    )


async def _hand_over_in_shell(who: Speaker, options: argparse.Namespace) -> HandOver:
    """As many messages as the client shows of what a command prints, which may be none."""
    room = _room_in_shell(os.environ)

    async def take(count: int, *, peek: bool) -> HandOver:
        return await who.bus.run(
            deliveries.hand_over, who.me, via=PRINTED, limit=count, max_chars=text.SHELL_BYTES, peek=peek
        )

    def size(messages: tuple[Message, ...]) -> int:
        return len(_shown(who, HandOver(messages, 0), options).encode(errors="replace"))

    looked = await take(100, peek=True)
    sizes = accumulate(size((message,)) for message in looked.messages)
    count = sum(together <= room for together in sizes)
    if options.peek or not count:
        return replace(looked, messages=looked.messages[:count])
    found = await take(count, peek=False)
    if size(found.messages) <= room:
        return found
    await who.bus.run(
        deliveries.withdraw, who.me, [message.id for message in found.messages]
    )  # others came first, meanwhile
    return HandOver((), found.pending + len(found.messages))


def _room_in_shell(env: Mapping[str, str]) -> int:
    """Bytes that the client shows of what a command prints; its user may have asked for fewer."""
    asked = env.get("BASH_MAX_OUTPUT_LENGTH", "")
    return min(text.SHELL_BYTES, max(0, int(asked) - 1_000)) if asked.isdecimal() else text.SHELL_BYTES


async def _wait(who: Speaker, options: argparse.Namespace) -> HandOver:
    """The first mail that comes within `--wait` seconds, or none."""
    end = time.monotonic() + options.wait
    async with who.bus.notice_socket() as notice_socket:
        await who.bus.run(listeners.listen_for, notice_socket.address, who.me)
        try:
            while True:
                found = await _hand_over(who, options)
                left = end - time.monotonic()
                if found.messages or found.pending or left <= 0:
                    return found
                await notice_socket.heard(min(left, _LOOK_EVERY))
        finally:
            await who.bus.run(listeners.unlisten, notice_socket.address)


def _shown(who: Speaker, found: HandOver, options: argparse.Namespace) -> str:
    """A hand-over as it is printed: JSON, a line each, or their text; for a model in its fence, as hooks put it."""
    if options.json:
        return document(documents.mail(found))
    if options.oneline:
        return "\n".join(map(printing.mail_line, found.messages))
    if who.session:
        return _fenced(found, peeked=options.peek) or f"no messages for {who.me.name}"
    return _mail_text(found, who.me.name, _more(found, peeked=options.peek))


def _fenced(found: HandOver, *, peeked: bool) -> str:
    label = os.urandom(len(fence.SAMPLE_LABEL) // 2).hex()
    left = found.pending - (len(found.messages) if peeked else 0)
    blocks = [fence.message_block(message, label) for message in found.messages]
    return text.mail(blocks, left)


def _more(found: HandOver, *, peeked: bool) -> str:
    """The words for unread mail that is not shown; peeked mail stays unread as well."""
    more = found.pending - (len(found.messages) if peeked else 0)
    return f"{text.plural(more, 'more message')} waiting" if more > 0 else ""


def _mail_text(found: HandOver, me: str, more: str) -> str:
    if not found.messages:
        return f"no messages for {me}"
    blocks = [printing.printed_message(message, local) for message in found.messages]
    return "\n\n".join([*blocks, more] if more else blocks)
