"""`claude-bus listen`: writes mail of an agent-bus into files, whether or not anybody looks."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from ... import processes, quoting, text
from ...cli import printing, private_files
from ...cli.settings import agent_bus
from ...config import AgentBus, Config
from ...errors import AlreadyRunning, InvalidInput
from ..client import AgentBusClient, Mail
from .cursor import Cursor, cursor, file_of
from .signals import until_terminated
from .subscription import PAUSE, Subscription, complain

_AT_ONCE = 50
"""Messages that one request brings at most."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a listener writes: a line per message, the whole messages, when it polled last, and its pid."""

    log: Path
    full: Path
    heartbeat: Path
    pid_file: Path

    def beat(self) -> None:
        """Note that the listener is about to ask."""
        private_files.note(self.heartbeat, time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()).encode())

    def take(self, mail: Sequence[Mail]) -> None:
        """Append the messages: to both files, or where one cannot take them to none."""
        lines = "".join(printing.log_line(one.sender, one.ts, one.body) for one in mail)
        full = "".join(json.dumps(dict(one.fields), ensure_ascii=False) + "\n" for one in mail)
        # Half a surrogate pair has no UTF-8, but an escape, and within JSON that is the same.
        private_files.append(
            (self.full, full.encode(errors="backslashreplace")), (self.log, lines.encode(errors="replace"))
        )


async def listen(options: argparse.Namespace, _config: Config) -> int:
    """Listen in the foreground until told to end."""
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
    """Be the one listener that the file names, as long as this lasts; raises if another one is."""
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
    """The file, opened and locked for this process. The system lets the lock go however the process ends."""
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
        os.close(descriptor)  # the one before removed it in between


def _lock(descriptor: int) -> bool:
    """Whether this process has the file's lock now."""
    if sys.platform == "win32":  # no such lock there: whoever the file names must have gone
        named = os.read(descriptor, 20).strip()
        os.lseek(descriptor, 0, os.SEEK_SET)
        return not (named.isdigit() and processes.process(int(named)))
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
