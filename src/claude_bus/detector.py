"""Likely secrets in a text: what may not be on the bus.

The rules are those of Kingfisher, a scanner that runs in this process. It only
scans: whether a secret is valid is asked of nobody, and nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import SecretRefused

if TYPE_CHECKING:
    from kingfisher_sdk import Scanner

_log = logging.getLogger(__name__)

_WORD = re.compile(r"\S{12}")
"""No secret that the rules know is shorter. Plain talk needs no scanner, whose rules take half a second to load."""
_SHORT = 4_096
"""Characters in which to look for such a word costs less than to have a thread do so."""


@dataclass(frozen=True, slots=True, order=True)
class Suspicion:
    """Where something looks like a secret, and of what kind. Never the secret itself."""

    line: int
    kind: str


async def refuse_secrets(what: str, text: str) -> None:
    """`SecretRefused` if the text looks like it holds a secret.

    Where the scanner cannot run at all (a damaged installation) the text passes: without
    its guard the bus still has to carry mail.
    """
    if len(text) <= _SHORT and not _WORD.search(text):
        return
    try:
        found = await asyncio.to_thread(find, text)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        _log.warning("not looked for secrets: %s", type(error).__name__)
        return
    if found:
        raise SecretRefused(what, [(suspicion.kind, suspicion.line) for suspicion in found])


def find(text: str) -> list[Suspicion]:
    """All that looks like a secret, by line. Any text will do; may be called from any thread."""
    if not _WORD.search(text):
        return []
    found = _scanner().scan(text.encode("utf-8", "replace"))
    return sorted({Suspicion(f.location["line"], _kind(f.rule_id)) for f in found if f.visible})


def unusable() -> str:
    """Why texts cannot be looked at here; empty if they can."""
    try:
        import kingfisher_sdk  # noqa: F401 - whether it loads is the question
    except ImportError as error:
        return str(error)
    return ""


def compiled(env: Mapping[str, str], home: Path, platform: str) -> list[Path]:
    """The files in which the scanner keeps its compiled rules, on a system named as in `sys.platform`."""
    if given := env.get("KF_RULE_CACHE_DIR"):
        return sorted(Path(given).glob("*.vscdb"))
    caches = [home / "Library" / "Caches"] if platform == "darwin" else [home / ".cache"]
    caches += [Path(env[name]) for name in ("XDG_CACHE_HOME", "LOCALAPPDATA") if env.get(name)]
    return sorted(file for place in caches for file in (place / "kingfisher" / "rule-cache").glob("*.vscdb"))


@cache
def _scanner() -> Scanner:
    """The scanner with its rules, which are compiled once per machine and kept in the user's cache folder.

    Two threads that come first load them twice, and no worse.
    """
    from kingfisher_sdk import Rules, Scanner

    return Scanner(Rules(), redact=True)


def _kind(rule: str) -> str:
    """`betterleaks.github-pat` and `veles.secrets/sendgrid` name their catalogue first."""
    return rule.rsplit("/", 1)[-1].split(".", 1)[-1]
