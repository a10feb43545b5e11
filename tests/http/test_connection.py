"""Connections of the served bus: how answers leave."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from tests.support.raw_http import connected
from tests.support.served_bus import served


def test_head_and_body_leave_together(db: Path) -> None:
    """One packet, so that the client reads once."""
    with served(db) as bus, connected(bus.url) as made:
        for _ in range(20):
            made.sendall(f"GET /healthz HTTP/1.1\r\nHost: {urlsplit(bus.url).netloc}\r\n\r\n".encode())
            head, _, body = made.recv(65_536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert body.endswith(b"}")


def test_the_head_of_a_stream_does_not_wait_for_what_comes(db: Path) -> None:
    """A client learns at once that its stream was accepted, though nothing has happened yet."""
    with served(db) as bus, connected(bus.url) as made:
        made.sendall(f"GET /v1/events/stream HTTP/1.1\r\nHost: {urlsplit(bus.url).netloc}\r\n\r\n".encode())
        assert made.recv(65_536).startswith(b"HTTP/1.1 200")
