"""The pipes of a stdio server: its client's lines, read on a thread, and the lines for it, written without waiting."""

from __future__ import annotations

import os
import select
import sys
import time
from _thread import allocate_lock, start_new_thread
from collections import deque
from contextlib import suppress

from .. import jsonrpc
from . import declared
from .protocol import Call, Cancelled, Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Write = Callable[[bytes], object]
    """Writes a whole line."""

_CHUNK = 65_536
_MUCH = 16 * 1024 * 1024
"""Bytes of answers that the client has not taken, at which no more of its lines are read."""


class Output:
    """Writes lines to the client, from any thread. It does not wait: what the client does not take is kept for it.

    Only where the system gives no thread to write it, whoever sends waits for the client.
    """

    def __init__(self, descriptor: int, write: Write | None = None) -> None:
        self._descriptor = descriptor
        self._write = write or self._to_descriptor
        self._polls = write is None and hasattr(select, "poll")
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        """Of the lines that wait."""
        self._writing = False
        self._lock = allocate_lock()
        self.broken: Callable[[], None] = lambda: None
        """Called when the client no longer reads."""

    def send(self, line: bytes) -> None:
        """Write a line, now or as soon as the client takes it."""
        with self._lock:
            if not self._waiting and self._takes(line):
                self._put(line)
                return
            self._waiting.append(line)
            self._bytes += len(line)
            if self._writing:
                return
            self._writing = True
        try:
            start_new_thread(self._write_all, ())
        except RuntimeError:  # the system gives no more threads
            self._write_all()

    def is_full(self) -> bool:
        """Return whether so much waits that the client seems not to read."""
        return self._bytes > _MUCH

    def flush(self, patience: float) -> None:
        """Wait until all is written, or for so many seconds."""
        end = time.monotonic() + patience
        while self._writing and time.monotonic() < end:
            time.sleep(0.005)

    def _takes(self, line: bytes) -> bool:
        """Return whether a write does not wait: a pipe that is ready takes `PIPE_BUF` bytes."""
        if not self._polls or len(line) > select.PIPE_BUF:
            return False
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def _write_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._writing = False
                    return
                line = self._waiting[0]
            self._put(line)
            with self._lock:
                self._waiting.popleft()
                self._bytes -= len(line)

    def _put(self, line: bytes) -> None:
        try:
            self._write(line)
        except OSError:
            self.broken()

    def _to_descriptor(self, line: bytes) -> None:
        while line:
            line = line[os.write(self._descriptor, line) :]


class Intake:
    """Reads the client's lines on a thread of its own, and keeps the calls for the event loop."""

    def __init__(self, descriptor: int, output: Output) -> None:
        self._descriptor = descriptor
        self._output = output
        self._connection = Connection(declared.prepared(), output.send)
        self._arrived: deque[Call | Cancelled | None] = deque()
        self._wake: Callable[[], None] | None = None

    def read(self) -> None:
        """Read until the client ends, which is kept as None."""
        lines = jsonrpc.Lines()
        while data := self._read():
            for line in lines.feed(data):
                self._take(line)
            while self._output.is_full():
                time.sleep(0.05)
        self._take(lines.rest())
        self._keep(None)

    def attach(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, on the thread that reads, whenever something has arrived."""
        self._wake = wake
        wake()

    def arrived(self) -> list[Call | Cancelled | None]:
        """Take what has arrived since the last time."""
        found = []
        with suppress(IndexError):
            while True:
                found.append(self._arrived.popleft())
        return found

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _CHUNK)
        except OSError:
            return b""

    def _take(self, line: bytes) -> None:
        try:
            for found in self._connection.receive(line):
                self._keep(found)
        except Exception:  # noqa: BLE001 - no line may end the thread that reads
            import traceback

            traceback.print_exc(file=sys.stderr)

    def _keep(self, found: Call | Cancelled | None) -> None:
        self._arrived.append(found)
        if self._wake:
            self._wake()
