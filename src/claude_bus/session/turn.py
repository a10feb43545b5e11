"""Bookkeeping of the hand-overs that the model has demonstrably received. Pure.

The text that a hook returned goes into the request that follows; that of a tool into the
request after its batch. A request is proven by an event that only its answer can cause: a
further tool batch, or the end of the turn. A new prompt proves nothing. If the user
interrupts before the answer begins, the client removes the prompt and all that hooks added
to it from the conversation (seen on 2.1.328), so unproven hand-overs are then lost.
"""

from __future__ import annotations

from collections.abc import Collection

_ANSWERS_KEPT = 20
"""Answers that the client may still report as given up."""


class OneTimeNotices:
    """Notices that a conversation gets once: its name, the roster, the requests it left open.

    `again` and `recalled` are for the store; `reported` records that the store has them.
    """

    def __init__(self) -> None:
        self.again = False
        """A notice may not have reached the model: tell all of them again."""
        self.recalled: list[int] = []
        """Requests that the model was reminded of."""
        self._carried = False
        self._requests: list[int] = []

    def attach(self, requests: list[int]) -> None:
        """Record that notices go with the request that follows, and reminders of these open requests."""
        self._carried = True
        self._requests += requests

    def confirm(self) -> None:
        """Record that the model received the notices that its request carried."""
        self.recalled += self._requests
        self._carried, self._requests = False, []

    def discard(self) -> None:
        """Record that the model did not receive them."""
        self.again = self.again or self._carried
        self._carried, self._requests = False, []

    def retry(self) -> None:
        """Record that the store has noted notices as told that were never sent."""
        self.again = True

    def reported(self) -> None:
        """Record that the store knows which notices to tell again."""
        self.again, self.recalled = False, []


class Turn:
    """The unproven hand-overs of one session's conversation, by message id.

    `proven` and `lost` are for the store; `settle` records that the store has them. `once` holds
    the notices that go with them and are not messages.
    """

    def __init__(self, *, hooked: bool = False) -> None:
        self.session_id = ""
        self.hooked = hooked
        """Hook events arrive, or will; without them a later tool call is the only proof."""
        self.proven: list[int] = []
        self.lost: list[int] = []
        self.one_time = OneTimeNotices()
        self._prompt_id: str | None = None
        self._carried: list[int] = []
        self._in_batch: list[int] = []
        self._answers: dict[int | str | None, list[int]] = {}
        self._parts: tuple[int, int] = (0, 0)

    def take_up(self, session_id: str, prompt_id: str) -> None:
        """Continue the turn of the server before this one, as far as the store knows it."""
        self.session_id, self._prompt_id = session_id, prompt_id or None
        self.hooked = self.hooked or bool(prompt_id)

    def begins(self, session_id: str, prompt_id: str) -> bool:
        """Return whether a prompt starts a new turn, as opposed to joining the running one.

        A prompt typed while the model works shares the turn's id. It brings no mail, because that
        could go with this request or with that of a later turn: the next batch or the end of the
        turn brings it.
        """
        self.hooked = True
        return not prompt_id or session_id != self.session_id or prompt_id != self._prompt_id

    def begin(self, session_id: str, prompt_id: str) -> None:
        """Start a turn: hand-overs that are still unproven are lost."""
        self.fail()
        self.session_id, self._prompt_id = session_id, prompt_id

    def batch(self) -> None:
        """End a tool batch: it proves the mail that its request carried."""
        self.hooked = True
        self.proven += self._carried
        self._carried, self._in_batch = self._in_batch, []
        self.one_time.confirm()

    def stop(self) -> None:
        """End the turn by the model itself: that proves everything."""
        self.hooked = True
        self.proven += self._carried + self._in_batch
        self._carried, self._in_batch = [], []
        self.one_time.confirm()

    def fail(self) -> None:
        """End the turn because its request got no answer: nothing is proven."""
        self.hooked = True
        self.lost += self._carried + self._in_batch
        self._carried, self._in_batch = [], []
        self._parts = (0, 0)
        self.one_time.discard()

    def call(self) -> None:
        """Record a tool call. It proves the calls before it, unless hooks report exactly."""
        if not self.hooked:
            self.proven += self._in_batch
            self._in_batch = []

    def answer(self, request: int | str | None, messages: list[int]) -> None:
        """Record that the client's request is answered with these messages, or with notices."""
        self._answers[request] = messages
        if len(self._answers) > _ANSWERS_KEPT:
            del self._answers[next(iter(self._answers))]

    def give_up(self, request: int | str) -> None:
        """Handle a request that the client had given up: the model did not receive its answer."""
        if request in self._answers:
            self._parts = (0, 0)
            self.one_time.discard()
            self._lose(self._answers.pop(request))

    def _lose(self, messages: list[int]) -> None:
        self.lost += [m for m in messages if m in self._carried or m in self._in_batch]
        self._carried = [m for m in self._carried if m not in messages]
        self._in_batch = [m for m in self._in_batch if m not in messages]

    def parts_of(self, message: int) -> int:
        """Return how many parts of a message too large for one answer the conversation was given."""
        return self._parts[1] if self._parts[0] == message else 0

    def give_part(self, request: int | str | None, message: int) -> None:
        """Record that the request is answered with the next part of this message.

        The message is handed over only with its last part. If an answer is lost before, the parts begin again.
        """
        self._parts = (message, self.parts_of(message) + 1)
        self._answers.setdefault(request, [])

    def settle(self) -> None:
        """Record that the store knows what is proven and what is lost."""
        self.proven, self.lost = [], []

    def settle_these(self, proven: Collection[int], lost: Collection[int]) -> None:
        """Record that the store knows of these that they are proven, or lost."""
        if proven or lost:
            self.proven = [m for m in self.proven if m not in proven]
            self.lost = [m for m in self.lost if m not in lost]

    def handed_by_hook(self, messages: list[int]) -> None:
        """Add messages that go with the request that follows; one that is already there counts once."""
        self._carried += [m for m in messages if m not in self._carried]

    def handed_by_tool(self, messages: list[int]) -> None:
        """Add messages that go with the request after the batch of this tool call."""
        self._in_batch += messages
