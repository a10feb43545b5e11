"""`claude-bus send`."""

from __future__ import annotations

import argparse
import os
import time

from .. import documents, drafts, spelling, text
from ..config import Config
from ..connect import open_for_command
from ..errors import Unreachable
from ..model.messages import KINDS, Draft, File
from ..sql import messages
from .content import content
from .identity import speaker
from .output import local, show


async def send(options: argparse.Namespace, config: Config) -> int:
    """Send a message as whoever the command speaks as; or to the bus that AGENT_BUS_URL names."""
    if os.environ.get("AGENT_BUS_URL"):
        from ..compat.cli.post import other_bus, post

        if settings := other_bus(options):
            return await post(options, settings)
    draft = drafts.check_draft(
        Draft(
            to=spelling.recipients(options.to),
            content=content(options, files=bool(options.file)).rstrip("\n"),
            kind=next(kind for kind in KINDS if kind == options.kind),
            reply_to=options.reply_to,
            urgent=options.urgent,
            key=options.key,
            files=await _measured(options.file),
            allow_secret=options.allow_secret,
        )
    )
    async with open_for_command(config) as bus:
        who = await speaker(bus, config, os.environ, options.as_name)
        try:
            outcome = await who.bus.run(messages.send, who.me, draft)
        except Unreachable as error:
            if not error.data["sent"]:
                raise
            said = f"{error.message} if it goes with --key {error.data['key']}"  # the next process knows of no other
            raise Unreachable(said, **error.data) from None
    show(options, documents.sent(outcome), text.sent(outcome, time.time(), local))
    return 0


async def _measured(paths: list[str]) -> tuple[File, ...]:
    if not paths:
        return ()
    from .. import worktree
    from ..workspace import Workspace

    return await Workspace(worktree.folder(worktree.here(os.environ))).measured(paths)
