"""The hook tool: what the client's hooks call, kept from the model.

`hooks/hooks.json` of the plugin, and the user's settings after an installation, call
it with the fields of their event. It answers with the JSON the client expects of a
hook, or with nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable

from pydantic import BaseModel, ConfigDict

from .. import claude_code, text
from ..model import Injection, Status
from ..session import Session
from ..subagents import Participants, Subagent

NAME = "hook"
DESCRIPTION = "For the client's hooks; not for the model."
_QUIET = "{}"


class Event(BaseModel):
    """A hook event. Fields the client leaves out arrive as empty strings."""

    model_config = ConfigDict(extra="ignore")

    event: str
    session_id: str = ""
    prompt_id: str = ""
    agent_id: str = ""
    permission_mode: str = ""
    notification_type: str = ""
    prompt: str = ""
    tools: str = ""
    """Names of the first tools of a batch, by spaces."""
    tool_use_id: str = ""
    """The call of a tool of the bus that is about to be made."""
    path: str = ""
    """The file an edit tool is about to write."""
    notebook_path: str = ""


async def handle(participants: Participants, event: Event) -> str:
    """React to one event; returns hook JSON.

    With nothing to say that is an empty object: an answer without text would be told to
    the model as "hook success". After a compaction it is no text at all: there the client
    tells of the hook in any case, and would quote the object.

    The answer to an event of a subagent lands in the subagent: it gets its own mail, and
    never the session's. Its edits are the session's.
    """
    if event.event == "PreToolUse":
        return await _before_tool(participants, event)
    if event.agent_id:
        found = await _subagent(participants, event)
    elif stopped := claude_code.stopped_subagent(event.prompt):
        await participants.end(stopped)
        found = await _prompt(participants.session, event)
    else:
        react = _REACTIONS.get(event.event)
        found = await react(participants.session, event) if react else Injection()
    if found:
        return _answer(event.event, found)
    return "" if event.event == "PostCompact" else _QUIET


_SILENT = frozenset({"UserPromptSubmit", "PostToolBatch"})
"""Events whose context the client puts before the model only: the person gets a line of his own."""


def _answer(event: str, found: Injection) -> str:
    answer: dict[str, object] = {"hookSpecificOutput": {"hookEventName": event, "additionalContext": found.context}}
    if found.notice and event in _SILENT:
        answer["systemMessage"] = found.notice
    return json.dumps(answer, ensure_ascii=False)


async def _before_tool(participants: Participants, event: Event) -> str:
    if event.tool_use_id:
        await participants.announce(event.tool_use_id, event.agent_id)
        return _QUIET
    return await _edit(participants.session, event)


async def _edit(session: Session, event: Event) -> str:
    verdict = await session.edit(event.path or event.notebook_path)
    if not verdict.claim or verdict.action not in ("warn", "refuse"):
        return _QUIET
    now = time.time()
    output = {"hookEventName": "PreToolUse"}
    if verdict.action == "warn":
        output["additionalContext"] = text.edit_warned(verdict.claim, now)
    else:
        output["permissionDecision"] = "deny"
        output["permissionDecisionReason"] = text.edit_refused(verdict.claim, now, final=verdict.final)
    return json.dumps({"hookSpecificOutput": output}, ensure_ascii=False)


async def _subagent(participants: Participants, event: Event) -> Injection:
    subagent = await participants.subagent(event.agent_id)
    with participants.at_work(subagent):
        return await _told_subagent(participants, subagent, event)


async def _told_subagent(participants: Participants, subagent: Subagent, event: Event) -> Injection:
    if event.event == "SubagentStart":
        return await subagent.starts()
    if event.event == "PostToolBatch":
        return await subagent.used_tools(worked=_worked(event))
    if event.event == "PostCompact":
        await subagent.compacted()
    if event.event == "StopFailure":
        await participants.end(event.agent_id)
    if event.event != "SubagentStop":
        return Injection()
    found = await subagent.stops()
    if not found:
        await participants.end(event.agent_id)
    return found


async def _prompt(session: Session, event: Event) -> Injection:
    typed = claude_code.is_typed(event.prompt)
    return await session.prompt(event.session_id, event.prompt_id, event.permission_mode, event.prompt, typed=typed)


async def _batch(session: Session, event: Event) -> Injection:
    return await session.batch(event.session_id, event.permission_mode, event.prompt_id, worked=_worked(event))


def _worked(event: Event) -> bool:
    """Also if the hook does not tell the tools."""
    names = event.tools.split()
    return not names or any(map(claude_code.is_work, names))


async def _stop(session: Session, event: Event) -> Injection:
    return await session.stop(event.session_id, event.permission_mode, event.prompt_id)


async def _failed(session: Session, event: Event) -> Injection:
    await session.failed(event.session_id)
    return Injection()


async def _notified(session: Session, event: Event) -> Injection:
    status = _NOTIFICATIONS.get(event.notification_type)
    if status:
        await session.became(status, event.session_id)
    return Injection()


async def _compacted(session: Session, event: Event) -> Injection:
    await session.compacted()
    return Injection()


_NOTIFICATIONS: dict[str, Status] = {
    "idle_prompt": "idle",
    "permission_prompt": "waiting",
    "elicitation_dialog": "waiting",
}
_REACTIONS: dict[str, Callable[[Session, Event], Awaitable[Injection]]] = {
    "UserPromptSubmit": _prompt,
    "PostToolBatch": _batch,
    "Stop": _stop,
    "StopFailure": _failed,
    "Notification": _notified,
    "PostCompact": _compacted,
}
EVENTS = (*_REACTIONS, "PreToolUse", "SubagentStart", "SubagentStop")
"""The events that hooks must be registered for."""
