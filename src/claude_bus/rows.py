"""Records as programs get them: the JSON of tools, of `--json`, of HTTP.

Field names are the original's where it had them. What is empty beyond those fields
is left out: a model pays for each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from . import jsons, rules, text
from .model import (
    Agent,
    Claim,
    Expectation,
    File,
    HandOver,
    Message,
    MessageStatus,
    Receipt,
    Received,
    Sent,
    StateEntry,
)

Row = dict[str, Any]


def _filled(**fields: object) -> Row:
    return {name: value for name, value in fields.items() if value}


def some(rows: Sequence[Row], what: str) -> Row:
    """As many of these rows as one answer carries, at least one, and how many `more` there are."""
    sizes = (len(json.dumps(row)) for row in rows[: rules.MAX_AT_ONCE])
    shown = rows[: rules.carried(sizes)]
    return {what: list(shown), **_filled(more=len(rows) - len(shown))}


def agent(found: Agent, me: str, now: float) -> Row:
    """`me` is the reader's name; `seconds_ago` counts from its last call or event."""
    return {
        "name": found.name,
        "role": found.role,
        "owns": list(found.owns),
        "seconds_ago": round(max(0.0, now - found.last_seen), 1),
        "overlaps": [overlap.name for overlap in found.overlaps],
        "status": found.status,
        **_filled(
            overlap_paths={overlap.name: list(overlap.paths) for overlap in found.overlaps},
            cwd=found.cwd,
            branch=found.branch,
            client=found.client,
            doing=found.doing,
            you=found.name == me,
            unregistered=not found.registered,
        ),
    }


def message(found: Message, *, for_model: bool = False) -> Row:
    """For a model, what would act on its reader is spelled out; a program gets the content as it is."""
    return {
        "id": found.id,
        "from": found.sender,
        "to": found.to,
        "content": text.visible(found.content) if for_model else found.content,
        "reply_to": found.reply_to,
        "sent": text.clock(found.ts),
        **_filled(
            kind=found.kind if found.kind != "message" else "",
            tags=list(found.tags),
            urgent=found.urgent,
            possibly_seen=found.possibly_seen,
            seconds_ago=round(found.age),
            files=[file(f, for_model=for_model) for f in found.files],
        ),
    }


def received(found: Received) -> Row:
    """A message on the wire of `/send` and `/recv`, whose clients rely on the first three fields."""
    message = found.message
    return {
        "ts": message.ts,
        "from": message.sender,
        "msg": message.content,
        "channel": found.channel,
        "id": message.id,
        "to": message.to,
        **_filled(
            kind=message.kind if message.kind != "message" else "",
            reply_to=message.reply_to,
            tags=list(message.tags),
            urgent=message.urgent,
            files=[file(f) for f in message.files],
        ),
    }


def post(found: Message) -> Row:
    """A message on the wire of `/post` and `/messages`, and in its JSON lines: everybody is `any` there."""
    return {
        "id": found.id,
        "ts": iso(found.ts),
        "from": found.sender,
        "to": "any" if found.to == "all" else found.to,
        "body": found.content,
        "tags": list(found.tags),
        **_filled(
            kind=found.kind if found.kind != "message" else "",
            reply_to=found.reply_to,
            urgent=found.urgent,
            files=[file(f) for f in found.files],
        ),
    }


def iso(ts: float) -> str:
    """`2026-11-20T10:31:02.000000Z`: sorts as the time does."""
    return datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def file(found: File, *, for_model: bool = False) -> Row:
    """`state`: whether the reader still finds the file as it was sent."""
    path = text.path(found.path) if for_model else found.path
    return {"path": path, "size": found.size, "sha256": found.sha256, "state": found.state}


def mail(found: HandOver, *, for_model: bool = False) -> Row:
    """`pending_count` is how many stay unread after these."""
    return {"messages": [message(m, for_model=for_model) for m in found.messages], "pending_count": found.pending}


def sent(outcome: Sent) -> Row:
    return {
        "id": outcome.id,
        "to": outcome.to,
        "duplicate": outcome.duplicate,
        "recipients": [expectation(e) for e in outcome.expectations],
    }


def expectation(expected: Expectation) -> Row:
    return {
        "recipient": expected.recipient,
        "outlook": expected.outlook,
        **_filled(offline_since=expected.since, hint=expected.hint),
    }


def status(found: MessageStatus, *, for_model: bool = False) -> Row:
    """`readers` as in the original; `open`: a request without reply; `more`: recipients only counted, by state."""
    return {
        "message_id": found.id,
        "sender": found.sender,
        "recipient": found.recipient,
        "readers": [{"recipient": r.recipient, "read_ts": r.read_at} for r in found.receipts if r.read_at],
        "deliveries": [receipt(r) for r in found.receipts],
        "replies": [message(reply, for_model=for_model) for reply in found.replies],
        **_filled(open=found.kind == "request" and not found.replies, more=dict(found.more)),
    }


def receipt(found: Receipt) -> Row:
    return {
        "recipient": found.recipient,
        "state": found.state,
        **_filled(
            via=found.via,
            attempts=found.attempts,
            handed_at=found.handed_at,
            read_at=found.read_at,
            acked_at=found.acked_at,
            expired_at=found.expired_at,
        ),
    }


def entry(found: StateEntry) -> Row:
    value = {} if found.value is None else {"value": _value(found.value) if found.json else found.value}
    return {
        "key": found.key,
        **value,
        "updated_by": found.updated_by,
        "updated_at": found.updated_at,
        "version": found.version,
        **_filled(expires=found.expires),
    }


def _value(column: str) -> Any:
    """JSON as it was given. It is text where another program wrote what is not JSON, or is nested too deeply."""
    try:
        return jsons.loads(column, jsons.MAX_VALUE_DEPTH)
    except ValueError:
        return column


def claim(found: Claim, shown_path: str, now: float) -> Row:
    """`shown_path` is the path as the reader would write it."""
    return {
        "path": shown_path,
        "owner": found.owner,
        "ttl_remaining": round(found.expires - now, 1),
        **_filled(shared=found.shared, reason=found.reason, edit=found.edit),
    }
