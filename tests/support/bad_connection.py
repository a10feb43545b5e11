"""A connection between a program and a served bus that fails on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Literal
from urllib.parse import urlsplit

from tests.support.raw_http import end_listening

Condition = Literal["good", "swallows answers", "holds answers", "cut"]


class Line:
    """A TCP relay on loopback. `condition` applies to all connections at once, from the next byte on.

    Answers are swallowed or held only if the request was about `about`.
    """

    def __init__(self, url: str, port: int = 0) -> None:
        address = urlsplit(url)
        assert address.hostname
        assert address.port
        self._server = (address.hostname, address.port)
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._condition: Condition = "good"
        self._changed = threading.Condition()
        self.about = ""
        self.swallowed = 0
        """Answers that arrived at the relay and were not passed on."""
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def condition(self) -> Condition:
        return self._condition

    @condition.setter
    def condition(self, now: Condition) -> None:
        with self._changed:
            self._condition = now
            self._changed.notify_all()
        if now == "cut":
            self._cut()

    def close(self) -> None:
        self.condition = "cut"
        end_listening(self._listener)

    def _cut(self) -> None:
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        if self.condition == "cut":
            near.close()
            return
        with contextlib.suppress(OSError), near, socket.create_connection(self._server) as far:
            with self._lock:
                self._open |= {near, far}
            asked = _Asked()
            up = threading.Thread(target=self._relay, args=(near, far, asked), daemon=True)
            up.start()
            self._relay(far, near, asked, answers=True)
            up.join()
            with self._lock:
                self._open -= {near, far}

    def _relay(self, source: socket.socket, sink: socket.socket, asked: _Asked, *, answers: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if not answers:
                    asked.head = data if data.startswith((b"GET ", b"POST ")) else asked.head
                elif self.about.encode() in asked.head:
                    if self.condition == "swallows answers":
                        self.swallowed += 1
                        break
                    self._hold()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _hold(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._condition != "holds answers")


class _Asked:
    """The last request on one connection."""

    head = b""


@contextlib.contextmanager
def line(url: str) -> Iterator[Line]:
    """A relay to the bus at `url`, for as long as the context lasts."""
    relay = Line(url)
    try:
        yield relay
    finally:
        relay.close()
