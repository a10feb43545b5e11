"""Starts the plugin's server: `python3 -I launch.py`, run by whatever Python (3.8 or newer) the client finds.

The server's code is run from this plugin's own `src`; there is no build that could be stale. What it
depends on lives in an environment made on the first start, by uv or by venv and pip, from the wheels
whose hashes `requirements.txt` lists. Later starts find it and go straight on.

`CLAUDE_BUS_PYTHON` names an interpreter that has the dependencies, to be used instead.

Nothing is written to stdout: that is the server's wire.
"""
# Every session start waits for this file: it imports little, and pathlib is not little.
# ruff: noqa: INP001, PTH, PLC0415, S404

from __future__ import annotations

import os
import sys

if False:  # typing.TYPE_CHECKING without the import
    from collections.abc import Iterator

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REQUIREMENTS = os.path.join(ROOT, "requirements.txt")
OLDEST = (3, 11)
WINDOWS = os.name == "nt"

WAY_OUT = """\
claude-bus: its Python environment could not be made; the log is {log}
Any one of these helps:
  - install uv, or Python 3.11 or newer with venv and pip (Debian, Ubuntu: apt install python3-venv)
  - set CLAUDE_BUS_PYTHON to a Python that has the packages of {requirements}
then reconnect with /mcp, or start a new session."""


class Failed(Exception):
    """The environment could not be made; the message tells the user what to do."""


def main(args: list[str]) -> int:
    """Run the server (or, with arguments, the command line) and return its exit status."""
    verb = args[:1]
    try:
        if verb == ["--in"]:  # this is the interpreter of that environment
            return run(args[1], args[2:])
        if verb == ["--make"]:
            return build(args[1])
        if verb == ["--prepare"]:  # for the installer
            sys.stdout.write(interpreter(prepare(args[1])) + "\n")
            return 0
        return start(args)
    except Failed as error:
        sys.stderr.write("%s\n" % error)
        return 1
    except KeyboardInterrupt:  # the client has given up on us
        return 130


# -- every start ----------------------------------------------------------------------


def start(args: list[str]) -> int:
    """Go on in the right interpreter."""
    chosen = os.environ.get("CLAUDE_BUS_PYTHON", "")
    if chosen:
        return become(chosen, "", args)
    environment = prepare(store())
    return become(interpreter(environment), environment, args)


def become(python: str, environment: str, args: list[str]) -> int:
    """Replace this process; -I keeps PYTHONPATH, user packages and the working directory out."""
    command = [python, "-I", "-X", "utf8", os.path.abspath(__file__), "--in", environment, *args]
    if WINDOWS:  # exec there starts a second process and ends this one
        import subprocess

        return subprocess.call(command)
    try:
        os.execvp(python, command)
    except OSError as error:
        raise Failed("claude-bus: cannot run %s: %s" % (python, error)) from error


def run(environment: str, args: list[str]) -> int:
    """Run claude_bus in this interpreter."""
    if environment:
        lock(environment, wait=True)
        if not any(os.path.isdir(os.path.join(place, "mcp")) for place in sys.path):
            return mend(environment, args)
    sys.path.insert(0, os.path.join(ROOT, "src"))
    sys.argv = ["claude-bus", *args]
    from claude_bus.__main__ import main as claude_bus

    return claude_bus()


def mend(environment: str, args: list[str]) -> int:
    """Start over: the environment lost its packages, or its Python became another version."""
    discard(environment)
    remade = prepare(os.path.dirname(environment))
    return become(interpreter(remade), remade, args)


def prepare(where: str) -> str:
    """The environment for these requirements under `where`, made if it is not there."""
    return find(where) or make(where)


def find(where: str) -> str:
    """The usable environment for these requirements, or "".

    Two machines (or a container and its host) may share the folder: an environment whose
    Python is not here is left to the machine that has it.
    """
    try:
        names = sorted(os.listdir(where))
    except OSError:
        return ""
    prefix = digest() + "-"
    places = [os.path.join(where, name) for name in names if name.startswith(prefix)]
    return next((place for place in places if os.path.exists(interpreter(place))), "")


def store() -> str:
    """Where environments are kept: with the plugin's data, else in the user's cache."""
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


def interpreter(environment: str) -> str:
    return os.path.join(environment, *(("Scripts", "python.exe") if WINDOWS else ("bin", "python")))


def digest() -> str:
    """A short name for these requirements."""
    from hashlib import sha256

    with open(REQUIREMENTS, "rb") as file:
        return sha256(file.read()).hexdigest()[:12]


def lock(place: str, *, alone: bool = False, wait: bool = False) -> int | None:
    """Hold a folder until this process ends (or closes the result); None if it cannot be held.

    Who uses an environment holds it with others, who removes it must hold it alone.
    """
    try:
        import fcntl

        held = os.open(os.path.join(place, ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(held, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(held)
        return None
    return held


# -- the first start ------------------------------------------------------------------


def make(where: str) -> str:
    """Make the environment in a process that outlives this one.

    The client waits 30 seconds for a server. When that is not enough, the work goes on and
    the next session finds it done.
    """
    import subprocess

    log = os.path.join(where, "last-build.log")
    sys.stderr.write("claude-bus: first start, making its Python environment in %s\n" % where)
    sys.stderr.flush()
    try:
        os.makedirs(where, mode=0o700, exist_ok=True)
        with open(log, "ab") as output:
            builder = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", os.path.abspath(__file__), "--make", where],
                cwd=where,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        builder.wait()
    except OSError as error:
        raise Failed("claude-bus: cannot make its Python environment in %s: %s" % (where, error)) from error
    made = find(where)
    if not made:
        raise Failed("\n".join([*tail(log), WAY_OUT.format(log=log, requirements=REQUIREMENTS)]))
    return made


def tail(log: str) -> list[str]:
    with open(log, encoding="utf-8", errors="replace") as file:
        return [line.rstrip() for line in file.readlines()[-12:]]


def build(where: str) -> int:
    """The builder process: one at a time, whatever kills it leaves no half-made environment."""
    lock(where, alone=True, wait=True)
    if find(where):
        return 0
    sys.stdout.write("\n== %s for %s\n" % (digest(), REQUIREMENTS))
    draft = os.path.join(where, ".new-%d" % os.getpid())
    for commands in recipes(draft):
        remove(draft)
        if all(succeeds(command) for command in commands):
            publish(draft, where)
            tidy(where)
            return 0
    remove(draft)
    return 1


def recipes(draft: str) -> Iterator[list[list[str]]]:
    """Ways to make the environment, as commands; the first whose commands all succeed is taken.

    Wheels only: a source build would run build tools that no hash vouches for.
    """
    from shutil import which

    python = interpreter(draft)
    wanted = ["install", "--require-hashes", "--only-binary", ":all:", "-r", REQUIREMENTS]
    check = [python, "-I", "-c", "import aiosqlite, anyio, mcp.server.lowlevel, mcp_types, psutil, pydantic"]
    uv = which("uv")
    if uv:
        bare = [uv, "venv", "--quiet", "--no-project", "--python", ">=%d.%d" % OLDEST, draft]
        yield [bare, [uv, "pip", *wanted, "--quiet", "--compile-bytecode", "--python", python], check]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    for base in pythons():
        # The base's own pip saves the seconds that a pip inside the environment takes to install.
        venv = [base, "-I", "-m", "venv"]
        yield [
            [*venv, "--without-pip", draft],
            [base, "-I", "-m", "pip", "--python", python, *wanted, *quiet],
            check,
        ]
        yield [[*venv, draft], [python, "-I", "-m", "pip", *wanted, *quiet], check]


def pythons() -> Iterator[str]:
    """Interpreters on this machine that are new enough, each once, ours first."""
    from shutil import which

    names = ["python3.%d" % minor for minor in range(OLDEST[1] + 4, OLDEST[1] - 1, -1)]
    test = "import sys; sys.exit(sys.version_info < %r)" % (OLDEST,)
    seen = set()
    for found in [sys.executable, *(which(name) for name in [*names, "python3", "python"])]:
        if found and os.path.realpath(found) not in seen and succeeds([found, "-I", "-c", test]):
            seen.add(os.path.realpath(found))
            yield found


def succeeds(command: list[str]) -> bool:
    import subprocess

    sys.stdout.write("$ %s\n" % " ".join(command))
    sys.stdout.flush()
    try:
        return subprocess.call(command, env=surroundings(), stdin=subprocess.DEVNULL) == 0  # noqa: S603
    except OSError as error:
        sys.stdout.write("%s\n" % error)
        return False


def surroundings() -> dict[str, str]:
    """The user's environment (mirrors, proxies, certificates), less what would install elsewhere."""
    elsewhere = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "UV_SYSTEM_PYTHON", "UV_PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return {**kept, "PIP_USER": "0"}


def publish(draft: str, where: str) -> None:
    """Give the finished environment its name, in one step: requirements, and the Python that it needs."""
    from zlib import crc32

    with open(os.path.join(draft, "pyvenv.cfg"), encoding="utf-8") as file:
        settings = dict(line.partition("=")[::2] for line in file.read().replace(" ", "").splitlines())
    version = settings.get("version") or settings.get("version_info") or "python"
    name = "%s-%s-%08x" % (digest(), version, crc32(settings.get("home", "").encode()))
    final = os.path.join(where, name)
    discard(final)  # one that cannot be used any more, or `find` had found it
    os.rename(draft, final)


def tidy(where: str) -> None:
    """Remove environments of other requirements that no server uses, and what a killed builder left."""
    import time

    for name in os.listdir(where):
        place = os.path.join(where, name)
        if name.startswith(digest()) or not os.path.isdir(place):
            continue
        left = name.startswith(".") and time.time() - os.path.getmtime(place) > 86_400
        unused = not name.startswith(".") and lock(place, alone=True) is not None
        if left or unused:
            discard(place)


def discard(place: str) -> None:
    """Remove a folder so that nobody ever sees half of it under its name."""
    aside = os.path.join(os.path.dirname(place), ".old-%d" % os.getpid())
    try:
        os.rename(place, aside)
    except OSError:  # not there
        return
    remove(aside)


def remove(place: str) -> None:
    from shutil import rmtree

    rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
