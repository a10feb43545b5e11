"""The commit hook next to other hooks: earlier hooks, hook managers, shared folders; removed without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from claude_bus.cli import git_hooks, guard_script
from claude_bus.cli.guard_script import NAME
from tests.support.plugin_environment import checkout, has_environment, machine
from tests.support.processes import PATIENCE
from tests.support.repository import Repository

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
async def repository(tmp_path: Path) -> Repository:
    """A repository without a guard, in which Alice claims a file."""
    found = Repository(tmp_path / "shop", tmp_path)
    await found.claim()
    return found


def hook(repository: Repository, content: str, name: str = ".git/hooks/pre-commit", mode: int = 0o755) -> Path:
    """Write a hook that appends a note to the file `ran`; the function `ran` returns the notes."""
    path = repository.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    return path


def ran(repository: Repository) -> str:
    """Commit an unclaimed file, which must succeed; returns the notes of the hooks."""
    (repository.root / "ran").unlink(missing_ok=True)
    repository.change("src/b.py")
    repository.git("commit", "-qm", "unclaimed")
    return (repository.root / "ran").read_text() if (repository.root / "ran").exists() else ""


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files with content and mode, and links with their targets."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = (os.fsencode(path.readlink()), 0)
        elif path.is_file():
            found[str(path)] = (path.read_bytes(), path.stat().st_mode)
    return found


def doctor(repository: Repository) -> tuple[bool | None, str]:
    """The finding of `claude-bus doctor` about the commit hook."""
    checks = json.loads(repository.run(*repository.program, "doctor", "--json").stdout)["checks"]
    (found,) = [(check["ok"], check["detail"]) for check in checks if check["name"] == "commit hook"]
    return found


_NOTES = 'echo "$0 $(basename "$0") $# $*" >>ran; for f in "$(dirname "$0")/$(basename "$0").d"/*; do "$f"; done'
_PYTHON = f"#!{sys.executable}\nimport sys\nopen('ran', 'a').write(sys.argv[0] + ' in Python')\n"


async def comes_and_goes(repository: Repository) -> str:
    """Install (twice) beside the existing files; check that it and the other hooks run; remove it without a trace.

    Returns the notes of the hooks.
    """
    before, alone = files(repository.root / ".git" / "hooks"), ran(repository)
    top = {name: file for name, file in files(repository.root).items() if "/.git/" not in name and "/src/" not in name}
    repository.guarded()
    repository.refuses()
    repository.guarded()
    repository.refuses()
    repository.git("reset", "-q", "--hard")
    assert ran(repository) == alone

    assert repository.guard("uninstall").returncode == 0

    assert files(repository.root / ".git" / "hooks") == before
    left = {name: file for name, file in files(repository.root).items() if "/.git/" not in name and "/src/" not in name}
    assert left == top
    assert not any("claude-bus" in path.name for path in repository.root.rglob("*"))
    assert ran(repository) == alone
    return alone


# -- earlier hooks -----------------------------------------------------------------------------


async def test_where_there_was_no_hook_none_is_left(repository: Repository) -> None:
    """The hook is removed together with its guard."""
    assert await comes_and_goes(repository) == ""


@pytest.mark.parametrize(
    "shell", ["#!/bin/sh\n", "#!/usr/bin/env bash\n", "#!/bin/bash -eu\n", "", "#! /bin/dash -e\n"]
)
async def test_an_earlier_shell_script_keeps_its_name(repository: Repository, shell: str) -> None:
    """It sees its own path and arguments as before, so dispatchers find their folder; it can still refuse a commit."""
    hook(repository, "#!/bin/sh\necho part >>ran\n", ".git/hooks/pre-commit.d/part")
    written = hook(repository, shell + _NOTES)
    assert await comes_and_goes(repository) == ".git/hooks/pre-commit pre-commit 0 \npart\n"
    written.write_text(f"{shell}exit 7")
    repository.guarded()
    repository.change("src/b.py")
    repository.git("commit", "-qm", "refused", fails=True)


@pytest.mark.parametrize("target", ["_dispatch", "../../scripts/check", "{root}/scripts/check"])
async def test_a_link_to_a_shell_script_keeps_its_name(repository: Repository, target: str) -> None:
    """For one script under several names, or a script in the repository, the link's target is not modified."""
    hook(repository, "#!/bin/sh\necho part >>ran\n", ".git/hooks/pre-commit.d/part")
    for path in (".git/hooks/_dispatch", "scripts/check"):
        hook(repository, "#!/bin/sh -e\n" + _NOTES, path)
    (repository.root / ".git/hooks/pre-commit").symlink_to(target.format(root=repository.root))
    assert await comes_and_goes(repository) == ".git/hooks/pre-commit pre-commit 0 \npart\n"


async def test_an_earlier_program_keeps_its_name(repository: Repository) -> None:
    """A hook in another language is moved aside and run from there, under the same name."""
    hook(repository, _PYTHON)
    repository.guarded()
    assert ran(repository).endswith("hooks.before-claude-bus/pre-commit in Python")
    repository.guard("uninstall")
    assert ran(repository) == ".git/hooks/pre-commit in Python"
    repository.guarded()
    repository.guarded()
    repository.refuses()
    repository.guard("uninstall")
    assert hook(repository, _PYTHON).read_text() == _PYTHON
    assert sorted(path.name for path in (repository.root / ".git").glob("hooks*")) == ["hooks"]


async def test_a_script_that_another_program_reads_is_left_as_it_is(repository: Repository) -> None:
    """A file that is both shell and Python cannot contain a line that is only shell."""
    run = f'{sys.executable} "$0" "$@"'
    hook(repository, f"#!/bin/sh\n''':'\nexec {run}\n'''\nopen('ran', 'w').write('Python')\n")
    assert await comes_and_goes(repository) == "Python"


async def test_a_hook_that_git_ignores_stays_ignored(repository: Repository) -> None:
    """A hook that is not executable does not start to run because of the guard."""
    hook(repository, "#!/bin/sh\necho oops >>ran", mode=0o644)
    assert await comes_and_goes(repository) == ""


async def test_folders_that_are_links_and_team_folders_are_followed(repository: Repository) -> None:
    """Hooks may lie in a folder of the repository, by a link or by `core.hooksPath`, and are found from any
    subfolder.
    """
    hook(repository, '#!/bin/sh\necho "$0" >>ran\n', "team/hooks/pre-commit")
    repository.git("config", "core.hooksPath", "team/hooks")
    repository.root /= "src"
    repository.guarded()
    repository.root = repository.root.parent
    assert ran(repository) == "team/hooks/pre-commit\n"
    repository.refuses()
    repository.git("reset", "-q", "--hard")
    repository.guard("uninstall")

    repository.git("config", "--unset", "core.hooksPath")
    hook(repository, _PYTHON, "team/hooks/pre-commit")
    hooks = repository.root / ".git" / "hooks"
    hooks.rename(hooks.with_name("samples"))
    hooks.symlink_to("../team/hooks")
    repository.guarded()
    repository.refuses()
    repository.git("reset", "-q", "--hard")
    assert ran(repository).endswith("pre-commit in Python")
    repository.guard("uninstall")
    assert [path.name for path in (repository.root / "team").rglob("*")] == ["hooks", "pre-commit"]


async def test_what_was_changed_meanwhile_stays(repository: Repository) -> None:
    """When our lines are removed, lines added by others stay; so does a hook that replaced ours."""
    written = hook(repository, "#!/bin/sh\ntrue\n")
    repository.guarded()
    written.write_text(written.read_text().replace("true", "false") + "exit 0\n")
    repository.guard("uninstall")
    assert written.read_text() == "#!/bin/sh\nfalse\nexit 0\n"

    hook(repository, _PYTHON)
    repository.guarded()
    written.write_text("#!/bin/sh\nanother\n")
    said = repository.guard("uninstall").stdout
    assert "hooks.before-claude-bus/pre-commit" in said
    assert written.read_text() == "#!/bin/sh\nanother\n"
    assert not repository.script.exists()


async def test_the_hook_of_an_early_build_is_replaced(repository: Repository) -> None:
    """It refused every commit once its Python was gone; `doctor` detects it, and a new installation repairs it."""
    hook(
        repository, "#!/bin/sh\n# claude-bus guard: refuses a commit of files under another session's claim.\nexit 1\n"
    )
    kept = hook(repository, "#!/bin/sh\necho kept >>ran\n", ".git/hooks/pre-commit.before-claude-bus")
    assert (doctor(repository)[0], "older" in doctor(repository)[1]) == (False, True)
    repository.guarded()
    assert ran(repository) == "kept\n"
    assert not kept.exists()
    repository.refuses()


# -- hook managers, whose files are written here as they write them -------------------------------


def husky(repository: Repository) -> None:
    """Do what `npm install` does in a project with husky 9: rewrite this folder, and configure git to use it."""
    hook(repository, "#!/usr/bin/env sh\n" + '. "$(dirname "$0")/h"', ".husky/_/pre-commit")
    hook(repository, "*", ".husky/_/.gitignore")
    run = 's=$(dirname "$(dirname "$0")")/$(basename "$0"); [ ! -f "$s" ] && exit 0; sh -e "$s" "$@"; exit $?'
    hook(repository, f"#!/usr/bin/env sh\n{run}", ".husky/_/h")
    repository.git("config", "core.hooksPath", ".husky/_")


@pytest.mark.parametrize("own", ["", "echo husky >>ran\n"])
async def test_husky_runs_it_and_keeps_it(repository: Repository, own: str) -> None:
    """The lines are in the file that husky runs, so another `npm install` keeps them."""
    husky(repository)
    if own:
        hook(repository, own, ".husky/pre-commit", 0o644)
    assert await comes_and_goes(repository) == own.removeprefix("echo ").removesuffix(" >>ran\n") + "\n" * bool(own)
    repository.guarded()
    husky(repository)
    repository.refuses()


async def test_husky_that_comes_later_runs_it(repository: Repository) -> None:
    """In a clone where `npm install` has not run yet, both git's own hook and husky's get the lines."""
    hook(repository, "echo husky >>ran\n", ".husky/pre-commit")
    repository.guarded()
    repository.refuses()
    husky(repository)
    repository.refuses()
    assert doctor(repository)[0] is True


async def test_husky_of_earlier_versions_runs_it_once(repository: Repository) -> None:
    """Husky's script re-executes the hook; the lines stand below that point."""
    again = 'if [ -z "$again" ]; then export again=1; sh -e "$0" "$@"; exit $?; fi\n'
    hook(repository, again, ".husky/_/husky.sh")
    start = '#!/usr/bin/env sh\n. "$(dirname -- "$0")/_/husky.sh"\n\n'
    written = hook(repository, start + "echo husky >>ran\n", ".husky/pre-commit")
    repository.git("config", "core.hooksPath", ".husky")
    assert await comes_and_goes(repository) == "husky\n"
    repository.guarded()
    assert written.read_text().startswith(start.rstrip("\n"))
    assert repository.refuses().count("claimed by others") == 1


async def test_colleagues_without_claude_bus_are_not_affected(repository: Repository) -> None:
    """In a hook that is part of the repository, the lines do nothing where no guard is installed."""
    husky(repository)
    repository.guarded()
    repository.script.unlink()
    repository.change()
    assert repository.git("commit", "-qm", "a colleague's") == ""


_PRE_COMMIT = """\
#!/usr/bin/env bash
# File generated by pre-commit: https://pre-commit.com
HERE="$(cd "$(dirname "$0")" && pwd)"
if [ -n "$PRE_COMMIT_RUNNING_LEGACY" ]; then echo 'bug: installed in migration mode' >&2; exit 1; fi
echo pre-commit >>ran
if [ -x "$HERE/pre-commit.legacy" ]; then PRE_COMMIT_RUNNING_LEGACY=1 "$HERE/pre-commit.legacy" "$@"; fi
"""


@pytest.mark.parametrize("name", ["pre-commit", "prek"])
async def test_pre_commit_runs_it(repository: Repository, name: str) -> None:
    """pre-commit runs it as the earlier hook, before its own checks, even if there already is another earlier hook."""
    hook(repository, _PRE_COMMIT.replace("generated by pre-commit", f"generated by {name}"))
    assert await comes_and_goes(repository) == "pre-commit\n"
    hook(repository, "#!/bin/sh\necho legacy >>ran\n", ".git/hooks/pre-commit.legacy")
    assert await comes_and_goes(repository) == "pre-commit\nlegacy\n"


@pytest.mark.parametrize("earlier", ["#!/bin/sh\necho earlier >>ran\n", _PYTHON])
async def test_pre_commit_that_comes_later_runs_it(repository: Repository, earlier: str) -> None:
    """`pre-commit install` renames the hook that it finds; the removal finds it there and restores the earlier hook."""
    written = hook(repository, earlier)
    repository.guarded()
    written.rename(written.with_name("pre-commit.legacy"))
    hook(repository, _PRE_COMMIT)
    repository.refuses()
    repository.git("reset", "-q", "--hard")
    assert doctor(repository)[0] is True
    assert ran(repository).startswith("pre-commit\n")
    repository.guard("uninstall")
    assert written.with_name("pre-commit.legacy").read_text() == earlier
    assert written.read_text() == _PRE_COMMIT


@pytest.mark.parametrize(
    ("main", "local"), [("lefthook.yml", ""), (".lefthook.yaml", "."), (".config/lefthook.yml", ".config/")]
)
async def test_lefthook_is_told_of_it(repository: Repository, main: str, local: str) -> None:
    """It is in lefthook's file for local settings, because lefthook rewrites the hook whenever its settings change."""
    hook(repository, "#!/bin/sh\ncall_lefthook run pre-commit\n")
    hook(repository, "pre-commit:\n  commands: {}\n", main, 0o644)
    said = repository.guarded()
    own = repository.root / f"{local}lefthook-local.yml"
    assert "lefthook" in said
    assert f"  commands:\n    {NAME}:\n" in own.read_text()
    assert doctor(repository)[0] is True
    run = own.read_text().partition("run: |\n")[2].partition("# <<<")[0]
    repository.change()
    assert repository.run("sh", "-c", run).returncode == 1  # as lefthook runs it

    repository.guard("uninstall")
    assert not own.exists()
    own.write_text("output: [meta]\n")
    repository.guarded()
    repository.guarded()
    repository.guard("uninstall")
    assert own.read_text() == "output: [meta]\n"


async def test_a_hook_that_only_speaks_of_lefthook_is_one_like_others(repository: Repository) -> None:
    """Lefthook's settings matter only where lefthook runs."""
    hook(repository, "#!/bin/sh\n# lefthook used to run here\necho own >>ran\n")
    assert await comes_and_goes(repository) == "own\n"


async def test_lefthook_settings_that_have_the_section_are_not_rewritten(repository: Repository) -> None:
    """The lines to add are printed; once they have been added, they are found."""
    hook(repository, "#!/bin/sh\ncall_lefthook run pre-commit\n")
    own = hook(repository, "pre-commit:\n  parallel: true\n", "lefthook-local.yml", 0o644)
    done = repository.guard("install")
    assert (done.returncode, NAME in done.stderr) == (2, True)
    own.write_text(f"pre-commit:\n  parallel: true\n  commands:\n    {NAME}:\n      run: sh .git/{NAME}\n")
    repository.guarded()


# -- a folder of hooks for all repositories ----------------------------------------------------------


async def test_a_shared_folder_is_said_to_be_one(repository: Repository, tmp_path: Path) -> None:
    """The lines check only repositories with a guard, and are removed with the last of those."""
    shared = tmp_path / "my hooks"
    repository.env["GIT_CONFIG_GLOBAL"] = str(tmp_path / "gitconfig")
    other = Repository(tmp_path / "other", tmp_path)
    other.env = repository.env
    repository.git("config", "--global", "core.hooksPath", str(shared))
    assert f"{shared} has the hooks of all your repositories" in repository.guarded()
    await other.claim()
    other.change()
    other.git("commit", "-qm", "not guarded")

    other.guarded()
    assert "other repositories use them" in repository.guard("uninstall").stdout
    repository.change()
    repository.git("commit", "-qm", "no longer guarded")
    other.refuses()

    assert other.guard("uninstall").returncode == 0
    assert list(shared.iterdir()) == []


# -- doctor ----------------------------------------------------------------------------------------


async def test_doctor_tells_a_guard_that_does_nothing(repository: Repository, tmp_path: Path) -> None:
    """The guard is not installed, displaced, not executable, or without its program: each with the way out."""
    assert doctor(repository) == (None, "none in this repository; `claude-bus guard install` adds one")
    repository.guarded()
    assert doctor(repository)[0] is True

    written = repository.root / ".git/hooks/pre-commit"
    content = written.read_text()
    written.chmod(0o644)
    assert "not executable" in doctor(repository)[1]
    hook(repository, "#!/bin/sh\necho another tool\n")
    assert "does not call it" in doctor(repository)[1]
    written.unlink()
    repository.git("config", "core.hooksPath", ".husky/_")
    assert "does not call it" in doctor(repository)[1]
    repository.guarded()
    assert "npm install" in doctor(repository)[1]
    repository.git("config", "--unset", "core.hooksPath")
    hook(repository, content)
    repository.script.write_text(repository.script.read_text().replace("[ -x ", "[ -x /gone"))
    ok, said = doctor(repository)
    assert (ok, "guard install" in said) == (False, True)
    repository.guarded()
    assert doctor(repository)[0] is True


def test_outside_of_a_repository_doctor_says_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no commit hook to check."""
    monkeypatch.chdir(tmp_path)
    assert git_hooks.findings() == []


async def test_a_copy_that_may_be_pruned_is_said_to_be_one(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies run by `uvx` lie in uv's cache; when the copy is gone, commits succeed and print a warning."""
    monkeypatch.chdir(repository.root)
    python = Path("/home/wanda/.cache/uv/archive-v0/abc/bin/python")
    said = git_hooks.install(git_hooks.repository(), guard_script.Program(python, f"[ -x {python} ] || gone"))
    assert "uv tool install" in "\n".join(said)
    assert f"claude-bus is no longer at {python}" in repository.passes()


@pytest.mark.parametrize("hooks_path", [False, True], ids=["git's folder", "core.hooksPath"])
async def test_a_guard_whose_program_is_gone_can_be_taken_out_without_it(
    repository: Repository, tmp_path: Path, hooks_path: bool
) -> None:
    """The line of each commit has the command for that, which a shell understands from any folder."""
    if hooks_path:
        hook(repository, "#!/bin/sh\necho shared >>ran\n", name=".hooks/pre-commit")
        repository.git("config", "core.hooksPath", ".hooks")
    program = tmp_path / "bin" / "claude-bus"
    program.parent.mkdir(exist_ok=True)
    repository.guarded()
    script = repository.root / ".git" / guard_script.NAME
    script.write_bytes(guard_script.script(guard_script.Program(program, f"[ -x {program} ] || gone")))
    moved = repository.root.with_name("the user's shop")
    repository.root.rename(moved)
    repository.root = moved
    (moved / "src").mkdir(exist_ok=True)

    said = repository.passes()
    assert f"claude-bus is no longer at {program}" in said
    command = said.strip().partition("this ends the check: ")[2]
    assert command.startswith("rm ")
    assert repository.run("sh", "-c", f"cd src && {command}").returncode == 0

    repository.change()
    assert repository.git("commit", "-qm", "without a guard") == ""


# -- upgrades ----------------------------------------------------------------------------------------


def install(clone: Path, place: Path, env: dict[str, str]) -> None:
    """Run the installer of a clone."""
    command = ["bash", str(clone / "install_claude_bus.sh"), "--dir", str(place)]
    subprocess.run(command, env=env, capture_output=True, check=True, timeout=3 * PATIENCE)


async def test_the_installers_copy_is_found_after_an_upgrade(repository: Repository, tmp_path: Path) -> None:
    """The hook runs the command, whatever its version; if the command is missing, it says so."""
    place = tmp_path / "it's my" / "place"
    place.mkdir(parents=True)
    (place / ".claude-bus").touch()
    has_environment(place / "environments")
    install(checkout(tmp_path / "clone"), place, machine(repository.env, without=("claude",)))
    repository.program = [str(place / "bin" / "claude-bus")]
    repository.guarded()
    repository.refuses()

    (version,) = place.glob("app-*")
    version.rename(version.with_name("app-2"))
    command = place / "bin" / "claude-bus"
    command.write_text(command.read_text().replace(version.name, "app-2"))
    repository.refuses()
    assert doctor(repository)[0] is True

    command.unlink()
    assert "claude-bus is no longer at" in repository.passes()


async def test_the_plugins_copy_is_found_after_an_upgrade(repository: Repository, tmp_path: Path) -> None:
    """Each version has its own folder, and environments come and go."""
    versions, data = tmp_path / "plugins" / "cache" / "the market" / "bus", tmp_path / "the data"
    first = checkout(versions / "0.3.0")
    data.mkdir()
    has_environment(data / "environments")
    (tmp_path / "link").symlink_to(versions)
    spelled = tmp_path / "link" / first.name / ".claude-plugin" / "launch.py"
    repository.program = [sys.executable, "-I", "-S", str(spelled)]
    repository.env["CLAUDE_PLUGIN_DATA"] = str(data)
    repository.guarded()
    del repository.env["CLAUDE_PLUGIN_DATA"]
    repository.refuses()

    first.rename(versions / "0.4.0")
    (environment,) = [place for place in (data / "environments").iterdir() if place.is_dir()]
    environment.rename(environment.with_name(f"{environment.name}-again"))
    repository.refuses()

    (versions / "0.4.0").rename(tmp_path / "elsewhere")
    assert "claude-bus is no longer at" in repository.passes()
