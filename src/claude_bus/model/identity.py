"""The participants: addresses, processes, clients, agents, and which agent a session is."""

from __future__ import annotations

from typing import Literal

from ..records import record

Status = Literal["working", "idle", "waiting", "offline"]


@record(frozen=True, slots=True)
class Address:
    """Who: a name within a channel."""

    name: str
    channel: str

    def seen_from(self, channel: str) -> str:
        """The shortest spelling that works for somebody on `channel`."""
        return self.name if channel == self.channel else f"{self.name}@{self.channel}"


@record(frozen=True, slots=True)
class Process:
    """A running process, told apart from a later one that got the same pid."""

    host: str
    """Where the pid means this process: the running kernel and the PID namespace, see `processes.Domain`."""
    pid: int
    started: float

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.started:.2f}"


@record(frozen=True, slots=True)
class Folder:
    """Where a session works."""

    cwd: str = ""
    root: str = ""
    """Top of the working tree, or `cwd` where there is none."""
    repository: str = ""
    """The identity that all clones and worktrees of one repository share; empty outside of one."""
    branch: str = ""


@record(frozen=True, slots=True)
class Client:
    """A program that takes part, as it presents itself when it attaches."""

    key: str
    """Identifies the client's process, among those of all machines and containers: by its inbox socket, else by
    its pid and start time."""
    process: Process
    folder: Folder = Folder()
    session_id: str = ""
    """The client's conversation id; `/clear` changes it."""
    program: str = "claude-code"
    session: str = ""
    """For a subagent: the key of the session it belongs to, and ends with."""
    listed: str = ""
    """The name it is listed as before it registers; "" for one made from its folder."""
    hooked: bool = False
    """Its hooks are known to bring it mail; without them it reads when it calls inbox."""


@record(frozen=True, slots=True)
class Overlap:
    """Files that another present agent owns or claims as well."""

    name: str
    paths: tuple[str, ...]


@record(frozen=True, slots=True)
class Agent:
    """A named participant, with what is known of its presence."""

    name: str
    channel: str
    role: str
    owns: tuple[str, ...]
    registered: bool
    """False: present under a name made from its folder, not yet joined."""
    status: Status
    last_seen: float
    joined: float
    cwd: str
    branch: str
    client: str
    doing: str = ""
    """First words of its last prompt, if it shares them."""
    overlaps: tuple[Overlap, ...] = ()


@record(frozen=True, slots=True)
class Binding:
    """Which agent a running session is."""

    client: str
    address: Address
    registered: bool
    session_id: str
    process: Process
    status: Status
    role: str = ""
    bell: bool = False
    """Whether the session can be woken."""
    prompt_id: str = ""
    """The turn that a hook event reported last; empty where none ever came."""
    hooked: bool = True
    """Hooks bring it its mail."""
    woken: tuple[float, float] = (0.0, 0.0)
    """Until when its wakes are spent, for mail of sessions and for mail of programs; see `waking.wake_wait`."""


@record(frozen=True, slots=True)
class SignOfLife:
    """A record that goes with a call of a session: the binding as its server knows it, and news of the session.

    The call is refused with `Displaced` if the store has another binding. Empty fields leave things as they are.
    """

    client: str
    """The client's key."""
    process: Process
    """The client's."""
    address: Address
    registered: bool
    status: Status | None = None
    session_id: str = ""
    program: str = ""
    proven: tuple[int, ...] = ()
    """Messages that its model has demonstrably had."""
    lost: tuple[int, ...] = ()
    """Messages whose hand-over came to nothing."""
    noted: bool = True
    """False: nothing of it is noted, as on a disk that is full."""


@record(frozen=True, slots=True)
class Roster:
    """The other agents, as one line names them."""

    peers: tuple[tuple[str, Status], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.peers)
