"""The guard: an edit meets the claims of others at the moment it is made."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from claude_bus import claim_paths, patterns, worktree
from claude_bus.cli.guard import standing
from claude_bus.errors import InvalidInput
from claude_bus.mcp import hooks
from claude_bus.model.claims import Claim, ClaimTarget, Guard, Verdict
from claude_bus.model.identity import Address, Folder
from claude_bus.session.hook_event import HookEvent
from claude_bus.session.session import Session
from claude_bus.session.subagents import SessionGroup
from claude_bus.sql import claims, guard
from claude_bus.workspace import Workspace
from tests.support.sessions import Party
from tests.support.store import Store

REPO = "example.org/shop"
TREE = "/home/me/shop"


def edit(
    store: Store, who: Address, path: str, *, policy: Guard = "confirm", tree: str = TREE, file: str = ""
) -> Verdict:
    return store(guard.edit, store.clients[who], ClaimTarget(REPO, path, file), tree, policy)


def take(store: Store, who: Address, path: str, **more: Any) -> None:
    store(claims.claim, who, [ClaimTarget(REPO, path)], **{"ttl": 1800} | more)


def contents(store: Store, who: Address) -> list[str]:
    return [message.content for message in store.hand_over(who).messages]


def test_an_unclaimed_edit_passes_and_claims_its_file(store: Store) -> None:
    """Nothing stands against it; for a few minutes it stands against others' edits of the file in that tree."""
    alice, bob = store.join("alice"), store.join("bob")

    assert edit(store, alice, "src/a.py") == Verdict("pass")
    assert edit(store, bob, "src/a.py").action == "refuse"
    assert edit(store, bob, "src/a.py", tree="/home/me/other-worktree").action == "pass"
    store.now += claim_paths.EDIT_CLAIM + 1
    assert edit(store, bob, "src/b.py").action == "pass"


def test_the_claim_of_an_edit_ends_by_itself(store: Store) -> None:
    """After a few minutes without further edits the file is free."""
    alice, bob = store.join("alice"), store.join("bob")
    edit(store, alice, "src/a.py")
    store.now += claim_paths.EDIT_CLAIM + 1

    assert edit(store, bob, "src/a.py").action == "pass"


def test_a_claimed_edit_is_refused_once_then_goes_through_and_the_holder_is_told(store: Store) -> None:
    """The same edit again within ten minutes passes; the holder learns of it once."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "src/**", reason="moving the API")

    first = edit(store, bob, "src/a.py")
    assert (first.action, first.final) == ("refuse", False)
    assert first.claim
    assert (first.claim.owner, first.claim.reason) == ("alice", "moving the API")
    assert edit(store, bob, "src/a.py").action == "override"
    assert edit(store, bob, "src/a.py").action == "override"

    [told] = contents(store, alice)
    assert "src/a.py" in told
    assert "moving the API" in told


def test_a_refusal_is_for_one_file_and_for_ten_minutes(store: Store) -> None:
    """Another file is refused anew, and so is the same file later."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "src/**", ttl=86_400)
    edit(store, bob, "src/a.py")

    assert edit(store, bob, "src/b.py").action == "refuse"
    store.now += claim_paths.REFUSAL_LASTS + 1
    assert edit(store, bob, "src/a.py").action == "refuse"


def test_every_session_is_refused_for_itself(store: Store) -> None:
    """A refusal that one session was told does not open the file for another."""
    alice, bob, carol = store.join("alice"), store.join("bob"), store.join("carol")
    take(store, alice, "a.py")
    edit(store, bob, "a.py")

    assert edit(store, carol, "a.py").action == "refuse"


@pytest.mark.parametrize(("policy", "actions"), [("warn", ["warn", "warn"]), ("deny", ["refuse", "refuse"])])
def test_the_other_policies(store: Store, policy: Guard, actions: list[str]) -> None:
    """`warn` never refuses, `deny` never gives in; neither troubles the holder."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "a.py")

    assert [edit(store, bob, "a.py", policy=policy).action for _ in actions] == actions
    assert contents(store, alice) == []


def test_own_and_shared_claims_do_not_stand_against_an_edit(store: Store) -> None:
    """One may edit what one claims, and what one holds together with others; not what only others share."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "a.py")
    take(store, alice, "b.py", shared=True)
    take(store, bob, "b.py", shared=True)

    assert edit(store, alice, "a.py").action == "pass"
    assert edit(store, bob, "b.py").action == "pass"
    assert edit(store, store.join("carol"), "b.py").action == "refuse"


def test_an_edit_does_not_shorten_a_claim_of_its_own(store: Store) -> None:
    """The claim that a session made with a reason and for long stays as it was."""
    alice = store.join("alice")
    take(store, alice, "a.py", reason="release", ttl=7200)
    edit(store, alice, "a.py")

    [found] = store(claims.list_claims, "default")
    assert (found.reason, found.edit, found.expires) == ("release", False, store.now + 7200)


def test_the_claims_of_a_dead_session_stand_against_nothing(store: Store) -> None:
    """A crashed holder does not keep its files."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "a.py")
    store.die(alice)

    assert edit(store, bob, "a.py").action == "pass"


def test_case_does_not_evade_a_claim(store: Store) -> None:
    """Where files are told apart by case, a refusal too many does less harm than an edit too many."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "src/API.py")

    assert edit(store, bob, "SRC/api.py").action == "refuse"


def test_a_renamed_file_is_still_claimed(store: Store) -> None:
    """The identity of the file, not only its path, is claimed."""
    alice, bob = store.join("alice"), store.join("bob")
    store(claims.claim, alice, [ClaimTarget(REPO, "src/a.py", "1:42")], ttl=1800)

    assert edit(store, bob, "lib/b.py", file="1:42").action == "refuse"


def test_a_session_that_has_not_registered_is_guarded_too(store: Store) -> None:
    """Presence is enough: its edits are refused and claim files like any other's."""
    alice, guest = store.join("alice"), store.present("/home/me/shop")
    take(store, alice, "a.py")

    assert edit(store, guest, "a.py").action == "refuse"
    assert edit(store, guest, "b.py").action == "pass"
    assert edit(store, alice, "b.py").action == "refuse"


def test_force_ends_a_claim_and_tells_its_owner_why(store: Store) -> None:
    """A forced release needs a reason, which the owner reads."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "a.py")

    ended = store(guard.force_release, bob, [ClaimTarget(REPO, "a.py")], "alice went home")

    assert [place.path for place in ended] == ["a.py"]
    assert store(claims.list_claims, "default") == []
    assert contents(store, alice) == ["I ended your claim on 'a.py': alice went home"]


# -- spellings of one file, on a real file system ------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A repository with a file in a folder."""
    root = tmp_path / "shop"
    (root / "src").mkdir(parents=True)
    (root / "src" / "a.py").write_text("x = 1\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "first")
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)


def test_spelling_and_symlinks_lead_to_one_place(shop: Path, tmp_path: Path) -> None:
    """`./src/../src/a.py`, a link to the folder, and the path from elsewhere are the same claim."""
    (tmp_path / "link").symlink_to(shop)
    (shop / "other").symlink_to(shop / "src")
    inside, elsewhere = worktree.folder(shop), Folder(str(tmp_path), str(tmp_path))

    places = {
        worktree.claimed(inside, "src/a.py"),
        worktree.claimed(inside, "./src/../src//a.py"),
        worktree.claimed(inside, "other/a.py"),
        worktree.claimed(elsewhere, "link/src/a.py"),
        worktree.claimed(elsewhere, str(shop / "src" / "a.py")),
    }
    assert len(places) == 1


def test_a_renamed_folder_keeps_its_claims(shop: Path) -> None:
    """The repository may move as a whole, or the file within it, without its claims being lost."""
    before = worktree.claimed(worktree.folder(shop), "src/a.py")
    moved = shop.rename(shop.with_name("market"))
    (moved / "src").rename(moved / "lib")
    after = worktree.claimed(worktree.folder(moved), "lib/a.py")

    assert after.scope == before.scope
    assert after.file == before.file != ""


def test_worktrees_and_clones_share_what_is_claimed(shop: Path, tmp_path: Path) -> None:
    """The same path in another worktree or clone is the same place."""
    git(shop, "worktree", "add", "-q", str(tmp_path / "feature"))
    git(tmp_path, "clone", "-q", str(shop), "clone")
    scopes = {worktree.place(worktree.folder(tmp_path / name), "src/a.py") for name in ("shop", "feature", "clone")}

    assert len(scopes) == 1


# -- as the client's hook asks ---------------------------------------------------------


async def hook(session: Session, path: object, **fields: str) -> dict[str, Any]:
    """Return the answer of an edit's hook to the client."""
    event = HookEvent(event="PreToolUse", **{"path": str(path)} | fields)
    answer: dict[str, Any] = json.loads(await hooks.handle(SessionGroup(session), event))
    return dict(answer.get("hookSpecificOutput", {}))


@pytest.mark.anyio
async def test_the_hook_answers_in_the_clients_terms(party: Party, shop: Path) -> None:
    """Refused: a denial with its reason. Let through with a warning: context. Else: nothing at all."""
    party.now = time.time()
    where = worktree.folder(shop)
    alice = await party.join("alice", folder=where)
    await alice.claim(["src/**"], ttl=7200, shared=False, reason="moving the API")
    confirming = await party.join("bob", folder=where)
    warned = await party.join("carol", folder=where, guard="warn")

    refused = await hook(confirming, shop / "src" / "a.py")
    assert refused.pop("permissionDecisionReason").startswith(
        '"src/**" is claimed by \'alice\' for another 1h, reason: "'
    )
    assert refused == {"hookEventName": "PreToolUse", "permissionDecision": "deny"}
    assert await hook(confirming, shop / "src" / "a.py", agent_id="a-subagent") == {}
    warning = await hook(warned, "", notebook_path=str(shop / "src" / "a.ipynb"))
    assert "The edit was let through" in warning.pop("additionalContext")
    assert warning == {"hookEventName": "PreToolUse"}
    assert await hook(confirming, shop / "README.md") == await hook(confirming, "") == {}


@pytest.mark.anyio
async def test_a_guard_that_is_off_neither_looks_nor_claims(party: Party, shop: Path) -> None:
    """Its session edits what others claim, and leaves no edit claim behind."""
    where = worktree.folder(shop)
    alice = await party.join("alice", folder=where)
    await alice.claim(["src/a.py"], ttl=600, shared=False, reason="")
    bob = await party.join("bob", folder=where, guard="off")

    assert await hook(bob, shop / "src" / "a.py") == await hook(bob, shop / "src" / "b.py") == {}
    assert [claim.owner for claim in await alice.list_claims()] == ["alice"]


@pytest.mark.anyio
async def test_what_counts_is_where_the_file_lies(party: Party, shop: Path, tmp_path: Path) -> None:
    """An edit claims its file in the file's working tree, from wherever the session runs; a claim holds in all."""
    git(shop, "worktree", "add", "-q", str(tmp_path / "feature"))
    outside = worktree.folder(tmp_path)
    alice, bob = await party.join("alice", folder=outside), await party.join("bob", folder=outside)
    await alice.claim(["shop/src/a.py"], ttl=600, shared=False, reason="")
    await alice.edit("feature/src/b.py")

    assert (await bob.edit("feature/src/a.py")).action == "refuse"
    assert (await bob.edit("shop/src/b.py")).action == "pass"
    assert (await bob.edit("feature/src/b.py")).action == "refuse"


@pytest.mark.anyio
async def test_a_session_that_left_is_not_guarded(party: Party, shop: Path) -> None:
    """After leaving, a session's edits are its own business."""
    where = worktree.folder(shop)
    alice, bob = await party.join("alice", folder=where), await party.join("bob", folder=where)
    await alice.claim(["src/a.py"], ttl=600, shared=False, reason="")
    await bob.leave()

    assert await hook(bob, shop / "src" / "a.py") == {}


def test_a_claim_on_the_whole_repository_stands_in_it(shop: Path) -> None:
    """`.` at its root, or its absolute path, claims everything in the repository."""
    where = worktree.folder(shop)
    whole = worktree.claimed(where, ".")

    assert whole == worktree.claimed(where, str(shop))
    assert whole.scope == where.repository
    assert patterns.overlap(whole.path, worktree.target(where, "src/a.py").path)


# -- what once went wrong ---------------------------------------------------------------


def test_a_new_file_that_gets_the_number_of_a_claimed_one_is_not_that_file(shop: Path) -> None:
    """An editor replaces the file; the next new one may get the freed inode, and is unclaimed all the same."""
    where = worktree.folder(shop)
    before = worktree.claimed(where, "src/a.py").file
    (shop / "src" / "new").write_text("x = 2\n")
    (shop / "src" / "new").replace(shop / "src" / "a.py")
    (shop / "src" / "b.py").write_text("y = 1\n")

    assert worktree.target(where, "src/b.py").file != before


def test_brackets_in_a_name_are_part_of_it(shop: Path) -> None:
    """`app/[id]/page.tsx` is a file: neither a pattern for `app/i/page.tsx`, nor unclaimable."""
    (shop / "app" / "[id]").mkdir(parents=True)
    (shop / "app" / "[id]" / "page.tsx").write_text("")
    where = worktree.folder(shop)
    page = worktree.target(where, "app/[id]/page.tsx")

    assert worktree.claimed(where, "app/[id]/page.tsx") == page
    assert not patterns.overlap(page.path, "app/i/page.tsx")
    assert patterns.overlap(page.path, worktree.place(where, "app/[[]id]/**")[1])
    assert worktree.shown(where, *page[:2]) == "app/[id]/page.tsx"


def test_a_path_from_the_root_is_understood_at_the_root_too(shop: Path) -> None:
    """`/src/new.py` in a session that works in the repository's root: no machine has such a folder."""
    here = Workspace(worktree.folder(shop))
    assert here.understood(["/src/new.py"], "path") == [f"{shop}/src/new.py"]
    assert here.understood(["src/new.py", "new/a.py", str(shop / "b.py")], "path") == [
        "src/new.py",
        "new/a.py",
        str(shop / "b.py"),
    ]


@pytest.mark.anyio
async def test_an_empty_path_is_not_the_whole_folder(shop: Path) -> None:
    """The file system takes it for that: a model that left the argument empty would claim everything."""
    here = Workspace(worktree.folder(shop))
    with pytest.raises(InvalidInput, match="is empty"):
        here.understood([""], "path")
    with pytest.raises(InvalidInput, match="is empty"):
        await here.owned([""])
    assert here.understood(["."], "path") == ["."]


def test_any_name_is_guarded(shop: Path) -> None:
    """Names too long or too odd to be claimed by hand still meet the claims they fall under."""
    where = worktree.folder(shop)
    for path in ("./" * 600 + "src/a.py", "src/a\u00a0b.py", "src/\udcff.py"):
        assert patterns.overlap(worktree.target(where, path).path, "src/**")


@pytest.mark.parametrize(
    ("held", "wanted"), [("[!A-Z]*.py", "ab.py"), ("[A-_]x.py", "Cx.py"), ("?.py", "ß.py"), ("Src/A.py", "src/a.py")]
)
def test_folding_case_loses_no_overlap(store: Store, held: str, wanted: str) -> None:
    """Paths that overlap as they are spelled overlap, and so do paths that differ in capitals only."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, held)

    assert edit(store, bob, wanted).action == "refuse"


def test_sharers_do_not_lock_each_other_out(store: Store) -> None:
    """An edit under a shared claim makes no exclusive one."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "docs/**", shared=True)
    take(store, bob, "docs/**", shared=True)

    assert edit(store, bob, "docs/a.md").action == "pass"
    assert edit(store, alice, "docs/a.md").action == "pass"


@pytest.mark.anyio
async def test_a_commit_of_any_size_is_judged(party: Party) -> None:
    """Also where it has more files than one request may, and there are more patterns than are compared in one step."""
    alice, bob = await party.join("alice"), await party.join("bob")
    globs = [ClaimTarget(REPO, f"**/feature*/**/*_{n}?.ts") for n in range(20)]
    await alice.bus.run(
        claims.claim, (await alice.presence.attach()).address, [*globs, ClaimTarget(REPO, "src/zoo.ts")], ttl=1800
    )
    files = [ClaimTarget(REPO, f"src/components/feature{n % 20}/sub{n % 7}/module_{n}yy.ts") for n in range(250)]
    files += [ClaimTarget(REPO, f"docs/{n}.md") for n in range(3_000)]

    found = await standing(
        bob.bus, (await bob.presence.attach()).address, [*files, ClaimTarget(REPO, "src/zoo.ts")], TREE
    )

    assert [claim.path for claim in found if isinstance(claim, Claim)] == ["src/zoo.ts"]


@pytest.mark.anyio
async def test_a_file_that_cannot_be_compared_leaves_the_others_judged(
    party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is too much to compare by itself is `unchecked`, wherever it stands among the others."""
    monkeypatch.setattr(claim_paths, "MAX_EFFORT", 3_000)
    alice, bob = await party.join("alice"), await party.join("bob")
    await alice.bus.run(
        claims.claim, (await alice.presence.attach()).address, [ClaimTarget(REPO, "src/*.ts")], ttl=1800
    )
    await alice.bus.run(
        claims.claim, (await alice.presence.attach()).address, [ClaimTarget(REPO, "**/*a*b*.ts")], ttl=1800, shared=True
    )
    slow = ClaimTarget(REPO, "src/" + "/".join(str(n) for n in range(800)) + "/b.ts")

    found = await standing(
        bob.bus,
        (await bob.presence.attach()).address,
        [ClaimTarget(REPO, "src/a.ts"), slow, ClaimTarget(REPO, "b.md")],
        TREE,
    )

    assert [claim.path if isinstance(claim, Claim) else claim for claim in found] == ["src/*.ts", "unchecked", None]


@pytest.mark.anyio
async def test_names_of_files_that_nobody_can_claim_leave_a_commit_checked(party: Party) -> None:
    """Unprintable characters and long names are in no claim, but folders and globs that are claimed hold such files."""
    alice, bob = await party.join("alice"), await party.join("bob")
    await alice.bus.run(claims.claim, (await alice.presence.attach()).address, [ClaimTarget(REPO, "src/**")], ttl=1800)
    names = ["src/at\u202f1 PM.png", "docs/at\u202f1 PM.png", "src/a\nb", "src/" + "x" * 5_000, "src/zoo.ts"]

    found = await standing(
        bob.bus, (await bob.presence.attach()).address, [ClaimTarget(REPO, name) for name in names], f"{TREE}\n"
    )

    held = [claim.path if isinstance(claim, Claim) else claim for claim in found]
    assert held[:3] + held[4:] == ["src/**", None, "src/**", "src/**"]
    assert held[3]
