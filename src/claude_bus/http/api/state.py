"""Shared state: read, wait for a change, write under a condition."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Query as InQuery
from pydantic import Field, JsonValue
from starlette.responses import Response

from ... import documents, drafts, limits, state_values
from ...errors import InvalidInput, NotFound
from ...model.state import StateEntry
from ...sql import state
from ..hub import channel
from ..responses import Json
from . import records
from .caller import Caller, Calling
from .fields import (
    LARGEST,
    PATH,
    AnyInHeader,
    Body,
    Channel,
    Count,
    KeyInPath,
    Line,
    Name,
    Query,
    Seconds,
    VersionInHeader,
    Wait,
)
from .quick import QuickRoute
from .refusals import refusals

router = APIRouter(prefix=PATH, tags=["state"], route_class=QuickRoute)

_TAG = re.compile(r'"([0-9]{1,19})"')
_ETAG = {"ETag": {"description": "The version, in quotes.", "schema": {"type": "string"}}}


class Which(Query):
    channel: Channel = ""
    prefix: Line = ""
    values: bool = Field(default=False, description="With their values.")


class Read(Query):
    channel: Channel = ""
    after_version: Count | None = Field(
        default=None,
        description="Answer at once if the version is another, else when it changes or `wait` is over. An "
        "entry that was deleted, ran out or never existed is answered as well: without value.",
    )
    wait: Wait = 0


class Versions(Query):
    channel: Channel = ""
    before: Count = Field(default=0, description="Before this version; 0: from the newest.")
    limit: int = Field(default=20, ge=1, le=100)


class Write(Body):
    name: Name = Field(alias="as")
    channel: Channel = ""
    value: JsonValue = Field(description=f"Any JSON; at most {state_values.MAX_VALUE_BYTES} bytes.")
    mode: Literal["overwrite", "append"] = Field(default="overwrite", description="`append` adds a line of text.")
    ttl: Seconds | None = Field(default=None, le=drafts.MAX_TTL, description="Until the entry vanishes by itself.")
    expected_version: Count | None = Field(
        default=None, description="Write only if the entry has this version; 0: only if there is none."
    )
    allow_secret: bool = False


class Delete(Query):
    name: Name = Field(alias="as")
    channel: Channel = ""
    expected_version: Count | None = None


@router.get("/state", response_model=records.State, responses=refusals())
async def list_state(caller: Calling, which: Annotated[Which, InQuery()]) -> Response:
    """Entries whose key begins with `prefix`, by key.

    With `values` all of them; more than a million characters of values are refused. Without, at most 1,000, and about
    a million characters; `more` counts the others, and a longer `prefix` leaves fewer.
    """
    where, prefix = caller.channel(which.channel), limits.check_line(which.prefix, "prefix")
    found = await caller.bus.run(state.list_state, where, prefix=prefix, values=which.values)
    if not which.values:
        return _answer(found, lambda entries: documents.some(entries, "state"))
    return _answer(found, lambda entries: {"state": entries})


@router.get("/state/{key}", response_model=records.Entry, responses={200: {"headers": _ETAG}, **refusals(404)})
async def get_state(caller: Calling, key: KeyInPath, given: Annotated[Read, InQuery()]) -> Response:
    """One entry, or with `after_version` whatever there is when it has changed."""
    where = caller.channel(given.channel)
    found = await latest(caller, where, state_values.check_key(key), given)
    if found.value is None and given.after_version is None:
        raise NotFound(f"there is no state '{key}' on channel '{where}'", key=key)
    return _answer([found], lambda entries: entries[0], version=found.version)


async def latest(caller: Caller, where: str, key: str, given: Read) -> StateEntry:
    """The entry as it stands; with `after_version`, once that is another one."""

    expires: float | None = None

    async def look() -> StateEntry | None:
        nonlocal expires
        found = await caller.bus.run(state.latest, where, key)
        expires = found.expires
        return None if found.version == given.after_version else found

    wait = 0.0 if given.after_version is None else given.wait
    found = await caller.until(look, wait, channel(where), due=lambda: expires)
    if found:
        return found
    return await caller.bus.run(state.latest, where, key)


@router.get("/state/{key}/history", response_model=records.History, responses=refusals())
async def state_history(caller: Calling, key: KeyInPath, given: Annotated[Versions, InQuery()]) -> Response:
    """The newest versions of a key, newest first.

    An answer has at most about a million characters: there may be more `before` its last version, also if it has
    fewer than `limit`.
    """
    where = caller.channel(given.channel)
    found = await caller.bus.run(state.history, where, state_values.check_key(key), given.limit, given.before)
    return _answer(found, lambda entries: {"history": entries})


@router.put("/state/{key}", response_model=records.Written, responses={200: {"headers": _ETAG}, **refusals(409, 422)})
async def set_state(
    caller: Calling, key: KeyInPath, given: Write, if_match: VersionInHeader = "", if_none_match: AnyInHeader = ""
) -> Response:
    """Write an entry. `If-Match` is `expected_version` as a header, `If-None-Match: *` is version 0."""
    expected = _expected(given.expected_version, if_match, if_none_match)
    text_given = isinstance(given.value, str)
    value = given.value if isinstance(given.value, str) else _as_json(given.value)
    who, bus = caller.acts(given.name, given.channel)
    version = await bus.run(
        state.set_state,
        who,
        state_values.check_key(key),
        state_values.check_value(value),
        expected_version=expected,
        mode=given.mode,
        ttl=given.ttl,
        json=not text_given,
        allow_secret=given.allow_secret,
    )
    return _written(key, version)


@router.delete(
    "/state/{key}", response_model=records.Written, responses={200: {"headers": _ETAG}, **refusals(404, 409)}
)
async def delete_state(
    caller: Calling, key: KeyInPath, given: Annotated[Delete, InQuery()], if_match: VersionInHeader = ""
) -> Response:
    """Delete an entry; its history stays."""
    expected = _expected(given.expected_version, if_match, "")
    who, bus = caller.acts(given.name, given.channel)
    version = await bus.run(
        state.set_state, who, state_values.check_key(key), "", mode="delete", expected_version=expected
    )
    if not version:
        raise NotFound(f"there is no state '{key}' on channel '{who.channel}'", key=key)
    return _written(key, version)


def _expected(given: int | None, if_match: str, if_none_match: str) -> int | None:
    """The version that a write depends on, however the request says so; None if it depends on none."""
    if if_match:
        given = _agreed(given, _tagged(if_match))
    if if_none_match:
        if if_none_match.strip() != "*":
            raise InvalidInput("If-None-Match can only be *: write if there is no such entry")
        given = _agreed(given, 0)
    return given


def _tagged(if_match: str) -> int:
    """The version that `If-Match` names."""
    found = _TAG.fullmatch(if_match.strip())
    if not found or int(found[1]) > LARGEST:
        raise InvalidInput('If-Match must be one version in quotes, such as "3", as ETag gives it')
    return int(found[1])


def _agreed(one: int | None, other: int) -> int:
    """The value that two places of a request give, if they do not contradict each other."""
    if one not in (None, other):
        raise InvalidInput("expected_version, If-Match and If-None-Match contradict each other: give one of them")
    return other


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        raise InvalidInput(
            "value holds a number that JSON has not, such as infinity, or is nested too deeply"
        ) from None


def _answer(found: list[StateEntry], within: Callable[[list[Any]], Any], version: int | None = None) -> Response:
    """Entries as JSON. A value that others stored, and that is nested too deeply for this, comes as text."""
    headers = {} if version is None else {"ETag": f'"{version}"'}
    try:
        return Json(within([documents.entry(entry) for entry in found]), headers=headers)
    except RecursionError:
        return Json(within([documents.entry(replace(entry, json=False)) for entry in found]), headers=headers)


def _written(key: str, version: int) -> Response:
    return Json({"key": key, "version": version}, headers={"ETag": f'"{version}"'})
