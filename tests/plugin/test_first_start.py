"""A first start of the plugin: the client is answered at once, no request is lost, and failed steps are tried again."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from claude_bus import supervisor
from tests.support import server_answers
from tests.support.plugin_environment import LAUNCHER, ROOT, Launched, Uv, launched, made, named, user
from tests.support.processes import PATIENCE, Peer, Wire, answer, eventually
from tests.support.server_answers import NEWEST

pytestmark = pytest.mark.slow

HANDSHAKE = {"capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


@pytest.fixture
def building(plugin: Path, data: Path, uv: Uv) -> Any:
    """A server whose environment is not completed until the test releases the installation."""
    uv.close()
    with launched(plugin, user(data, uv)) as server:
        yield server


def altered(plugin: Path, **seconds: float | tuple[float, ...]) -> None:
    """Change how long the launcher waits."""
    path = plugin / ".claude-plugin" / "first_start.py"
    text = path.read_text(encoding="utf-8")
    for name, value in seconds.items():
        text, count = re.subn(rf"(?m)^{name} = .*", f"{name} = {value}", text)
        assert count == 1
    path.write_text(text, encoding="utf-8")


def prompt(server: Wire, **more: str) -> dict[str, Any]:
    """The answer to a prompt hook of the session."""
    found: dict[str, Any] = json.loads(server.call("hook", event="UserPromptSubmit", session_id="s1", **more).text)
    return found


# -- the opening ------------------------------------------------------------------------


def test_the_answers_are_the_declared_ones() -> None:
    """The answers of launcher and server are those of this version; if they are not, run server_answers.py."""
    assert json.loads(server_answers.FILE.read_text(encoding="utf-8")) == server_answers.made()


@pytest.mark.parametrize("version", ["2024-11-05", "2025-11-25", "1999-01-01", "2026-07-28"])
def test_a_handshake(building: Launched, tmp_path: Path, version: str) -> None:
    """The handshake, and the client's next requests, are answered as the server would answer them."""
    real = Wire(tmp_path / "real.db")
    try:
        hello = {"protocolVersion": version, **HANDSHAKE}
        assert same(building.ask("initialize", **hello), real.ask("initialize", **hello))
        for method in ("tools/list", "ping", "resources/list"):
            assert same(building.ask(method), real.ask(method))
    finally:
        real.kill()


def test_the_newest_protocol(building: Launched, tmp_path: Path) -> None:
    """It has no handshake; a client that opened with it is refused one, as the server would refuse it."""
    real = Wire(tmp_path / "real.db")
    try:
        for method in ("server/discover", "tools/list", "ping", "resources/list"):
            assert same(building.ask(method, _meta=NEWEST), real.ask(method, _meta=NEWEST))
        wanted = {"protocolVersion": "2025-11-25", **HANDSHAKE}
        mine, theirs = building.ask("initialize", **wanted), real.ask("initialize", **wanted)
        assert mine["error"]["code"] == theirs["error"]["code"]
    finally:
        real.kill()


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Compare two answers without their ids and without the order of keys."""
    assert {**one, "id": 0} == {**other, "id": 0}
    return True


def test_what_is_no_message_is_passed_over(building: Launched) -> None:
    """A line that is not JSON, or not a request, has no effect."""
    for line in (b"not json", b"[1, 2]", b"[" * 100_000, b'{"id": 7}', b'{"method": 7, "id": 1}', b"\xff\xfe", b""):
        building.write(line)
    building.start()


# -- during the installation --------------------------------------------------------------


def test_a_call_waits_for_the_server(building: Launched, uv: Uv) -> None:
    """Waiting calls are sent to the server as soon as it runs, after the handshake."""
    building.start()
    posted = [building.post("tools/call", name=name, arguments={"name": "älice"}) for name in ("register", "agents")]
    with uv.installing():
        assert building.ask("ping")["result"] == {}
    answers = {found["id"]: answer(found) for found in (building.read(), building.read())}
    assert "registered 'älice'" in answers[posted[0]].text
    assert set(answers) == set(posted)


def test_a_client_of_the_newest_protocol_goes_on_with_it(building: Launched, uv: Uv) -> None:
    """Such a client need not repeat any request."""
    building.ask("server/discover", _meta=NEWEST)
    asked = building.post("tools/call", name="register", arguments={"name": "alice"}, _meta=NEWEST)
    with uv.installing():
        pass
    assert "registered 'alice'" in building.read_answer(asked).text


def test_the_session_is_on_the_bus_without_a_word_of_its_client(building: Launched, uv: Uv, data: Path) -> None:
    """A sender sees the session once the environment is there, and the next prompt brings the mail."""
    building.start()
    with uv.installing():
        assert prompt(building)
    eventually(lambda: psutil.Process(building.process.pid).children(), "the server runs")
    building.call("register", name="alice")
    Peer(data / "bus.db", "bob").send("alice", "are you there?")
    assert "are you there?" in building.hook("UserPromptSubmit")


def test_it_becomes_the_supervisor(building: Launched, uv: Uv) -> None:
    """No extra process is left over, and a killed server is restarted."""
    building.start()
    with uv.installing():
        pass
    building.call("register", name="alice")
    (server,) = psutil.Process(building.process.pid).children()
    server.kill()
    assert building.call("whoami").text == "alice"
    assert building.end() == 0


def test_the_person_is_told_once(building: Launched) -> None:
    """The first prompt explains the installation; other hooks are silent, and none fails."""
    building.start()
    assert "its packages are being fetched" in prompt(building)["systemMessage"]
    assert prompt(building) == {}
    for event in ("Stop", "PostToolBatch", "PreToolUse", "SubagentStart"):
        assert building.call("hook", event=event, session_id="s1").text == "{}"
    assert building.ask("tools/call", name="hook", arguments={"event": "PostCompact"})["result"]["content"] == []


def test_a_subagent_is_not_told_in_the_persons_place(building: Launched) -> None:
    """The person has still to see it."""
    building.start()
    assert prompt(building, agent_id="a1") == {}
    assert "systemMessage" in prompt(building)


def test_a_call_that_waited_for_long_is_told_what_is_going_on(plugin: Path, data: Path, uv: Uv) -> None:
    """The call was not carried out, and may be repeated."""
    altered(plugin, HOLD=0.5)
    uv.close()
    with launched(plugin, user(data, uv)) as server:
        told = server.start().call("send", to="bob", content="hello")
    assert told.failed
    assert "its packages are being fetched" in told.text
    assert "Nothing was done" in told.text


def test_a_call_is_answered_before_its_client_gives_it_up(plugin: Path, data: Path, uv: Uv) -> None:
    """If the user has set a time limit for tool calls, the call waits for less than that."""
    altered(plugin, HOLD=10 * PATIENCE)
    uv.close()
    with launched(plugin, user(data, uv, MCP_TOOL_TIMEOUT="500")) as server:
        told = server.start().call("send", to="bob", content="hello")
    assert "Nothing was done" in told.text


def test_a_call_shows_what_it_waits_for(plugin: Path, data: Path, uv: Uv) -> None:
    """If the client asks for progress, it is reported at once, and again from time to time."""
    altered(plugin, TOLD=0.2)
    uv.close()
    with launched(plugin, user(data, uv)) as server:
        server.start().post("tools/call", name="whoami", arguments={}, _meta={"progressToken": 5})
        said = [server.read() for _ in range(3)]
    assert [(one["method"], one["params"]["progressToken"]) for one in said] == [("notifications/progress", 5)] * 3


def test_a_subagents_call_does_not_wait(building: Launched) -> None:
    """The server has not heard whose call it is, and would take it for the session's."""
    building.start()
    building.call("hook", event="PreToolUse", agent_id="a1", tool_use_id="t1")
    told = building.ask("tools/call", name="register", arguments={}, _meta={"claudecode/toolUseId": "t1"})
    assert "its packages are being fetched" in answer(told).text


def test_a_call_that_was_given_up_is_not_made(building: Launched, uv: Uv) -> None:
    """The server receives only the other calls."""
    building.start()
    gone = building.post("tools/call", name="register", arguments={"name": "alice"})
    building.write({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": gone}})
    with uv.installing():
        building.ask("ping")
    assert building.call("whoami").text.startswith("not registered")


def test_half_a_line_is_completed_later(building: Launched, uv: Uv) -> None:
    """This also holds if another program has meanwhile replaced the process that read its beginning."""
    building.start()
    line = b'{"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": {"name": "whoami", "arguments": {}}}'
    assert building.process.stdin
    building.process.stdin.write(line[:50])
    building.process.stdin.flush()
    with uv.installing():
        pass
    eventually(lambda: psutil.Process(building.process.pid).children(), "the server runs")
    building.write(line[50:])
    assert building.read_answer(99).text.startswith("not registered")


def test_the_end_of_its_input_ends_it(building: Launched) -> None:
    """The launcher ends when its client closes the pipe."""
    building.start()
    assert building.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(building: Launched, number: signal.Signals) -> None:
    """Claude Code ends its servers with this signal."""
    building.start()
    building.process.send_signal(number)
    assert building.process.wait(PATIENCE)


def test_what_was_left_for_the_server_is_removed(building: Launched, uv: Uv, data: Path) -> None:
    """Calls may contain private data."""
    building.start()
    with uv.installing():
        pass
    building.call("register", name="alice")
    assert not [path for path in (data / "environments").iterdir() if path.name.startswith(".opened")]


# -- parallel starts and early ends -------------------------------------------------------


def test_two_first_starts_at_once(plugin: Path, data: Path, uv: Uv) -> None:
    """Two sessions that start together make one environment, and both get their server."""
    uv.close()
    with launched(plugin, user(data, uv)) as one, launched(plugin, user(data, uv)) as two:
        one.start()
        two.start()
        with uv.installing():
            pass
        for server, name in ((one, "alice"), (two, "bob")):
            assert f"registered '{name}'" in server.call("register", name=name).text
    assert [call.split()[0] for call in uv.calls] == ["venv", "pip"]
    assert len(made(data)) == 1


def test_the_work_outlives_a_client_that_gives_up(plugin: Path, data: Path, uv: Uv) -> None:
    """If the launcher is killed while the environment is made, the builder still completes it."""
    uv.close()
    with launched(plugin, user(data, uv)) as server, uv.installing():
        server.kill()
    eventually(lambda: named(data), "the environment is made")
    calls = uv.calls
    with launched(plugin, user(data, uv)) as server:
        assert not server.start().call("register", name="alice").failed
    assert uv.calls == calls


def test_a_killed_builder_is_followed_by_another(plugin: Path, data: Path, uv: Uv) -> None:
    """No partial environment gets the final name, and the session works without manual repair."""
    altered(plugin, PAUSES=(0.0,))
    uv.close()
    with launched(plugin, user(data, uv)) as server:
        server.start()
        with uv.installing():
            (builder,) = psutil.Process(server.process.pid).children()
            os.killpg(builder.pid, signal.SIGKILL)
            psutil.wait_procs([builder], PATIENCE)
            assert named(data) == []
        with uv.installing():
            pass
        assert not server.call("register", name="alice").failed
    assert len(named(data)) == 1


# -- failures and retries ------------------------------------------------------------------


def test_no_network_and_then_one(plugin: Path, data: Path, uv: Uv) -> None:
    """Model and person are told the problem once; when it is over, the session works with its next call."""
    altered(plugin, SOON=0.0, HOLD=PATIENCE)
    with launched(plugin, user(data, uv, **uv.go_offline())) as server:
        told = server.start().call("register", name="alice")
        assert told.failed
        assert "claude-bus cannot start yet: its packages cannot be fetched: there is no network" in told.text
        assert "It tries again by itself" in told.text
        uv.go_online()
        assert "registered 'alice'" in server.call("register", name="alice").text


def test_it_is_tried_again_without_being_asked(plugin: Path, data: Path, uv: Uv) -> None:
    """The session joins the bus as soon as it can, even without a prompt."""
    altered(plugin, PAUSES=(0.5,), HOLD=PATIENCE)
    with launched(plugin, user(data, uv, BUS_NAME="alice", **uv.go_offline())) as server:
        assert server.start().call("whoami").failed
        uv.go_online()
        eventually(lambda: named(data), "the environment is made")
        assert server.call("whoami").text == "alice"


def test_the_person_is_told_of_each_reason_once(plugin: Path, data: Path, uv: Uv) -> None:
    """The first prompt after a failure gives the reason; later ones are silent, however often retries fail."""
    altered(plugin, SOON=0.0, HOLD=PATIENCE)
    with launched(plugin, user(data, uv, **uv.go_offline())) as server:
        server.start().call("whoami")
        said = [prompt(server), prompt(server)]
        server.call("whoami")
        said += [prompt(server), prompt(server)]
    notices = [message["systemMessage"] for message in said if message]
    assert len(notices) == len(set(notices)) <= 2


def test_an_environment_that_another_session_made(plugin: Path, data: Path, uv: Uv, tmp_path: Path) -> None:
    """It is used, though the session's own attempt failed and its next retry is far away."""
    altered(plugin, PAUSES=(900.0,), SOON=900.0, GLANCE=0.1, HOLD=PATIENCE)
    with launched(plugin, user(data, uv, **uv.go_offline())) as server:
        assert server.start().call("whoami").failed
        uv.go_online()
        with launched(plugin, user(data, uv)) as other:
            assert not other.start().call("register", name="bob").failed
        eventually(lambda: len(psutil.Process(server.process.pid).children()), "the server runs")
        assert not server.call("register", name="alice").failed


def test_a_folder_that_cannot_be_written(plugin: Path, data: Path) -> None:
    """The tools' answers name the folder."""
    (data / "environments").write_text("a file")
    with launched(plugin, user(data)) as server:
        told = server.start().call("whoami")
    assert told.failed
    assert f"cannot be made in {data / 'environments'}: " in told.text


@pytest.mark.parametrize("chosen", ["/no/such/python", str(Path(sys.base_prefix, "bin", "python3"))])
def test_a_chosen_interpreter_that_cannot_be_used(plugin: Path, data: Path, chosen: str) -> None:
    """The tools and the first prompt report it; no other interpreter is used instead."""
    with launched(plugin, user(data, CLAUDE_BUS_PYTHON=chosen)) as server:
        told = server.start().call("whoami")
        assert told.failed
        assert "CLAUDE_BUS_PYTHON" in told.text
        assert "CLAUDE_BUS_PYTHON" in prompt(server)["systemMessage"]
        assert server.end() == 1


def test_both_sides_know_the_same_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher hands data to the supervisor through this variable, and neither can import the other."""
    monkeypatch.syspath_prepend(str(LAUNCHER))
    assert importlib.import_module("first_start").OPENED == supervisor.OPENED


# -- reasons of failures -------------------------------------------------------------------

NETWORK, DISK = "there is no network", "the disk is full"
SAID = {
    "error: Failed to fetch: `mcp`\n Caused by: dns error: failed to lookup address information": NETWORK,
    "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution": NETWORK,
    "error: Request failed after 3 retries\n Caused by: operation timed out": NETWORK,
    "OSError: [Errno 28] No space left on device": DISK,
    "error: failed to write to file: Disk quota exceeded (os error 122)": DISK,
    "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate": "SSL_CERT_FILE",
    "invalid peer certificate: UnknownIssuer": "SSL_CERT_FILE",
    "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.": "mirror",
    "The virtual environment was not created successfully because ensurepip is not available.": "python3-venv",
    "ERROR: No matching distribution found for mcp==2.3.0": "lacks a package",
    "error: failed to create directory `x`: Permission denied (os error 13)": "/folder cannot be written",
    "first\nsomething new {broke}": "something new {broke}",
}


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program that makes the environment, imported as a module."""
    monkeypatch.syspath_prepend(str(LAUNCHER))
    return importlib.import_module("environment")


@pytest.mark.parametrize("said", SAID)
def test_the_reason_is_found_in_what_the_tools_said(builder: ModuleType, said: str) -> None:
    """One sentence names the problem, and the way out where there is one."""
    assert SAID[said] in builder.reason(said.splitlines()).format(folder="/folder")


def test_neither_uv_nor_a_python_that_is_new_enough(
    builder: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The builder, which also runs on an older Python, says what to install."""
    monkeypatch.setattr(builder, "OLDEST", (4, 0))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert builder.main([str(tmp_path / "made")]) == 1
    assert capsys.readouterr().out == "there is neither uv nor Python 3.11 or newer: install one of them\n"


def test_all_that_is_unanswered_is_left_for_the_server(tmp_path: Path) -> None:
    """A hook that came at the last moment too: the client would wait for its answer until its time limit."""

    def called(number: int, name: str) -> bytes:
        return json.dumps({"id": number, "method": "tools/call", "params": {"name": name, "arguments": {}}}).encode()

    heard = b"\n".join((called(1, "whoami"), called(2, "hook"), b'{"half'))
    program = (
        f"import sys, os; sys.path.insert(0, {str(ROOT / '.claude-plugin')!r}); import first_start\n"
        f"talk = first_start.Conversation(); talk.hear({heard!r}); talk.leave({str(tmp_path)!r})\n"
        "print(os.environ[first_start.OPENED])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True)

    assert json.loads(Path(done.stdout.strip()).read_text(encoding="utf-8"))["rest"] == heard.decode()


def test_two_that_wait_with_the_same_pid_leave_different_conversations(tmp_path: Path) -> None:
    """Containers may share the folder but not the pids: none takes, or removes, the requests of another's client."""
    program = (
        f"import sys, os; sys.path.insert(0, {str(ROOT / '.claude-plugin')!r}); import first_start\n"
        f"for _ in 'ab': first_start.Conversation().leave({str(tmp_path)!r}); print(os.environ[first_start.OPENED])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True)

    assert len(set(done.stdout.split())) == 2
    assert all(Path(left).is_file() for left in done.stdout.split())
