"""The user's Claude Code files: an installation's entries in settings.json and commands/, and their removal.

Everything else in them stays as it is. A file that has to make room is kept next to it, with `BACKUP` appended to its
name, and comes back with `uninstall`. No backup is written through a link, and no settings are lost: a file that
cannot be read as settings is refused before anything is changed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

SERVER = "bus"
"""The name under which the server is registered at user scope."""
BACKUP = ".before-claude-bus"
RULES = ("mcp__bus", "mcp__plugin_bus_bus")
"""Permission rules that let every tool of the bus run without asking: for a registered server, and for the plugin."""
HOOKS_SINCE = (2, 1, 118)
"""The oldest client that knows these hooks. An older one rejects all settings if they contain them."""

_ORIGINALS = re.compile(r"\b(inject_state|stop_bus)\.py\b")
"""The hooks of the original claude-bus (f3r21, up to 0.2). They read the database in its old form."""
_TRIES = 5
"""How often settings are read again that another program changes at the same time."""
_LARGEST = 16 << 20
"""Bytes of a user's file that are read at most."""

Document = dict[str, Any]
Hooks = dict[str, list[dict[str, Any]]]


class Refused(Exception):
    """A file of the user's is not as expected, and was not changed; the message says what to do."""


def install(config: Path, plugin: Path, earlier: Sequence[Path], rule: str = "", *, hooks: bool = True) -> list[str]:
    """Put hooks, permission and command in place; return what was changed. A repetition changes nothing.

    `config` is the user's configuration folder (`~/.claude`), `plugin` has the hooks and the command. `earlier` are the
    plugins of earlier installations, so that their command is recognized. `hooks=False` removes all hooks of the bus.
    Without `rule`, permissions stay as they are.
    """
    wanted = hooks_of(plugin) if hooks else {}
    settings = config / "settings.json"
    read(settings)  # before anything is changed
    done = install_command(config, plugin, earlier)
    if edit(settings, lambda document: with_rule(with_hooks(document, wanted), rule)):
        done.append(f"{settings} is written")
    return done


def uninstall(config: Path, earlier: Sequence[Path]) -> list[str]:
    """Remove hooks, permissions and command, and bring back the files that made room; return what was done."""
    settings = config / "settings.json"
    read(settings)  # before anything is changed
    return [*uninstall_command(config, earlier), *uninstall_hooks(settings)]


def uninstall_hooks(settings: Path) -> list[str]:
    """Remove hooks and permissions from the settings, and the backup of them; return what was done."""
    document, written = read(settings)
    wanted = without_ours(document, _before(settings))
    if wanted != document:
        _restore(settings, wanted, written)
    _backup(settings).unlink(missing_ok=True)
    return [f"hooks and permissions are taken out of {settings}"] if wanted != document else []


# -- hooks ----------------------------------------------------------------------------


def hooks_of(plugin: Path) -> Hooks:
    """Return the plugin's hooks, calling the server at user scope."""
    declared: Hooks = json.loads((plugin / "hooks" / "hooks.json").read_text(encoding="utf-8"))["hooks"]
    for groups in declared.values():
        for hook in (hook for group in groups for hook in group["hooks"]):
            hook["server"] = SERVER
    return declared


def with_hooks(document: Document, hooks: Hooks) -> Document:
    """Return the settings with these hooks after the user's, and no others of claude-bus or of the original."""
    if present(document) == hooks and not originals(document):
        return document
    rest = _without(document, lambda hook: _ours(hook) or _original(hook))
    if not hooks:
        return rest
    there = rest.get("hooks", {})
    return {**rest, "hooks": {**there, **{event: [*there.get(event, []), *hooks[event]] for event in hooks}}}


def without_hooks(document: Document) -> Document:
    """Return the settings without the hooks of claude-bus, and without the containers that only they had filled."""
    return _without(document, _ours)


def present(document: Document) -> Hooks:
    """Return the hooks of claude-bus in the settings."""
    return _groups(document, _ours)


def originals(document: Document) -> Hooks:
    """Return the original's hooks in the settings."""
    return _groups(document, _original)


def _groups(document: Document, which: Callable[[dict[str, Any]], bool]) -> Hooks:
    events = document.get("hooks", {})
    found = {event: [group for group in groups if any(map(which, group["hooks"]))] for event, groups in events.items()}
    return {event: groups for event, groups in found.items() if groups}


def _without(document: Document, which: Callable[[dict[str, Any]], bool]) -> Document:
    if not _groups(document, which):
        return document
    left = {event: _others(groups, which) for event, groups in document["hooks"].items()}
    left = {event: groups for event, groups in left.items() if groups or not document["hooks"][event]}
    return {key: left if key == "hooks" else value for key, value in document.items() if key != "hooks" or left}


def _others(groups: list[dict[str, Any]], which: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Return the groups with the other hooks only; a group that contains nothing else is dropped."""
    left = [(group, [hook for hook in group["hooks"] if not which(hook)]) for group in groups]
    return [{**group, "hooks": hooks} for group, hooks in left if hooks or not group["hooks"]]


def _ours(hook: dict[str, Any]) -> bool:
    return (hook.get("type"), hook.get("server"), hook.get("tool")) == ("mcp_tool", SERVER, "hook")


def _original(hook: dict[str, Any]) -> bool:
    words = [hook.get("command"), *(hook["args"] if isinstance(hook.get("args"), list) else [])]
    return any(isinstance(word, str) and _ORIGINALS.search(word) for word in words)


# -- permissions ----------------------------------------------------------------------


def with_rule(document: Document, rule: str) -> Document:
    """Return the settings with this permission; unchanged without `rule`."""
    if not rule or rule in allowed(document):
        return document
    permissions = document.get("permissions", {})
    return {**document, "permissions": {**permissions, "allow": [*allowed(document), rule]}}


def without_ours(document: Document, before: Document) -> Document:
    """Return the settings without the hooks of claude-bus, and without its permissions that were not there `before`.

    Containers that were there and empty before are so again.
    """
    mine = set(RULES) - rules_of_ours(before)
    rest = _with_empty_hooks(document, without_hooks(document), before)
    if not mine & rules_of_ours(rest):
        return rest
    left = {**rest["permissions"], "allow": [rule for rule in allowed(rest) if rule not in [*mine]]}
    if not left["allow"] and "allow" not in before.get("permissions", {}):
        del left["allow"]
    if not left and "permissions" not in before:
        return {key: value for key, value in rest.items() if key != "permissions"}
    return {**rest, "permissions": left}


def _with_empty_hooks(document: Document, rest: Document, before: Document) -> Document:
    """Return the remaining settings, with the user's empty hook entries from before, in their order."""
    there, left = document.get("hooks", {}), rest.get("hooks", {})
    empty = [event for event, groups in before.get("hooks", {}).items() if not groups]
    hooks = {event: left.get(event, []) for event in there if event in left or event in empty}
    if not hooks and before.get("hooks") != {}:
        return rest
    return {key: hooks if key == "hooks" else value for key, value in document.items()}


def rules_of_ours(document: Document) -> set[str]:
    """Return the permission rules of claude-bus in the settings."""
    return {rule for rule in RULES if rule in allowed(document)}


def allowed(document: Document) -> list[Any]:
    """Return the rules for tools that run without asking; in a user's file they may be anything."""
    found: list[Any] = document.get("permissions", {}).get("allow", [])
    return found


# -- the settings file ----------------------------------------------------------------


def read(path: Path) -> tuple[Document, str]:
    """Return the settings and their text; ({}, "") without a file. Raises `Refused` for invalid settings."""
    try:
        written = _text(path)
        document = _parsed(written) if written.strip("\ufeff \t\r\n") else {}
    except FileNotFoundError:
        if path.is_symlink():
            raise Refused(f"{path} is a link to {path.readlink()}, which is not there; fix it and try again") from None
        return {}, ""
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{path} cannot be read ({_reason(error)}); fix it and try again") from error
    problem = _problem(document)
    if problem:
        raise Refused(f"{path} is not what Claude Code expects ({problem}); fix it and try again")
    return document, written


def edit(path: Path, change: Callable[[Document], Document]) -> bool:
    """Write the settings as `change` makes them; return whether that changed them.

    The first time, a backup of the file is kept. Settings that change meanwhile are read again.
    """
    for _ in range(_TRIES):
        document, written = read(path)
        wanted = change(document)
        if wanted == document:
            return False
        if path.exists() and (_untouched(document) or not _backup(path).exists()):
            keep(_backup(path), written)
        if write(path, _formatted(wanted, written), instead_of=written):
            return True
    raise Refused(f"{path} is being changed by another program all the time; try again when it is quiet")


def _untouched(document: Document) -> bool:
    return not present(document) and not rules_of_ours(document)


def _text(path: Path) -> str:
    if path.exists() and not path.is_file():  # a pipe would never end
        raise OSError(errno.EINVAL, "it is not a file")
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(errno.EFBIG, "it is larger than 16 MiB")
    return content.decode()


def _parsed(written: str) -> Any:
    """Parse JSON that can be written back without loss."""
    document = json.loads(written.removeprefix("\ufeff"), object_pairs_hook=_unique)
    json.dumps(document, ensure_ascii=False, allow_nan=False).encode()  # fails for a lone surrogate, or NaN
    return document


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
        raise ValueError(f"{twice!r} is there twice")
    return found


def _reason(error: Exception) -> str:
    """Return an error as part of a sentence."""
    if isinstance(error, json.JSONDecodeError):
        remark = "; settings cannot have comments" if error.doc.startswith(("//", "/*", "#"), error.pos) else ""
        return f"line {error.lineno}, column {error.colno}: {error.msg}{remark}"
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _problem(document: Any) -> str:
    """Return why hooks and permissions cannot be found and added in these settings, or ""."""
    if not isinstance(document, dict):
        return "it is not an object"
    permissions = document.get("permissions", {})
    if not isinstance(permissions, dict) or not isinstance(permissions.get("allow", []), list):
        return "'permissions' is not an object with a list 'allow'"
    hooks = document.get("hooks", {})
    if not isinstance(hooks, dict):
        return "'hooks' is not an object"
    wrong = [event for event, groups in hooks.items() if not (isinstance(groups, list) and all(map(_is_group, groups)))]
    return f"the hooks of {wrong[0]} are not a list of objects with 'hooks'" if wrong else ""


def _is_group(group: Any) -> bool:
    hooks = group.get("hooks") if isinstance(group, dict) else None
    return isinstance(hooks, list) and all(isinstance(hook, dict) for hook in hooks)


def _formatted(document: Document, like: str) -> str:
    """Return the settings as text, with the indentation of `like`."""
    indent = re.search(r'^([ \t]+)"', like, re.MULTILINE)
    text = json.dumps(document, ensure_ascii=False, indent=indent[1] if indent else 2)
    mark = "\ufeff" if like.startswith("\ufeff") else ""
    text = mark + (text if like and not like.endswith("\n") else text + "\n")
    return text.replace("\n", "\r\n") if "\r\n" in like else text


def _restore(path: Path, document: Document, written: str) -> None:
    """Write settings as they were before, byte for byte if nothing else has changed since."""
    was_there = _is_kept(_backup(path))
    if was_there and _before(path) == document:
        write(path, kept(_backup(path)))
    elif document or was_there or path.is_symlink():
        write(path, _formatted(document, written))
    else:
        path.unlink()  # the file did not exist before


def _backup(path: Path) -> Path:
    return path.with_name(path.name + BACKUP)


def kept(place: Path) -> str:
    """Return the text of a kept file; "" if it does not exist."""
    with contextlib.suppress(OSError, ValueError):
        if _is_kept(place):
            return _text(place)
    return ""


def _is_kept(place: Path) -> bool:
    """Return whether a file was kept there; claude-bus never makes a link there."""
    try:
        return stat.S_ISREG(place.lstat().st_mode)
    except OSError:
        return False


def _before(path: Path) -> Document:
    """Return the settings from before the installation; {} if they are unknown."""
    with contextlib.suppress(ValueError, RecursionError):
        document = _parsed(kept(_backup(path)) or "{}")
        return document if not _problem(document) else {}
    return {}


def write(path: Path, text: str, *, instead_of: str | None = None) -> bool:
    """Replace a file in one step, keeping owner and permissions; a link stays one, and its target is replaced.

    With `instead_of`, writes nothing and returns False unless that is the file's current content ("": no file).
    Raises `Refused` if the file cannot be written.
    """
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _draft(target, text) as draft:
            if target.exists():
                _resemble(draft, target)
            if instead_of is not None and _now(path) != instead_of:
                return False
            _replace(draft, target, text)
    except OSError as error:
        where = f"{path} (a link to {target})" if path.is_symlink() else str(path)
        raise Refused(f"{where} cannot be written: {_reason(error)}") from error
    return True


def _now(path: Path) -> str:
    try:
        return _text(path)
    except FileNotFoundError:
        return ""


def keep(path: Path, text: str) -> None:
    """Keep a text so that only the user can ever read it. A link of that name is replaced, not followed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _draft(path, text) as draft:
            draft.replace(path)
    except OSError as error:
        raise Refused(f"{path} cannot be written: {_reason(error)}") from error


@contextlib.contextmanager
def _draft(path: Path, text: str) -> Any:
    """Create a file (0600) beside `path` with the text in it; it is removed afterwards, unless it was renamed."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _resemble(draft: Path, target: Path) -> None:
    """Give the draft the owner (which may not be the one who runs this, such as root) and permissions of the target."""
    there = target.stat()
    if hasattr(os, "chown") and (there.st_uid, there.st_gid) != (draft.stat().st_uid, draft.stat().st_gid):
        with contextlib.suppress(PermissionError):
            os.chown(draft, there.st_uid, there.st_gid)
    shutil.copymode(target, draft)


def _replace(draft: Path, target: Path, text: str) -> None:
    try:
        draft.replace(target)
    except OSError as error:
        if error.errno != errno.EBUSY:  # the file itself is a mount point, as is usual in containers
            raise
        target.write_text(text, encoding="utf-8", newline="")


# -- the command /bus -----------------------------------------------------------------

_SIGNED = re.compile(r"\n# written by claude-bus setup, ([0-9a-f]{8})(?=\n)")


def command_path(config: Path) -> Path:
    """Return the path of the user's /bus. The original claude-bus used the same file."""
    return config / "commands" / "bus.md"


def command_state(config: Path, plugin: Path, earlier: Sequence[Path] = ()) -> str:
    """Return `current`, `outdated` (of another version of claude-bus), `users` (anything else) or `missing`."""
    place = command_path(config)
    content = _content(place)
    if content is None:
        return "missing"
    if content == _signed(_source(plugin)):
        return "current"
    return "users" if _is_users(content, [plugin, *earlier]) else "outdated"


def install_command(config: Path, plugin: Path, earlier: Sequence[Path]) -> list[str]:
    """Put /bus in its place; return what was done."""
    place, state = command_path(config), command_state(config, plugin, earlier)
    if state == "current":
        return []
    kept = ""
    if state == "users":
        if _backup(place).exists():
            raise Refused(f"{place} is not ours, and {_backup(place)} is there already: move one of them away")
        place.rename(_backup(place))
        kept = f"; the earlier file is kept as {_backup(place).name}"
    write(place, _signed(_source(plugin)))
    return [f"/bus is in {place}{kept}"]


def uninstall_command(config: Path, earlier: Sequence[Path]) -> list[str]:
    """Remove /bus, and bring back the one before it; return what was done."""
    place = command_path(config)
    content = _content(place)
    if content is None:
        return []
    if _is_users(content, earlier):
        return [f"{place} is not as it was installed, and stays"]
    place.unlink()
    if _backup(place).exists():
        _backup(place).rename(place)
        return [f"{place} is again what it was before"]
    with contextlib.suppress(OSError):  # other files may be in it
        place.parent.rmdir()
    return [f"/bus is taken out of {place.parent}"]


def _source(plugin: Path) -> str:
    return (plugin / "commands" / "bus" / "SKILL.md").read_text(encoding="utf-8")


def _signed(text: str) -> str:
    """Return the command with a remark in its front matter that lets later versions recognize it if it is unchanged."""
    return text.replace(
        "\n", f"\n# written by claude-bus setup, {crc32(text.encode(errors='surrogateescape')):08x}\n", 1
    )


def _is_users(content: str, earlier: Sequence[Path]) -> bool:
    signature = _SIGNED.search(content)
    if signature and _signed(_SIGNED.sub("", content, count=1)) == content:
        return False
    return content not in [_content(plugin / "commands" / "bus" / "SKILL.md") for plugin in earlier]


def _content(place: Path) -> str | None:
    try:
        return place.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
