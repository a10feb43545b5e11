"""Commands and servers where a usual part of the environment is missing: an encoding, a home, a folder, files."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from claude_bus.http import serve
from tests.support.processes import Wire, environment
from tests.test_supervisor import Supervised

pytestmark = pytest.mark.slow

TEXT = "\N{RIGHTWARDS ARROW} gr\u00fc\u00dfe \u0928\u092e\u0938\u094d\u0924\u0947 \N{PARTY POPPER}"

ENCODINGS: dict[str, dict[str, str]] = {
    "C": {"LANG": "C", "LC_ALL": "C"},
    "C, as it is": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "ascii, unbuffered": {"PYTHONIOENCODING": "ascii:strict", "PYTHONUNBUFFERED": "1"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "utf-16": {"PYTHONIOENCODING": "utf-16"},
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
}


def run(
    arguments: Sequence[str | bytes], env: Mapping[str, str], cwd: Path | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a command as the user."""
    command = [sys.executable, "-m", "claude_bus", *arguments]
    return subprocess.run(command, env=env, cwd=cwd, input=stdin, capture_output=True, timeout=60, check=False)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path / "bus.db", HOME=str(tmp_path / "home"))


# -- encodings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_everything_can_be_printed_in_any_encoding(encoding: str, env: dict[str, str]) -> None:
    """Missing characters are escaped. A JSON document remains valid in any encoding."""
    assert run(["send", "--as", "ann", "bob"], env, stdin=TEXT.encode()).returncode == 0
    spoken = {**env, **ENCODINGS[encoding]}
    commands = [
        *(["inbox", "--as", "bob", "--peek"], ["inbox", "--as", "bob", "--peek", "--oneline"], ["agents"], ["doctor"]),
        *(["send", "--as", "ann", TEXT, "hi"], ["--channel", TEXT, "agents"], [TEXT], ["--help"], ["export"]),
        ["send", "--as", "ann", "bob", "x", "--file", TEXT],
    ]
    for command in commands:
        done = run(command, spoken)
        assert done.returncode in (0, 2), (command, done)
        assert b"codec" not in done.stderr, (command, done)
        assert b"Traceback" not in done.stderr, (command, done)

    found = run(["inbox", "--as", "bob", "--peek", "--json"], spoken).stdout
    decoded = found.decode(spoken.get("PYTHONIOENCODING", "utf-8").partition(":")[0])
    assert json.loads(decoded)["messages"][0]["content"] == TEXT


@pytest.mark.parametrize(
    ("data", "encoding", "text"),
    [
        ("gr\u00fc\u00dfe".encode(), "latin-1", "gr\u00fc\u00dfe"),
        ("gr\u00fc\u00dfe".encode("latin-1"), "latin-1", "gr\u00fc\u00dfe"),
        (TEXT.encode("utf-16"), "utf-8", TEXT),
        (TEXT.encode("utf-8-sig"), "utf-8", TEXT),
        ("gr\u00fc\u00dfe".encode("latin-1"), "utf-8", None),
        ("gr\u00fc\u00dfe".encode("latin-1"), "ascii", None),
    ],
)
def test_text_from_stdin_is_in_the_encoding_that_something_says(
    data: bytes, encoding: str, text: str | None, env: dict[str, str]
) -> None:
    """A byte order mark, or else the locale, decides; text that fits neither is refused and not guessed at."""
    done = run(["send", "--as", "ann", "bob"], {**env, "PYTHONIOENCODING": encoding}, stdin=data)
    if text is None:
        assert (done.returncode, b"UTF-8" in done.stderr) == (2, True)
        return
    found = json.loads(run(["inbox", "--as", "bob", "--json"], {**env, "PYTHONIOENCODING": "utf-8"}).stdout)
    assert [message["content"] for message in found["messages"]] == [text]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
@pytest.mark.parametrize("name", [b"caf\xe9", "gr\u00fc\u00dfe".encode()])
@pytest.mark.parametrize("encoding", ["utf-8", "C, as it is"])
def test_a_session_in_a_folder_whose_name_is_no_text_takes_part(
    name: bytes, encoding: str, tmp_path: Path, env: dict[str, str]
) -> None:
    """It registers, claims and sends; others see its name with replacement characters."""
    folder = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118 - bytes
    os.makedirs(os.path.join(folder, b".git"))  # noqa: PTH103, PTH118
    with open(os.path.join(folder, b".git", b"HEAD"), "wb") as head:  # noqa: PTH118, PTH123
        head.write(b"ref: refs/heads/main")
    server = Wire(tmp_path / "bus.db", CLAUDE_PROJECT_DIR=os.fsdecode(folder), **ENCODINGS[encoding])
    try:
        server.start()
        assert not server.call("register", name="alice").failed
        assert not server.call("claim", path="src/a.ts").failed
        assert server.call("claim", path="src/b.ts").text == "claimed 'src/b.ts' for 1800s"
        assert not server.call("send", to="bob", content=TEXT).failed
    finally:
        server.kill()
    assert b"alice" in run(["agents"], env).stdout
    assert json.loads(run(["agents", "--json"], env).stdout)["agents"]


# -- no home folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["", "relative", "."])
def test_a_home_that_is_none_gives_no_bus_per_folder(home: str, tmp_path: Path, env: dict[str, str]) -> None:
    """An empty HOME is replaced by the home in the user database, and a relative one is not used."""
    del env["BUS_DB"]
    done = run(["agents"], {**env, "HOME": home}, cwd=tmp_path)
    assert b"Traceback" not in done.stderr
    assert not list(tmp_path.rglob(".claude-bus"))
    if home:
        assert (done.returncode, b"set BUS_DB" in done.stderr) == (2, True)


def test_a_user_without_home_and_entry_can_use_a_bus(tmp_path: Path, env: dict[str, str]) -> None:
    """Containers run programs as such users."""
    del env["HOME"]
    code = (
        "import pwd, sys; pwd.getpwuid = lambda number: {}[number]; "  # raises KeyError, as for a user without an entry
        "from claude_bus.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    sends = ["send", "bob", "hi"]
    tried = (
        (sends, env, 0, b"sent to"),
        (sends, {**env, "BUS_DB": ""}, 2, b"no home folder"),
        (["setup", "--yes"], env, 2, b"no home folder"),
    )
    for arguments, variables, status, said in tried:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, check=False)
        assert (done.returncode, said in done.stdout + done.stderr) == (status, True), done
        assert len(done.stderr.splitlines()) <= 1, done


def test_setup_puts_nothing_into_a_home_that_is_relative(tmp_path: Path, env: dict[str, str]) -> None:
    """Claude Code would look for its files in a different folder for each working folder."""
    done = run(["setup", "--yes"], {**env, "HOME": "relative"}, cwd=tmp_path)
    assert (done.returncode, b"set HOME to its whole path" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


# -- a working folder that is gone --------------------------------------------------------------------------


def gone(tmp_path: Path, command: Sequence[str]) -> list[str]:
    """A command whose working folder was removed."""
    folder = tmp_path / "worktree"
    folder.mkdir(exist_ok=True)
    return ["sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', str(folder), *command]


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made again"])
@pytest.mark.parametrize(
    "command", ["send --as ann bob hi", "inbox --as bob", "agents", "doctor", "guard check", "agents --json", "export"]
)
def test_commands_work_where_the_folder_is_gone(command: str, again: bool, tmp_path: Path, env: dict[str, str]) -> None:
    """Another session may have removed the worktree in which a shell stands, or recreated it under the same name."""
    whole = gone(tmp_path, [sys.executable, "-m", "claude_bus", *command.split()])
    if again:
        whole[2] = whole[2].replace("&& exec", '&& mkdir "$0" && exec')
    done = subprocess.run(whole, env=env, capture_output=True, timeout=60, check=False)
    assert b"Traceback" not in done.stderr
    assert done.returncode == 0


def test_a_relative_path_is_not_looked_for_where_the_folder_is_gone(tmp_path: Path, env: dict[str, str]) -> None:
    """Nor is the folder created again for it."""
    for command in (["--db", "bus.db", "agents"], ["send", "--as", "ann", "bob", "--file", "a.txt"]):
        whole = gone(tmp_path, [sys.executable, "-m", "claude_bus", *command])
        done = subprocess.run(whole, env=env, capture_output=True, timeout=60, check=False)
        assert done.returncode == 2, done
        assert b"Traceback" not in done.stderr
        assert not (tmp_path / "worktree").exists()


class Gone(Supervised):
    """A session whose working folder is removed right after its start."""

    def __init__(self, db: Path, folder: Path) -> None:
        folder.mkdir()
        there = f"import os, sys; os.chdir({str(folder)!r}); os.rmdir({str(folder)!r}); "
        self.program = ("-c", there + "os.execv(sys.executable, [sys.executable, '-m', 'claude_bus'])")
        super().__init__(db)


def test_a_server_starts_and_comes_back_where_the_folder_is_gone(tmp_path: Path) -> None:
    """A session keeps its tools when its worktree is removed, also when its server is restarted there."""
    client = Gone(tmp_path / "bus.db", tmp_path / "worktree")
    try:
        client.start().call("register", name="alice")
        client.kill_server()
        assert client.call("whoami").text == "alice"
        assert not client.call("claim", path="src/a.ts").failed
    finally:
        client.kill()


# -- limits on open files --------------------------------------------------------------------------------------


def limited(files: int, command: Sequence[str]) -> list[str]:
    """The command, with a limit on the files that it may open."""
    return ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh", *command]


@pytest.mark.parametrize("files", [6, 8, 12, 24])
@pytest.mark.parametrize("command", ["send --as ann bob hi", "agents", "doctor", "export"])
def test_a_command_that_may_open_few_files_works_or_says_why_not(command: str, files: int, env: dict[str, str]) -> None:
    """The reason is one line, whichever file could not be opened."""
    whole = limited(files, [sys.executable, "-m", "claude_bus", *command.split()])
    done = subprocess.run(whole, env=env, capture_output=True, timeout=60, check=False)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    assert done.returncode in (0, 1, 5)
    assert len(done.stderr.splitlines()) <= 1


def test_a_supervisor_that_cannot_start_a_server_says_so_and_ends(env: dict[str, str]) -> None:
    """It retries a few times, because other files may be closed meanwhile."""
    whole = limited(6, [sys.executable, "-m", "claude_bus"])
    pipe = subprocess.PIPE
    with subprocess.Popen(whole, env=env, stdin=pipe, stdout=pipe, stderr=pipe) as running:
        assert running.wait(60) == 1
        assert running.stderr
        said = running.stderr.read().splitlines()
    assert 1 <= len(said) <= 5
    assert all(line.startswith(b"claude-bus: the server cannot be started: ") for line in said)


def test_a_served_bus_refuses_connections_that_it_could_not_hold(env: dict[str, str]) -> None:
    """With few file descriptors it answers existing connections and refuses others with a message; its log stays
    short.
    """
    whole = limited(96, [sys.executable, "-m", "claude_bus", "serve", "--port", "0"])
    pipe = subprocess.PIPE
    with subprocess.Popen(whole, env=env, stdout=pipe, stderr=pipe) as running, contextlib.ExitStack() as opened:
        assert running.stdout
        assert running.stderr
        try:
            address = running.stdout.readline().decode().split()[-1]
            port = int(address.rpartition(":")[2])
            clients = [
                opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(150)
            ]
            answers = [_asked(client) for client in clients]
        finally:
            running.terminate()
        said = running.stderr.read()
    assert answers[0] == answers[10] == 200
    assert {200, 429} >= set(answers) - {0}
    assert 429 in answers
    assert len(said) < 2000


def _asked(client: socket.socket) -> int:
    """The status of the response to a request; 0 for none."""
    try:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return int((client.recv(65_536).split() or [b"", b"0"])[1])
    except ConnectionError:
        return 0


def test_connections_that_cannot_be_taken_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio would log a traceback each second for each waiting connection."""
    loop = serve._Loop()
    error = OSError(24, "Too many open files")
    for _ in range(2000):
        loop.call_exception_handler({"message": "socket.accept() out of system resource", "exception": error})
    loop.close()
    assert [record.getMessage()[:29] for record in caplog.records] == ["connections have to wait ([Er"]
