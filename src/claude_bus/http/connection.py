"""A connection: uvicorn's, with an end for clients that are silent or slow, or whose head is too large or no HTTP.

uvicorn limits how long a connection may be idle between two requests, and how much it
keeps of a head that is not whole yet. Of itself it waits for the rest for ever, and
takes a head of any size that arrives at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol, RequestResponseCycle

from .response_headers import HEADERS

MAX_HEADER_BYTES = 32 * 1024
"""Of the request line and headers together, as they are sent; larger ones are answered with 431."""
HEAD_PATIENCE = 20.0
"""Seconds for a request's head to be whole, from when it is the client's turn, and for the rest of a refused body."""
WRITE_PATIENCE = 60.0
"""Seconds for a client to go on reading an answer."""
MAX_SILENT = 1_500
"""Connections at once without a request under way. With one more the oldest ends, so that new clients get through."""


class Silent:
    """The connections where it is the client's turn to speak, the longest silent first.

    `room` is how many connections there may be in all: more than the process may open files cannot even be refused.
    """

    def __init__(self, room: int = 1_000_000) -> None:
        self.room = room
        self._waiting: dict[Connection, asyncio.TimerHandle] = {}

    def add(self, connection: Connection) -> None:
        """Its time begins now, unless it runs already."""
        if connection not in self._waiting:
            self._waiting[connection] = connection.loop.call_later(HEAD_PATIENCE, connection.was_silent)
            if len(self._waiting) > MAX_SILENT:
                next(iter(self._waiting)).give_up()

    def remove(self, connection: Connection) -> None:
        timer = self._waiting.pop(connection, None)
        if timer:
            timer.cancel()


class _Requests(h11.Connection):
    """h11's reading of a connection: that of itself limits the part of a head that it keeps, not what comes whole."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEADER_BYTES)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        before = self._kept() if self.their_state is h11.IDLE else 0
        event = super().next_event()
        if isinstance(event, h11.Request) and before - self._kept() > MAX_HEADER_BYTES:
            raise h11.RemoteProtocolError("the head is too large", error_status_hint=431)
        return event

    def _kept(self) -> int:
        """How many bytes came that are not read yet."""
        return len(self.trailing_data[0])


class Connection(H11Protocol):
    """uvicorn makes one per connection, as `partial(Connection, silent)`."""

    def __init__(self, silent: Silent, **given: Any) -> None:
        super().__init__(**given)
        self.conn = _Requests()
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
            request.body = bytearray()  # what came of it that nobody wanted; the rest is dropped as it comes
        self._settle()

    def _settle(self) -> None:
        request = self._request()
        if (request and not request.response_complete) or self.transport.is_closing():
            self._silent.remove(self)
        else:
            self._silent.add(self)

    def _request(self) -> RequestResponseCycle | None:
        """The last one, which may be answered by now; None before the first."""
        return self.cycle

    def was_silent(self) -> None:
        """The client had its time. Half a head is answered; silence is not."""
        if not self._request() and self.conn.trailing_data[0]:
            self._refuse(408, "too_slow", f"the request's head did not arrive within {HEAD_PATIENCE:.0f} s")
        self.give_up()

    def give_up(self) -> None:
        """End the connection, whatever is still under way on it."""
        self._silent.remove(self)
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or more of it than fits. uvicorn calls this while it handles h11's error."""
        if getattr(sys.exc_info()[1], "error_status_hint", 400) == 431:
            self._refuse(431, "too_large", "the request's head is too large; send what is long in the body")
        else:
            self._refuse(400, "invalid_input", msg)
        self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer where there is no request that an app could answer; one that was answered is not answered again."""
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
