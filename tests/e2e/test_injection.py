"""Mail reaches the model by itself: with a prompt, between tool calls, before the turn ends."""

from __future__ import annotations

import json
import threading

from . import reading
from .claude_e2e import Sandbox
from .conftest import PLUGIN, TOOLS, StartSession
from .fake_anthropic import FakeAnthropic, Request, Turn, held, text, tool
from .peer import Peer, eventually


def slow_command(n: int = 1) -> dict[str, str]:
    """A command that reports its start, and runs until the test lets it end."""
    return {"command": f"touch started-{n}; until [ -e go ]; do sleep 0.05; done"}


def test_waiting_mail_comes_with_the_prompt(session: StartSession, backend: Peer) -> None:
    """Waiting mail is in the request of the next prompt, fenced, with its id and sender, and only once."""
    waited = backend.send("frontend", "the schema is in docs/schema.md")
    frontend = session("frontend")

    request = frontend.turn("hello")
    (mail,) = reading.mail(request)
    assert (mail.id, mail.attributes["from"], mail.content) == (waited, "backend", "the schema is in docs/schema.md")
    assert reading.came_with(request) == ["UserPromptSubmit"]
    assert "You are 'frontend' on the bus." in reading.news(request)[0]
    frontend.tui.wait_for(f'bus: #{waited} backend: "the schema is in docs/schema.md"')
    assert backend.receipt(waited).state == "read"

    later = frontend.turn("and now")
    assert not reading.news(later)
    assert [m.id for m in reading.all_mail(later)] == [waited]


def test_waiting_mail_without_a_terminal(backend: Peer, box: Sandbox) -> None:
    """A headless session with a name receives its mail in its first request, and the mail counts as read when it
    ends.
    """
    waited = backend.send("frontend", "the schema is in docs/schema.md")
    with FakeAnthropic() as model:
        env = {"ANTHROPIC_BASE_URL": model.url, "BUS_NAME": "frontend"}
        box.run("-p", "--plugin-dir", str(PLUGIN), stdin="hello", env=env)
    (request,) = model.main
    assert [m.id for m in reading.mail(request)] == [waited]
    assert f"{TOOLS}__send" in request.tool_names
    assert backend.receipt(waited).state == "read"
    assert backend.status("frontend") == "offline"


def test_more_mail_than_fits(session: StartSession, backend: Peer) -> None:
    """Mail that exceeds one injection comes in several, in order; none is lost, cut or repeated."""
    contents = [f"message {n} " + "x" * 900 for n in range(15)]
    sent = backend.send_at_once("frontend", contents)
    frontend = session("frontend")
    frontend.turn("hello")
    backend.wait_for_state(sent[-1], "read")
    requests = frontend.model.main
    assert f"{15 - len(reading.mail(requests[0]))} unread messages did not fit here" in reading.news(requests[0])[0]
    found = [m for request in requests for m in reading.mail(request)]
    assert [m.id for m in found] == sent
    assert [m.content for m in found] == contents
    assert {backend.receipt(message).state for message in sent} == {"read"}


def test_mail_for_an_idle_session_comes_with_its_next_prompt(session: StartSession, backend: Peer) -> None:
    """Mail that does not wake an idle session is in the request of its next prompt."""
    frontend = session("frontend")
    frontend.turn("hello")
    note = backend.send("frontend", "I renamed the module", kind="fyi")

    request = frontend.turn("what is new")
    (mail,) = reading.mail(request)
    assert (mail.id, mail.attributes["kind"]) == (note, "fyi")
    assert "what is new" in request.last_user()


def test_mail_in_the_middle_of_a_turn(session: StartSession, backend: Peer, box: Sandbox) -> None:
    """A message sent while tools run is in the request right after them, once per batch."""
    frontend = session(
        "frontend", Turn(tools=[("Bash", slow_command(1)), ("Bash", slow_command(2))]), args=("--allowedTools", "Bash")
    )
    first = frontend.say("run the tests")
    eventually((box.project / "started-1").exists, "the tool runs")
    message = backend.send("frontend", "stop, the branch is broken")
    (box.project / "go").touch()

    request = frontend.model.wait_main(2)
    assert not reading.news(first)
    assert [(m.id, m.content) for m in reading.mail(request)] == [(message, "stop, the branch is broken")]
    assert reading.came_with(request) == ["PostToolBatch"]
    frontend.wait_until("idle")
    assert backend.receipt(message).state == "read"
    assert not reading.rings(request)


def test_a_prompt_typed_in_the_middle_of_a_turn(session: StartSession, backend: Peer, box: Sandbox) -> None:
    """A prompt that joins a running turn takes no mail with it. The batch brings the mail, once, and it counts as
    read.
    """
    frontend = session("frontend", Turn(tools=[("Bash", slow_command())]), args=("--allowedTools", "Bash"))
    frontend.say("run the tests")
    eventually((box.project / "started-1").exists, "the tool runs")
    message = backend.send("frontend", "stop, the branch is broken")
    frontend.tui.prompt("and hurry")
    frontend.tui.wait_for("Press up to edit queued messages")
    (box.project / "go").touch()

    request = frontend.model.wait_main(2)
    assert "and hurry" in "\n".join(request.last_user())
    assert [m.id for m in reading.mail(request)] == [message]
    assert reading.came_with(request) == ["PostToolBatch"]
    frontend.wait_until("idle")
    assert backend.receipt(message).state == "read"
    assert backend.receipt(message).attempts == 1


def test_waiting_for_an_answer(session: StartSession, backend: Peer) -> None:
    """A model that calls wait gets the message that arrives meanwhile as the tool's result."""
    frontend = session("frontend", tool(f"{TOOLS}__wait", timeout="10m"))
    frontend.say("wait for the backend")
    message = backend.send("frontend", "here I am")
    (result,) = frontend.model.wait_main(2).tool_results()
    assert [m["id"] for m in json.loads(result)["messages"]] == [message]
    frontend.wait_until("idle")
    assert backend.receipt(message).state == "read"


def test_mail_while_the_last_answer_is_written(session: StartSession, backend: Peer) -> None:
    """A message that arrives while the model writes its last answer wakes the session as its turn ends, even one of
    a kind that wakes nobody later. The person reads one line, not the text for the model.
    """
    answered = threading.Event()
    frontend = session("frontend", held("all done", answered))
    frontend.say("finish up")
    messages = [backend.send("frontend", "one more thing", kind="fyi"), backend.send("all", "lunch")]
    answered.set()

    request = frontend.model.wait_main(2)
    assert [m.id for m in reading.mail(request)] == messages
    assert reading.came_with(request) == ["UserPromptSubmit"]
    frontend.wait_until("idle")
    assert {backend.receipt(message).state for message in messages[:1]} == {"read"}
    assert len(frontend.model.main) == 2
    frontend.tui.wait_for(f'bus: #{messages[0]} backend: "one more thing"; #{messages[1]} backend: "lunch"')
    for of_the_model in ("<bus-message", "From peers on the bus", "Stop hook says"):
        assert of_the_model not in frontend.tui.screen()


def test_mail_while_the_last_answer_is_written_where_nothing_may_ring(
    session: StartSession, backend: Peer, box: Sandbox
) -> None:
    """Where nothing may ring, mail continues the turn: a short message comes at once, and of a long one the person
    sees only a line.
    """
    box.env["BUS_WAKE"] = "never"
    answered, again = threading.Event(), threading.Event()
    inbox = tool(f"{TOOLS}__inbox")
    frontend = session("frontend", held("all done", answered), held("and again", again), inbox, text("read"))
    frontend.say("finish up")
    short = backend.send("frontend", "one more thing")
    answered.set()
    request = frontend.model.wait_main(2)
    assert [m.id for m in reading.mail(request)] == [short]
    assert reading.came_with(request) == ["Stop"]

    long = backend.send("frontend", "a long story " * 100)
    again.set()
    request = frontend.model.wait_main(4)
    assert not reading.mail(request)
    (result,) = request.tool_results()
    assert [m["id"] for m in json.loads(result)["messages"]] == [long]
    frontend.wait_until("idle")
    assert backend.receipt(long).state == "read"
    frontend.tui.wait_for("1 unread message did not fit here")
    assert "a long story" not in frontend.tui.screen()


def test_mail_continues_a_turn_three_times_at_most(session: StartSession, backend: Peer) -> None:
    """Of messages that keep arriving with each last answer, three continue the turn; the next one wakes the session
    anew.
    """
    sent: list[int] = []

    def interrupted(request: Request) -> Turn:
        sent.append(backend.send("frontend", f"message {len(sent) + 1}"))
        return text("done")

    frontend = session("frontend", *[interrupted] * 4)
    frontend.say("go")
    woken = frontend.model.wait_main(5)
    requests = frontend.model.main
    assert [reading.came_with(request) for request in requests[1:]] == [["UserPromptSubmit"]] * 4
    assert len(reading.rings(woken)) == 4
    assert [m.id for request in requests for m in reading.mail(request)] == sent


def test_a_subagent_gets_none_of_its_parents_mail(session: StartSession, backend: Peer, box: Sandbox) -> None:
    """A message that arrives while a subagent works goes to its session, not to the subagent."""
    prompt, job = "how many files are there", "count the files"

    def answer(request: Request) -> Turn:
        counts = job in request.last_user()
        return Turn(tools=[("Bash", slow_command())]) if counts else text("counted")

    task = {"description": "counting", "prompt": job, "subagent_type": "general-purpose"}
    frontend = session("frontend", tool("Agent", **task), default=answer, args=("--allowedTools", "Bash,Agent"))
    frontend.say(prompt)
    eventually((box.project / "started-1").exists, "the subagent's tool runs", frontend.tui.screen)
    frontend.wait_until("idle")
    message = backend.send("frontend", "use the other branch", kind="fyi")
    (box.project / "go").touch()

    told = frontend.model.wait(lambda: next(filter(reading.mail, frontend.model.main), None))
    assert [m.id for m in reading.mail(told)] == [message]
    assert prompt in told.texts()
    of_subagent = [request for request in frontend.model.main if prompt not in request.texts()]
    assert any(request.tool_results() for request in of_subagent)
    assert not any(map(reading.news, of_subagent))
