"""Hand-overs that are not proven read, and messages whose sending was not confirmed, as this program knows them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import replace

from ..model.identity import Address
from ..model.messages import Draft

KEY_LASTS = 900.0
"""Seconds within which a message whose fate is unknown can be repeated under its key."""


class HandOvers:
    """The hand-overs that this program holds: it was handed the mail, and has not said that it was read.

    Sessions are renamed, and what they hold goes with them.
    """

    def __init__(self) -> None:
        self._held: set[tuple[Address, int]] = set()
        self._addresses: dict[str, Address] = {}

    def all(self) -> tuple[tuple[Address, int], ...]:
        return tuple(self._held)

    def hold(self, me: Address, message_ids: Iterable[int]) -> None:
        self._held.update((me, message) for message in message_ids)

    def let_go(self, me: Address, message_ids: Iterable[int]) -> None:
        self._held.difference_update((me, message) for message in message_ids)

    def named(self, client: str, who: Address) -> None:
        """The client's session bears this name now."""
        was = self._addresses.get(client)
        self._addresses[client] = who
        self._held = {(who if address == was else address, message) for address, message in self._held}

    def ended(self, client: str) -> None:
        """The client's session is over."""
        was = self._addresses.pop(client, None)
        self._held = {(address, message) for address, message in self._held if address != was}


class Sendings:
    """Messages of which nobody knows whether they were sent, each with the key that makes a repetition harmless."""

    def __init__(self) -> None:
        self._unsure: dict[tuple[Address, Draft], tuple[str, float]] = {}

    def keyed(self, me: Address, draft: Draft) -> Draft:
        """The draft with its own key, or that of the same message whose fate is not known, or a new one."""
        now = time.monotonic()
        self._unsure = {said: (key, at) for said, (key, at) in self._unsure.items() if now - at < KEY_LASTS}
        known = self._unsure.get((me, _same(draft)))
        return replace(draft, key=draft.key or (known[0] if known else f"once-{uuid.uuid4().hex}"))

    def unsure(self, me: Address, draft: Draft, key: str) -> None:
        """Nobody knows whether it was sent."""
        self._unsure[me, _same(draft)] = key, time.monotonic()

    def sent(self, me: Address, draft: Draft) -> None:
        """It was sent."""
        self._unsure.pop((me, _same(draft)), None)


def _same(draft: Draft) -> Draft:
    """The parts that make a repeated message the same message."""
    return replace(draft, hops=0)
