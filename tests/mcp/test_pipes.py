"""The pipes of the stdio server."""

from __future__ import annotations

import pytest

from claude_bus.mcp import pipes


def test_a_line_is_written_where_the_system_gives_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so are the lines after it, once there are threads again."""

    def refuse(*_args: object) -> None:
        raise RuntimeError("can't start new thread")

    written: list[bytes] = []
    output = pipes.Output(1, written.append)
    monkeypatch.setattr(pipes, "start_new_thread", refuse)
    output.send(b"one\n")
    monkeypatch.undo()
    output.send(b"two\n")
    output.flush(60)

    assert written == [b"one\n", b"two\n"]
