"""The files that messages name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ..model.messages import File
from .transaction import Transaction, at_once, listed, spread


def attach(tx: Transaction, message: int, files: Sequence[File]) -> None:
    """Store the files that a message names, in that order."""
    for some in at_once([*enumerate(files)]):
        tx.run(
            f"INSERT INTO attachments (message, number, host, path, size, sha256) VALUES {listed(len(some), 6)}",
            *spread((message, number, file.host, file.path, file.size, file.sha256) for number, file in some),
        )


def of(tx: Transaction, messages: Sequence[int]) -> dict[int, tuple[File, ...]]:
    """Return the files of those messages that name any, with their state unchecked."""
    found: dict[int, list[File]] = defaultdict(list)
    for some in at_once(messages):
        for row in tx.all(
            f"SELECT * FROM attachments WHERE message IN ({listed(len(some))}) ORDER BY message, number", *some
        ):
            found[row["message"]].append(File(row["path"], row["size"], row["sha256"], row["host"]))
    return {message: tuple(files) for message, files in found.items()}
