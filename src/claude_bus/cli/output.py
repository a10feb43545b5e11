"""How commands say what they did."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from typing import Any


def show(options: argparse.Namespace, document: dict[str, Any], plain: str, *, error: bool = False) -> None:
    """Print the document with `--json`, else the text: on stderr if it tells of a refusal."""
    if options.json:
        print(json.dumps(document, ensure_ascii=False))
    else:
        print(plain, file=sys.stderr if error else sys.stdout)


def local(ts: float) -> str:
    """A time for a person: `2026-11-20 11:31:02+01:00`."""
    return datetime.fromtimestamp(ts).astimezone().isoformat(sep=" ", timespec="seconds")
