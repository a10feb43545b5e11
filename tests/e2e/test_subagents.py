"""Subagents leave their session's mail alone, and have mail of their own if they took a name."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import pytest

from . import reading
from .conftest import TOOLS, Session, StartSession
from .fake_anthropic import Request, Script, Turn, held, refused, text, tool, when
from .peer import Peer, eventually

JOB = "count the files"
CALLS = ("--allowedTools", "Bash,Agent,SendMessage,TaskStop")


class Family:
    """A session whose first turn starts a subagent, and the script that the subagent follows.

    The subagent runs in the background (the client knows no other kind), so its session's turn ends meanwhile.
    """

    def __init__(self, start: Callable[..., Session], *script: Script, kind: str = "general-purpose") -> None:
        self._script = list(script)
        task = tool("Agent", description="counting", prompt=JOB, subagent_type=kind)
        self.session = start("frontend", task, default=self._answer, args=CALLS)
        self.session.turn("how many files are there")

    def _answer(self, request: Request) -> Turn:
        if not is_of_subagent(request):
            return text("ok")
        script = self._script.pop(0) if self._script else text("counted")
        return script if isinstance(script, Turn) else script(request)

    def push(self, *script: Script) -> None:
        """Give the subagent more turns, for when it is started again."""
        self._script.extend(script)

    @property
    def of_subagent(self) -> list[Request]:
        return [request for request in self.session.model.main if is_of_subagent(request)]

    @property
    def of_session(self) -> list[Request]:
        return [request for request in self.session.model.main if not is_of_subagent(request)]

    def ended(self) -> Request:
        """The request in which the session is told that the subagent ended, for whatever reason."""
        return self.told(lambda request: "<task-notification>" in "".join(request.last_user()))

    def told(self, what: Callable[[Request], object]) -> Request:
        """The first matching request of the session."""
        return self.session.model.wait(lambda: next(filter(what, self.of_session), None))

    def subagent_told(self, what: Callable[[Request], object]) -> Request:
        """The first matching request of the subagent."""
        return self.session.model.wait(lambda: next(filter(what, self.of_subagent), None))

    @property
    def agent_id(self) -> str:
        """The subagent's id, as the client told the session when it started."""
        found = re.search(r"agentId: (\w+)", "".join(self.of_session[1].tool_results()))
        assert found
        return found[1]


def is_of_subagent(request: Request) -> bool:
    return any(JOB in said for said in request.said())


def then(do: Callable[[], object], answer: Turn) -> Script:
    """An answer that runs an action first."""

    def script(_request: Request) -> Turn:
        do()
        return answer

    return script


def ids(request: Request) -> list[int]:
    return [m.id for m in reading.mail(request)]


def register(name: str) -> Turn:
    return tool(f"{TOOLS}__register", name=name)


@pytest.mark.parametrize("kind", ["general-purpose", "fork"])
def test_a_subagent_does_not_empty_its_sessions_inbox(session: StartSession, backend: Peer, kind: str) -> None:
    """A subagent that reads the inbox is refused its session's mail, which comes to the session itself."""
    given = threading.Event()
    family = Family(session, when(given, tool(f"{TOOLS}__inbox")), tool(f"{TOOLS}__wait", timeout="1m"), kind=kind)
    message = backend.send("frontend", "for the session", kind="fyi")
    given.set()

    told = family.ended()
    assert ids(told) == [message]
    results = family.of_subagent[-1].tool_results()[-2:]
    assert len(results) == 2
    assert all("you are a subagent of 'frontend'" in result for result in results)
    assert not any("for the session" in request.everything() for request in family.of_subagent)
    family.session.wait_until("idle")
    assert (backend.receipt(message).state, backend.receipt(message).attempts) == ("read", 1)


def test_a_subagent_with_a_name_gets_its_own_mail(session: StartSession, backend: Peer) -> None:
    """Mail for a registered subagent comes between its tool calls and before it ends, and only to it."""
    mail: dict[str, int] = {}

    def send(to: str, content: str) -> None:
        mail[content] = backend.send(to, content, kind="fyi")

    def work() -> None:
        send("frontend-tests", "between calls")
        send("frontend", "for the session")

    given = threading.Event()
    family = Family(
        session,
        when(given, register("frontend-tests")),
        then(work, tool("Bash", command="true")),
        then(lambda: send("frontend-tests", "before the end"), text("nearly")),
        tool(f"{TOOLS}__send", to="backend", content="counted"),
    )
    given.set()  # not before the end of its session's turn, which would have taken the mail with it
    assert ids(family.ended()) == [mail["for the session"]]
    came = [(ids(request), reading.came_with(request)) for request in family.of_subagent if ids(request)]
    assert came == [([mail["between calls"]], ["PostToolBatch"]), ([mail["before the end"]], ["SubagentStop"])]
    assert [m.id for m in reading.all_mail(family.of_session[-1])] == [mail["for the session"]]
    family.session.wait_until("idle")
    assert {backend.receipt(message).state for message in mail.values()} == {"read"}
    assert backend.rows("SELECT sender FROM messages WHERE content = 'counted'") == [("frontend-tests",)]
    assert backend.status("frontend-tests") == "offline"
    assert "You are 'frontend'" not in "".join(text for request in family.of_subagent for text in request.texts())


def test_a_subagent_that_comes_back(session: StartSession, backend: Peer) -> None:
    """A subagent that its session starts again has its name, and the mail that came while it was away."""
    family = Family(session, register("frontend-tests"))
    family.ended()
    backend.wait_for_status("frontend-tests", "offline")
    sent = backend.sent("frontend-tests", "count the folders too")
    assert sent.expectations[0].outlook == "offline"

    family.push(tool(f"{TOOLS}__whoami"))
    family.session.model.push(tool("SendMessage", to=family.agent_id, message="go on", summary="go on"))
    family.session.say("let it go on")
    request = family.subagent_told(lambda request: sent.id in ids(request))
    assert reading.came_with(request) == ["SubagentStart"]
    answered = family.subagent_told(lambda request: request.tool_results()[-1:] == ["frontend-tests"])
    assert [m.id for m in reading.all_mail(answered)] == [sent.id]
    backend.wait_for_status("frontend-tests", "offline")
    assert backend.receipt(sent.id).state == "read"
    assert reading.all_mail(family.of_session[-1]) == []


def test_an_api_error_in_a_subagent(session: StartSession, backend: Peer) -> None:
    """Mail in a subagent's request that the API refused is unread; the subagent has ended, and its mail waits."""
    sent: list[int] = []
    broken = [refused(400, "out of order")] * 20
    family = Family(
        session,
        register("frontend-tests"),
        then(lambda: sent.append(backend.send("frontend-tests", "did you see this")), tool("Bash", command="true")),
        *broken,
    )
    failed = "".join(family.ended().last_user())
    assert "<status>failed</status>" in failed
    assert family.subagent_told(lambda request: ids(request) == sent)
    backend.wait_for_status("frontend-tests", "offline")
    assert backend.receipt(sent[0]).state == "queued"
    assert backend.sent("frontend-tests", "and this").expectations[0].outlook == "offline"


def test_a_stopped_subagent(session: StartSession, backend: Peer) -> None:
    """A subagent that its session stopped is offline, and mail that its model did not answer waits for it."""
    sent: list[int] = []
    family = Family(
        session,
        register("frontend-tests"),
        then(lambda: sent.append(backend.send("frontend-tests", "did you see this")), tool("Bash", command="true")),
        held("never read", threading.Event()),
    )
    family.subagent_told(ids)
    family.session.model.push(tool("TaskStop", task_id=family.agent_id))
    family.session.turn("stop it")
    assert "<status>killed</status>" in "".join(family.ended().last_user())
    backend.wait_for_status("frontend-tests", "offline")
    assert backend.receipt(sent[0]).state == "queued"


def test_a_server_killed_while_a_subagent_waits(session: StartSession, backend: Peer) -> None:
    """If its server is killed during a call of wait, a subagent later gets its own mail and none of its session's."""
    given, told = threading.Event(), threading.Event()
    wait, work = tool(f"{TOOLS}__wait", timeout="10m"), tool("Bash", command="true")
    family = Family(session, register("frontend-tests"), when(given, wait), when(told, work))
    family.subagent_told(Request.tool_results)
    before = backend.last_call("frontend-tests")
    given.set()
    eventually(lambda: backend.last_call("frontend-tests") != before, "it waits")
    for_session = backend.send("frontend", "for the session", kind="fyi")
    family.session.kill_server()
    answered = family.subagent_told(lambda request: len(request.tool_results()) == 2)
    assert "the bus server was killed during this call" in answered.tool_results()[-1]

    for_subagent = backend.send("frontend-tests", "for the subagent")
    told.set()
    assert ids(family.ended()) == [for_session]
    assert [m.id for m in reading.all_mail(family.of_subagent[-1])] == [for_subagent]
    backend.wait_for_state(for_subagent, "read")
