"""Checks of the values in a call from elsewhere: every text and every number has a rule.

Texts are stored, and others, models among them, are shown them as one line without a
fence. So each is one printable line of at most so many characters, unless its type
(`sql.arguments`) or the table below says that it is fenced where it is shown, or not shown
at all. A field that is added to a record has the strict rule until somebody gives it another one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from .. import drafts, limits, quoting
from ..errors import InvalidInput
from ..model.claims import ClaimTarget
from ..model.hooks import HookReport
from ..model.identity import Client, Folder, SignOfLife
from ..model.messages import Draft, File
from ..sql.arguments import Checked, FewMessages, Line

Rule = Line | Checked | FewMessages

STRICT = Line(1_000)
"""The rule of a text that has no other."""
_PATH = Line(limits.MAX_PATH_BYTES)
_LARGEST = 2**53
"""The largest number of which every program means the same."""

_FIELDS: Mapping[type, Mapping[str, Rule]] = {
    # Its texts are fenced, or are checked where drafts of all doors are.
    Draft: dict.fromkeys(("to", "content", "kind", "tags", "key"), Checked()),
    File: dict.fromkeys(("path", "sha256", "host", "state"), Checked()),
    Folder: dict.fromkeys(("cwd", "root", "repository", "branch"), _PATH),
    HookReport: {"doing": Line(limits.MAX_DOING), **dict.fromkeys(("proven", "lost", "recalled"), FewMessages())},
    SignOfLife: dict.fromkeys(("proven", "lost"), FewMessages()),
    ClaimTarget: dict.fromkeys(("scope", "path"), _PATH),
}
"""The rules of records' fields, where these are not the strict one."""


def as_shown(client: Client) -> Client:
    """The client, its folder in a spelling that is one line. A folder may be called anything, and its session join."""
    parts = {field: _shown(getattr(client.folder, field)) for field, _ in _rules(Folder)}
    if all(getattr(client.folder, field) == part for field, part in parts.items()):
        return client
    return dataclasses.replace(client, folder=Folder(**parts))


def _shown(part: str) -> str:
    fits = part.isprintable() and len(part) <= limits.MAX_PATH_BYTES
    return part if fits else quoting.one_line(part, limits.MAX_PATH_BYTES)


def check(name: str, value: Any, rule: Rule = STRICT) -> None:
    """Raise `InvalidInput` for a text or a number that no claude-bus sends. `name` is the parameter's or field's."""
    if isinstance(rule, Checked):
        return
    if isinstance(value, str):
        limits.check_line(value, name, rule.most if isinstance(rule, Line) else STRICT.most)
    elif isinstance(value, int | float):
        if not (math.isfinite(value) and abs(value) <= _LARGEST):
            raise InvalidInput(f"{name} is no number that can be stored")
    elif rules := _rules(value.__class__):
        for field, own in rules:
            check(field, getattr(value, field), own)
    elif isinstance(value, tuple | list):
        if isinstance(rule, FewMessages):
            drafts.check_message_count(len(value))
        for item in value:
            check(name, item, rule)


@cache
def _rules(kind: type) -> tuple[tuple[str, Rule], ...]:
    """The fields of a kind of record, each with its rule; nothing for what is not one."""
    if dataclasses.is_dataclass(kind):
        fields: tuple[str, ...] = tuple(field.name for field in dataclasses.fields(kind))
    else:
        fields = getattr(kind, "_fields", ())
    own = _FIELDS.get(kind, {})
    return tuple((field, own.get(field, STRICT)) for field in fields)
