"""Latecomers: earlier broadcasts, names that are taken, names long gone, sessions without hooks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from claude_bus import addresses, claude_code, limits, text
from claude_bus.errors import NameTaken
from claude_bus.mcp import tools
from claude_bus.model.identity import Address, Agent, Client, Folder
from claude_bus.model.messages import Draft
from claude_bus.session.session import Session
from claude_bus.sql import agents, deliveries
from tests.support.sessions import Party, carried, prompt_hook, say, stop_hook
from tests.support.store import HOST, START

pytestmark = pytest.mark.anyio

HOUR, DAY = 3_600.0, 86_400.0


async def announce(party: Party, *ages: float) -> Session:
    """A session that broadcast so long ago, in seconds, oldest first; the clock is back at the start."""
    ann = await party.join("ann")
    for age in sorted(ages, reverse=True):
        party.now = START - age
        await say(ann, "all", f"sent {text.ago(age)} ago")
    party.now = START
    return ann


def hooked(party: Party, **more: Any) -> Session:
    """A session whose hooks bring its mail."""
    process = party.process()
    folder = Folder("/home/me/shop", "/home/me/shop")
    return party.session(Client(f"client:{process}", process, folder, "s", hooked=True), **more)


# -- broadcasts from before ------------------------------------------------------------------------


async def test_a_late_joiner_is_given_what_is_news_with_its_age(party: Party) -> None:
    """A broadcast of ten minutes ago comes by itself, and says how old it is."""
    await announce(party, 600)
    bob = await party.join("bob")

    context = (await prompt_hook(bob, "s", "p1", "default")).context

    assert carried(context) == ["sent 10min ago"]
    assert 'age="10min"' in context


async def test_older_broadcasts_wait_in_the_inbox_and_are_announced_in_one_line(party: Party) -> None:
    """A session that registers at its start is told how many there are; none of them is put before its model."""
    await announce(party, 3 * DAY, 2 * HOUR, 600)
    bob = party.session(name="bob")

    context = (await prompt_hook(bob, "s", "p1", "default")).context
    await stop_hook(bob, "s", "default", "p1")
    again = (await prompt_hook(bob, "s", "p2", "default")).context

    assert carried(context) == ["sent 10min ago"]
    assert "2 broadcasts from before you joined: call the bus tool inbox to read them, if they matter." in context
    assert again == ""
    found = (await bob.inbox()).messages
    assert [(m.content, text.ago(m.age)) for m in found] == [("sent 3d ago", "3d"), ("sent 2h ago", "2h")]


async def test_who_registers_is_told_of_all_that_waits(party: Party) -> None:
    """The answer of register counts them, so that nothing more has to be said of them."""
    await announce(party, 3 * DAY, 600)
    bob = party.session()

    _, _, unread = await bob.register("bob")
    context = (await prompt_hook(bob, "s", "p1", "default")).context

    assert unread == 2
    assert carried(context) == ["sent 10min ago"]
    assert "from before you joined" not in context


async def test_earlier_broadcasts_neither_wake_nor_keep_a_turn_going(party: Party) -> None:
    """An urgent one of last week is no emergency of today."""
    ann = await party.join("ann")
    party.now = START - 7 * DAY
    await ann.send(Draft(("all",), "the build is broken", urgent=True))
    party.now = START
    bob = await party.join("bob", may_wake=lambda _mode: True)
    await prompt_hook(bob, "s", "p1", "default")

    end = await stop_hook(bob, "s", "default", "p1")

    assert not end.context
    assert await bob.bus.run(deliveries.ring, bob.client.key, idle=True) is None


async def test_mail_that_was_sent_to_somebody_has_no_age(party: Party) -> None:
    """Only what is from before they came; also when it waited for long."""
    ann, bob = await party.join("ann"), await party.join("bob")
    await say(ann, "bob", "direct")
    await say(ann, "all", "to all")
    party.now += 5 * DAY

    context = (await prompt_hook(bob, "s", "p1", "default")).context

    assert carried(context) == ["direct", "to all"]
    assert "age=" not in context


# -- what send says --------------------------------------------------------------------------------


async def outlook(sender: Session, to: str) -> tuple[str, str]:
    sent = await sender.send(Draft((to,), "x"))
    [expected] = sent.expectations
    return expected.outlook, text.expectation(expected, START)


async def test_a_session_without_hooks_reads_when_it_calls_inbox(party: Party) -> None:
    """As with uvx alone, or over HTTP: nothing brings it its mail at its next turn."""
    ann, _ = await party.join("ann"), await party.join("bob")

    assert await outlook(ann, "bob") == ("inbox", "here without hooks, reads it when it calls inbox")


async def test_a_session_whose_hooks_are_known_or_were_seen_gets_it_at_its_next_turn(party: Party) -> None:
    """The plugin's are known from the start; the first event shows any others."""
    ann, bob, carol = await party.join("ann"), hooked(party), await party.join("carol")
    await bob.register("bob")
    await turn(carol)

    assert [(await outlook(ann, name))[0] for name in ("bob", "carol")] == ["idle", "idle"]


async def turn(session: Session) -> None:
    await prompt_hook(session, "s", "p1", "default")
    await stop_hook(session, "s", "default", "p1")


async def test_a_program_that_asks_for_its_mail_is_not_called_offline(party: Party) -> None:
    """It was heard of a moment ago; one that has not been for long is away."""
    ann = await party.join("ann")
    await ann.bus.run(agents.join_without_session, Address("ci", "default"), "command line")

    assert await outlook(ann, "ci") == ("inbox", "no session, seen 0s ago; reads it when it asks")
    party.now += limits.PROGRAM_PRESENT
    assert (await outlook(ann, "ci"))[0] == "offline"


# -- names -----------------------------------------------------------------------------------------


async def test_a_taken_name_is_refused_with_who_has_it_where_and_the_ways_on(party: Party) -> None:
    """Another name here, or the same on another channel."""
    await party.join("bob", folder=Folder("/home/me/shop", "/home/me/shop"))

    with pytest.raises(NameTaken) as refused:
        await party.join("bob")

    assert refused.value.message == (
        "'bob' is held by a live session (idle, in \"/home/me/shop\"); 'bob-2' is free. Sessions of another project "
        "can have names of their own on another channel: register(name, channel=...), or BUS_CHANNEL"
    )


async def test_names_long_gone_are_counted_and_not_listed(party: Party) -> None:
    """Sessions unseen for a week are left out, unless one asks for as long."""
    await announce(party, 0)
    for name, ago in (("yesterday", DAY), ("last-month", 30 * DAY)):
        party.now = START - ago
        await (await party.join(name)).presence.close()
    party.now = START
    ann = await party.join("ann-2")

    listed = await answer(party, ann)
    everybody = await answer(party, ann, active_within="60d")

    assert [a["name"] for a in listed["agents"]] == ["ann", "ann-2", "yesterday"]
    assert listed["not_seen_for_a_week"] == 1
    assert [a["name"] for a in everybody["agents"]] == ["ann", "ann-2", "yesterday", "last-month"]


async def answer(party: Party, session: Session, **arguments: Any) -> dict[str, Any]:
    """The answer of the tool, at the time of the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("claude_bus.mcp.tools.time.time", lambda: party.now)
        found = await tools.call(session, "agents", arguments)
    assert isinstance(found, dict)
    found["agents"].sort(key=lambda agent: (agent["status"] == "offline", agent["seconds_ago"], agent["name"]))
    return found


def test_a_live_session_is_never_gone() -> None:
    """Also one that has been silent for long."""
    agent = Agent("a", "default", "", (), True, "idle", START - 30 * DAY, 0.0, "", "", HOST)

    assert not addresses.is_gone(agent, START)


@pytest.mark.parametrize(
    ("settings", "brings"),
    [
        ({"hooks": {"UserPromptSubmit": [{"hooks": [{"type": "mcp_tool", "server": "bus", "tool": "hook"}]}]}}, True),
        ({"hooks": {"UserPromptSubmit": [{"hooks": [{"type": "command", "command": "x"}]}]}}, False),
        ({"hooks": {"Stop": [{"hooks": [{"type": "mcp_tool", "server": "bus", "tool": "hook"}]}]}}, False),
        ({}, False),
    ],
)
def test_hooks_in_the_users_settings_are_known_before_the_first_comes(
    settings: dict[str, Any], brings: bool, tmp_path: Path
) -> None:
    """As `claude-bus setup` puts them there."""
    (tmp_path / "settings.json").write_text(json.dumps(settings), encoding="utf-8")

    assert claude_code.brings_mail({"CLAUDE_CONFIG_DIR": str(tmp_path)}) is brings


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes in folders")
def test_a_settings_file_that_is_a_pipe_does_not_hold_up_a_start(tmp_path: Path) -> None:
    """It is looked at only if it is a file."""
    os.mkfifo(tmp_path / "settings.json")

    assert not claude_code.brings_mail({"CLAUDE_CONFIG_DIR": str(tmp_path)})
