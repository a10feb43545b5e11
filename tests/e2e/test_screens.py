"""The pictures of the documentation can be drawn anew, and show what their pages say."""

from __future__ import annotations

import re

import pytest

from docs.screens.__main__ import IMAGES, SCREENS

SHOWN = {
    "mail": ("tell frontend how login works now", "Message from @backend", "1 unread on the bus from backend (#1)"),
    "guard": ("is claimed by 'backend'", 'reason: "moving the login"', "goes through, and 'backend' is told"),
    "join": ("backend the API", "frontend is here and idle"),
    "doctor": ("claude-bus doctor", "integrity", 'run without a question ("mcp__bus")'),
    "shell": ("claude-bus agents", "sent to 'frontend' (id 1): idle, being woken"),
}


def words(picture: str) -> str:
    """The text of a picture on one line, as it is read."""
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", picture)
    plain = " ".join(texts).replace("&#160;", " ").replace("&#x27;", "'").replace("&quot;", '"')
    return re.sub(r"\s+", " ", plain)


def test_every_picture_is_known() -> None:
    assert sorted(SHOWN) == sorted(SCREENS) == sorted(picture.stem for picture in IMAGES.glob("*.svg"))


@pytest.mark.parametrize("name", SCREENS)
def test_a_picture_shows_what_it_is_for(name: str) -> None:
    """The one in the repository, and one that is drawn now."""
    for picture in ((IMAGES / f"{name}.svg").read_text(encoding="utf-8"), SCREENS[name]()):
        assert [said for said in SHOWN[name] if said not in words(picture)] == []
