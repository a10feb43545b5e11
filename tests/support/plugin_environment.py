"""The environment that the launcher and the installer make, and the machines on which they run."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from tests.support.processes import PATIENCE, Wire

ROOT = Path(__file__).parents[2]
LAUNCHER = ROOT / ".claude-plugin"
PARTS = (".claude-plugin", ".mcp.json", "bin", "commands", "hooks", "src", "install_claude_bus.sh")


@cache
def environments() -> Path:
    """A folder with the environment in it, made once for all tests.

    It is made as on a machine whose uv does not work: by venv and pip, with packages from the network.
    """
    folder = Path(tempfile.mkdtemp(prefix="claude-bus-environments-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    broken_uv(folder / "bin")
    env = machine({}, first=folder / "bin")
    command = [sys.executable, "-I", str(LAUNCHER / "environment.py"), "--all", str(folder / "made")]
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return folder / "made"


def broken_uv(folder: Path) -> Path:
    """A folder for PATH with a uv that always fails."""
    folder.mkdir()
    (folder / "uv").symlink_to(shutil.which("false") or "/bin/false")
    return folder


def environment() -> Path:
    """The environment in that folder."""
    (found,) = [place for place in environments().iterdir() if place.is_dir()]
    return found


def has_environment(folder: Path) -> None:
    """Make a folder look as if the environment had already been made in it."""
    shutil.copytree(environments(), folder, symlinks=True)


def checkout(folder: Path) -> Path:
    """A copy of this repository as a user clones it, without the files that only developers need."""
    folder.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / part)
    return folder


def machine(more: dict[str, str], *, without: tuple[str, ...] = (), first: Path | None = None) -> dict[str, str]:
    """A user's environment variables: some programs are missing, and one folder comes first on PATH."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("BUS_", "CLAUDE", "PYTHON", "VIRTUAL_ENV"))}
    path = [place for place in os.get_exec_path() if not any(Path(place, name).exists() for name in without)]
    return {**inherited, "PATH": os.pathsep.join([str(first)] * bool(first) + path)} | more


_UV = """\
#!{python}
import os, shutil, subprocess, sys
from pathlib import Path

arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    print(" ".join(arguments), file=log)
if os.path.exists({offline!r}):
    sys.exit("error: Failed to fetch: `mcp`: dns error")
if arguments[0] == "venv":
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", arguments[-1]], check=True)
elif {lacks!r} in Path(arguments[arguments.index("-r") + 1]).read_text():
    sys.exit("No matching distribution")
else:
    with open({gate!r}) as gate:
        gate.read()
    made = Path(arguments[arguments.index("--python") + 1]).parents[1]
    rest = Path(arguments[arguments.index("--target") + 1]) if "--target" in arguments else None
    if not rest:
        shutil.rmtree(made / "lib")
    shutil.copytree({rest!r} if rest else {source!r}, rest or made / "lib", copy_function=os.link)
"""


class Uv:
    """Stands in for uv where a test needs control over it. It takes the packages from the environment made before."""

    def __init__(self, folder: Path, lacks: str = "nothing") -> None:
        """`lacks` names a package for which this machine has no wheel."""
        self.folder = folder
        self._log, self._gate = folder / "log", folder / "gate"
        folder.mkdir()
        self._log.touch()
        self._gate.touch()
        program = folder / "uv"
        self._offline = folder / "offline"
        names = {"log": str(self._log), "gate": str(self._gate), "source": str(environment() / "lib"), "lacks": lacks}
        names |= {"offline": str(self._offline), "rest": str(environment() / "rest")}
        program.write_text(_UV.format(python=sys.executable, **names), encoding="utf-8")
        program.chmod(0o755)

    def go_offline(self) -> dict[str, str]:
        """Behave as if there were no network; returns variables that keep pip offline as well."""
        self._offline.touch()
        nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
        return {**nowhere, "PIP_RETRIES": "1", "PIP_CONFIG_FILE": os.devnull}  # names the reason when it retries

    def go_online(self) -> None:
        self._offline.unlink()

    def close(self) -> None:
        """Make every installation wait from now on, until a test lets it continue."""
        self._gate.unlink()
        os.mkfifo(self._gate)

    def open(self) -> None:
        """Let all installations continue, now and later: the process that makes an environment outlives the session
        that wanted it.
        """
        waiting = os.open(self._gate, os.O_RDWR)
        self._gate.unlink()
        self._gate.touch()
        os.close(waiting)

    @contextlib.contextmanager
    def installing(self) -> Iterator[None]:
        """Enter once an installation waits; it continues when the context ends."""
        end = time.monotonic() + PATIENCE
        while (gate := self._opened()) is None:
            assert time.monotonic() < end, f"nothing is installed: {self.calls}"
            time.sleep(0.02)
        try:
            yield
        finally:
            os.close(gate)

    def _opened(self) -> int | None:
        """Open the gate for writing, which succeeds once a process waits at it."""
        try:
            return os.open(self._gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None

    @property
    def calls(self) -> list[str]:
        """The arguments of each call that makes an environment with what a session runs with."""
        return [call for call in self._calls() if "--target" not in call]

    @property
    def calls_for_the_rest(self) -> list[str]:
        """The arguments of each call that installs the other packages."""
        return [call for call in self._calls() if "--target" in call]

    def _calls(self) -> list[str]:
        return self._log.read_text(encoding="utf-8").splitlines()


def user(data: Path, uv: Uv | None = None, **more: str) -> dict[str, str]:
    """The variables that the client gives the plugin's server; `data` is the plugin's data folder."""
    first = uv.folder if uv else None
    given = {"CLAUDE_PLUGIN_DATA": str(data), "BUS_DB": str(data / "bus.db")}
    return machine(given | more, first=first)


def made(data: Path) -> list[Path]:
    """The environments under the plugin's data folder, and everything else that a builder left there."""
    return sorted(place for place in (data / "environments").iterdir() if place.is_dir())


def named(data: Path) -> list[Path]:
    """The environments that already bear their final names."""
    return [place for place in made(data) if not place.name.startswith(".")]


class Launched(Wire):
    """A server started by the launcher, or by any other command."""

    def __init__(self, command: Sequence[str | Path], env: dict[str, str], cwd: Path | None = None) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=env, cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe)
        self._ids = iter(range(1, 1_000_000))
        self._buffer = b""


@contextlib.contextmanager
def launched(plugin: Path, env: dict[str, str], cwd: Path | None = None) -> Iterator[Launched]:
    """The plugin's server, started as `.mcp.json` tells the client to; killed when the context ends."""
    server = Launched([sys.executable, "-I", "-S", plugin / ".claude-plugin" / "launch.py"], env, cwd)
    try:
        yield server
    finally:
        server.kill()
