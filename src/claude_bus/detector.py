"""Likely secrets in a text, which may not go onto the bus.

The rules are those of Kingfisher, a scanner that runs in this process. It only scans: no
service is asked whether a secret is valid, and no data leaves the machine. `secret_hints` tells
which texts it has to look at, so that others do not wait for it to load. `samples` recognizes
findings that only look like secrets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from . import event_loop, extras, secret_hints
from .errors import SecretRefused

if TYPE_CHECKING:
    from kingfisher_sdk import Finding, Scanner

    from . import samples

_SHORT = 4_096
"""Characters that `secret_hints` looks at in less time than a thread takes to start."""
_START = "import sys; sys.path.append(sys.argv[1]); from claude_bus.detector import compile_rules; compile_rules()"

_AROUND = 500
"""Bytes of a line on either side of a login in which to look for its hosts."""


@dataclass(frozen=True, slots=True, order=True)
class Suspicion:
    """The line and kind of a likely secret, never the secret itself."""

    line: int
    kind: str


async def refuse_secrets(what: str, text: str) -> None:
    """Raise `SecretRefused` if the text looks as if it contains a secret.

    Without a scanner (it is not installed, or damaged) the text passes: the bus must still carry mail.
    """
    if (len(text) <= _SHORT and not secret_hints.could_hold(text)) or is_missing():
        return
    try:
        found = await event_loop.aside(find, text)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        import logging

        logging.getLogger(__name__).warning("not scanned for secrets: %s", type(error).__name__)
        return
    if found:
        raise SecretRefused(what, [(suspicion.kind, suspicion.line) for suspicion in found])


def find(text: str) -> list[Suspicion]:
    """Return all likely secrets, by line. Accepts any text; may be called from any thread."""
    if not secret_hints.could_hold(text):
        return []
    from . import samples

    content = text.encode("utf-8", "replace")
    found = [f for f in _scanner().scan(content) if f.visible and not samples.is_sample(f.secret, _login(f, content))]
    return sorted({Suspicion(f.location["line"], _kind(f.rule_id)) for f in found})


def is_missing() -> bool:
    """Return whether the scanner is not installed, without loading it."""
    return find_spec("kingfisher_sdk") is None


def unusable() -> str:
    """Return why texts cannot be scanned here, and how to change that; empty if they can."""
    if is_missing():
        if extras.are_coming():
            return "the scanner is being fetched"
        return f"the scanner is not installed: {extras.way_to_get('secrets')}"
    try:
        import kingfisher_sdk  # noqa: F401 - only to see whether it loads
    except ImportError as error:
        return str(error)
    return ""


def compiled(env: Mapping[str, str], home: Path, platform: str) -> list[Path]:
    """Return the files of the scanner's compiled rules, on a system named as in `sys.platform`."""
    if given := env.get("KF_RULE_CACHE_DIR"):
        return sorted(Path(given).glob("*.vscdb"))
    caches = [home / "Library" / "Caches"] if platform == "darwin" else [home / ".cache"]
    caches += [Path(env[name]) for name in ("XDG_CACHE_HOME", "LOCALAPPDATA") if env.get(name)]
    return sorted(file for place in caches for file in (place / "kingfisher" / "rule-cache").glob("*.vscdb"))


def prepare(env: Mapping[str, str]) -> bool:
    """Have the rules compiled by another process, at low priority, unless they are; return whether that began.

    It takes seconds, once per machine, and nobody's first message should.
    """
    if compiled(env, Path(os.path.expanduser("~")), sys.platform):  # noqa: PTH111 - without a home it raises nothing
        return False
    import subprocess
    import threading
    from importlib.util import find_spec

    if not find_spec("kingfisher_sdk"):
        return False
    nothing = subprocess.DEVNULL
    command = [sys.executable, "-I", "-c", _START, str(Path(__file__).parents[1])]
    try:  # in a session of its own it goes on if this process ends
        process = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)  # noqa: S603
    except OSError:
        return False
    threading.Thread(target=process.wait, daemon=True, name="compiling rules").start()
    return True


def compile_rules() -> None:
    """Compile the rules, at low priority.

    Of several processes that do it at once, each replaces the file as a whole. Where it cannot be written, nothing
    is kept, and each process that scans compiles them for itself.
    """
    if hasattr(os, "nice"):
        os.nice(19)
    _scanner()


@cache
def _scanner() -> Scanner:
    """Return the scanner with its rules, which are compiled once per machine and kept in the user's cache folder.

    Two threads that call this first load the rules twice, which is harmless.
    """
    from kingfisher_sdk import Rules, Scanner

    return Scanner(Rules())


def _login(finding: Finding, content: bytes) -> samples.Login | None:
    """Return the login of a finding, if it is one."""
    from . import samples

    if "curl-auth" in finding.rule_id:
        return samples.login_of_command(finding.secret, _line_around(finding, content))
    return samples.login_of_url(finding.captures)


def _line_around(finding: Finding, content: bytes) -> str:
    """Return the line of a finding, or a part of a long line."""
    start, end = finding.location["start_offset"], finding.location["end_offset"]
    before = content[max(0, start - _AROUND) : start].rpartition(b"\n")[2]
    after = content[end : end + _AROUND].partition(b"\n")[0]
    return (before + content[start:end] + after).decode("utf-8", "replace")


def _kind(rule: str) -> str:
    """Return the kind in a rule name; `betterleaks.github-pat` and `veles.secrets/sendgrid` start with a catalogue."""
    return rule.rsplit("/", 1)[-1].split(".", 1)[-1]
