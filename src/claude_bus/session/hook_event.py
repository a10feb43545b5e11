"""The report of a client's hook."""

from __future__ import annotations

from dataclasses import replace

from ..records import record


@record(frozen=True, slots=True)
class HookEvent:
    """One event of a client. A field that the client leaves out is an empty string."""

    event: str
    """Its name as the client spells it, for example `UserPromptSubmit`."""
    session_id: str = ""
    """The conversation. Events in a subagent name that of its session."""
    prompt_id: str = ""
    """The turn: a prompt and everything until the next prompt share this id."""
    agent_id: str = ""
    """The subagent in which the event happened; empty for the main conversation."""
    permission_mode: str = ""
    notification_type: str = ""
    prompt: str = ""
    tools: str = ""
    """Names of the first tools of a batch, separated by spaces."""
    tool_use_id: str = ""
    """The call of a bus tool that is about to be made."""
    path: str = ""
    notebook_path: str = ""

    @property
    def file(self) -> str:
        """The file that an edit tool is about to write."""
        return self.path or self.notebook_path

    def without_session(self) -> HookEvent:
        """Return the event as the subagent's own: without conversation, turn and mode of its session."""
        return replace(self, session_id="", prompt_id="", permission_mode="")
