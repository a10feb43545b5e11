"""What a program elsewhere may say in a call: every text and every number in it has a rule.

Texts are stored, and others, models among them, are shown them as one line without a
fence. So each is one printable line of at most so many characters, unless it is listed
here as one that is fenced where it is shown, or not shown at all. A field that is added
to a record has the strict rule until somebody gives it another one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from .. import rules, text
from ..errors import InvalidInput
from ..model import Client, Draft, Folder

_VERBS_OWN = frozenset({"value", "search", "owns"})
"""What the verbs check as these rules would, and better."""
_CHARACTERS = {
    "role": rules.MAX_ROLE,
    "doing": rules.MAX_DOING,
    **dict.fromkeys(("path", "scope", "tree", "cwd", "root", "repository", "branch"), rules.MAX_PATH_BYTES),
}
"""The longest that a text may be, by the name of its parameter or field."""
_OTHERWISE = 1_000
_LARGEST = 2**53
"""The largest number of which every program means the same."""


def as_shown(client: Client) -> Client:
    """The client, its folder in a spelling that is one line. A folder may be called anything, and its session join."""
    parts = {field.name: _shown(getattr(client.folder, field.name)) for field in dataclasses.fields(Folder)}
    return dataclasses.replace(client, folder=Folder(**parts))


def _shown(part: str) -> str:
    fits = part.isprintable() and len(part) <= rules.MAX_PATH_BYTES
    return part if fits else text.one_line(part, rules.MAX_PATH_BYTES)


def check(arguments: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` for a text or a number that no claude-bus sends, or JSON that is none."""
    happening = arguments.get("happening")
    settled = (happening.proven, happening.lost, happening.recalled) if happening else ()
    for ids in (arguments.get("message_ids", ()), *settled):
        rules.check_message_count(len(ids))
    for name, value in _parts(arguments):
        if isinstance(value, str):
            rules.check_line(value, name, _CHARACTERS.get(name, _OTHERWISE))
        elif not (math.isfinite(value) and abs(value) <= _LARGEST):
            raise InvalidInput(f"{name} is no number that can be stored")
    if arguments.get("json") and arguments.get("mode") != "delete":
        rules.check_json(rules.check_value(arguments["value"]))


def _parts(of: Mapping[str, Any]) -> Iterator[tuple[str, str | float]]:
    """All texts and numbers in these values, each by the name of its own field."""
    for name, value in of.items():
        if isinstance(value, Draft):
            yield from _numbers(value)
        elif isinstance(value, str | int | float):
            if name not in _VERBS_OWN:
                yield name, value
        elif dataclasses.is_dataclass(value):
            yield from _parts({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        elif isinstance(value, tuple) and hasattr(value, "_asdict"):
            yield from _parts(value._asdict())
        elif isinstance(value, tuple | list):
            for item in value:
                yield from _parts({name: item})


def _numbers(draft: Draft) -> Iterator[tuple[str, float]]:
    """Those of a draft. Its texts are fenced, or are checked where drafts of all doors are."""
    given = {"reply_to": draft.reply_to, "ttl": draft.ttl, "hops": draft.hops}
    yield from ((name, value) for name, value in given.items() if value is not None)
    yield from (("size", file.size) for file in draft.files)
