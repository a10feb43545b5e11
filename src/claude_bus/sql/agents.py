"""Agents, and which running session is which of them."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from .. import patterns, rules
from ..errors import NameTaken
from ..model import Address, Agent, Binding, Client, Overlap, Process, Roster, Status
from ..text import STATUS_ORDER
from . import events
from .transaction import Row, Transaction

_BINDING = """
SELECT b.client, b.channel, b.agent, b.session_id, b.host, b.pid, b.started, b.heartbeat,
       a.registered, a.status, a.role
FROM bindings b JOIN agents a ON a.channel = b.channel AND a.name = b.agent
"""


# -- bindings -------------------------------------------------------------------


def bound(tx: Transaction, client: str) -> Binding | None:
    """The binding of a client, whether or not its process still runs."""
    row = tx.one(f"{_BINDING} WHERE b.client = ?", client)
    return _binding(row) if row else None


def holder(tx: Transaction, who: Address) -> Binding | None:
    """The live session that is `who`. Sessions found dead are ended on the way."""
    for row in tx.all(f"{_BINDING} WHERE b.channel = ? AND b.agent = ?", who.channel, who.name):
        binding = _binding(row)
        if tx.alive(binding.process, row["heartbeat"]):
            return binding
        end(tx, binding, row["heartbeat"])
    return None


def attach(tx: Transaction, client: Client, wanted: Address | None, channel: str) -> Binding:
    """Bind a starting client: to what it is already, to its resumed name, to `wanted`,
    or else to a name made from its folder.

    Raises `NameTaken` if `wanted` is held by another live session; nothing is bound then.
    """
    existing = bound(tx, client.key)
    if existing and existing.process == client.process:
        return existing
    if existing:
        end(tx, existing, tx.now)
    if wanted:
        _refuse_if_held(tx, wanted, client.key)
    who = wanted or _resumed(tx, client) or _present(tx, client, channel)
    ensure_mailbox(tx, who)
    tx.run(
        "INSERT INTO bindings (client, channel, agent, session_id, host, pid, started, heartbeat) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        client.key,
        who.channel,
        who.name,
        client.session_id,
        client.process.host,
        client.process.pid,
        client.process.started,
        tx.now,
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


def _resumed(tx: Transaction, client: Client) -> Address | None:
    """The name this very conversation bore last, if no live session has it."""
    if not client.session_id:
        return None
    row = tx.one(
        "SELECT channel, name FROM agents WHERE session_id = ? AND registered = 1 ORDER BY last_seen DESC LIMIT 1",
        client.session_id,
    )
    who = Address(row["name"], row["channel"]) if row else None
    return who if who and not holder(tx, who) else None


def _present(tx: Transaction, client: Client, channel: str) -> Address:
    """A free name for a session that has not registered."""
    base = rules.folder_name(client.folder.root or client.folder.cwd, client.folder.branch)
    names = tx.all("SELECT name, registered FROM agents WHERE channel = ? AND name LIKE ?", channel, f"{base}%")
    taken = [r["name"] for r in names if r["registered"] or holder(tx, Address(r["name"], channel))]
    return Address(rules.free_name(base, taken), channel)


def _refuse_if_held(tx: Transaction, who: Address, client: str) -> None:
    held = holder(tx, who)
    if held and held.client != client:
        names = [r["name"] for r in tx.all("SELECT name FROM agents WHERE channel = ?", who.channel)]
        where = tx.one("SELECT cwd FROM agents WHERE channel = ? AND name = ?", who.channel, who.name)
        place = f"{held.status}, in {where['cwd']}" if where and where["cwd"] else held.status
        raise NameTaken(who.name, place, rules.free_name(who.name, names))


def end(tx: Transaction, binding: Binding, seen: float) -> None:
    """A session is over: it is nobody any more, and see `_go_offline`."""
    tx.run("DELETE FROM listeners WHERE client = ?", binding.client)
    tx.run("DELETE FROM bindings WHERE client = ?", binding.client)
    _go_offline(tx, binding.address, seen)
    events.append(tx, binding.address, "end", binding.client)
    if not binding.registered:
        _forget_if_unused(tx, binding.address)


def _go_offline(tx: Transaction, who: Address, seen: float) -> None:
    """Its claims end, and what it was handed without proof waits again."""
    requeue(tx, who)
    tx.run("DELETE FROM claims WHERE channel = ? AND owner = ?", who.channel, who.name)
    tx.run(
        "UPDATE agents SET status = 'offline', last_seen = CASE WHEN last_seen > ? THEN last_seen ELSE ? END "
        "WHERE channel = ? AND name = ?",
        seen,
        seen,
        who.channel,
        who.name,
    )


def requeue(tx: Transaction, who: Address, by: str = "") -> int:
    """What was handed to `who` without proof of having been read waits again.

    Limited to hand-overs made by the process `by`, if given. Returns how many. The
    next hand-over carries a "possibly seen" mark.
    """
    if by:
        return tx.run(
            "UPDATE deliveries SET state = 'queued' "
            "WHERE channel = ? AND recipient = ? AND state = 'handed' AND handed_by = ?",
            who.channel,
            who.name,
            by,
        ).rowcount
    return tx.run(
        "UPDATE deliveries SET state = 'queued' WHERE channel = ? AND recipient = ? AND state = 'handed'",
        who.channel,
        who.name,
    ).rowcount


def reap(tx: Transaction) -> int:
    """End the sessions whose process has died, and forget deaf listeners; returns how many sessions."""
    dead = [r for r in tx.all(f"{_BINDING} ORDER BY b.client") if not tx.alive(_process(r), r["heartbeat"])]
    for row in dead:
        end(tx, _binding(row), row["heartbeat"])
    for row in tx.all("SELECT address, host, pid, started FROM listeners"):
        if not tx.alive(_process(row), tx.now):
            unlisten(tx, row["address"])
    return len(dead)


def detach(tx: Transaction, client: str, by: Process) -> None:
    """The server `by` of a client ends, and with the last one the session: see `end`.

    A client that is not bound is no error.
    """
    binding = bound(tx, client)
    if not binding:
        return
    tx.run("DELETE FROM listeners WHERE client = ? AND host = ? AND pid = ?", client, by.host, by.pid)
    others = tx.all("SELECT host, pid, started FROM listeners WHERE client = ?", client)
    if any(tx.alive(_process(row), tx.now) for row in others):
        requeue(tx, binding.address, str(by))
    else:
        end(tx, binding, tx.now)


def leave(tx: Transaction, client: str) -> None:
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


def observe(
    tx: Transaction,
    client: str,
    *,
    status: Status | None = None,
    session_id: str = "",
    bell: bool | None = None,
    doing: str | None = None,
    program: str = "",
) -> Binding | None:
    """Record a sign of life. Arguments that are empty or None leave things as they are.

    Returns the binding as it was before, or None if there is none (any more).
    """
    before = bound(tx, client)
    if not before:
        return None
    tx.run(
        "UPDATE bindings SET heartbeat = ?, session_id = COALESCE(?, session_id), bell = COALESCE(?, bell) "
        "WHERE client = ?",
        tx.now,
        session_id or None,
        None if bell is None else int(bell),
        client,
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
    return before


def forget(tx: Transaction, client: str) -> None:
    """The conversation lost, or may have lost, what it was told of itself and others."""
    tx.run("UPDATE bindings SET introduced = 0, told = '[]', overlaps = '[]' WHERE client = ?", client)


def introduce(tx: Transaction, client: str) -> bool:
    """Note that the conversation is told who it is; False if it was already."""
    return tx.run("UPDATE bindings SET introduced = 1 WHERE client = ? AND introduced = 0", client).rowcount == 1


def tell_roster(tx: Transaction, client: str, roster: Roster) -> None:
    """Note that the conversation is told this roster."""
    tx.run("UPDATE bindings SET told = ? WHERE client = ?", rules.dump_list(roster.names), client)


def tell_overlaps(tx: Transaction, client: str, found: tuple[Overlap, ...]) -> tuple[Overlap, ...]:
    """Note what overlaps there are; returns those that the conversation was not told yet."""
    row = tx.one("SELECT overlaps FROM bindings WHERE client = ?", client)
    told = set(rules.load_list(row["overlaps"])) if row else set()
    now = {f"{overlap.name} {path}" for overlap in found for path in overlap.paths}
    if now != told:
        tx.run("UPDATE bindings SET overlaps = ? WHERE client = ?", rules.dump_list(sorted(now)), client)
    fresh = (
        Overlap(overlap.name, tuple(path for path in overlap.paths if f"{overlap.name} {path}" not in told))
        for overlap in found
    )
    return tuple(overlap for overlap in fresh if overlap.paths)


def heartbeat(tx: Transaction, client: str) -> None:
    """Tell other hosts on this file that the session lives, though nothing happens."""
    tx.run("UPDATE bindings SET heartbeat = ? WHERE client = ?", tx.now, client)


# -- names ----------------------------------------------------------------------


def register(tx: Transaction, client: str, who: Address, role: str, owns: tuple[str, ...] | None) -> Binding:
    """Give the session bound as `client` the name `who`; it must be attached.

    An empty role and `owns=None` keep what the name had. A name it had before is
    renamed and its mail follows; one on another channel stays there, offline.
    """
    old = bound(tx, client)
    assert old, "register follows attach"
    _refuse_if_held(tx, who, client)
    if old.address != who:
        _move(tx, old, who)
    _join(tx, who, role, owns)
    binding = bound(tx, client)
    assert binding
    return binding


def enlist(tx: Transaction, who: Address, program: str) -> None:
    """Make `who` a participant without a session: a person or a script using `program`.

    Raises `NameTaken` if a live session bears the name.
    """
    _refuse_if_held(tx, who, "")
    ensure_mailbox(tx, who)
    _join(tx, who, "", None)
    tx.run("UPDATE agents SET client = ? WHERE channel = ? AND name = ?", program, who.channel, who.name)


def _join(tx: Transaction, who: Address, role: str, owns: tuple[str, ...] | None) -> None:
    """Mark an existing row as registered; one that was not gets the retained broadcasts."""
    joined = tx.number("SELECT registered FROM agents WHERE channel = ? AND name = ?", who.channel, who.name)
    tx.run(
        "UPDATE agents SET registered = 1, last_seen = ?, role = CASE WHEN ? = '' THEN role ELSE ? END, "
        "owns = COALESCE(?, owns), joined = CASE WHEN registered = 1 THEN joined ELSE ? END "
        "WHERE channel = ? AND name = ?",
        tx.now,
        role,
        role,
        None if owns is None else rules.dump_list(owns),
        tx.now,
        who.channel,
        who.name,
    )
    if not joined:
        _deliver_retained(tx, who)
        events.append(tx, who, "join", detail=role)


def ensure_mailbox(tx: Transaction, who: Address) -> None:
    """A row for `who`, so that mail can wait for a name nobody has yet."""
    tx.run(
        "INSERT INTO agents (channel, name, registered) VALUES (?, ?, 0) ON CONFLICT DO NOTHING",
        who.channel,
        who.name,
    )


def _move(tx: Transaction, old: Binding, who: Address) -> None:
    """Point the binding of a session at another name."""
    was = old.address
    exists = tx.one("SELECT 1 FROM agents WHERE channel = ? AND name = ?", who.channel, who.name)
    if was.channel != who.channel:
        ensure_mailbox(tx, who)
        _rebind(tx, old, who)
        _go_offline(tx, was, tx.now)
        return
    if exists:
        _merge(tx, was, who)
        _rebind(tx, old, who)
        tx.run("DELETE FROM agents WHERE channel = ? AND name = ?", was.channel, was.name)
    else:
        tx.run("UPDATE agents SET name = ? WHERE channel = ? AND name = ?", who.name, was.channel, was.name)
    _rename_sender(tx, was, who)
    if old.registered:
        tx.run("UPDATE agents SET formerly = ? WHERE channel = ? AND name = ?", was.name, who.channel, who.name)
        events.append(tx, who, "rename", was.name)


def _rename_sender(tx: Transaction, was: Address, who: Address) -> None:
    """What `was` sent is now from `who`: answers find it, and none of it comes back to it.

    Where both used an idempotency key, the message of `who` keeps it.
    """
    tx.run(
        "UPDATE messages SET key = NULL WHERE sender_channel = ? AND sender = ? "
        "AND key IN (SELECT key FROM messages WHERE sender_channel = ? AND sender = ?)",
        was.channel,
        was.name,
        who.channel,
        who.name,
    )
    tx.run("UPDATE messages SET sender = ? WHERE sender_channel = ? AND sender = ?", who.name, was.channel, was.name)
    tx.run(
        "DELETE FROM deliveries WHERE channel = ? AND recipient = ? AND state IN ('queued', 'handed') "
        "AND message IN (SELECT id FROM messages WHERE sender_channel = ? AND sender = ?)",
        who.channel,
        who.name,
        who.channel,
        who.name,
    )


def _merge(tx: Transaction, was: Address, who: Address) -> None:
    """Everything addressed to or held by `was` becomes that of the existing `who`."""
    here, to = (was.channel, was.name), (who.channel, who.name)
    tx.run(
        "DELETE FROM deliveries WHERE channel = ? AND recipient = ? AND message IN "
        "(SELECT message FROM deliveries WHERE channel = ? AND recipient = ?)",
        *here,
        *to,
    )
    tx.run("UPDATE deliveries SET recipient = ? WHERE channel = ? AND recipient = ?", who.name, *here)
    tx.run(
        "DELETE FROM claims WHERE channel = ? AND owner = ? AND EXISTS (SELECT 1 FROM claims c "
        "WHERE c.channel = ? AND c.owner = ? AND c.scope = claims.scope AND c.path = claims.path)",
        *here,
        *to,
    )
    tx.run("UPDATE claims SET owner = ? WHERE channel = ? AND owner = ?", who.name, *here)


def _rebind(tx: Transaction, old: Binding, who: Address) -> None:
    """Move the binding, and what the old name's row says of the session, to `who`."""
    tx.run("UPDATE bindings SET channel = ?, agent = ? WHERE client = ?", who.channel, who.name, old.client)
    tx.run(
        "UPDATE agents SET (status, cwd, branch, repository, client, doing, session_id) = "
        "(SELECT status, cwd, branch, repository, client, doing, session_id FROM agents "
        "WHERE channel = ? AND name = ?) WHERE channel = ? AND name = ?",
        old.address.channel,
        old.address.name,
        who.channel,
        who.name,
    )


def _forget_if_unused(tx: Transaction, who: Address) -> None:
    """Drop the row of a session that never registered, unless mail refers to it."""
    if not tx.one("SELECT 1 FROM deliveries WHERE channel = ? AND recipient = ?", who.channel, who.name):
        tx.run("DELETE FROM agents WHERE channel = ? AND name = ? AND registered = 0", who.channel, who.name)


def _deliver_retained(tx: Transaction, who: Address) -> None:
    """A late joiner gets the channel's earlier broadcasts."""
    tx.run(
        "INSERT INTO deliveries (message, channel, recipient) "
        "SELECT m.id, ?, ? FROM messages m WHERE m.channel = ? AND m.broadcast = 1 "
        "AND NOT (m.sender = ? AND m.sender_channel = ?) AND (m.expires IS NULL OR m.expires > ?) "
        "ON CONFLICT DO NOTHING",
        who.channel,
        who.name,
        who.channel,
        who.name,
        who.channel,
        tx.now,
    )


# -- who is here ----------------------------------------------------------------


def live(tx: Transaction, channel: str) -> dict[str, Row]:
    """Names with a live session on the channel, each with its binding row."""
    rows = tx.all(f"{_BINDING} WHERE b.channel = ?", channel)
    return {r["agent"]: r for r in rows if tx.alive(_process(r), r["heartbeat"])}


def roster(tx: Transaction, me: Address) -> Roster:
    """The other registered agents with a live session, busy ones first."""
    peers = [
        (name, cast(Status, row["status"]))
        for name, row in live(tx, me.channel).items()
        if row["registered"] and name != me.name
    ]
    return Roster(tuple(sorted(peers, key=lambda p: (STATUS_ORDER[p[1]], p[0]))))


def listing(tx: Transaction, channel: str, within: float | None) -> list[Agent]:
    """Everybody on the channel: sessions that run, then those gone, latest first.

    With `within` (seconds): only those that run or were seen that recently.
    """
    here = live(tx, channel)
    rows = tx.all("SELECT * FROM agents WHERE channel = ? AND last_seen > 0 ORDER BY last_seen DESC", channel)
    agents = [_agent(row, row["name"] in here) for row in rows]
    if within is not None:
        agents = [a for a in agents if a.name in here or tx.now - a.last_seen <= within]
    agents.sort(key=lambda a: a.status == "offline")
    return _with_overlaps(tx, channel, agents)


def _with_overlaps(tx: Transaction, channel: str, agents: list[Agent]) -> list[Agent]:
    prints = _footprints(tx, channel, {a.name for a in agents if a.status != "offline"})
    return [replace(a, overlaps=_overlaps(prints, a.name)) for a in agents]


def overlaps(tx: Transaction, me: Address) -> tuple[Overlap, ...]:
    """With which present agents the globs and claims of `me` meet, and where."""
    return _overlaps(_footprints(tx, me.channel, set(live(tx, me.channel))), me.name)


def _footprints(tx: Transaction, channel: str, names: set[str]) -> dict[str, set[tuple[str, str]]]:
    """What each agent owns or claims, as (repository, pattern)."""
    prints: dict[str, set[tuple[str, str]]] = {name: set() for name in names}
    for row in tx.all("SELECT name, owns, repository, cwd FROM agents WHERE channel = ? AND owns != '[]'", channel):
        below = "" if row["repository"] or not row["cwd"] else f"{row['cwd']}/"
        globs = (glob if glob.startswith("/") else below + glob for glob in rules.load_list(row["owns"]))
        prints.get(row["name"], set()).update((row["repository"], patterns.normalize(glob)) for glob in globs)
    for row in tx.all("SELECT scope, path, owner FROM claims WHERE channel = ? AND expires > ?", channel, tx.now):
        if not rules.is_resource(row["path"]):
            prints.get(row["owner"], set()).add((row["scope"], row["path"]))
    return prints


def _overlaps(prints: dict[str, set[tuple[str, str]]], me: str) -> tuple[Overlap, ...]:
    mine = prints.get(me, set())
    found = {name: _common(mine, theirs) for name, theirs in sorted(prints.items()) if name != me}
    return tuple(Overlap(name, paths) for name, paths in found.items() if paths)


def _common(mine: set[tuple[str, str]], theirs: set[tuple[str, str]]) -> tuple[str, ...]:
    """Where two footprints meet: of each pair that does, the plain path or else their pattern."""
    return tuple(
        sorted(
            {
                patterns.plain(theirs_path if patterns.is_glob(path) else path)
                for scope, path in mine
                for theirs_scope, theirs_path in theirs
                if scope == theirs_scope and patterns.overlap(path, theirs_path)
            }
        )
    )


# -- listeners ------------------------------------------------------------------


def listen(tx: Transaction, address: str, client: str, process: Process) -> None:
    """Ask for a notice at `address` whenever mail for `client` ('' for anybody) is stored."""
    tx.run("DELETE FROM listeners WHERE address = ?", address)
    tx.run(
        "INSERT INTO listeners (address, client, host, pid, started) VALUES (?, ?, ?, ?, ?)",
        address,
        client,
        process.host,
        process.pid,
        process.started,
    )


def unlisten(tx: Transaction, address: str) -> None:
    """Ask for no more notices at `address`."""
    tx.run("DELETE FROM listeners WHERE address = ?", address)


def server_of(tx: Transaction, client: str) -> Process | None:
    """A live server process of a client's session."""
    rows = tx.all("SELECT host, pid, started FROM listeners WHERE client = ?", client)
    return next((p for p in map(_process, rows) if tx.alive(p, tx.now)), None)


def listeners(tx: Transaction, recipients: list[Address]) -> tuple[str, ...]:
    """Where to announce that these agents got mail."""
    found = {r["address"] for r in tx.all("SELECT address FROM listeners WHERE client = ''")}
    for who in recipients:
        rows = tx.all(
            "SELECT l.address FROM listeners l JOIN bindings b ON b.client = l.client "
            "WHERE b.channel = ? AND b.agent = ?",
            who.channel,
            who.name,
        )
        found.update(r["address"] for r in rows)
    return tuple(sorted(found))


# -- rows -----------------------------------------------------------------------


def _process(row: Row) -> Process:
    return Process(row["host"], row["pid"], row["started"])


def _binding(row: Row) -> Binding:
    return Binding(
        client=row["client"],
        address=Address(row["agent"], row["channel"]),
        registered=bool(row["registered"]),
        session_id=row["session_id"],
        process=_process(row),
        status=row["status"],
        role=row["role"],
    )


def _agent(row: Row, alive: bool) -> Agent:
    return Agent(
        name=row["name"],
        channel=row["channel"],
        role=row["role"],
        owns=rules.load_list(row["owns"]),
        registered=bool(row["registered"]),
        status=row["status"] if alive else "offline",
        last_seen=row["last_seen"],
        joined=row["joined"],
        cwd=row["cwd"],
        branch=row["branch"],
        client=row["client"],
        doing=row["doing"],
    )
