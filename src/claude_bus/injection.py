"""What a hook event led to, in the words that the model reads."""

from __future__ import annotations

import secrets

from . import text
from .model import Injection, Reaction


def injection(reaction: Reaction, warning: str = "") -> Injection:
    """What there is to tell, from who the session is to its mail; `warning` stands by itself."""
    return Injection("\n".join(_lines(reaction, warning)), _notice(reaction))


def _notice(reaction: Reaction) -> str:
    mail = reaction.mail
    if mail.messages:
        return text.notice(mail.messages)
    return text.too_long(mail.pending) if reaction.announce else ""


def _lines(reaction: Reaction, warning: str) -> list[str]:
    lines = []
    if reaction.introduce:
        lines.append(text.introduction(reaction.address.name, reaction.address.channel, reaction.registered))
    if reaction.earlier:
        lines.append(text.earlier(reaction.earlier))
    if warning:
        lines.append(warning)
    if reaction.roster:
        lines.append(text.roster_line(reaction.roster))
    if reaction.overlaps:
        lines.append(text.overlap_line(reaction.overlaps))
    if reaction.mail.messages or reaction.announce:
        label = secrets.token_hex(len(text.SAMPLE_LABEL) // 2)
        blocks = [text.message_block(message, label) for message in reaction.mail.messages]
        lines.append(text.mail(blocks, reaction.mail.pending))
    if reaction.requests:
        lines.append(text.recall(reaction.requests))
    return lines
