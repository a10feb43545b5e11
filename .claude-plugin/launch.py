"""Starts the plugin's server: `python3 -I -S launch.py`, run by whatever Python (3.8 or newer) the client finds.

The server is run from this plugin's own `src`: there is no build that could be stale. What it depends
on lives in an environment that `environment.py` makes on the first start, with the plugin's data. Later
starts find it and go straight on.

`CLAUDE_BUS_PYTHON` names an interpreter that has the dependencies, to be used instead.

Nothing is written to stdout: that is the server's wire.
"""
# Each session's start waits for this file, twice: it is short, and does without pathlib and hashlib.
# ruff: noqa: INP001
# ruff: noqa: PTH100, PTH103, PTH104, PTH110, PTH111, PTH112, PTH118, PTH120, PTH123, PTH208

from __future__ import annotations

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
REQUIREMENTS = os.path.join(ROOT, "requirements.txt")
WINDOWS = os.name == "nt"
WAY_OUT = f"""\
Then reconnect with /mcp, or start a new session. Or set CLAUDE_BUS_PYTHON to a Python that has the packages of
{REQUIREMENTS}"""


class Failed(Exception):
    """The server cannot be started; the message tells the user why, and what to do."""


def main(args: list[str]) -> int:
    """Run claude_bus, with these arguments or as the server, and return its exit status."""
    try:
        if args[:1] == ["--in"]:
            return run(args[1], args[2:])
        chosen = os.environ.get("CLAUDE_BUS_PYTHON")
        return become(chosen, "", args) if chosen else enter(prepare(store()), args)
    except Failed as error:
        sys.stderr.write(f"claude-bus: {error}\n")
        return 1
    except KeyboardInterrupt:  # the client has given up
        return 130


def enter(environment: str, args: list[str]) -> int:
    """Go on in the environment's interpreter."""
    return become(interpreter(environment), environment, args)


def become(python: str, environment: str, args: list[str]) -> int:
    """Replace this process. -I keeps PYTHONPATH, the user's packages and the working directory out."""
    command = [python, "-I", "-X", "utf8", os.path.join(HERE, "launch.py"), "--in", environment, *args]
    try:
        if not WINDOWS:
            os.execvp(python, command)  # noqa: S606
        import subprocess  # an exec on Windows ends this process, and the client takes its server for gone

        return subprocess.call(command)  # noqa: S603
    except OSError as error:
        raise Failed(f"cannot run {python}: {error}") from error


def run(environment: str, args: list[str]) -> int:
    """Run claude_bus in this interpreter, which is that of `environment` or, without one, the user's choice."""
    if environment and not (hold(environment) and has_packages()):
        return mend(environment, args)
    sys.path.insert(0, os.path.join(ROOT, "src"))
    sys.argv = ["claude-bus", *args]
    from claude_bus.__main__ import main as claude_bus

    return claude_bus()


def has_packages() -> bool:
    return any(os.path.isdir(os.path.join(place, "mcp")) for place in sys.path)


def mend(environment: str, args: list[str]) -> int:
    """Start over: the environment was just removed, lost its packages, or its Python is another version now."""
    try:
        set_aside(environment)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Failed(f"{environment} is broken: remove it ({error})") from error
    return enter(prepare(os.path.dirname(environment)), args)


# -- the environments -----------------------------------------------------------------


def store() -> str:
    """The folder of the environments: with the plugin's data, else in the user's cache."""
    data = os.environ.get("CLAUDE_PLUGIN_DATA")
    if data:
        return os.path.join(data, "environments")
    if WINDOWS:
        cache = os.environ.get("LOCALAPPDATA") or os.path.expanduser("~")
    elif sys.platform == "darwin":
        cache = os.path.expanduser("~/Library/Caches")
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(cache, "claude-bus", "environments")


def prepare(folder: str) -> str:
    """The environment for these requirements in `folder`, made if it is not there."""
    return find(folder) or make(folder)


def find(folder: str) -> str:
    """The environment for these requirements, or "".

    A container and its host may share the folder: an environment whose Python is not here is
    left to the machine that has it.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return ""
    places = [os.path.join(folder, name) for name in names if name.startswith(prefix())]
    return next((place for place in places if os.path.exists(interpreter(place))), "")


def prefix() -> str:
    """What names of environments for these requirements begin with.

    A checksum that tells versions of the file apart; uv and pip check the packages' own hashes.
    """
    from zlib import crc32

    with open(REQUIREMENTS, "rb") as file:
        return f"{crc32(file.read()):08x}-"


def interpreter(environment: str) -> str:
    return os.path.join(environment, *(("Scripts", "python.exe") if WINDOWS else ("bin", "python")))


def set_aside(environment: str) -> None:
    """Take an environment its name, so that it is found no more; the next to make one removes it."""
    os.rename(environment, os.path.join(os.path.dirname(environment), f".old-{os.getpid()}"))


def hold(environment: str) -> bool:
    """Keep the environment from being removed while this process runs; False if it is gone."""
    if os.path.isdir(environment):
        lock(environment, alone=False)
        return os.path.isdir(environment)
    return False


def lock(folder: str, *, alone: bool, wait: bool = True) -> int:
    """Hold a folder, alone or with others, until the process ends; a descriptor, or -1 where that is impossible."""
    try:
        import fcntl

        held = os.open(os.path.join(folder, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except (ImportError, OSError):
        return -1
    try:
        fcntl.flock(held, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(held)
        return -1
    return held


def make(folder: str) -> str:
    """Make the environment in a process of its own.

    The client waits 30 seconds for a server. Where that is not enough the work still goes on, and
    the next session finds it done.
    """
    import subprocess

    log = os.path.join(folder, "build.log")
    # Ours may be that of a broken environment, or of some venv of the user's.
    python = getattr(sys, "_base_executable", sys.executable)
    builder = [python, "-I", os.path.join(HERE, "environment.py"), folder]
    null = subprocess.DEVNULL
    sys.stderr.write(f"claude-bus: first start, making its Python environment in {folder}\n")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(log, "ab") as out:
            subprocess.Popen(builder, cwd=folder, stdin=null, stdout=null, stderr=out, start_new_session=True).wait()  # noqa: S603
    except OSError as error:
        raise Failed(f"cannot make its Python environment in {folder}: {error}") from error
    made = find(folder)
    if not made:
        raise Failed(f"cannot make its Python environment. The end of {log}:\n{tail(log)}\n{WAY_OUT}")
    return made


def tail(log: str) -> str:
    with open(log, encoding="utf-8", errors="replace") as file:
        return "".join(file.readlines()[-20:]).rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
