"""Shared state as the reference describes it, in plain Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from tests.support.model_refusals import Refused

Mode = Literal["overwrite", "append", "delete"]


@dataclass(frozen=True)
class Version:
    """A key at one point in time; without a value, it was deleted."""

    number: int
    value: str | None
    json: bool
    by: str
    at: float
    expires: float | None = None


@dataclass
class ModelOfState:
    """Every key of every channel, with all its versions."""

    entries: dict[tuple[str, str], Version] = field(default_factory=dict)
    versions: dict[tuple[str, str], list[Version]] = field(default_factory=dict)

    def get(self, channel: str, key: str, now: float) -> Version | None:
        """The entry, unless it has expired."""
        entry = self.entries.get((channel, key))
        return entry if entry and (entry.expires is None or entry.expires > now) else None

    def set(
        self,
        channel: str,
        by: str,
        key: str,
        value: str,
        now: float,
        *,
        expected: int | None,
        mode: Mode,
        ttl: float | None,
        json: bool,
    ) -> int:
        """Write. The versions of a key count up without gaps, also across a deletion."""
        entry = self.get(channel, key, now)
        if expected is not None and expected != (entry.number if entry else 0):
            raise Refused("version_conflict")
        if mode == "delete" and not entry:
            return 0
        if mode == "append" and (json or (entry and entry.json)):
            raise Refused("invalid_input")
        before = entry.value if entry and mode == "append" else None
        kept = self.versions.setdefault((channel, key), [])
        number = kept[-1].number + 1 if kept else 1
        if mode == "delete":
            kept.append(Version(number, None, False, by, now))
            del self.entries[channel, key]
            return number
        new = Version(number, f"{before}\n{value}" if before else value, json, by, now, ttl and now + ttl)
        kept.append(new)
        self.entries[channel, key] = new
        return number

    def listed(self, channel: str, prefix: str, now: float) -> dict[str, Version]:
        keys = sorted(key for where, key in self.entries if where == channel and key.startswith(prefix))
        found = {key: self.get(channel, key, now) for key in keys}
        return {key: entry for key, entry in found.items() if entry}

    def history(self, channel: str, key: str, limit: int) -> list[Version]:
        return self.versions.get((channel, key), [])[::-1][:limit]

    def prune(self, before: float, now: float) -> None:
        """Remove expired entries, and old versions except the newest of each key."""
        for at in [at for at in self.entries if not self.get(*at, now)]:
            del self.entries[at]
        for at, kept in self.versions.items():
            self.versions[at] = [v for v in kept if v.at >= before or v is kept[-1]]
