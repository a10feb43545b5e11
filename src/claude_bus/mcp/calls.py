"""A call of a tool, for both transports of MCP: runs it as the session or subagent that makes it."""

from __future__ import annotations

import json
import logging

from .. import names, quoting
from ..claude_code import TOOL_USE_ID
from ..errors import BusError, InvalidInput
from . import hooks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..session.subagents import SessionGroup

_log = logging.getLogger(__name__)

_ERROR_CHARS = 4_000


class Outcome:
    """The answer to a call: a text or, for a hook without news, none, and its structure."""

    __slots__ = ("failed", "structured", "text")

    def __init__(self, text: str, structured: dict[str, Any] | None = None, *, failed: bool = False) -> None:
        self.text, self.structured, self.failed = text, structured, failed

    def result(self) -> dict[str, Any]:
        """Return it as the result of `tools/call`."""
        content = [{"type": "text", "text": self.text}] if self.text else []
        structured = {} if self.structured is None else {"structuredContent": self.structured}
        return {"content": content, **structured, "isError": self.failed}


async def call(
    group: SessionGroup, number: int | str | None, name: str, arguments: dict[str, Any], meta: Any, program: str
) -> Outcome:
    """Run a call; `number` is the client's request, `program` the client's name and version."""
    group.answers(number)
    if name == hooks.NAME:
        return await call_hook(group, arguments)
    return await _call(group, str((meta or {}).get(TOOL_USE_ID, "")), name, arguments, program)


async def _call(group: SessionGroup, call: str, name: str, arguments: dict[str, Any], program: str) -> Outcome:
    """Run a tool. This is the edge of the process: no error in a call may end the server."""
    from . import tools  # a session whose model calls no tool needs none

    try:
        session = await group.caller(call)
        with group.at_work(session):
            await session.membership.introduce(quoting.one_line(program, names.MAX_NAME))
            answer = await tools.call(session, name, arguments)
    except BusError as error:
        return refused(error)
    except Exception as error:  # noqa: BLE001 - see above
        _log.exception("tool %s", name)
        return Outcome(_said(f"{name} failed unexpectedly: {type(error).__name__}: {error}"), failed=True)
    if isinstance(answer, str):
        return Outcome(quoting.visible(answer))
    shown = quoting.inert(answer)
    return Outcome(json.dumps(shown, ensure_ascii=False), shown)


async def call_hook(group: SessionGroup, arguments: dict[str, Any]) -> Outcome:
    """Run a hook event. A failure must not disturb the user's turn: it shows at most one line, once."""
    try:
        answer = await hooks.handle(group, hooks.read(arguments))
    except hooks.Unreadable as error:
        return Outcome(f"hook: {error}", failed=True)
    except InvalidInput as error:  # e.g. a file that no claim can name: the user could not fix it
        _log.debug("hook: %s", error)
        answer = "{}"
    except BusError as error:
        new = group.session.conversation.first_time(error)
        answer = json.dumps({"systemMessage": f"bus: {_said(error.message)}"}) if new else "{}"
    except Exception:  # noqa: BLE001 - see above
        _log.exception("hook")
        answer = "{}"
    return Outcome(answer)


def refused(error: BusError) -> Outcome:
    """Return an error of the bus as the outcome of the call."""
    return Outcome(_said(error.message), failed=True)


def _said(message: str) -> str:
    """Return an error as one line, because it may quote what peers wrote."""
    return quoting.one_line(message, _ERROR_CHARS)
