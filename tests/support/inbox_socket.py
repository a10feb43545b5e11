"""The inbox socket of a Claude Code session, as far as a server can see it: records everything pushed into it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.processes import PATIENCE, Wire, wire


@dataclass(frozen=True)
class Ring:
    """One push: the token it came with, and the text that the model would be shown."""

    token: str
    content: str

    @property
    def sender(self) -> str:
        found = re.match(r'<cross-session-message from="claude-bus" from-name="([^"]*)">\n', self.content)
        assert found, self.content
        return found[1]

    @property
    def line(self) -> str:
        """The text inside its wrapping, which must be a single line."""
        _, line, last = self.content.split("\n")
        assert last == "</cross-session-message>"
        return line


class _Connection(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        lines: list[dict[str, Any]] = [json.loads(line) for line in self.rfile]
        assert [line["type"] for line in lines] == ["auth", "user"]
        assert lines[1]["message"]["role"] == "user"
        rings: queue.Queue[Ring] = self.server.rings  # type: ignore[attr-defined]
        rings.put(Ring(lines[0]["token"], lines[1]["message"]["content"]))


class Inbox:
    """The socket of a session played by this very process, which its servers take for their client."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{os.getpid()}.sock"
        self.rings: queue.Queue[Ring] = queue.Queue()
        self._server = socketserver.UnixStreamServer(str(self.path), _Connection)
        self._server.rings = self.rings  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def ring(self) -> Ring:
        """The next ring; fails if none comes."""
        return self.rings.get(timeout=PATIENCE)

    def unheard(self) -> list[str]:
        """Rings that the test has not asked for."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self.rings.get_nowait().line)
        return found

    @contextlib.contextmanager
    def server(self, db: Path, **env: str) -> Iterator[Wire]:
        """A server of this session."""
        own = {
            "CLAUDE_CODE_MESSAGING_SOCKET": str(self.path),
            "CLAUDE_CODE_MESSAGING_TOKEN": "secret",
            "CLAUDE_CODE_SESSION_ID": "s1",
            "CLAUDECODE": "1",
        }
        with wire(db, **own, **env) as server:
            yield server


@contextlib.contextmanager
def inbox() -> Iterator[Inbox]:
    """A session's inbox socket, in a folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="inbox"))
    opened = Inbox(folder)
    try:
        yield opened
    finally:
        opened.close()
        shutil.rmtree(folder)
