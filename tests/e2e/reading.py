"""The texts of the bus in a request, as the model read them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .fake_anthropic import Request

_HOOK = re.compile(r"(UserPromptSubmit|PostToolBatch|Stop|SubagentStart|SubagentStop) hook additional context: ")
_FENCED = re.compile(r"<bus-message-(\w+) ([^>\n]*)>\n(.*?)\n</bus-message-\1>", re.DOTALL)
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
_RING = '<cross-session-message from="claude-bus"'


@dataclass(frozen=True)
class Mail:
    """A message as the model read it."""

    attributes: dict[str, str]
    content: str

    @property
    def id(self) -> int:
        return int(self.attributes["id"])

    @property
    def possibly_seen(self) -> bool:
        return self.attributes.get("possibly_seen") == "true"


def news(request: Request) -> list[str]:
    """Texts that hooks added to the newest part of the conversation, without the client's own wrapping."""
    return [text[found.start() :] for text in request.last_user() if (found := _HOOK.search(text))]


def came_with(request: Request) -> list[str]:
    """The hook events that brought the news."""
    return [event for text in news(request) for event in _HOOK.findall(text)]


def mail(request: Request) -> list[Mail]:
    """The messages in the news, in the order in which the model reads them."""
    return _mail(news(request))


def all_mail(request: Request) -> list[Mail]:
    """The messages in the whole conversation."""
    return _mail(request.texts())


def _mail(texts: list[str]) -> list[Mail]:
    found = _FENCED.findall("\n".join(texts))
    return [Mail(dict(_ATTRIBUTE.findall(attributes)), content) for _, attributes, content in found]


def rings(request: Request) -> list[str]:
    """The doorbell's prompts in the whole conversation."""
    return [text for text in request.texts() if _RING in text]
