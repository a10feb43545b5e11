"""Running git."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ..errors import BusError, InvalidInput
from ..quoting import one_line


def git(*arguments: str, cwd: Path | None = None) -> str:
    """Return the output of git without the final newline. Raises a one-line `BusError` if git fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True)  # noqa: S603, S607
    except FileNotFoundError:
        raise InvalidInput("git is not on PATH") from None
    except OSError as error:
        raise BusError(f"git cannot be run: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        said = one_line(os.fsdecode(error.stderr).partition("\n")[0], 300)
        raise BusError(f"git {arguments[0]}: {said or f'exit status {error.returncode}'}") from error
    return os.fsdecode(done.stdout).removesuffix("\n")
