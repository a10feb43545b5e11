"""Which hand-overs the model has demonstrably had before it. Pure bookkeeping.

What a hook returned goes into the request that follows; what a tool returned, into
the request after its batch. A request is proven by what only its answer can cause: a
further tool batch, or the end of the turn. A new prompt proves nothing. Interrupted
before the answer begins, the client takes the prompt and all that hooks added to it
back out of the conversation (seen on 2.1.328), so unproven hand-overs are then lost.
"""

from __future__ import annotations

_ANSWERS_KEPT = 20
"""Answers that the client may still say it gave up."""


class OneTimeNotices:
    """What a conversation is told once: who it is, who else is here, which requests it left open.

    `again` and `recalled` are for the store; `reported` says that it has them.
    """

    def __init__(self) -> None:
        self.again = False
        """Some of it may not have reached the model: it is to be told anew."""
        self.recalled: list[int] = []
        """Requests of which the model was reminded."""
        self._carried = False
        self._requests: list[int] = []

    def attach(self, requests: list[int]) -> None:
        """Some of it goes with the request that follows, these open requests among it."""
        self._carried = True
        self._requests += requests

    def confirm(self) -> None:
        """The model had what its request carried."""
        self.recalled += self._requests
        self._carried, self._requests = False, []

    def discard(self) -> None:
        """The model did not have it."""
        self.again = self.again or self._carried
        self._carried, self._requests = False, []

    def retry(self) -> None:
        """What the store has noted as told never left it."""
        self.again = True

    def reported(self) -> None:
        """The store has been told what is to be told anew, and what is not."""
        self.again, self.recalled = False, []


class Turn:
    """The unproven hand-overs of one session's conversation, by message id.

    `proven` and `lost` are for the store; `settle` says that it has them. `once` is what
    goes with them and is no message.
    """

    def __init__(self, *, hooked: bool = False) -> None:
        self.session_id = ""
        self.hooked = hooked
        """Hook events arrive, or will; without them a later tool call is the only proof there is."""
        self.proven: list[int] = []
        self.lost: list[int] = []
        self.one_time = OneTimeNotices()
        self._prompt_id: str | None = None
        self._carried: list[int] = []
        self._in_batch: list[int] = []
        self._answers: dict[int | str | None, list[int]] = {}
        self._parts: tuple[int, int] = (0, 0)

    def take_up(self, session_id: str, prompt_id: str) -> None:
        """Go on from where the server before this one was, as far as the store knows it."""
        self.session_id, self._prompt_id = session_id, prompt_id or None
        self.hooked = self.hooked or bool(prompt_id)

    def begins(self, session_id: str, prompt_id: str) -> bool:
        """Whether a prompt starts a new turn, as opposed to joining the one under way.

        A prompt typed while the model works shares the turn's id. What it brought
        could go with this request or a later turn's, so it brings nothing: the next
        batch or the end of the turn does.
        """
        self.hooked = True
        return not prompt_id or session_id != self.session_id or prompt_id != self._prompt_id

    def begin(self, session_id: str, prompt_id: str) -> None:
        """Start a turn: what was not proven by now is lost."""
        self.fail()
        self.session_id, self._prompt_id = session_id, prompt_id

    def batch(self) -> None:
        """A tool batch is over: it proves what its request carried."""
        self.hooked = True
        self.proven += self._carried
        self._carried, self._in_batch = self._in_batch, []
        self.one_time.confirm()

    def stop(self) -> None:
        """The model ended its turn: that proves everything."""
        self.hooked = True
        self.proven += self._carried + self._in_batch
        self._carried, self._in_batch = [], []
        self.one_time.confirm()

    def fail(self) -> None:
        """The request got no answer, and the turn ended with it: nothing is proven."""
        self.hooked = True
        self.lost += self._carried + self._in_batch
        self._carried, self._in_batch = [], []
        self._parts = (0, 0)
        self.one_time.discard()

    def call(self) -> None:
        """A tool call came. It proves the calls before it, unless hooks will tell exactly."""
        if not self.hooked:
            self.proven += self._in_batch
            self._in_batch = []

    def answer(self, request: int | str | None, messages: list[int]) -> None:
        """The client's request is answered with these, or with what is told once."""
        self._answers[request] = messages
        if len(self._answers) > _ANSWERS_KEPT:
            del self._answers[next(iter(self._answers))]

    def give_up(self, request: int | str) -> None:
        """The client had given this request up when its answer came: what that carried is not before the model."""
        if request in self._answers:
            self._parts = (0, 0)
            self.one_time.discard()
            self._lose(self._answers.pop(request))

    def _lose(self, messages: list[int]) -> None:
        self.lost += [m for m in messages if m in self._carried or m in self._in_batch]
        self._carried = [m for m in self._carried if m not in messages]
        self._in_batch = [m for m in self._in_batch if m not in messages]

    def parts_of(self, message: int) -> int:
        """How many parts of a message that no answer can carry as a whole the conversation was given."""
        return self._parts[1] if self._parts[0] == message else 0

    def give_part(self, request: int | str | None, message: int) -> None:
        """The request is answered with the next part of this message.

        Only with the last part the message is handed over. If an answer gets lost before, the parts begin anew.
        """
        self._parts = (message, self.parts_of(message) + 1)
        self._answers.setdefault(request, [])

    def settle(self) -> None:
        """The store has been told what is proven and what is lost."""
        self.proven, self.lost = [], []

    def handed_by_hook(self, messages: list[int]) -> None:
        """These go with the request that follows; one already noted is noted once."""
        self._carried += [m for m in messages if m not in self._carried]

    def handed_by_tool(self, messages: list[int]) -> None:
        """These go with the request after the batch that the tool call is part of."""
        self._in_batch += messages
