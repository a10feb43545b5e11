"""Draw the pictures of the documentation: the real Claude Code client, with a scripted model in place of Anthropic's.

    python -m docs.screens              all of them, into docs/images
    python -m docs.screens mail guard   some of them

It needs what the end-to-end tests need: tmux, and the client that CLAUDE_BIN names (`scripts/client`). Nothing
leaves this machine. Look at each picture before you commit it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.e2e.claude_e2e import Sandbox, Tui
from tests.e2e.fake_anthropic import FakeAnthropic, Script, text, tool
from tests.e2e.peer import Peer, eventually
from tests.support.working_trees import repository

from .picture import draw, stack, trimmed

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
COLUMNS = 92
TOOLS = "mcp__plugin_bus_bus"
HOME = "/home/ann"
"""The folder that the pictures show in place of the one they are made in."""


class Session:
    """A session in a terminal of its own, and the model that answers it."""

    def __init__(self, stage: Stage, name: str, script: tuple[Script, ...], *, joined: bool) -> None:
        self.name = name
        self._stage = stage
        self._model = stage.running.enter_context(FakeAnthropic(script))
        env = {"ANTHROPIC_BASE_URL": self._model.url} | ({"BUS_NAME": name} if joined else {})
        mode = ("--permission-mode", "acceptEdits", "--allowedTools", TOOLS)
        box, size = stage.box, (COLUMNS, 44)
        self._tui = stage.running.enter_context(Tui(box, "--plugin-dir", str(ROOT), *mode, env=env, size=size))

    def turn(self, prompt: str) -> None:
        """Submit a prompt and wait for the end of the turn."""
        asked = len(self._model.main)
        self._tui.prompt(prompt)
        self._model.wait_main(asked + 1)
        self.rest()

    def rest(self, turns: int = 0) -> None:
        """Wait until the session is idle, once its model was asked so many times."""
        if turns:
            self._model.wait_main(turns)
        self._stage.onlooker.wait_for_status(self.name, "idle")
        self._tui.wait_until_idle()
        eventually(lambda: " · done " in self._last(), "the turn's end is on screen", self._last)

    def _last(self) -> str:
        """The last line above the box for prompts."""
        lines = [line for line in self._tui.screen().split("────")[0].splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def screen(self, since: str) -> str:
        """The screen from the prompt `since` on."""
        return trimmed(self._tui.coloured_screen(), since=f"❯ {since}", upto="────")


class Stage:
    """A machine with a project on it, and a bus."""

    def __init__(self, folder: Path, running: ExitStack) -> None:
        home = folder / "home"
        self.running = running
        self.db = home / ".claude-bus" / "bus.db"
        self.box = Sandbox(folder, CLAUDE_BUS_PYTHON=sys.executable, COLORTERM="truecolor", TERM="tmux-256color")
        self.box.project = home / "shop"
        (self.box.project / "src" / "api").mkdir(parents=True)
        (self.box.project / "src" / "api" / "login.ts").write_text("export const login = '/login';\n")
        repository(self.box.project)
        self.box.trust(self.box.project)
        self.onlooker = Peer(self.db, "onlooker")

    def session(self, name: str, *script: Script, joined: bool = True) -> Session:
        """Start a session; its model answers with the script."""
        return Session(self, name, script, joined=joined)

    def shell(self, *commands: str, **env: str) -> str:
        """The screen of a shell in which these commands were typed. `claude-bus` and `claude` are on its PATH."""
        programs = self.box.home / ".local" / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        for name, line in {
            "claude-bus": f'PYTHONPATH={ROOT / "src"} exec {sys.executable} -m claude_bus "$@"',
            "claude": f'exec {self.box.binary} "$@"',
        }.items():
            (programs / name).write_text(f"#!/bin/sh\n{line}\n")
            (programs / name).chmod(0o755)
        path = f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin"
        shown = []
        for command in commands:
            done = subprocess.run(
                ["sh", "-c", command],
                cwd=self.box.project,
                env=self.box.env | {"PATH": path, "BUS_NAME": "ann"} | env,
                capture_output=True,
                text=True,
                check=False,
            )
            shown += [f"\x1b[1;32m$\x1b[0m \x1b[1m{command}\x1b[0m", done.stdout + done.stderr]
        return self._elsewhere("\n".join(shown))

    def _elsewhere(self, shown: str) -> str:
        """With the folders of somebody who installed the bus from a clone."""
        for folder, shown_as in {self.box.config: ".claude", ROOT: "claude-bus", self.box.home: ""}.items():
            shown = shown.replace(str(folder), f"{HOME}/{shown_as}".rstrip("/"))
        return shown


@contextmanager
def stage() -> Iterator[Stage]:
    """A stage in a folder of its own, with all that ran on it ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="bus", ignore_cleanup_errors=True) as folder, ExitStack() as running:
        yield Stage(Path(folder), running)


def coloured(shown: str) -> str:
    """The marks of `doctor` in the colours in which one looks for them."""
    for mark, colour in ((" ok ", "32"), (" PROBLEM ", "1;31"), (" -- ", "2")):
        shown = shown.replace(mark, f"\x1b[{colour}m{mark}\x1b[0m")
    return shown


def mail() -> str:
    """One session writes; the other one, which was idle, is woken and reads it."""
    with stage() as on:
        frontend = on.session(
            "frontend",
            text("I am frontend; backend is here as well."),
            text("Login has moved to `POST /session`. I'll change src/api/login.ts to match. May I?"),
        )
        backend = on.session(
            "backend",
            tool(
                f"{TOOLS}__send",
                to="frontend",
                content="Login is POST /session now, with user and password. 201 brings a token.",
            ),
            text("Sent. frontend is idle, and is being woken."),
            tool(f"{TOOLS}__message_status", message_id=1),
            text("Yes: frontend has read it."),
        )
        frontend.turn("who is here?")
        backend.turn("tell frontend how login works now")
        frontend.rest(turns=2)
        backend.turn("did frontend read it?")
        return stack(
            [
                draw(backend.screen("tell frontend"), COLUMNS, "backend"),
                draw(frontend.screen("who is here?"), COLUMNS, "frontend"),
            ]
        )


def guard() -> str:
    """An edit of what another session claims is refused once."""
    with stage() as on:
        backend = on.session(
            "backend",
            tool(f"{TOOLS}__claim", path="src/api/**", reason="moving the login", ttl="30m"),
            text("Claimed src/api/** for 30 minutes."),
        )
        frontend = on.session(
            "frontend",
            tool("Write", file_path=str(on.box.project / "src" / "api" / "session.ts"), content="export {};\n"),
            text("backend has claimed src/api/** while it moves the login. I'll ask before I touch it."),
        )
        backend.turn("claim src/api while you move the login")
        frontend.turn("add src/api/session.ts")
        return stack(
            [
                draw(backend.screen("claim src/api"), COLUMNS, "backend"),
                draw(frontend.screen("add src/api"), COLUMNS, "frontend"),
            ]
        )


def join() -> str:
    """`/bus backend` takes a name; `/bus` alone says who is here."""
    with stage() as on:
        frontend = on.session("frontend", text("I am frontend."))
        frontend.turn("hello")
        backend = on.session(
            "shop",
            tool(f"{TOOLS}__register", name="backend", role="the API"),
            tool(f"{TOOLS}__agents"),
            text("I am backend (the API). frontend is here and idle; no mail, no shared state."),
            tool(f"{TOOLS}__inbox"),
            text("Nothing new. frontend is idle in ~/shop."),
            joined=False,
        )
        backend.name = "backend"
        backend.turn("/bus backend the API")
        return draw(backend.screen("/bus"), COLUMNS, "/bus backend the API")


def doctor() -> str:
    """A machine that is set up."""
    with stage() as on:
        on.shell("claude-bus setup --yes", "claude-bus send frontend hello")
        shown = on.shell("claude-bus doctor")
        return draw(coloured(shown), 100, "claude-bus doctor")


def shell() -> str:
    """A person takes part from a shell."""
    with stage() as on:
        frontend = on.session("frontend", text("I am frontend."), text("Thanks, I'll try it."))
        frontend.turn("hello")
        shown = on.shell(
            "claude-bus agents",
            'claude-bus send frontend "the staging deploy is done" --kind request',
        )
        frontend.rest(turns=2)
        return draw(shown, COLUMNS, "a shell")


SCREENS: dict[str, Callable[[], str]] = {screen.__name__: screen for screen in (mail, guard, join, doctor, shell)}


def run(names: list[str]) -> None:
    """Draw these, or all."""
    for name in names or SCREENS:
        (IMAGES / f"{name}.svg").write_text(SCREENS[name](), encoding="utf-8")
        print(f"docs/images/{name}.svg")


if __name__ == "__main__":
    run(sys.argv[1:])
