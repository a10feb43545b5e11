"""Tokens, made by the command as a user makes them, or directly."""

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
    """Run `claude-bus token ...` on this file; it must exit with this status."""
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
    """A new token for these names, or for all, made without a process of its own."""

    async def create() -> tuple[int, str]:
        async with open_local(Config(db)) as bus:
            made, secret = await bus.create_token(owner, names or ("*",), channels, None)
            return made.id, secret

    return anyio.run(create)


def revoke(db: Path, token: int) -> None:
    """Revoke a token."""
    token_command(db, "revoke", str(token))
