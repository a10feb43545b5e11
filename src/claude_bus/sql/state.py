"""Shared state: values by key, each with a version, and the history of each."""

from __future__ import annotations

from typing import Literal, TypedDict

from .. import drafts, limits, state_values
from ..errors import InvalidInput, VersionConflict
from ..model.identity import Address
from ..model.state import StateEntry
from . import events
from .arguments import Channel, Content, Listener, Me
from .transaction import Row, Transaction
from .verbs import Rows, verb

Mode = Literal["overwrite", "append", "delete"]


_SIZE = "LENGTH(value) + LENGTH(key) + LENGTH(updated_by) + 100"
"""Characters of an entry in an answer, about."""


class Options(TypedDict, total=False):
    """How `set_state` writes; see there."""

    expected_version: int | None
    mode: Mode
    ttl: float | None
    json: bool


@verb("set_state", repeatable=False, nameless=True, checks="value")
def set_state(
    tx: Transaction,
    me: Me,
    key: str,
    value: Content,
    *,
    allow_secret: bool = False,  # noqa: ARG001 - checked before, see `local`
    expected_version: int | None = None,
    mode: Mode = "overwrite",
    ttl: float | None = None,
    json: bool = False,
) -> int:
    """Write, append a line to, or delete an entry; returns its new version. Those who wait for the key are notified.

    `expected_version` makes it a compare-and-set (0: only if there is no entry), else
    `VersionConflict`. Versions of a key never repeat, also across deletion, so a
    compare-and-set cannot mistake a new entry for an old one. With `ttl` (seconds)
    the entry vanishes by itself; without, it stays and an earlier ttl ends. `json` says
    that the value is JSON to be given back as such; nothing can be appended to that.
    A channel has `state_values.MAX_KEYS` keys at most, or `TooLarge`.
    """
    state_values.check_key(key)
    if mode not in ("overwrite", "append", "delete"):
        raise InvalidInput(f"unknown mode {mode!r} (use 'overwrite', 'append' or 'delete')")
    if ttl is not None:
        limits.check_seconds(ttl, "ttl", drafts.MAX_TTL)
    entry = _entry(tx, me.channel, key)
    current = entry.version if entry else 0
    if expected_version is not None and expected_version != current:
        raise VersionConflict(key, expected_version, current)
    watchers = tx.all("SELECT address FROM watches WHERE channel = ? AND key = ?", me.channel, key)
    tx.notify(row["address"] for row in watchers)
    if mode == "delete":
        return _delete(tx, me, key, entry)
    if mode == "append" and (json or (entry and entry.json)):
        raise InvalidInput(f"append adds a line of text, and '{key}' is or would be JSON: overwrite it instead")
    if not entry:
        state_values.check_key_count(_count(tx, me.channel), me.channel)
    old = entry.value if entry and mode == "append" else None
    new = state_values.check_value(f"{old}\n{value}" if old else value)
    version = _last_version(tx, me.channel, key) + 1
    expires = None if ttl is None else tx.now + ttl
    tx.run(
        "INSERT INTO state (channel, key, value, json, version, updated_by, updated_at, expires) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (channel, key) DO UPDATE SET value = excluded.value, "
        "json = excluded.json, version = excluded.version, updated_by = excluded.updated_by, "
        "updated_at = excluded.updated_at, expires = excluded.expires",
        me.channel,
        key,
        new,
        int(json),
        version,
        me.name,
        tx.now,
        expires,
    )
    _record(tx, me, key, version, new, json=json)
    events.append(tx, me, f"state_{mode}", key, f"version {version}")
    return version


def _delete(tx: Transaction, me: Address, key: str, entry: StateEntry | None) -> int:
    if not entry:
        return 0
    version = entry.version + 1
    tx.run("DELETE FROM state WHERE channel = ? AND key = ?", me.channel, key)
    _record(tx, me, key, version, None)
    events.append(tx, me, "state_delete", key, f"version {version}")
    return version


def _record(tx: Transaction, me: Address, key: str, version: int, value: str | None, *, json: bool = False) -> None:
    tx.run(
        "INSERT INTO state_history (channel, key, version, value, json, by, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        me.channel,
        key,
        version,
        value,
        int(json),
        me.name,
        tx.now,
    )


def _count(tx: Transaction, channel: str) -> int:
    return int(
        tx.number("SELECT COUNT(*) FROM state WHERE channel = ? AND (expires IS NULL OR expires > ?)", channel, tx.now)
    )


def _last_version(tx: Transaction, channel: str, key: str) -> int:
    """The highest version the key ever had (an entry of an older file has no history)."""
    history = tx.number("SELECT MAX(version) FROM state_history WHERE channel = ? AND key = ?", channel, key)
    entry = tx.number("SELECT version FROM state WHERE channel = ? AND key = ?", channel, key)
    return int(max(history, entry))


def watched(tx: Transaction, begins: str) -> int:
    """How many keys are watched from addresses that begin like this."""
    return int(
        tx.number("SELECT COUNT(*) FROM watches WHERE address >= ? AND address < ?", begins, f"{begins}\U0010ffff")
    )


@verb("watch", rows=Rows(5_000, watched))
def watch(tx: Transaction, address: Listener, channel: Channel, key: str) -> None:
    """Ask for a notice at `address` when the key changes."""
    tx.run("INSERT INTO watches (address, channel, key) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", address, channel, key)


@verb("unwatch")
def unwatch(tx: Transaction, address: Listener, channel: Channel, key: str) -> None:
    """Ask for no more notices of the key."""
    tx.run("DELETE FROM watches WHERE address = ? AND channel = ? AND key = ?", address, channel, key)


@verb("state_history", mode="read")
def history(tx: Transaction, channel: Channel, key: str, limit: int, before: int = 0) -> list[StateEntry]:
    """The newest `limit` versions of a key, newest first, or as many as fit; a deletion has no value.

    `before` is a version (0: none) before which to look: that of the last one of an answer brings the next.
    """
    sizes = tx.all(
        "SELECT version, COALESCE(LENGTH(value), 0) AS size FROM state_history "
        "WHERE channel = ? AND key = ? AND (? = 0 OR version < ?) ORDER BY version DESC LIMIT ?",
        channel,
        key,
        before,
        before,
        limits.clamp(limit, limits.MAX_AT_ONCE),
    )
    if not sizes:
        return []
    fitting = sizes[: limits.fit_count(row["size"] for row in sizes)]
    rows = tx.all(
        "SELECT key, value, json, version, by AS updated_by, at AS updated_at, NULL AS expires FROM state_history "
        "WHERE channel = ? AND key = ? AND version BETWEEN ? AND ? ORDER BY version DESC",
        channel,
        key,
        fitting[-1]["version"],
        fitting[0]["version"],
    )
    return [_from_row(row) for row in rows]


@verb("get_state", mode="read")
def get_state(tx: Transaction, channel: Channel, key: str) -> StateEntry | None:
    """One entry with its value, or None."""
    return _entry(tx, channel, key)


@verb(mode="read")
def latest(tx: Transaction, channel: str, key: str) -> StateEntry:
    """One entry; for a deleted one its deletion, for one that ran out or never was version 0: both without value."""
    entry = _entry(tx, channel, key)
    newest = [] if entry else history(tx, channel, key, 1)
    deletion = newest[0] if newest and newest[0].value is None else None
    return entry or deletion or StateEntry(key, None, 0, "", 0.0)


@verb(mode="read")
def with_history(tx: Transaction, channel: str, key: str, limit: int) -> tuple[StateEntry | None, list[StateEntry]]:
    """One entry with its value, or None, and the newest `limit` versions of its key; see `history`."""
    return _entry(tx, channel, key), history(tx, channel, key, limit)


@verb()
def watch_from(tx: Transaction, address: str, channel: str, key: str) -> StateEntry:
    """`watch` a key; returns its entry as it is now, as `latest` does."""
    watch(tx, address, channel, key)
    return latest(tx, channel, key)


@verb("list_state", mode="read")
def list_state(tx: Transaction, channel: Channel, *, prefix: str = "", values: bool = False) -> list[StateEntry]:
    """All entries whose key begins with `prefix`, by key; values only if asked for.

    Raises `TooLarge` if these are more than one answer carries.
    """
    where = "channel = ? AND SUBSTR(key, 1, ?) = ? AND (expires IS NULL OR expires > ?)"
    those = (channel, len(prefix), prefix, tx.now)
    if values:
        state_values.check_values_size(int(tx.number(f"SELECT SUM({_SIZE}) FROM state WHERE {where}", *those)))
    value = "value" if values else "NULL AS value"
    rows = tx.all(
        f"SELECT key, {value}, json, version, updated_by, updated_at, expires FROM state WHERE {where} ORDER BY key",
        *those,
    )
    return [_from_row(row) for row in rows]


def _entry(tx: Transaction, channel: str, key: str) -> StateEntry | None:
    row = tx.one(
        "SELECT * FROM state WHERE channel = ? AND key = ? AND (expires IS NULL OR expires > ?)",
        channel,
        key,
        tx.now,
    )
    return _from_row(row) if row else None


def prune(tx: Transaction, before: float) -> int:
    """Drop expired entries, and history older than `before`; returns how many entries."""
    tx.run(
        "DELETE FROM state_history WHERE at < ? AND version < "
        "(SELECT MAX(h.version) FROM state_history h WHERE h.channel = state_history.channel "
        "AND h.key = state_history.key)",
        before,
    )
    tx.run("DELETE FROM watches WHERE address NOT IN (SELECT address FROM listeners)")
    over = tx.all("SELECT channel, key, version, updated_by FROM state WHERE expires <= ?", tx.now)
    events.append_all(
        tx,
        [
            (Address(row["updated_by"], row["channel"]), "state_expire", row["key"], f"version {row['version']}")
            for row in over
        ],
    )
    tx.run("DELETE FROM state WHERE expires <= ?", tx.now)
    return len(over)


def _from_row(row: Row) -> StateEntry:
    return StateEntry(
        key=row["key"],
        value=row["value"],
        version=row["version"],
        updated_by=row["updated_by"],
        updated_at=row["updated_at"],
        expires=row["expires"],
        json=bool(row["json"]),
    )
