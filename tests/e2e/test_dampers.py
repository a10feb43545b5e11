"""Two sessions cannot keep each other talking for ever."""

from __future__ import annotations

from claude_bus import waking

from . import reading
from .conftest import TOOLS, StartSession
from .fake_anthropic import Request, Script, Turn, text, tool
from .peer import Peer, eventually


def polite(peer: str) -> Script:
    """A model that replies with thanks to every message."""

    def answer(request: Request) -> Turn:
        return tool(f"{TOOLS}__send", to=peer, content="Thank you!") if reading.mail(request) else text("ok")

    return answer


def test_two_sessions_that_thank_each_other_stop_by_themselves(session: StartSession, onlooker: Peer) -> None:
    """Each wakes the other until ten messages have led to one another; the last one waits for a prompt of the user."""
    alice = session("alice", default=polite("bob"))
    bob = session("bob", default=polite("alice"))
    bob.turn("hello")  # from now on it can be woken
    alice.model.push(tool(f"{TOOLS}__send", to="bob", content="Done."))
    alice.say("tell bob")

    eventually(lambda: onlooker.rows("SELECT 1 FROM messages WHERE hops = ?", waking.MAX_HOPS), "they thank each other")
    for one in (alice, bob):
        one.wait_until("idle")
    messages = onlooker.rows("SELECT id, hops, recipient FROM messages ORDER BY id")
    assert [hops for _, hops, _ in messages] == list(range(waking.MAX_HOPS + 1))
    last, _, reader = messages[-1]
    assert onlooker.rows("SELECT state FROM deliveries WHERE message = ?", last) == [("queued",)]
    told = [result for one in (alice, bob) for result in one.model.main[-1].tool_results()]
    assert sum("not woken: 10 messages led to one another" in result for result in told) == 1

    stopped = {"alice": alice, "bob": bob}[reader]
    assert [m.id for m in reading.mail(stopped.say("what is new"))] == [last]
