"""The installer without a client: the installed program, its self-test, and its changes to the user's settings."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import claude_bus
from claude_bus.claude_settings import BACKUP, Refused, hooks_of, install, uninstall, with_hooks, without_hooks
from claude_bus.mcp import hooks
from claude_bus.selftest import main as selftest
from tests.support.fake_claude import FakeClaude
from tests.support.plugin_environment import ROOT, Launched, Uv, checkout, has_environment, machine
from tests.support.processes import PATIENCE

pytestmark = pytest.mark.slow

VERSION = f"claude-bus {claude_bus.__version__}\n"


class User:
    """A user without `claude` on PATH who installs from a clone."""

    def __init__(self, home: Path, clone: Path) -> None:
        home.mkdir()
        self.home, self.clone = home, clone
        self.place = home / ".local" / "share" / "claude-bus"
        self.command = self.place / "bin" / "claude-bus"
        self.config = home / ".claude"
        path = f"{Path(sys.executable).parent}{os.pathsep}"
        env = machine({"HOME": str(home), "BUS_DB": str(home / ".claude-bus" / "bus.db")}, without=("claude",))
        self.env = {k: v for k, v in env.items() if not k.startswith("XDG_")} | {"PATH": path + env["PATH"]}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the installer."""
        return subprocess.run(
            ["bash", str(self.clone / "install_claude_bus.sh"), *arguments],
            env=self.env,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
            check=False,
        )

    def installs(self, *arguments: str) -> str:
        """Run the installer, which must succeed; returns its output."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def version(self) -> str:
        """The version that the installed command prints."""
        return subprocess.run(
            [self.command, "--version"], env=self.env, capture_output=True, text=True, check=True
        ).stdout

    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.config / "settings.json").read_text(encoding="utf-8"))
        return found

    def has_claude(self, version: str = "2.1.332") -> FakeClaude:
        """Put a client on the user's PATH."""
        client = FakeClaude(self.home.parent / "client", self.home / ".claude.json", version)
        self.env["PATH"] = f"{client.folder}{os.pathsep}{self.env['PATH']}"
        return client

    def edit(self, old: str, new: str, path: str = "src/claude_bus/__init__.py") -> None:
        """Change the clone's source."""
        source = self.clone / path
        source.write_text(source.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


@pytest.fixture
def newcomer(tmp_path: Path) -> User:
    """A user with an empty home, in a folder whose name needs quoting."""
    return User(tmp_path / "it's my home", checkout(tmp_path / "the clone"))


@pytest.fixture
def user(newcomer: User) -> User:
    """A user who has installed before, so the packages are already there."""
    newcomer.place.mkdir(parents=True)
    (newcomer.place / ".claude-bus").touch()
    has_environment(newcomer.place / "environments")
    return newcomer


# -- the program ----------------------------------------------------------------------


def test_one_command_in_an_empty_home(newcomer: User) -> None:
    """It needs no preparation, shows two processes exchanging a message, and says what to do next."""
    newcomer.has_claude()
    out = newcomer.installs()
    assert "reads \"Is the build green?\" from 'alice'" in out
    assert "It works" in out
    assert "/bus backend" in out
    assert newcomer.version() == VERSION
    assert "Fetching the Python packages" in out
    assert (newcomer.home / ".local" / "bin" / "claude-bus").resolve() == newcomer.command
    assert not (newcomer.home / ".claude-bus").exists()


def test_without_claude_nothing_half_done_stays(user: User) -> None:
    """The program and its command are installed, Claude Code is not changed, and the last line says what to run."""
    *_, last = lines = user.installs().splitlines()
    assert (user.home / ".local" / "bin" / "claude-bus").resolve() == user.command
    assert any("export PATH=" in line for line in lines)
    assert last.startswith("claude is not on your PATH")
    assert shlex.split(last.partition("run: ")[2]) == [str(user.command), "setup"]
    assert not user.config.exists()
    assert user.version() == VERSION


def test_twice_is_as_good_as_once(user: User) -> None:
    """A second run changes nothing, and says that there is nothing to do."""
    user.has_claude()
    user.installs()
    before = everything(user)
    assert "all is up to date" in user.installs()
    assert everything(user) == before


def everything(user: User) -> dict[str, bytes]:
    """All files in the home, without logs of the runs and without compiled Python."""
    transient = ("install.log", "__pycache__", ".lock")
    files = [path for path in user.home.rglob("*") if path.is_file() and not set(path.parts) & set(transient)]
    return {str(path): path.read_bytes() for path in files if "environments" not in path.parts}


def test_another_place(user: User, tmp_path: Path) -> None:
    """--dir, or a bare argument as the original installer took it, chooses the program's folder."""
    place = tmp_path / 'el*se [w]here "\\'
    (tmp_path / "else where").mkdir()
    (tmp_path / "else where" / "app-1").touch()
    has_environment(place / "environments")
    (place / ".claude-bus").touch()
    user.installs("--dir", str(place))
    user.command = place / "bin" / "claude-bus"
    assert user.version() == VERSION
    user.edit(VERSION.split()[1], "99.0.0")
    user.installs(f"--dir={place}")
    assert user.version() == "claude-bus 99.0.0\n"
    user.installs("--uninstall", str(place))
    assert not place.exists()
    assert (tmp_path / "else where" / "app-1").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--dir", "/"], "/ is no folder for a program alone"),
        (["--dir", "//"], "no folder for a program alone"),
        (["--dir", "{home}"], "no folder for a program alone"),
        (["--dir", "{home}/sub/.."], "no folder for a program alone"),
        (["--dir", "{home}/not/there/../.."], "no folder for a program alone"),
        (["--dir", "."], "no folder for a program alone"),
        (["--dir", "{home}/link"], "no folder for a program alone"),
        (["--dir", "{home}/with-a-bus"], "is where a database of claude-bus is"),
        (["--dir", "{home}/a\nb"], "has a line break in it"),
        (["--dir", "-f"], "begins with a dash"),
        (["--dir", "--uninstall"], "begins with a dash"),
        (["--dir="], "--dir needs a folder after it"),
        (["--dir"], "--dir needs a folder after it"),
        (["--uninstal"], "there is no option --uninstal"),
    ],
)
@pytest.mark.parametrize("verb", [[], ["--uninstall"]])
def test_places_where_more_than_a_program_is_are_refused(
    newcomer: User, arguments: list[str], told: str, verb: list[str]
) -> None:
    """One sentence, and no file is made or removed: an uninstallation would one day remove the whole folder."""
    for folder in ("sub", "with-a-bus/.claude-bus", "environments", "bin"):
        (newcomer.home / folder).mkdir(parents=True)
    (newcomer.home / "link").symlink_to(newcomer.home)
    (newcomer.home / ".claude-bus").touch()  # as if it were an installation
    before = sorted(newcomer.home.rglob("*"))
    done = newcomer.run(*verb, *(word.format(home=newcomer.home) for word in arguments))
    assert (done.returncode in (1, 2), done.stdout) == (True, "")
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1 + done.stderr.count("a\nb")
    assert sorted(newcomer.home.rglob("*")) == before


@pytest.mark.parametrize("way", ["piped", "copied", "in another folder"])
def test_without_its_checkout_it_says_so(newcomer: User, tmp_path: Path, way: str) -> None:
    """With `curl ... | bash`, or the script alone, there is nothing to install, whatever the working folder
    contains.
    """
    script = newcomer.clone / "install_claude_bus.sh"
    alone = tmp_path / "alone.sh"
    alone.write_bytes(script.read_bytes())
    command = {"piped": ["bash"], "copied": ["bash", str(alone)], "in another folder": ["bash", "-s", "--", "--yes"]}
    done = subprocess.run(
        command[way],
        input=script.read_bytes() if way != "copied" else b"",
        env=newcomer.env,
        cwd=newcomer.clone if way == "in another folder" else newcomer.home,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Clone the repository and run the script there" in done.stderr
    assert list(newcomer.home.iterdir()) == []


def test_a_search_path_for_cd_leads_nowhere(newcomer: User, tmp_path: Path) -> None:
    """CDPATH makes `cd` go to another folder and print its path."""
    (tmp_path / "elsewhere" / newcomer.clone.name).mkdir(parents=True)
    newcomer.env["CDPATH"] = str(tmp_path / "elsewhere")
    done = subprocess.run(
        ["bash", f"{newcomer.clone.name}/install_claude_bus.sh", "--dir", "/"],
        env=newcomer.env,
        cwd=newcomer.clone.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no folder for a program alone" in done.stderr


@pytest.mark.parametrize("told", ["2.7", "3.6", "3.10"])
def test_an_old_python_is_named(newcomer: User, tmp_path: Path, told: str) -> None:
    """If there is no newer Python and no uv, the message names the version found and the one required."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "dirname", "sed", "cat", "ls", "mkdir"):
        (programs / name).symlink_to(shutil.which(name) or name)
    old = programs / "python3"
    old.write_text(f"#!/bin/sh\ncase $2 in *exit*) exit 1 ;; esac\nprintf {told}\n")
    old.chmod(0o755)
    newcomer.env["PATH"] = str(programs)
    done = newcomer.run()
    assert done.returncode == 1
    assert done.stderr.startswith("install_claude_bus.sh: needed is Python 3.11 or newer, or uv: ")
    assert done.stderr.endswith(f" (python3 here is {told})\n")


def test_an_old_python_that_runs_the_package_is_told(newcomer: User) -> None:
    """The sentence comes before the first import that would fail."""
    code = "import sys; sys.version_info = (3, 9, 2); from claude_bus.__main__ import main; sys.exit(main())"
    env = {**newcomer.env, "PYTHONPATH": str(newcomer.clone / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "claude-bus needs Python 3.11 or newer; this is 3.9\n")


def test_without_a_home_it_says_so(newcomer: User) -> None:
    """As from a service: one sentence, and no file in the root folder."""
    del newcomer.env["HOME"]
    done = newcomer.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert "HOME is not set" in done.stderr


def test_nobody_else_may_write_where_it_is(user: User) -> None:
    """This also holds for a user whose umask lets others write new files."""
    before = os.umask(0)
    try:
        user.installs()
    finally:
        os.umask(before)
    written = [place for place in user.place.rglob("*") if "environments" not in place.parts and not place.is_symlink()]
    assert [place for place in written if place.stat().st_mode & 0o022] == []


def test_a_copy_for_everybody_is_run_by_others(newcomer: User, tmp_path: Path) -> None:
    """When installed into a folder like /opt, other users may enter all folders on the way to its Python."""
    shared = tmp_path / "opt" / "claude-bus"
    newcomer.installs("--dir", str(shared))
    (environment,) = (shared / "environments").glob("*-python*")
    ways = [shared, shared / "bin", shared / "environments", environment, environment / "bin"]
    assert [way for way in ways if way.stat().st_mode & 0o055 != 0o055] == []


def test_an_installation_without_its_environment_can_be_removed(user: User) -> None:
    """The checkout's own program removes the settings that the lost environment had added."""
    client = user.has_claude()
    user.installs()
    shutil.rmtree(user.place / "environments")
    user.installs("--uninstall")
    assert not user.place.exists()
    assert client.server is None
    assert not (user.config / "settings.json").exists()


def test_open_points_come_last(user: User) -> None:
    """An older client, or a PATH without the command, is mentioned after the next steps, where it is not overlooked."""
    user.has_claude("2.1.117")
    lines = user.installs().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith("Open: "))
    assert first > lines.index("    /bus backend        in one")
    assert [line[:5] for line in lines[first:] if line] == ["Open:"] * len([line for line in lines[first:] if line])
    assert "2.1.118 or newer" in lines[first]
    assert not (user.config / "settings.json").exists()


def test_a_folder_of_others_is_refused(user: User, tmp_path: Path) -> None:
    """A folder with other files and without claude-bus is neither installed into nor removed."""
    (tmp_path / "precious" / "bin").mkdir(parents=True)
    (tmp_path / "precious" / "bin" / "claude-bus").write_text("mine")
    done = user.run("--dir", str(tmp_path / "precious"))
    assert done.returncode == 1
    assert "choose another place with --dir" in done.stderr
    user.installs("--uninstall", "--dir", str(tmp_path / "precious"))
    assert (tmp_path / "precious" / "bin" / "claude-bus").read_text() == "mine"


def test_an_upgrade_leaves_running_sessions_alone(user: User) -> None:
    """A server of the previous version goes on and its files stay; files of the version before that are removed."""
    user.installs()
    with server(user) as old:
        user.edit(claude_bus.__version__, "99.0.0")
        user.installs()
        assert user.version() == "claude-bus 99.0.0\n"
        assert "registered 'alice'" in old.call("register", name="alice").text
        assert len(list(user.place.glob("app-*"))) == 2
    user.edit("99.0.0", "99.0.1")
    user.installs()
    assert user.version() == "claude-bus 99.0.1\n"
    versions = [place.read_text() for place in user.place.glob("app-*/src/claude_bus/__init__.py")]
    assert sorted("99.0.1" in text for text in versions) == [False, True]
    assert all("99" in text for text in versions)


@contextlib.contextmanager
def server(user: User) -> Iterator[Launched]:
    """A server as the client starts it."""
    running = Launched([user.command], user.env)
    try:
        running.start()
        yield running
    finally:
        running.kill()


def test_what_does_not_work_is_not_installed(user: User) -> None:
    """If the self-test fails, the command stays as it was and Claude Code is not changed."""
    user.installs()
    before = user.version(), everything(user)
    user.edit("async def inbox", "async def outbox", "src/claude_bus/mcp/tools.py")
    done = user.run()
    assert done.returncode == 1
    assert "It does not work: inbox of 'bob' fails" in done.stdout
    after = {path: data for path, data in everything(user).items() if path in before[1]}
    assert (user.version(), after) == before


def test_no_way_to_the_packages(newcomer: User) -> None:
    """If the packages cannot be fetched, it says so and what to do, and does not change Claude Code."""
    newcomer.env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "UV_OFFLINE": "1"}
    newcomer.env |= {"UV_NO_INDEX": "1", "UV_CACHE_DIR": str(newcomer.home / "cache"), "UV_FIND_LINKS": ""}
    done = newcomer.run()
    assert done.returncode == 1
    assert "Needed is uv, or Python 3.11 or newer" in done.stderr
    assert not newcomer.config.exists()


def test_uninstall_leaves_the_database_only(user: User) -> None:
    """Program, command, hooks and /bus are removed; messages and state stay."""
    client = user.has_claude()
    user.installs()
    subprocess.run([user.command, "send", "bob", "a_word_of_more_letters"], env=user.env, check=True)
    rules = user.home / ".cache" / "kingfisher" / "rule-cache" / "rules.vscdb"  # of an installation with pip
    rules.parent.mkdir(parents=True)
    rules.touch()
    user.installs("--uninstall")
    files = [path for path in user.home.rglob("*") if not path.is_dir()]
    assert {path.parent for path in files} == {user.home / ".claude-bus", client.state.parent}
    assert "mcpServers" not in client.read()
    assert not (user.home / ".cache").exists() or not any((user.home / ".cache").iterdir())
    assert "still in" in user.installs("--uninstall")


@pytest.mark.parametrize(
    ("before", "client"), [([], True), ([], False), ([".local/bin", ".cache"], True), ([".local/share"], True)]
)
def test_uninstall_leaves_the_folders_that_were_there(newcomer: User, uv: Uv, before: list[str], client: bool) -> None:
    """Folders made for the program are removed if they are empty; the user's own folders stay, empty or not."""
    for folder in before:
        (newcomer.home / folder).mkdir(parents=True)
    if client:
        newcomer.has_claude().has()
    newcomer.env["PATH"] = f"{uv.folder}{os.pathsep}{newcomer.env['PATH']}"
    there = sorted(newcomer.home.rglob("*"))
    newcomer.installs()
    newcomer.installs()
    newcomer.installs("--uninstall")
    assert sorted(newcomer.home.rglob("*")) == there


def test_uninstall_leaves_what_others_have_put_beside_it(user: User) -> None:
    """Another program in the folder that was made for our command stays."""
    user.installs()
    other = user.home / ".local" / "bin" / "other"
    other.touch()
    user.installs("--uninstall")
    assert list(other.parent.iterdir()) == [other]


def test_what_it_does_not_know_it_does_not_do(user: User) -> None:
    """A mistyped option ends the installer before it changes anything; --help explains the options."""
    assert user.run("--uninstal").returncode == 2
    assert "usage: bash install_claude_bus.sh" in user.installs("--help")
    assert not user.command.exists()


# -- the proof ------------------------------------------------------------------------


def test_the_proof_fails_where_the_server_does(capsys: pytest.CaptureFixture[str]) -> None:
    """Its last line gives the reason, and so does its exit status."""
    assert selftest(["/no/such/server"]) == 1
    assert "It does not work: /no/such/server: " in capsys.readouterr().out
    assert selftest(["false"]) == 1


# -- the user's settings --------------------------------------------------------------

HOOKS = hooks_of(ROOT)

a_hook = st.one_of(
    st.fixed_dictionaries({"type": st.just("command"), "command": st.text(max_size=5)}),
    st.fixed_dictionaries(
        {"type": st.just("mcp_tool"), "server": st.sampled_from(["bus", "other"]), "tool": st.just("x")}
    ),
)
a_group = st.fixed_dictionaries({"hooks": st.lists(a_hook, max_size=2)}, optional={"matcher": st.text(max_size=3)})
events = st.dictionaries(st.sampled_from([*hooks.EVENTS, "SessionStart"]), st.lists(a_group, max_size=2))
values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=4)
documents = st.dictionaries(st.text(max_size=5).filter(lambda key: key != "hooks"), values, max_size=3)
settings = st.tuples(documents, st.none() | events).map(
    lambda pair: pair[0] | ({"hooks": pair[1]} if pair[1] is not None else {})
)


def said(document: dict[str, Any]) -> dict[str, Any]:
    """The settings without events that have no hooks, since those mean nothing."""
    filled = {event: groups for event, groups in document.get("hooks", {}).items() if groups}
    return {key: value for key, value in document.items() if key != "hooks"} | ({"hooks": filled} if filled else {})


@given(settings)
def test_hooks_come_and_go(document: dict[str, Any]) -> None:
    """Our hooks are added after all others; adding again changes nothing; removing restores the settings."""
    added = with_hooks(document, HOOKS)
    for event, groups in HOOKS.items():
        assert added["hooks"][event] == [*document.get("hooks", {}).get(event, []), *groups]
    assert with_hooks(added, HOOKS) == added
    assert said(without_hooks(added)) == said(document)


@given(settings)
def test_hooks_of_an_earlier_version_make_room(document: dict[str, Any]) -> None:
    """After an upgrade only the hooks of the new version are there."""
    earlier = {"Stop": HOOKS["Stop"], "SessionStart": HOOKS["Stop"]}
    assert said(with_hooks(with_hooks(document, earlier), HOOKS)) == said(with_hooks(document, HOOKS))


def test_hooks_call_the_server_at_user_scope() -> None:
    """They equal the plugin's, with the name under which the installer registers the server."""
    assert set(HOOKS) == set(hooks.EVENTS)
    assert {hook["server"] for groups in HOOKS.values() for group in groups for hook in group["hooks"]} == {"bus"}


def test_settings_keep_their_form(tmp_path: Path) -> None:
    """Order and indentation stay; uninstalling restores the file byte for byte, even one formatted by hand."""
    config = tmp_path
    written = b'{\r\n\t"model": "opus", "b": [1, 2],\r\n\t"a": "\xc3\xa9"}'
    (config / "settings.json").write_bytes(written)
    install(config, ROOT, [])
    text = (config / "settings.json").read_text(encoding="utf-8")
    assert list(json.loads(text)) == ["model", "b", "a", "hooks"]
    assert '\n\t"a": "é"' in text
    uninstall(config, [ROOT])
    assert (config / "settings.json").read_bytes() == written
    assert [path.name for path in config.iterdir()] == ["settings.json"]


def test_settings_changed_meanwhile(tmp_path: Path) -> None:
    """Settings that the user changed after the installation stay changed when it is removed."""
    (tmp_path / "settings.json").write_text('{"model": "opus"}')
    install(tmp_path, ROOT, [])
    changed = json.loads((tmp_path / "settings.json").read_text()) | {"model": "sonnet"}
    (tmp_path / "settings.json").write_text(json.dumps(changed))
    uninstall(tmp_path, [ROOT])
    assert json.loads((tmp_path / "settings.json").read_text()) == {"model": "sonnet"}


def test_no_settings_before(tmp_path: Path) -> None:
    """If there was no file before, the removal leaves no file."""
    install(tmp_path / "new", ROOT, [])
    uninstall(tmp_path / "new", [ROOT])
    assert list((tmp_path / "new").iterdir()) == []


def test_linked_settings_stay_linked(tmp_path: Path) -> None:
    """Settings kept elsewhere by a link are written there, and keep their permissions."""
    kept = tmp_path / "dotfiles.json"
    kept.write_text("{}\n")
    kept.chmod(0o640)
    config = tmp_path / "config"
    config.mkdir()
    (config / "settings.json").symlink_to(kept)
    install(config, ROOT, [])
    assert (config / "settings.json").is_symlink()
    assert "hooks" in json.loads(kept.read_text())
    assert kept.stat().st_mode & 0o777 == 0o640
    uninstall(config, [ROOT])
    assert ((config / "settings.json").is_symlink(), kept.read_text()) == (True, "{}\n")


@pytest.mark.parametrize(
    "written",
    [
        "{",
        "[]",
        '{"hooks": []}',
        '{"hooks": {"Stop": {}}}',
        '{"hooks": {"Stop": [1]}}',
        '{"hooks": {"Stop": [{"hooks": 1}]}}',
        "\xff",
    ],
)
def test_settings_that_are_none_are_left_alone(tmp_path: Path, written: str) -> None:
    """A file that is not valid settings is refused by name and not changed, and nothing else is done."""
    (tmp_path / "settings.json").write_bytes(written.encode("latin-1"))
    with pytest.raises(Refused, match=r"settings\.json"):
        install(tmp_path, ROOT, [])
    with pytest.raises(Refused, match=r"settings\.json"):
        uninstall(tmp_path, [ROOT])
    assert (tmp_path / "settings.json").read_bytes() == written.encode("latin-1")
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


# -- /bus -----------------------------------------------------------------------------


def is_bus(place: Path) -> bool:
    """Tells whether a command is ours, apart from the remark in it."""
    lines = place.read_text(encoding="utf-8").splitlines()
    unsigned = [line for line in lines if not line.startswith("# written by claude-bus setup")]
    return unsigned == (ROOT / "commands" / "bus" / "SKILL.md").read_text(encoding="utf-8").splitlines()


def test_a_command_of_the_users_own_is_kept(tmp_path: Path) -> None:
    """Another /bus is moved to a name that says why, and is restored later."""
    place = tmp_path / "commands" / "bus.md"
    place.parent.mkdir()
    place.write_text("the user's")
    install(tmp_path, ROOT, [])
    assert is_bus(place)
    assert place.with_name(f"bus.md{BACKUP}").read_text() == "the user's"
    uninstall(tmp_path, [ROOT])
    assert [(path.name, path.read_text()) for path in place.parent.iterdir()] == [("bus.md", "the user's")]


def test_a_command_of_an_earlier_version_is_replaced(tmp_path: Path) -> None:
    """A command of an earlier installation is not taken for the user's own."""
    earlier = checkout(tmp_path / "earlier")
    (earlier / "commands" / "bus" / "SKILL.md").write_text("as it was")
    config = tmp_path / "config"
    install(config, earlier, [])
    install(config, ROOT, [earlier])
    assert [path.name for path in (config / "commands").iterdir()] == ["bus.md"]
    assert is_bus(config / "commands" / "bus.md")


def test_a_command_is_known_without_the_version_that_put_it_there(tmp_path: Path) -> None:
    """An upgrade by uvx has no earlier copies to compare with, so the command itself shows that it is unmodified."""
    earlier = checkout(tmp_path / "earlier")
    (earlier / "commands" / "bus" / "SKILL.md").write_text("---\nas it was\n---\n")
    config = tmp_path / "config"
    install(config, earlier, [])
    install(config, ROOT, [])
    assert [path.name for path in (config / "commands").iterdir()] == ["bus.md"]
    assert is_bus(config / "commands" / "bus.md")


def test_a_command_that_was_edited_stays(tmp_path: Path) -> None:
    """A command that the user edited is neither removed with the rest nor overwritten by the next installation."""
    install(tmp_path, ROOT, [])
    place = tmp_path / "commands" / "bus.md"
    place.write_text("edited")
    install(tmp_path, ROOT, [ROOT])
    assert place.with_name(f"bus.md{BACKUP}").read_text() == "edited"
    place.write_text("edited again")
    with pytest.raises(Refused, match=r"bus\.md"):
        install(tmp_path, ROOT, [ROOT])
    uninstall(tmp_path, [ROOT])
    assert place.read_text() == "edited again"
