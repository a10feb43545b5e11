"""How commands say what they did."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def show(options: argparse.Namespace, document: dict[str, Any], plain: str, *, error: bool = False) -> None:
    """Print the document with `--json`, else the text: on stderr if it tells of a refusal."""
    if options.json:
        print(json.dumps(document, ensure_ascii=False))
    else:
        print(plain, file=sys.stderr if error else sys.stdout)
