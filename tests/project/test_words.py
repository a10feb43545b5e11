"""The lint of the English finds a habit wherever it stands in a text."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "scripts" / "words.py"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('"""Whoever reads it is known."""\n', 1),
        ('def f():\n    """Good.\n\n    What is stored stays.\n    """\n', 4),
        ('def f():\n    """A sentence ends here.\n    Who waits is woken.\n    """\n', 3),
        ("# the line is there by\n# now, and stays\n", 1),
        ("x = 1\n# Good. What is\n# stored stays\n", 2),
        ('x = "the name is said\\nto be free"\n', 1),
    ],
)
def test_a_habit_is_found(tmp_path: Path, text: str, line: int) -> None:
    """Also after the first line, with indentation, and across the lines of a comment."""
    file = tmp_path / "a.py"
    file.write_text(text, encoding="utf-8")
    assert [found.split(":")[1] for found in words.problems(file)] == [str(line)]


@pytest.mark.parametrize(
    "text", ['"""Who is there?"""\n', "# What does it do\n# here? Nothing.\n", "a = 1  # by\nb = 2  # now\n"]
)
def test_good_english_passes(tmp_path: Path, text: str) -> None:
    """A question may open with such a word."""
    file = tmp_path / "a.py"
    file.write_text(text, encoding="utf-8")
    assert words.problems(file) == []


specification = importlib.util.spec_from_file_location("words", PROGRAM)
assert specification
assert specification.loader
words = importlib.util.module_from_spec(specification)
specification.loader.exec_module(words)
