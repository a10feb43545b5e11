"""The hook tool: the client's hooks call it; the model does not see it.

`hooks/hooks.json` of the plugin, or the user's settings after an installation, call it
with the fields of their event. It answers with the JSON that the client expects of a
hook, or with nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any

from .. import claim_text, claude_code
from ..model.hooks import Injection
from ..model.identity import Status
from ..session.hook_event import HookEvent
from ..session.session import Session
from ..session.subagents import SessionGroup, Subagent

NAME = "hook"
DESCRIPTION = "For the client's hooks; not for the model."
_QUIET = "{}"


class Unreadable(Exception):
    """An event that has no name, or has something else than text in one of its fields."""


@cache
def _fields() -> frozenset[str]:
    return frozenset(field.name for field in fields(HookEvent))


def read(arguments: Mapping[str, Any]) -> HookEvent:
    """Return the event that the client reports; unknown fields are ignored. Raises `Unreadable`.

    Read by hand: pydantic would do it in one line, and every session would load it at its first prompt.
    """
    given = {name: value for name, value in arguments.items() if name in _fields()}
    invalid = sum(not isinstance(value, str) for value in given.values()) + ("event" not in given)
    if invalid:
        raise Unreadable(f"{invalid} invalid fields")
    return HookEvent(**given)


async def handle(group: SessionGroup, event: HookEvent) -> str:
    """Handle one event and return the hook's JSON.

    With nothing to say it returns an empty object: the client would show an answer without text
    to the model as "hook success". After a compaction it returns no text at all, because the
    client then reports the hook in any case and would quote the object.

    The answer to an event of a subagent goes to the subagent: it gets its own mail, and never the
    session's mail. Its edits count as edits of the session.
    """
    if event.event == "PreToolUse":
        return await _before_tool(group, event)
    if event.agent_id:
        found = await _subagent(group, event)
    elif stopped := claude_code.stopped_subagent(event.prompt):
        await group.end(stopped)
        found = await _prompt(group.session, event)
    else:
        react = _REACTIONS.get(event.event)
        found = await react(group.session, event) if react else Injection()
    if group.remark and event.event == "UserPromptSubmit" and not event.agent_id:
        found = replace(found, notice=f"{group.remark}\n{found.notice}".strip())
        group.remark = ""
    if found or found.notice:
        return _answer(event.event, found)
    return "" if event.event == "PostCompact" else _QUIET


_SILENT = frozenset({"UserPromptSubmit", "PostToolBatch"})
"""Events whose context the client shows only to the model; the user gets a separate notice."""


def _answer(event: str, found: Injection) -> str:
    answer: dict[str, object] = {}
    if found:
        answer["hookSpecificOutput"] = {"hookEventName": event, "additionalContext": found.context}
    if found.notice and event in _SILENT:
        answer["systemMessage"] = found.notice
    return json.dumps(answer, ensure_ascii=False)


async def _before_tool(group: SessionGroup, event: HookEvent) -> str:
    if event.tool_use_id:
        await group.announce(event.tool_use_id, event.agent_id)
        return _QUIET
    return await _edit(group.session, event)


async def _edit(session: Session, event: HookEvent) -> str:
    verdict = await session.edit(event.file)
    if not verdict.claim or verdict.action not in ("warn", "refuse"):
        return _QUIET
    now = time.time()
    output = {"hookEventName": "PreToolUse"}
    if verdict.action == "warn":
        output["additionalContext"] = claim_text.edit_warned(verdict.claim, now)
    else:
        output["permissionDecision"] = "deny"
        output["permissionDecisionReason"] = claim_text.edit_refused(verdict.claim, now, final=verdict.final)
    return json.dumps({"hookSpecificOutput": output}, ensure_ascii=False)


async def _subagent(group: SessionGroup, event: HookEvent) -> Injection:
    subagent = await group.subagent(event.agent_id)
    with group.at_work(subagent.session):
        return await _told_subagent(group, subagent, event)


async def _told_subagent(group: SessionGroup, subagent: Subagent, event: HookEvent) -> Injection:
    if event.event == "SubagentStart":
        return await subagent.starts(event)
    if event.event == "PostToolBatch":
        return await subagent.used_tools(event, worked=_worked(event))
    if event.event == "PostCompact":
        await subagent.conversation.compacted()
    if event.event == "StopFailure":
        await group.end(event.agent_id)
    if event.event != "SubagentStop":
        return Injection()
    found = await subagent.stops(event)
    if not found:
        await group.end(event.agent_id)
    return found


async def _prompt(session: Session, event: HookEvent) -> Injection:
    return await session.conversation.prompt(event, typed=claude_code.is_typed(event.prompt))


async def _batch(session: Session, event: HookEvent) -> Injection:
    return await session.conversation.batch(event, worked=_worked(event))


def _worked(event: HookEvent) -> bool:
    """Return whether the event contains work; True as well if the hook does not list its tools."""
    names = event.tools.split()
    return not names or any(map(claude_code.is_work, names))


async def _stop(session: Session, event: HookEvent) -> Injection:
    return await session.conversation.stop(event)


async def _failed(session: Session, event: HookEvent) -> Injection:
    await session.conversation.failed(event)
    return Injection()


async def _notified(session: Session, event: HookEvent) -> Injection:
    status = _NOTIFICATIONS.get(event.notification_type)
    if status:
        await session.presence.became(status, event.session_id)
    return Injection()


async def _compacted(session: Session, event: HookEvent) -> Injection:
    await session.conversation.compacted()
    return Injection()


_NOTIFICATIONS: dict[str, Status] = {
    "idle_prompt": "idle",
    "permission_prompt": "waiting",
    "elicitation_dialog": "waiting",
}
_REACTIONS: dict[str, Callable[[Session, HookEvent], Awaitable[Injection]]] = {
    "UserPromptSubmit": _prompt,
    "PostToolBatch": _batch,
    "Stop": _stop,
    "StopFailure": _failed,
    "Notification": _notified,
    "PostCompact": _compacted,
}
EVENTS = (*_REACTIONS, "PreToolUse", "SubagentStart", "SubagentStop")
"""The events that hooks must be registered for."""
