"""Checks the English of docs, docstrings, comments and messages: `python scripts/words.py [FILE...]`.

It finds the habits that make a reader stop: sentences that open with a relative clause, and turns of phrase
that are not English. CONTRIBUTING says how to write instead. Prints `file:line: rule: text` and exits with 1.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = ("scripts/words.py", "tests/project/test_words.py")
"""Files that quote what is to be found."""

RULES = {
    "a sentence opens with a relative clause: begin with a noun": re.compile(
        r"(?:^|(?<=[.!?:]\s)|(?<=\n\n))(?:What|Whoever|Whom|Who|Whose)\s(?![^.?]{0,120}\?)"
    ),
    "'by now' where 'still' or 'already' is meant": re.compile(r"(?<!\")\bby\snow\b"),
    "'is none': write 'is not a valid X'": re.compile(r"(?<!there\s)\b(?:is|are|was|were)\snone\b(?!\sof\b)"),
    "'is said to be': name who says it": re.compile(r"\b(?:is|are)\ssaid\sto\b"),
    "'nobody ... any more', 'not ... any more': write 'no longer'": re.compile(r"\bnobody\b[^.]{0,60}\bany\smore\b"),
    "'is of no use': write 'cannot be used' or 'is invalid'": re.compile(r"\bof\sno\suse\b"),
    "'for what': name the thing": re.compile(r"(?:^|[.;:]\s|\n\n)(?:For|Of|To|By|In)\swhat\b(?![^.?]{0,80}\?)"),
}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The passages of a file that people read, each with its first line."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield from _paragraphs(source)
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, re.sub(r"\n[ \t]+", "\n", node.value)
    yield from _comments(source)


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """The comments; a line below another in the same column goes on with it."""
    begun, column, lines = 0, -1, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if lines and token.start != (begun + len(lines), column):
            yield begun, "\n".join(lines)
            lines = []
        if not lines:
            begun, column = token.start
            column = -1 if token.line[:column].strip() else column  # beside code each line is a text of its own
        lines.append(token.string.lstrip("# "))
    if lines:
        yield begun, "\n".join(lines)


def _paragraphs(source: str) -> Iterator[tuple[int, str]]:
    """Lines outside of code fences; a line that goes on joins the one before."""
    fenced, begun, text = False, 0, ""
    for number, line in enumerate([*source.split("\n"), ""], 1):
        fenced ^= line.lstrip().startswith("```")
        words = line.strip().lstrip("-*>|# ").strip()
        if fenced or not words or line.lstrip().startswith(("```", "-", "*", "|", "#")):
            if text:
                yield begun, text
            text = ""
        if words and not fenced and not line.startswith(("```", "#")):
            begun, text = (begun, f"{text} {words}") if text else (number, words)
    if text:
        yield begun, text


def problems(path: Path) -> list[str]:
    """What is wrong in one file, a line each."""
    found = []
    for line, text in texts(path):
        for rule, pattern in RULES.items():
            for match in pattern.finditer(text):
                at = line + text.count("\n", 0, match.start()) * (path.suffix == ".py")
                shown = text[match.start() : match.start() + 60].replace("\n", " ")
                found.append(f"{path}:{at}: {rule}: {shown!r}")
    return found


def tracked() -> list[Path]:
    """The files of the repository that have words in them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    names = [name for name in listed.split("\0") if name.endswith((".py", ".md")) and name not in EXAMPLES]
    return [ROOT / name for name in names if (ROOT / name).exists()]


def main(arguments: list[str]) -> int:
    found = [line for path in [*map(Path, arguments)] or tracked() for line in problems(path)]
    if found:
        print("\n".join(found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
