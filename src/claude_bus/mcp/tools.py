"""The tools, each declared once: name, arguments, answer.

Every session pays for each word here: the texts for the model stay within 6 KB
(see the test). Answers are text where those of the original server were text, otherwise a JSON object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .. import addresses, documents, limits, spelling, text
from ..errors import InvalidInput
from ..model.messages import Draft
from ..records import record
from ..session.session import Session
from .arguments import (
    Arguments,
    Json,
    Natural,
    OneOrMore,
    Seconds,
    Several,
    UpTo100,
    UpTo200,
    UpTo500,
    Version,
)

if TYPE_CHECKING:
    from pydantic import ValidationError

    from ..model.messages import Kind
    from ..sql.state import Mode

Answer = str | dict[str, Any]
Handler = Callable[[Session, Any], Awaitable[Answer]]


@record(frozen=True, slots=True)
class Tool:
    """One tool: `call` gets the session and an instance of `arguments`."""

    name: str
    description: str
    arguments: type[Arguments]
    call: Handler
    changes: bool

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments, without the parts that a model does not need."""
        schema = _compact(self.arguments.model().model_json_schema())
        assert isinstance(schema, dict)
        return schema


TOOLS: dict[str, Tool] = {}


def tool(arguments: type[Arguments], *, changes: bool = True) -> Callable[[Handler], Handler]:
    """Declare a tool: its name is the function's name, its description the docstring."""

    def declare(handler: Handler) -> Handler:
        name = handler.__name__.rstrip("_")
        description = " ".join((handler.__doc__ or "").split())
        TOOLS[name] = Tool(name, description, arguments, handler, changes)
        return handler

    return declare


async def call(session: Session, name: str, arguments: dict[str, Any]) -> Answer:
    """Call a tool by name. Raises `BusError` for anything that is wrong with the call."""
    found = TOOLS.get(name)
    if not found:
        raise InvalidInput(f"unknown tool {name!r}; the bus has {', '.join(TOOLS)}")
    return await found.call(session, found.arguments.plain(arguments) or _validated(found, arguments))


def _validated(found: Tool, arguments: dict[str, Any]) -> Arguments:
    """Return the arguments as they are meant, although they are not written as declared; or say what is wrong."""
    from pydantic import ValidationError

    try:
        return found.arguments.validated(arguments)
    except ValidationError as error:
        raise InvalidInput(_explain(found, error)) from error


def _explain(found: Tool, error: ValidationError) -> str:
    """Describe the invalid arguments, and list the accepted ones."""
    if error.error_count() > limits.MAX_PROBLEMS:
        problems = [f"{error.error_count()} arguments or parts of them are not valid"]
    else:
        problems = [
            f"{'.'.join(str(part) for part in problem['loc']) or 'arguments'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
    accepted = ", ".join(found.arguments.names())
    return f"{found.name}: {'; '.join(problems[:5])}. Accepted arguments: {accepted or 'none'}"


def _compact(schema: Any) -> Any:
    """Return the schema without titles, nulls and empty defaults; unions with null are optional anyway."""
    if isinstance(schema, list):
        return [_compact(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    branches = [b for b in schema.get("anyOf", []) if b != {"type": "null"}]
    if "anyOf" in schema:
        merged = branches[0] if len(branches) == 1 else {"anyOf": branches}
        schema = {**{k: v for k, v in schema.items() if k != "anyOf"}, **merged}
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "properties":
            out[key] = {name: _compact(field) for name, field in value.items()}
        elif key not in ("title", "additionalProperties") and not (key == "default" and value in (None, "", False)):
            out[key] = _compact(value)
    return out


def _listed(value: OneOrMore) -> list[str]:
    return [value] if isinstance(value, str) else value


# -- identity and presence ----------------------------------------------------------


class Nothing(Arguments):
    pass


class Register(Arguments):
    name: str
    role: str = ""
    owns: Several | None = None
    channel: str = ""


@tool(Register)
async def register(session: Session, args: Register) -> Answer:
    """Join the bus under a name, or rename (mail follows). role: what you do; owns: globs of your files."""
    binding, roster, unread = await session.register(args.name, args.role, args.owns, args.channel)
    role = f" ({args.role})" if args.role else ""
    where = "" if binding.address.channel == addresses.DEFAULT_CHANNEL else f" on channel '{binding.address.channel}'"
    mail = f" {text.plural(unread, 'unread message')}: call inbox." if unread else ""
    owned = await session.workspace.owned(args.owns or [])
    owns = f", owning {', '.join(map(repr, owned))}" if owned != (args.owns or []) else ""
    return f"registered '{binding.address.name}'{role}{where}{owns}. {text.roster_line(roster)}{mail}"


@tool(Nothing, changes=False)
async def whoami(session: Session, args: Nothing) -> Answer:
    """Your name on the bus."""
    binding = await session.whoami()
    if binding and binding.registered:
        return binding.address.seen_from(addresses.DEFAULT_CHANNEL)
    listed = f"; listed as '{binding.address.name}' until then" if binding else ""
    return f"not registered (call register){listed}"


@tool(Nothing)
async def leave(session: Session, args: Nothing) -> Answer:
    """Leave the bus: your claims end, direct mail is kept."""
    me = await session.leave()
    return f"left; mail for '{me.name}' is kept until it registers again"


class Agents(Arguments):
    active_within: Seconds | None = None
    channel: str = ""


@tool(Agents, changes=False)
async def agents(session: Session, args: Agents) -> Answer:
    """The agents on the bus: status, role, files, overlaps."""
    now = time.time()
    found, me = await session.agents(args.active_within, args.channel)
    told = [agent for agent in found if args.active_within or not addresses.is_gone(agent, now)]
    more, gone = len(told) - text.MOST_TOLD, len(found) - len(told)
    shown = {
        "agents": [documents.agent_for_model(agent, me.name, now) for agent in told[: text.MOST_TOLD]],
        **({"more": more} if more > 0 else {}),
        **({"not_seen_for_a_week": gone} if gone else {}),
    }
    return documents.for_model(shown)


# -- messages -------------------------------------------------------------------------


class Send(Arguments):
    to: OneOrMore
    content: str
    reply_to: int | None = None
    kind: Kind = "message"
    urgent: bool = False
    tags: list[str] | None = None
    ttl: Seconds | None = None
    key: str = ""
    files: Several | None = None
    allow_secret: bool = False


@tool(Send)
async def send(session: Session, args: Send) -> Answer:
    """Send to a name, a list, a glob, name@channel or 'all'. Answers say who is working, woken or offline
    (kept for them). kind: request = answer expected, fyi = never wakes. A key makes a retry harmless. files: paths,
    sent with size and sha256. Likely secrets are refused unless allow_secret."""
    draft = Draft(
        to=spelling.recipients(args.to),
        content=args.content,
        kind=args.kind,
        reply_to=args.reply_to,
        tags=tuple(args.tags or ()),
        urgent=args.urgent,
        ttl=args.ttl,
        key=args.key,
        allow_secret=args.allow_secret,
    )
    return text.sent(await session.send(draft, args.files or ()), time.time())


class Inbox(Arguments):
    consume: bool = True
    peek: bool = False
    limit: UpTo500 = 50


@tool(Inbox)
async def inbox(session: Session, args: Inbox) -> Answer:
    """Your unread messages, oldest first. Content is from peers, not from your user. peek changes nothing."""
    found = await session.inbox(peek=args.peek or not args.consume, limit=args.limit)
    return documents.for_model(documents.mail(found, for_model=True))


class Wait(Arguments):
    timeout: Seconds = 60.0
    key: str = ""
    version: int | None = None


@tool(Wait)
async def wait(session: Session, args: Wait) -> Answer:
    """Block until a message arrives (or timeout seconds pass) and return it like inbox. With key: until that
    state entry is not at version any more (default: its present one)."""
    if args.key:
        changed = await session.wait_for_change(args.key, args.version, args.timeout)
        return documents.for_model({"state": [documents.entry(entry) for entry in changed]})
    return documents.for_model(documents.mail(await session.wait(args.timeout), for_model=True))


class MessageStatus(Arguments):
    message_id: int


@tool(MessageStatus, changes=False)
async def message_status(session: Session, args: MessageStatus) -> Answer:
    """How far a message is with each recipient (queued, handed, read, acked, expired), and the replies."""
    return documents.for_model(documents.status_for_model(await session.message_status(args.message_id)))


class History(Arguments):
    search: str = ""
    thread: int | None = None
    since: int = 0
    before: int = 0
    limit: UpTo200 = 20
    part: Natural = 1


@tool(History, changes=False)
async def history(session: Session, args: History) -> Answer:
    """Earlier messages, consuming nothing. search: a text in them (goes on with before=unsearched, if the answer has
    that). thread: any message id of it; since, before: ids."""
    found = await session.history(args.search, args.thread, args.since, args.limit, args.before)
    return documents.for_model(documents.history_for_model(found, args.part))


# -- state ------------------------------------------------------------------------------


class SetState(Arguments):
    key: str
    value: Json = ""
    expected_version: Version | None = None
    mode: Mode = "overwrite"
    ttl: Seconds | None = None
    allow_secret: bool = False


@tool(SetState)
async def set_state(session: Session, args: SetState) -> Answer:
    """Write a shared value: text, or any JSON. expected_version: only if it still has that version (0: only
    create). append adds a line."""
    text_given = isinstance(args.value, str)
    value = args.value if text_given else _as_json(args.value)
    version = await session.set_state(
        args.key,
        value,
        expected_version=args.expected_version,
        mode=args.mode,
        ttl=args.ttl,
        json=not text_given,
        allow_secret=args.allow_secret,
    )
    if args.mode == "delete":
        return f"state['{args.key}'] deleted" if version else f"no state['{args.key}']"
    return f"state['{args.key}'] set (version {version})"


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise InvalidInput(
            "value holds a number that JSON has not, such as infinity, or is nested too deeply"
        ) from None


class GetState(Arguments):
    key: str = ""
    history: UpTo100 = 0


@tool(GetState, changes=False)
async def get_state(session: Session, args: GetState) -> Answer:
    """Read a shared value, or all without key. history: also so many of its versions, who wrote them, when."""
    if not (args.history and args.key):
        return documents.for_model({"state": [documents.entry(entry) for entry in await session.get_state(args.key)]})
    entries, versions = await session.state_with_history(args.key, args.history)
    return documents.for_model(
        {
            "state": [documents.entry(entry) for entry in entries],
            "history": [documents.entry(entry) for entry in versions],
        }
    )


class ListState(Arguments):
    prefix: str = ""


@tool(ListState, changes=False)
async def list_state(session: Session, args: ListState) -> Answer:
    """Keys of shared values and their versions."""
    found = [documents.entry(entry) for entry in await session.list_state(args.prefix)]
    return documents.for_model(documents.some(found, "state", text.INBOX_LIMIT))


# -- claims -----------------------------------------------------------------------------


class Claim(Arguments):
    path: OneOrMore
    ttl: Seconds = 1800.0
    shared: bool = False
    reason: str = ""


@tool(Claim)
async def claim(session: Session, args: Claim) -> Answer:
    """Announce that you edit a path, glob or resource such as port:8080; a list is granted all or none.
    Fails naming the holder if it overlaps another's claim. Claiming again renews."""
    granted = await session.claim(_listed(args.path), ttl=args.ttl, shared=args.shared, reason=args.reason)
    paths = ", ".join(f"'{session.shown(c.scope, c.path)}'" for c in granted)
    return f"claimed {paths} for {int(args.ttl)}s"


class Release(Arguments):
    path: OneOrMore | None = None
    force: str = ""


@tool(Release)
async def release(session: Session, args: Release) -> Answer:
    """Release a claim, a list of them, or all of yours without path. force: the reason to end another's claim;
    its owner is told."""
    asked = None if args.path is None else _listed(args.path)
    held = await session.release(asked, args.force)
    if not held:
        return "no claims of yours" if asked is None else f"no claim on {', '.join(repr(p) for p in asked)}"
    return f"released {', '.join(repr(session.shown(place.scope, place.path)) for place in held)}"


@tool(Nothing, changes=False)
async def list_claims(session: Session, args: Nothing) -> Answer:
    """All live claims."""
    now = time.time()
    found = [(claim, session.shown(claim.scope, claim.path)) for claim in await session.list_claims()]
    return documents.for_model(documents.claims_for_model(found, now))
