"""The command line: arguments, dispatch, exit status.

Exit status: 0 done; 1 unexpected, or `doctor` found a problem; 2 bad input; 3 not
found; 4 refused because another agent was first; 5 the store failed; 86 `guard check`
refuses a commit; 130 interrupted.
With `--json`, stdout contains nothing but one JSON document, even for an error.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from .. import __version__, event_loop
from ..compat.cli import arguments
from ..config import Config, Serving
from ..errors import BusError, InvalidInput
from ..quoting import visible
from .output import document, prepare
from .settings import home
from .subcommands import Subcommands, Unmeasured, nothing

_DESCRIPTION = (
    "A shared bus for Claude Code sessions, scripts and people. "
    "Without a command: the MCP server if stdin is a pipe, else who is here."
)


_SEND = (
    "Send a message. If AGENT_BUS_URL is set, it goes to that bus as AGENT_NAME, and its server's answer is printed. "
    "With --as, --db, --reply-to, --kind, --urgent, --key or --file it goes to our own bus, which alone has these."
)
_DOCTOR = (
    "Check program, database, Claude Code and commit hook. PROBLEM marks what is wrong and says what to do about it; "
    "-- marks facts. The exit status is 1 if there is a problem."
)
_SETUP = (
    "Register the MCP server 'bus' with Claude Code for all your projects, and add its hooks and the command /bus. It "
    "shows what it will do and asks first. Repeating it mends an installation."
)
_GUARD = (
    "A pre-commit hook for the repository of this folder. It refuses a commit with a file that another session claims; "
    "whatever else happens, the commit goes through. `git commit --no-verify` skips it."
)
_SERVE = (
    "Serve the bus to other machines and programs: BUS_URL of claude-bus, MCP at /mcp, a REST API at /v1. Without an "
    "address only this machine reaches it. See also: claude-bus token."
)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of writing that have causes outside of this program."""


class _Unusable(Exception):
    """A command line that is not valid."""

    def __init__(self, problem: str, usage: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.usage = usage


class _Parser(argparse.ArgumentParser):
    """argparse's parser, except that the caller reports a problem."""

    def error(self, message: str) -> NoReturn:
        raise _Unusable(message, f"{self.format_usage()}{self.prog}: error: {message}")


def run(words: Sequence[str]) -> int:
    """Run one command line; return the exit status."""
    prepare()
    parser = build_parser(words)
    try:
        options = _parse(parser, words)
    except _Unusable as error:
        if "--json" in words:
            print(document(InvalidInput(error.problem).as_dict()))
        else:
            print(error.usage, file=sys.stderr)
        return InvalidInput.exit_status
    try:
        status = _done(options, parser)
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        _say_no_more()
        return 1
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            print(f"claude-bus: {error.strerror}: close some, or raise the limit (ulimit -n)", file=sys.stderr)
            return 1
        if not (_stdout_fails() or error.errno in _FULL):
            raise
        _say_no_more()
        print(f"claude-bus: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _done(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Run the command; report a refusal and return its exit status."""
    try:
        if options.command == "setup":  # works with any BUS_* settings, and without third-party packages
            from .setup import setup

            return setup(options, os.environ, _needed_home())
        config = _config(options)
        if options.command is None and sys.stdin and not sys.stdin.isatty():
            from .start import supervised

            supervised(lambda: _serving_stdio(config))
        if options.command in ("stdio", "serve"):
            return _serve(options, config)
        return _run(options, config, parser)
    except BusError as error:
        _complain(error, options.json)
        return error.exit_status


def _stdout_fails() -> bool:
    """Return whether the printed output cannot be written; it stays in the buffer."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        return True
    return False


def _say_no_more() -> None:
    """Discard the rest of the output, so that the end of the process does not try to write it again."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for as long as the process lasts


def _parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse also `send bob --kind fyi text`: argparse drops an optional word at the first option before it."""
    options, rest = parser.parse_known_args(words)
    if options.command == "send" and options.content == "-" and rest and not rest[0].startswith("-"):
        options.content = rest.pop(0)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def build_parser(words: Collection[str] | None = None) -> argparse.ArgumentParser:
    """Every command and option; the reference of the documentation is made from it.

    With the words of a command line, the commands that are not among them have no options: no more is needed to
    parse it, or to show the usage or the help.
    """
    parser: argparse.ArgumentParser = _Parser(
        prog="claude-bus", description=_DESCRIPTION, parents=[_shared()], formatter_class=Unmeasured
    )
    parser.add_argument("--version", action="version", version=f"claude-bus {__version__}")
    parser.set_defaults(command=None, json=False, db="", channel="")
    commands = Subcommands(parser, words)
    shared = _shared()
    named = argparse.ArgumentParser(add_help=False, formatter_class=Unmeasured)
    named.add_argument(
        "--as",
        dest="as_name",
        default="",
        metavar="NAME",
        help="speak as NAME (default: this session, BUS_NAME, or your login)",
    )
    parents = [shared, named]
    commands.add("send", _add_send, parents, "send a message", _SEND)
    commands.add("inbox", _add_inbox, parents, "read your messages")
    commands.add("agents", _add_agents, [shared], "who is on the bus")
    commands.add("doctor", nothing, [shared], "check that everything is in order", _DOCTOR)
    commands.add("setup", _add_setup, [shared], "tell Claude Code about the bus, or take it back", _SETUP)
    commands.add("guard", _add_guard, [shared], "check claims when git commits", _GUARD)
    arguments.add(commands, shared, named)
    commands.add("serve", _add_serve, [shared], "serve the bus over HTTP", _SERVE)
    commands.add("token", _add_token, [], "who may use the bus over HTTP")
    commands.add("stdio", nothing, [shared], "the MCP server without the parent that restarts it")
    commands.finish()
    return parser


def _add_send(send: argparse.ArgumentParser) -> None:
    send.add_argument("to", help="a name, 'all', a glob, name@channel; several separated by commas")
    send.add_argument("content", nargs="?", default="-", help="the text; '-' or nothing reads stdin")
    send.add_argument("--reply-to", type=int, metavar="ID", help="the message that this one answers")
    send.add_argument(
        "--kind",
        choices=("message", "request", "fyi"),
        default="message",
        help="request: an answer is expected; fyi: wakes nobody (default: message)",
    )
    send.add_argument("--urgent", action="store_true", help="a broadcast wakes idle sessions too")
    send.add_argument("--key", default="", help="send once, however often this is repeated with the same key")
    send.add_argument("--file", action="append", default=[], metavar="PATH", help="name a file; may be repeated")
    send.add_argument("--allow-secret", action="store_true", help="send text that looks like a secret anyway")


def _add_inbox(inbox: argparse.ArgumentParser) -> None:
    inbox.add_argument("--peek", action="store_true", help="leave them unread")
    inbox.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait for the first message")
    inbox.add_argument("--oneline", action="store_true", help="one line per message; no output without messages")


def _add_agents(agents: argparse.ArgumentParser) -> None:
    agents.add_argument("--all", action="store_true", help="also names not seen for a week")


def _add_setup(setup: argparse.ArgumentParser) -> None:
    setup.add_argument("--remove", action="store_true", help="remove all that setup added")
    setup.add_argument("--yes", action="store_true", help="ask nothing: for scripts")
    setup.add_argument(
        "--permissions",
        choices=("yes", "no", "ask"),
        help="whether sessions may use the bus's tools without asking (default: ask; with --yes: yes)",
    )
    setup.add_argument("--place", default="", help=argparse.SUPPRESS)  # of install_claude_bus.sh --uninstall


def _add_guard(guard: argparse.ArgumentParser) -> None:
    guard.add_argument(
        "action", choices=("install", "uninstall", "check"), help="add the hook, remove it, or do what it does"
    )


def _add_serve(serve: argparse.ArgumentParser) -> None:
    for name, (variable, what) in SERVING.items():
        serve.add_argument(
            f"--{name}", default="", metavar=name.rsplit("-", 1)[-1].upper(), help=f"{what} ({variable})"
        )
    serve.add_argument("--recv-default-channel", action="store_true", help="/recv without channel reads 'default' only")
    serve.add_argument("-v", "--verbose", action="count", default=0, help="log a line for each request; -vv: more")


def _add_token(token: argparse.ArgumentParser) -> None:
    actions = token.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    shared = _shared()

    create = actions.add_parser("create", parents=[shared], help="make a token and print its secret once")
    create.add_argument("owner", help="the person or machine it belongs to")
    create.add_argument("--names", default="", help="names it may use, separated by commas (default: OWNER,OWNER-*)")
    create.add_argument("--channels", default="", help="channels it may use, separated by commas (default: 'default')")
    create.add_argument("--ttl", default="", help="how long it is valid, such as 30d (default: until it is revoked)")
    create.add_argument("--out", default="", metavar="FILE", help="write the secret to a new file (0600) instead")

    create.add_argument(
        "--in-url",
        action="store_true",
        help="may be part of an address (https://host/t/SECRET/send), for clients that can send it nowhere else: "
        "weaker, and only for the wire protocols of the two earlier systems",
    )
    listing = actions.add_parser("list", parents=[shared], help="the valid tokens, without their secrets")
    listing.add_argument("--all", action="store_true", help="also those that were revoked or have expired")

    revoke = actions.add_parser("revoke", parents=[shared], help="end tokens at once")
    revoke.add_argument("ids", nargs="+", type=int, metavar="ID", help="as 'token list' shows it")


def _shared() -> argparse.ArgumentParser:
    """Return the options that may go before or after the command. They set nothing unless given."""
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS, formatter_class=Unmeasured)
    shared.add_argument("--json", action="store_true", help="print one JSON document")
    shared.add_argument("--db", help="the database file (default: BUS_DB, or ~/.claude-bus/bus.db)")
    shared.add_argument("--channel", help="the channel (default: BUS_CHANNEL, or 'default')")
    return shared


SERVING = {
    "host": ("BUS_HOST", "address to listen at; any but loopback needs a token"),
    "port": ("BUS_PORT", "port, 8765 unless given; 0 for a free one"),
    "prefix": ("BUS_PREFIX", "path under which everything is served"),
    "allow-hosts": ("BUS_ALLOWED_HOSTS", "names by which clients reach this server, separated by commas"),
    "allow-origins": ("BUS_ALLOWED_ORIGINS", "origins whose browser pages may call, separated by commas"),
    "tls-cert": ("BUS_TLS_CERT", "file with the certificate chain"),
    "tls-key": ("BUS_TLS_KEY", "file with its key"),
    "connections": ("BUS_CONNECTIONS", "requests of one token in flight at once"),
    "requests": ("BUS_REQUESTS", "requests of one token per minute"),
}
"""Options of `serve` that set a variable."""


def _serving(options: argparse.Namespace) -> Serving:
    given = {variable: getattr(options, name.replace("-", "_")) for name, (variable, _) in SERVING.items()}
    given["BUS_RECV_CHANNEL"] = "default" if options.recv_default_channel else ""
    serving = Serving.from_env({**os.environ, **{k: v for k, v in given.items() if v}}, home())
    return replace(serving, verbose=options.verbose)


def _config(options: argparse.Namespace) -> Config:
    """Return the settings. A database named on the command line takes precedence over BUS_URL."""
    given = {"BUS_DB": _whole(options.db), "BUS_CHANNEL": options.channel}
    env = {**os.environ, **{k: v for k, v in given.items() if v}, **({"BUS_URL": ""} if options.db else {})}
    return Config.from_env(env, home())


def _needed_home() -> Path:
    """Return the home folder, where Claude Code keeps its files."""
    found = home()
    if found is None:
        raise InvalidInput(
            "this user has no home folder, where Claude Code keeps its files: set HOME to its whole path"
        )
    return found


def _whole(db: str) -> str:
    """Return the path that `--db` names; as in every command, a relative one starts from the working directory."""
    if not db or db.startswith(("~", "$", ":")) or ":/" in db:
        return db
    try:
        return str(Path(db).absolute()) + ("/" if db.endswith("/") else "")
    except OSError:
        raise InvalidInput(f"--db {db!a} is relative to a folder that no longer exists: give the whole path") from None


def _complain(error: BusError, as_json: bool) -> None:
    if error.code == "store_read_only":
        from ..claude_code import in_sandbox

        if in_sandbox(os.environ):
            error.message += (
                ". This shell is in Claude Code's sandbox: have the user add that folder to "
                "sandbox.filesystem.allowWrite in the client's settings, or use the bus's tools instead"
            )
    if as_json:
        print(document(error.as_dict()))
    else:
        print(f"claude-bus: {visible(error.message)}", file=sys.stderr)  # it may quote what peers wrote


def _serving_stdio(config: Config) -> int:
    from ..mcp.stdio import serve

    serve(lambda: config)
    return 0


def _serve(options: argparse.Namespace, config: Config) -> int:
    if options.command == "stdio":
        return _serving_stdio(config)
    _serve_http(options, config)
    return 0


def _serve_http(options: argparse.Namespace, config: Config) -> None:
    serving = _serving(options)
    try:
        from ..http.serve import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__name__.partition(".")[0]):
            raise
        from ..extras import missing

        raise missing("serve", "serve") from None
    serve(config, serving)


def _run(options: argparse.Namespace, config: Config, parser: argparse.ArgumentParser) -> int:
    from .commands import command, waits

    work = command(options.command)
    if waits(options, config, os.environ):
        import asyncio

        with asyncio.Runner() as runner:
            runner.get_loop()  # first, so that no coroutine is left unawaited if the loop cannot be created
            status = runner.run(work(options, config))
    else:
        status = event_loop.run_without(work(options, config))
    if options.command is None and not options.json:
        print()
        parser.print_help()
    return status
