"""The settings of the commands that speak the agent-bus protocol."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from .. import rules
from ..config import AgentBus
from ..errors import InvalidInput


def agent_bus(options: argparse.Namespace, *, needed: bool = False) -> AgentBus:
    """From the environment; `--channel` goes before it. With `needed` an address must be set."""
    settings = AgentBus.from_env(os.environ, Path.home(), sys.platform)
    if needed and not settings.url:
        raise InvalidInput("AGENT_BUS_URL env var required: the address of the bus, such as https://host:8765")
    if options.channel:
        settings = replace(settings, channel=options.channel)
    return replace(settings, channel=rules.check_line(settings.channel, "AGENT_BUS_CHANNEL"))
