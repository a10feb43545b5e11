"""The result of a hook event, as the text that the model reads."""

from __future__ import annotations

import secrets

from .. import fence, text
from ..model.hooks import HookResult, Injection


def injection(result: HookResult, warning: str = "") -> Injection:
    """Return the text for the model, from the session's name to its mail; `warning` gets a line of its own."""
    return Injection("\n".join(_lines(result, warning)), _notice(result))


def _notice(result: HookResult) -> str:
    mail = result.mail
    if mail.messages:
        return text.notice(mail.messages)
    return text.too_long(mail.pending) if result.announce else ""


def _lines(result: HookResult, warning: str) -> list[str]:
    lines = []
    if result.introduce:
        lines.append(text.introduction(result.address.name, result.address.channel, result.registered))
    if result.earlier:
        lines.append(text.earlier(result.earlier))
    if warning:
        lines.append(warning)
    if result.roster:
        lines.append(text.roster_line(result.roster))
    if result.overlaps:
        lines.append(text.overlap_line(result.overlaps))
    if result.mail.messages or result.announce:
        label = secrets.token_hex(len(fence.SAMPLE_LABEL) // 2)
        blocks = [fence.message_block(message, label) for message in result.mail.messages]
        lines.append(text.mail(blocks, result.mail.pending))
    if result.requests:
        lines.append(text.recall(result.requests))
    return lines
