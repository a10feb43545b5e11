"""Which agent a running session is, from its start to its end."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated

from .. import addresses, grants, limits, quoting
from ..errors import NameTaken
from ..model.identity import Address, Binding, Client, Overlap, Process, Roster, Status
from ..names import looks_like
from . import columns, events, listeners, mailboxes
from .arguments import Channel, Local, SessionKey
from .transaction import Row, Transaction, among, at_once, keys, listed, spread
from .verbs import verb

_BINDING = """
SELECT b.client, b.channel, b.agent, b.session_id, b.host, b.pid, b.started, b.heartbeat, b.bell, b.prompt_id,
       b.hooked, b.woken_by_sessions, b.woken_by_programs, b.introduced, b.told, b.overlaps,
       a.registered, a.status, a.role, a.client AS program
FROM bindings b JOIN agents a ON a.channel = b.channel AND a.name = b.agent
"""


@verb("binding", mode="read")
def bound(tx: Transaction, client: SessionKey) -> Binding | None:
    """The binding of a client, whether or not its process still runs."""
    row = row_of(tx, client)
    return of_row(row) if row else None


def row_of(tx: Transaction, client: str) -> Row | None:
    """The row of a client's binding, with what its conversation was told; `of_row` makes the binding of it."""
    return tx.one(f"{_BINDING} WHERE b.client = ?", client)


def holder(tx: Transaction, who: Address) -> Binding | None:
    """The live session that is `who`. Sessions found dead are ended on the way."""
    return holders(tx, [who]).get(who)


def holders(tx: Transaction, whose: Sequence[Address]) -> dict[Address, Binding]:
    """The live sessions that are these. Sessions found dead are ended on the way."""
    return _with_dead(tx, whose)[0]


def end_dead(tx: Transaction, whose: Sequence[Address]) -> set[Address]:
    """End the sessions of these that have died; returns those that had only such sessions."""
    found, dead = _with_dead(tx, whose)
    return dead - set(found)


def _with_dead(tx: Transaction, whose: Sequence[Address]) -> tuple[dict[Address, Binding], set[Address]]:
    """The live sessions that are these, and those of them that had a dead one, which is ended."""
    found: dict[Address, Binding] = {}
    dead = []
    for some in at_once(whose):
        for row in tx.all(f"{_BINDING} WHERE {among('b.channel, b.agent', len(some))}", *keys(some)):
            binding = of_row(row)
            if tx.alive(binding.process, row["heartbeat"]):
                found.setdefault(binding.address, binding)
            else:
                dead.append((binding, row["heartbeat"]))
    end_all(tx, dead)
    return found, {binding.address for binding, _ in dead}


def live(tx: Transaction, channel: str) -> dict[str, Row]:
    """Names with a live session on the channel, each with its binding row."""
    rows = tx.all(f"{_BINDING} WHERE b.channel = ?", channel)
    return {r["agent"]: r for r in rows if tx.alive(listeners.process_of(r), r["heartbeat"])}


def count(tx: Transaction, begins: str) -> int:
    """How many sessions there are, on whichever channel, whose clients' keys begin like this and that were heard of
    lately."""
    return int(
        tx.number(
            "SELECT COUNT(*) FROM bindings WHERE SUBSTR(client, 1, ?) = ? AND heartbeat > ?",
            len(begins),
            begins,
            tx.now - limits.FOREIGN_HOST_SILENCE,
        )
    )


@verb("attach", begins=True)
def attach(tx: Transaction, client: Client, wanted: Address | None, channel: Channel) -> Binding:
    """Bind a starting client: to what it is already, to its resumed name, to `wanted`,
    or else to a name made from its folder.

    Raises `NameTaken` if `wanted` is held by another live session, and `Forbidden` if there
    is no name that the caller's grant permits; nothing is bound then.
    """
    existing = bound(tx, client.key)
    if existing and existing.process == client.process:
        return existing
    if existing:
        end(tx, existing, tx.now)
    if wanted:
        refuse_if_held(tx, wanted, client.key)
        mailboxes.check_new(tx, wanted)
    found = grants.require(tx.caller.grant, wanted) if wanted else last_name_of(tx, client.session_id)
    who = found or _present(tx, client, channel)
    mailboxes.ensure(tx, who)
    tx.run(
        "INSERT INTO bindings (client, session, channel, agent, session_id, host, pid, started, heartbeat, hooked) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        client.key,
        client.session,
        who.channel,
        who.name,
        client.session_id,
        client.process.host,
        client.process.pid,
        client.process.started,
        tx.now,
        int(client.hooked),
    )
    tx.run(
        "UPDATE agents SET status = 'idle', last_seen = ?, cwd = ?, branch = ?, repository = ?, client = ?, "
        "doing = '', session_id = ? WHERE channel = ? AND name = ?",
        tx.now,
        client.folder.cwd,
        client.folder.branch,
        client.folder.repository,
        client.program,
        client.session_id,
        who.channel,
        who.name,
    )
    events.append(tx, who, "attach", client.key)
    binding = bound(tx, client.key)
    assert binding
    return binding


@verb("resume", mode="read", begins=True)
def resume(tx: Transaction, client: Client) -> Binding | None:
    """The binding of a client that has one, or whose conversation bore a name that nobody has now."""
    existing = bound(tx, client.key)
    if existing and existing.process == client.process:
        return existing
    who = last_name_of(tx, client.session_id)
    return attach(tx, client, who, who.channel) if who else None


@verb(mode="read")
def last_name_of(tx: Transaction, session_id: str) -> Address | None:
    """The name this very conversation bore last, if no live session has it.

    Of those that the caller's grant permits: anybody can say of another's conversation that it is theirs.
    """
    if not session_id:
        return None
    rows = tx.all(
        "SELECT channel, name FROM agents WHERE session_id = ? AND registered = 1 ORDER BY last_seen DESC", session_id
    )
    names = (Address(row["name"], row["channel"]) for row in rows)
    who = next((name for name in names if grants.permits(tx.caller.grant, name)), None)
    return who if who and not holder(tx, who) else None


def _present(tx: Transaction, client: Client, channel: str) -> Address:
    """A free name for a session that has not registered; the grant's only one, if it has no other.

    The transport decides how a client is listed, which needs no permission.
    """
    grant = tx.caller.grant
    folder = addresses.folder_name(client.folder.root or client.folder.cwd, client.folder.branch)
    if not folder.isascii() and looks_like(folder, mailboxes.names_in_use(tx, channel)):
        folder = "session"
    base = client.listed or grants.permitted_name(grant, folder)
    names = tx.all("SELECT name, registered FROM agents WHERE channel = ? AND name LIKE ?", channel, f"{base}%")
    here = live(tx, channel)  # at once: asked one by one, the more there are the longer all wait for the next
    free = Address(
        addresses.free_name(base, [r["name"] for r in names if r["registered"] or r["name"] in here]), channel
    )
    holder(tx, free)  # ends one that is dead
    if client.listed or grants.permits(grant, free):
        return free
    own = (Address(name, channel) for name in grant.names if not addresses.is_name_glob(name))
    return grants.require(grant, next((who for who in own if not holder(tx, who)), free))


def refuse_if_held(tx: Transaction, who: Address, client: str) -> None:
    """Raise `NameTaken` if a live session other than `client`'s is `who`."""
    held = holder(tx, who)
    if held and held.client != client:
        names = [r["name"] for r in tx.all("SELECT name FROM agents WHERE channel = ?", who.channel)]
        where = tx.one("SELECT cwd FROM agents WHERE channel = ? AND name = ?", who.channel, who.name)
        place = f"{held.status}, in {quoting.quoted(where['cwd'], 300)}" if where and where["cwd"] else held.status
        raise NameTaken(who.name, place, addresses.free_name(who.name, names))


def end(tx: Transaction, binding: Binding, seen: float) -> None:
    """End a session: it is bound to no agent; see `go_offline`."""
    end_all(tx, [(binding, seen)])


def end_all(tx: Transaction, sessions: Sequence[tuple[Binding, float]]) -> None:
    """`end` for several, each with the time at which it was seen last."""
    for some in at_once(sessions):
        clients = [binding.client for binding, _ in some]
        tx.run(f"DELETE FROM listeners WHERE client IN ({listed(len(some))})", *clients)
        tx.run(f"DELETE FROM bindings WHERE client IN ({listed(len(some))})", *clients)
        go_offline(tx, [(binding.address, seen) for binding, seen in some])
        events.append_all(tx, [(binding.address, "end", binding.client, "") for binding, _ in some])
        mailboxes.forget_if_unused(tx, [binding.address for binding, _ in some if not binding.registered])


def go_offline(tx: Transaction, gone: Sequence[tuple[Address, float]]) -> None:
    """The claims of each end, and what it was handed without proof waits again."""
    seen: dict[Address, float] = {}
    for who, at in gone:
        seen[who] = max(at, seen.get(who, 0.0))
    mailboxes.requeue_all(tx, list(seen))
    for some in at_once(list(seen.items())):
        tx.run(
            f"DELETE FROM claims WHERE {among('channel, owner', len(some))}",
            *keys(who for who, _ in some),
        )
        tx.run(
            f"WITH gone (channel, name, seen) AS (VALUES {listed(len(some), 3)}) UPDATE agents SET status = 'offline', "
            "last_seen = CASE WHEN last_seen > gone.seen THEN last_seen ELSE gone.seen END FROM gone "
            "WHERE agents.channel = gone.channel AND agents.name = gone.name",
            *spread((who.channel, who.name, at) for who, at in some),
        )


def reap(tx: Transaction) -> int:
    """End the sessions whose process has died, and forget deaf listeners; returns how many sessions."""
    dead = [r for r in tx.all(f"{_BINDING} ORDER BY b.client") if not tx.alive(listeners.process_of(r), r["heartbeat"])]
    end_all(tx, [(of_row(row), row["heartbeat"]) for row in dead])
    rows = tx.all("SELECT address, host, pid, started, heartbeat FROM listeners")
    listeners.unlisten_all(tx, [row["address"] for row in rows if not listeners.lives(tx, row)])
    return len(dead)


@verb("detach")
def detach(tx: Transaction, client: SessionKey) -> None:
    """The server of a client that calls this ends, and with the last one the session and its subagents: see `end`.

    A client that is not bound is no error.
    """
    binding = bound(tx, client)
    if not binding:
        return
    by = tx.caller.process
    tx.run("DELETE FROM listeners WHERE client = ? AND host = ? AND pid = ?", client, by.host, by.pid)
    if listeners.server_of(tx, client):
        mailboxes.requeue(tx, binding.address, str(by))
    else:
        subagents = tx.all(f"{_BINDING} WHERE b.session = ?", client)
        end_all(tx, [*((of_row(row), tx.now) for row in subagents), (binding, tx.now)])


@verb("leave")
def leave(tx: Transaction, client: SessionKey) -> None:
    """Leave the bus: like `detach`, and broadcasts are no longer kept for the name."""
    binding = bound(tx, client)
    if binding:
        tx.run(
            "UPDATE agents SET registered = 0, session_id = '' WHERE channel = ? AND name = ?",
            binding.address.channel,
            binding.address.name,
        )
        end(tx, replace(binding, registered=False), tx.now)
        events.append(tx, binding.address, "leave")


# -- what is noted of it ------------------------------------------------------------


@verb("observe", mode="relaxed")
def observe(
    tx: Transaction,
    client: SessionKey,
    *,
    status: Status | None = None,
    session_id: str = "",
    prompt_id: Annotated[str, Local()] = "",
    bell: bool | None = None,
    doing: Annotated[str | None, Local()] = None,
    program: str = "",
    hooked: Annotated[bool, Local()] = False,
) -> Binding | None:
    """Record a sign of life; `hooked` says that a hook event was it.

    Arguments that are empty or None leave things as they are. After a power cut nobody is present; but a
    conversation that is resumed then finds its name by its `session_id`.

    Returns the binding as it was before, or None if there is none (any more).
    """
    before = bound(tx, client)
    if before:
        note(tx, before, status, session_id, prompt_id, bell, doing, program, hooked=hooked)
    return before


def note(
    tx: Transaction,
    before: Binding,
    status: Status | None = None,
    session_id: str = "",
    prompt_id: str = "",
    bell: bool | None = None,
    doing: str | None = None,
    program: str = "",
    *,
    hooked: bool = False,
) -> None:
    """`observe` for a session whose binding is known."""
    if session_id not in ("", before.session_id):
        tx.durable()
    tx.run(
        "UPDATE bindings SET heartbeat = ?, session_id = COALESCE(?, session_id), "
        "prompt_id = COALESCE(?, prompt_id), bell = COALESCE(?, bell), "
        "hooked = CASE WHEN ? = 1 THEN 1 ELSE hooked END WHERE client = ?",
        tx.now,
        session_id or None,
        prompt_id or None,
        None if bell is None else int(bell),
        int(hooked),
        before.client,
    )
    tx.run(
        "UPDATE agents SET last_seen = ?, status = COALESCE(?, status), session_id = COALESCE(?, session_id), "
        "doing = COALESCE(?, doing), client = COALESCE(?, client) WHERE channel = ? AND name = ?",
        tx.now,
        status,
        session_id or None,
        doing,
        program or None,
        before.address.channel,
        before.address.name,
    )


@verb("forget")
def forget(tx: Transaction, client: SessionKey) -> None:
    """The conversation lost, or may have lost, what it was told of itself and others."""
    tx.run("UPDATE bindings SET introduced = 0, told = '[]', overlaps = '[]' WHERE client = ?", client)


def introduce(tx: Transaction, client: str) -> bool:
    """Note that the conversation is told who it is; False if it was already."""
    return tx.run("UPDATE bindings SET introduced = 1 WHERE client = ? AND introduced = 0", client).rowcount == 1


def tell_roster(tx: Transaction, client: str, roster: Roster) -> None:
    """Note that the conversation is told this roster."""
    tx.run("UPDATE bindings SET told = ? WHERE client = ?", columns.dump_list(roster.names), client)


def tell_overlaps(
    tx: Transaction, client: str, told: Collection[str], found: tuple[Overlap, ...]
) -> tuple[Overlap, ...]:
    """Note what overlaps there are; returns those that the conversation was not `told` yet."""
    now = {f"{overlap.name} {path}" for overlap in found for path in overlap.paths}
    if now != set(told):
        tx.run("UPDATE bindings SET overlaps = ? WHERE client = ?", columns.dump_list(sorted(now)), client)
    fresh = (
        Overlap(overlap.name, tuple(path for path in overlap.paths if f"{overlap.name} {path}" not in told))
        for overlap in found
    )
    return tuple(overlap for overlap in fresh if overlap.paths)


def heartbeat(tx: Transaction, client: str, by: Process) -> None:
    """Tell those who cannot see it that the session, its subagents and its server `by` live, though nothing happens."""
    tx.run("UPDATE bindings SET heartbeat = ? WHERE client = ? OR session = ?", tx.now, client, client)
    listeners.heartbeat(tx, client, by)


def of_row(row: Row) -> Binding:
    """The binding in a row of `_BINDING`."""
    return Binding(
        client=row["client"],
        address=Address(row["agent"], row["channel"]),
        registered=bool(row["registered"]),
        session_id=row["session_id"],
        process=listeners.process_of(row),
        status=row["status"],
        role=row["role"],
        bell=bool(row["bell"]),
        prompt_id=row["prompt_id"],
        hooked=bool(row["hooked"]),
        woken=(row["woken_by_sessions"], row["woken_by_programs"]),
    )
