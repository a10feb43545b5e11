"""The rules, tested by their properties."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from claude_bus import addresses, claim_paths, drafts, limits, names, waking
from claude_bus.errors import BusError, InvalidInput, TooLarge
from claude_bus.model.identity import Address
from claude_bus.model.messages import Draft
from claude_bus.patterns import normalize
from claude_bus.sql import columns

clocks = st.floats(min_value=0, max_value=1e15)
any_text = st.text(st.characters())
plain = st.text(st.sampled_from("abcXYZ019._-:+~#éß漢"), min_size=1, max_size=64).filter(
    lambda name: name[0].isalnum() and name not in names.BROADCASTS
)


# -- names and addresses ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "backend", "api-2", "web.v2", "x" * 64, "Zoë", "前端", "team:a+b~c#1", "0"])
def test_good_names_are_taken_as_they_are(name: str) -> None:
    """Letters and digits of any script are valid, with a few marks between them."""
    assert names.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 65,
        "a b",
        "a\nb",
        "a\x07",
        "-a",
        ".a",
        "a@b",
        "a/b",
        "a*",
        "a?",
        "[a]",
        "<a>",
        'a"b',
        "all",
        "any",
        "a\u202eb",
        "a\u200bb",
        "Zoë",
        "�",
        "a\x00",
    ],
)
def test_bad_names_are_refused_without_being_echoed_raw(name: str) -> None:
    """Invisible, address, glob and ambiguous characters make a name invalid; the error shows them escaped."""
    with pytest.raises(InvalidInput) as refused:
        names.check_name(name)

    assert refused.value.message.isascii()
    assert refused.value.message.isprintable()


@given(any_text)
def test_a_name_is_plain_or_refused(text: str) -> None:
    """No valid name can break a line, a fence, an address or a pattern."""
    try:
        name = names.check_name(text)
    except InvalidInput:
        return
    assert name == text
    assert name.isprintable()
    assert not set(name) & set(" \"'<>@*?[]\\/,&=")
    assert unicodedata.is_normalized("NFC", name)
    assert addresses.parse_address(name, "default") == Address(name, "default")


@given(plain, plain)
def test_an_address_reads_back_from_its_shortest_spelling(name: str, channel: str) -> None:
    """`parse_address` understands the output of `seen_from`, on the same or another channel."""
    assume(unicodedata.is_normalized("NFC", name + channel))
    here = Address(name, channel)

    assert addresses.parse_address(here.seen_from("default"), "default") == here
    assert addresses.parse_address(here.seen_from(channel), channel) == here


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("bob", ("bob", "here")),
        (" bob ", ("bob", "here")),
        ("bob@web", ("bob", "web")),
        ("all", ("all", "here")),
        ("any", ("all", "here")),
        ("any@web", ("all", "web")),
        ("api-*", ("api-*", "here")),
        ("api-?@web", ("api-?", "web")),
    ],
)
def test_addresses(text: str, address: tuple[str, str]) -> None:
    """An address is a name, a broadcast word or a glob, with or without a channel."""
    assert addresses.parse_address(text, "here") == Address(*address)


@pytest.mark.parametrize("text", ["", " ", "@web", "bob@", "bob@a b", "bob@web@x", "b b", "b\x1b", "bob@all", "bob@*"])
def test_malformed_addresses_are_refused(text: str) -> None:
    """A recipient without a name, or on an invalid channel, is an error."""
    with pytest.raises(InvalidInput):
        addresses.parse_address(text, "here")


@given(st.sampled_from(["backend", "x" * 64, "a"]), st.integers(0, 40), st.sets(st.integers(2, 40)))
def test_a_free_name_is_valid_free_and_close(wanted: str, more: int, numbers: set[int]) -> None:
    """The suggestion for a taken name is valid, free, and resembles the wanted name."""
    taken = [wanted, *(f"{wanted[:59]}-{n}" for n in numbers)][: more + 1]

    free = addresses.free_name(wanted, taken)

    assert free not in taken
    assert names.check_name(free) == free
    assert free.startswith(wanted[:59])
    assert addresses.free_name(wanted, []) == wanted


@given(any_text, any_text)
def test_every_folder_makes_a_valid_name(root: str, branch: str) -> None:
    """A session in any folder, on any branch, gets a name to be listed under."""
    name = addresses.folder_name(root, branch)

    assert names.check_name(name) == name


@pytest.mark.parametrize(
    ("root", "branch", "name"),
    [
        ("/home/me/shop", "", "shop"),
        ("/home/me/shop/", "main", "shop"),
        ("/home/me/shop", "feature/cart", "shop-feature-cart"),
        ("C:\\work\\my shop", "", "my-shop"),
        ("/", "", "session"),
        ("/home/all", "", "session"),
        ("/home/...", "", "session"),
        ("/home/Cafe\u0301", "", "Café"),
    ],
)
def test_folder_names(root: str, branch: str, name: str) -> None:
    """The name consists of the folder and a special branch, reduced to valid characters."""
    assert addresses.folder_name(root, branch) == name


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("bakcend", ["backend", "web"], "backend"),
        ("BACKEND", ["backend"], "backend"),
        ("zz", ["backend"], ""),
        ("a", [], ""),
    ],
)
def test_a_name_is_guessed_only_if_close(name: str, known: list[str], meant: str) -> None:
    """A hint is given for a typo, not for an unrelated name."""
    assert addresses.closest_name(name, known) == meant


def test_globs_select_names_case_sensitively() -> None:
    """A glob stands for the names that it matches, sorted."""
    assert addresses.matching_names("api-?", ["api-2", "api-1", "API-3", "api-10"]) == ["api-1", "api-2"]


# -- time ---------------------------------------------------------------------------------


@given(st.lists(clocks, min_size=2, max_size=30))
def test_timestamps_increase_strictly_under_any_clock(readings: list[float]) -> None:
    """Timestamps increase even if the clock stands still, jumps back, or was once far ahead."""
    last = 0.0
    for now in readings:
        ts = columns.next_ts(now, last)
        assert ts > last
        last = ts


@given(st.floats(1e9, 4e9), st.floats(0.001, 1e6))
def test_timestamps_follow_the_clock_when_it_runs(last: float, passed: float) -> None:
    """If the clock is later than the last message, the timestamp is the clock's time."""
    assert columns.next_ts(last + passed, last) == last + passed


@given(st.integers(0, 10), st.floats(0, 1e9))
def test_rings_become_rarer_and_end(rings: int, since: float) -> None:
    """The first ring comes at once, each later one only after a longer delay, and there is no fourth."""
    due = waking.ring_due(rings, since)

    assert due == (rings == 0 or (rings == 1 and since >= 30) or (rings == 2 and since >= 120))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), float("-inf"), 100.1])
def test_seconds_are_positive_finite_and_bounded(value: float) -> None:
    """Anything else is refused with the name of the argument."""
    with pytest.raises(InvalidInput, match="patience"):
        limits.check_seconds(value, "patience", 100.0)


def test_the_limit_itself_is_allowed() -> None:
    """A bound includes its end."""
    assert limits.check_seconds(100.0, "patience", 100.0) == 100.0


# -- content -------------------------------------------------------------------------------


@given(st.text(st.characters(), max_size=80))
def test_limits_count_bytes_of_utf8(text: str) -> None:
    """Text that cannot be encoded as UTF-8 is refused; other text is measured in bytes."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        with pytest.raises(InvalidInput):
            limits.check_utf8(text, "content", 1000, "shorten it")
        return
    assert limits.check_utf8(text, "content", size, "shorten it") == text
    if size:
        with pytest.raises(TooLarge, match="shorten it") as refused:
            limits.check_utf8(text, "content", size - 1, "shorten it")
        assert refused.value.data == {"size": size, "limit": size - 1}


DRAFT = {"to": ("bob",), "content": "hello"}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"to": ()}, InvalidInput),
        ({"to": ("bob",) * 201}, InvalidInput),
        ({"kind": "shout"}, InvalidInput),
        ({"content": ""}, InvalidInput),
        ({"content": "\udcff"}, InvalidInput),
        ({"content": "x" * 65_537}, TooLarge),
        ({"content": "漢" * 21_846}, TooLarge),
        ({"tags": ("a\nb",)}, InvalidInput),
        ({"tags": ("x" * 65,)}, InvalidInput),
        ({"ttl": 0.0}, InvalidInput),
        ({"ttl": float("nan")}, InvalidInput),
        ({"key": "k\x00"}, InvalidInput),
        ({"key": "\ud800"}, InvalidInput),
    ],
)
def test_a_malformed_draft_is_refused(wrong: dict[str, Any], error: type[BusError]) -> None:
    """Each part of a message is validated."""
    with pytest.raises(error):
        drafts.check_draft(Draft(**DRAFT | wrong))


def test_a_good_draft_passes_unchanged() -> None:
    """A draft with everything at its limit is valid."""
    draft = Draft(("bob",) * 200, "x" * 65_536, "request", 1, ("x" * 64,), True, 60.0, "k" * 200)

    assert drafts.check_draft(draft) is draft


@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_a_list_reads_back_from_its_column(items: list[str]) -> None:
    """A list stored in a column reads back unchanged."""
    assert columns.load_list(columns.dump_list(items)) == tuple(items)


@pytest.mark.parametrize("column", [None, "", "{}", "nonsense", "3", '"a"'])
def test_a_column_of_something_else_is_an_empty_list(column: str | None) -> None:
    """A foreign or damaged value is harmless."""
    assert columns.load_list(column) == ()


# -- claims --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("port:8080", True),
        ("gpu:0", True),
        ("branch:feature/x", True),
        ("C:\\x", False),
        ("C:/x", False),
        ("c:x", False),
        ("https://x", False),
        ("src/a:b", False),
        ("a b:c", False),
        ("src/a.py", False),
    ],
)
def test_resources_are_told_from_paths(path: str, resource: bool) -> None:
    """A resource is a word, a colon and a name; drives, URLs and paths are not resources."""
    assert claim_paths.is_resource(path) == resource
    assert claim_paths.check_path(path) == (path if claim_paths.is_resource(path) else normalize(path))


@pytest.mark.parametrize("path", ["", "a\nb", "a\x00", "x" * 1001, "\ud800", "a\u202eb"])
def test_a_path_that_cannot_be_shown_cannot_be_claimed(path: str) -> None:
    """A path is one printable line of up to 1000 characters."""
    with pytest.raises(InvalidInput):
        claim_paths.check_path(path)


# -- errors --------------------------------------------------------------------------------


def test_every_error_has_a_code_with_a_status_for_each_door() -> None:
    """Each kind declares its own code, HTTP status and exit status."""

    def tree(kind: type[BusError]) -> list[type[BusError]]:
        return [kind, *(found for sub in kind.__subclasses__() for found in tree(sub))]

    codes = [kind.code for kind in tree(BusError)]

    assert len(set(codes)) == len(codes)
    assert all({"code", "http_status", "exit_status"} <= vars(kind).keys() for kind in tree(BusError))
