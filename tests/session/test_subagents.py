"""The subagents of a session: they leave its mail alone, and may have names of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from claude_bus import limits
from claude_bus.errors import BusError, InvalidInput, NameTaken, NotRegistered, StoreBusy
from claude_bus.mcp import hooks
from claude_bus.session import subagents
from claude_bus.session.hook_event import HookEvent
from claude_bus.session.session import Session
from claude_bus.session.subagents import SessionGroup, SubagentMembership
from claude_bus.sql import agents, bindings
from tests.support.processes import PATIENCE, Peer, answer, wire
from tests.support.sessions import Party, carried, say, state_of
from tests.support.verbs import running

pytestmark = pytest.mark.anyio


class Family:
    """A registered session whose turn goes on, and hook events of its subagents."""

    def __init__(self, session: Session) -> None:
        self.participants = SessionGroup(session)
        self.session = session

    async def event(self, event: str, agent: str = "", **more: str) -> str:
        """Return the text that the event puts before the model."""
        given = HookEvent(event=event, agent_id=agent, session_id="s", prompt_id="p1", **more)
        found: dict[str, Any] = json.loads(await hooks.handle(self.participants, given))
        output = found.get("hookSpecificOutput", {})
        assert output.get("hookEventName", event) == event
        return str(output.get("additionalContext", ""))

    async def caller(self, agent: str, call: str = "toolu_1") -> Session:
        """The session that makes a call, which the hook before it announced."""
        await self.event("PreToolUse", agent, tool_use_id=call)
        return await self.participants.caller(call)


async def family(party: Party, name: str = "backend") -> Family:
    return Family(await party.join(name))


# -- without a name ------------------------------------------------------------------------------


async def test_who_calls_is_what_the_hook_before_the_call_said(party: Party) -> None:
    """Calls of several subagents and of the session may cross; each is told by its own id."""
    backend = await family(party)
    await backend.event("PreToolUse", "agent1", tool_use_id="one")
    await backend.event("PreToolUse", "agent2", tool_use_id="two")
    await backend.event("PreToolUse", "", tool_use_id="three")

    callers = {call: await backend.participants.caller(call) for call in ("two", "three", "one", "unheard of")}

    assert callers["three"] is callers["unheard of"] is backend.session
    assert isinstance(callers["one"].membership, SubagentMembership)
    assert isinstance(callers["two"].membership, SubagentMembership)
    assert callers["one"] is not callers["two"]


async def test_calls_that_never_came_are_forgotten(party: Party) -> None:
    """The user may refuse a call after its hook has run."""
    backend = await family(party)
    for number in range(1500):
        await backend.participants.announce(str(number), "agent1" if number > 1400 else "")
    party.now += 2 * limits.CALL_LASTS
    await backend.session.bus.prune()

    assert len(backend.participants._calls) == 100
    assert await backend.participants.caller("0") is backend.session
    assert await backend.participants.caller("1499") is not backend.session


async def test_a_call_may_come_to_another_server_than_its_hook(party: Party) -> None:
    """After a kill, or where a session has two servers: it is told for a subagent's all the same."""
    backend, alice = await family(party), await party.join("alice")
    await say(alice, "backend", "for the session")
    await backend.event("PreToolUse", "agent1", tool_use_id="toolu_1")
    after = Family(party.session(backend.session.client))

    with pytest.raises(NotRegistered, match="subagent of 'backend'"):
        await (await after.participants.caller("toolu_1")).inbox()


@pytest.mark.parametrize("event", ["SubagentStart", "PostToolBatch", "SubagentStop", "UserPromptSubmit", "Stop"])
async def test_events_of_a_subagent_do_not_touch_its_sessions_mail(party: Party, event: str) -> None:
    """They bring nothing, and prove nothing that was handed to the session."""
    backend, alice = await family(party), await party.join("alice")
    handed = await say(alice, "backend", "with the prompt")
    assert carried(await backend.event("UserPromptSubmit")) == ["with the prompt"]
    waiting = await say(alice, "backend", "later")

    assert not await backend.event(event, "agent1")

    assert [await state_of(alice, m) for m in (handed, waiting)] == ["handed", "queued"]


@pytest.mark.parametrize("verb", ["inbox", "wait", "leave"])
async def test_a_subagent_without_a_name_is_refused_its_sessions_mail(party: Party, verb: str) -> None:
    """It is told whose subagent it is, and how to have mail of its own."""
    backend, alice = await family(party), await party.join("alice")
    message = await say(alice, "backend", "for the session")
    caller = await backend.caller("agent1")

    with pytest.raises(NotRegistered, match=r"subagent of 'backend'.*'backend-tests'"):
        await (caller.wait(5) if verb == "wait" else getattr(caller, verb)())

    assert await state_of(alice, message) == "queued"
    assert [m.content for m in (await backend.session.inbox()).messages] == ["for the session"]


async def test_a_subagent_without_a_name_speaks_for_its_session(party: Party) -> None:
    """Its messages are from the session, and so are answers to it; claims are the session's."""
    backend, alice = await family(party), await party.join("alice")
    caller = await backend.caller("agent1")

    await say(caller, "alice", "a question")
    await caller.claim(["src/a.py"], ttl=60, shared=False, reason="")

    [message] = (await alice.inbox()).messages
    assert message.sender == "backend"
    assert [c.owner for c in await alice.list_claims()] == ["backend"]
    assert [a.name for a in await alice.bus.run(agents.listing, "default")] == ["alice", "backend"]


# -- with a name of its own ----------------------------------------------------------------------


async def test_a_subagent_that_registers_has_its_own_mail(party: Party) -> None:
    """It comes between its own tool calls; the session gets none of it, nor it any of the session's."""
    backend, alice = await family(party), await party.join("alice")
    tests = await backend.caller("agent1")
    await tests.register("backend-tests", "runs the tests")
    own = await say(alice, "backend-tests", "run the slow ones too")
    other = await say(alice, "backend", "for the session")

    assert not carried(await backend.event("PostToolBatch", "agent2"))
    assert carried(await backend.event("PostToolBatch", "agent1")) == ["run the slow ones too"]
    assert carried(await backend.event("PostToolBatch")) == ["for the session"]
    assert [await state_of(alice, m) for m in (own, other)] == ["handed", "handed"]

    await backend.event("PostToolBatch", "agent1")
    assert [await state_of(alice, m) for m in (own, other)] == ["read", "handed"]


async def test_a_named_subagent_sends_and_reads_as_itself(party: Party) -> None:
    """Answers go to it by its name."""
    backend, alice = await family(party), await party.join("alice")
    tests = await backend.caller("agent1")
    await tests.register("backend-tests")

    await say(tests, "alice", "all green")
    [message] = (await alice.inbox()).messages
    await say(alice, "backend-tests", "thanks", reply_to=message.id)

    assert message.sender == "backend-tests"
    assert [m.content for m in (await tests.inbox()).messages] == ["thanks"]
    assert not (await backend.session.inbox()).messages


async def test_a_subagent_counts_as_working_until_it_ends(party: Party) -> None:
    """Then it is offline and its mail waits; the session goes on."""
    backend, alice = await family(party), await party.join("alice")
    tests = await backend.caller("agent1")
    await tests.register("backend-tests")
    assert {a.name: a.status for a in await alice.bus.run(agents.listing, "default")}["backend-tests"] == "working"

    assert not await backend.event("SubagentStop", "agent1")

    status = {a.name: a.status for a in await alice.bus.run(agents.listing, "default")}
    assert (status["backend-tests"], status["backend"]) == ("offline", "idle")


async def test_mail_makes_a_subagent_go_on_three_times_at_most(party: Party) -> None:
    """Then it ends all the same, and what comes later waits for it."""
    backend, alice = await family(party), await party.join("alice")
    await (await backend.caller("agent1")).register("backend-tests")
    sent = []
    for number in range(4):
        sent.append(await say(alice, "backend-tests", f"one more {number}"))
        found = carried(await backend.event("SubagentStop", "agent1"))
        assert found == ([f"one more {number}"] if number < 3 else [])

    assert [await state_of(alice, m) for m in sent] == ["read", "read", "read", "queued"]


async def test_a_subagent_that_comes_back_has_its_name_and_mail_again(party: Party) -> None:
    """The client starts the same subagent again when it is sent a message (seen on 2.1.328)."""
    backend, alice = await family(party), await party.join("alice")
    await (await backend.caller("agent1")).register("backend-tests")
    await backend.event("SubagentStop", "agent1")
    await say(alice, "backend-tests", "while you were gone")

    assert not await backend.event("SubagentStart", "agent2")
    assert carried(await backend.event("SubagentStart", "agent1")) == ["while you were gone"]


async def test_a_named_subagent_survives_its_server(party: Party) -> None:
    """A server that follows on a killed one knows it by its events."""
    backend, alice = await family(party), await party.join("alice")
    await (await backend.caller("agent1")).register("backend-tests")
    await say(alice, "backend-tests", "still there?")
    after = Family(party.session(backend.session.client))

    assert carried(await after.event("PostToolBatch", "agent1")) == ["still there?"]
    assert (await (await after.caller("agent1")).whoami()).address.name == "backend-tests"  # type: ignore[union-attr]


async def test_a_subagent_cannot_take_its_sessions_name(party: Party) -> None:
    """The name is held by a live session; nothing of the attempt is left."""
    backend = await family(party)
    caller = await backend.caller("agent1")

    with pytest.raises(NameTaken):
        await caller.register("backend")
    with pytest.raises(BusError):
        await caller.register("not a name")

    assert [a.name for a in await backend.session.bus.run(agents.listing, "default")] == ["backend"]
    with pytest.raises(NotRegistered):
        await caller.inbox()


async def test_a_subagent_that_leaves_speaks_for_its_session_again(party: Party) -> None:
    """Its name is off the bus, the session's is not."""
    backend = await family(party)
    caller = await backend.caller("agent1")
    await caller.register("backend-tests")

    await caller.leave()

    assert (await caller.whoami()).address.name == "backend"  # type: ignore[union-attr]
    assert [a.name for a in await backend.session.bus.run(agents.listing, "default")] == ["backend"]


async def test_its_subagents_end_with_a_session(party: Party) -> None:
    """When the client ends, its names are no longer held."""
    backend, alice = await family(party), await party.join("alice")
    await (await backend.caller("agent1")).register("backend-tests")

    await backend.session.presence.close()

    assert {a.name for a in await alice.bus.run(agents.listing, "default") if a.status != "offline"} == {"alice"}


async def test_claims_of_a_named_subagent_are_its_sessions(party: Party) -> None:
    """So an edit of either is no obstacle to the other."""
    backend = await family(party)
    tests = await backend.caller("agent1")
    await tests.register("backend-tests")

    await tests.claim(["src/a.py"], ttl=60, shared=False, reason="")

    assert [c.owner for c in await tests.list_claims()] == ["backend"]
    assert await backend.session.release(["src/a.py"])


# -- many of them --------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Of so few subagents a server knows."""
    monkeypatch.setattr(subagents, "KNOWN", 5)
    return subagents.KNOWN


def known(family: Family) -> int:
    return len(family.participants._subagents)


async def many(family: Family, count: int) -> None:
    """So many others make a call."""
    for number in range(count):
        await (await family.caller(f"other{number}", f"call{number}")).whoami()


async def test_those_without_a_name_are_known_again_when_they_call(party: Party, few: int) -> None:
    """However many a client has had, a server knows so many; who is forgotten speaks for its session as before."""
    backend, alice = await family(party), await party.join("alice")
    first = await backend.caller("agent1")
    await many(backend, 3 * few)

    again = await backend.caller("agent1")
    await say(again, "alice", "still here")

    assert known(backend) == few
    assert again is not first
    assert [m.sender for m in (await alice.inbox()).messages] == ["backend"]
    with pytest.raises(NotRegistered, match="subagent of 'backend'"):
        await again.inbox()


async def test_the_last_ones_are_known(party: Party, few: int) -> None:
    """Forgotten is who was not heard of for longest."""
    backend = await family(party)
    first, second = await backend.caller("agent1"), await backend.caller("agent2")
    await many(backend, few - 2)
    assert await backend.caller("agent1") is first

    await backend.caller("one more")

    assert await backend.caller("agent1") is first
    assert await backend.caller("agent2") is not second


async def test_a_named_subagent_outlasts_those_without_a_name(party: Party, few: int) -> None:
    """Its hand-overs are proven by its next batch, whatever the others did."""
    backend, alice = await family(party), await party.join("alice")
    tests = await backend.caller("agent1")
    await tests.register("backend-tests")
    message = await say(alice, "backend-tests")
    await backend.event("PostToolBatch", "agent1")

    await many(backend, 2 * few)

    assert await backend.caller("agent1") is tests
    await backend.event("PostToolBatch", "agent1")
    assert await state_of(alice, message) == "read"


async def named(family: Family, count: int) -> None:
    """So many subagents take part."""
    for number in range(count):
        await (await family.caller(f"named{number}", f"call{number}")).register(f"backend-{number}")


async def test_one_of_too_many_named_subagents_comes_back(party: Party, few: int) -> None:
    """It is offline meanwhile; what it was handed without proof comes again, marked, and is proven then."""
    backend, alice = await family(party), await party.join("alice")
    await (await backend.caller("agent1")).register("backend-tests")
    message = await say(alice, "backend-tests", "were you told?")
    assert carried(await backend.event("PostToolBatch", "agent1")) == ["were you told?"]

    await named(backend, few)

    assert known(backend) == few
    assert {a.name: a.status for a in await alice.bus.run(agents.listing, "default")}["backend-tests"] == "offline"
    assert await state_of(alice, message) == "queued"
    again = await backend.event("PostToolBatch", "agent1")
    assert carried(again) == ["were you told?"]
    assert "possibly_seen" in again
    assert await state_of(alice, message) == "handed"
    await backend.event("PostToolBatch", "agent1")
    assert await state_of(alice, message) == "read"
    assert (await (await backend.caller("agent1")).whoami()).address.name == "backend-tests"  # type: ignore[union-attr]


async def test_an_answer_given_up_after_its_reader_was_forgotten(party: Party, few: int) -> None:
    """The mail that it carried did not reach the model, and does not count as read when the subagent comes back."""
    backend, alice = await family(party), await party.join("alice")
    tests = await backend.caller("agent1")
    await tests.register("backend-tests")
    message = await say(alice, "backend-tests", "in an answer")
    backend.participants.answers("7")
    assert (await tests.inbox()).messages

    await named(backend, few)
    backend.participants.gave_up("7")

    assert await state_of(alice, message) == "queued"
    assert carried(await backend.event("PostToolBatch", "agent1")) == ["in an answer"]


async def test_a_request_is_remembered_by_little(party: Party) -> None:
    """Its client chose its id, as long as it liked, and may still say that it gave it up."""
    backend, alice = await family(party), await party.join("alice")
    message = await say(alice, "backend", "in an answer")
    backend.participants.answers("x" * 100_000)
    assert (await backend.session.inbox()).messages

    assert [sys.getsizeof(request) < 100 for request in backend.session.conversation.turn._answers] == [True]
    backend.participants.gave_up("x" * 100_000)
    await backend.session.whoami()
    assert await state_of(alice, message) == "queued"


async def test_who_waits_is_not_forgotten(party: Party, few: int) -> None:
    """A subagent in the middle of a call keeps its name and gets its mail, however many others come."""
    backend, alice = await family(party), await party.join("alice")
    tests = await backend.caller("agent1")
    await tests.register("backend-tests")
    found: list[str] = []

    async def wait() -> None:
        with backend.participants.at_work(tests):
            found.extend(m.content for m in (await tests.wait(PATIENCE)).messages)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await named(backend, few)
        await say(alice, "backend-tests", "wake up")
        backend.session.waiting.mail_arrived()

    assert found == ["wake up"]
    assert await backend.caller("agent1") is tests


async def test_who_cannot_be_forgotten_now_is_kept(party: Party, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store fails, the call that would need the room fails, and nothing is lost of those that are known."""
    backend, alice = await family(party), await party.join("alice")
    await (await backend.caller("agent1")).register("backend-tests")
    message = await say(alice, "backend-tests")
    await backend.event("PostToolBatch", "agent1")
    await named(backend, few - 1)

    async def busy(_client: str) -> None:
        raise StoreBusy("busy")

    with monkeypatch.context() as patch:
        patch.setattr(backend.session.bus, "run_for", running(backend.session.bus, {bindings.detach: busy}))
        with pytest.raises(StoreBusy):
            await backend.caller("one more")

    await backend.event("PostToolBatch", "agent1")
    assert await state_of(alice, message) == "read"


@pytest.mark.parametrize("wrong", [{"agent_id": "x" * 201}, {"tool_use_id": "x" * 201}, {"agent_id": "a\nb"}])
async def test_ids_that_are_none(party: Party, wrong: dict[str, str]) -> None:
    """A server remembers little of calls that never come: an id may be no longer than a client's."""
    backend = await family(party)
    event = HookEvent(**{"event": "PreToolUse", "tool_use_id": "toolu_1", "agent_id": "agent1", **wrong})

    with pytest.raises(InvalidInput, match="the id of a"):
        await hooks.handle(backend.participants, event)

    assert not backend.participants._calls


# -- on the wire ---------------------------------------------------------------------------------


def test_a_call_is_told_by_its_tool_use_id(tmp_path: Path) -> None:
    """The client sends it in `_meta`, and to the hook before the call with the subagent's id."""
    with wire(tmp_path / "bus.db") as server:
        server.call("register", name="backend")
        Peer(tmp_path / "bus.db", "alice").send("backend", "for the session")
        server.call("hook", event="PreToolUse", agent_id="agent1", tool_use_id="toolu_1")
        meta = {"claudecode/toolUseId": "toolu_1"}

        refused = answer(server.ask("tools/call", name="inbox", arguments={}, _meta=meta))
        read = answer(server.ask("tools/call", name="inbox", arguments={}, _meta={"claudecode/toolUseId": "toolu_2"}))

        assert refused.failed
        assert "subagent of 'backend'" in refused.text
        assert [m["content"] for m in read.data["messages"]] == ["for the session"]


def test_a_waiting_subagent_hears_of_its_mail(tmp_path: Path) -> None:
    """Mail for its name is announced to its session's server."""
    with wire(tmp_path / "bus.db") as server:
        server.call("register", name="backend")
        meta = {"claudecode/toolUseId": "toolu_1"}
        server.call("hook", event="PreToolUse", agent_id="agent1", tool_use_id="toolu_1")
        server.ask("tools/call", name="register", arguments={"name": "backend-tests"}, _meta=meta)
        server.call("hook", event="PreToolUse", agent_id="agent1", tool_use_id="toolu_1")
        asked = server.post("tools/call", name="wait", arguments={"timeout": 50}, _meta=meta)
        server.call("whoami")

        Peer(tmp_path / "bus.db", "alice").send("backend-tests", "wake up")

        found = server.read()
        assert found["id"] == asked
        assert [m["content"] for m in answer(found).data["messages"]] == ["wake up"]
