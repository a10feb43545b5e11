"""Tokens: made as a user makes them, by the command, or at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio

from claude_bus.config import Config
from claude_bus.connect import open_local
from tests.support.processes import PATIENCE, environment


def token_command(db: Path, *arguments: str, status: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """`claude-bus token ...` on this file; it must end with this status."""
    command = [sys.executable, "-m", "claude_bus", "token", *arguments]
    done = subprocess.run(
        command, env=environment(db, **env), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == status, done
    return done


def new_token(db: Path, owner: str, *options: str) -> tuple[int, str]:
    """The id and the secret of a new token."""
    made: dict[str, Any] = json.loads(token_command(db, "create", owner, "--json", *options).stdout)
    return made["id"], made["token"]


def token(db: Path, *names: str, owner: str = "somebody", channels: tuple[str, ...] = ("*",)) -> tuple[int, str]:
    """The same without a process of its own: for these names, or for all."""

    async def create() -> tuple[int, str]:
        async with open_local(Config(db)) as bus:
            made, secret = await bus.create_token(owner, names or ("*",), channels, None)
            return made.id, secret

    return anyio.run(create)


def revoke(db: Path, token: int) -> None:
    """End a token."""
    token_command(db, "revoke", str(token))
