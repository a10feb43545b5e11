"""The position of a reader of an agent-bus, kept between its runs."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from ... import jsons
from ...cli import private_files
from ...config import AgentBus
from ...errors import InvalidInput


class Cursor:
    """The time of the last message that a program processed. `since` is None before its first run."""

    def __init__(self, path: Path | None) -> None:
        """Create a cursor; `path` is None for one that is not stored."""
        self._path = path
        self.since = _read(path) if path else None

    def move(self, since: float) -> None:
        """Record that all messages up to this time were processed. Raises `OSError` if that cannot be stored."""
        self.since = since
        if self._path:
            private_files.write(self._path, json.dumps({"since": since}).encode() + b"\n")


def cursor(settings: AgentBus, program: str, name: str) -> Cursor:
    """Return the cursor of a program that reads the mail of `name`. Raises `InvalidInput` if its file is damaged."""
    if not settings.cursors:
        return Cursor(None)
    path = file_of(settings, program, name, "cursor")
    try:
        private_files.folder_of(path)
    except OSError as error:
        raise private_files.refusal(path, error) from None
    return Cursor(path)


def file_of(settings: AgentBus, program: str, name: str, kind: str) -> Path:
    """Return a file for one program, name, channel and server. Raises `InvalidInput` if there is no folder for it."""
    if not settings.folder:
        raise InvalidInput(
            "this user has no home folder to store cursors in: set AGENT_BUS_STATE_DIR to a folder, or "
            "AGENT_BUS_NO_CURSOR=1"
        )
    whole = f"{settings.url}\0{name}\0{settings.channel}"
    digest = hashlib.sha256(whole.encode(errors="surrogatepass")).hexdigest()[:12]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{name}-{settings.channel}")[:80]
    return settings.folder / f"{program}-{plain}-{digest}.{kind}"


def _read(path: Path) -> float | None:
    try:
        found = jsons.loads(path.read_bytes())
        since = found["since"]
        if isinstance(since, bool) or not 0 <= float(since) < 1e12:
            raise ValueError
        return float(since)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        raise InvalidInput(f"the cursor in {path} cannot be read; remove it to start with new messages") from None
