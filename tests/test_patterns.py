"""Path patterns: exact answers, checked against an enumeration of paths."""

from __future__ import annotations

import re
from functools import cache
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from claude_bus import patterns

# -- an independent matcher: a pattern as a regular expression -----------------------


@cache
def as_regex(pattern: str) -> re.Pattern[str]:
    """The paths that a pattern stands for, including all below them."""
    out = ""
    for segment in pattern.split("/"):
        out += r"(?:/[^/]+)*" if segment == "**" else "/" + segment_regex(segment)
    return re.compile(f"{out}(?:/[^/]+)*")


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


def covers(pattern: str, path: str) -> bool:
    return as_regex(pattern).fullmatch("/" + path) is not None


# Every pattern of at most two such tokens meets another in a name of this list, if in any.
TOKENS = ["a", "b", "*", "?", "[ab]", "[!a]", "[a-b]"]
NAMES = ["".join(chars) for size in (1, 2, 3, 4) for chars in product("abc", repeat=size)]
WORDS = ["a", "b", "ab", "a*", "*b", "?", "[!a]", "[bc]", "*", "**"]
PATHS = ["/".join(parts) for size in range(1, 7) for parts in product(["a", "b", "ab", "c"], repeat=size)]

names = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=2).map("".join).filter(lambda name: name != "**")
paths = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map("/".join)
anything = st.text(st.sampled_from("ab*?[]!-/.\\ "), max_size=12)


# -- overlap ---------------------------------------------------------------------------


@given(names, names)
def test_names_overlap_exactly_if_some_name_is_matched_by_both(one: str, other: str) -> None:
    """Within a segment the answer is that of an enumeration of all short names."""
    expected = any(covers(one, name) and covers(other, name) for name in NAMES)

    assert patterns.overlap(one, other) == expected


@given(paths, paths)
def test_paths_overlap_exactly_if_some_path_is_covered_by_both(one: str, other: str) -> None:
    """Across segments, `**` and folders, the answer is that of an enumeration of all short paths."""
    expected = any(covers(one, path) and covers(other, path) for path in PATHS)

    assert patterns.overlap(one, other) == expected


@given(anything, anything)
def test_overlap_is_symmetric(one: str, other: str) -> None:
    """It does not matter who asks."""
    assert patterns.overlap(one, other) == patterns.overlap(other, one)


@given(anything)
@example("[b-a]")
def test_overlap_is_reflexive(pattern: str) -> None:
    """Two who write the same pattern mean the same files."""
    assert patterns.overlap(pattern, pattern)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
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
    ],
)
def test_patterns_as_people_write_them(one: str, other: str, meet: bool) -> None:
    """The usual shapes of globs behave as one expects."""
    assert patterns.overlap(patterns.normalize(one), patterns.normalize(other)) == meet


def test_hostile_patterns_cost_little() -> None:
    """Many stars and sets in both patterns do not explode."""
    one, other = "/".join(["**", "*a*b*[!x]*"] * 20), "/".join(["*b*a*[!y]*", "**"] * 20)

    assert patterns.overlap(one, other)


# -- normalize -------------------------------------------------------------------------


@given(anything)
def test_normalizing_is_idempotent(path: str) -> None:
    """The one spelling of a path is its own."""
    once = patterns.normalize(path)

    assert patterns.normalize(once) == once


@given(st.lists(st.sampled_from(["a", "b", "c.py"]), min_size=1, max_size=4), st.data())
def test_normalizing_is_proof_against_spellings(parts: list[str], data: st.DataObject) -> None:
    """Detours, doubled, trailing and backward slashes all come to the same path."""
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
    """`..` that nothing precedes stays in a relative path and is nothing in an absolute one."""
    assert patterns.normalize(path) == spelling
