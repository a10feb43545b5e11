"""The verbs that go over the wire, by their names there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from . import agents, bindings, calls, claims, deliveries, guard, listeners, messages, sessions, state
from .verbs import Verb

_MODULES = (agents, bindings, calls, claims, deliveries, guard, listeners, messages, sessions, state)


def _named(modules: Iterable[ModuleType]) -> dict[str, Verb[..., Any]]:
    found: dict[str, Verb[..., Any]] = {}
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, Verb) and value.wire:
                assert found.setdefault(value.wire, value) is value, f"two verbs are called {value.wire}"
    return found


REMOTE: Mapping[str, Verb[..., Any]] = _named(_MODULES)
