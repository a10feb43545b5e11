"""A message in its fence: the form in which a model reads it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .model.messages import File, Message
from .quoting import size, visible
from .text import ago, clock, name, path

MAIL_SPACE = 6_500
"""Characters of it for message blocks; the rest is for the text above and below them."""

SAMPLE_LABEL = "xxxxxx"
"""As long as the label of a fence, for measuring."""


def message_block(message: Message, label: str) -> str:
    """Return one message in its fence; `label` must be unguessable for its sender."""
    marks = [f'id="{message.id}"', f'from="{name(message.sender)}"']
    if message.to in ("all", "any"):
        marks.append('to="all"')
    if message.kind != "message":
        marks.append(f'kind="{message.kind}"')
    if message.reply_to is not None:
        marks.append(f'reply_to="{message.reply_to}"')
    if message.tags:
        marks.append(f'tags="{", ".join(map(name, message.tags))}"')
    if message.urgent:
        marks.append('urgent="true"')
    if message.possibly_seen:
        marks.append('possibly_seen="true"')
    marks.append(f'sent="{clock(message.ts)}"')
    if message.age:
        marks.append(f'age="{ago(message.age)}"')
    lines = [visible(message.content), *(_file_line(file, label) for file in message.files)]
    return f"<bus-message-{label} {' '.join(marks)}>\n{chr(10).join(lines)}\n</bus-message-{label}>"


def _file_line(file: File, label: str) -> str:
    """Return one file of a message, under the fence's label, so that no content can imitate it."""
    marks = f'state="{file.state}" size="{file.size}" sha256="{file.sha256}"'
    return f"<bus-file-{label} {marks}>{path(file.path)}</bus-file-{label}>"


def fitting(messages: Sequence[Message], label: str, limit: int) -> list[str]:
    """Return the blocks of the first messages that fit into `limit` characters together.

    Stops at the first that does not fit: later messages must not overtake it.
    """
    blocks: list[str] = []
    for message in messages:
        block = message_block(message, label)
        limit -= size(block) + 1
        if limit < 0:
            break
        blocks.append(block)
    return blocks
