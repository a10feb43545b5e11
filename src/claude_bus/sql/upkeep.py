"""Retention: the one verb that forgets what is past its time."""

from __future__ import annotations

from .. import rules
from . import bindings, calls, claims, events, messages, silence, state
from .transaction import Transaction
from .verbs import verb


@verb()
def prune(tx: Transaction) -> None:
    """Forget what is past its retention."""
    before = tx.now - rules.RETENTION
    bindings.reap(tx)
    claims.prune(tx)
    silence.settle(tx)
    messages.prune(tx, before)
    silence.forget(tx)
    events.prune(tx, before)
    state.prune(tx, before)
    calls.prune(tx)
