"""Costs of the bus, each figure next to a do-nothing baseline of the same run.

    python benchmarks/bench.py [--idle SECONDS] [--rounds N] [--quick] [--json]

Machines differ and are shared: compare the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
from figures import Figure, alternately, plain
from wire import Server

HERE = Path(__file__).parent
NOTHING = [sys.executable, str(HERE / "nothing_server.py")]
BUS = [sys.executable, "-m", "claude_bus"]
SDK = "bare SDK server"
NO_OP = "SDK no-op call"
WAKES = 18
"""Wakes in a row that the sessions' budget for one session allows; later ones wait, see `claude_bus.waking`."""


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a user who may send without a rate limit."""
    source = str(HERE.parent / "src")
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "BUS_DB": str(folder / "bus.db"),
        "BUS_RATE": "0",
        "PYTHONPATH": source,
        **more,
    }


def median_ms(action: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken) * 1000


# -- start and memory ---------------------------------------------------------------


def start(command: list[str], env: dict[str, str], *, modern: bool) -> float:
    with Server(command, env, modern=modern) as server:
        return server.started_in * 1000


def starts(folder: Path, rounds: int) -> list[Figure]:
    """Milliseconds from spawning the process to its first answer."""
    env = environment(folder)
    figures = []
    for method, modern in (("server/discover", True), ("initialize", False)):

        def timed(command: list[str], *, modern: bool = modern) -> float:
            return start(command, env, modern=modern)

        nothing, ours = alternately(rounds, lambda: timed(NOTHING), lambda: timed(BUS))
        what = f"start to the reply to {method}"
        figures.append(Figure(what, statistics.median(ours), "ms", statistics.median(nothing), SDK, "<= 0.35 x"))
    return figures


def processes(server: Server) -> list[psutil.Process]:
    """Return the process that a client starts and its children: a bus server runs below the supervisor."""
    started = psutil.Process(server.process.pid)
    return [started, *started.children(recursive=True)]


def memory(server: Server, kind: str = "rss") -> float:
    """Return the memory of all its processes in MiB.

    `rss` counts a page for each process that shares it; `pss` (Linux) divides it among them.
    """
    return sum(memory_of(process, kind) for process in processes(server))


def memory_of(process: psutil.Process, kind: str = "rss") -> float:
    found = process.memory_full_info() if kind == "pss" else process.memory_info()
    return float(getattr(found, kind)) / 1_048_576


# -- calls --------------------------------------------------------------------------


def calls(folder: Path, rounds: int) -> list[Figure]:
    """Return the median milliseconds of a tool call over stdio, next to a tool that does nothing."""
    env = environment(folder)
    with ExitStack() as stack:
        nothing = stack.enter_context(Server(NOTHING, env))
        alice = stack.enter_context(Server(BUS, env))
        bob = stack.enter_context(Server(BUS, env))
        alice.call("register", name="alice")
        bob.call("register", name="bob")
        time.sleep(1)
        what = "an idle, registered session, all processes"
        figures = [
            Figure(f"{what}, RSS", memory(bob), "MiB", memory(nothing), SDK, "<= 50 MiB"),
            Figure(f"{what}, PSS", memory(bob, "pss"), "MiB", memory(nothing, "pss"), SDK, "<= 38 MiB"),
        ]
        numbers = iter(range(10_000_000))
        measures: dict[str, tuple[Callable[[], float], str]] = {
            "send": (lambda: ms(lambda: alice.call("send", to="bob", content="hello")), "<= 2 x"),
            "inbox, one message": (lambda: one_message(alice, bob), "<= 2 x"),
            "inbox, nothing new": (lambda: ms(lambda: bob.call("inbox")), ""),
            "send, then inbox": (lambda: ms(lambda: there_and_read(alice, bob)), "< original 0.2.0"),
            "prompt hook, nothing new": (lambda: prompted(bob, next(numbers)), "<= 2 x"),
            "tool hook, nothing new": (
                lambda: ms(lambda: bob.call("hook", event="PostToolBatch", **TURN, prompt_id="p")),
                "<= 2 x",
            ),
        }
        bases: list[float] = []
        for name, (measure, goal) in measures.items():
            settle(bob)
            base, ours = alternately(rounds, lambda: ms(lambda: nothing.call("nothing")), measure)
            bases += base
            figures.append(Figure(name, statistics.median(ours), "ms", statistics.median(base), NO_OP, goal))
    return figures


def ms(action: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1000


TURN = {"session_id": "s", "permission_mode": "default"}


def settle(server: Server) -> None:
    """Have its session read all its mail, as a model in a turn that goes on does, and end the turn."""
    server.call("hook", event="UserPromptSubmit", **TURN, prompt_id="settling")
    for _ in range(20):
        server.call("inbox", limit=500)
        server.call("hook", event="PostToolBatch", **TURN, prompt_id="settling")
    server.call("hook", event="Stop", **TURN, prompt_id="settling")


def prompted(server: Server, number: int) -> float:
    """Milliseconds of the hook of a prompt, whose turn ends then."""
    turn = {**TURN, "prompt_id": f"p{number}"}
    taken = ms(lambda: server.call("hook", event="UserPromptSubmit", **turn))
    server.call("hook", event="Stop", **turn)
    return taken


def there_and_read(alice: Server, bob: Server) -> None:
    alice.call("send", to="bob", content="hello")
    bob.call("inbox")


def one_message(alice: Server, bob: Server) -> float:
    alice.call("send", to="bob", content="hello")
    return ms(lambda: bob.call("inbox"))


# -- noticing -----------------------------------------------------------------------


class Bell:
    """A stand-in for a session's inbox socket; notes when something was written to it."""

    def __init__(self, path: Path) -> None:
        self.rung = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                while connection.recv(65536):
                    pass
            self.rung.set()


def noticing(folder: Path, rounds: int, idle: float) -> list[Figure]:
    """Return the milliseconds from calling `send` to the ring at an idle session, and the cost of idling."""
    path = folder / f"{os.getpid()}.sock"
    bell = Bell(path)
    env = environment(folder)
    with Server(BUS, {**env, "CLAUDE_CODE_MESSAGING_SOCKET": str(path)}) as bob, Server(BUS, env) as alice:
        alice.call("register", name="alice2")
        bob.call("register", name="bob2")
        latencies = [ring(alice, bob, bell, n) for n in range(rounds)]
        bob.call("inbox")
        time.sleep(min(3, idle))
        cpu, wakeups = idling(bob, idle)
    send = median_of_plain_send(env)
    median, late = statistics.median(latencies), statistics.quantiles(latencies, n=20)[-1]
    idle_server = "an idle session, both processes"
    return [
        Figure("send until an idle session rings, median", median, "ms", send, "our send to nobody"),
        Figure("send until an idle session rings, p95", late, "ms", send, "our send to nobody"),
        Figure(f"{idle_server}, processor", cpu, "% of a core", 0.0, "", "<= 0.1 %"),
        Figure(f"{idle_server}, wake-ups", wakeups, "per second", 0.0, "", "<= 5"),
    ]


def median_of_plain_send(env: dict[str, str]) -> float:
    with Server(BUS, env) as server:
        server.call("register", name="carol")
        return median_ms(lambda: server.call("send", to="nobody", content="x", kind="fyi"), 30)


def ring(alice: Server, bob: Server, bell: Bell, number: int) -> float:
    event = {"session_id": "s", "permission_mode": "default", "prompt_id": f"r{number}"}
    bob.call("hook", event="UserPromptSubmit", **event)
    bob.call("hook", event="Stop", **event)
    bell.rung.clear()
    begin = time.perf_counter()
    alice.call("send", to="bob2", content="wake up")
    if not bell.rung.wait(30):
        raise TimeoutError("the doorbell did not ring")
    return (time.perf_counter() - begin) * 1000


def idling(server: Server, seconds: float) -> tuple[float, float]:
    """Return percent of a core, and wake-ups (voluntary context switches) per second."""
    watched = processes(server)
    cpu, switches = seconds_used(watched), all_switches(watched)
    time.sleep(seconds)
    return (seconds_used(watched) - cpu) / seconds * 100, (all_switches(watched) - switches) / seconds


def seconds_used(watched: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in watched)


def all_switches(watched: list[psutil.Process]) -> int:
    """Return the switches of all their threads; a process's own figure only covers its main thread."""
    statuses = [each for process in watched for each in Path(f"/proc/{process.pid}/task").glob("*/status")]
    rows = [row for status in statuses for row in status.read_text().splitlines()]
    return sum(int(row.split()[1]) for row in rows if row.startswith("voluntary"))


# -- output -------------------------------------------------------------------------


def measured(folder: Path, rounds: int, idle: float) -> list[Figure]:
    """All figures of this file."""
    return [
        *starts(folder, max(1, rounds // 20)),
        *calls(folder, rounds),
        *noticing(folder, min(WAKES, rounds), idle),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=float, default=60, help="seconds to watch an idle server")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.idle = 2, 0.5
    with tempfile.TemporaryDirectory() as name:
        figures = measured(Path(name), options.rounds, options.idle)
    print(json.dumps([each.as_dict() for each in figures]) if options.json else plain(figures))


if __name__ == "__main__":
    main()
