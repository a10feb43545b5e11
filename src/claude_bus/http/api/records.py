"""The answers of the API, as its document shows them. `rows` makes the answers; fields may be added.

A field with a default is omitted if it is empty.
"""

from __future__ import annotations

from pydantic import BaseModel, Field, JsonValue

from ...model.identity import Status
from ...model.messages import DeliveryState, FileState, Kind


class About(BaseModel):
    name: str
    version: str
    channel: str = Field(description="The channel of requests that name none.")
    last_event: int = Field(description="The newest event on the bus; give it as `since` for events from now on.")
    owner: str = Field(description="The owner of the token; empty if no token is needed.")
    names: list[str] = Field(description="Patterns of the names that the caller may use.")
    channels: list[str] = Field(description="Patterns of the channels that the caller may use.")


class Agent(BaseModel):
    name: str
    role: str
    owns: list[str]
    seconds_ago: float
    overlaps: list[str]
    status: Status
    overlap_paths: dict[str, list[str]] = {}
    cwd: str = ""
    branch: str = ""
    client: str = ""
    doing: str = ""
    unregistered: bool = False


class Agents(BaseModel):
    agents: list[Agent]
    more: int = Field(default=0, description="How many are not shown.")


class Joined(BaseModel):
    name: str
    channel: str
    pending_count: int = Field(description="Unread messages.")


class File(BaseModel):
    path: str
    size: int
    sha256: str
    state: FileState


class Message(BaseModel):
    id: int
    sender: str = Field(alias="from")
    to: str
    content: str
    reply_to: int | None
    sent: str
    kind: Kind = "message"
    tags: list[str] = []
    urgent: bool = False
    possibly_seen: bool = False
    seconds_ago: int = Field(
        0, description="Age of a broadcast from before its reader joined, when it was handed over."
    )
    files: list[File] = []


class Messages(BaseModel):
    messages: list[Message]
    searched_to: int = Field(
        default=0, description="The search ended early: it has not looked at messages before this id."
    )


class Inbox(BaseModel):
    messages: list[Message]
    pending_count: int = Field(description="All unread messages, including these.")


class Expectation(BaseModel):
    recipient: str
    outlook: str
    offline_since: float = 0.0
    hint: str = ""


class Sent(BaseModel):
    id: int
    to: str
    duplicate: bool
    recipients: list[Expectation]


class Reader(BaseModel):
    recipient: str
    read_ts: float


class Receipt(BaseModel):
    recipient: str
    state: DeliveryState
    via: str = ""
    attempts: int = 0
    handed_at: float = 0.0
    read_at: float = 0.0
    acked_at: float = 0.0
    expired_at: float = 0.0


class MessageStatus(BaseModel):
    message_id: int
    sender: str
    recipient: str
    readers: list[Reader]
    deliveries: list[Receipt]
    replies: list[Message]
    open: bool = False
    more: dict[str, int] = Field(default={}, description="Recipients beyond the first 1,000, by state.")


class Acknowledged(BaseModel):
    acked: list[int] = Field(description="Acknowledged, now or before.")
    expired: list[int] = Field(description="Their ttl ran out before.")
    unknown: list[int] = Field(description="Never sent to this name, or no longer kept.")


class Entry(BaseModel):
    key: str
    value: JsonValue = Field(default=None, description="Missing if the entry does not exist, or was not asked for.")
    updated_by: str
    updated_at: float
    version: int
    expires: float = 0.0


class State(BaseModel):
    state: list[Entry]
    more: int = Field(default=0, description="How many are not shown.")


class History(BaseModel):
    history: list[Entry] = Field(description="Newest first; a deletion has no value.")


class Written(BaseModel):
    key: str
    version: int


class Claim(BaseModel):
    path: str
    owner: str
    ttl_remaining: float
    shared: bool = False
    reason: str = ""
    edit: bool = False
    scope: str = Field(default="", description="The repository that the path is relative to.")


class Claims(BaseModel):
    claims: list[Claim]
    more: int = Field(default=0, description="How many are not shown.")


class Released(BaseModel):
    released: list[str]


class Event(BaseModel):
    id: int
    at: float = Field(description="Seconds since the epoch.")
    channel: str
    verb: str
    actor: str
    subject: str = Field(description="The id of a message, a key, a path, or empty.")
    version: int = Field(default=0, description="Of the state entry that changed.")


class Events(BaseModel):
    events: list[Event]
    last: int = Field(description="Give this as `since` for the events after these.")
