"""Likely secrets in a text: what may not be on the bus.

The rules are those of Kingfisher, a scanner that runs in this process. It only
scans: whether a secret is valid is asked of nobody, and nothing leaves the machine.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import SecretRefused

if TYPE_CHECKING:
    from kingfisher_sdk import Scanner

_log = logging.getLogger(__name__)

_WORD = re.compile(r"\S{12}")
"""No secret that the rules know is shorter. Plain talk needs no scanner, whose rules take half a second to load."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What looks like a secret: its kind, and the line it begins on. Never the secret itself."""

    kind: str
    line: int


class Detector:
    """Finds secrets. Loads its rules when it is first needed; may be used from any thread.

    The rules are compiled once per machine, which takes seconds, and kept in the
    user's cache folder.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scanner: Scanner | None = None

    def find(self, text: str) -> list[Suspicion]:
        """All that looks like a secret, by line. Any text will do."""
        if not _WORD.search(text):
            return []
        found = self._loaded().scan(text.encode("utf-8", "replace"))
        kinds = {(f.location["line"], _kind(f.rule_id)) for f in found if f.visible}
        return [Suspicion(kind, line) for line, kind in sorted(kinds)]

    def _loaded(self) -> Scanner:
        from kingfisher_sdk import Rules, Scanner

        with self._lock:
            if self._scanner is None:
                self._scanner = Scanner(Rules(), redact=True)
            return self._scanner


def _kind(rule: str) -> str:
    """`betterleaks.github-pat` and `veles.secrets/sendgrid` name their catalogue first."""
    return rule.rsplit("/", 1)[-1].rsplit(".", 1)[-1]


async def refuse_secrets(detector: Detector, what: str, text: str) -> None:
    """`SecretRefused` if the text looks like it holds a secret.

    Where the scanner cannot run at all (a damaged installation), the text passes: a
    seat belt that does not close keeps nobody from driving.
    """
    try:
        found = await asyncio.to_thread(detector.find, text)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        _log.warning("not looked for secrets: %s", type(error).__name__)
        return
    if found:
        raise SecretRefused(what, [(suspicion.kind, suspicion.line) for suspicion in found])
