"""Which hand-overs the model has demonstrably had before it. Pure bookkeeping.

What a hook returned goes into the request that follows; what a tool returned, into
the request after its batch. A request is proven by what only its answer can cause: a
further tool batch, or the end of the turn. A new prompt proves nothing. Interrupted
before the answer begins, the client takes the prompt and all that hooks added to it
back out of the conversation (seen on 2.1.328), so unproven hand-overs are then lost.
"""

from __future__ import annotations


class Turn:
    """The unproven hand-overs of one session's conversation, by message id.

    `proven` and `lost` are for the store; `settle` says that it has them.
    """

    def __init__(self, *, hooked: bool = False) -> None:
        self.session_id = ""
        self.hooked = hooked
        """Hook events arrive, or will; without them a later tool call is the only proof there is."""
        self.proven: list[int] = []
        self.lost: list[int] = []
        self._prompt_id: str | None = None
        self._carried: list[int] = []
        self._in_batch: list[int] = []

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

    def stop(self) -> None:
        """The model ended its turn: that proves everything."""
        self.hooked = True
        self.proven += self._carried + self._in_batch
        self._carried, self._in_batch = [], []

    def fail(self) -> None:
        """The request got no answer, and the turn ended with it: nothing is proven."""
        self.hooked = True
        self.lost += self._carried + self._in_batch
        self._carried, self._in_batch = [], []

    def call(self) -> None:
        """A tool call came. It proves the calls before it, unless hooks will tell exactly."""
        if not self.hooked:
            self.proven += self._in_batch
            self._in_batch = []

    def lose(self, messages: list[int]) -> None:
        """What carried these did not arrive after all."""
        self.lost += [m for m in messages if m in self._carried or m in self._in_batch]
        self._carried = [m for m in self._carried if m not in messages]
        self._in_batch = [m for m in self._in_batch if m not in messages]

    def settle(self) -> None:
        """The store has been told what is proven and what is lost."""
        self.proven, self.lost = [], []

    def handed_by_hook(self, messages: list[int]) -> None:
        """These go with the request that follows; one already noted is noted once."""
        self._carried += [m for m in messages if m not in self._carried]

    def handed_by_tool(self, messages: list[int]) -> None:
        """These go with the request after the batch that the tool call is part of."""
        self._in_batch += messages
