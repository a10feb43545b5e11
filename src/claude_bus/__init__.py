"""A shared bus for Claude Code sessions, scripts and people: messages, state, claims, presence."""

__version__ = "0.3.0"
