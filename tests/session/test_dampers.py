"""The limits that keep sessions from talking for ever, and from flooding one another."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_bus import waking
from claude_bus.errors import RateLimited
from claude_bus.mcp import hooks
from claude_bus.model.identity import Address
from claude_bus.model.messages import Draft
from claude_bus.session.hook_event import HookEvent
from claude_bus.session.session import Session
from claude_bus.session.subagents import SessionGroup
from claude_bus.sql import agents, deliveries, messages
from claude_bus.sql import messages as sql_messages
from tests.support.sessions import Party, batch_hook, prompt_hook, say, stop_hook
from tests.support.store import Store

pytestmark = pytest.mark.anyio

BUS_TOOL = "mcp__plugin_bus_bus__send"
PUSHED = (
    '<cross-session-message from="claude-bus" from-name="x">\n1 unread on the bus from x (#1)\n</cross-session-message>'
)


class Polite:
    """A session whose model answers whatever it gets with thanks, and does `work` first if it has any."""

    def __init__(self, session: Session, peer: str, work: str = "") -> None:
        self.session = session
        self.peer = peer
        self.work = work
        self.turns = 0
        self.said: list[str] = []
        self._participants = SessionGroup(session)

    async def _event(self, event: str, **more: str) -> bool:
        """Whether the event puts mail before the model."""
        given = HookEvent(
            event=event, session_id=self.peer, prompt_id=f"p{self.turns}", permission_mode="default", **more
        )
        answer: dict[str, Any] = json.loads(await hooks.handle(self._participants, given))
        return "<bus-message-" in answer.get("hookSpecificOutput", {}).get("additionalContext", "")

    async def turn(self, prompt: str) -> None:
        """From a prompt to the end: thanks for whatever comes with the prompt, between tools, and at the end."""
        self.turns += 1
        mail = await self._event("UserPromptSubmit", prompt=prompt)
        while mail:
            if self.work:
                await self._event("PostToolBatch", tools=self.work)
            sent = await self.session.send(Draft((self.peer,), "Thank you!"))
            self.said.append(sent.expectations[0].outlook)
            mail = await self._event("PostToolBatch", tools=f"{BUS_TOOL} ToolSearch")
            mail = await self._event("Stop") or mail

    async def is_woken(self) -> bool:
        return await self.session.bus.run(deliveries.ring, self.session.client.key, idle=False) is not None


async def polite(party: Party, name: str, peer: str, work: str = "") -> Polite:
    session = await party.join(name, may_wake=lambda _mode: True)
    await prompt_hook(session, peer, "p0", "default")
    await stop_hook(session, peer, "default")
    return Polite(session, peer, work)


async def converse(party: Party, one: Polite, other: Polite, limit: int) -> int:
    """Let each be woken as often as the doorbell would; returns the turns both had."""
    for _ in range(limit):
        woken = [who for who in (one, other) if await who.is_woken()]
        if not woken:
            party.now += waking.RING_AFTER[1] + 1  # what is due again rings again
            woken = [who for who in (one, other) if await who.is_woken()]
        if not woken:
            break
        for who in woken:
            await who.turn(PUSHED)
    return one.turns + other.turns


# -- thanks for the thanks -------------------------------------------------------------------------


async def test_two_sessions_that_thank_each_other_stop_by_themselves(party: Party) -> None:
    """After ten messages no session is woken; nothing is lost, and the sender was told."""
    alice, bob = await polite(party, "alice", "bob"), await polite(party, "bob", "alice")
    await say(alice.session, "bob", "Done.")

    turns = await converse(party, alice, bob, limit=100)

    assert turns == waking.MAX_HOPS == 10
    assert [*alice.said, *bob.said].count("quiet") == 1
    assert alice.said[-1] == "quiet"
    last = await bob.session.bus.run(deliveries.waiting, (await bob.session.presence.attach()).address)
    assert (last.count, last.rings) == (1, False)


async def test_a_users_word_lets_them_go_on(party: Party) -> None:
    """The mail that waits comes with the user's prompt, and what the session says then wakes again."""
    alice, bob = await polite(party, "alice", "bob"), await polite(party, "bob", "alice")
    await say(alice.session, "bob", "Done.")
    await converse(party, alice, bob, limit=100)

    await bob.turn("go on")

    assert bob.said[-1] == "waking"


async def test_sessions_that_work_are_woken_for_ever(party: Party) -> None:
    """One that uses other tools before it answers begins anew: this is no idle talk."""
    alice, bob = await polite(party, "alice", "bob", work="Bash"), await polite(party, "bob", "alice")
    await say(alice.session, "bob", "The tests fail.")

    assert await converse(party, alice, bob, limit=40) == 40


async def test_a_round_of_three_stops_too(party: Party) -> None:
    """It is what led to a message that counts, not who sent it."""
    names = ["alice", "bob", "carol"]
    ring = [await polite(party, name, names[(n + 1) % 3]) for n, name in enumerate(names)]
    await say(ring[0].session, "bob", "Pass it on.")
    turns = 0
    while woken := [who for who in ring if await who.is_woken()]:
        for who in woken:
            await who.turn(PUSHED)
            turns += 1

    assert turns == waking.MAX_HOPS


async def test_talk_within_a_turn_ends_too(party: Party) -> None:
    """Two that wait for one another's messages with the tool are refused at last, and told why."""
    alice, bob = await party.join("alice"), await party.join("bob")
    for session in (alice, bob):
        await prompt_hook(session, "s", "p1", "default")
    pair = [(alice, "bob"), (bob, "alice")]
    for sent in range(waking.MAX_TALK):
        me, peer = pair[sent % 2]
        await say(me, peer, "And thank you!")
        await pair[(sent + 1) % 2][0].inbox()
        await batch_hook(me, "s", "default", worked=False)

    with pytest.raises(RateLimited, match=r"30 messages in a row without any tool use"):
        await say(alice, "bob", "And thank you!")


async def test_without_hooks_nothing_is_known_and_nothing_damped(party: Party) -> None:
    """A client whose turns nobody tells of cannot be woken either."""
    alice, bob = await party.join("alice"), await party.join("bob")
    pair = [(alice, "bob"), (bob, "alice")]
    for number in range(2 * waking.MAX_TALK):
        me, peer = pair[number % 2]
        await say(me, peer)
        await pair[(number + 1) % 2][0].inbox()


async def test_a_batch_whose_tools_are_not_told_counts_as_work(party: Party) -> None:
    """Hooks of an earlier version do not name them."""
    alice, bob = await polite(party, "alice", "bob", work=" "), await polite(party, "bob", "alice")
    await say(alice.session, "bob")

    assert await converse(party, alice, bob, limit=40) == 40


# -- how much a session may send -------------------------------------------------------------------


async def limited(party: Party, name: str, rate: int) -> Session:
    """A registered session whose bus lets it send so many messages a minute."""
    return await party.join(name, rate=rate)


async def test_a_session_may_send_so_much_a_minute(party: Party) -> None:
    """More is refused with how long to wait; nothing of it is stored."""
    alice = await limited(party, "alice", 8)
    for number in range(8):
        await say(alice, f"peer{number}")
    with pytest.raises(RateLimited, match=r"8 messages in the last minute, the limit is 8.*wait 60 s") as refused:
        await say(alice, "peer9")

    assert refused.value.data == {"retry_after": 60}
    assert len((await alice.history("", None, 0, 100)).messages) == 8
    party.now += 61
    await say(alice, "peer9")


async def test_a_quarter_of_it_to_one_recipient(party: Party) -> None:
    """Others can still be told."""
    alice = await limited(party, "alice", 8)
    await say(alice, "bob")
    party.now += 20
    await say(alice, "bob")
    with pytest.raises(RateLimited, match=r"2 messages to 'bob' .*wait 40 s"):
        await say(alice, "bob")

    await say(alice, "carol")
    with pytest.raises(RateLimited):
        await alice.send(Draft(("carol", "bob"), "to both"))


async def test_a_repetition_with_a_key_is_not_counted(party: Party) -> None:
    """It sends nothing."""
    alice = await limited(party, "alice", 4)
    await say(alice, "bob", key="k")
    for _ in range(10):
        assert (await alice.send(Draft(("bob",), "hello", key="k"))).duplicate


async def test_a_clock_that_goes_back_refuses_nobody(party: Party) -> None:
    """Messages with a time in the future are not counted."""
    alice = await limited(party, "alice", 4)
    for number in range(4):
        await say(alice, f"peer{number}")
    party.now -= 3600

    await say(alice, "bob")


def test_programs_may_send_as_much_as_they_like(store: Store) -> None:
    """The limit is for sessions, which a model drives; scripts know what they do."""
    from claude_bus.model.identity import Address
    from claude_bus.sql import agents, messages

    ci = Address("ci", "default")
    store(agents.join_without_session, ci, "script")
    store.join("bob")

    for _ in range(20):
        store.by(rate=4)(messages.send, ci, Draft(("bob",), "built"))


# -- wakes have a budget ---------------------------------------------------------------------------


async def flood(party: Party, bob: Session, *, messages: int, every: float) -> int:
    """A program sends so many messages, one each `every` seconds; returns how often the session was woken."""
    address = (await bob.presence.attach()).address
    await bob.bus.run(agents.join_without_session, Address("ci", address.channel), "command line")
    woken = 0
    for number in range(messages):
        await bob.bus.run(sql_messages.send, Address("ci", address.channel), Draft((address.name,), f"build {number}"))
        party.now += every
        if await bob.bus.run(deliveries.ring, bob.client.key, idle=False):
            woken += 1
            await turn(bob, f"flood {party.now}")
    return woken


async def turn(session: Session, prompt_id: str) -> None:
    """A turn in which the model only reads what came."""
    await prompt_hook(session, "s", prompt_id, "default")
    await stop_hook(session, "s", "default", prompt_id)
    await stop_hook(session, "s", "default", prompt_id)


async def woken_session(party: Party, name: str) -> Session:
    session = await party.join(name, may_wake=lambda _mode: True)
    await turn(session, "first")
    return session


async def test_a_program_that_floods_wakes_a_session_only_so_often(party: Party) -> None:
    """Thirty messages in a minute are six turns; the rest waits, and is read with the next."""
    bob = await woken_session(party, "bob")

    assert await flood(party, bob, messages=30, every=2.0) == 6

    party.now += 60
    await bob.bus.run(messages.send, Address("ci", "default"), Draft(("bob",), "last"))
    assert await bob.bus.run(deliveries.ring, bob.client.key, idle=False)
    assert len((await bob.inbox()).messages) > 1


async def test_new_mail_still_wakes_a_session_that_leaves_old_mail_unread(party: Party) -> None:
    """A message that is too long for a hook stays in the inbox, and may stay there: it must not silence the rest."""
    bob = await woken_session(party, "bob")
    alice = await party.join("alice")
    await say(alice, "bob", "long " * 5_000)
    for _ in waking.RING_AFTER:
        party.now += waking.RING_AFTER[-1] + 1
        assert await bob.bus.run(deliveries.ring, bob.client.key, idle=False)
    party.now += waking.RING_AFTER[-1] + 1
    assert not await bob.bus.run(deliveries.ring, bob.client.key, idle=False)

    await say(alice, "bob", "fyi", kind="fyi")
    assert not await bob.bus.run(deliveries.ring, bob.client.key, idle=False)
    await say(alice, "bob", "and now?")
    assert await bob.bus.run(deliveries.ring, bob.client.key, idle=False)
    await say(alice, "bob", "quickly!")
    assert not await bob.bus.run(deliveries.ring, bob.client.key, idle=False)


async def test_a_program_that_floods_is_told_when_it_wakes(party: Party) -> None:
    """`send` says so instead of promising a wake that does not come."""
    bob = await woken_session(party, "bob")
    await flood(party, bob, messages=10, every=1.0)

    [expected] = (await bob.bus.run(messages.send, Address("ci", "default"), Draft(("bob",), "more"))).expectations

    assert expected.outlook == "waking"
    assert re.fullmatch(r"in up to \d+s: it was woken often", expected.hint)


async def test_a_flood_of_a_program_does_not_keep_a_session_from_waking(party: Party) -> None:
    """Programs and sessions have budgets of their own."""
    bob = await woken_session(party, "bob")
    alice = await party.join("alice")
    await flood(party, bob, messages=10, every=1.0)

    await say(alice, "bob", "and I?")

    assert await bob.bus.run(deliveries.ring, bob.client.key, idle=False)


async def test_sessions_wake_each_other_within_a_budget_too(party: Party) -> None:
    """A session wakes another twenty times in a row, then once each six seconds."""
    bob = await woken_session(party, "bob")
    alice = await party.join("alice")

    woken = 0
    for number in range(40):
        await say(alice, "bob", f"{number}")
        party.now += 0.5
        if await bob.bus.run(deliveries.ring, bob.client.key, idle=False):
            woken += 1
            await turn(bob, f"turn {number}")

    assert woken == 23


@given(
    spent=st.floats(-1e9, 1e9), now=st.floats(-1e9, 1e9), by_program=st.booleans(), steps=st.lists(st.floats(0, 100))
)
def test_wakes_stay_within_their_budget_whatever_the_clock_does(
    spent: float, now: float, by_program: bool, steps: list[float]
) -> None:
    """In any time there are at most the burst, and one for each that is paid for; a wait is never longer than that."""
    every, burst = waking.WAKE_EVERY[by_program], waking.WAKE_BURST[by_program]
    began, woken = now, 0
    spent = waking.wake_spent(spent, now, by_program=by_program) - every
    for step in steps:
        now += step
        wait = waking.wake_wait(spent, now, by_program=by_program)
        assert 0 <= wait <= every + 1e-3
        if not wait:
            woken += 1
            spent = waking.wake_spent(spent, now, by_program=by_program)
    assert woken <= burst + (now - began) / every + 1
