"""Scenarios on a small disk. Run as `python -m tests.support.small_disk SCENARIO FOLDER` by `on_small_disk`.

The program runs in a mount namespace of its own, in which FOLDER is a disk of 3 MB, and prints one JSON document.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.processes import PATIENCE, Answer, Wire, environment, wire

ROOM = 512 * 1024
_MOUNT = 'mount -t tmpfs -o size=3m,mode=755 none "$0" && exec "$@"'


def on_small_disk(scenario: str, folder: Path, program: str = "tests.support.small_disk") -> dict[str, Any]:
    """Run a scenario, of this program or another, on a disk of its own; returns its observations."""
    folder.mkdir()
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    done = subprocess.run(
        [
            "unshare",
            *user,
            "--mount",
            "sh",
            "-c",
            _MOUNT,
            str(folder),
            sys.executable,
            "-m",
            program,
            scenario,
            str(folder),
        ],
        env=environment(folder / "bus.db"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def stuff(folder: Path, name: str = "ballast") -> Path:
    """Fill the disk."""
    ballast = folder / name
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return ballast


def join(server: Wire) -> None:
    assert not server.call("register", name="alice").failed


def send(server: Wire, n: int) -> Answer:
    return server.call("send", to="bob", content=f"{n} " + "x" * 4000)


def fill(folder: Path) -> dict[str, Any]:
    """Send until the disk is full, read, make room, send again, read everything."""
    ballast = folder / "ballast"
    ballast.write_bytes(b"x" * ROOM)
    with wire(folder / "bus.db") as server:
        join(server)
        sent = 0
        while not (refused := send(server, sent)).failed:
            sent += 1
        again = [server.call("set_state", key="k", value="v" * 9000).failed for _ in range(3)]
        inside = contents(folder)
        ballast.unlink()
        after = send(server, sent)
        read = read_as(folder, "bob")
        exit_status = server.end()
    return {
        "sent": sent,
        "refusal": refused.text,
        "again": again,
        "inside": inside,
        "after": after.text,
        "read": read,
        "exit": exit_status,
    }


def read_as(folder: Path, name: str) -> list[str]:
    """The first word of each message for `name`."""
    words: list[str] = []
    with wire(folder / "bus.db") as reader:
        assert not reader.call("register", name=name).failed
        while found := reader.call("inbox", limit=500).data["messages"]:
            words += [message["content"].split()[0] for message in found]
    return words


def contents(folder: Path) -> dict[str, Any]:
    """The database's contents as another program reads them."""
    with closing(sqlite3.connect(f"file:{folder}/bus.db?mode=rw", uri=True)) as db:
        return {
            "messages": db.execute("SELECT COUNT(*) FROM messages").fetchone()[0],
            "integrity": db.execute("PRAGMA integrity_check").fetchone()[0],
        }


def full_from_the_start(folder: Path) -> dict[str, Any]:
    """Start on a full disk, then make room."""
    ballast = stuff(folder)
    with wire(folder / "bus.db") as server:
        refused = [server.call("register", name="alice") for _ in range(2)]
        hook = server.call("hook", event="UserPromptSubmit", session_id="s", prompt_id="p")
        ballast.unlink()
        after = server.call("register", name="alice")
    return {"refusals": [(one.failed, one.text) for one in refused], "hook": hook.text, "after": after.text}


def full_at_a_restart(folder: Path) -> dict[str, Any]:
    """Start where a server was killed, without room for the files that SQLite first creates; then make room."""
    with wire(folder / "bus.db") as server:
        join(server)
    (folder / "bus.db-shm").unlink()
    ballast = stuff(folder)
    with wire(folder / "bus.db") as server:
        refused = server.call("set_state", key="k", value="v")
        ballast.unlink()
        after = server.call("set_state", key="k", value="v")
    return {"refusal": refused.text, "after": after.text}


def full_for_a_moment(folder: Path) -> dict[str, Any]:
    """Fill the disk while a server runs that has not written for a while."""
    with wire(folder / "bus.db") as server:
        join(server)
        ballast = stuff(folder)
        refused = server.call("set_state", key="k", value="v" * 100_000)
        peek = server.call("list_state")
        ballast.unlink()
        after = server.call("set_state", key="k", value="v")
    return {"refusal": refused.text, "peek_failed": peek.failed, "after": after.text}


def read_only(folder: Path) -> dict[str, Any]:
    """Start where no file can be created, then where the file cannot be written; make the disk writable each time."""
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    with wire(folder / "bus.db") as server:
        no_file = server.call("register", name="alice")
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        accepted = server.call("register", name="alice")
        server.end()
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    with wire(folder / "bus.db") as server:
        no_write = server.call("register", name="alice")
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        at_last = server.call("register", name="alice")
    return {"no_file": no_file.text, "accepted": accepted.text, "no_write": no_write.text, "at_last": at_last.text}


SCENARIOS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "fill": fill,
    "full_from_the_start": full_from_the_start,
    "full_at_a_restart": full_at_a_restart,
    "full_for_a_moment": full_for_a_moment,
    "read_only": read_only,
}

if __name__ == "__main__":
    print(json.dumps(SCENARIOS[sys.argv[1]](Path(sys.argv[2]))))
