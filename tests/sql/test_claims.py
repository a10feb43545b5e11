"""Claims: while an agent edits files, no other agent is granted them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from claude_bus.errors import ClaimHeld, ClaimOfOther, InvalidInput
from claude_bus.model.claims import FOLDER, Claim, ClaimTarget
from claude_bus.model.identity import Address
from claude_bus.sql import agents, claims
from tests.support.store import START, Store

REPO = "example.org/shop"


def take(
    store: Store, me: Address, *paths: str, ttl: float = 60, shared: bool = False, reason: str = "", scope: str = REPO
) -> list[Claim]:
    return store(claims.claim, me, [(scope, p) for p in paths], ttl=ttl, shared=shared, reason=reason)


def live(store: Store) -> list[tuple[str, str]]:
    return [(c.path, c.owner) for c in store(claims.list_claims, "default")]


def test_a_claim_is_granted_and_listed(store: Store) -> None:
    """A claim is listed with its owner, reason and expiry."""
    alice = store.join("alice")

    [granted] = take(store, alice, "src/a.py", reason="refactoring")

    assert granted == Claim("src/a.py", REPO, "alice", False, "refactoring", START + 60)
    assert store(claims.list_claims, "default") == [granted]


def test_a_refusal_names_holder_reason_and_remaining_time(store: Store) -> None:
    """A refused agent learns whom to ask, and how long the claim lasts."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "src/**", reason="refactoring")
    store.now += 20

    with pytest.raises(ClaimHeld, match=r"'src/a.py' is claimed by 'alice' for another 40s .*refactoring") as refused:
        take(store, bob, "src/a.py")

    assert refused.value.data == {
        "path": "src/a.py",
        "held": "src/**",
        "holder": "alice",
        "expires_in": 40.0,
        "reason": "refactoring",
    }


@pytest.mark.parametrize(
    ("held", "wanted", "refused"),
    [
        ("src/a.py", "src/a.py", True),
        ("src", "src/a.py", True),
        ("src/a.py", "src", True),
        (".", "src/a.py", True),
        ("src/a.py", ".", True),
        ("**", "src/a.py", True),
        ("src/*.py", "src/[ab].*", True),
        ("src/*.py", "src/*.js", False),
        ("src/a.py", "src/b.py", False),
        ("src", "srcs", False),
        ("port:8080", "port:8080", True),
        ("port:8080", "port:8081", False),
        ("port:8080", "*", False),
        ("**/*.md", "src/a.ts", False),
        ("**/*.tsx", "**/*.py", False),
        ("**/*.md", "docs", True),
        ("app/[id]/page.tsx", "app/[id]/page.tsx", True),
    ],
)
def test_what_overlaps_is_refused_and_nothing_else(store: Store, held: str, wanted: str, refused: bool) -> None:
    """Paths, folders, globs and resources exclude exactly the claims that they share a path with."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, held, scope=scope_of(held))

    if refused:
        with pytest.raises(ClaimHeld):
            take(store, bob, wanted, scope=scope_of(wanted))
    else:
        take(store, bob, wanted, scope=scope_of(wanted))


def scope_of(path: str) -> str:
    """The scope of a claim: a resource is the same everywhere, a path belongs to its repository."""
    return "" if ":" in path else REPO


def test_a_file_that_is_called_like_a_resource_is_a_file(store: Store) -> None:
    """In a repository `port:8080` is a path, which a claim on the whole repository covers; the resource is separate."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "**")

    with pytest.raises(ClaimHeld):
        take(store, bob, "port:8080")
    take(store, bob, "port:8080", scope="")


def test_what_a_claim_is_known_to_name_decides_what_is_below_it(store: Store) -> None:
    """A known file has no paths below it and a known folder has, whatever their names look like."""
    alice, bob = store.join("alice"), store.join("bob")
    store(claims.claim, alice, [ClaimTarget(REPO, "Makefile", "1:2:3"), ClaimTarget(REPO, "next.js", FOLDER)], ttl=60)

    take(store, bob, "Makefile/**/*.md")
    with pytest.raises(ClaimHeld):
        take(store, bob, "**/*.md")


def test_a_folder_is_not_told_by_what_stands_for_its_identity(store: Store) -> None:
    """Two folders are different, though both are recorded as folders."""
    alice, bob = store.join("alice"), store.join("bob")
    for who, path in ((alice, "src"), (bob, "docs")):
        store(claims.claim, who, [ClaimTarget(REPO, path, FOLDER)], ttl=60)


# -- nested repositories -----------------------------------------------------------------

APP, SUB, HERE = "example.org/app", "example.org/sub", "host:here"
INNER = ClaimTarget(SUB, "z.py", "", ((APP, "libs/sub/z.py"), (HERE, "/app/libs/sub/z.py")))


def outer(path: str) -> ClaimTarget:
    return ClaimTarget(APP, path, "", ((HERE, f"/app/{path}"),))


@pytest.mark.parametrize(
    ("path", "refused"), [(".", True), ("libs", True), ("libs/**", True), ("**/*.py", True), ("src", False)]
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_claim_holds_in_repositories_below(store: Store, path: str, refused: bool, turned: bool) -> None:
    """It does not matter whether the outer or the inner path is claimed first."""
    alice, bob = store.join("alice"), store.join("bob")
    first, second = (INNER, outer(path)) if turned else (outer(path), INNER)
    store(claims.claim, alice, [first], ttl=60)

    if refused:
        with pytest.raises(ClaimHeld):
            store(claims.claim, bob, [second], ttl=60)
    else:
        store(claims.claim, bob, [second], ttl=60)


def test_a_claim_outside_of_repositories_holds_in_those_of_its_machine(store: Store) -> None:
    """A folder that contains repositories can be claimed as a whole; the same path on another machine is another
    folder.
    """
    alice, bob = store.join("alice"), store.join("bob")
    store(claims.claim, alice, [ClaimTarget("", "/app", FOLDER, ((HERE, "/app"),))], ttl=60)

    with pytest.raises(ClaimHeld):
        store(claims.claim, bob, [INNER], ttl=60)
    elsewhere = INNER._replace(above=((APP, "libs/sub/z.py"), ("host:there", "/app/libs/sub/z.py")))
    store(claims.claim, bob, [elsewhere], ttl=60)


def test_a_claim_of_an_earlier_version_holds_in_repositories_below(store: Store) -> None:
    """Such a claim is stored without the repositories above it."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "libs", scope=APP)

    with pytest.raises(ClaimHeld):
        store(claims.claim, bob, [INNER], ttl=60)


def test_what_is_told_above_ends_with_its_claim(store: Store) -> None:
    """A released claim no longer blocks claims on outer paths; a renewed one still does."""
    alice, bob = store.join("alice"), store.join("bob")
    for _ in range(2):
        store(claims.claim, alice, [INNER], ttl=60)
    assert store.rows("SELECT scope, path FROM claims_above ORDER BY scope") == sorted(INNER.above)

    store(claims.release, alice, [INNER])
    assert store.rows("SELECT * FROM claims_above") == []
    store(claims.claim, bob, [outer("libs")], ttl=60)


def test_several_are_granted_all_or_none(store: Store) -> None:
    """If another agent holds one of the paths, the whole list is refused."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "b.py")

    with pytest.raises(ClaimHeld):
        take(store, bob, "a.py", "b.py", "c.py")
    granted = take(store, bob, "a.py", "c.py")

    assert [c.path for c in granted] == ["a.py", "c.py"]
    assert live(store) == [("a.py", "bob"), ("b.py", "alice"), ("c.py", "bob")]


def test_claiming_again_renews(store: Store) -> None:
    """An agent's own claim is no obstacle; its time starts anew and its reason is replaced."""
    alice = store.join("alice")
    take(store, alice, "a.py", reason="first")
    store.now += 50
    take(store, alice, "a.py", ttl=100, reason="second")

    [claim] = store(claims.list_claims, "default")

    assert (claim.expires, claim.reason) == (START + 150, "second")


def test_an_expired_claim_is_free(store: Store) -> None:
    """After its ttl a claim is neither listed nor enforced."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "a.py", ttl=10)
    store.now += 10

    assert live(store) == []
    take(store, bob, "a.py")
    assert live(store) == [("a.py", "bob")]


def test_shared_claims_exclude_only_exclusive_ones(store: Store) -> None:
    """Many agents may share; one that wants exclusive access must wait, and then shuts the others out."""
    alice, bob, carol = store.join("alice"), store.join("bob"), store.join("carol")
    take(store, alice, "docs/**", shared=True)
    take(store, bob, "docs/a.md", shared=True)

    with pytest.raises(ClaimHeld):
        take(store, carol, "docs/b.md")
    take(store, carol, "src/**")
    with pytest.raises(ClaimHeld):
        take(store, alice, "src/a.py", shared=True)


def test_a_shared_claim_becomes_exclusive_only_without_other_sharers(store: Store) -> None:
    """Renewing a claim as exclusive follows the rules of any other claim."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "a.py", shared=True)
    take(store, bob, "a.py", shared=True)
    with pytest.raises(ClaimHeld):
        take(store, alice, "a.py")

    store(claims.release, bob, None)
    take(store, alice, "a.py")

    assert [c.shared for c in store(claims.list_claims, "default")] == [False]


def test_the_claims_of_a_dead_session_end_with_it(store: Store) -> None:
    """They end at once, though the session never released them and their ttl is far away."""
    alice, bob, carol = store.join("alice"), store.join("bob"), store.join("carol")
    take(store, alice, "a.py", ttl=3600)
    take(store, carol, "c.py", ttl=3600)
    store.die(alice)
    store.die(carol)

    take(store, bob, "a.py")

    assert live(store) == [("a.py", "bob")]


def test_the_claims_of_a_participant_without_a_session_last_their_ttl(store: Store) -> None:
    """A script has no process whose death could end its claims."""
    ci, bob = Address("ci", "default"), store.join("bob")
    store(agents.join_without_session, ci, "cli")
    take(store, ci, "a.py")

    with pytest.raises(ClaimHeld):
        take(store, bob, "a.py")
    store.now += 60
    take(store, bob, "a.py")


def test_a_place_in_one_repository_is_not_one_of_another(store: Store) -> None:
    """The same path in different repositories, or on different channels, is a different claim target."""
    alice, bob, there = store.join("alice"), store.join("bob"), store.join("bob", channel="web")
    take(store, alice, "a.py")

    take(store, bob, "a.py", scope="example.org/other")
    take(store, there, "a.py")


def test_release_frees_what_is_named_or_all(store: Store) -> None:
    """Releasing returns the released claims; without a path, it releases all."""
    alice = store.join("alice")
    take(store, alice, "a.py", "b.py", "c.py")

    assert store(claims.release, alice, [(REPO, "b.py")]) == [ClaimTarget(REPO, "b.py")]
    assert store(claims.release, alice, [(REPO, "b.py")]) == []
    assert sorted(store(claims.release, alice, None)) == [ClaimTarget(REPO, "a.py"), ClaimTarget(REPO, "c.py")]
    assert live(store) == []


def test_nobody_releases_the_claim_of_another(store: Store) -> None:
    """A release that names another agent's claim is refused and releases nothing."""
    alice, bob = store.join("alice"), store.join("bob")
    take(store, alice, "a.py")
    take(store, bob, "b.py")

    with pytest.raises(ClaimOfOther, match=r"'a\.py' is claimed by 'alice', not 'bob'"):
        store(claims.release, bob, [(REPO, "b.py"), (REPO, "a.py")])

    assert live(store) == [("a.py", "alice"), ("b.py", "bob")]


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 10**9])
def test_a_claim_without_a_sensible_end_is_refused(store: Store, ttl: float) -> None:
    """A ttl is a positive number of seconds within the limit."""
    with pytest.raises(InvalidInput, match="ttl"):
        take(store, store.join("alice"), "a.py", ttl=ttl)


def test_claiming_nothing_or_for_a_muddled_reason_is_refused(store: Store) -> None:
    """A claim needs at least one path, and a reason of one printable line."""
    alice = store.join("alice")
    with pytest.raises(InvalidInput):
        take(store, alice)
    with pytest.raises(InvalidInput):
        take(store, alice, "a.py", reason="two\nlines")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["alice", "bob", "carol"]),
            st.lists(st.sampled_from(["a", "b", "a/*", "**", "b/c", "?"]), min_size=1, max_size=3),
            st.booleans(),
            st.sampled_from([5.0, 50.0]),
            st.sampled_from([0.0, 10.0]),
        ),
        max_size=12,
    )
)
def test_no_two_agents_ever_hold_overlapping_exclusive_claims(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[str, list[str], bool, float, float]]
) -> None:
    """In any sequence of claims, live claims that overlap are shared or belong to one owner."""
    from claude_bus.patterns import overlap

    store = Store(tmp_path_factory.mktemp("claims") / "bus.db")
    agents_ = {name: store.join(name) for name in ("alice", "bob", "carol")}
    for name, paths, shared, ttl, wait in asked:
        try:
            take(store, agents_[name], *paths, shared=shared, ttl=ttl)
        except ClaimHeld as refused:
            holder = str(refused.data["holder"])
            assert holder != name
            assert any(owner == holder for _, owner in live(store))
        held = store(claims.list_claims, "default")
        for one in held:
            for other in held:
                if one.owner != other.owner and overlap(one.path, other.path):
                    assert one.shared
                    assert other.shared
        store.now += wait
    store.connection.close()
