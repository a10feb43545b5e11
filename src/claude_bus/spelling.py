"""Paths and names as people and models write them: accepted if they can only mean one thing.

`src/{a,b}.ts` means two paths, "`src/a.ts:10-20` (the login)" means one. A text that could
mean several things, or nothing that can be claimed, is refused with a hint on what to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from urllib.parse import unquote, urlsplit

from . import addresses, claim_paths
from .errors import InvalidInput
from .patterns import is_glob, names_files
from .records import record

MAX_WRITTEN = 32_768
"""Characters of one string, which may contain a list."""
_MAX_READ = MAX_WRITTEN
"""Characters of one request that the more expensive rules read."""
_TAIL = 200
"""Characters at the end of a text that may point to a location in a file."""
_PLAIN = re.compile(r"[\w./*-]*[\w*-]")

_PAIRS = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "<": ">"}
_OPENS, _CLOSES = "{[(", "}])"
_SOURCES = re.compile(
    r".*\.(?:pyi?|[cm]?[jt]sx?|go|rs|java|kt|c|h|cc|[ch]pp|cs|rb|php|swift|vue|svelte|mdx?|json|ya?ml|toml|s?css|html|sql|sh"
    r"|txt|xml)"
)
"""Names of files that people point into by line."""


@record(frozen=True, slots=True)
class Seen:
    """The view of the caller's files, as far as there is one, and how paths are written there."""

    exists: Callable[[str], bool] = lambda _path: False
    """Whether a file or folder of that name exists, seen from the caller's folder."""
    root: str = ""
    """The root of the caller's working tree."""
    home: str = ""
    looks: bool = False
    """Whether any files can be seen at all."""
    windows: bool = False


UNSEEN = Seen()
"""For a caller on another machine."""


@dataclass(slots=True)
class Budget:
    """How many characters of one request may still be read."""

    left: int = _MAX_READ


def paths(written: Sequence[str], seen: Seen = UNSEEN, what: str = "path", budget: Budget | None = None) -> list[str]:
    """Return the paths, globs and resources that are meant, each once. Raises `InvalidInput` for an unclear text.

    All texts of one request share one `budget`.
    """
    claim_paths.check_place_count(len(written))
    reading = _Reading(seen, what, budget or Budget())
    waiting, found = list(reversed(written)), dict[str, None]()
    while waiting:
        text = waiting.pop()
        meant = reading.step(text)
        if meant is None:
            found[text] = None
            claim_paths.check_place_count(len(found))
        else:
            claim_paths.check_place_count(len(meant))
            waiting += reversed(meant)
    return list(found)


def recipients(written: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names that are meant; the caller must check that they are valid."""
    texts = [written] if isinstance(written, str) else written
    if len(texts) > addresses.MAX_RECIPIENTS or sum(map(len, texts)) > MAX_WRITTEN:
        return tuple(texts)  # too many or too long, which a later check reports
    return tuple(islice((name for text in texts for name in _recipients(text)), addresses.MAX_RECIPIENTS + 1))


def _recipients(text: str) -> Iterator[str]:
    text = text.strip()
    items = _json_list(text)
    if items is None and re.search(r"[,;\n]", text):
        items = [item for item in re.split(r"[,;\n]", text.strip("[]")) if item.strip()]
    if items is not None:
        for item in items:
            yield from (item,) if item == text else _recipients(item)
        return
    if (bare := _unquoted(text)) is not None:
        yield from _recipients(bare)
        return
    named = re.fullmatch(r"@?([^\s()]+)(?: \([^()]*\))?", text)
    yield named[1] if named else text


class _Reading:
    """Applies one rule after another. Each makes a text simpler, or several texts of it."""

    def __init__(self, seen: Seen, what: str, budget: Budget) -> None:
        self._seen = seen
        self._what = what
        self._budget = budget
        self._decoded: set[str] = set()
        """Paths from addresses, in which a blank or a comma can only be part of the name."""
        self._rules = (
            self._list_in_a_string,
            self._quoted,
            self._linked,
            self._address,
            self._mentioned,
            self._from_home,
            self._punctuated,
            self._pointed_at,
            self._remarked,
            self._comma_list,
            self._blank_list,
            self._file_address,
            self._braces,
            self._escaped,
            self._all_below,
            self._from_root,
        )

    def step(self, text: str) -> list[str] | None:
        """Return the texts that the first matching rule gives, or None for a plain path, pattern or resource."""
        if len(text) > MAX_WRITTEN:
            raise InvalidInput(f"{self._what} has {len(text)} characters, at most {MAX_WRITTEN} are read: name fewer")
        if text and self._is_there(text):  # to the file system, "" would be the folder itself
            return None
        if text in self._decoded:
            return None
        bare = text.strip()
        if not bare:
            raise InvalidInput(f"{self._what} is empty: name what is meant, or '.' for the whole folder")
        if bare != text:
            return [bare]
        if _PLAIN.fullmatch(text) and "..." not in text:
            return self._from_root(text)
        self._budget.left -= len(text)
        if self._budget.left < 0:
            raise self._refusal(text, "and what comes with it is too much to read: name fewer paths")
        for rule in self._rules:
            if (found := rule(bare)) is not None:
                return found
        self._refuse_unclear(bare)
        return None

    def _is_there(self, text: str) -> bool:
        return len(text) <= claim_paths.MAX_PATH and not claim_paths.is_resource(text) and self._seen.exists(text)

    def _stands_alone(self, text: str) -> bool:
        """Return whether the text is certainly a complete path by itself."""
        text = _unquoted(text) or text
        if self._is_there(text):
            return True
        if not text or re.search(r"\s", text):
            return False
        return names_files(text) or text.endswith("/") or ("*" in text and "/" in text)

    def _looks_like_a_path(self, text: str) -> bool:
        text = (_unquoted(text) or text).removeprefix("@")
        known = self._stands_alone(text) or "/" in text or is_glob(text)
        return known or claim_paths.is_resource(text) or text in (".", "..") or "\\" in text

    def _refusal(self, text: str, why: str) -> InvalidInput:
        return InvalidInput(f"{self._what} {text[:80]!a} {why}")

    # -- several paths in one text

    def _list_in_a_string(self, text: str) -> list[str] | None:
        if text.startswith(('{"', "{'")):
            raise self._refusal(text, "is an object: write the path itself, or a list of paths")
        if (items := _json_list(text)) is not None:
            return items
        if not (text.startswith("[") and text.endswith("]")):
            return None
        inner = _split(text[1:-1], ",")
        return inner if len(inner) > 1 and all(map(self._looks_like_a_path, inner)) else None

    def _comma_list(self, text: str) -> list[str] | None:
        pieces = _split(text, ",;")
        if len(pieces) < 2 or self._is_one_address(text, pieces[0]):
            return None
        claim_paths.check_place_count(len(pieces))
        if all(map(self._looks_like_a_path, pieces)):
            return pieces
        raise self._refusal(
            text, "may be several paths or one: give several as a list; for one with that name write ? for the comma"
        )

    def _is_one_address(self, text: str, first: str) -> bool:
        """Return whether commas can only be part of an address, which has no blanks."""
        return bool(_FILE_ADDRESS.match(text)) and not re.search(r"\s", text) and not self._stands_alone(first)

    def _blank_list(self, text: str) -> list[str] | None:
        pieces = _split(text, " \t")
        if len(pieces) < 2:
            return None
        claim_paths.check_place_count(len(pieces))
        if all(self._stands_alone(piece) or claim_paths.is_resource(piece) for piece in pieces):
            return pieces
        alone = [piece for n, piece in enumerate(pieces) if self._stands_alone(piece) and self._tells(n, pieces)]
        if alone:
            raise self._refusal(
                text,
                f"is more than a path: write only {alone[0][:80]!a}, or a list of paths; for one file with that name "
                "write ? for the blanks",
            )
        return None

    def _tells(self, n: int, pieces: list[str]) -> bool:
        """Return whether a piece is a path by itself: the last may end a name with blanks, unless it exists.

        After the beginning of an address it ends that name even then.
        """
        return n < len(pieces) - 1 or (self._is_there(pieces[n]) and not _FILE_ADDRESS.match(pieces[0]))

    def _braces(self, text: str) -> list[str] | None:
        group = _brace_group(text)
        if not group:
            return None
        start, end = group
        return [text[:start] + choice + text[end + 1 :] for choice in _split(text[start + 1 : end], ",", empty=True)]

    # -- text around a path

    def _quoted(self, text: str) -> list[str] | None:
        bare = _unquoted(text)
        return None if bare is None else [bare]

    def _linked(self, text: str) -> list[str] | None:
        """`[a.ts](src/a.ts)` and `- src/a.ts`."""
        found = re.fullmatch(r"\[[^\]]*\]\(([^()\s]+)\)|[-*+•]\s+(.+)", text)
        return [found[1] or found[2]] if found else None

    def _punctuated(self, text: str) -> list[str] | None:
        bare = text.rstrip(",;:")
        if text.endswith(".") and not text.endswith("..") and self._stands_alone(text[:-1]):
            bare = text[:-1]
        return [bare] if bare and bare != text else None

    def _pointed_at(self, text: str) -> list[str] | None:
        """`src/a.ts:10-20`, `#L10`, `(10,5)`, `::test_x`, `:login`, `docs/a.md#setup`."""
        tail = max(0, len(text) - _TAIL)
        found = _lines().fullmatch(text, tail) or _SYMBOL.fullmatch(text, tail)
        head = text[: found.end(1)] if found else ""
        if not head or not (self._is_there(head) or names_files(head)):
            return None
        if self._is_there(head) or not claim_paths.is_resource(text):
            return [head]
        if not _SOURCES.fullmatch(head):
            return None
        raise self._refusal(
            text, f"may be a place in a file or a resource: write {head[:80]!a}, or name it without a dot"
        )

    def _remarked(self, text: str) -> list[str] | None:
        """`src/a.ts (the login)`, `src/a.ts - the login`."""
        head, bracket, _ = text.partition(" (")
        if bracket and text.endswith(")") and self._stands_alone(head.rstrip()):
            return [head.rstrip()]
        found = _AFTER_A_DASH.fullmatch(" ".join(text.split()))
        if not found or not self._stands_alone(found[1]) or any(map(self._stands_alone, found[2].split()[:_TAIL])):
            return None
        return [found[1]]

    # -- other ways to write a path

    def _address(self, text: str) -> list[str] | None:
        """`file:///home/me/a, b.ts` and `file://src/a.ts`, if that file exists; other addresses are refused."""
        if _FILE_ADDRESS.match(text):
            named = (_path_of_address(text), unquote(re.sub(r"[?#].*", "", text[len("file://") :])))
            return next(([path] for path in named if path and self._is_there(path)), None)
        if "://" in text and not is_glob(text.partition("://")[0]):
            raise self._refusal(text, "is an address: write a path, or a resource such as port:8080")
        return None

    def _file_address(self, text: str) -> list[str] | None:
        """`file:///home/me/a%20b.ts`; `%2A` is an asterisk in a name."""
        if not _FILE_ADDRESS.match(text):
            return None
        path = _path_of_address(_ENCODED_MAGIC.sub(lambda found: f"[{unquote(found[0])}]", text))
        if path is None:
            raise self._refusal(text, "names another machine: write the path")
        if path.strip():
            self._decoded.add(path)
        return [path]

    def _mentioned(self, text: str) -> list[str] | None:
        """`@src/a.ts`, as prompts mention files."""
        if not text.startswith("@") or len(text) == 1:
            return None
        bare = text[1:]
        if bare[0] in _PAIRS or self._is_there(bare) or self._is_there(bare.partition("/")[0]):
            return [bare]
        if self._is_there(text.partition("/")[0]):
            return None
        if _lines().fullmatch(bare, max(0, len(bare) - _TAIL)):
            return [bare]
        raise self._refusal(
            text, f"may mention a file or be a name: write {bare[:80]!a}, or './{text[:80]}' for a name"
        )

    def _from_home(self, text: str) -> list[str] | None:
        found = re.match(r"(?:~|\$HOME|\$\{HOME\}|%USERPROFILE%|\$env:USERPROFILE)(?=[/\\]|$)", text)
        if found and self._seen.home:
            return [self._seen.home + text[found.end() :]]
        if found or re.match(r"~\w[^/\\]*[/\\]", text):
            raise self._refusal(text, "names a home that is not known here: write the absolute path")
        found = re.match(r"(?:\$PWD|\$\{PWD\}|\$\(pwd\))(?=[/\\]|$)", text)
        if found:
            return ["." + text[found.end() :]]
        if "${" in text or "$(" in text or re.match(r"\$\w+[/\\]|%\w+%", text):
            raise self._refusal(text, "has a variable in it, which is not expanded: write the path itself")
        return None

    def _escaped(self, text: str) -> list[str] | None:
        """`my\\ file.ts`, `app/\\[id\\]/page.tsx`, as shells need them."""
        if self._seen.windows or "\\" not in text or not _ESCAPES.fullmatch(text):
            return None
        return [re.sub(r"\\(.)", lambda found: f"[{found[1]}]" if found[1] in "*?[" else found[1], text)]

    def _all_below(self, text: str) -> list[str] | None:
        """`src/...`, and folders named by a glob: `*.app/`."""
        if text.endswith("/...") or text == "...":
            return [f"{text[:-3]}**"]
        bare = text.rstrip("/")
        return [f"{bare}/**"] if bare != text and is_glob(bare) and names_files(bare) else None

    def _from_root(self, text: str) -> list[str] | None:
        """A path from the root of the repository, if it exists only there."""
        first = text.lstrip("/").partition("/")[0]
        if not self._seen.root or not first or is_glob(first) or first in (".", "..") or claim_paths.is_resource(text):
            return None
        here = f"/{first}" if text.startswith("/") else first
        there = self._seen.root.rstrip("/\\")
        if text.startswith(there) or self._is_there(here) or not self._is_there(f"{there}/{first}"):
            return None
        return [f"{there}/{text.lstrip('/')}"]

    # -- texts that cannot be understood

    def _refuse_unclear(self, text: str) -> None:
        """Raise `InvalidInput` for a text that could be claimed but would match nothing."""
        if claim_paths.is_resource(text):
            self._refuse_no_resource(text)
            return
        if text.rfind("{") > text.rfind("}") and "," in text[text.rfind("{") :]:
            raise self._refusal(text, "has a brace that is not closed: name each path in a list")
        for sign, why in _UNCLEAR:
            if re.search(sign, text):
                raise self._refusal(text, why)
        if self._seen.looks and not self._seen.windows and re.match(r"[A-Za-z]:[\\/]|\\\\", text):
            raise self._refusal(text, "is a path of Windows: write it as it is on this machine")

    def _refuse_no_resource(self, text: str) -> None:
        kind, _, rest = text.partition(":")
        if is_glob(text):
            raise self._refusal(text, "is a resource, which is one name: claim each of them by its own")
        if kind in _NO_KINDS or (names_files(rest) and self._is_there(rest)):
            raise self._refusal(text, f"looks like a path with something before it: write {rest[:80]!a}")


_FILE_ADDRESS = re.compile(r"file:", re.IGNORECASE)
_ENCODED_MAGIC = re.compile(r"%(?:2A|3F|5B)", re.IGNORECASE)


@cache
def _lines() -> re.Pattern[str]:
    """Return the pattern of a path with line numbers. Compiling it takes a millisecond, and most commands have none."""
    return re.compile(
        r"(.*?[^:#\s])(?:::?L?\d+(?:[-–:,]+L?\d+)*|#L\d+(?:C\d+)?(?:[-–]L?\d+(?:C\d+)?)?|#\d+(?:-\d+)?|\(\d+(?:,\s*\d+)?\)"
        r"|\s+\(?(?:lines?|ll?\.)\s*\d+(?:\s*(?:[-–,]|to)\s*\d+)*\)?)",
        re.IGNORECASE,
    )


_SYMBOL = re.compile(r"(.*?[^:#\s])(?:::\S+|:[A-Za-z_]\w*(?:\(\))?|#[\w-]+)")
_AFTER_A_DASH = re.compile(r"(\S.*?)(?: (?:[-–—]{1,3}|#|//) |: )(\S.*)")
_ESCAPES = re.compile(r"(?:[^\\]|\\[ ()\[\]{}'\"&$*?!#;,|<>~`])+")
_NO_KINDS = frozenset({"HEAD", "ORIG_HEAD", "FETCH_HEAD", "path", "paths", "glob", "folder", "dir", "git"})
_UNCLEAR = (
    (r"^!", "excludes something, which a claim cannot: name what you edit"),
    (r"[@+!?*]\([^()]*\)|\|", "has alternatives that are not a glob: name each, as {a,b} or in a list"),
    (r"\{\w+\.\.\w+(?:\.\.\w+)?\}", "has a range in braces: name each, or use [0-9]"),
    (r"\.\*\\", "looks like a regular expression: write a glob such as src/**/*.py"),
    (r"[\"`“”]|=>", "is not one path: write only the path, or a list of paths"),
)


def _path_of_address(text: str) -> str | None:
    """Return the path that a `file:` address names; None if it is on another machine, or no path at all."""
    try:
        address = urlsplit(text)
    except ValueError:
        return None
    if address.netloc.lower() not in ("", "localhost"):
        return None
    path = unquote(address.path)
    return path[1:] if re.match(r"/[A-Za-z]:", path) else path


def _json_list(text: str) -> list[str] | None:
    """Return the strings of a list that was written into a string, as JSON or Python; None if it is not a list."""
    items: list[object]
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = [_in_single_quotes(piece) for piece in _split(text[1:-1], ",")]
    strings = [item for item in items if isinstance(item, str)]
    return strings if strings and len(strings) == len(items) else None


def _in_single_quotes(text: str) -> str | None:
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] == "'" else None


def _unquoted(text: str) -> str | None:
    """Return the text without the quotes around all of it; None without such quotes."""
    if len(text) < 3 or _PAIRS.get(text[0]) != text[-1]:
        return None
    inner = text[1:-1]
    return None if text[-1] in inner.strip(text[-1]) else inner.strip(text[-1]) or None


def _split(text: str, separators: str, *, empty: bool = False) -> list[str]:
    """Split at separators, except within quotes or brackets."""
    if not set(separators) & set(text):
        return [text]
    pieces, depth, quote, start = [], 0, "", 0
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in '`"' or (char == "'" and text[at - 1 : at] in ("", " ", *separators)):
            quote = char if text.find(char, at + 1) > 0 else ""
        elif char in _OPENS:
            depth += 1
        elif char in _CLOSES:
            depth = max(0, depth - 1)
        elif char in separators and depth == 0:
            pieces.append(text[start:at].strip())
            start = at + 1
    pieces.append(text[start:].strip())
    return pieces if empty else [piece for piece in pieces if piece]


def _brace_group(text: str) -> tuple[int, int] | None:
    """Return the start and end of the first braces that contain a choice."""
    opened: list[tuple[int, bool]] = []
    found: list[tuple[int, int]] = []
    for at, char in enumerate(text):
        if char == "{":
            opened.append((at, False))
        elif char == "," and opened:
            opened[-1] = (opened[-1][0], True)
        elif char == "}" and opened:
            start, choice = opened.pop()
            if choice:
                found.append((start, at))
    return min(found, default=None)
