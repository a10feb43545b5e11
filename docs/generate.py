"""Write the reference's tables into its pages, from the declarations they describe.

    python docs/generate.py            brings every page up to date
    python docs/generate.py --check    names the pages that are not, and exits with 1

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; `PARTS` says what
belongs there. `tests/project/test_docs.py` runs the check, so a page cannot fall behind.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

from fastapi.openapi.utils import get_openapi
from pydantic_core import PydanticUndefined

from claude_bus import (
    addresses,
    claim_paths,
    config,
    drafts,
    files,
    jsonrpc,
    jsons,
    limits,
    names,
    spelling,
    state_values,
    text,
    waking,
)
from claude_bus.cli import main
from claude_bus.compat.http import messages_ack
from claude_bus.config import Serving
from claude_bus.errors import kinds
from claude_bus.http import auth, bodies, connection, quotas, rpc
from claude_bus.http.api.app import create_api
from claude_bus.http.serve import HANDSHAKE, OTHER_FILES
from claude_bus.http.service import Service
from claude_bus.mcp import participants
from claude_bus.mcp.tools import TOOLS, Tool
from claude_bus.sql.catalog import REMOTE

DOCS = Path(__file__).parent
ROOT = DOCS.parent

_PART = re.compile(r"(<!-- generated: (?P<name>[^>]+?) -->\n)(?P<text>.*?)(<!-- end -->)", re.DOTALL)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *([*row] for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


# -- tools ------------------------------------------------------------------------


def tools() -> str:
    """All tools in one table."""
    rows = ([f"[`{tool.name}`](#{tool.name})", tool.description] for tool in TOOLS.values())
    return table(["tool", "description for the model"], rows)


def tool(found: Tool) -> str:
    """One tool: how it is called, and its arguments."""
    properties: dict[str, Any] = found.schema.get("properties", {})
    if not properties:
        return "Takes no arguments.\n"
    rows = (
        [f"`{name}`", kind(properties[name]), default(field)]
        for name, field in found.arguments.model().model_fields.items()
    )
    return table(["argument", "type", "default"], rows)


def kind(schema: dict[str, Any]) -> str:
    """A JSON schema in a word or two."""
    if "anyOf" in schema:
        return " or ".join(kind(branch) for branch in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if isinstance(schema.get("type"), list):
        return "any JSON"
    if schema.get("type") == "array":
        return f"list of {kind(schema['items'])}s"
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return " ".join([str(schema.get("type", "any JSON")), *bounds])


def default(field: Any) -> str:
    """The value that holds where the argument is not given."""
    if field.is_required():
        return "**required**"
    if field.default in (None, "", PydanticUndefined):
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


# -- commands ----------------------------------------------------------------------


def _commands() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Every command with its parser and its line of help; those with actions of their own by each action."""
    found: dict[str, tuple[argparse.ArgumentParser, str]] = {}
    for name, parser, told in _below(main.build_parser()):
        actions = list(_below(parser))
        for action, inner, help_ in actions:
            found[f"{name} {action}"] = inner, help_
        if not actions:
            found[name] = parser, told
    return found


def _below(parser: argparse.ArgumentParser) -> Iterable[tuple[str, argparse.ArgumentParser, str]]:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask a parser what it knows
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            yield from ((name, inner, told.get(name, "")) for name, inner in action.choices.items())


def _word(action: argparse.Action) -> str:
    """A positional argument in the line that shows how a command is called."""
    name = "|".join(action.choices) if action.choices else str(action.metavar or action.dest).upper()
    return {"?": f"[{name}]", "+": f"{name}..."}.get(str(action.nargs), name)


def _spelling(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest).upper()
    value = "" if action.nargs == 0 else f" {_value(action)}"
    return ", ".join(f"{option}{value}" for option in action.option_strings)


def _value(action: argparse.Action) -> str:
    return "|".join(action.choices) if action.choices else str(action.metavar or action.dest).upper()


def _meaning(action: argparse.Action) -> str:
    told = (action.help or "").replace("%%", "%")
    if action.choices and not action.option_strings:
        told = f"{told}: {', '.join(f'`{choice}`' for choice in action.choices)}".removeprefix(": ")
    if action.default and action.default != argparse.SUPPRESS and "default" not in told and action.nargs != 0:
        told = f"{told} (default: {action.default})".strip()
    return told


COMMANDS = _commands()
_SHARED = {"--json", "--db", "--as"}
"""Options that mean the same wherever they are; `--channel` does in the commands that have `--json`."""


def commands() -> str:
    """All commands in one table."""
    rows = ([f"[`claude-bus {name}`](#{name.replace(' ', '-')})", told] for name, (_, told) in COMMANDS.items())
    return table(["command", "does"], rows)


def common() -> str:
    """The options that many commands have."""
    shared = [action for action in COMMANDS["send"][0]._actions if _is_shared(action, COMMANDS["send"][0])]  # noqa: SLF001
    return table(["option", "meaning"], ([f"`{_spelling(action)}`", _meaning(action)] for action in shared))


def command(name: str) -> str:
    """One command: how it is called, and the options of its own."""
    parser = COMMANDS[name][0]
    actions = [action for action in parser._actions if _is_told(action) and not _is_shared(action, parser)]  # noqa: SLF001
    words = [_word(action) for action in actions if not action.option_strings]
    call = " ".join(["claude-bus", name, *words, *(["[OPTION...]"] if len(words) < len(actions) else [])])
    rows = [[f"`{_spelling(action)}`", _meaning(action)] for action in actions]
    return f"```text\n{call}\n```\n" + (f"\n{table(['argument', 'meaning'], rows)}" if rows else "")


def _is_told(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)  # noqa: SLF001


def _is_shared(action: argparse.Action, parser: argparse.ArgumentParser) -> bool:
    known = {option for each in parser._actions for option in each.option_strings}  # noqa: SLF001
    shared = _SHARED | ({"--channel"} if "--json" in known else set())
    return bool(shared & set(action.option_strings))


# -- settings, errors, operations -----------------------------------------------------


def settings(title: str) -> str:
    """One of the tables in the docstring of `config`, which says what each variable means."""
    found = re.findall(r"((?:^\|.*\n)+)", f"{config.__doc__}\n", re.MULTILINE)
    tables: dict[str, str] = dict(zip(("all", "serve", "agent-bus"), found, strict=True))
    return tables[title]


def refusals() -> str:
    """All errors: their code, what happened, how a command exits and a server answers."""
    rows = (
        [f"`{code}`", " ".join((error.__doc__ or "").split()), str(error.exit_status), str(error.http_status)]
        for code, error in sorted(kinds().items())
    )
    return table(["code", "the case", "exit status", "HTTP status"], rows)


def operations() -> str:
    """The operations of `/v1`."""
    routes = create_api(cast(Service, None)).routes
    document = get_openapi(title="", version="", routes=routes)
    rows = (
        [f"`{method.upper()} {path}`", " ".join(operation.get("description", operation["summary"]).split())]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    return table(["operation", "does"], rows)


# -- limits -----------------------------------------------------------------------------

_HEADS = ("limited", "limit", "beyond it")


def limits_of_requests() -> str:
    """The limits of requests over HTTP."""
    serving = Serving()
    held, of_one, free = bodies.MAX_HELD >> 20, bodies.MAX_OF_TOKEN >> 20, bodies.FREE >> 10
    limited = [REMOTE[verb].rows for verb in ("listen", "watch", "announce_call")]
    notes = "; ".join(f"{rows.most:,}" for rows in limited if rows)
    rows = [
        ("request line and headers of a request", f"{connection.MAX_HEADER_BYTES >> 10} KiB", "431"),
        ("body of a request", f"{auth.MAX_BODY_BYTES >> 20} MiB", "413"),
        ("values in a JSON body; levels of lists and objects", f"{jsons.MAX_VALUES:,}; {jsons.MAX_DEPTH}", "413; 400"),
        (
            "bodies of requests under way: of one token; of all",
            f"{of_one} MiB; {held} MiB ({free} KiB of each do not count)",
            "429",
        ),
        (
            "time for a head, and between two requests",
            _seconds(connection.HEAD_PATIENCE),
            "408, or the connection ends",
        ),
        ("time for a body", _seconds(auth.BODY_PATIENCE), "408"),
        ("time without reading an answer", _seconds(connection.WRITE_PATIENCE), "the connection ends"),
        ("time for the handshake of TLS", _seconds(HANDSHAKE), "the connection ends"),
        ("connections without a request under way", f"{connection.MAX_SILENT:,}", "the longest silent one ends"),
        ("connections in all", f"the files that the process may open, less {OTHER_FILES}", "429"),
        (
            "requests under way of one token (where none is needed: of all)",
            f"`BUS_CONNECTIONS`, {serving.connections:,}",
            "429",
        ),
        (
            "requests of one token per minute (where none is needed: no limit)",
            f"`BUS_REQUESTS`, {serving.requests:,}",
            "429",
        ),
        ("requests under way of one MCP session", f"{participants.MAX_REQUESTS}", "429"),
        (
            "MCP sessions of one token; of all, also where none is needed",
            f"{participants.MAX_OF_TOKEN:,}; {participants.MAX_PARTICIPANTS:,}",
            "429",
        ),
        (
            "time until a silent MCP session without requests under way is forgotten",
            f"{participants.Patience().forgotten / 60:.0f} min",
            "404; its client opens another",
        ),
        (
            "sessions elsewhere (`BUS_URL`) of one owner's tokens, subagents with a name included",
            f"{rpc.MAX_SESSIONS:,}",
            "429",
        ),
        (
            "addresses at which programs of one owner's tokens listen; keys they wait for; tool calls they announce",
            notes,
            "429",
        ),
        ("messages that one request of theirs settles", f"{drafts.MAX_SETTLED:,}", "400"),
        (
            "wrong tokens of one address per minute (IPv6: of a /64)",
            f"{quotas.WRONG_TOKENS}",
            "429 instead of 401; valid tokens pass",
        ),
    ]
    return table(_HEADS, rows)


def limits_everywhere() -> str:
    """The limits that hold at every door."""
    answer, programs, sessions = limits.MAX_ANSWER, 1, 0
    rows = [
        ("content of a message", f"{drafts.MAX_CONTENT_BYTES:,} bytes", "413: name a file"),
        ("a value of the state", f"{state_values.MAX_VALUE_BYTES:,} bytes", "413"),
        ("a name", f"{names.MAX_NAME} characters", "400"),
        ("files that one message names", f"{drafts.MAX_FILES}", "400"),
        (
            "messages, versions or values in one answer",
            f"{answer:,} characters (the first message comes anyway)",
            "the rest on asking again; values: 413",
        ),
        (
            "a tool's answer with several messages; with one",
            f"{text.INBOX_LIMIT:,}; {text.MOST_SHOWN:,} characters, as the client counts them",
            "the rest on asking again; a longer message in parts",
        ),
        (
            "messages in one answer",
            f"{limits.MAX_AT_ONCE:,}; `inbox` and `/messages` {messages_ack.MAX_LIMIT}, `history` 200",
            "the rest on asking again",
        ),
        (
            "recipients in the status of a message; its replies",
            f"{limits.MAX_AT_ONCE:,}; {limits.MAX_REPLIES}",
            "the others are counted; the rest in its thread",
        ),
        (
            "agents, claims, and state keys without values, in one answer of `/v1`",
            f"{limits.MAX_AT_ONCE:,}",
            "the others are counted",
        ),
        ("names in one answer of `/inbox`", f"{addresses.MAX_INBOXES:,}", "the others are counted"),
        (
            "names on one channel without a session; of these, names of one token (unless it is for `*`)",
            f"{addresses.MAX_NAMES:,}; {addresses.MAX_NAMES_OF_TOKEN}",
            "413; sessions of this machine join all the same",
        ),
        (
            "names that left one channel; of these, names of one token (the same)",
            f"{addresses.MAX_LEFT:,}; {addresses.MAX_LEFT_OF_TOKEN:,}",
            "413 for a new name, until some are [forgotten](../design/delivery.md#how-long-mail-waits)",
        ),
        (
            "names on one channel that have mail and that nobody ever had",
            f"{addresses.MAX_EXPECTED:,}",
            "413 for mail to one more",
        ),
        (
            "a line that a client writes to its stdio server; levels of lists and objects in it",
            f"{jsonrpc.MAX_LINE >> 20} MiB; {jsons.MAX_DEPTH}",
            "a JSON-RPC error (-32600)",
        ),
        ("earlier broadcasts that a name has unread when it joins", f"{limits.MAX_RETAINED}", "in the history"),
        (
            "levels of a JSON value in the state; values in it",
            f"{jsons.MAX_VALUE_DEPTH}; {jsons.MAX_VALUES:,}",
            "400; 413: store it as text",
        ),
        ("state keys of one channel", f"{state_values.MAX_KEYS:,}", "413"),
        (
            "hashing the files of messages, each time messages are read",
            f"{files.HASHED_PER_READING >> 20} MiB, {_seconds(files.LOOK)}",
            "the rest is `unchecked`",
        ),
        ("time to read the files of a message that is sent", _seconds(files.MEASURE), "400"),
        (
            "recipients of one message; globs among them",
            f"{addresses.MAX_RECIPIENTS}; {addresses.MAX_RECIPIENT_GLOBS}",
            "400",
        ),
        ("tags of one message", f"{drafts.MAX_TAGS}", "400"),
        ("text that messages are searched for", f"{drafts.MAX_SEARCH:,} characters", "400"),
        (
            "wildcards in a path that is claimed or owned; its length then",
            f"{claim_paths.MAX_WILDCARDS}; {claim_paths.MAX_GLOB} characters",
            "400",
        ),
        (
            "paths in one request; globs that one name owns",
            f"{claim_paths.MAX_PLACES}; {claim_paths.MAX_OWNS}",
            "400",
        ),
        (
            "lists and decorated paths in one request, see [claims](../guides/claims.md#how-paths-may-be-written)",
            f"{spelling.MAX_WRITTEN:,} characters",
            "400",
        ),
        (
            "claims of one name; those with wildcards",
            f"{claim_paths.MAX_CLAIMS:,}; {claim_paths.MAX_GLOB_CLAIMS}",
            "400",
        ),
        (
            "claims on one channel; those with wildcards",
            f"{claim_paths.MAX_CHANNEL_CLAIMS:,}; {claim_paths.MAX_CHANNEL_GLOB_CLAIMS}",
            "400",
        ),
        (
            "steps to compare paths in one request (about a microsecond each)",
            f"{claim_paths.MAX_EFFORT:,}",
            "413; overlaps in `agents` are left out",
        ),
        (
            "wakes of a session by mail of programs: in a row; then one each",
            f"{waking.WAKE_BURST[programs]}; {_seconds(waking.WAKE_EVERY[programs])}",
            "the mail waits, `send` says for how long",
        ),
        (
            "wakes of a session by mail of sessions: in a row; then one each",
            f"{waking.WAKE_BURST[sessions]}; {_seconds(waking.WAKE_EVERY[sessions])}",
            "the same",
        ),
        (
            "time that mail waits for a name that is not heard of",
            f"{limits.SILENCE / 86_400:.0f} days",
            "it expires, see [delivery](../design/delivery.md#how-long-mail-waits)",
        ),
    ]
    return table(_HEADS, rows)


def _seconds(value: float) -> str:
    return f"{value:g} s"


PARTS: dict[str, Callable[[], str]] = {
    "tools": tools,
    **{f"tool {name}": partial(tool, found) for name, found in TOOLS.items()},
    "commands": commands,
    "common options": common,
    **{f"command {name}": partial(command, name) for name in COMMANDS},
    **{f"settings {title}": partial(settings, title) for title in ("all", "serve", "agent-bus")},
    "errors": refusals,
    "limits of requests": limits_of_requests,
    "limits everywhere": limits_everywhere,
    "operations": operations,
}
"""The functions that generate each part, by the name in its marker."""


def generated(text: str) -> str:
    """The page with its generated parts as they should be."""
    return _PART.sub(lambda found: f"{found[1]}\n{PARTS[found['name']]()}\n{found[4]}", text)


def pages() -> dict[Path, tuple[str, str]]:
    """The pages with generated parts: as they are, and as they should be."""
    texts = {page: page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
    return {page: (text, generated(text)) for page, text in texts.items() if _PART.search(text)}


def used() -> list[str]:
    """The names of the generated parts that the pages have."""
    return [found["name"] for text, _ in pages().values() for found in _PART.finditer(text)]


def run(*, check: bool) -> int:
    """Write or check; the exit status."""
    stale = {page: wanted for page, (text, wanted) in pages().items() if text != wanted}
    for page, wanted in stale.items():
        if check:
            print(f"{page.relative_to(ROOT)} is out of date: run python docs/generate.py", file=sys.stderr)
        else:
            page.write_text(wanted, encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(run(check="--check" in sys.argv[1:]))
