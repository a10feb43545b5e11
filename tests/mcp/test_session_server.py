"""The calls of a stdio server's client."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from claude_bus.mcp import protocol, session_server
from claude_bus.mcp.pipes import Intake, Output
from claude_bus.model.messages import Message
from claude_bus.session.subagents import SessionGroup
from claude_bus.workspace import Workspace
from tests.support.sessions import Party, say

pytestmark = pytest.mark.anyio


async def test_a_call_that_ends_although_it_was_cancelled_hands_nothing_over(
    party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled call whose last wait is over already runs to its end, and is not answered."""
    alice, bob = await party.join("alice"), await party.join("bob")
    await say(alice, "bob")
    lines: list[bytes] = []
    output = Output(1, lines.append)
    calls = session_server._Calls(SessionGroup(bob), Intake(0, output), output)
    call = protocol.Call(7, {"name": "inbox"}, "", {}, protocol._Single(output.send))

    async def examined(_workspace: Workspace, messages: Sequence[Message]) -> tuple[Message, ...]:
        calls._cancel(protocol.Cancelled(7))
        return tuple(messages)

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "examined", examined)
        await calls._answer(call, calls._begin(call))

    assert lines == []
    [message] = (await bob.inbox()).messages
    assert message.possibly_seen
