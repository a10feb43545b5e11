"""The verbs of a running session that do several things at once: join, or handle a hook event."""

from __future__ import annotations

from ..model.hooks import HookReport, HookResult
from ..model.identity import Address, Binding, Client, Roster, Status
from ..model.messages import HandOver
from . import agents, bindings, columns, deliveries, listeners, mailboxes, overlaps
from .arguments import Listener, Owns, Role, SessionKey
from .transaction import Transaction
from .verbs import Rows, verb


@verb("react", with_unconfirmed=True)
def handle_hook_event(tx: Transaction, client: Client, happening: HookReport) -> HookResult | None:
    """Record what happened and hand over what is new. None if the client is not bound.

    A session's every prompt and tool batch waits for this: presence, proof, mail and
    roster are one hop to the store, which writes only what changed.
    """
    binding = bindings.bound(tx, client.key)
    if not binding or binding.process != client.process:
        return None
    me = binding.address
    if happening.again or happening.session_id not in ("", binding.session_id):
        bindings.forget(tx, client.key)
    deliveries.note_recalled(tx, me, happening.recalled)
    deliveries.confirm(tx, me, happening.proven)
    deliveries.withdraw(tx, me, happening.lost)
    if happening.begins:
        # Also what a program in the session's shell was given, and never proven.
        mailboxes.requeue(tx, me, str(tx.caller.process))
    mail = HandOver((), 0)
    if not happening.ends or deliveries.continues(tx, me):
        mail = deliveries.hand_over(tx, me, max_chars=happening.space, via=happening.via, news_only=True)
    announce = bool(mail.pending and happening.space) and mail.next_id != happening.announced
    roster = _roster_if_new(tx, binding) if happening.roster else None
    met = bindings.tell_overlaps(tx, client.key, overlaps.of(tx, me)) if happening.roster else ()
    requests = deliveries.open_requests(tx, me) if happening.ends and not (mail.messages or announce) else []
    earlier = 0 if bindings.introduced(tx, client.key) else deliveries.earlier(tx, me)
    news = bool(mail.messages or announce or roster or met or earlier)
    tells = news or bool(requests)
    _note_presence(tx, binding, happening, working=tells or not happening.ends)
    introduce = news and bindings.introduce(tx, client.key)
    return HookResult(me, binding.registered, mail, announce, roster, met, tuple(requests), introduce, earlier)


def _note_presence(tx: Transaction, binding: Binding, happening: HookReport, *, working: bool) -> None:
    status: Status = "working" if working else "idle"
    same = (
        happening.session_id in ("", binding.session_id)
        and happening.prompt_id in ("", binding.prompt_id)
        and happening.bell in (None, binding.bell)
        and binding.hooked
    )
    if status != binding.status or not same or happening.doing is not None:
        bindings.observe(
            tx,
            binding.client,
            status=status,
            session_id=happening.session_id,
            prompt_id=happening.prompt_id,
            bell=happening.bell,
            doing=happening.doing,
            hooked=True,
        )


def _roster_if_new(tx: Transaction, binding: Binding) -> Roster | None:
    """The roster, if others are on it than the session was told last; sessions not registered get none."""
    if not binding.registered:
        return None
    roster = agents.roster(tx, binding.address)
    told = tx.one("SELECT told FROM bindings WHERE client = ?", binding.client)
    if told and set(columns.load_list(told["told"])) == set(roster.names):
        return None
    bindings.tell_roster(tx, binding.client, roster)
    return roster


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
