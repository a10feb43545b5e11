"""The bus beside what a user could take instead: the original claude-bus 0.2.0, hcom, the client's own SendMessage.

    python benchmarks/peers.py [--rounds N] [--only NAME] [--quick] [--json]

Installs the two programs from the package index, each into an environment of its own. SendMessage is measured in
the real Claude Code client: the time from the moment that one session's model calls the tool until the request with
the message reaches the other session's model, which was idle. Needs CLAUDE_BIN and tmux.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import BUS, environment, memory, ms, start
from cost import cost
from figures import Figure, alternately, plain
from wire import Server

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.e2e.claude_e2e import Sandbox, Tui  # noqa: E402
from tests.e2e.fake_anthropic import FakeAnthropic, Request, Turn, tool  # noqa: E402

ORIGINAL = ("claude-bus==0.2.0", "mcp<2")
HCOM = ("hcom",)


def installed(folder: Path, *packages: str) -> Path:
    """Install packages into a new environment; return the folder with its programs."""
    venv.create(folder, with_pip=True, symlinks=True)
    programs = folder / "bin"
    subprocess.run([programs / "pip", "install", "--quiet", *packages], check=True, capture_output=True)
    return programs


# -- the original ---------------------------------------------------------------------------


def original(folder: Path, rounds: int) -> list[Figure]:
    """Both servers over stdio, by turns."""
    name = "original 0.2.0"
    theirs_command = [str(installed(folder / "original", *ORIGINAL) / "claude-bus")]
    ours_env = environment(folder)
    their_env = {**ours_env, "BUS_DB": str(folder / "original.db"), "PYTHONPATH": ""}
    taken = alternately(
        max(1, rounds // 20),
        lambda: start(theirs_command, their_env, modern=False),
        lambda: start(BUS, ours_env, modern=False),
    )
    theirs, ours = map(statistics.median, taken)
    figures = [Figure("start to the reply to initialize", ours, "ms", theirs, name, "faster")]
    with ExitStack() as stack:
        pairs = []
        for command, env in ((theirs_command, their_env), (BUS, ours_env)):
            pair = [stack.enter_context(Server(command, env, modern=False)) for _ in range(2)]
            for server, agent in zip(pair, ("alice", "bob"), strict=True):
                server.call("register", name=agent)
            pairs.append(pair)
        time.sleep(1)
        theirs, ours = (memory(pair[1]) for pair in pairs)
        figures.append(Figure("an idle, registered session, all processes, RSS", ours, "MiB", theirs, name))
        for what, action in (("send", send), ("send, then inbox", send_and_read)):
            measures = [measure_of(action, *pair) for pair in pairs]
            theirs, ours = map(statistics.median, alternately(rounds, *measures))
            figures.append(Figure(what, ours, "ms", theirs, name, "faster" if "inbox" in what else ""))
            for _, bob in pairs:
                bob.call("inbox")
    return figures


def measure_of(action: Callable[[Server, Server], None], alice: Server, bob: Server) -> Callable[[], float]:
    return lambda: ms(lambda: action(alice, bob))


def send(alice: Server, _bob: Server) -> None:
    alice.call("send", to="bob", content="hello")


def send_and_read(alice: Server, bob: Server) -> None:
    alice.call("send", to="bob", content="hello")
    bob.call("inbox")


# -- hcom ------------------------------------------------------------------------------------


def hcom(folder: Path, rounds: int) -> list[Figure]:
    """The command that sends a message. hcom is a compiled program."""
    program = str(installed(folder / "hcom", *HCOM) / "hcom")
    env = environment(folder)
    started = subprocess.run([program, "start"], env=env, cwd=folder, capture_output=True, text=True, check=True)
    name = next(line for line in started.stdout.splitlines() if line.startswith("[hcom:"))[6:].strip("]")
    commands = {
        "hcom": [program, "send", "--from", "script", f"@{name}", "--", "hello there"],
        "ours": [*BUS, "send", "bob", "hello there"],
    }
    taken = alternately(rounds, *(lambda each=each: cost(each, env, folder).wall for each in commands.values()))
    theirs, ours = map(statistics.median, taken)
    return [Figure("the command that sends 'hello there'", ours, "ms", theirs, "hcom")]


# -- the client's own messages ---------------------------------------------------------------------


class Pair:
    """Two interactive sessions of the real client, alpha and beta, with a scripted model each."""

    def __init__(self, stack: ExitStack, folder: Path, env: Mapping[str, str], *arguments: str) -> None:
        box = Sandbox(folder, **env)
        self.models, self.sessions = [], []
        for name in ("alpha", "beta"):
            model = stack.enter_context(FakeAnthropic())
            own = {"ANTHROPIC_BASE_URL": model.url, "BUS_NAME": name}
            session = Tui(box, "-n", name, "--permission-mode", "manual", *arguments, env=own)
            self.sessions.append(stack.enter_context(session))
            self.models.append(model)
            session.prompt("hello")
            model.wait_main(1)
            session.wait_until_idle()

    def wake(self, name: str, **arguments: Any) -> float:
        """Have alpha's model call a tool; return the milliseconds until beta's model gets a request."""
        alpha, beta = self.models
        begun: list[float] = []

        def call(_request: Request) -> Turn:
            begun.append(time.perf_counter())
            return tool(name, **arguments)

        before, own = len(beta.main), len(alpha.main)
        alpha.push(call)
        self.sessions[0].prompt("tell beta")
        beta.wait_main(before + 1)
        taken = (time.perf_counter() - begun[0]) * 1000
        alpha.wait_main(own + 2)  # the prompt, and the tool's result
        for session in self.sessions:
            session.wait_until_idle()
        return taken


def native(folder: Path, rounds: int) -> list[Figure]:
    """Waking an idle session."""
    bus = {"BUS_DB": str(folder / "bus.db"), "CLAUDE_BUS_PYTHON": sys.executable}
    numbers = itertools.count()  # SendMessage drops a message that repeats the one before
    with ExitStack() as stack:
        plain_pair = Pair(stack, folder / "native", {}, "--allowedTools", "SendMessage")
        our_pair = Pair(
            stack, folder / "ours", bus, "--plugin-dir", str(ROOT), "--allowedTools", "mcp__plugin_bus_bus__send"
        )
        theirs, ours = alternately(
            rounds,
            lambda: plain_pair.wake("SendMessage", to="beta", message=f"build {next(numbers)}", summary="build"),
            lambda: our_pair.wake("mcp__plugin_bus_bus__send", to="beta", content=f"build {next(numbers)}"),
        )
    what = "from a model's call to the idle peer's model"
    return [Figure(what, statistics.median(ours), "ms", statistics.median(theirs), "SendMessage")]


PEERS: dict[str, Callable[[Path, int], list[Figure]]] = {"original": original, "hcom": hcom, "native": native}


def measured(folder: Path, rounds: int, only: str = "") -> list[Figure]:
    """All figures of this file, or those of one peer."""
    figures = []
    for name, measure in PEERS.items():
        if only in ("", name):
            (folder / name).mkdir(parents=True)
            figures += measure(folder / name, min(rounds, 10) if name == "native" else rounds)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--only", choices=PEERS, default="", help="one of them")
    parser.add_argument("--quick", action="store_true", help="few rounds: does it run?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        figures = measured(Path(name), 2 if options.quick else options.rounds, options.only)
    print(json.dumps([each.as_dict() for each in figures]) if options.json else plain(figures))


if __name__ == "__main__":
    main()
