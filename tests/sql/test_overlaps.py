"""Overlaps: who works on the same files, and where; a session is told of each once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from claude_bus import claim_paths, worktree
from claude_bus.mcp import tools
from claude_bus.model.claims import ClaimTarget
from claude_bus.model.hooks import HookReport
from claude_bus.model.identity import Address, Folder, Overlap
from claude_bus.session.session import Session
from claude_bus.sql import agents, bindings, claims, guard, sessions
from tests.support.sessions import Party, prompt_hook, stop_hook
from tests.support.store import Store
from tests.support.working_trees import git, repository

CHANNEL = "default"
SHOP, TOOLS = "example.org/shop", "example.org/tools"
TREE = "/home/me/shop"


def join(store: Store, name: str, *owns: str, repository: str = SHOP, channel: str = CHANNEL) -> Address:
    """A session that works in a repository and says what it owns there."""
    client = store.client(session_id=f"conversation of {name}", folder=Folder(TREE, TREE, repository))
    store(bindings.attach, client, None, channel)
    who = store(agents.register, client.key, Address(name, channel), "", owns).address
    store.clients[who] = client
    return who


def take(store: Store, who: Address, *paths: str, scope: str = SHOP, **more: Any) -> None:
    store(claims.claim, who, [ClaimTarget(scope, path) for path in paths], **{"ttl": 1800} | more)


def edit(store: Store, who: Address, path: str, scope: str = SHOP) -> None:
    store(guard.edit, store.clients[who], ClaimTarget(scope, path), TREE, "confirm")


def overlaps(store: Store, channel: str = CHANNEL) -> dict[str, dict[str, tuple[str, ...]]]:
    """For each agent that overlaps with others, with whom and where."""
    listed = store(agents.listing, channel, None)
    return {a.name: {o.name: o.paths for o in a.overlaps} for a in listed if a.overlaps}


def both(one: str, other: str, *where: str) -> dict[str, dict[str, tuple[str, ...]]]:
    return {one: {other: where}, other: {one: where}}


# -- who, and where ----------------------------------------------------------------------------


def test_what_one_owns_and_another_owns_claims_or_edits_overlaps(store: Store) -> None:
    """Both are shown with each other, with every place where they meet and no other."""
    join(store, "alice", "src/**")
    bob = join(store, "bob", "src/api.py", "docs/**")
    assert overlaps(store) == both("alice", "bob", "src/api.py")

    take(store, bob, "src/web.py", "docs/a.md")
    assert overlaps(store) == both("alice", "bob", "src/api.py", "src/web.py")

    edit(store, bob, "src/main.py")
    assert overlaps(store) == both("alice", "bob", "src/api.py", "src/main.py", "src/web.py")

    store.now += claim_paths.EDIT_CLAIM
    assert overlaps(store) == both("alice", "bob", "src/api.py", "src/web.py")

    store(claims.release, bob, None)
    assert overlaps(store) == both("alice", "bob", "src/api.py")


def test_a_path_is_narrower_than_a_glob_whoever_has_it(store: Store) -> None:
    """Where is told alike to both, whichever side names the very file."""
    join(store, "alice", "src/api/users.py")
    bob = join(store, "bob")
    take(store, bob, "src/**")

    assert overlaps(store) == both("alice", "bob", "src/api/users.py")


def test_shared_claims_overlap_too(store: Store) -> None:
    """Two who share a claim may both edit, and should know of each other."""
    alice, bob = join(store, "alice"), join(store, "bob")
    take(store, alice, "docs/**", shared=True)
    take(store, bob, "docs/guide.md", shared=True)

    assert overlaps(store) == both("alice", "bob", "docs/guide.md")


def test_the_same_glob_in_another_repository_is_something_else(store: Store) -> None:
    """Files that are owned, claimed or edited there do not overlap with those of the same path here."""
    join(store, "alice", "src/**")
    bob = join(store, "bob", "src/**", repository=TOOLS)
    take(store, bob, "src/api/**", scope=TOOLS)
    edit(store, bob, "src/main.py", scope=TOOLS)
    assert overlaps(store) == {}

    take(store, bob, "src/web.py", scope=SHOP)
    assert overlaps(store) == both("alice", "bob", "src/web.py")


def test_resources_are_no_files(store: Store) -> None:
    """Neither a claimed port nor the pattern of everything overlaps with the other."""
    alice, bob = join(store, "alice", "**"), join(store, "bob")
    take(store, bob, "port:8080", scope="")
    take(store, alice, "port:9090", scope="")

    assert overlaps(store) == {}


def test_only_present_agents_on_the_same_channel_overlap(store: Store) -> None:
    """Those who are gone, or are elsewhere, are in nobody's way."""
    join(store, "alice", "src/**")
    bob = join(store, "bob", "src/**")
    join(store, "carol", "src/**", channel="web")
    assert overlaps(store) == both("alice", "bob", "src/**")
    assert overlaps(store, "web") == {}

    store.die(bob)
    assert overlaps(store) == {}


def test_many_overlap_each_with_each(store: Store) -> None:
    """Everybody is shown all others that meet its files, and nobody itself."""
    join(store, "alice", "src/**")
    join(store, "bob", "src/api.py")
    join(store, "carol", "src/web.py")

    assert overlaps(store) == {
        "alice": {"bob": ("src/api.py",), "carol": ("src/web.py",)},
        "bob": {"alice": ("src/api.py",)},
        "carol": {"alice": ("src/web.py",)},
    }


def test_where_two_globs_meet_is_told_by_one_of_them(store: Store) -> None:
    """Globs that share a path without either containing the other meet at one of the two patterns."""
    join(store, "alice", "src/*.py")
    join(store, "bob", "src/a*")

    for others in overlaps(store).values():
        [(where,)] = others.values()
        assert where in ("src/*.py", "src/a*")
    assert set(overlaps(store)) == {"alice", "bob"}


# -- told once -----------------------------------------------------------------------------------


def told(store: Store, who: Address, *, conversation: str = "", prompt: bool = True) -> tuple[Overlap, ...]:
    """Return the overlaps that a hook event of a session reports."""
    client = store.clients[who]
    happening = HookReport("prompt hook", 6000, conversation or client.session_id, roster=prompt)
    reaction = store.by(client.process)(sessions.handle_hook_event, client, happening)
    assert reaction
    return reaction.overlaps


def test_an_overlap_is_told_once_to_each(store: Store) -> None:
    """The next prompt of either session tells it; later ones do not."""
    alice, bob = join(store, "alice", "src/**"), join(store, "bob")
    assert told(store, alice) == ()
    take(store, bob, "src/api.py")

    assert told(store, alice) == (Overlap("bob", ("src/api.py",)),)
    assert told(store, bob) == (Overlap("alice", ("src/api.py",)),)
    assert told(store, alice) == told(store, bob) == ()


def test_only_what_is_new_of_an_overlap_is_told(store: Store) -> None:
    """A further place, or a further agent, is told without what was told before."""
    alice, bob = join(store, "alice", "src/**"), join(store, "bob", "src/api/**")
    told(store, alice)
    take(store, bob, "src/web/**")
    assert told(store, alice) == (Overlap("bob", ("src/web/**",)),)

    join(store, "carol", "src/web/**")
    assert told(store, alice) == (Overlap("carol", ("src/web/**",)),)


def test_an_overlap_that_went_and_came_back_is_told_again(store: Store) -> None:
    """Being noticed gone at a prompt in between makes it new."""
    alice, bob = join(store, "alice", "src/**"), join(store, "bob")
    take(store, bob, "src/api/**")
    assert told(store, alice) != ()
    store(claims.release, bob, None)
    assert told(store, alice) == ()
    take(store, bob, "src/api/**")

    assert told(store, alice) == (Overlap("bob", ("src/api/**",)),)
    assert told(store, alice) == ()


def test_renewing_a_claim_is_nothing_new(store: Store) -> None:
    """Neither a claim that is claimed again nor edits that go on are told again."""
    alice, bob = join(store, "alice", "src/**"), join(store, "bob")
    take(store, bob, "src/api/**")
    edit(store, bob, "src/main.py")
    assert told(store, alice) == (Overlap("bob", ("src/api/**", "src/main.py")),)
    store.now += claim_paths.EDIT_CLAIM - 1
    take(store, bob, "src/api/**", reason="still at it")
    edit(store, bob, "src/main.py")
    store.now += claim_paths.EDIT_CLAIM - 1

    assert told(store, alice) == ()


@pytest.mark.parametrize("loss", ["clear", "compaction"])
def test_a_conversation_that_lost_it_is_told_again(store: Store, loss: str) -> None:
    """After /clear or a compaction the session hears of its overlaps once more."""
    alice = join(store, "alice", "src/**")
    join(store, "bob", "src/**")
    expected = (Overlap("bob", ("src/**",)),)
    assert told(store, alice) == expected
    conversation = ""
    if loss == "clear":
        conversation = "another conversation"
    else:
        store(bindings.forget, store.clients[alice].key)

    assert told(store, alice, conversation=conversation) == expected
    assert told(store, alice, conversation=conversation) == ()


def test_only_a_prompt_tells_of_overlaps(store: Store) -> None:
    """Between tool calls nothing is said; the next prompt says it."""
    alice = join(store, "alice", "src/**")
    join(store, "bob", "src/**")

    assert told(store, alice, prompt=False) == ()
    assert told(store, alice) != ()


# -- sessions in real folders ----------------------------------------------------------------------


def overlap_lines(context: str) -> list[str]:
    return re.findall(r"^Overlap on the bus with (.*)\. Agree", context, re.MULTILINE)


async def prompt(session: Session, number: int, conversation: str = "s") -> list[str]:
    """Return the overlaps that a prompt reports; the model answers it."""
    found = await prompt_hook(session, conversation, f"p{number}", "default")
    await stop_hook(session, conversation, "default", f"p{number}")
    return overlap_lines(found.context)


@pytest.mark.anyio
async def test_sessions_in_two_worktrees_overlap_and_are_told_once(party: Party, tmp_path: Path) -> None:
    """In words, with the paths of the repository; again only after the conversation was cleared."""
    shop = repository(tmp_path / "shop")
    git(shop, "worktree", "add", str(tmp_path / "feature"))
    alice = await party.join("alice", folder=worktree.folder(shop))
    bob = await party.join("bob", folder=worktree.folder(tmp_path / "feature"))
    await alice.register("alice", owns=["src/**"])
    await bob.claim(["src/api.py", "docs/guide.md"], ttl=600, shared=False, reason="")

    assert await prompt(alice, 1) == ['bob: "src/api.py"']
    assert await prompt(alice, 2) == []
    assert await prompt(bob, 1) == ['alice: "src/api.py"']
    assert await prompt(alice, 3, "another conversation") == ['bob: "src/api.py"']
    answer = await tools.call(alice, "agents", {})
    assert isinstance(answer, dict)
    rows = {row["name"]: row for row in answer["agents"]}
    assert {name: row["overlaps"] for name, row in rows.items()} == {"alice": ["bob"], "bob": ["alice"]}
    assert rows["alice"]["overlap_paths"] == {"bob": ["src/api.py"]}


@pytest.mark.anyio
async def test_sessions_in_two_repositories_do_not_overlap(party: Party, tmp_path: Path) -> None:
    """The same globs, and edits of files with the same path, are of different repositories; a clone is the same one."""
    folders = {name: repository(tmp_path / name) for name in ("shop", "tools")}
    git(tmp_path, "clone", "-q", str(folders["shop"]), "clone")
    alice = await party.join("alice", folder=worktree.folder(folders["shop"]))
    bob = await party.join("bob", folder=worktree.folder(folders["tools"]))
    await alice.register("alice", owns=["src/**"])
    await bob.register("bob", owns=["src/**"])
    await bob.edit("src/main.py")
    assert await prompt(alice, 1) == await prompt(bob, 1) == []

    carol = await party.join("carol", folder=worktree.folder(tmp_path / "clone"))
    await carol.edit("src/main.py")
    assert await prompt(alice, 2) == ['carol: "src/main.py"']
    assert await prompt(bob, 2) == []
