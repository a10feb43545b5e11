"""The commands. Each prints its outcome and returns the exit status."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from .. import __version__, addresses, documents, drafts, fence, files, limits, spelling, text, worktree
from ..compat.cli.post import other_bus, post
from ..config import Config
from ..connect import open_bus
from ..errors import BusError, Unreachable
from ..model.identity import Agent
from ..model.messages import KINDS, Draft, HandOver, Message
from ..sql import agents as sql_agents
from ..sql import deliveries, listeners, messages
from ..sql.deliveries import PRINTED
from ..workspace import Workspace
from . import printing
from .content import content
from .doctor import examine, table
from .guard import guard
from .identity import Speaker, speaker
from .output import document, local, show
from .settings import home
from .tokens import token

_LOOK_EVERY = 2.0
"""Seconds after which a waiting `inbox` looks by itself, should a notice get lost."""


async def send(options: argparse.Namespace, config: Config) -> int:
    """Send a message as whoever the command speaks as; or to the bus that AGENT_BUS_URL names."""
    if settings := other_bus(options):
        return await post(options, settings)
    draft = drafts.check_draft(
        Draft(
            to=spelling.recipients(options.to),
            content=content(options, files=bool(options.file)).rstrip("\n"),
            kind=next(kind for kind in KINDS if kind == options.kind),
            reply_to=options.reply_to,
            urgent=options.urgent,
            key=options.key,
            files=await Workspace(worktree.folder(worktree.here(os.environ))).measured(options.file or ()),
            allow_secret=options.allow_secret,
        )
    )
    async with open_bus(config) as bus:
        who = await speaker(bus, config, os.environ, options.as_name)
        try:
            outcome = await who.bus.run(messages.send, who.me, draft)
        except Unreachable as error:
            if not error.data["sent"]:
                raise
            said = f"{error.message} if it goes with --key {error.data['key']}"  # the next process knows of no other
            raise Unreachable(said, **error.data) from None
    show(options, documents.sent(outcome), text.sent(outcome, time.time(), local))
    return 0


async def inbox(options: argparse.Namespace, config: Config) -> int:
    """Print unread messages. Printed messages count as read, except in a session's shell:

    there the model's next answer proves it, and once it is printed the session's server
    sees to that. Killed before, this process leaves it unread.
    """
    if options.wait:
        limits.check_seconds(options.wait, "--wait", drafts.MAX_TTL)
    async with open_bus(config) as bus:
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
    label = secrets.token_hex(len(fence.SAMPLE_LABEL) // 2)
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


async def agents(options: argparse.Namespace, config: Config) -> int:
    """List who takes part, and who did within a week; with --all also who was there before."""
    found, now = await _present(config), time.time()
    told = [agent for agent in found if options.all or not addresses.is_gone(agent, now)]
    gone = len(found) - len(told)
    rest = f"\n{text.plural(gone, 'name')} not seen for a week: claude-bus agents --all" if gone else ""
    document = {"agents": _agent_rows(told), **({"not_seen_for_a_week": gone} if gone else {})}
    show(options, document, _agents_text(told) + rest)
    return 0


async def show_status(options: argparse.Namespace, config: Config) -> int:
    """Which bus this is, and who is here now. Creates nothing."""
    found = await _present(config) if config.url or config.db.exists() else []
    here = [agent for agent in found if agent.status != "offline"]
    where = {"url": config.shown_url} if config.url else {"db": str(config.db)}
    document = {"version": __version__, **where, "channel": config.channel, "agents": _agent_rows(here)}
    head = f"claude-bus {__version__} on {config.shown_url or config.db}, channel '{config.channel}'"
    show(options, document, f"{head}\n{_agents_text(here)}")
    return 0


async def _present(config: Config) -> list[Agent]:
    async with open_bus(config) as bus:
        return await bus.run(sql_agents.listing, config.channel)


def _agent_rows(found: list[Agent]) -> list[dict[str, Any]]:
    now = time.time()
    return [documents.agent(agent, "", now) for agent in found]


def _agents_text(found: list[Agent]) -> str:
    if not found:
        return "nobody is on the bus"
    return printing.columns([_agent_cells(agent, time.time()) for agent in found])


def _agent_cells(agent: Agent, now: float) -> tuple[str, ...]:
    place = f"{agent.cwd} ({agent.branch})" if agent.branch else agent.cwd
    return agent.name, agent.status, f"{text.ago(now - agent.last_seen)} ago", agent.role, place


async def doctor(options: argparse.Namespace, config: Config) -> int:
    """Check everything; 1 if something is wrong."""
    findings = await examine(config, os.environ, home() or Path(os.sep), worktree.here(os.environ))
    fine = all(finding.ok is not False for finding in findings)
    checks = [{"name": f.name, "ok": f.ok, "detail": f.detail} for f in findings]
    show(options, {"ok": fine, "checks": checks}, table(findings))
    return 0 if fine else 1


COMMANDS: dict[str, Callable[[argparse.Namespace, Config], Coroutine[Any, Any, int]]] = {
    "send": send,
    "inbox": inbox,
    "agents": agents,
    "doctor": doctor,
    "guard": guard,
    "token": token,
}
