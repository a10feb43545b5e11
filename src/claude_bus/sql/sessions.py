"""The verbs of a running session that do several things at once: join, or handle a hook event."""

from __future__ import annotations

from ..errors import Displaced
from ..model.hooks import HookReport, HookResult
from ..model.identity import Address, Binding, Client, Overlap, Roster, SignOfLife, Status
from ..model.messages import HandOver, Waiting
from . import agents, bindings, columns, deliveries, listeners, mailboxes, overlaps
from .arguments import Channel, Listener, Owns, Role, SessionKey
from .transaction import Row, Transaction
from .verbs import Rows, verb

SEEN_EVERY = 15.0
"""Seconds after which a sign of life that says nothing new is noted again."""


def see(tx: Transaction, sign: SignOfLife) -> None:
    """Note a sign of life. Raises `Displaced` if the session is not what the sign takes it to be."""
    row = bindings.row_of(tx, sign.client)
    found = bindings.of_row(row) if row else None
    if (
        not row
        or not found
        or (found.process, found.address, found.registered) != (sign.process, sign.address, sign.registered)
    ):
        raise Displaced
    if not (sign.noted and tx.caller.touch):
        return
    deliveries.withdraw(tx, sign.address, sign.lost)
    deliveries.confirm(tx, sign.address, sign.proven)
    news = (
        sign.status not in (None, found.status)
        or sign.session_id not in ("", found.session_id)
        or sign.program not in ("", row["program"])
    )
    if news or not 0 <= tx.now - row["heartbeat"] < SEEN_EVERY:
        bindings.note(tx, found, sign.status, sign.session_id, program=sign.program)


@verb("begin", begins=True, rows=Rows(listeners.MOST, listeners.count))
def begin(
    tx: Transaction,
    client: Client,
    wanted: Address | None,
    channel: Channel,
    *,
    role: Role = "",
    address: Listener = "",
    status: Status | None = None,
    bell: bool | None = None,
) -> Binding:
    """Make a client take part that does not yet, registered as `wanted` if that is given; and `listen`.

    `status` and `bell` are as in `observe`. Raises what `attach` and `join` raise; nothing was done then.
    """
    found = bindings.bound(tx, client.key)
    if not found or found.process != client.process:
        found = bindings.attach(tx, client, wanted, channel)
        if wanted:
            found, _, _ = join(tx, client.key, wanted, role, None)
            bindings.forget(tx, client.key)  # nobody told the model
        if status or bell is not None:
            bindings.note(tx, found, status, bell=bell)
    listen(tx, address, client.key)
    return found


@verb("look", mode="read", with_unconfirmed=True)
def look(
    tx: Transaction, client: SessionKey, *, owed: bool = False
) -> tuple[Binding, Waiting, tuple[Waiting, int] | None] | None:
    """The binding of a doorbell's session, the mail that waits, and the right to `ring`, if it has that.

    None if the client is not bound.
    """
    binding = bindings.bound(tx, client)
    if not binding:
        return None
    mail = deliveries.waiting(tx, binding.address)
    rings = binding.status == "idle" and (mail.rings or (owed and mail.count))
    return binding, mail, deliveries.ring(tx, client, idle=False, owed=owed) if rings else None


@verb("react", mode="relaxed", with_unconfirmed=True)
def handle_hook_event(tx: Transaction, client: Client, happening: HookReport) -> HookResult | None:
    """Record what happened and hand over what is new. None if the client is not bound.

    A session's every prompt and tool batch waits for this: presence, proof, mail and
    roster are one hop to the store, which writes only what changed. It waits for the disk only
    for what becomes of mail.
    """
    row = bindings.row_of(tx, client.key)
    binding = bindings.of_row(row) if row else None
    if not row or not binding or binding.process != client.process:
        return None
    me = binding.address
    told = _Told(row)
    if happening.again or happening.session_id not in ("", binding.session_id):
        bindings.forget(tx, client.key)
        told = _Told()
    _note_mail(tx, me, happening)
    mail = HandOver((), 0)
    if not happening.ends or deliveries.continues(tx, me):
        mail = deliveries.hand_over(tx, me, max_chars=happening.space, via=happening.via, news_only=True)
    announce = bool(mail.pending and happening.space) and mail.next_id != happening.announced
    roster, met = _news_of_others(tx, binding, told) if happening.roster else (None, ())
    requests = deliveries.open_requests(tx, me) if happening.ends and not (mail.messages or announce) else []
    earlier = 0 if told.introduced else deliveries.earlier(tx, me)
    news = bool(mail.messages or announce or roster or met or earlier)
    tells = news or bool(requests)
    _note_presence(tx, binding, happening, working=tells or not happening.ends)
    introduce = news and not told.introduced and bindings.introduce(tx, client.key)
    return HookResult(me, binding.registered, mail, announce, roster, met, tuple(requests), introduce, earlier)


class _Told:
    """The facts that a conversation was told of itself and others, by the row of its binding; without one: none."""

    def __init__(self, row: Row | None = None) -> None:
        self.introduced = bool(row and row["introduced"])
        self.roster = set(columns.load_list(row["told"])) if row else set[str]()
        self.overlaps = columns.load_list(row["overlaps"]) if row else ()


def _note_mail(tx: Transaction, me: Address, happening: HookReport) -> None:
    """Note what became of hand-overs."""
    if happening.recalled or happening.proven or happening.lost:
        tx.durable()
    deliveries.note_recalled(tx, me, happening.recalled)
    deliveries.confirm(tx, me, happening.proven)
    deliveries.withdraw(tx, me, happening.lost)
    if happening.begins:
        # Also what a program in the session's shell was given, and never proven.
        mailboxes.requeue(tx, me, str(tx.caller.process))


def _news_of_others(tx: Transaction, binding: Binding, told: _Told) -> tuple[Roster | None, tuple[Overlap, ...]]:
    """The roster, if others are on it than were told, and the overlaps that were not; they count as told now.

    Sessions that are not registered get no roster.
    """
    live = bindings.live(tx, binding.address.channel)
    found = bindings.tell_overlaps(tx, binding.client, told.overlaps, overlaps.of(tx, binding.address, set(live)))
    roster = agents.roster(tx, binding.address, live)
    if not binding.registered or told.roster == set(roster.names):
        return None, found
    bindings.tell_roster(tx, binding.client, roster)
    return roster, found


def _note_presence(tx: Transaction, binding: Binding, happening: HookReport, *, working: bool) -> None:
    status: Status = "working" if working else "idle"
    same = (
        happening.session_id in ("", binding.session_id)
        and happening.prompt_id in ("", binding.prompt_id)
        and happening.bell in (None, binding.bell)
        and binding.hooked
    )
    if status != binding.status or not same or happening.doing is not None:
        bindings.note(
            tx,
            binding,
            status,
            happening.session_id,
            happening.prompt_id,
            happening.bell,
            happening.doing,
            hooked=True,
        )


@verb("listen", rows=Rows(listeners.MOST, listeners.count))
def listen(tx: Transaction, address: Listener, client: SessionKey) -> None:
    """The caller, a server of the client, begins its work, and can be told of mail at `address` if it has one.

    Mail that an earlier server handed over, and did not live to see confirmed, waits again.
    """
    if address:
        listeners.listen(tx, address, client, tx.caller.process)
    binding = bindings.bound(tx, client)
    if binding:
        deliveries.recover(tx, binding.address)


@verb("heartbeat", mode="relaxed")
def beat(tx: Transaction, client: SessionKey) -> None:
    """`bindings.heartbeat`; and a session that is resumed takes its name back as soon as that is free.

    A container that was killed and started again finds it held by its predecessor, until that
    one has been silent for long enough.
    """
    bindings.heartbeat(tx, client, tx.caller.process)
    binding = bindings.bound(tx, client)
    who = bindings.last_name_of(tx, binding.session_id) if binding and not binding.registered else None
    if who:
        agents.register(tx, client, who, "", None)
        bindings.forget(tx, client)  # nobody told the model


@verb("register")
def join(tx: Transaction, client: SessionKey, who: Address, role: Role, owns: Owns) -> tuple[Binding, Roster, int]:
    """Register, and tell at once who else is here and how much mail waits.

    The answer introduces the session, so the next injection need not.
    """
    binding = agents.register(tx, client, who, role, owns)
    roster = agents.roster(tx, who)
    bindings.tell_roster(tx, client, roster)
    bindings.introduce(tx, client)
    mail = deliveries.unread(tx, who)
    return binding, roster, mail.count + mail.earlier
