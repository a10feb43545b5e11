"""`claude-bus serve`: runs the app until it is told to end."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
from dataclasses import replace

import anyio
import uvicorn

from ..bus import LocalBus
from ..config import Config, Serving
from ..errors import InvalidInput
from ..opening import open_local
from .app import create_app

MAX_HEADER_BYTES = 32 * 1024
"""Of the request line and headers together; larger ones are answered with 400."""


def serve(config: Config, serving: Serving) -> None:
    """Serve the bus until a signal ends it; raises `InvalidInput` for what would not be safe."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="claude-bus: %(message)s")
    anyio.run(_serve, config, serving)


async def _serve(config: Config, serving: Serving) -> None:
    async with open_local(config) as bus:
        tokens = await _needs_tokens(bus, serving)
        app = create_app(bus, config, serving, tokens=tokens)
        with _listening(serving) as listener:
            print(f"claude-bus serves {config.db} at {_url(serving, listener)}", flush=True)
            await uvicorn.Server(_uvicorn(serving, app)).serve([listener])


def _listening(serving: Serving) -> socket.socket:
    """A socket that takes connections already: who reads the line about it can connect."""
    try:
        family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
        listener = socket.create_server((serving.host, serving.port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidInput(
            f"cannot listen at {serving.host} port {serving.port}: {error.strerror}; choose another with --port"
        ) from None
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio only does it where the protocol is named
    return listener


def _url(serving: Serving, listener: socket.socket) -> str:
    return replace(serving, port=listener.getsockname()[1]).url


async def _needs_tokens(bus: LocalBus, serving: Serving) -> bool:
    """Whether callers need tokens: if there are any, and wherever others than this machine's users can call."""
    if await bus.has_tokens():
        return True
    if not is_loopback(serving.host):
        raise InvalidInput(
            f"{serving.host} can be reached from other machines, and there is no token yet: make one with "
            "`claude-bus token create NAME`, or listen at 127.0.0.1"
        )
    return False


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _uvicorn(serving: Serving, app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type] # an ASGI app
        host=serving.host,
        port=serving.port,
        http="h11",
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        log_config=None,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ssl_certfile=serving.certificate,
        ssl_keyfile=serving.key,
        timeout_graceful_shutdown=5,
    )
