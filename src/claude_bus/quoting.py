"""Peers' text wherever a model or a user reads it. Pure.

Text that acts on a reader (control characters, invisible and direction-changing ones, tags
that have a meaning to the client) is made visible; within a line of the bus it is quoted.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

_FAMILIES = (
    "agent|artifact|bash|bus|cc|channel|claude|command|coordinator|cross-session|cross_session|daemon|fork|function|ide|"
    "interrupted|local-command|mcp|memory|other|pasted|persisted|repl|sandbox|session|subagent|system|task|teammate|tool|"
    "total|truncated|untrusted|user|webhook"
)
"""First words of the tags in which Claude Code (2.1.332) tells its model who speaks; a `-` or `_` follows."""
_WORDS = (
    "assistant|channel|developer|earlier_message|function|human|instructions|invoke|parameter|reminder|system|thinking|"
    "tick|tool|user"
)
"""Such tags of a single word. `List<User>` is not one: a tag does not directly follow a word."""
_WHOLE = "antml|new-diagnostics|partial-response|previous-conversation"
_TAG = rf"(?:(?:{_FAMILIES})[-_]|(?:{_WORDS})(?![\w-]))"
# Characters that print nothing or change the writing direction: fillers, joiners, direction marks, line
# separators, invisible operators, variation selectors, annotations, and the tag block
# that can hide whole texts.
_NEVER_SEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_SOMETIMES_SEEN = "\u180b-\u180d\u180f\u200c\u200d\ufe00-\ufe0f"
"""Joiners and variation selectors."""
_UNSEEN = re.compile(f"[{_NEVER_SEEN}{_SOMETIMES_SEEN}]")
_RUNS = re.compile(f"[{_SOMETIMES_SEEN}]+")
_JOINERS = "\u200c\u200d"
_SELECTOR = re.compile("[\u180b-\u180d\u180f\ufe00-\ufe0f]")


@cache
def _tags() -> re.Pattern[str]:
    """Return the pattern of the tags. Compiling it takes milliseconds, which texts without a `<` need not wait for."""
    return re.compile(
        rf"<(?=[\s/]*[a-z])(?:(?=[\s/]*(?:{_WHOLE}|(?:{_FAMILIES})-)|[\s/]*/\s*{_TAG}|\s*{_TAG}[\w-]*\s+[\w:-]+\s*=)|(?<![\w.]<)(?=\s*{_TAG}))",
        re.IGNORECASE,
    )


def visible(text: str) -> str:
    """Return the text with everything that would act on its reader spelled out instead.

    Newlines and tabs stay, and so do joiners within words and emoji; a carriage return
    before a newline is dropped. Any other character that prints nothing becomes an escape.
    """
    text = _RUNS.sub(_escape, text.replace("\r\n", "\n"))
    hidden = [char for char in set(text) if _is_control(char) or (char not in _JOINERS and _is_hidden(char))]
    text = text.translate({ord(char): _escape_char(char) for char in hidden})
    return _tags().sub("&lt;", text) if "<" in text else text


def _is_control(char: str) -> bool:
    return char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cs")


def _is_hidden(char: str) -> bool:
    return _UNSEEN.match(char) is not None and not _SELECTOR.match(char)


def _escape(match: re.Match[str]) -> str:
    """Keep joiners and single variation selectors where they are part of the writing; escape the others."""
    before = match.string[match.start() - 1] if match.start() else "\n"
    return "".join(
        char if _stays(last, char) else _escape_char(char)
        for last, char in zip(before + match[0], match[0], strict=False)
    )


def _stays(before: str, char: str) -> bool:
    if char in _JOINERS:
        return unicodedata.category(before) in ("So", "Sk", "Mn", "Mc", "Lo")
    return not _UNSEEN.match(before) and not before.isspace()


def _escape_char(char: str) -> str:
    return ascii(char)[1:-1]


def one_line(text: str, limit: int) -> str:
    """Return the text on one line, cut to `limit` characters as the client counts them.

    Only the beginning of a long text is processed.
    """
    piece = text[: 10 * limit]
    more = "…" if len(piece) < len(text) else ""
    return clipped(" ".join(visible(piece).split()) + more, limit)


def clipped(text: str, limit: int) -> str:
    """Return the text, cut to `limit` characters as the client counts them."""
    if size(text) <= limit:
        return text
    room = limit - 1
    kept = text[:room]
    while size(kept) > room:
        kept = kept[:-1] if size(kept) - room < 100 else kept[: len(kept) * room // size(kept)]
    return f"{kept}…"


def size(text: str) -> int:
    """Return the length as the client counts it, in UTF-16 units: most emoji are two."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def quoted(given: str, limit: int) -> str:
    """Return a peer's words for use within a line of the bus.

    They are on one line, cut to `limit` characters, made visible, and in quotes that they cannot close, so a reader
    takes none of them for words of the bus or the user.
    """
    return '"{}"'.format(one_line(given, limit - 2).replace('"', "'"))


def inert(value: object) -> Any:
    """Return a JSON value with all its texts and keys made visible. Not recursive, because peers may nest deeply."""
    out: list[Any] = [value]
    containers: list[Any] = [out]
    while containers:
        found = containers.pop()
        for at, item in list(found.items() if isinstance(found, dict) else enumerate(found)):
            if isinstance(item, str):
                found[at] = visible(item)
            elif isinstance(item, dict):
                found[at] = {visible(str(key)): inner for key, inner in item.items()}
                containers.append(found[at])
            elif isinstance(item, list | tuple):
                found[at] = [*item]
                containers.append(found[at])
    return out[0]
