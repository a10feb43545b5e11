"""What a client's hook reports."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class HookEvent:
    """One event of a client. A field that the client leaves out is an empty string."""

    event: str
    """Its name, as the client spells it: `UserPromptSubmit`, say."""
    session_id: str = ""
    """The conversation. Events in a subagent tell that of its session."""
    prompt_id: str = ""
    """The turn: a prompt and all that follows until the next have the same."""
    agent_id: str = ""
    """The subagent that it happened in; empty for the main conversation."""
    permission_mode: str = ""
    notification_type: str = ""
    prompt: str = ""
    tools: str = ""
    """Names of the first tools of a batch, separated by spaces."""
    tool_use_id: str = ""
    """The call of a tool of the bus that is about to be made."""
    path: str = ""
    notebook_path: str = ""

    @property
    def file(self) -> str:
        """The file that an edit tool is about to write."""
        return self.path or self.notebook_path

    def without_session(self) -> HookEvent:
        """The event as a subagent's own: without the conversation, the turn and the mode of its session."""
        return replace(self, session_id="", prompt_id="", permission_mode="")
