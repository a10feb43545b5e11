"""`claude-bus serve`: runs the app until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from uvicorn.server import HANDLED_SIGNALS

from .. import detector
from ..config import Config, Serving
from ..connect import open_local
from ..errors import InvalidInput, StoreBusy, StoreFull
from ..local import LocalBus
from ..sql import tokens
from . import tls
from .app import create_app
from .connection import Connection, Silent
from .hosts import is_loopback
from .in_flight import InFlight
from .response_headers import Discreet

_log = logging.getLogger(__name__)

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
HANDSHAKE = 10.0
"""Seconds for the handshake of TLS."""

MOST_FILES = 65_536
OTHER_FILES = 48
"""Files that a server may have open besides its connections."""
_ACCEPT_FAILS = "socket.accept() out of system resource"
"""Message of asyncio when descriptors run out: once for each waiting connection, and again each second."""
_SAY_AGAIN = 60.0
"""Seconds until the same trouble is told once more."""

_OPEN = (
    "As long as there is no token, whoever reaches this port on this machine may do everything: "
    "`claude-bus token create NAME` makes one."
)
_TO_READ = 1.0
"""Seconds for clients to read the last answers of a server that ends."""


def serve(config: Config, serving: Serving) -> None:
    """Serve the bus until a signal ends it; raises `InvalidInput` for what would not be safe, or cannot be."""
    _log_to_stderr(serving.verbose)
    room = _allow_many_connections()
    if anyio.run(_serve, config, serving, room, backend_options={"loop_factory": _Loop}):
        raise KeyboardInterrupt


async def _serve(config: Config, serving: Serving, room: int) -> bool:
    """Whether Ctrl-C ended it. `room` is how many connections there may be."""
    ssl_context = tls.context(serving.certificate, serving.key) if serving.certificate and serving.key else None
    async with open_local(config) as bus:
        with _listening(serving) as listener:
            tokens = await _needs_tokens(bus, serving, listener)
            app = create_app(bus, config, serving, tokens=tokens)
            server = _Server(_uvicorn(app, ssl_context, room), app.state.in_flight)
            for each in HANDLED_SIGNALS:
                signal.signal(each, server.handle_exit)
            print(f"claude-bus serves {config.db} at {_url(serving, listener)}", flush=True)
            if not tokens:
                print(_OPEN, flush=True)
            detector.prepare(os.environ)
            await server.serve([listener])
            return server.interrupted


class _Server(uvicorn.Server):
    """uvicorn's, but those who wait for an answer do not hold up its end."""

    def __init__(self, config: uvicorn.Config, in_flight: InFlight) -> None:
        super().__init__(config)
        self._in_flight = in_flight
        self.interrupted = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The handler of signals, until the process ends; another Ctrl-C waits for no answer."""
        self.interrupted = self.interrupted or sig == signal.SIGINT
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would repeat the signals once it has ended: what comes of that depends on what is awaited then."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.ensure_future(self._end_visits())
        await super().shutdown(sockets)  # returns once no connection is left, or after the time for that
        ending.cancel()
        await asyncio.wait([ending])

    async def _end_visits(self) -> None:
        await self._in_flight.end()
        await asyncio.sleep(_TO_READ)
        for each in list(self.server_state.connections):
            each.transport.abort()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers do not wait a minute for half a handshake, and which repeats itself seldom."""

    _said = -_SAY_AGAIN

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        message = str(context.get("message"))
        if "_start_serving" in message:  # asyncio listens again, once for each that waited, and the server has ended
            return
        if message != _ACCEPT_FAILS:
            super().call_exception_handler(context)
        elif self.time() - self._said >= _SAY_AGAIN:
            self._said = self.time()
            _log.warning("connections have to wait (%s): let this process open more files", context["exception"])

    async def create_server(self, *args: Any, **given: Any) -> asyncio.Server:
        if given.get("ssl"):
            given.setdefault("ssl_handshake_timeout", HANDSHAKE)
        return await super().create_server(*args, **given)


def _listening(serving: Serving) -> socket.socket:
    """A socket that takes connections already: who reads the line about it can connect."""
    try:
        family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
        both = serving.host == "::" and socket.has_dualstack_ipv6()
        address = (serving.host, serving.port)
        made = socket.create_server(address, family=family, backlog=2048, dualstack_ipv6=both)
    except (OSError, UnicodeError) as error:
        raise InvalidInput(
            f"cannot listen at {serving.host} port {serving.port}: {_reason(error)}; choose another with --host and "
            "--port"
        ) from None
    # For its connections. asyncio does so itself only for sockets that it made; without, a body
    # waits until the client has acknowledged the head, which takes 40 ms.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _reason(error: OSError | UnicodeError) -> str:
    """Why there is no socket. Python puts the address behind the system's words; whoever asks has said that already."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return said.partition(" (while ")[0]


def _url(serving: Serving, listener: socket.socket) -> str:
    return replace(serving, port=listener.getsockname()[1]).url


async def _needs_tokens(bus: LocalBus, serving: Serving, listener: socket.socket) -> bool:
    """Whether callers need tokens: if there are any, and wherever others than this machine's users can call.

    A store that cannot answer now (somebody holds its lock, its disk is full) is no reason not to serve: the gate asks
    it again before it lets anybody in.
    """
    local = is_loopback(listener.getsockname()[0])
    try:
        if await bus.run(tokens.exist):
            return True
    except (StoreBusy, StoreFull) as error:
        _log.warning("%s", error)
        return not local
    if not local:
        raise InvalidInput(
            f"{serving.host} can be reached from other machines, and there is no valid token yet: make one with "
            "`claude-bus token create NAME`, or listen at 127.0.0.1"
        )
    return False


def _log_to_stderr(verbose: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Discreet("claude-bus: %(message)s"))
    logging.basicConfig(level=_LEVELS[min(verbose, 2)], handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of whatever is no HTTP


def _allow_many_connections() -> int:
    """A thousand who wait are a thousand open files, where systems give 1,024 unless asked; returns how many may be."""
    try:
        import resource
    except ImportError:  # no such limits here
        return MOST_FILES
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(most, MOST_FILES)
    with contextlib.suppress(ValueError, OSError):  # none of ours to raise
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
        now = wanted
    return max(now - OTHER_FILES, 1)


def _uvicorn(app: Starlette, ssl_context: Any, room: int = MOST_FILES) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=functools.partial(Connection, Silent(room)),  # type: ignore[arg-type] # what makes a protocol
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        log_config=None,
        ssl_context_factory=(lambda *_: ssl_context) if ssl_context else None,
        forwarded_allow_ips="127.0.0.1,::1",  # what a reverse proxy on this machine says of scheme and client
        timeout_keep_alive=20,
        timeout_graceful_shutdown=5,
    )
