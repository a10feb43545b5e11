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
from typing import Any

import psutil
from wire import Server

HERE = Path(__file__).parent
NOTHING = [sys.executable, str(HERE / "nothing_server.py")]
BUS = [sys.executable, "-m", "claude_bus"]
Figures = dict[str, dict[str, float]]


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


def beside(value: float, baseline: float) -> dict[str, float]:
    return {"value": value, "baseline": baseline, "ratio": value / baseline if baseline else 0.0}


# -- start and memory ---------------------------------------------------------------


def start(command: list[str], env: dict[str, str], *, modern: bool) -> float:
    with Server(command, env, modern=modern) as server:
        return server.started_in * 1000


def starts(folder: Path, rounds: int) -> Figures:
    """Milliseconds from spawning the process to its first answer."""
    env = environment(folder)
    figures = {}
    for name, modern in (("start to server/discover reply, ms", True), ("start to initialize reply, ms", False)):
        ours, nothing = [], []
        for _ in range(rounds):  # alternating, so that a busy moment affects both
            nothing.append(start(NOTHING, env, modern=modern))
            ours.append(start(BUS, env, modern=modern))
        figures[name] = beside(statistics.median(ours), statistics.median(nothing))
    return figures


def processes(server: Server) -> list[psutil.Process]:
    """Return the process that a client starts and its children: a bus server runs below the supervisor."""
    started = psutil.Process(server.process.pid)
    return [started, *started.children(recursive=True)]


def memory(server: Server) -> float:
    """Return the memory of all its processes in MiB; shared memory counts for each."""
    return sum(map(memory_of, processes(server)))


def memory_of(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1_048_576


# -- calls --------------------------------------------------------------------------


def calls(folder: Path, rounds: int) -> Figures:
    """Return the median milliseconds of a tool call over stdio, next to a tool that does nothing."""
    env = environment(folder)
    with ExitStack() as stack:
        nothing = stack.enter_context(Server(NOTHING, env))
        alice = stack.enter_context(Server(BUS, env))
        bob = stack.enter_context(Server(BUS, env))
        alice.call("register", name="alice")
        bob.call("register", name="bob")
        time.sleep(1)
        sizes = beside(memory(bob), memory(nothing))
        base = median_ms(lambda: nothing.call("nothing"), rounds)
        figures: dict[str, Any] = {
            "resident memory of an idle server, both processes, MiB": sizes,
            "send, ms": median_ms(lambda: alice.call("send", to="bob", content="hello"), rounds),
        }
        bob.call("inbox", limit=500)
        figures["inbox, empty, ms"] = median_ms(lambda: bob.call("inbox"), rounds)
        figures["inbox, one message, ms"] = statistics.median(one_message(alice, bob) for _ in range(rounds))
        event = {"event": "UserPromptSubmit", "session_id": "s", "permission_mode": "default"}
        bob.call("hook", **event, prompt_id="first")
        numbers = iter(range(1_000_000))
        figures["prompt hook, nothing new, ms"] = median_ms(
            lambda: bob.call("hook", **event, prompt_id=f"p{next(numbers)}"), rounds
        )
        batch = {"event": "PostToolBatch", "session_id": "s", "permission_mode": "default"}
        figures["tool hook, nothing new, ms"] = median_ms(lambda: bob.call("hook", **batch, prompt_id="p"), rounds)
    return {k: v if isinstance(v, dict) else beside(v, base) for k, v in figures.items()}


def one_message(alice: Server, bob: Server) -> float:
    alice.call("send", to="bob", content="hello")
    return median_ms(lambda: bob.call("inbox"), 1)


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


def noticing(folder: Path, rounds: int, idle: float) -> Figures:
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
    return {
        "send to ring, median, ms": beside(statistics.median(latencies), send),
        "send to ring, p95, ms": beside(statistics.quantiles(latencies, n=20)[-1], send),
        "idle server, both processes, % of a core": {"value": cpu, "baseline": 0.1, "ratio": cpu / 0.1},
        "idle server, both processes, wake-ups per second": {"value": wakeups, "baseline": 5.0, "ratio": wakeups / 5},
    }


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


def table(figures: Figures) -> str:
    width = max(map(len, figures))
    rows = [f"{'':<{width}}  {'value':>9}  {'baseline':>9}  {'ratio':>7}"]
    rows += [f"{k:<{width}}  {v['value']:9.3f}  {v['baseline']:9.3f}  {v['ratio']:6.2f}x" for k, v in figures.items()]
    return "\n".join(rows)


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
        folder = Path(name)
        figures: dict[str, Any] = {
            **starts(folder, 1 if options.quick else max(5, options.rounds // 20)),
            **calls(folder, options.rounds),
            **noticing(folder, min(100, options.rounds), options.idle),
        }
    print(json.dumps(figures) if options.json else table(figures))


if __name__ == "__main__":
    main()
