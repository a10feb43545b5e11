"""uvicorn's connection, plus timeouts and a header limit.

It closes clients that are idle, slow, send too large a head or do not speak HTTP. uvicorn
limits how long a connection may be idle between two requests, and how much it keeps of an
incomplete head. By itself it waits forever for the rest, and accepts a head of any size that
arrives at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol, RequestResponseCycle

from .response_headers import HEADERS

MAX_HEADER_BYTES = 32 * 1024
"""Bytes of the request line and headers together, as sent; larger ones are answered with 431."""
HEAD_PATIENCE = 20.0
"""Seconds for a request's head to arrive, from when the server waits for it, and for the rest of a refused body."""
WRITE_PATIENCE = 60.0
"""Seconds for a client to resume reading an answer."""
MAX_SILENT = 1_500
"""Connections at once without a request in flight. One more closes the oldest, so that new clients get through."""


class Silent:
    """The connections on which the server waits for the client, the longest silent first.

    `room` is the limit for all connections: beyond the process's limit of open files, one cannot even be refused.
    """

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self._waiting: dict[Connection, asyncio.TimerHandle] = {}

    def add(self, connection: Connection) -> None:
        """Start the timeout of a connection, unless it already runs."""
        if connection not in self._waiting:
            self._waiting[connection] = connection.loop.call_later(HEAD_PATIENCE, connection.was_silent)
            if len(self._waiting) > MAX_SILENT:
                next(iter(self._waiting)).give_up()

    def remove(self, connection: Connection) -> None:
        timer = self._waiting.pop(connection, None)
        if timer:
            timer.cancel()


class _Requests(h11.Connection):
    """h11's parser with a limit for every head: h11 itself limits only a head that arrives in parts."""

    def __init__(self, late: Callable[[], object]) -> None:
        super().__init__(h11.SERVER, MAX_HEADER_BYTES)
        self._late = late
        self._head = b""

    def send(self, event: h11.Event) -> bytes | None:  # type: ignore[override] # it says more of some events
        """Return the bytes to send. An answer's head goes out with what follows: one system call, one packet.

        `late` is called for each head; it has `head` sent by itself if nothing follows soon.
        """
        output = super().send(event)
        if output is None:
            return None
        if isinstance(event, h11.Response):
            self._head = output
            self._late()
            return b""
        return self.head() + output

    def head(self) -> bytes:
        """Return a head that was not sent yet, which is sent then."""
        head, self._head = self._head, b""
        return head

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        before = self._kept() if self.their_state is h11.IDLE else 0
        event = super().next_event()
        if isinstance(event, h11.Request) and before - self._kept() > MAX_HEADER_BYTES:
            raise h11.RemoteProtocolError("the head is too large", error_status_hint=431)
        return event

    def _kept(self) -> int:
        """Return how many received bytes have not been parsed yet."""
        return len(self.trailing_data[0])


class Connection(H11Protocol):
    """uvicorn makes one per connection, as `partial(Connection, silent)`."""

    def __init__(self, silent: Silent, **given: Any) -> None:
        super().__init__(**given)
        self.conn = self._requests = _Requests(self._head_is_ready)
        self._silent = silent
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._silent.add(self)
        if len(self.connections) > self._silent.room:
            self._refuse(429, "rate_limited", "the server has as many connections as it may hold; try again later")
            self.give_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._silent.remove(self)
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)
            self._settle()

    def on_response_complete(self) -> None:
        request = self._request()
        super().on_response_complete()
        if request:
            request.body = bytearray()  # parts of the body that nothing read; the rest is dropped on arrival
        self._settle()

    def _head_is_ready(self) -> None:
        self.loop.call_soon(self._send_head)

    def _send_head(self) -> None:
        """Send the head of an answer whose body takes its time, as that of a stream does."""
        if head := self._requests.head():
            self.transport.write(head)

    def _settle(self) -> None:
        request = self._request()
        if (request and not request.response_complete) or self.transport.is_closing():
            self._silent.remove(self)
        else:
            self._silent.add(self)

    def _request(self) -> RequestResponseCycle | None:
        """Return the last request, which may already be answered; None before the first."""
        return self.cycle

    def was_silent(self) -> None:
        """Handle the timeout. A partial head gets an answer, silence does not."""
        if not self._request() and self.conn.trailing_data[0]:
            self._refuse(408, "too_slow", f"the request's head did not arrive within {HEAD_PATIENCE:.0f} s")
        self.give_up()

    def give_up(self) -> None:
        """Close the connection, even with a request in flight."""
        self._silent.remove(self)
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer data that is not HTTP, or that exceeds a limit. uvicorn calls this while it handles h11's error."""
        if getattr(sys.exc_info()[1], "error_status_hint", 400) == 431:
            self._refuse(431, "too_large", "the request's head is too large; send long values in the body")
        else:
            self._refuse(400, "invalid_input", msg)
        self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer if no request exists that an app could answer; a request is never answered twice."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = json.dumps({"error": code, "message": message}).encode()
        headers = {
            **HEADERS,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **({"Retry-After": "1"} if status == 429 else {}),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n" % (status, STATUS_PHRASES[status], lines.encode()) + body)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(WRITE_PATIENCE, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread:
            self._unread.cancel()
            self._unread = None
