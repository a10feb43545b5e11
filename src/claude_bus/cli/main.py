"""The command line: arguments, dispatch, exit status.

Exit status: 0 done; 1 unexpected, or `doctor` found a problem; 2 bad input; 3 not
found; 4 refused because somebody else was first; 5 the store failed; 130 interrupted.
With `--json` the only thing on stdout is one JSON document, also for an error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from .. import __version__, rows, rules, text
from ..config import Config
from ..errors import EXIT_STATUS, BusError, InvalidInput
from ..model import KINDS, Agent, Draft, HandOver, Kind

_DESCRIPTION = (
    "A shared bus for Claude Code sessions, scripts and people. "
    "Without a command: the MCP server if stdin is a pipe, else who is here."
)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit status."""
    parser = _parser()
    options = _parse(parser, arguments)
    try:
        config = _config(options)
        if options.command is None and not sys.stdin.isatty():
            from ..mcp.stdio import serve

            serve(config)
            return 0
        return _run(options, config, parser)
    except BusError as error:
        _complain(error, options.json)
        return EXIT_STATUS.get(error.code, 1)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - the reader left; say nothing more
        return 1
    except KeyboardInterrupt:
        return 130


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Also `send bob --kind fyi text`: argparse gives an optional word up at the first option before it."""
    options, rest = parser.parse_known_args(arguments)
    if options.command == "send" and options.content == "-" and rest and not rest[0].startswith("-"):
        options.content = rest.pop(0)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def _parser() -> argparse.ArgumentParser:
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument(
        "--as",
        dest="as_name",
        default="",
        metavar="NAME",
        help="speak as NAME (default: this session, BUS_NAME, or your login)",
    )

    parser = argparse.ArgumentParser(prog="claude-bus", description=_DESCRIPTION, parents=[_shared()])
    parser.add_argument("--version", action="version", version=f"claude-bus {__version__}")
    parser.set_defaults(command=None, json=False, db="", channel="")
    commands = parser.add_subparsers(title="commands", metavar="")

    send = commands.add_parser("send", parents=[_shared(), named], help="send a message")
    send.add_argument("to", help="a name, 'all', a glob, name@channel; several separated by commas")
    send.add_argument("content", nargs="?", default="-", help="the text; '-' or nothing reads stdin")
    send.add_argument("--reply-to", type=int, metavar="ID")
    send.add_argument("--kind", choices=("message", "request", "fyi"), default="message")
    send.add_argument("--urgent", action="store_true", help="a broadcast wakes idle sessions too")
    send.add_argument("--key", default="", help="send once, however often this is repeated with the same key")
    send.set_defaults(command="send")

    inbox = commands.add_parser("inbox", parents=[_shared(), named], help="read your messages")
    inbox.add_argument("--peek", action="store_true", help="leave them unread")
    inbox.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait for the first message")
    inbox.set_defaults(command="inbox")

    agents = commands.add_parser("agents", parents=[_shared()], help="who is on the bus")
    agents.set_defaults(command="agents")
    doctor = commands.add_parser("doctor", parents=[_shared()], help="check that everything is in order")
    doctor.set_defaults(command="doctor")
    return parser


def _shared() -> argparse.ArgumentParser:
    """The options that go before or after the command. Unless given they set nothing."""
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--json", action="store_true", help="print one JSON document")
    shared.add_argument("--db", help="the database file (default: BUS_DB, or ~/.claude-bus/bus.db)")
    shared.add_argument("--channel", help="the channel (default: BUS_CHANNEL, or 'default')")
    return shared


def _config(options: argparse.Namespace) -> Config:
    given = {"BUS_DB": options.db, "BUS_CHANNEL": options.channel}
    return Config.from_env({**os.environ, **{k: v for k, v in given.items() if v}}, Path.home())


def _complain(error: BusError, as_json: bool) -> None:
    if as_json:
        print(json.dumps(error.as_dict(), ensure_ascii=False, default=str))
    else:
        print(f"claude-bus: {error.message}", file=sys.stderr)


def _run(options: argparse.Namespace, config: Config, parser: argparse.ArgumentParser) -> int:
    import asyncio

    status = asyncio.run(COMMANDS.get(options.command, _status)(options, config))
    if options.command is None and not options.json:
        print()
        parser.print_help()
    return status


# -- commands ---------------------------------------------------------------------


async def _send(options: argparse.Namespace, config: Config) -> int:
    from ..bus import open_bus
    from .identity import speaker

    draft = Draft(
        to=tuple(name for name in options.to.split(",") if name.strip()),
        content=_content(options.content),
        kind=_kind(options.kind),
        reply_to=options.reply_to,
        urgent=options.urgent,
        key=options.key,
    )
    bus = open_bus(config)
    try:
        rules.check_draft(draft)
        who = await speaker(bus, config, os.environ, options.as_name)
        outcome = await who.bus.send(who.me, draft)
    finally:
        await bus.close()
    _print(options, rows.sent(outcome), text.sent(outcome, time.time()))
    return 0


def _content(given: str) -> str:
    if given != "-":
        return given
    if sys.stdin.isatty():
        print("Type the message, then Ctrl-D:", file=sys.stderr)
    try:
        return sys.stdin.buffer.read(rules.MAX_CONTENT_BYTES + 1).decode().rstrip("\n")
    except UnicodeDecodeError:
        raise InvalidInput("stdin is not UTF-8 text; send the path of the file instead") from None


def _kind(name: str) -> Kind:
    return next(kind for kind in KINDS if kind == name)


async def _inbox(options: argparse.Namespace, config: Config) -> int:
    from ..bus import open_bus
    from .identity import speaker

    bus = open_bus(config)
    try:
        who = await speaker(bus, config, os.environ, options.as_name)
        found = await _read(who.bus, who.me, options)
        _print(options, rows.mail(found), _mail_text(found, who.me.name))
        sys.stdout.flush()
        if not options.peek and not who.session:
            # Printed is read. In a session's shell it is not: there the model's next
            # answer proves it, and the session's server sees to that.
            await bus.confirm(who.me, [message.id for message in found.messages])
    finally:
        await bus.close()
    return 0


async def _read(bus: Any, me: Any, options: argparse.Namespace) -> HandOver:
    """The unread mail; with `--wait`, as soon as there is some."""
    end = time.monotonic() + options.wait
    async with bus.ear() as ear:
        await bus.listen(ear.address, "")
        try:
            while True:
                found: HandOver = await bus.hand_over(
                    me, via="command line", max_chars=text.INBOX_LIMIT, at_least_one=True, peek=options.peek
                )
                left = end - time.monotonic()
                if found.messages or left <= 0:
                    return found
                await ear.heard(min(left, 2.0))
        finally:
            await bus.unlisten(ear.address)


def _mail_text(found: HandOver, me: str) -> str:
    if not found.messages:
        return f"no messages for {me}" + (f" ({found.pending} pending)" if found.pending else "")
    blocks = [text.letter(message) for message in found.messages]
    rest = [text.plural(found.pending, "more message") + " waiting"] if found.pending else []
    return "\n\n".join([*blocks, *rest])


async def _agents(options: argparse.Namespace, config: Config) -> int:
    found = await _present(config)
    _print(options, {"agents": [rows.agent(a, "", time.time()) for a in found]}, _agents_text(found))
    return 0


async def _status(options: argparse.Namespace, config: Config) -> int:
    found = await _present(config) if config.db.exists() else []
    here = [agent for agent in found if agent.status != "offline"]
    summary = {"version": __version__, "db": str(config.db), "channel": config.channel}
    line = f"claude-bus {__version__} on {config.db}, channel '{config.channel}'"
    _print(
        options, {**summary, "agents": [rows.agent(a, "", time.time()) for a in here]}, f"{line}\n{_agents_text(here)}"
    )
    return 0


async def _present(config: Config) -> list[Agent]:
    from ..bus import open_bus

    bus = open_bus(config)
    try:
        return await bus.agents(config.channel)
    finally:
        await bus.close()


def _agents_text(found: list[Agent]) -> str:
    if not found:
        return "nobody is on the bus"
    now = time.time()
    cells = [
        (a.name, a.status, f"{text.ago(now - a.last_seen)} ago", a.role, a.cwd + (f" ({a.branch})" if a.branch else ""))
        for a in found
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    return "\n".join(
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[4]]).rstrip()
        for row in cells
    )


async def _doctor(options: argparse.Namespace, config: Config) -> int:
    from .doctor import examine, table

    findings = examine(config, os.environ)
    fine = all(finding.ok is not False for finding in findings)
    checks = [{"name": f.name, "ok": f.ok, "detail": f.detail} for f in findings]
    _print(options, {"ok": fine, "checks": checks}, table(findings))
    return 0 if fine else 1


COMMANDS: dict[str, Callable[[argparse.Namespace, Config], Coroutine[Any, Any, int]]] = {
    "send": _send,
    "inbox": _inbox,
    "agents": _agents,
    "doctor": _doctor,
}
"""The commands: each prints its outcome and returns the exit status."""


def _print(options: argparse.Namespace, document: dict[str, Any], plain: str) -> None:
    print(json.dumps(document, ensure_ascii=False) if options.json else plain)
