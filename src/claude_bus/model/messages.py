"""Messages, their files, their deliveries and what is asked of them."""

from __future__ import annotations

from typing import Literal

from ..records import record

Kind = Literal["message", "request", "fyi"]
DeliveryState = Literal["queued", "handed", "read", "acked", "expired"]
FileState = Literal["unchanged", "changed", "missing", "unchecked"]

KINDS: tuple[Kind, ...] = ("message", "request", "fyi")


@record(frozen=True, slots=True)
class File:
    """A file that a message names, as it was when the message was sent."""

    path: str
    """Absolute, on `host`."""
    size: int
    sha256: str
    host: str
    state: FileState = "unchecked"
    """Whether the reader still finds it like that."""


@record(frozen=True, slots=True)
class Draft:
    """A message as its sender gives it; `drafts.check_draft` says what is valid."""

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
    """Text that looks like a secret is sent all the same."""


@record(frozen=True, slots=True)
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


@record(frozen=True, slots=True)
class History:
    """Earlier messages, oldest first."""

    messages: tuple[Message, ...]
    searched_to: int = 0
    """If not 0: a search ended before it was through. It has not looked at messages before this id."""


@record(frozen=True, slots=True)
class Expectation:
    """The outlook for one recipient, as known when the message was sent."""

    recipient: str
    outlook: Literal["working", "waking", "idle", "inbox", "quiet", "offline", "unknown"]
    """`inbox`: no hooks bring its mail, it reads when it asks. `quiet`: not woken, because too many messages led to
    one another; see `waking.MAX_HOPS`."""
    since: float = 0.0
    """For `offline`, and for a program that reads with `inbox`: when it was last seen."""
    hint: str = ""


@record(frozen=True, slots=True)
class Sent:
    """The outcome of a send."""

    id: int
    to: str
    expectations: tuple[Expectation, ...]
    duplicate: bool = False
    """The same `key` was sent before; this is that message."""


@record(frozen=True, slots=True)
class HandOver:
    """Messages that leave the store for a reader, oldest first."""

    messages: tuple[Message, ...]
    pending: int
    """How many stay unread after this one."""
    next_id: int = 0
    """The oldest message that stays, if any."""
    unproven: tuple[int, ...] = ()
    """Ids that the same process handed over earlier, without proof so far."""


@record(frozen=True, slots=True)
class Received:
    """A message as it came to a name on one channel."""

    channel: str
    message: Message


@record(frozen=True, slots=True)
class Feed:
    """The messages to a name, oldest first, and the cursor to go on from: see `sql.feeds.received`."""

    received: tuple[Received, ...]
    now: float

    def __bool__(self) -> bool:
        return bool(self.received)


@record(frozen=True, slots=True)
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


@record(frozen=True, slots=True)
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


@record(frozen=True, slots=True)
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


@record(frozen=True, slots=True)
class ArchivedMessage:
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


@record(frozen=True, slots=True)
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
