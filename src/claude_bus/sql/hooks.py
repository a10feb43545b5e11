"""One hook event of a session, whole: presence, proof, mail and roster in one transaction.

A session's every prompt and tool batch waits for this, so it is one hop to the store
and writes only what changed.
"""

from __future__ import annotations

from ..model import Happening, Process, Reaction
from . import agents, messages
from .transaction import Transaction


def react(tx: Transaction, client: str, happening: Happening, by: Process) -> Reaction | None:
    """Record what happened and hand over what is new. None if the client is not bound."""
    binding = agents.bound(tx, client)
    if not binding:
        return None
    bell = tx.number("SELECT bell FROM bindings WHERE client = ?", client)
    news = happening.bell is not None and bool(bell) != happening.bell
    if news or happening.status != binding.status or happening.session_id not in ("", binding.session_id):
        agents.observe(tx, client, status=happening.status, session_id=happening.session_id, bell=happening.bell)
    me = binding.address
    messages.confirm(tx, me, happening.proven, by)
    messages.withdraw(tx, me, happening.lost, by)
    return Reaction(
        binding,
        messages.hand_over(tx, me, limit=100, max_chars=happening.space, by=by, via=happening.via),
        agents.roster(tx, me) if happening.roster and binding.registered else None,
    )
