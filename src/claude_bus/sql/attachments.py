"""The files that messages name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ..model.messages import File
from .transaction import Transaction


def attach(tx: Transaction, message: int, files: Sequence[File]) -> None:
    """Store the files that a message names, in that order."""
    for number, file in enumerate(files):
        tx.run(
            "INSERT INTO attachments (message, number, host, path, size, sha256) VALUES (?, ?, ?, ?, ?, ?)",
            message,
            number,
            file.host,
            file.path,
            file.size,
            file.sha256,
        )


def of(tx: Transaction, messages: Sequence[int]) -> dict[int, tuple[File, ...]]:
    """Return the files of those messages that name any, with their state unchecked."""
    if not messages:
        return {}
    marks = ", ".join("?" * len(messages))
    rows = tx.all(
        f"SELECT * FROM attachments WHERE message IN ({marks}) ORDER BY message, number",
        *messages,
    )
    found: dict[int, tuple[File, ...]] = defaultdict(tuple)
    for row in rows:
        found[row["message"]] += (File(row["path"], row["size"], row["sha256"], row["host"]),)
    return found
