"""`claude-bus send` with AGENT_BUS_URL: posts to that bus, and prints its server's answer."""

from __future__ import annotations

import argparse
import json

from ... import drafts, limits
from ...cli.content import content
from ...cli.settings import agent_bus
from ...config import AgentBus
from ...detector import refuse_secrets
from ...errors import InvalidInput
from ..client import AgentBusClient


def other_bus(options: argparse.Namespace) -> AgentBus | None:
    """Return the bus to post to; None for this bus: no other is named, or an option exists only here."""
    ours = options.as_name or options.db or options.key or options.urgent or options.file
    if ours or options.kind != "message" or options.reply_to is not None:
        return None
    settings = agent_bus(options)
    return settings if settings.own else None


async def post(options: argparse.Namespace, settings: AgentBus) -> int:
    """Send one message; return the exit status."""
    body = limits.check_utf8(content(options), "content", drafts.MAX_CONTENT_BYTES, "send the file's path and sha256")
    if not body.strip():
        raise InvalidInput("content is empty: say something")
    if not options.allow_secret:
        await refuse_secrets("content", body)
    async with AgentBusClient(settings) as client:
        answer = await client.send(options.to, body)
    print(json.dumps(answer))
    return 0
