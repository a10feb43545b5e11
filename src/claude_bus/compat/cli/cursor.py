"""How far a reader of an agent-bus has come, kept between its runs."""

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
    """The time of the last message that a program handed on. `since` is None before its first run."""

    def __init__(self, path: Path | None) -> None:
        """`path` is None for one that is not kept."""
        self._path = path
        self.since = _read(path) if path else None

    def move(self, since: float) -> None:
        """Everything up to this time was handed on. Raises `OSError` if that cannot be kept."""
        self.since = since
        if self._path:
            private_files.write(self._path, json.dumps({"since": since}).encode() + b"\n")


def cursor(settings: AgentBus, program: str, name: str) -> Cursor:
    """The cursor of a program that reads the mail of `name`; raises `InvalidInput` if its file is damaged."""
    if not settings.cursors:
        return Cursor(None)
    path = file_of(settings, program, name, "cursor")
    try:
        private_files.folder_of(path)
    except OSError as error:
        raise private_files.refusal(path, error) from None
    return Cursor(path)


def file_of(settings: AgentBus, program: str, name: str, kind: str) -> Path:
    """A file that belongs to one program, name, channel and server; `InvalidInput` if there is no folder for it."""
    if not settings.folder:
        raise InvalidInput(
            "this user has no home folder to keep what was read in: set AGENT_BUS_STATE_DIR to a folder, or "
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
        raise InvalidInput(f"the cursor in {path} cannot be read; remove it to start with what comes now") from None
