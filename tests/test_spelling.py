"""Paths and names in the spellings of models: each is understood or refused, as a table lists."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_bus import addresses, claim_paths, spelling
from claude_bus.errors import InvalidInput
from claude_bus.spelling import Seen

THERE = {
    *("src", "src/a.ts", "src/b.ts", "main.py", "docs", "README.md", "Makefile", "CHANGELOG.md", "a", "b", "@types"),
    *("odd, name.md", "odd name (1).md", "app/[id]/page.tsx", "[x]", "x:10", "`q`", "docs/v1.2 notes.md"),
    *("/repo", "/repo/web", "/repo/api", "/repo/src", "/home", "/home/me", "src/a.ts:7"),
}
HERE = Seen(THERE.__contains__, root="", home="/home/me", looks=True)

UNDERSTOOD: list[tuple[str, list[str]]] = [
    # plain paths stay unchanged
    ("src/a.ts", ["src/a.ts"]),
    ("src/new.ts", ["src/new.ts"]),
    ("src/**/*.py", ["src/**/*.py"]),
    ("./port:8080", ["./port:8080"]),
    ("port:8080", ["port:8080"]),
    ("branch:feature/login", ["branch:feature/login"]),
    ("db.internal:5432", ["db.internal:5432"]),
    ("app/(auth)/login/page.tsx", ["app/(auth)/login/page.tsx"]),
    ("app/[slug]/new.tsx", ["app/[slug]/new.tsx"]),
    ("app/routes/$userId.tsx", ["app/routes/$userId.tsx"]),
    ("users/{id}.py", ["users/{id}.py"]),
    ("My Documents/My File.ts", ["My Documents/My File.ts"]),
    ("docs/login form.md", ["docs/login form.md"]),
    ("Bob's notes.md", ["Bob's notes.md"]),
    ("node_modules/@scope/pkg", ["node_modules/@scope/pkg"]),
    ("../other/a.ts", ["../other/a.ts"]),
    ("C++/x.h", ["C++/x.h"]),
    # an existing path is taken literally
    ("odd, name.md", ["odd, name.md"]),
    ("odd name (1).md", ["odd name (1).md"]),
    ("app/[id]/page.tsx", ["app/[id]/page.tsx"]),
    ("[x]", ["[x]"]),
    ("`q`", ["`q`"]),
    ("src/a.ts:7", ["src/a.ts:7"]),
    ("docs/v1.2 notes.md", ["docs/v1.2 notes.md"]),
    ("@types/new.d.ts", ["@types/new.d.ts"]),
    # several in one string
    ('["src/a.ts", "src/b.ts"]', ["src/a.ts", "src/b.ts"]),
    ('["src/a.ts"]', ["src/a.ts"]),
    ("['src/a.ts', 'src/b.ts']", ["src/a.ts", "src/b.ts"]),
    ("[src/a.ts, src/b.ts]", ["src/a.ts", "src/b.ts"]),
    ('["src/{a,b}.ts:10", "`main.py`"]', ["src/a.ts", "src/b.ts", "main.py"]),
    ("src/a.ts, src/b.ts", ["src/a.ts", "src/b.ts"]),
    ("src/a.ts,src/b.ts", ["src/a.ts", "src/b.ts"]),
    ("src/a.ts; src/b.ts", ["src/a.ts", "src/b.ts"]),
    ("`src/a.ts`, `src/b.ts`", ["src/a.ts", "src/b.ts"]),
    ('"src/a.ts", "src/b.ts"', ["src/a.ts", "src/b.ts"]),
    ("a, b", ["a", "b"]),
    ("new.ts, other.ts", ["new.ts", "other.ts"]),
    ("port:8080, port:8081", ["port:8080", "port:8081"]),
    ("port:8080,gpu:0", ["port:8080", "gpu:0"]),
    ("src/a.ts src/b.ts", ["src/a.ts", "src/b.ts"]),
    ("new.ts other.ts", ["new.ts", "other.ts"]),
    ("src docs", ["src", "docs"]),
    ("src/** docs/*.md", ["src/**", "docs/*.md"]),
    ("src/{a,b}.ts", ["src/a.ts", "src/b.ts"]),
    ("src/{a, b}.ts", ["src/a.ts", "src/b.ts"]),
    ("{src,docs}/**/*.{ts,tsx}", ["src/**/*.ts", "src/**/*.tsx", "docs/**/*.ts", "docs/**/*.tsx"]),
    ("src/{a,b/{c,d}}.ts", ["src/a.ts", "src/b/c.ts", "src/b/d.ts"]),
    ("src/a{,.test}.ts", ["src/a.ts", "src/a.test.ts"]),
    ("src/a.ts, src/a.ts", ["src/a.ts"]),
    # a position in a file
    ("src/a.ts:10", ["src/a.ts"]),
    ("src/a.ts:10:5", ["src/a.ts"]),
    ("src/a.ts:10-20", ["src/a.ts"]),
    ("src/a.ts:10-20,30-40", ["src/a.ts"]),
    ("src/a.ts:L10", ["src/a.ts"]),
    ("src/a.ts#L10", ["src/a.ts"]),
    ("src/a.ts#L10-L20", ["src/a.ts"]),
    ("src/a.ts#L10-20", ["src/a.ts"]),
    ("src/a.ts lines 10-20", ["src/a.ts"]),
    ("src/a.ts (lines 10-20)", ["src/a.ts"]),
    ("src/a.ts:login", ["src/a.ts"]),
    ("src/a.ts::Login::test_it[1]", ["src/a.ts"]),
    ("docs/new.md#setup", ["docs/new.md"]),
    ("main.py:10", ["main.py"]),
    ("Makefile:10", ["Makefile"]),
    ("/abs/new.ts:10-20", ["/abs/new.ts"]),
    ("x:10", ["x:10"]),
    # decoration around a path
    ("  src/a.ts \n", ["src/a.ts"]),
    ("`src/a.ts`", ["src/a.ts"]),
    ("```src/a.ts```", ["src/a.ts"]),
    ('"src/a.ts"', ["src/a.ts"]),
    ("'src/a.ts'", ["src/a.ts"]),
    ("“src/a.ts”", ["src/a.ts"]),
    ("<src/a.ts>", ["src/a.ts"]),
    ("[a.ts](src/a.ts)", ["src/a.ts"]),
    ("- src/a.ts", ["src/a.ts"]),
    ("src/a.ts,", ["src/a.ts"]),
    ("src/a.ts.", ["src/a.ts"]),
    ("src/a.ts:", ["src/a.ts"]),
    ("src/a.ts (login form)", ["src/a.ts"]),
    ("src/a.ts (the (new) form)", ["src/a.ts"]),
    ("`src/a.ts` (login form)", ["src/a.ts"]),
    ("src/a.ts - the login", ["src/a.ts"]),
    ("src/a.ts — the login", ["src/a.ts"]),
    ("src/a.ts: the login", ["src/a.ts"]),
    ("src/a.ts # the login", ["src/a.ts"]),
    ("src/ - the sources", ["src/"]),
    ("docs (all of it)", ["docs"]),
    ("@src/a.ts", ["src/a.ts"]),
    ("@src/a.ts#L10-20", ["src/a.ts"]),
    ("@src/new.ts", ["src/new.ts"]),
    ('@"src/my new.ts"', ["src/my new.ts"]),
    ("src/...", ["src/**"]),
    ("./...", ["./**"]),
    ("*.app/", ["*.app/**"]),
    ("src/*/", ["src/*/"]),
    # other ways to give a location
    ("~/shop/a.ts", ["/home/me/shop/a.ts"]),
    ("~", ["/home/me"]),
    ("$HOME/shop/a.ts", ["/home/me/shop/a.ts"]),
    ("${HOME}/shop", ["/home/me/shop"]),
    ("$PWD/src/a.ts", ["./src/a.ts"]),
    ("file:///home/me/a%20b.ts", ["/home/me/a b.ts"]),
    ("file://localhost/home/me/a.ts", ["/home/me/a.ts"]),
    ("file:///home/me/a.ts#L10", ["/home/me/a.ts"]),
    ("FILE://LOCALHOST/home/me/a.ts", ["/home/me/a.ts"]),
    ("file://src/a%2Ets#L10", ["src/a.ts"]),
    ("file:///home/me/a.ts:10", ["/home/me/a.ts"]),
    ("file:///home/me/a.ts (the login)", ["/home/me/a.ts"]),
    ("file:///home/me/a.ts, file:///home/me/b.ts", ["/home/me/a.ts", "/home/me/b.ts"]),
    ("file:///home/me/a.ts file:///home/me/b.ts", ["/home/me/a.ts", "/home/me/b.ts"]),
    ("src/a.ts(10,5)", ["src/a.ts"]),
    ("src/new.ts(10)", ["src/new.ts"]),
    ("file://src/a.ts", ["src/a.ts"]),
    ("file:///C:/x/a.ts", ["C:/x/a.ts"]),
    ("src/my\\ file.ts", ["src/my file.ts"]),
    ("app/\\[id\\]/page.tsx", ["app/[[]id]/page.tsx"]),
    ("app/\\(auth\\)/x.ts", ["app/(auth)/x.ts"]),
]


@pytest.mark.parametrize(("written", "meant"), [case for case in UNDERSTOOD if "C:" not in case[0]])
def test_what_can_only_mean_one_thing_is_understood(written: str, meant: list[str]) -> None:
    """One string with decoration around, inside or behind the path; the result reads back unchanged."""
    assert spelling.paths([written], HERE) == meant
    assert spelling.paths(meant, HERE) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("file:///home/me/my main.py", "/home/me/my main.py"),
        ("file:///home/me/my%20main.py", "/home/me/my main.py"),
        ("file://localhost/home/me/my%20main.py", "/home/me/my main.py"),
        ("file:///home/me/see%20src/main.py", "/home/me/see src/main.py"),
        ("file:///home/me/a,%20b.ts", "/home/me/a, b.ts"),
        ("file:///home/me/a%2C%20main.py", "/home/me/a, main.py"),
        ("file:///home/me/a%20%28old%29.ts", "/home/me/a (old).ts"),
        ("file:///home/me/%7Ba,b%7D.ts", "/home/me/{a,b}.ts"),
        ("file:///home/me/a.ts%3A7", "/home/me/a.ts:7"),
        ("file:///app/%5Bid%5D/page.tsx", "/app/[[]id]/page.tsx"),
        ("file:///app/%2A.ts", "/app/[*].ts"),
        ("file:///app/*.ts", "/app/*.ts"),
        ("`file:///home/me/my%20main.py`", "/home/me/my main.py"),
        ("file:///home/me/my%20main.py#L10", "/home/me/my main.py"),
    ],
)
def test_a_file_address_names_one_path(written: str, meant: str) -> None:
    """An encoded character belongs to the name, and so does a blank, whether or not the last word names a file."""
    assert spelling.paths([written], HERE) == [meant]


REFUSED: list[tuple[str, str]] = [
    ("", "for the whole folder"),
    (" \t", "for the whole folder"),
    ("x, y", "as a list"),
    ("src/a.ts, the login form", "as a list"),
    ("gpu:0,1", "as a list"),
    ("src/a.ts the login form", "write only 'src/a.ts'"),
    ("src/a.ts -> src/b.ts", "write only 'src/a.ts'"),
    ("src/a.ts and src/b.ts", "write only 'src/a.ts'"),
    ("the file src/a.ts", "write only 'src/a.ts'"),
    ("src/a.ts - src/b.ts", "write only 'src/a.ts'"),
    ("new.py:10", "write 'new.py'"),
    ("@foo/x.ts", "write 'foo/x.ts'"),
    ("~bob/x.ts", "absolute path"),
    ("$PROJECT/src/a.ts", "variable"),
    ("${ROOT}/src/a.ts", "variable"),
    ("$(git rev-parse --show-toplevel)/src", "variable"),
    ("%APPDATA%/x", "variable"),
    ("https://example.org/a.ts", "address"),
    ("file://server/share/a.ts", "another machine"),
    ("C:\\shop\\a.ts", "Windows"),
    ("\\\\server\\share\\a.ts", "Windows"),
    ("!src/gen", "excludes"),
    ("src/*.@(ts|tsx)", "alternatives"),
    ("src/(a|b).ts", "alternatives"),
    ("src/{1..3}.ts", "range"),
    ("src/{a,b.ts", "not closed"),
    ("src/.*\\.ts", "regular expression"),
    ("gpu:*", "resource"),
    ("HEAD:src/a.ts", "write 'src/a.ts'"),
    ("main:src/a.ts", "write 'src/a.ts'"),
    ('{"path": "src/a.ts"}', "object"),
    ('src/"a.ts', "write only the path"),
    ('["src/a.ts", "src/b.ts"', "a list of paths"),
]


@pytest.mark.parametrize(("written", "way_out"), REFUSED)
def test_what_is_not_clear_is_refused_with_a_way_out(written: str, way_out: str) -> None:
    """An unclear path is refused, rather than granted as a claim that protects nothing."""
    with pytest.raises(InvalidInput) as refused:
        spelling.paths([written], HERE)
    assert way_out in refused.value.message
    assert refused.value.message.isascii()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("web/a.ts", ["/repo/web/a.ts"]),
        ("api/**", ["/repo/api/**"]),
        ("/api/new.ts", ["/repo/api/new.ts"]),
        ("src/new.ts", ["src/new.ts"]),
        ("nowhere/x.ts", ["nowhere/x.ts"]),
        ("/home/me/x.ts", ["/home/me/x.ts"]),
    ],
)
def test_a_path_from_the_root_is_understood_in_a_folder_below(written: str, meant: list[str]) -> None:
    """This applies if only that path exists, because `list_claims` shows paths from the root."""
    assert spelling.paths([written], Seen(THERE.__contains__, root="/repo", looks=True)) == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/home/me/a.ts:10-20", ["/home/me/a.ts"]),
        ("C:\\shop\\a.ts", ["C:\\shop\\a.ts"]),
        ('["a.ts", "port:1"]', ["a.ts", "port:1"]),
        ("src/{a,b}.ts (both)", ["src/a.ts", "src/b.ts"]),
    ],
)
def test_of_a_writer_elsewhere_only_the_text_counts(written: str, meant: list[str]) -> None:
    """The files of this machine are not examined."""
    assert spelling.paths([written]) == meant


@pytest.mark.parametrize("written", ["~/a.ts", "$HOME/a.ts", "@src/a.ts", "file://src/a.ts"])
def test_what_only_the_writers_machine_knows_is_refused_elsewhere(written: str) -> None:
    """The writer's home folder is not ours."""
    with pytest.raises(InvalidInput, match="write"):
        spelling.paths([written])


def test_on_windows_a_backslash_is_between_folders() -> None:
    """On Windows a backslash is a separator and escapes nothing."""
    seen = Seen(looks=True, windows=True, home="C:\\Users\\me")

    assert spelling.paths(["app\\[id]\\x.ts"], seen) == ["app\\[id]\\x.ts"]
    assert spelling.paths(["%USERPROFILE%\\a.ts"], seen) == ["C:\\Users\\me\\a.ts"]
    assert spelling.paths(["file:///C:/shop/a%20b.ts:7"], seen) == ["C:/shop/a b.ts"]


# -- names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("bob", ("bob",)),
        (" bob\n", ("bob",)),
        ("a, b", ("a", "b")),
        ("a,b;c", ("a", "b", "c")),
        ('["a", "b"]', ("a", "b")),
        ("['a', 'b']", ("a", "b")),
        ("[a, b]", ("a", "b")),
        (["a, b", "c"], ("a", "b", "c")),
        ("@bob", ("bob",)),
        ("@bob@web", ("bob@web",)),
        ("`bob`", ("bob",)),
        ('"@bob"', ("bob",)),
        ("@a, `b`", ("a", "b")),
        ("bob (backend)", ("bob",)),
        ("api-*", ("api-*",)),
        ("api-[ab]", ("api-[ab]",)),
        ("[ab]pi", ("[ab]pi",)),
        ("api-*@web", ("api-*@web",)),
        ("all", ("all",)),
        ("", ("",)),
        (" , ", ()),
        ("b b", ("b b",)),
        ([], ()),
    ],
)
def test_recipients_are_understood(written: str | list[str], meant: tuple[str, ...]) -> None:
    """Names contain no commas, blanks or quotes, so a string with these must be a list or decorated."""
    assert spelling.recipients(written) == meant


# -- arbitrary input ---------------------------------------------------------------------

odd = st.text(st.sampled_from("ab/.*?[]{}(),;:#@~$`'\"\\ <>|!0-9LT\n%"), max_size=30)


@given(st.lists(odd, max_size=4))
def test_whatever_is_written_is_understood_or_refused(written: list[str]) -> None:
    """The parser terminates, and parsing its output again does not change it."""
    try:
        meant = spelling.paths(written, HERE)
    except InvalidInput:
        return
    assert spelling.paths(meant, HERE) == meant


@given(odd)
def test_whatever_names_are_written_it_ends(written: str) -> None:
    """The parser terminates for valid and invalid names."""
    assert all(isinstance(name, str) for name in spelling.recipients(written))


@pytest.mark.parametrize(
    "hostile",
    [
        ["a.ts"] * (claim_paths.MAX_PLACES + 1),
        [json.dumps(["a.ts"] * 1000)],
        [",".join(["a.ts"] * 3000)],
        [" ".join(["a.ts"] * 3000)],
        ["{a,b}" * 20],
        ["{" * 500 + ",}" * 250],
        ["x" * 200_000],
        ["`" * 30_000],
        ["a " * 499 + "(" for _ in range(200)],
        [":1" * 499 + "x" for _ in range(200)],
        ["'" * 999 for _ in range(200)],
        ["['a'" + " " * 30_000 + "x]"],
        ["[" * 30_000 + "]" * 2_000],
        ["{.." + "." * 900 for _ in range(200)],
        [f"{n}" + "{,}" * 300 for n in range(200)],
    ],
)
def test_hostile_lists_ask_the_disk_little_and_end(hostile: list[str]) -> None:
    """The number of disk accesses per named path is small for any input."""
    asked = 0

    def exists(_path: str) -> bool:
        nonlocal asked
        asked += 1
        return False

    with contextlib.suppress(InvalidInput):
        spelling.paths(hostile, Seen(exists, looks=True))
    assert asked < 100 * claim_paths.MAX_PLACES


@pytest.mark.parametrize("unit", ["a,", "'a',", "a\n", "[,]"])
def test_what_one_request_can_hold_is_read_in_bounded_time(unit: str) -> None:
    """Recipients beyond the limit are left unparsed, and are refused later."""
    written = [unit * (spelling.MAX_WRITTEN // len(unit))] * 60

    assert spelling.recipients(written) == tuple(written)
    assert len(spelling.recipients(written[0])) <= addresses.MAX_RECIPIENTS + 1
