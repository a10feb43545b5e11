"""What an installation puts among the user's Claude Code settings, and takes out again.

    python -m claude_bus.claude_settings install CONFIG PLUGIN [EARLIER...]
    python -m claude_bus.claude_settings uninstall CONFIG [EARLIER...]

CONFIG is the user's configuration folder (`~/.claude`), PLUGIN the plugin whose hooks and command
are installed, EARLIER the plugins an installation has put there before, so that their command is
known for ours. What else is in the settings stays as it is. A file of the user's that has to make
room is kept beside, under the name with `BACKUP` after it, and comes back with `uninstall`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SERVER = "bus"
"""The name under which the server is registered at user scope."""
BACKUP = ".before-claude-bus"

Hooks = dict[str, list[dict[str, Any]]]


class Refused(Exception):
    """A file of the user's is not as it should be, and was left alone; the message says what to do."""


def install(config: Path, plugin: Path, earlier: Sequence[Path]) -> list[str]:
    """Put hooks and command in place; returns what was done. Doing it again changes nothing."""
    settings = config / "settings.json"
    document, written = _read(settings)  # before anything is changed
    done = [_install_command(config, plugin, earlier)]
    wanted = with_hooks(document, hooks_of(plugin))
    if wanted == document:
        return [*done, f"{settings} has the hooks"]
    if written and without_hooks(document) == document:
        shutil.copy2(settings, _backup(settings))
    _write(settings, _formatted(wanted, written))
    return [*done, f"hooks put into {settings}"]


def uninstall(config: Path, earlier: Sequence[Path]) -> list[str]:
    """Take hooks and command out, and bring back what made room; returns what was done."""
    settings = config / "settings.json"
    document, written = _read(settings)
    done = _uninstall_command(config, earlier)
    wanted = without_hooks(document)
    if wanted != document:
        _restore(settings, wanted, written)
        done.append(f"hooks taken out of {settings}")
    _backup(settings).unlink(missing_ok=True)
    return done


# -- hooks ----------------------------------------------------------------------------


def hooks_of(plugin: Path) -> Hooks:
    """The plugin's hooks, calling the server at user scope."""
    declared: Hooks = json.loads((plugin / "hooks" / "hooks.json").read_text(encoding="utf-8"))["hooks"]
    for groups in declared.values():
        for hook in (hook for group in groups for hook in group["hooks"]):
            hook["server"] = SERVER
    return declared


def with_hooks(document: dict[str, Any], hooks: Hooks) -> dict[str, Any]:
    """The settings with these hooks after those that are there, and no others of ours."""
    if _present(document) == hooks:
        return document
    rest = without_hooks(document)
    there = rest.get("hooks", {})
    return {**rest, "hooks": {**there, **{event: [*there.get(event, []), *hooks[event]] for event in hooks}}}


def without_hooks(document: dict[str, Any]) -> dict[str, Any]:
    """The settings without our hooks, and without what only they had filled."""
    if not _present(document):
        return document
    left = {event: _others(groups) for event, groups in document["hooks"].items()}
    left = {event: groups for event, groups in left.items() if groups or not document["hooks"][event]}
    return {key: left if key == "hooks" else value for key, value in document.items() if key != "hooks" or left}


def _present(document: dict[str, Any]) -> Hooks:
    """Our hooks in the settings."""
    events = document.get("hooks", {})
    found = {event: [group for group in groups if any(map(_ours, group["hooks"]))] for event, groups in events.items()}
    return {event: groups for event, groups in found.items() if groups}


def _others(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups with the hooks that are not ours; a group of nothing but ours goes."""
    left = [(group, [hook for hook in group["hooks"] if not _ours(hook)]) for group in groups]
    return [{**group, "hooks": hooks} for group, hooks in left if hooks or not group["hooks"]]


def _ours(hook: dict[str, Any]) -> bool:
    return (hook.get("type"), hook.get("server"), hook.get("tool")) == ("mcp_tool", SERVER, "hook")


# -- the settings file ----------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """The settings and their text; ({}, "") without a file. Raises `Refused` for what is not settings."""
    try:
        written = path.read_bytes().decode()
        document = json.loads(written) if written.strip() else {}
        json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair could not be written back
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path} cannot be read ({error}); mend it and try again") from error
    problem = _problem(document)
    if problem:
        raise Refused(f"{path} is not what Claude Code expects ({problem}); mend it and try again")
    return document, written


def _problem(document: Any) -> str:
    """Why hooks cannot be found and added in these settings, or ""."""
    if not isinstance(document, dict):
        return "it is not an object"
    hooks = document.get("hooks", {})
    if not isinstance(hooks, dict):
        return "'hooks' is not an object"
    wrong = [event for event, groups in hooks.items() if not (isinstance(groups, list) and all(map(_is_group, groups)))]
    return f"the hooks of {wrong[0]} are not a list of objects with 'hooks'" if wrong else ""


def _is_group(group: Any) -> bool:
    hooks = group.get("hooks") if isinstance(group, dict) else None
    return isinstance(hooks, list) and all(isinstance(hook, dict) for hook in hooks)


def _formatted(document: dict[str, Any], like: str) -> str:
    """The settings as text, indented as they were."""
    indent = re.search(r'^([ \t]+)"', like, re.MULTILINE)
    text = json.dumps(document, ensure_ascii=False, indent=indent[1] if indent else 2)
    return text if like and not like.endswith("\n") else text + "\n"


def _restore(path: Path, document: dict[str, Any], written: str) -> None:
    """Write settings as they were before, to the byte if nothing else has changed since."""
    backup = _backup(path)
    before = backup.read_bytes().decode() if backup.exists() else ""
    if before and (json.loads(before) if before.strip() else {}) == document:
        _write(path, before)
    elif document or before or path.is_symlink():
        _write(path, _formatted(document, written))
    else:
        path.unlink()  # there was none


def _backup(path: Path) -> Path:
    return path.with_name(path.name + BACKUP)


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, keeping its permissions; a link stays one, its target is replaced."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, draft)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


# -- the command /bus -----------------------------------------------------------------


def _command(config: Path) -> Path:
    """Where the user's /bus is. The original claude-bus put its own into the same file."""
    return config / "commands" / "bus.md"


def _source(plugin: Path) -> Path:
    return plugin / "commands" / "bus" / "SKILL.md"


def _install_command(config: Path, plugin: Path, earlier: Sequence[Path]) -> str:
    place, wanted = _command(config), _source(plugin).read_text(encoding="utf-8")
    if _content(place) == wanted:
        return f"{place} is there"
    kept = ""
    if _is_users(place, earlier):
        if _backup(place).exists():
            raise Refused(f"{place} is not ours, and {_backup(place)} is there already: move one of them away")
        place.rename(_backup(place))
        kept = f"; what was there is kept as {_backup(place).name}"
    _write(place, wanted)
    return f"/bus put into {place}{kept}"


def _uninstall_command(config: Path, earlier: Sequence[Path]) -> list[str]:
    place = _command(config)
    if _is_users(place, earlier):
        return [f"{place} is not as it was installed, and stays"]
    if not place.exists():
        return []
    place.unlink()
    if _backup(place).exists():
        _backup(place).rename(place)
        return [f"{place} is again what it was before"]
    if not any(place.parent.iterdir()):
        place.parent.rmdir()
    return [f"/bus taken out of {place.parent}"]


def _is_users(place: Path, earlier: Sequence[Path]) -> bool:
    content = _content(place)
    return content is not None and content not in [_content(_source(plugin)) for plugin in earlier]


def _content(place: Path) -> str | None:
    try:
        return place.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


def main(arguments: Sequence[str]) -> int:
    """Run one of the two, and print what it did."""
    verb, config, *plugins = arguments
    paths = [Path(plugin) for plugin in plugins]
    try:
        done = install(Path(config), paths[0], paths[1:]) if verb == "install" else uninstall(Path(config), paths)
    except (Refused, OSError) as error:
        print(f"claude-bus: {error}", file=sys.stderr)
        return 1
    for line in done:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
