"""The commands of the two earlier systems, as the command line includes them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Coroutine
from typing import Any

from ..config import Config

Command = Callable[[argparse.Namespace, Config], Coroutine[Any, Any, int]]


def commands() -> dict[str, Command]:
    """Each command by its name. `cli.arguments` adds their arguments; this imports what they need."""
    from .cli.archive import export, import_
    from .cli.chunks import recv_file, send_file
    from .cli.listen import listen
    from .cli.recv import recv

    return {
        "recv": recv,
        "listen": listen,
        "send-file": send_file,
        "recv-file": recv_file,
        "import": import_,
        "export": export,
    }
