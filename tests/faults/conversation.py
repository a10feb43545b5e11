"""The contents of one session's conversation: the truth that receipts are compared with. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_BLOCK = re.compile(r'<bus-message-(\w+) id="(\d+)"([^>]*)>\n(\S+)[^<]*</bus-message-\1>')


@dataclass(frozen=True)
class Letter:
    """A message as received: `token` is the first word of its text."""

    id: int
    token: str
    marked: bool


def injected(text: str) -> list[Letter]:
    """The messages in the output of a hook."""
    return [Letter(int(id_), token, 'possibly_seen="true"' in marks) for _, id_, marks, token in _BLOCK.findall(text)]


def fetched(answer: dict[str, Any]) -> list[Letter]:
    """The messages in the answer of `inbox`."""
    return [Letter(m["id"], m["content"].split()[0], bool(m.get("possibly_seen"))) for m in answer.get("messages", ())]


@dataclass
class Conversation:
    """A conversation. Requests are assembled, then answered or abandoned; answered contents stay known."""

    request: list[Letter] = field(default_factory=list)
    """Contents of the next request."""
    batch: list[Letter] = field(default_factory=list)
    """Contents of the answers of the current tool batch, which go into the request after it."""
    known: list[Letter] = field(default_factory=list)

    def inject(self, letters: Iterable[Letter]) -> None:
        self.request += letters

    def fetch(self, letters: Iterable[Letter]) -> None:
        self.batch += letters

    def close_batch(self) -> None:
        self.request += self.batch
        self.batch = []

    def answer(self) -> list[int]:
        """The model answers the request; returns the messages that it carried."""
        ids = [letter.id for letter in self.request]
        self.known += self.request
        self.request = []
        return ids

    def give_up(self) -> None:
        """The user interrupts: contents of unanswered requests leave the conversation."""
        self.request, self.batch = [], []

    def clear(self) -> None:
        self.give_up()
        self.known = []
