"""A session's inbox socket: text pushed into it becomes a prompt when the session is idle."""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path


class Bell:
    """The socket of this very process, named as the client names it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{os.getpid()}.sock"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self.path))
        self._socket.listen(16)
        self._socket.setblocking(False)

    def rang(self, patience: float) -> bool:
        """Wait for a ring; returns whether one came."""
        ready, _, _ = select.select([self._socket], [], [], patience)
        if not ready:
            return False
        connection, _ = self._socket.accept()
        connection.settimeout(1.0)
        try:
            while connection.recv(4096):
                pass
        except OSError:
            return False  # the process that rang was stopped or killed halfway
        finally:
            connection.close()
        return True
