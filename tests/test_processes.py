"""Liveness: by evidence where available, else by heartbeat. Tested in real PID namespaces where the system has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from claude_bus import processes
from claude_bus.limits import FOREIGN_HOST_SILENCE
from claude_bus.model.identity import Process
from claude_bus.processes import Domain, Patience, is_alive, this_process
from tests.support.processes import PATIENCE, Wire, environment, wire

pytestmark = pytest.mark.slow

NOW = 1_000_000.0
LATELY, LONG_AGO = NOW - FOREIGN_HOST_SILENCE + 1, NOW - FOREIGN_HOST_SILENCE - 1


# -- processes that can be probed ----------------------------------------------------------------


def test_a_process_of_our_own_domain_is_asked_after_whatever_its_heartbeat() -> None:
    """A process suspended for a night is alive, and one that ended a second ago is not."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        which = processes.process(child.pid)
        assert which
        running = is_alive(which, 0.0, NOW)
        child.kill()

    assert running
    assert not is_alive(which, NOW, NOW)


@pytest.mark.parametrize(
    "host", ["an-old-version-wrote-this", "@anna@{own}", "{kernel}/1/x", "other/{namespace}/x", ""]
)
def test_a_process_of_another_domain_is_judged_by_its_heartbeat_alone(host: str) -> None:
    """Processes in containers, on remote machines or of old versions: a local process with the same pid proves
    nothing.
    """
    me, domain = this_process(), processes.domain()
    there = host.format(own=me.host, kernel=domain.kernel, namespace=domain.namespace)

    for process in (replace(me, host=there), Process(there, 2**22 + 1, 1.0)):
        assert is_alive(process, LATELY, NOW)
        assert not is_alive(process, LONG_AGO, NOW)


def test_a_change_of_the_hosts_name_or_machine_id_changes_no_domain() -> None:
    """A container that shares the host's PID namespace has its own hostname and machine id."""
    me = this_process()
    kernel, namespace, _ = me.host.split("/")

    assert is_alive(replace(me, host=f"{kernel}/{namespace}/other"), 0.0, NOW)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hides processes")
def test_a_process_that_is_hidden_is_judged_by_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `hidepid`, a process exists but cannot be identified; a missing pid is gone."""
    me = this_process()
    parent = processes.process(os.getppid())
    assert parent
    monkeypatch.setattr(processes, "_PROC", tmp_path)

    assert is_alive(parent, LATELY, NOW)
    assert not is_alive(parent, LONG_AGO, NOW)
    assert not is_alive(Process(me.host, 2**22 + 1, 1.0), LATELY, NOW)


def test_processes_of_an_earlier_boot_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exception is a heartbeat later than our boot, which shows that the process is on another machine."""
    monkeypatch.setattr(processes, "domain", lambda: Domain("boot2", "4026531836", "machine"))
    monkeypatch.setattr(processes, "_uptime", lambda: 30.0)
    before = Process("boot1/4026531836/machine", 1, 1.0)

    assert not is_alive(before, NOW - 31, NOW)
    assert is_alive(before, NOW - 29, NOW)
    assert is_alive(replace(before, host="boot1/4026531836/"), NOW - 31, NOW)
    assert is_alive(replace(before, host="boot1/4026531836/clone"), NOW - 31, NOW)


def test_without_a_domain_nobody_is_probed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without /proc, this process is the only one known to run."""
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    monkeypatch.setattr(processes, "_LINUX", True)
    processes.domain.cache_clear()
    try:
        me = this_process()
        assert is_alive(me, 0.0, NOW)
        assert not is_alive(replace(me, pid=os.getppid()), LONG_AGO, NOW)
        assert processes.ancestors() == []
        processes.domain.cache_clear()
        assert this_process().host != me.host
    finally:
        processes.domain.cache_clear()


# -- sleep and changed clocks --------------------------------------------------------------------


def test_nobody_is_given_up_because_the_machine_slept() -> None:
    """All heartbeats stood still meanwhile, so each process gets time for its next one."""
    awake = 0.0
    patience = Patience(lambda: awake)
    before = patience.counted(NOW, NOW)
    awake += 1
    woken = patience.counted(NOW, NOW + 36_000)
    awake += FOREIGN_HOST_SILENCE
    later = patience.counted(NOW, NOW + 36_000 + FOREIGN_HOST_SILENCE)

    assert (before, woken, later) == (NOW, NOW + 36_000, NOW)


def test_a_clock_that_was_put_back_does_not_keep_the_dead_alive() -> None:
    """A heartbeat dated next year counts as recent for the usual silence limit only."""
    awake = 0.0
    patience = Patience(lambda: awake)
    there = Process("elsewhere", 1, 1.0)
    year = 365 * 86_400.0
    patience.counted(NOW + year, NOW + year)
    alive = []
    for passed in (0.0, FOREIGN_HOST_SILENCE):
        awake += passed
        alive.append(is_alive(there, patience.counted(NOW + year, NOW + awake), NOW + awake))

    assert alive == [True, False]


# -- real namespaces -----------------------------------------------------------------------------

OWN_PROC = ("unshare", "-pf", "--mount-proc")
OUTER_PROC = (*OWN_PROC, "unshare", "-pf")
NO_PROC = ("unshare", "-m", "sh", "-c", 'umount -l /proc && exec "$@"', "sh")
"""Commands that put a program into another PID namespace, into one that still has the outer /proc, and into one
without /proc.
"""


def _works(prefix: tuple[str, ...]) -> bool:
    try:
        return subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


needs_namespaces = pytest.mark.skipif(
    not all(map(_works, (OWN_PROC, OUTER_PROC, NO_PROC))), reason="this user may not make namespaces"
)


def _command(prefix: tuple[str, ...], db: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the bus in one of these."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "claude_bus", *args],
        env=environment(db, **env),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@needs_namespaces
@pytest.mark.parametrize("prefix", [OWN_PROC, OUTER_PROC, NO_PROC])
def test_a_command_in_a_sandbox_works_and_ends_nobody(tmp_path: Path, prefix: tuple[str, ...]) -> None:
    """It sees no process of a session, and must not take any for dead."""
    db = tmp_path / "bus.db"
    with wire(db) as alpha:
        alpha.call("register", name="alpha")
        alpha.call("claim", path="port:8080")
        done = [
            _command(prefix, db, *line, "--json")
            for line in (("send", "--as", "carol", "alpha", "hello"), ("inbox", "--as", "carol"), ("agents",))
        ]
        claims = alpha.call("list_claims").data["claims"]

    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 3
    assert {agent["name"]: agent["status"] for agent in json.loads(done[2].stdout)["agents"]}["alpha"] == "idle"
    assert [claim["owner"] for claim in claims] == ["alpha"]


class Contained(Wire):
    """A server in a PID namespace of its own, where its client has the same pid as in any other."""

    program = (
        *("-c", "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])", *OWN_PROC, "--kill-child"),
        *(sys.executable, "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"),
        *(sys.executable, "-m", "claude_bus", "stdio"),
    )


@needs_namespaces
def test_containers_with_one_pid_and_one_hostname_are_two_sessions(tmp_path: Path) -> None:
    """Neither ends the other on the shared file, whatever the names of their sockets."""
    socket = {"CLAUDE_CODE_MESSAGING_SOCKET": "/nowhere/cc-socks/1.sock"}
    servers = [Contained(tmp_path / "bus.db", CLAUDE_CODE_SESSION_ID=session, **socket) for session in ("s1", "s2")]
    try:
        one, two = (server.start() for server in servers)
        one.call("register", name="one")
        one.call("claim", path="gpu:0")
        two.call("register", name="two")
        refused = two.call("claim", path="gpu:0")
        taken = two.call("register", name="one")
        names = [server.call("whoami").text for server in (one, two)]
    finally:
        for server in servers:
            server.kill()

    assert refused.failed
    assert taken.failed
    assert names == ["one", "two"]


@needs_namespaces
def test_ancestors_are_named_as_they_know_themselves(tmp_path: Path) -> None:
    """Even under the /proc of an outer namespace, which has other pids, and only up to the own namespace."""
    code = (
        "import os; from claude_bus.processes import ancestors, domain, this_process; "
        "print([p.pid for p, _ in ancestors()] == [os.getppid()], this_process().pid == os.getpid(), domain().numbers)"
    )
    twice = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {code!r}]))"
    said = [
        subprocess.run(
            [*prefix, sys.executable, "-c", twice],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for prefix in (OWN_PROC, OUTER_PROC)
    ]

    assert said == [["True", "True", "True"], ["True", "True", "False"]]
