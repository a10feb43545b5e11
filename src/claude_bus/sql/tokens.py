"""Tokens: who may use the bus over HTTP, and as whom. Only their hashes are here."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.identity import Address
from ..model.tokens import Grant, Key, Token
from ..records import record
from . import columns, events
from .transaction import Row, Transaction
from .verbs import verb

_VALID = "revoked IS NULL AND (expires IS NULL OR expires > ?)"


@verb()
def create(
    tx: Transaction,
    owner: str,
    digest: str,
    names: Sequence[str],
    channels: Sequence[str],
    ttl: float | None,
    *,
    in_url: bool = False,
) -> Token:
    """Note a new token by the digest of its secret; it is valid for `ttl` seconds, or until it is revoked (None)."""
    expires = None if ttl is None else tx.now + ttl
    cursor = tx.run(
        "INSERT INTO tokens (owner, hash, names, channels, created, expires, in_url) VALUES (?, ?, ?, ?, ?, ?, ?)",
        owner,
        digest,
        columns.dump_list(names),
        columns.dump_list(channels),
        tx.now,
        expires,
        int(in_url),
    )
    assert cursor.lastrowid is not None
    _journal(tx, owner, "token_create", cursor.lastrowid)
    return Token(cursor.lastrowid, owner, tuple(names), tuple(channels), tx.now, expires, None, in_url)


@verb(mode="read")
def listing(tx: Transaction) -> list[Token]:
    """All tokens, the revoked and expired ones too, oldest first."""
    return [_token(row) for row in tx.all("SELECT * FROM tokens ORDER BY id")]


@verb()
def revoke(tx: Transaction, token: int) -> Token | None:
    """End a token; None if there is no such one. One that has ended stays as it is."""
    changed = tx.run("UPDATE tokens SET revoked = ? WHERE id = ? AND revoked IS NULL", tx.now, token).rowcount
    row = tx.one("SELECT * FROM tokens WHERE id = ?", token)
    if row and changed:
        _journal(tx, row["owner"], "token_revoke", token)
    return _token(row) if row else None


@record(frozen=True, slots=True)
class Valid:
    """The tokens that were valid at one moment."""

    keys: tuple[Key, ...]
    others: float
    """Changes with the commits of other connections to the database than the one that looked."""
    own: int
    """Changes with the tokens that this process makes and ends."""


@verb(mode="read")
def valid(tx: Transaction, known: Valid | None) -> Valid:
    """All that are valid now, with what each permits. `known`, by the same connection, if nothing tells of a change:
    some of them may have expired."""
    others, own = tx.number("PRAGMA data_version"), _changes.count
    if known and (known.others, known.own) == (others, own):
        return known
    return Valid(tuple(_keys(tx)), others, own)


def _keys(tx: Transaction) -> list[Key]:
    return [
        Key(
            row["hash"],
            Grant(
                row["owner"],
                columns.load_list(row["names"]),
                columns.load_list(row["channels"]),
                row["id"],
                bool(row["in_url"]),
            ),
            row["expires"],
        )
        for row in tx.all(f"SELECT * FROM tokens WHERE {_VALID}", tx.now)
    ]


@verb(mode="read")
def exist(tx: Transaction) -> bool:
    """Whether there is a valid token."""
    return tx.one(f"SELECT 1 FROM tokens WHERE {_VALID} LIMIT 1", tx.now) is not None


class _Changes:
    """Of tokens, by this process: SQLite tells a connection of others' changes only."""

    count = 0


_changes = _Changes()


def _journal(tx: Transaction, owner: str, verb: str, token: int) -> None:
    _changes.count += 1
    events.append(tx, Address(owner, ""), verb, str(token))


def _token(row: Row) -> Token:
    return Token(
        id=row["id"],
        owner=row["owner"],
        names=columns.load_list(row["names"]),
        channels=columns.load_list(row["channels"]),
        created=row["created"],
        expires=row["expires"],
        revoked=row["revoked"],
        in_url=bool(row["in_url"]),
    )
