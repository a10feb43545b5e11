"""The records of the bus: plain, immutable, without behaviour beyond showing themselves.

Times are seconds since the epoch (float), durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["message", "request", "fyi"]
DeliveryState = Literal["queued", "handed", "read", "acked", "expired"]
Status = Literal["working", "idle", "waiting", "offline"]
FileState = Literal["unchanged", "changed", "missing", "unchecked"]

KINDS: tuple[Kind, ...] = ("message", "request", "fyi")


@dataclass(frozen=True, slots=True)
class Address:
    """Who: a name within a channel."""

    name: str
    channel: str

    def seen_from(self, channel: str) -> str:
        """The shortest spelling that works for somebody on `channel`."""
        return self.name if channel == self.channel else f"{self.name}@{self.channel}"


@dataclass(frozen=True, slots=True)
class Process:
    """A running process, told apart from a later one that got the same pid."""

    host: str
    """Where the pid means this process: the running kernel and the PID namespace, see `processes.Domain`."""
    pid: int
    started: float

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.started:.2f}"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller over HTTP may do: be one of these names, on these channels. Patterns, as in `fnmatch`."""

    owner: str = ""
    """Whose token it is; "" where none is needed."""
    names: tuple[str, ...] = ("*",)
    channels: tuple[str, ...] = ("*",)
    token: int = 0
    """Its id; 0 where none is needed."""
    in_url: bool = False
    """It may stand in an address, and is for the two wires only."""


ANYBODY = Grant()
"""What a caller may do who needs no token: be anybody."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is listed: never the secret itself."""

    id: int
    owner: str
    names: tuple[str, ...]
    channels: tuple[str, ...]
    created: float
    expires: float | None
    revoked: float | None
    in_url: bool = False
    """See `Grant.in_url`."""


@dataclass(frozen=True, slots=True)
class Key:
    """A valid token as a door knows it: by the digest of its secret."""

    digest: str
    grant: Grant
    expires: float | None


@dataclass(frozen=True, slots=True)
class Folder:
    """Where a session works."""

    cwd: str = ""
    root: str = ""
    """Top of the working tree, or `cwd` where there is none."""
    repository: str = ""
    """What all clones and worktrees of one repository share; empty outside of one."""
    branch: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """A program that takes part, as it presents itself when it attaches."""

    key: str
    """Identifies the client's process, among those of all machines and containers: by its inbox socket, else by
    its pid and start time."""
    process: Process
    folder: Folder = Folder()
    session_id: str = ""
    """The client's conversation id; `/clear` changes it."""
    program: str = "claude-code"
    session: str = ""
    """For a subagent: the key of the session it belongs to, and ends with."""
    listed: str = ""
    """What it is listed as before it registers; "" for a name made from its folder."""
    hooked: bool = False
    """Its hooks are known to bring it mail; without them it reads when it calls inbox."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Files that another present agent owns or claims as well."""

    name: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Agent:
    """A named participant, with what is known of its presence."""

    name: str
    channel: str
    role: str
    owns: tuple[str, ...]
    registered: bool
    """False: present under a name made from its folder, not yet joined."""
    status: Status
    last_seen: float
    joined: float
    cwd: str
    branch: str
    client: str
    doing: str = ""
    """First words of its last prompt, if it shares them."""
    overlaps: tuple[Overlap, ...] = ()


@dataclass(frozen=True, slots=True)
class Binding:
    """Which agent a running session is."""

    client: str
    address: Address
    registered: bool
    session_id: str
    process: Process
    status: Status
    role: str = ""
    bell: bool = False
    """Whether the session can be woken."""
    prompt_id: str = ""
    """The turn that a hook event reported last; empty where none ever came."""
    hooked: bool = True
    """Hooks bring it its mail."""
    woken: tuple[float, float] = (0.0, 0.0)
    """Until when its wakes are spent, for mail of sessions and for mail of programs; see `rules.wake_wait`."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that a message names, as it was when the message was sent."""

    path: str
    """Absolute, on `host`."""
    size: int
    sha256: str
    host: str
    state: FileState = "unchecked"
    """Whether the reader still finds it like that."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A message as its sender gives it; `rules.check_draft` says what is valid."""

    to: tuple[str, ...]
    content: str
    kind: Kind = "message"
    reply_to: int | None = None
    tags: tuple[str, ...] = ()
    urgent: bool = False
    ttl: float | None = None
    key: str = ""
    hops: int = 0
    """Messages that led to this one, one by the other, without work or a user's word between."""
    files: tuple[File, ...] = ()
    allow_secret: bool = False
    """What looks like a secret is sent all the same."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as one reader sees it."""

    id: int
    ts: float
    sender: str
    to: str
    content: str
    kind: Kind
    reply_to: int | None
    tags: tuple[str, ...] = ()
    urgent: bool = False
    hops: int = 0
    possibly_seen: bool = False
    """It was handed over before, to a session that gave no sign of life afterwards."""
    files: tuple[File, ...] = ()
    age: float = 0.0
    """Seconds since it was sent, for a broadcast from before its reader joined; else 0."""
    part: str = ""
    """Which part of the content this is, where one answer cannot carry it: `1 of 3`."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the sender may expect for one recipient, as known when it was sent."""

    recipient: str
    outlook: Literal["working", "waking", "idle", "inbox", "quiet", "offline", "unknown"]
    """`inbox`: no hooks bring its mail, it reads when it asks. `quiet`: not woken, because too many messages led to
    one another; see `rules.MAX_HOPS`."""
    since: float = 0.0
    """For `offline`, and for a program that reads with `inbox`: when it was last seen."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of a send."""

    id: int
    to: str
    expectations: tuple[Expectation, ...]
    duplicate: bool = False
    """The same `key` was sent before; this is that message."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Messages that leave the store for a reader, oldest first."""

    messages: tuple[Message, ...]
    pending: int
    """How many stay unread after this one."""
    next_id: int = 0
    """The oldest message that stays, if any."""
    unproven: tuple[int, ...] = ()
    """Ids that the same process handed over earlier, without proof so far."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message as it came to a name on one channel."""

    channel: str
    message: Message


@dataclass(frozen=True, slots=True)
class Feed:
    """What came to a name, oldest first, and the cursor to go on from: see `sql.feeds.received`."""

    received: tuple[Received, ...]
    now: float

    def __bool__(self) -> bool:
        return bool(self.received)


@dataclass(frozen=True, slots=True)
class Search:
    """Which messages of a channel are asked for; empty fields ask for any."""

    channel: str
    since: int | None = None
    """An id: the oldest messages after it. None: the newest ones, or with `unread_by` the oldest."""
    to: str = ""
    """Those to this name, and the broadcasts; "all" for broadcasts only."""
    sender: str = ""
    unread_by: str = ""
    """Those that this name has neither read nor acknowledged."""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Receipt:
    """One recipient's delivery: how far it is, and when it got there."""

    recipient: str
    state: DeliveryState
    via: str
    attempts: int
    handed_at: float | None
    read_at: float | None
    acked_at: float | None
    expired_at: float | None


@dataclass(frozen=True, slots=True)
class MessageStatus:
    """Everything known of one message's way."""

    id: int
    ts: float
    sender: str
    recipient: str
    kind: Kind
    receipts: tuple[Receipt, ...]
    replies: tuple[Message, ...]
    """The newest answers that whoever asks may see, oldest first."""
    more: tuple[tuple[DeliveryState, int], ...] = ()
    """How many recipients there are besides, by how far it is with them."""


@dataclass(frozen=True, slots=True)
class StateEntry:
    """A shared value. `value` is None where only metadata was asked for."""

    key: str
    value: str | None
    version: int
    updated_by: str
    updated_at: float
    expires: float | None = None
    json: bool = False
    """The value is JSON that was given as such."""


FOLDER = "folder"
"""Value in place of a file's identity, for an existing folder."""


class Place(NamedTuple):
    """What can be claimed."""

    scope: str
    """The repository the path is relative to; empty for resources and absolute paths."""
    path: str
    file: str = ""
    """Identity of the file, where the path is one that exists: renaming it keeps that. `FOLDER` for a folder."""
    above: tuple[tuple[str, str], ...] = ()
    """The same place as (scope, path) of what its repository lies in: other repositories, and the machine."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A pattern somebody is editing."""

    path: str
    scope: str
    """The repository the path is relative to; empty for resources and absolute paths."""
    owner: str
    shared: bool
    reason: str
    expires: float
    edit: bool = False
    """Made by an edit, for a few minutes."""


Standing = Claim | Literal["unchecked"] | None
"""The claim that stands against a place, if any; `unchecked` where it takes too long to compare it with all claims."""


@dataclass(frozen=True, slots=True)
class Roster:
    """Who else is here, as one line tells it."""

    peers: tuple[tuple[str, Status], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.peers)


@dataclass(frozen=True, slots=True)
class HookReport:
    """What a hook event says of a session, and how much mail it can carry."""

    via: str
    """What a hand-over goes through, as receipts show it."""
    space: int
    """Characters there are for message blocks."""
    session_id: str = ""
    prompt_id: str = ""
    """The turn it belongs to."""
    begins: bool = False
    """The turn begins with it: what was handed over before, and never proven, is lost."""
    bell: bool | None = None
    """Whether the session may be woken; None where the event does not tell."""
    proven: tuple[int, ...] = ()
    """Messages the model has demonstrably had."""
    lost: tuple[int, ...] = ()
    """Messages whose hand-over came to nothing."""
    announced: int = 0
    """The oldest unread message at which the session was told that one does not fit."""
    roster: bool = False
    """Whether to tell who else is here, if that changed."""
    doing: str | None = None
    """First words of the prompt, where they may be shared."""
    ends: bool = False
    """The turn ends unless there is something to tell; open requests are recalled."""
    again: bool = False
    """What the conversation is told once may not have reached it, and is to be told anew."""
    recalled: tuple[int, ...] = ()
    """Open requests of which it was reminded."""


@dataclass(frozen=True, slots=True)
class HookResult:
    """What a hook event led to, and what to tell the session."""

    address: Address
    registered: bool
    mail: HandOver
    announce: bool
    """Mail waits that does not fit, and the session was not told of it yet."""
    roster: Roster | None
    """Who else is here, if the session does not know yet."""
    overlaps: tuple[Overlap, ...]
    """With whom the session's files overlap, where it was not told yet."""
    requests: tuple[Message, ...]
    """Open requests, until it is known that the conversation was reminded of them."""
    introduce: bool
    """Something is to be told, and the conversation does not know who it is."""
    earlier: int = 0
    """Broadcasts from long before the session joined, which wait in its inbox; told with who it is."""

    @property
    def told_once(self) -> bool:
        """Whether it tells something that is not told again without a reason."""
        return self.introduce or bool(self.roster or self.overlaps or self.requests)


@dataclass(frozen=True, slots=True)
class Letter:
    """A message as it stands in a file of messages, with who acknowledged it."""

    id: int | str
    """Its id where it comes from."""
    ts: float
    sender: str
    to: tuple[str, ...]
    """Names; empty: everybody."""
    body: str
    tags: tuple[str, ...] = ()
    acks: tuple[str, ...] = ()
    kind: Kind = "message"
    reply_to: int | str | None = None
    """The id of what it answers, in the same file."""
    row: int = 0
    """Its id in the database that it comes from."""


Guard = Literal["off", "warn", "confirm", "deny"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard says of an edit: let it pass, with a warning or after repetition, or refuse it."""

    action: Literal["pass", "warn", "override", "refuse"]
    claim: Claim | None = None
    """The claim that stands against it."""
    final: bool = False
    """Whether a refused edit stays refused when it is repeated."""


@dataclass(frozen=True, slots=True)
class Injection:
    """What a hook puts before the model, and one line for its user. Empty: nothing new."""

    context: str = ""
    notice: str = ""

    def __bool__(self) -> bool:
        return bool(self.context)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Unread mail that may ring: its size and who it is from."""

    count: int
    newest: int
    senders: tuple[str, ...]
    rings: bool
    """At least one of them is a reason to wake an idle session."""
    by_program: bool = False
    """Those that are a reason to were all sent by programs."""
    earlier: int = 0
    """Besides these: broadcasts from long before the reader joined."""


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the journal."""

    id: int
    ts: float
    channel: str
    actor: str
    verb: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What came since an event: the journal's rows, and whom they concern."""

    last: int
    """The newest event that was looked at."""
    events: tuple[Event, ...]
    mail: tuple[Address, ...]
    """Who may have got mail."""
    listeners: tuple[str, ...]
    """Addresses of the processes to tell."""
    more: bool = False
    """Whether there may be rows after these."""
