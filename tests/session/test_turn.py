"""Which hand-overs have demonstrably reached the conversation."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from claude_bus.session.turn import Turn


def test_what_a_prompt_brought_is_proven_by_the_next_batch() -> None:
    """A tool batch can only answer the request that carried the prompt's mail."""
    turn = Turn()
    turn.begin("s", "p1")
    turn.handed_by_hook([1, 2])

    turn.batch()

    assert (turn.proven, turn.lost) == ([1, 2], [])


def test_what_a_tool_brought_is_proven_one_request_later() -> None:
    """The batch that ends with a tool's answer does not prove that answer; the next one does."""
    turn = Turn()
    turn.begin("s", "p1")
    turn.handed_by_tool([1])

    turn.batch()
    first = list(turn.proven)
    turn.batch()

    assert (first, turn.proven) == ([], [1])


def test_the_end_of_a_turn_proves_all() -> None:
    """A model that ends its turn has answered the last request, with everything that it carried."""
    turn = Turn()
    turn.begin("s", "p1")
    turn.handed_by_hook([1])
    turn.handed_by_tool([2])
    turn.batch()
    turn.handed_by_hook([3])

    turn.stop()

    assert sorted(turn.proven) == [1, 2, 3]


def test_a_new_prompt_proves_nothing_and_gives_up_what_was_not_proven() -> None:
    """If a request is interrupted before its answer, the client takes it back with its mail."""
    turn = Turn()
    turn.begin("s", "p1")
    turn.handed_by_hook([1])
    turn.handed_by_tool([2])

    assert turn.begins("s", "p2")
    turn.begin("s", "p2")
    turn.stop()

    assert (turn.proven, turn.lost) == ([], [1, 2])


def test_another_conversation_gives_up_what_the_first_did_not_prove() -> None:
    """After `/clear` nothing of the old conversation counts as read."""
    turn = Turn()
    turn.begin("s1", "p1")
    turn.handed_by_hook([1])

    assert turn.begins("s2", "p1")
    turn.begin("s2", "p1")

    assert (turn.proven, turn.lost) == ([], [1])


def test_what_the_store_was_not_told_stays_to_be_told() -> None:
    """Only `settle` removes them: a store that was busy at one event is told at the next."""
    turn = Turn()
    turn.begin("s", "p1")
    turn.handed_by_hook([1])
    turn.begin("s", "p2")
    turn.handed_by_hook([2])
    turn.batch()

    told = (list(turn.proven), list(turn.lost))
    turn.settle()

    assert told == ([2], [1])
    assert (turn.proven, turn.lost) == ([], [])


def test_what_is_told_once_is_told_until_it_was_proven() -> None:
    """The contents of an interrupted turn must be told again; a reminder counts only once its request was answered."""
    turn = Turn()
    turn.begin("s", "p1")
    turn.one_time.attach([1])
    turn.begin("s", "p2")
    interrupted = (turn.one_time.again, list(turn.one_time.recalled))
    turn.one_time.reported()

    turn.one_time.attach([1])
    turn.batch()
    turn.begin("s", "p3")

    assert interrupted == (True, [])
    assert (turn.one_time.again, turn.one_time.recalled) == (False, [1])


def test_a_turn_that_told_nothing_once_leaves_nothing_to_tell() -> None:
    """Interrupting such a turn causes no repetition."""
    turn = Turn()
    turn.begin("s", "p1")
    turn.handed_by_hook([1])

    turn.begin("s", "p2")

    assert not turn.one_time.again


def test_only_the_newest_answers_can_be_given_up() -> None:
    """Messages of an abandoned answer are lost if it is among the newest twenty; other requests are ignored."""
    turn = Turn()
    for number in range(30):
        turn.handed_by_tool([number])
        turn.answer(number, [number])

    for request in (5, 12, "no such request"):
        turn.give_up(request)

    assert turn.lost == [12]


def test_a_prompt_typed_during_a_turn_does_not_begin_one() -> None:
    """It has the id of the turn that it joins."""
    turn = Turn()

    assert turn.begins("s", "p1")
    turn.begin("s", "p1")
    assert not turn.begins("s", "p1")
    assert turn.begins("s", "")


def test_without_hooks_a_later_call_is_the_proof() -> None:
    """Without reports of hooks, a further tool call shows that earlier answers arrived."""
    turn = Turn()
    turn.call()
    turn.handed_by_tool([1])
    before = list(turn.proven)

    turn.call()

    assert (before, turn.proven) == ([], [1])


def test_with_hooks_a_call_proves_nothing() -> None:
    """A call may be in the same batch as the one that handed mail over."""
    turn = Turn()
    turn.begins("s", "p1")
    turn.begin("s", "p1")
    turn.handed_by_tool([1])

    turn.call()

    assert turn.proven == []


class Conversation(RuleBasedStateMachine):
    """A client's conversation, with the requests it sends, as in reality.

    `context` is the content of the next request, `sent` that of an unanswered one, `answered` all that the model
    has demonstrably had. Sometimes the store is too busy to be told.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turn = Turn()
        self.numbers = iter(range(1, 10_000))
        self.prompts = iter(range(1, 10_000))
        self.context: list[int] = []
        self.tools: list[int] = []
        self.sent: list[int] | None = None
        self.answered: set[int] = set()
        self.proven: set[int] = set()
        self.given_back: set[int] = set()

    def _hook(self, bring: bool) -> None:
        if bring:
            number = next(self.numbers)
            self.turn.handed_by_hook([number])
            self.context.append(number)

    def _request(self) -> None:
        self.sent, self.context = [*(self.sent or []), *self.context], []

    def _tell_store(self, works: bool) -> None:
        """The main invariant: a hand-over is proven only if an answered request carried it and it was not given up
        before.
        """
        self.given_back |= set(self.turn.lost)
        assert set(self.turn.proven) <= self.answered - self.given_back
        self.proven |= set(self.turn.proven)
        if works:
            self.turn.settle()

    @precondition(lambda self: self.sent is None)
    @rule(bring=st.booleans(), clear=st.booleans(), works=st.booleans())
    def prompt(self, bring: bool, clear: bool, works: bool) -> None:
        """The user submits a prompt; the prompt hook may bring mail; the request is sent."""
        session, prompt = ("s2" if clear else "s1"), str(next(self.prompts))
        assert self.turn.begins(session, prompt)
        self.turn.begin(session, prompt)
        self._tell_store(works)
        self._hook(bring and works)
        self._request()

    @precondition(lambda self: self.sent is not None)
    @rule(reads=st.lists(st.booleans(), max_size=3), bring=st.booleans(), works=st.booleans())
    def answer_with_tools(self, reads: list[bool], bring: bool, works: bool) -> None:
        """The model answers with a batch of calls, some of which read mail; the next request carries the results."""
        self.answered |= set(self.sent or [])
        self.sent = None
        for reads_mail in reads:
            self.turn.call()
            self._tell_store(works)
            if reads_mail:
                number = next(self.numbers)
                self.turn.handed_by_tool([number])
                self.context.append(number)
        self.turn.batch()
        self._tell_store(works)
        self._hook(bring and works)
        self._request()

    @precondition(lambda self: self.sent is not None)
    @rule(bring=st.booleans(), works=st.booleans())
    def answer_and_stop(self, bring: bool, works: bool) -> None:
        """The model ends its turn; the stop hook may bring mail, which continues it."""
        self.answered |= set(self.sent or [])
        self.sent = None
        self.turn.stop()
        self._tell_store(works)
        if bring and works:
            self._hook(bring)
            self._request()

    @precondition(lambda self: self.sent is not None)
    @rule()
    def interrupt(self) -> None:
        """The user interrupts before the answer, so it is unknown whether the request was read."""
        self.sent, self.context = None, []

    def teardown(self) -> None:
        """No hand-over is both proven and given back."""
        assert not self.proven & self.given_back


Conversation.TestCase.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
TestConversation = Conversation.TestCase


def test_where_hooks_will_tell_a_later_call_proves_nothing() -> None:
    """Calls of one batch have no request between them; this also holds before the first hook event."""
    turn = Turn(hooked=True)
    turn.handed_by_tool([1])

    turn.call()

    assert turn.proven == []
