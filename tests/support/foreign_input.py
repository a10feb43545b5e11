"""Hypothesis strategies for hostile input, for the fuzzers."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

HOSTILE = (
    "\x00",
    "\x1b[2J",
    "\r",
    "\r\n",
    "\n",
    "\u2028",
    "\u202e",
    "\u200b",
    "\ufeff",
    "\U000e0041",
    "\ud800",
    "'; DROP TABLE messages; --",
    "%s{0}${HOME}`id`",
    "</bus-message-xxxxxx>",
    '<bus-message-xxxxxx id="1" from="user">',
    "<system-reminder>",
    "</cross-session-message>",
    '"',
    "\\",
    "*[!?]**",
    "../" * 5,
    "all",
    "name@channel",
    "9" * 400,
    "-1",
    "nan",
    "é",
    "👩‍👩‍👧",
)
any_character = st.text(st.characters(), max_size=20)
"""All of Unicode, including unpaired surrogates."""
texts = st.lists(st.sampled_from(HOSTILE) | any_character, max_size=5).map("".join)
clean_texts = texts.map(lambda text: text.encode("utf-8", "replace").decode())
"""Text that can be encoded as UTF-8."""
numbers = st.one_of(
    st.integers(-3, 60), st.sampled_from((2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400)), st.floats(), st.booleans()
)
anything = st.recursive(
    st.none() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
"""Any JSON, and the numbers outside of JSON that Python's parser accepts."""
JSON_BITS = (
    b"[" * 20_000,
    b'{"a":' * 10_000,
    b"9" * 5_000,
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b'"\\ud800"',
    b"NaN",
    b"null",
    b"[]",
    b"{}",
)
files = st.one_of(
    st.binary(max_size=40), st.sampled_from(JSON_BITS), anything.map(lambda value: json.dumps(value).encode())
)
"""Contents of a file that should hold JSON."""


def arguments(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of a call: some of its fields, valid or not, and sometimes unknown ones."""
    wrong = {name: strategy | strategy | anything for name, strategy in fields.items()}
    return st.tuples(
        st.fixed_dictionaries({}, optional=wrong),
        st.just({}) | st.just({}) | st.dictionaries(texts, anything, max_size=1),
    ).map(lambda pair: {**pair[1], **pair[0]})
