"""The shell code that git runs before a commit: the guard script of a repository, and the lines that call it.

Only the status `REFUSED` of `claude-bus guard check` refuses a commit. Failures of Python, a shell or the system have
other statuses; they let the commit through.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from .. import text
from ..records import record

REFUSED = 86
"""Exit status of `guard check` if another session claims a file in the commit. No other program exits with it: Python
has 1, 2 and 120, the bus 1 to 5, sysexits 64 to 78, shells and signals 124 and up."""

DEADLINE = 10
"""Seconds after which a commit no longer waits for its check."""

NAME = "claude-bus-guard"
"""Name of the guard script, in the git folder that all working trees of a repository share."""

BEGIN = "# >>> claude-bus guard >>> `claude-bus guard uninstall` removes these lines"
END = "# <<< claude-bus guard <<<"

_START = "import sys; sys.path.append(sys.argv.pop(1)); from claude_bus.__main__ import main; sys.exit(main())"
"""Runs the package in the folder that follows, which goes last on the path so that it shadows nothing."""


@record(frozen=True, slots=True)
class Program:
    """How the guard script starts this claude-bus; `shell` sets the positional parameters to its command."""

    path: Path
    """File without which the program is gone."""
    shell: str


def script(program: Program) -> bytes:
    """Return the guard script: it exits with `REFUSED`, or says why nothing was checked and exits with 0."""
    return _bytes(
        _SCRIPT.format(program=program.shell, gone=_quoted(_gone(program)), refused=REFUSED, deadline=DEADLINE)
    )


def calling(interpreter: str = "") -> str:
    """Return the lines of a hook that call the guard script if it exists; `interpreter` begins the file."""
    return f"{interpreter}{BEGIN}\n{_CALL}{END}\n"


def wrapper(earlier: str, interpreter: list[str]) -> str:
    """Return a hook that calls the guard script and then the earlier hook, at the relative path `earlier`.

    With an `interpreter`, which is a shell's, the earlier hook still sees the path of this hook as its `$0`.
    """
    run = 'exec "$claude_bus_earlier" "$@"'
    if interpreter:
        run = f"""export claude_bus_earlier; exec {shlex.join(interpreter)} -c '. "$claude_bus_earlier"' "$0" "$@\""""
    return (
        f"#!/bin/sh\n{BEGIN}\n{_CALL}"
        f'claude_bus_earlier="${{0%/*}}"/{_quoted(earlier)}\n'
        f'if [ -x "$claude_bus_earlier" ]; then {run}; fi\n{END}\n'
    )


def yaml() -> str:
    """Return the entry of a lefthook configuration that calls the guard script."""
    return f"{BEGIN}\n{_YAML}{END}\n"


_FOUND = f'claude_bus_guard="$(git rev-parse --git-common-dir 2>/dev/null || :)/{NAME}"'
_CALL = f"""\
{_FOUND}
if [ -f "$claude_bus_guard" ]; then sh "$claude_bus_guard" || [ $? -ne {REFUSED} ] || exit 1; fi
"""

_YAML = f"""\
pre-commit:
  commands:
    {NAME}:
      run: |
        {_FOUND}
        [ ! -f "$claude_bus_guard" ] || sh "$claude_bus_guard" || [ $? -ne {REFUSED} ]
"""

_SCRIPT = """\
#!/bin/sh
# Written by `claude-bus guard install`; the pre-commit hook calls it, `claude-bus guard uninstall` removes it.
# Its exit status is {refused} if another session claims what is committed. Whatever else happens, it is 0.
# Bypass it knowingly with `git commit --no-verify` or BUS_GUARD=off.
limit={deadline} # seconds

unchecked() {{
  printf 'claude-bus: claims were not checked: %s\\n' "$1" >&2
  exit 0
}}

gone() {{
  case $0 in /* | [A-Za-z]:*) script=$0 ;; *) script=$(pwd)/$0 ;; esac
  script=$(printf '%s' "$script" | sed "s/'/'\\\\\\\\''/g")
  unchecked {gone}"; without it, this ends the check: rm '$script'"
}}

{program}

# All of it is in the background, so that neither a hanging program nor what it started can hold up the commit.
said=$(
  exec 2>&1 >/dev/null </dev/null
  "$@" guard check & check=$!
  (
    trap 'kill "$nap" 2>/dev/null; exit' TERM
    sleep "$limit" & nap=$!
    wait "$nap" && kill -9 "$check"
  ) >/dev/null 2>&1 & watch=$!
  wait "$check"; ended=$?
  kill "$watch" 2>/dev/null
  exit "$ended"
)
ended=$?

case $ended in
  0) if [ -n "$said" ]; then printf '%s\\n' "$said" >&2; fi ;;
  {refused})
    printf '%s\\n' "$said" >&2
    exit {refused}
    ;;
  137) unchecked "no answer within $limit seconds" ;;
  *)
    last=${{said##*"
"}}
    unchecked "${{last#claude-bus: }} (exit status $ended)"
    ;;
esac
exit 0
"""


# -- which program -------------------------------------------------------------------


def this_program() -> Program:
    """Return the running claude-bus as a later commit finds it: an upgrade may have replaced it."""
    source = Path(__file__).resolve().parents[2]
    command = source.parent.parent / "bin" / "claude-bus"
    if source.parent.name.startswith("app-") and command.is_file():  # the installer's
        return Program(command, _plain(command, [str(command)]))
    launcher = source.parent / ".claude-plugin" / "launch.py"
    environment = _environment(launcher)
    if environment:
        return Program(launcher, _launched(launcher, environment))
    python = Path(sys.executable)
    return Program(python, _plain(python, [str(python), "-I", "-X", "utf8", "-c", _START, str(source)]))


def _environment(launcher: Path) -> Path | None:
    """Return the environment in which the plugin's launcher started this process; None if it did not."""
    words = sys.orig_argv
    if "--in" not in words or not any(_is_same(word, launcher) for word in words):
        return None
    given = words[words.index("--in") + 1]
    return Path(given) if given else None


def _is_same(word: str, launcher: Path) -> bool:
    """Return whether a word of the command is the launcher, however its path is spelled."""
    return word.endswith(launcher.name) and Path(word).resolve() == launcher


def _plain(program: Path, command: list[str]) -> str:
    return f"[ -x {_quoted(str(program))} ] || gone\nset -- {' '.join(map(_quoted, command))}"


def _launched(launcher: Path, environment: Path) -> str:
    """Return the shell code for the plugin's launcher: this version's or, once that is gone, another version's."""
    root = launcher.parents[1]
    launchers, pythons = _quoted(str(launcher)), _quoted(sys.executable)
    if {"plugins", "cache"} <= set(root.parts):  # each version has a folder there
        launchers += f" {_quoted(str(root.parent))}/*/.claude-plugin/launch.py"
    inside = Path(sys.executable).relative_to(environment) if Path(sys.executable).is_relative_to(environment) else None
    if inside:
        pythons += f" {_quoted(str(environment.parent))}/*/{inside.as_posix()}"
    direct = f"{_quoted(sys.executable)} -I -X utf8 {_quoted(str(launcher))} --in {_quoted(str(environment))}"
    return f"""\
for launcher in {launchers}; do if [ -f "$launcher" ]; then break; fi; done
for python in {pythons}; do if [ -x "$python" ]; then break; fi; done
[ -f "$launcher" ] && [ -x "$python" ] || gone
unset CLAUDE_BUS_PYTHON
CLAUDE_PLUGIN_DATA={_quoted(str(environment.parent.parent))}
export CLAUDE_PLUGIN_DATA
set -- "$python" -I -S "$launcher"
{_unchanged(str(launcher), sys.executable, direct) if inside else ":"}"""


def _unchanged(launcher: str, python: str, command: str) -> str:
    """Return the shell code that starts the program without looking for its environment, if both files are there."""
    return (
        f'if [ "$launcher" = {_quoted(launcher)} ] && [ "$python" = {_quoted(python)} ]; then\n  set -- {command}\nfi'
    )


def _gone(program: Program) -> str:
    place = text.path(str(program.path))
    return f"claude-bus is no longer at {place}. With it installed again, run `claude-bus guard install` here"


def _quoted(word: str) -> str:
    return shlex.quote(word)


def _bytes(content: str) -> bytes:
    return content.encode("utf-8", "surrogateescape")
