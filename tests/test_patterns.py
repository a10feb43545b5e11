"""Path patterns: exact answers, compared with an enumeration of paths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from claude_bus import patterns
from claude_bus.patterns import Kind

# -- an independent matcher: a pattern as a regular expression -----------------------


@cache
def as_regex(pattern: str) -> re.Pattern[str]:
    """A regular expression for the paths that a pattern matches."""
    out = ""
    for segment in pattern.split("/"):
        out += r"(?:/[^/]+)*" if segment == "**" else "/" + segment_regex(segment)
    return re.compile(out)


def segment_regex(segment: str) -> str:
    out = ""
    while segment:
        charset = re.match(r"\[(!?)(\]?[^]]*)\]", segment)
        if segment[0] == "*":
            out, segment = out + "[^/]*", segment[1:]
        elif segment[0] == "?":
            out, segment = out + "[^/]", segment[1:]
        elif charset and charset[2]:
            inner = charset[2].replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]").replace("^", r"\^")
            out += f"[^/{inner}]" if charset[1] else f"[{inner}]"
            segment = segment[charset.end() :]
        else:
            out, segment = out + re.escape(segment[0]), segment[1:]
    return out


def matches(pattern: str, path: str) -> bool:
    return as_regex(pattern).fullmatch("/" + path) is not None


def belongs(path: str, pattern: str, kind: Kind, other: str) -> bool:
    """Tells whether a pattern covers a path: it matches the path, or a folder above it."""
    if matches(pattern, path):
        return True
    above = ["/".join(path.split("/")[:n]) for n in range(1, path.count("/") + 1)]
    return may_be_folder(pattern, kind, other) and any(matches(pattern, folder) for folder in above)


def may_be_folder(pattern: str, kind: Kind, other: str) -> bool:
    """Tells whether a path may be a folder. A known kind decides, else a pattern below it, else the look of the
    name.
    """
    if kind:
        return kind == "folder"
    named = is_plain(pattern) and other.startswith(f"{pattern}/")
    return named or not re.search(r"[^/]\.[a-z*?\[][^/]*$", pattern)


def meet(one: str, other: str, kinds: tuple[Kind, Kind] = ("", ""), among: Sequence[str] = ()) -> bool:
    """Tells whether any of the paths is covered by both."""
    return any(belongs(path, one, kinds[0], other) and belongs(path, other, kinds[1], one) for path in among)


# Two patterns of at most two such tokens that overlap share a name in this list.
TOKENS = ["a", "b", "*", "?", "[ab]", "[!a]", "[a-b]"]
NAMES = ["".join(chars) for size in (1, 2, 3, 4) for chars in product("abc", repeat=size)]
WORDS = ["a", "b", "ab", "a*", "*b", "?", "[!a]", "[bc]", "*", "**"]
PATHS = ["/".join(parts) for size in range(1, 7) for parts in product(["a", "b", "ab", "c"], repeat=size)]
# The same with names of files: unless its kind is known, a name that looks like a file has no paths below it.
FILE_WORDS = ["a", "b.x", "*", "*.x", "a.*", "*.[xy]", "**"]
FILE_PATHS = ["/".join(parts) for size in range(1, 6) for parts in product(["a", "b.x", "a.x", "a.y"], repeat=size)]
FILE_PATHS += ["/".join(parts) for parts in product(["a", "b.x"], repeat=6)]

names = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=2).map("".join).filter(lambda name: name != "**")
paths = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("/".join)
file_paths = st.lists(st.sampled_from(FILE_WORDS), min_size=1, max_size=3).map("/".join)
KINDS: list[Kind] = ["", "file", "folder"]
anything = st.text(st.sampled_from("ab*?[]!-/.\\ "), max_size=12)


def is_plain(pattern: str) -> bool:
    return not set(pattern) & set("*?[")


# -- overlap ---------------------------------------------------------------------------


@given(names, names)
def test_names_overlap_exactly_if_some_name_is_matched_by_both(one: str, other: str) -> None:
    """Within a segment, the answer equals that of an enumeration of all short names."""
    assert patterns.overlap(one, other) == meet(one, other, among=NAMES)


@given(paths, paths)
def test_paths_overlap_exactly_if_some_path_is_covered_by_both(one: str, other: str) -> None:
    """With several segments, `**` and folders, the answer equals that of an enumeration of all short paths."""
    assert patterns.overlap(one, other) == meet(one, other, among=PATHS)


@given(file_paths, file_paths, st.sampled_from(KINDS), st.sampled_from(KINDS))
@example("**/*.x", "**/*.y", "", "")
@example("a/b.x", "**/*.y", "", "")
@example("b.x", "b.x/a", "", "file")
def test_files_have_nothing_below_them(one: str, other: str, seen: Kind, other_seen: Kind) -> None:
    """With names of files, and known kinds of some paths, the answer still equals the enumeration's."""
    kinds = (seen if is_plain(one) else "", other_seen if is_plain(other) else "")

    assert patterns.overlap(one, other, kinds=kinds) == meet(one, other, kinds, FILE_PATHS)


@given(anything, anything)
def test_overlap_is_symmetric(one: str, other: str) -> None:
    """The order of the patterns does not matter."""
    assert patterns.overlap(one, other) == patterns.overlap(other, one)


@given(anything)
@example("[b-a]")
def test_overlap_is_reflexive(pattern: str) -> None:
    """A valid pattern overlaps with itself."""
    assert patterns.overlap(pattern, pattern)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("src/**/*.py", "src/a.py", True),
        ("src/**/*.py", "src/x/y/a.py", True),
        ("src/*.py", "src/x/a.py", False),
        ("src", "src/x/a.py", True),
        ("src/", "src", True),
        ("**/test_*", "src/test_a/b.py", True),
        ("*.[ch]", "main.c", True),
        ("*.[!ch]", "main.c", False),
        ("[!a-c]x", "bx", False),
        ("[]]x", "]x", True),
        ("a[", "a[", True),
        ("Straße/*", "Straße/ß", True),
        ("a*b*c", "abbc", True),
        ("*" * 30 + "x", "y" * 200, False),
        ("**/*.tsx", "**/*.py", False),
        ("**/*.md", "src/a.ts", False),
        ("**/package.json", "src/a.ts", False),
        ("src/**/test_*", "src/a.ts", False),
        ("src/*/x.py", "src/a.ts", False),
        ("**/*.md", "src", True),
        ("**/*.md", "src/*", True),
        ("**/*.js", "next.js/src/a.ts", False),
        ("next.js", "next.js/src/a.ts", True),
        ("next.js", "next.js/**/*.ts", True),
        ("*.app/**", "Shop.app/Info.plist", True),
        ("src/*", "src/x/a.py", True),
        (".github", "**/*.yml", True),
        ("v1.2", "**/*.md", True),
        ("My.Tests", "**/*.cs", True),
        ("conf/.env.local", "**/*.py", False),
    ],
)
def test_patterns_as_people_write_them(one: str, other: str, expected: bool) -> None:
    """Common globs behave as people expect."""
    assert patterns.overlap(patterns.normalize(one), patterns.normalize(other)) == expected


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [(("file", ""), False), (("folder", ""), True), (("", ""), False)],
)
def test_what_was_seen_decides(kinds: tuple[Kind, Kind], expected: bool) -> None:
    """`next.js` may be a folder and `Makefile` a file, whatever their names look like."""
    assert patterns.overlap("next.js", "**/*.ts", kinds=kinds) == expected
    assert patterns.overlap("**/*.ts", "next.js", kinds=(kinds[1], kinds[0])) == expected
    assert not patterns.overlap("Makefile", "**/*.ts", kinds=("file", ""))


def test_hostile_patterns_cost_little() -> None:
    """Many stars and sets in both patterns do not take exponential time."""
    one, other = "/".join(["**", "*a*b*[!x]*"] * 20), "/".join(["*b*a*[!y]*", "**"] * 20)

    assert patterns.overlap(one, other)


# -- normalize -------------------------------------------------------------------------


@given(anything)
def test_normalizing_is_idempotent(path: str) -> None:
    """Normalizing a normalized path does not change it."""
    once = patterns.normalize(path)

    assert patterns.normalize(once) == once


@given(st.lists(st.sampled_from(["a", "b", "c.py"]), min_size=1, max_size=4), st.data())
def test_normalizing_is_proof_against_spellings(parts: list[str], data: st.DataObject) -> None:
    """Detours and doubled, trailing or backward slashes all lead to the same path."""
    detours = st.lists(st.sampled_from([".", "", "x/..", "x/y/../.."]), max_size=2)
    spelled: list[str] = []
    for part in parts:
        spelled += [*data.draw(detours), part]
    written = "/".join([".", *spelled, *data.draw(detours)])
    if data.draw(st.booleans()):
        written = written.replace("/", "\\")

    assert patterns.normalize(written) == "/".join(parts)


@pytest.mark.parametrize(
    ("path", "spelling"),
    [
        ("../a", "../a"),
        ("a/../../b", "../b"),
        ("/a/../../b", "/b"),
        ("/", "/"),
        ("", ""),
        (".", ""),
        ("C:\\x\\.\\y", "C:/x/y"),
        ("src//a.py/", "src/a.py"),
    ],
)
def test_what_leads_out_of_the_root_stays(path: str, spelling: str) -> None:
    """A leading `..` stays in a relative path and is dropped from an absolute one."""
    assert patterns.normalize(path) == spelling
