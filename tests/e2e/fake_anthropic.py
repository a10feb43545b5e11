"""A scripted stand-in for the Anthropic Messages API, written with the standard library only.

The real Claude Code client, pointed at it with ANTHROPIC_BASE_URL, is answered from a script. Every request is
kept, so that a test knows what the model would have read.

    with FakeAnthropic([tool("Bash", command="echo hi"), text("done")]) as api:
        ...                                   # run claude with api.url
        assert "hi" in api.main[-1].tool_results()[0]
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, TypeVar

T = TypeVar("T")

PATIENCE = 90.0
"""Seconds to wait for an expected event; a loaded machine takes long to start a client."""


# -- script ---------------------------------------------------------------------


@dataclass
class Turn:
    """One answer of the model."""

    text: str | None = None
    tools: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    hold: threading.Event | None = None
    """The answer is withheld until this event is set."""
    status: int = 200
    """The error to answer with instead, if any."""


Script = Turn | Callable[["Request"], Turn]
"""A turn, or a function that chooses one from the client's request."""


def text(value: str) -> Turn:
    return Turn(text=value)


def tool(name: str, /, **tool_input: Any) -> Turn:
    return Turn(tools=[(name, tool_input)])


def when(given: threading.Event, answer: Turn) -> Turn:
    """An answer that is withheld until the event is set."""
    return replace(answer, hold=given)


def held(value: str, until: threading.Event) -> Turn:
    """A text that is withheld until the event is set."""
    return when(until, text(value))


def refused(status: int, reason: str) -> Turn:
    """An error of the API. The client retries only after some, such as 429, 500 and 529."""
    return Turn(text=reason, status=status)


# -- requests of the client -----------------------------------------------------


@dataclass
class Request:
    """One HTTP request of the client."""

    method: str
    path: str
    body: dict[str, Any]

    @property
    def is_messages(self) -> bool:
        return self.method == "POST" and self.path.split("?")[0] == "/v1/messages"

    @property
    def is_main(self) -> bool:
        """Tells whether the request is a turn of the agent's loop, as opposed to a call for a title or a summary."""
        return self.is_messages and bool(self.body.get("tools"))

    @property
    def tool_names(self) -> list[str]:
        return [t.get("name", "?") for t in self.body.get("tools", [])]

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body.get("messages", []))

    @property
    def system(self) -> str:
        return flatten(self.body.get("system", ""))

    def texts(self) -> list[str]:
        """Every text of the conversation, in order."""
        return [_readable(block) for message in self.messages for block in _blocks(message)]

    def last_user(self) -> list[str]:
        """The texts after the last answer: the newest prompt or tool results, and the texts that the client added
        to them, as blocks of the user's message or as a message of role `system` after it.
        """
        newest = list(itertools.takewhile(lambda m: m["role"] != "assistant", reversed(self.messages)))
        return [_readable(block) for message in reversed(newest) for block in _blocks(message)]

    def said(self) -> list[str]:
        """The texts of the user's messages, without the results of tools."""
        blocks = [block for message in self.messages if message["role"] == "user" for block in _blocks(message)]
        return [str(block["text"]) for block in blocks if block.get("type") == "text"]

    def tool_results(self) -> list[str]:
        return [
            flatten(block.get("content"))
            for message in self.messages
            for block in _blocks(message)
            if block.get("type") == "tool_result"
        ]

    def everything(self) -> str:
        """Everything that the model would have read, except the descriptions of tools."""
        return "\n".join([self.system, *self.texts()])


def _blocks(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or [])


def _readable(block: dict[str, Any]) -> str:
    if block.get("type") == "tool_result":
        return flatten(block.get("content"))
    return str(block.get("text", json.dumps(block, ensure_ascii=False)))


def flatten(content: Any) -> str:
    """The text of a content field, whatever its form."""
    if isinstance(content, str):
        return content
    return "\n".join(_readable(block) for block in content or [])


# -- the server -----------------------------------------------------------------


class FakeAnthropic:
    """The model. Each request of an agent's loop takes the next turn of the script.

    Once the script is empty, the answer is `default`. Requests outside of the loop are answered too, and consume no
    turn.
    """

    def __init__(self, script: Iterable[Script] = (), *, default: Script | None = None) -> None:
        self._script = list(script)
        self._default = default or text("ok")
        self._requests: list[Request] = []
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self._ids = itertools.count(1)
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # -- for tests

    def push(self, *turns: Script) -> None:
        """Append turns while the client runs."""
        with self._changed:
            self._script.extend(turns)

    @property
    def main(self) -> list[Request]:
        """The requests of the agent's loop so far, in order."""
        with self._changed:
            return [request for request in self._requests if request.is_main]

    def wait(self, look: Callable[[], T | None], patience: float = PATIENCE) -> T:
        """Wait until `look` returns something true, and return it; `look` is called again at every request."""
        end = time.monotonic() + patience
        with self._changed:
            while not (found := look()):
                if time.monotonic() > end:
                    raise TimeoutError(f"after {patience}s and {len(self._requests)} requests")
                self._changed.wait(0.2)
            return found

    def wait_main(self, count: int, patience: float = PATIENCE) -> Request:
        """Wait for the `count`-th request of the agent's loop, and return it."""
        return self.wait(lambda: self.main[count - 1] if len(self.main) >= count else None, patience)

    # -- for the handler

    def record(self, request: Request) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def answer(self, request: Request) -> tuple[int, dict[str, Any]]:
        """The status and the message, or the error, with which a request is answered; returns when the answer is
        due.
        """
        turn = self._next_turn(request)
        while turn.hold and not (turn.hold.wait(0.2) or self._stopped.is_set()):
            pass
        if turn.status != 200:
            return turn.status, _error(turn)
        return turn.status, _message(turn, next(self._ids), str(request.body.get("model", "fake")))

    def _next_turn(self, request: Request) -> Turn:
        if not request.is_main:
            return text('{"title": "fake"}')
        with self._changed:
            script = self._script.pop(0) if self._script else self._default
        return script if isinstance(script, Turn) else script(request)


def _error(turn: Turn) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "api_error", "message": turn.text}}


def _message(turn: Turn, n: int, model: str) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if turn.text is not None or not turn.tools:
        content.append({"type": "text", "text": turn.text or ""})
    for i, (name, tool_input) in enumerate(turn.tools):
        content.append({"type": "tool_use", "id": f"toolu_fake_{n}_{i}", "name": name, "input": tool_input})
    return {
        "id": f"msg_fake_{n}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "tool_use" if turn.tools else "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 10,
            "output_tokens": 5,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        },
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, fake: FakeAnthropic) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fake = fake

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that disconnects in the middle of an answer is not our error."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Requests are kept, not logged."""

    def _any(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        request = Request(self.command, self.path, body if isinstance(body, dict) else {})
        self.server.fake.record(request)
        if request.is_messages:
            self._answer(request)
        elif request.path.startswith("/v1/messages/count_tokens"):
            self._json({"input_tokens": max(1, length // 4)})
        elif request.path.startswith("/v1/models"):
            self._json({"data": [], "has_more": False})
        else:
            self._json({})

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _any  # noqa: N815

    def _answer(self, request: Request) -> None:
        status, message = self.server.fake.answer(request)
        if status != 200 or not request.body.get("stream"):
            self._json(message, status)
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("cache-control", "no-cache")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        for event in _events(message):
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()

    def _json(self, value: object, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _events(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The message as the API streams it."""
    yield {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}}
    for i, block in enumerate(message["content"]):
        if block["type"] == "text":
            start: dict[str, Any] = {"type": "text", "text": ""}
            delta = {"type": "text_delta", "text": block["text"]}
        else:
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield {"type": "content_block_start", "index": i, "content_block": start}
        yield {"type": "content_block_delta", "index": i, "delta": delta}
        yield {"type": "content_block_stop", "index": i}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
        "usage": {"output_tokens": message["usage"]["output_tokens"]},
    }
    yield {"type": "message_stop"}
