"""Makes the environment that the server runs in: `python3 -I environment.py FOLDER`, by any Python from 3.8 on.

It holds the packages of `requirements.txt` and nothing of claude-bus itself. Its path is printed when it
is there; what went on goes to stderr. One process makes it at a time, and it gets its name when it is
complete: whatever is killed when, nobody meets a half-made one.
"""
# ruff: noqa: INP001, PTH

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from zlib import crc32

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import launch  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST = (3, 11)
NEWEST = (3, 15)
ABANDONED = 86_400
"""Seconds after which an unfinished environment is nobody's."""

WAY_OUT = f"""\
Any one of these helps:
- install uv, or Python 3.11 or newer with venv and pip (on Debian and Ubuntu: apt install python3-venv);
- set CLAUDE_BUS_PYTHON to a Python that has the packages of {os.path.normpath(launch.REQUIREMENTS)}
Then start a new session, or reconnect with /mcp."""


def main(folder: str) -> int:
    """Print the environment's path, made in `folder` if it was not there."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    launch.lock(folder, alone=True)
    made = launch.find(folder) or build(folder)
    if made:
        sys.stdout.write(made + "\n")
        return 0
    say(WAY_OUT)
    return 1


def build(folder: str) -> str:
    """Make it in one of the ways that may work here; "" if none does."""
    draft = os.path.join(folder, f".new-{os.getpid()}")
    for commands in recipes(draft):
        if all(succeeds(command) for command in commands):
            made = publish(draft, folder)
            tidy(folder)
            return made
        remove(draft)
    return ""


def recipes(draft: str) -> Iterator[list[list[str]]]:
    """Ways to make the environment, as commands that must all succeed, likeliest and fastest first.

    Wheels only: to build from source is to run tools that no hash vouches for.
    """
    python = launch.interpreter(draft)
    install = ["install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r", launch.REQUIREMENTS]
    check = [python, "-I", "-c", "import aiosqlite, anyio, mcp.server.lowlevel, mcp_types, psutil, pydantic"]
    uv = shutil.which("uv")
    if uv:
        venv = [uv, "venv", "--quiet", "--no-project", "--python", f">={OLDEST[0]}.{OLDEST[1]}", draft]
        yield [venv, [uv, "pip", *install, "--compile-bytecode", "--python", python], check]
    for base in pythons():
        venv = [base, "-I", "-m", "venv"]
        pip = ["-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
        # The base's own pip serves, too, and saves the seconds that installing another one takes.
        yield [[*venv, "--without-pip", draft], [base, *pip, "--python", python, *install], check]
        yield [[*venv, draft], [python, *pip, *install], check]


def pythons() -> Iterator[str]:
    """The interpreters of this machine that are new enough, each once, the one that runs this first."""
    names = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    test = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    seen = set()
    for found in [sys.executable, *map(shutil.which, [*names, "python3", "python"])]:
        if found and os.path.realpath(found) not in seen and succeeds([found, "-I", "-c", test]):
            seen.add(os.path.realpath(found))
            yield found


def succeeds(command: list[str]) -> bool:
    say("$ " + " ".join(command))
    try:
        done = subprocess.run(command, env=surroundings(), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)  # noqa: S603
    except OSError as error:
        say(str(error))
        return False
    return done.returncode == 0


def surroundings() -> dict[str, str]:
    """The user's variables (mirrors, proxies, certificates), less those that would install elsewhere."""
    elsewhere = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "UV_SYSTEM_PYTHON", "UV_PYTHON", "VIRTUAL_ENV"}
    return {**{name: value for name, value in os.environ.items() if name not in elsewhere}, "PIP_USER": "0"}


def publish(draft: str, folder: str) -> str:
    """Give the finished environment its name: its requirements, and the Python it needs."""
    with open(os.path.join(draft, "pyvenv.cfg"), encoding="utf-8") as file:
        settings = dict(line.replace(" ", "").strip().partition("=")[::2] for line in file)
    version = settings.get("version") or settings.get("version_info")
    home = crc32(settings.get("home", "").encode())
    final = os.path.join(folder, f"{launch.prefix()}python{version}-{home:08x}")
    if os.path.exists(final):  # `find` found it unusable
        os.rename(final, f"{final}.old-{os.getpid()}")
    os.rename(draft, final)
    return final


def tidy(folder: str) -> None:
    """Remove environments for other requirements that no server holds, and what was left behind."""
    for name in os.listdir(folder):
        place = os.path.join(folder, name)
        if os.path.isdir(place) and not name.startswith(launch.prefix()) and is_unused(place):
            aside = os.path.join(folder, f".new-{name}")
            os.rename(place, aside)  # nobody shall find half of it under its name
            remove(aside)


def is_unused(place: str) -> bool:
    if os.path.basename(place).startswith(".new-"):
        return time.time() - os.path.getmtime(place) > ABANDONED
    return launch.lock(place, alone=True, wait=False) != -1


def remove(place: str) -> None:
    shutil.rmtree(place, ignore_errors=True)


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
