"""Named participants: how they join, are renamed, and are listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, cast

from .. import addresses, claim_paths
from ..errors import NotFound
from ..model.identity import Address, Agent, Binding, Roster, Status
from ..text import STATUS_ORDER
from . import bindings, columns, events, mailboxes, overlaps
from .arguments import Channel, Local, Owns, Role
from .transaction import Row, Transaction, at_once
from .verbs import verb

_ELSEWHERE = ("http:", "@")
"""Prefixes of the keys of clients over HTTP. With ever new keys a client could take any number of names."""
SEEN_EVERY = 60.0
"""Seconds after which one who looks is noted as seen again."""


def register(tx: Transaction, client: str, who: Address, role: str, owns: tuple[str, ...] | None) -> Binding:
    """Give the session bound as `client` the name `who`; `NotFound` if it is not attached.

    An empty role and `owns=None` keep what the name had. A name it had before is
    renamed and its mail follows; one on another channel stays there, offline.
    """
    old = bindings.bound(tx, client)
    if not old:
        raise NotFound("the session is not on the bus any more; it attaches with its next call: repeat this one")
    bindings.refuse_if_held(tx, who, client)
    if client.startswith(_ELSEWHERE):
        check_room(tx, who, within_grant=False)
    mailboxes.check_new(tx, who)  # before a rename gives the name a row that somebody bears
    if old.address != who:
        _move(tx, old, who)
    _join(tx, who, role, owns)
    binding = bindings.bound(tx, client)
    assert binding
    return binding


@verb("enlist", repeatable=False)
def join_without_session(
    tx: Transaction,
    who: Address,
    program: str,
    role: Annotated[Role, Local()] = "",
    owns: Annotated[Owns, Local()] = None,
) -> None:
    """Make `who` a participant without a session: a person or a script using `program`.

    An empty role and `owns=None` keep what the name had. Raises `NameTaken` if a live
    session bears the name, `TooLarge` for a new one where there are too many: see `check_room`.
    """
    bindings.refuse_if_held(tx, who, "")
    if not role and owns is None and _just_noted(tx, who, program):
        return
    check_room(tx, who)
    mailboxes.check_new(tx, who)
    mailboxes.ensure(tx, who)
    _join(tx, who, role, owns)
    tx.run("UPDATE agents SET client = ? WHERE channel = ? AND name = ?", program, who.channel, who.name)


def _just_noted(tx: Transaction, who: Address, program: str) -> bool:
    """Whether `who` takes part with this program and was seen within the last second, so that there is nothing to
    note."""
    row = tx.one(
        "SELECT registered, last_seen, client FROM agents WHERE channel = ? AND name = ?", who.channel, who.name
    )
    return bool(row and row["registered"] and row["client"] == program and 0 <= tx.now - row["last_seen"] < 1)


def check_room(tx: Transaction, who: Address, *, within_grant: bool = True) -> None:
    """Raise `TooLarge` if `who` would be one name too many that no session bears.

    The limits are those of its channel and, `within_grant`, of the names that the caller's grant is for: every
    broadcast is kept for each of them. Names that left are kept too, so they have a limit as well. A name that
    comes back is not one more.
    """
    grant = tx.caller.grant
    if known(tx, who, lately=False):
        return
    back = tx.number("SELECT last_seen FROM agents WHERE channel = ? AND name = ?", who.channel, who.name) > 0
    of_channel = f"channel '{who.channel}'"
    addresses.check_name_count(_unborne(tx, who.channel, ("*",), _HERE), addresses.MAX_NAMES, of_channel)
    if not back:
        addresses.check_left_count(_unborne(tx, who.channel, ("*",), _LEFT), addresses.MAX_LEFT, of_channel)
    if not within_grant or "*" in grant.names:
        return
    of_token = f"the token of '{grant.owner}'"
    addresses.check_name_count(_unborne(tx, who.channel, grant.names, _HERE), addresses.MAX_NAMES_OF_TOKEN, of_token)
    if not back:
        addresses.check_left_count(_unborne(tx, who.channel, grant.names, _LEFT), addresses.MAX_LEFT_OF_TOKEN, of_token)


_HERE = "a.registered = 1"
_LEFT = "a.registered = 0 AND a.last_seen > 0"


def _unborne(tx: Transaction, channel: str, patterns: tuple[str, ...], which: str) -> int:
    """How many names like these on the channel no session bears; `which` is a condition on them."""
    return sum(
        int(
            tx.number(
                f"WITH wanted (pattern) AS (VALUES {', '.join(['(?)'] * len(some))}) SELECT COUNT(*) "
                f"FROM wanted JOIN agents a ON a.name GLOB wanted.pattern WHERE a.channel = ? AND {which} "
                "AND NOT EXISTS (SELECT 1 FROM bindings b WHERE b.channel = a.channel AND b.agent = a.name)",
                *some,
                channel,
            )
        )
        for some in at_once(patterns)
    )


def notice(tx: Transaction, who: Address, program: str) -> None:
    """`enlist` somebody who only looks, unless that was noted a moment ago: looking is not writing."""
    if not known(tx, who, lately=tx.caller.touch):
        join_without_session(tx, who, program)


def known(tx: Transaction, who: Address, *, lately: bool) -> bool:
    """Whether somebody takes part under the name; `lately`: who was seen within `SEEN_EVERY`."""
    row = tx.one("SELECT registered, last_seen FROM agents WHERE channel = ? AND name = ?", who.channel, who.name)
    return bool(row and row["registered"] and (not lately or tx.now - row["last_seen"] < SEEN_EVERY))


@verb()
def leave_without_session(tx: Transaction, who: Address) -> None:
    """A participant without a session leaves: its claims end, direct mail is kept, broadcasts are not any more.

    Raises `NameTaken` if a live session bears the name, `NotFound` if nobody joined under it.
    """
    bindings.refuse_if_held(tx, who, "")
    left = tx.run(
        "UPDATE agents SET registered = 0, session_id = '' WHERE channel = ? AND name = ? AND registered = 1",
        who.channel,
        who.name,
    ).rowcount
    if not left:
        raise NotFound(f"'{who.name}' is not on channel '{who.channel}'", name=who.name)
    bindings.go_offline(tx, [(who, tx.now)])
    events.append(tx, who, "leave")


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
        None if owns is None else columns.dump_list(claim_paths.check_owns(owns) or ()),
        tx.now,
        who.channel,
        who.name,
    )
    if not joined:
        mailboxes.deliver_retained(tx, who)
        events.append(tx, who, "join", detail=role)


def _move(tx: Transaction, old: Binding, who: Address) -> None:
    """Point the binding of a session at another name."""
    was = old.address
    exists = tx.one("SELECT 1 FROM agents WHERE channel = ? AND name = ?", who.channel, who.name)
    if was.channel != who.channel:
        mailboxes.ensure(tx, who)
        _rebind(tx, old, who)
        _leave_behind(tx, old)
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


def _leave_behind(tx: Transaction, old: Binding) -> None:
    """The name on the channel that the session went away from: the conversation bears another one now."""
    was = old.address
    tx.run("UPDATE agents SET session_id = '' WHERE channel = ? AND name = ?", was.channel, was.name)
    bindings.go_offline(tx, [(was, tx.now)])
    if not old.registered:
        mailboxes.forget_if_unused(tx, [was])


def _rename_sender(tx: Transaction, was: Address, who: Address) -> None:
    """The messages of `was` are now from `who`: answers find it, and none of it comes back to it.

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
    """Everything addressed to or held by `was` becomes that of the existing `who`.

    Of a message that both got, the delivery that is further stays: what was read once is read.
    """
    here, to = (was.channel, was.name), (who.channel, who.name)
    tx.run(
        "DELETE FROM deliveries WHERE channel = ? AND recipient = ? AND EXISTS (SELECT 1 FROM deliveries d "
        f"WHERE d.message = deliveries.message AND d.channel = ? AND d.recipient = ? AND {_how_far('d')} > "
        f"{_how_far('deliveries')})",
        *to,
        *here,
    )
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


def _how_far(row: str) -> str:
    """SQL to compare two deliveries of one message by."""
    steps = "WHEN 'queued' THEN 0 WHEN 'expired' THEN 1 WHEN 'handed' THEN 2 WHEN 'read' THEN 3 ELSE 4"
    return f"(CASE {row}.state {steps} END, {row}.attempts)"


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


# -- who is here ----------------------------------------------------------------


def roster(tx: Transaction, me: Address, live: Mapping[str, Row] | None = None) -> Roster:
    """The other registered agents with a live session, busy ones first; `live` is `bindings.live`, if that is known."""
    here = bindings.live(tx, me.channel) if live is None else live
    peers = [(name, cast(Status, row["status"])) for name, row in here.items() if row["registered"] and name != me.name]
    return Roster(tuple(sorted(peers, key=lambda p: (STATUS_ORDER[p[1]], p[0]))))


@verb("agents", mode="read")
def listing(tx: Transaction, channel: Channel, within: float | None = None) -> list[Agent]:
    """Everybody on the channel: sessions that run, then those gone, latest first.

    With `within` (seconds): only those that run or were seen that recently.
    """
    here = bindings.live(tx, channel)
    rows = tx.all("SELECT * FROM agents WHERE channel = ? AND last_seen > 0 ORDER BY last_seen DESC", channel)
    agents = [_agent(row, row["name"] in here) for row in rows]
    if within is not None:
        agents = [a for a in agents if a.name in here or tx.now - a.last_seen <= within]
    agents.sort(key=lambda a: a.status == "offline")
    prints = overlaps.footprints(tx, channel, {a.name for a in agents if a.status != "offline"})
    found = overlaps.all_of(prints, set(prints))
    return [replace(a, overlaps=found.get(a.name, ())) for a in agents]


def _agent(row: Row, alive: bool) -> Agent:
    return Agent(
        name=row["name"],
        channel=row["channel"],
        role=row["role"],
        owns=columns.load_list(row["owns"]),
        registered=bool(row["registered"]),
        status=row["status"] if alive else "offline",
        last_seen=row["last_seen"],
        joined=row["joined"],
        cwd=row["cwd"],
        branch=row["branch"],
        client=row["client"],
        doing=row["doing"],
    )
