"""Starts the plugin's server: `python3 -I -S launch.py`, run by the Python (3.8 or newer) that the client finds.

The server runs from this plugin's own `src`, so no build can be stale. The packages it needs are in an environment
that is made on the first start, with the plugin's data; meanwhile `first_start.py` answers the client. Later starts
find the environment and use it at once. The environment first gets what a session runs with. The other packages follow
in the background, into the folder `rest` of the environment, which is empty until all of them are there.

`CLAUDE_BUS_PYTHON` names an interpreter that has the packages, to be used instead.

Nothing is written to stdout, because the server speaks its protocol there.
"""
# Each session's start runs this file twice, so it is short, and avoids pathlib and hashlib.
# ruff: noqa: INP001
# ruff: noqa: PTH100, PTH104, PTH110, PTH111, PTH112, PTH118, PTH120, PTH123, PTH208

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
REQUIREMENTS = os.path.join(HERE, "requirements.txt")
"""All packages, locked."""
OF_SESSION = os.path.join(HERE, "requirements-session.txt")
"""Those of them that a session runs with, which are installed first."""
WINDOWS = os.name == "nt"
OLDEST = (3, 11)


class Failed(Exception):
    """The server cannot be started; the message tells the user why, and what to do."""


def main(args: list[str]) -> int:
    """Run claude_bus, with these arguments or as the server, and return its exit status."""
    given = args[2:] if args[:1] == ["--in"] else args
    try:
        return run(args[1], given) if given is not args else start(given)
    except Failed as error:
        sys.stderr.write(f"claude-bus: {error}\n")
        return first_start().tell(str(error)) if is_server(given) else 1
    except KeyboardInterrupt:  # the client has given up
        return 130


def is_server(args: list[str]) -> bool:
    """Return whether a client is at the other end of the pipes."""
    return not args and not os.isatty(0)


def start(args: list[str], folder: str = "") -> int:
    """Continue in the chosen interpreter or in the environment, which is made first if needed."""
    chosen = os.environ.get("CLAUDE_BUS_PYTHON")
    if chosen and not folder:
        return become(chosen, "", args)
    if args[:1] == ["setup"] and not folder and sys.version_info >= OLDEST:  # it needs none of the packages
        return claude_bus(args)
    folder = folder or store()
    found = find(folder)
    if not found and not os.environ.get("CLAUDE_PLUGIN_DATA"):
        folder = first_start().store_of_plugin() or folder
        found = find(folder)
    return enter(found or first_start().environment(folder, args), args)


def first_start() -> Any:
    """Import the module that only a first start needs, without leaving bytecode."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, HERE)
    import first_start

    return first_start


def enter(environment: str, args: list[str]) -> int:
    """Continue in the environment's interpreter."""
    return become(interpreter(environment), environment, args)


def become(python: str, environment: str, args: list[str]) -> int:
    """Replace this process. -I excludes PYTHONPATH, the user's packages and the working directory."""
    command = [python, "-I", "-X", "utf8", os.path.join(HERE, "launch.py"), "--in", environment, *args]
    try:
        if not WINDOWS:
            os.execvp(python, command)  # noqa: S606
        import subprocess  # on Windows an exec ends this process, and the client would take its server for dead

        return subprocess.call(command)  # noqa: S603
    except OSError as error:
        whose = "" if environment else "CLAUDE_BUS_PYTHON: "
        raise Failed(f"{whose}cannot run {python}: {error}") from error


def run(environment: str, args: list[str]) -> int:
    """Run claude_bus in this interpreter, which belongs to `environment` or, without one, is the user's choice."""
    if environment and not (hold(environment) and has_packages()):
        return mend(environment, args)
    if not (sys.version_info >= OLDEST and has_packages()):
        needed = ".".join(map(str, OLDEST))
        raise Failed(f"CLAUDE_BUS_PYTHON is not a Python {needed} or newer with the packages of {OF_SESSION}")
    if environment:
        use_rest(environment, args)
    return claude_bus(args)


def use_rest(environment: str, args: list[str]) -> None:
    """Add the packages that a session can do without, whenever they arrive; have them installed if they are missing."""
    import site

    os.environ.setdefault("KF_RULE_CACHE_DIR", rules(environment))  # which goes with the plugin
    serves = args[:1] == ["serve"]
    if (serves or is_server(args)) and not is_complete(environment):
        first_start().complete(environment, wait=serves)
        sys.dont_write_bytecode = False
    site.addsitedir(rest(environment))


def claude_bus(args: list[str]) -> int:
    """Run claude_bus in this process."""
    sys.path.insert(0, os.path.join(ROOT, "src"))
    sys.argv = ["claude-bus", *args]
    from claude_bus.__main__ import main

    return main()


def has_packages() -> bool:
    return any(os.path.isdir(os.path.join(place, "aiosqlite")) for place in sys.path)


def mend(environment: str, args: list[str]) -> int:
    """Start over, because the environment was just removed, lost its packages, or its Python is another version now."""
    try:
        set_aside(environment)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Failed(f"{environment} is broken: remove it ({error})") from error
    return start(args, os.path.dirname(environment))


# -- the environments -----------------------------------------------------------------


def store() -> str:
    """Return the folder of the environments, which only the user can write: with the plugin's data or in a cache.

    Raises `Failed` if there is no such folder.
    """
    usable, doubts = [], []
    for place in map(os.path.realpath, stores()):
        doubt = doubtful(place)
        if doubt:
            doubts.append(doubt)
        elif find(place):
            return place
        else:
            usable.append(place)
    if not usable:
        raise Failed("its packages need a folder that only you can change: " + "; ".join(doubts))
    return next(filter(is_writable, usable), usable[0])


def stores() -> Iterator[str]:
    """Yield the folders where environments may be, the best first."""
    data = os.environ.get("CLAUDE_PLUGIN_DATA")
    if data:
        yield os.path.join(data, "environments")
    home = home_folder()
    caches = [os.path.join(home, ".cache")]
    if WINDOWS:
        caches = [os.environ.get("LOCALAPPDATA") or home]
    elif sys.platform == "darwin":
        caches = [os.path.join(home, "Library", "Caches")]
    elif os.environ.get("XDG_CACHE_HOME"):
        caches.insert(0, os.environ["XDG_CACHE_HOME"])
    if not WINDOWS:
        caches.append(os.path.join(os.environ.get("TMPDIR") or "/tmp", f"user-{os.geteuid()}"))  # noqa: S108 - checked
    for cache in filter(os.path.isabs, caches):  # a relative one would depend on the working directory
        yield os.path.join(cache, "claude-bus", "environments")


def home_folder() -> str:
    """Return this user's home folder; a relative path, or "", for a user without one."""
    given = os.path.expanduser("~") if WINDOWS else os.environ.get("HOME")
    if given:
        return given
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_dir
    except (ImportError, KeyError):
        return ""


def is_writable(folder: str) -> bool:
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK)


def doubtful(folder: str) -> str:
    """Return why another user could have written the programs in a folder, or "". Needs a path without links."""
    if WINDOWS:
        return ""
    place = folder
    while True:
        try:
            found = os.lstat(place)
        except FileNotFoundError:
            found = None
        except OSError as error:
            return f"{place}: {error.strerror}"
        if found and not is_ours(found):
            return f"{place} belongs to somebody else"
        if found and is_open(found, sticky_is_safe=place != folder):
            return f"{place} can be changed by others"
        above = os.path.dirname(place)
        if above == place:
            return ""
        place = above


def is_ours(found: os.stat_result) -> bool:
    """Return whether a file belongs to this user or root; in a rootless container root's files appear as nobody's."""
    if found.st_uid in (os.geteuid(), 0):
        return True
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return found.st_uid == 65534 and file.read().split()[:3] != ["0", "0", "4294967295"]
    except OSError:
        return False


def is_open(found: os.stat_result, *, sticky_is_safe: bool) -> bool:
    """Return whether others than the owner can write to a folder; the owner's own group usually has no other users.

    In a sticky folder users can only replace their own files.
    """
    if found.st_mode & 0o1000 and sticky_is_safe:
        return False
    theirs = found.st_mode & 0o020 and found.st_gid not in (os.getegid(), 0)
    return bool(found.st_mode & 0o002 or theirs)


def find(folder: str) -> str:
    """Return the environment for these requirements, or "".

    A container and its host may share the folder, so an environment whose Python does not exist here is
    left to the machine that has it.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return ""
    places = [os.path.join(folder, name) for name in names if name.startswith(prefix())]
    return next((place for place in places if os.path.exists(interpreter(place))), "")


def prefix() -> str:
    """Return the prefix of the names of environments for these requirements.

    It is a checksum that distinguishes versions of the files; uv and pip check the packages' own hashes.
    """
    from zlib import crc32

    checksum = 0
    for place in (REQUIREMENTS, OF_SESSION):
        with open(place, "rb") as file:
            checksum = crc32(file.read(), checksum)
    return f"{checksum:08x}-"


def rest(environment: str) -> str:
    """Return the folder of the packages that a session can do without."""
    return os.path.join(environment, "rest")


def rules(environment: str) -> str:
    """Return the folder of the scanner's compiled rules."""
    return os.path.join(environment, "rules")


def is_complete(environment: str) -> bool:
    """Return whether those packages are there; they appear all at once."""
    try:
        return bool(os.listdir(rest(environment)))
    except OSError:
        return False


def interpreter(environment: str) -> str:
    return os.path.join(environment, *(("Scripts", "python.exe") if WINDOWS else ("bin", "python")))


def set_aside(environment: str) -> None:
    """Rename an environment so that it is no longer found; the next process that makes one removes it."""
    os.rename(environment, os.path.join(os.path.dirname(environment), f".old-{os.getpid()}"))


def hold(environment: str) -> bool:
    """Keep the environment from being removed while this process runs; return False if it is gone."""
    if os.path.isdir(environment):
        lock(environment, alone=False)
        return os.path.isdir(environment)
    return False


def lock(folder: str, *, alone: bool, wait: bool = True) -> int:
    """Lock a folder, alone or shared, until the process ends; return a descriptor, or -1 if that is impossible."""
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


if __name__ == "__main__":
    sys.modules["launch"] = sys.modules["__main__"]
    sys.exit(main(sys.argv[1:]))
