"""`claude-bus agents`, and the status that `claude-bus` shows without a command."""

from __future__ import annotations

import argparse
import time
from typing import Any

from .. import __version__, addresses, documents, text
from ..config import Config
from ..connect import open_for_command
from ..model.identity import Agent
from ..sql import agents as sql_agents
from . import printing
from .output import show


async def agents(options: argparse.Namespace, config: Config) -> int:
    """List who takes part, and who did within a week; with --all also who was there before."""
    found, now = await _present(config), time.time()
    told = [agent for agent in found if options.all or not addresses.is_gone(agent, now)]
    gone = len(found) - len(told)
    rest = f"\n{text.plural(gone, 'name')} not seen for a week: claude-bus agents --all" if gone else ""
    document = {"agents": _agent_rows(told), **({"not_seen_for_a_week": gone} if gone else {})}
    show(options, document, _agents_text(told) + rest)
    return 0


async def show_status(options: argparse.Namespace, config: Config) -> int:
    """Which bus this is, and who is here now. Creates nothing."""
    found = await _present(config) if config.url or config.db.exists() else []
    here = [agent for agent in found if agent.status != "offline"]
    where = {"url": config.shown_url} if config.url else {"db": str(config.db)}
    document = {"version": __version__, **where, "channel": config.channel, "agents": _agent_rows(here)}
    head = f"claude-bus {__version__} on {config.shown_url or config.db}, channel '{config.channel}'"
    show(options, document, f"{head}\n{_agents_text(here)}")
    return 0


async def _present(config: Config) -> list[Agent]:
    async with open_for_command(config) as bus:
        return await bus.run(sql_agents.listing, config.channel)


def _agent_rows(found: list[Agent]) -> list[dict[str, Any]]:
    now = time.time()
    return [documents.agent(agent, "", now) for agent in found]


def _agents_text(found: list[Agent]) -> str:
    if not found:
        return "nobody is on the bus"
    return printing.columns([_agent_cells(agent, time.time()) for agent in found])


def _agent_cells(agent: Agent, now: float) -> tuple[str, ...]:
    place = f"{agent.cwd} ({agent.branch})" if agent.branch else agent.cwd
    return agent.name, agent.status, f"{text.ago(now - agent.last_seen)} ago", agent.role, place
