"""`claude-bus listen`: writes mail of an agent-bus into files."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio

from ... import processes, quoting, text
from ...cli import printing, private_files
from ...cli.settings import agent_bus
from ...config import AgentBus, Config
from ...errors import AlreadyRunning, InvalidInput
from ...records import record
from ..client import AgentBusClient, Mail
from .cursor import Cursor, cursor, file_of
from .signals import until_terminated
from .subscription import PAUSE, Subscription, complain

_AT_ONCE = 50
"""Messages in one answer at most."""


@record(frozen=True, slots=True)
class Outputs:
    """Files that a listener writes: a line per message, whole messages, the time of its last poll, and its pid."""

    log: Path
    full: Path
    heartbeat: Path
    pid_file: Path

    def beat(self) -> None:
        """Record that the listener is about to poll."""
        private_files.note(self.heartbeat, time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()).encode())

    def take(self, mail: Sequence[Mail]) -> None:
        """Append the messages to both files, or to neither if one cannot be written."""
        lines = "".join(printing.log_line(one.sender, one.ts, one.body) for one in mail)
        full = "".join(json.dumps(dict(one.fields), ensure_ascii=False) + "\n" for one in mail)
        # A lone surrogate has no UTF-8 encoding, but an escape, which means the same within JSON.
        private_files.append(
            (self.full, full.encode(errors="backslashreplace")), (self.log, lines.encode(errors="replace"))
        )


async def listen(options: argparse.Namespace, _config: Config) -> int:
    """Listen in the foreground until told to stop."""
    settings = agent_bus(options, needed=True)
    name = options.name or (settings.name if settings.named else "")
    if not name:
        raise InvalidInput("AGENT_NAME env var required: the name whose mail is written down, or listen NAME")
    outputs = _outputs(settings, name)
    with _alone(outputs.pid_file):
        print(f"listening for {text.name(name)}; mail goes to {text.path(str(outputs.log))}", file=sys.stderr)
        return await until_terminated(_listen(settings, name, cursor(settings, "listen", name), outputs))


def _outputs(settings: AgentBus, name: str) -> Outputs:
    def own(kind: str) -> Path:
        return file_of(settings, "listen", name, kind)

    found = Outputs(
        log=settings.log or own("log"),
        full=settings.full or own("jsonl"),
        heartbeat=settings.heartbeat or own("heartbeat"),
        pid_file=settings.pid_file or own("pid"),
    )
    for path in (found.log, found.full, found.heartbeat, found.pid_file):
        try:
            private_files.folder_of(path)
        except OSError as error:
            raise private_files.refusal(path, error) from None
    return found


async def _listen(settings: AgentBus, name: str, position: Cursor, outputs: Outputs) -> None:
    async with AgentBusClient(settings) as client:
        subscription = Subscription(client, name, position, _AT_ONCE)
        while True:
            mail = await subscription.next(outputs.beat)
            try:
                outputs.take(mail)
                position.move(mail[-1].ts)
            except OSError as error:
                complain(error)
                await anyio.sleep(PAUSE)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the only listener that holds the file, for as long as the context lasts. Raises `AlreadyRunning`."""
    try:
        descriptor = _locked(path)
    except OSError as error:
        raise private_files.refusal(path, error) from None
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _locked(path: Path) -> int:
    """Open the file and lock it for this process. The system releases the lock however the process ends."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _lock(descriptor):
            holder = os.read(descriptor, 100).decode(errors="replace")
            os.close(descriptor)
            raise AlreadyRunning(
                f"a listener runs already (pid {quoting.one_line(holder, 20)}, {text.path(str(path))}): "
                "end it, or name another PID_FILE, LOG and FULL",
            )
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # the listener before this one removed the file meanwhile


def _lock(descriptor: int) -> bool:
    """Return whether this process now holds the file's lock."""
    if sys.platform == "win32":  # no such lock exists there: the process that the file names must have ended
        named = os.read(descriptor, 20).strip()
        os.lseek(descriptor, 0, os.SEEK_SET)
        return not (named.isdigit() and processes.process(int(named)))
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
