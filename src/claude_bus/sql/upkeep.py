"""Retention: the one verb that forgets what is past its time."""

from __future__ import annotations

from .. import limits
from . import bindings, calls, claims, events, expiry, messages, search, state
from .transaction import Transaction
from .verbs import verb


@verb()
def prune(tx: Transaction) -> None:
    """Forget what is past its retention."""
    before = tx.now - limits.RETENTION
    bindings.reap(tx)
    claims.prune(tx)
    expiry.settle(tx)
    messages.prune(tx, before)
    expiry.forget(tx)
    events.prune(tx, before)
    state.prune(tx, before)
    calls.prune(tx)
    search.repair(tx)
