"""A session's experiences, line by line. A line, once written, survives the death of its writer."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Journal:
    """The journal of one seat; each client of the seat continues it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, what: str, **more: Any) -> None:
        line = {"t": time.time(), "what": what, **more}
        os.write(self._file, json.dumps(line, ensure_ascii=False).encode() + b"\n")


def read(path: Path) -> list[Line]:
    """All lines so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
