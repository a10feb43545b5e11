"""The environment that launcher and installer make, and what they find on a machine."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCHER = ROOT / ".claude-plugin"
PARTS = (".claude-plugin", "commands", "hooks", "src", "requirements.txt", "install_claude_bus.sh")


@cache
def environments() -> Path:
    """A folder with the environment in it, made once for all tests as for a user: with packages from the network."""
    folder = Path(tempfile.mkdtemp(prefix="claude-bus-environments-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([sys.executable, "-I", LAUNCHER / "environment.py", folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def environment() -> Path:
    """The environment in it."""
    (found,) = [place for place in environments().iterdir() if place.is_dir()]
    return found


def has_environment(folder: Path) -> None:
    """Make a folder look as if the environment had been made in it."""
    shutil.copytree(environments(), folder, symlinks=True)


def checkout(folder: Path) -> Path:
    """A copy of this repository as a user clones it, less what only developers need."""
    folder.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)
    return folder


def machine(*, without: tuple[str, ...] = (), first: Path | None = None, **more: str) -> dict[str, str]:
    """The environment variables of a user who lacks some programs, with `first` before all others on PATH."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BUS_", "CLAUDE", "PYTHON", "VIRTUAL_ENV"))}
    path = [place for place in os.get_exec_path() if not any(Path(place, name).exists() for name in without)]
    return {**inherited, "PATH": os.pathsep.join([str(first)] * bool(first) + path), **more}


_UV = """\
#!{python}
import os, shutil, subprocess, sys
from pathlib import Path

arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    print(" ".join(arguments), file=log)
if arguments[0] == "venv":
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", arguments[-1]], check=True)
else:
    with open({gate!r}) as gate:
        gate.read()
    made = Path(arguments[arguments.index("--python") + 1]).parents[1]
    shutil.rmtree(made / "lib")
    shutil.copytree({source!r}, made / "lib", copy_function=os.link)
"""


class Uv:
    """Stands for uv where a test needs a hand in it: it takes the packages from the environment that was made.

    Its `pip install` does not begin before `release`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log, self._gate = folder / "log", folder / "gate"
        folder.mkdir()
        self._log.touch()
        os.mkfifo(self._gate)
        program = folder / "uv"
        names = {"log": str(self._log), "gate": str(self._gate), "source": str(environment() / "lib")}
        program.write_text(_UV.format(python=sys.executable, **names), encoding="utf-8")
        program.chmod(0o755)

    def release(self) -> None:
        """Let installations go on, those to come as well."""
        self._gate.unlink()
        self._gate.write_text("", encoding="utf-8")

    def wait_for_install(self) -> None:
        """Return when an installation has begun, and let this one go on."""
        with self._gate.open("w", encoding="utf-8"):
            pass

    @property
    def calls(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines()
