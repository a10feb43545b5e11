"""Creates the environment that the server runs in: `python3 -I environment.py FOLDER`, with any Python from 3.8 on.

It contains the packages of `requirements-session.txt` and nothing of claude-bus itself. Prints its path or, in one
line, why it cannot be made; progress goes to stderr. Only one process makes it at a time, and it gets its name when it
is complete, so a killed process never leaves a half-made environment under that name.

`environment.py --rest ENVIRONMENT` adds the other packages of `requirements.txt`, in the folder `rest`, which gets its
name when all of them are there. With `--all FOLDER` it does both.
"""
# ruff: noqa: INP001

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from zlib import crc32

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import launch  # noqa: E402
from first_start import FAILED, LOG  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST = launch.OLDEST
NEWEST = (3, 15)
ABANDONED = 86_400
"""Seconds after which an unfinished environment counts as abandoned."""

USED = ("claude_bus.mcp.session_server", "claude_bus.mcp.tools", "claude_bus.drivers.worker", "claude_bus.remote.bus")
"""The modules that a session imports; what they need is in `requirements-session.txt`."""
OPTIONAL = "kingfisher-secret-scanner"
"""Without this package texts are not scanned for secrets, and `claude-bus doctor` says so."""

WAY_OUT = """\
Needed is uv, or Python 3.11 or newer with venv and pip (on Debian and Ubuntu: apt install python3-venv), and a way to
the packages: a network, a mirror or a cache."""
NO_PYTHON = "there is neither uv nor Python 3.11 or newer: install one of them"
DISK_FULL = "the disk is full: make room in {folder}"
NO_TRUST = "the certificate of the package index is not trusted: behind a company's proxy set SSL_CERT_FILE to its file"
NO_NETWORK = "its packages cannot be fetched: there is no network, or a proxy or mirror that uv and pip are not told of"
HOPELESS = (DISK_FULL, NO_TRUST, NO_NETWORK)
"""Reasons for which another Python would fail as well."""
REASONS = (
    (r"No space left on device|Disk quota exceeded|os error 28\b", DISK_FULL),
    (r"CERTIFICATE_VERIFY_FAILED|invalid peer certificate|UnknownIssuer", NO_TRUST),
    (r"[Nn]ame resolution|Name or service not known|nodename nor servname|getaddrinfo failed", NO_NETWORK),
    (r"dns error|failed to lookup address|error sending request|tunnel error|ProxyError", NO_NETWORK),
    (r"Failed to establish a new connection|[Cc]onnection (?:refused|reset|timed out)", NO_NETWORK),
    (r"[Nn]etwork is unreachable|[Tt]imed out", NO_NETWORK),
    (
        r"DO NOT MATCH THE HASHES|Hash mismatch",
        "a package that came is not the one that is locked: look at the mirror that uv and pip use",
    ),
    (
        r"ensurepip is not available|No module named '?(?:venv|ensurepip|pip)\b",
        "Python lacks venv or pip: install uv, or on Debian and Ubuntu python3-venv",
    ),
    (
        r"No matching distribution|has no wheels|No solution found",
        "the package index that uv and pip use lacks a package for this system",
    ),
    (r"Permission denied|Read-only file system|os error (?:13|30)\b", "{folder} cannot be written"),
)
"""Patterns in the output of uv and pip, each with the reason to report, the most reliable first."""


def main(arguments: list[str]) -> int:
    """Run one command line; return the exit status."""
    if arguments[0] == "--rest":
        return complete(Path(arguments[1]), background="--background" in arguments)
    everything = arguments[0] == "--all"
    return make(Path(arguments[-1]), everything=everything)


def make(folder: Path, *, everything: bool) -> int:
    """Print the path of the environment, made in `folder` if needed, or why it failed; return the exit status."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        launch.lock(str(folder), alone=True)
        made = launch.find(str(folder)) or build(folder)
        if everything and complete(Path(made)):
            say(f"claude-bus: texts are not looked through for secrets, and nothing is served: see {Path(made, LOG)}")
    except Unmade as failed:
        print(failed)
        say(f"claude-bus: {failed}\n{WAY_OUT}")
        return 1
    except OSError as error:
        print(reason([str(error)]).format(folder=folder))
        say(f"claude-bus: {error}")
        return 1
    print(made)
    return 0


class Unmade(Exception):
    """The environment cannot be made here; the message says why, and what to do."""


def build(folder: Path) -> Path:
    """Make the environment in one of the ways that may work here. Raises `Unmade` if none does."""
    draft = folder / f".new-{os.getpid()}-{os.urandom(4).hex()}"  # a killed process may have left another
    why = NO_PYTHON
    for commands in recipes(draft, launch.OF_SESSION):
        said: list[str] = []
        if all(succeeds(command, said) for command in commands):
            Path(launch.rest(str(draft))).mkdir()  # Python finds what comes into a folder that it knows
            made = publish(draft)
            tidy(folder)
            return made
        remove(draft)
        why = reason(said)
        if is_hopeless(why, commands[0]):
            break
    raise Unmade(why.format(folder=folder))


# -- the packages that a session can do without ------------------------------------------


def complete(environment: Path, *, background: bool = False) -> int:
    """Install all other packages; return 0 if they are there, or if another process is at it."""
    if background:
        leave_to_another_process()
    work = environment / ".rest"
    try:
        work.mkdir(exist_ok=True)
        held = launch.lock(str(environment), alone=False)
        if -1 in (held, launch.lock(str(work), alone=True, wait=not background)) and not launch.WINDOWS:
            return 0
        if not launch.is_complete(str(environment)):
            install_rest(environment, work)
    except (Unmade, OSError) as error:
        say(f"claude-bus: {error}")
        (environment / FAILED).touch()
        return 1
    return 0


def leave_to_another_process() -> None:
    """Go on in a child process, at low priority; this process ends, so that nobody has to wait for the child."""
    if launch.WINDOWS:
        return
    if os.fork():
        os._exit(0)
    os.nice(19)


def install_rest(environment: Path, work: Path) -> None:
    """Install the packages and compile the scanner's rules. Raises `Unmade`."""
    for left in work.glob("new-*"):  # of a killed process
        remove(left)
    draft = work / f"new-{os.getpid()}"
    listed, why = work / "requirements.txt", NO_PYTHON
    for without in ("", OPTIONAL):
        listed.write_text(other_requirements(without), encoding="utf-8")
        for command in recipes_of_rest(environment, draft, str(listed)):
            said: list[str] = []
            if succeeds(command, said):
                compile_all(environment, draft)
                publish_rest(environment, draft)
                return
            remove(draft)
            why = reason(said)
            if is_hopeless(why, command):
                raise Unmade(why.format(folder=environment))
    raise Unmade(why.format(folder=environment))


def recipes_of_rest(environment: Path, draft: Path, listed: str) -> Iterator[list[str]]:
    """Yield ways to install the listed packages, which are complete, into a folder."""
    install = ["install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", listed]
    python, uv = launch.interpreter(str(environment)), shutil.which("uv")
    if uv:
        yield [uv, "pip", *install, "--compile-bytecode", "--python", python, "--target", str(draft)]
    pip = ["-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    for base in pythons():
        yield [base, *pip, "--python", python, *install, "--target", str(draft)]
    yield [python, *pip, *install, "--target", str(draft)]


def compile_all(environment: Path, draft: Path) -> None:
    """Compile the scanner's rules, once on a machine, and all modules. This takes seconds; a failure does no harm."""
    python = launch.interpreter(str(environment))
    rules = "import sys; sys.path.append(sys.argv[1]); from kingfisher_sdk import Rules, Scanner; Scanner(Rules())"
    modules = "import compileall, sysconfig; compileall.compile_dir(sysconfig.get_path('purelib'), quiet=2)"
    succeeds([python, "-I", "-c", rules, str(draft)], [])
    succeeds([python, "-I", "-c", modules], [])


def publish_rest(environment: Path, draft: Path) -> None:
    """Give the packages their place, where an empty folder is."""
    final = Path(launch.rest(str(environment)))
    if final.is_dir():
        final.rmdir()
    draft.rename(final)
    with contextlib.suppress(FileNotFoundError):
        (environment / FAILED).unlink()


def other_requirements(without: str) -> str:
    """Return the locked packages that are not a session's, and not `without`."""
    left_out = {without, *(name for name, _ in packages(launch.OF_SESSION))}
    return "".join(text for name, text in packages(launch.REQUIREMENTS) if name not in left_out)


def packages(lock: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the lines of each package in a lock file."""
    lines = Path(lock).read_text(encoding="utf-8").splitlines(keepends=True)
    starts = [n for n, line in enumerate(lines) if line[:1] not in (" ", "#", "\n")]
    for start, end in zip(starts, [*starts[1:], len(lines)]):  # noqa: B905 - Python 3.8
        yield lines[start].partition("==")[0], "".join(lines[start:end])


# -- ways to make it ---------------------------------------------------------------------


def is_hopeless(why: str, command: list[str]) -> bool:
    """Return whether no other command would succeed; uv may not know the mirror that pip knows."""
    return why in HOPELESS and "uv" not in Path(command[0]).stem


def reason(said: list[str]) -> str:
    """Return why it failed, and what to do; `{folder}` stands for the folder of the environments."""
    text = "\n".join(said)
    found = next((reason for pattern, reason in REASONS if re.search(pattern, text)), "")
    last = next((line for line in reversed(said) if line), "the tools said nothing")
    return found or "its packages could not be installed: " + last.replace("{", "{{").replace("}", "}}")[:300]


def recipes(draft: Path, requirements: str) -> Iterator[list[list[str]]]:
    """Yield ways to make the environment, as commands that must all succeed, the fastest first.

    Wheels only: building from source would run tools that no hash covers.
    """
    python = launch.interpreter(str(draft))
    install = ["install", "--quiet", "--require-hashes", "--only-binary", ":all:", "-r", requirements]
    load = "import sys; sys.path.append(sys.argv[1]); import " + ", ".join(USED)
    check = [python, "-I", "-c", load, str(Path(launch.ROOT, "src"))]  # which compiles them as well
    uv = shutil.which("uv")
    if uv:
        venv = [uv, "venv", "--quiet", "--no-project", "--python", f">={OLDEST[0]}.{OLDEST[1]}", str(draft)]
        yield [venv, [uv, "pip", *install, "--python", python], check]
    install.insert(1, "--no-compile")
    for base in pythons():
        venv = [base, "-I", "-m", "venv"]
        pip = ["-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
        # The base's own pip works too, and saves the seconds that installing another one takes.
        yield [[*venv, "--without-pip", str(draft)], [base, *pip, "--python", python, *install], check]
        yield [[*venv, str(draft)], [python, *pip, *install], check]


def pythons() -> Iterator[str]:
    """Yield the interpreters of this machine that are new enough, each once, the current one first."""
    names = [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    test = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    seen = set()
    for found in [sys.executable, *map(shutil.which, [*names, "python3", "python"])]:
        if found and os.path.realpath(found) not in seen and succeeds([found, "-I", "-c", test], []):
            seen.add(os.path.realpath(found))
            yield found


def succeeds(command: list[str], said: list[str]) -> bool:
    """Run a command; its output goes to stderr as it comes, and to `said`. Return whether it succeeded."""
    say("$ " + " ".join(command))
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    try:
        with subprocess.Popen(  # noqa: S603
            command, env=surroundings(), stdin=null, stdout=pipe, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            assert process.stdout
            for line in process.stdout:
                said.append(line.strip())
                say(said[-1])
    except OSError as error:
        said.append(str(error))
        say(str(error))
        return False
    return not process.returncode


def surroundings() -> dict[str, str]:
    """Return the user's variables (mirrors, proxies, certificates), without those that would install elsewhere."""
    elsewhere = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "UV_SYSTEM_PYTHON", "UV_PYTHON", "VIRTUAL_ENV"}
    return {**{name: value for name, value in os.environ.items() if name not in elsewhere}, "PIP_USER": "0"}


def publish(draft: Path) -> Path:
    """Give the finished environment its name, made of its requirements and the Python it needs; return its path."""
    lines = (draft / "pyvenv.cfg").read_text(encoding="utf-8").replace(" ", "").splitlines()
    settings = dict(line.partition("=")[::2] for line in lines)
    version = settings.get("version") or settings.get("version_info")
    home = crc32(settings["home"].encode())
    final = draft.with_name(f"{launch.prefix()}python{version}-{home:08x}")
    if final.exists():  # it cannot be used; otherwise `find` would have found it
        launch.set_aside(str(final))
    return draft.rename(final)


def tidy(folder: Path) -> None:
    """Remove environments for other requirements that no server uses, and leftovers."""
    for place in folder.iterdir():
        if place.name.startswith(".opened-") and is_old(place):
            place.unlink()
        if place.is_dir() and not place.name.startswith(launch.prefix()) and is_unused(place):
            remove(place.rename(folder / f".new-{place.name}"))  # so that half of it is never found under its name


def is_unused(place: Path) -> bool:
    if place.name.startswith(".new-"):
        return is_old(place)
    return launch.lock(str(place), alone=True, wait=False) != -1


def is_old(place: Path) -> bool:
    return time.time() - place.stat().st_mtime > ABANDONED


def remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
