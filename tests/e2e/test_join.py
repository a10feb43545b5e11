"""Sessions join the bus and work together."""

from __future__ import annotations

import json
import threading

from . import reading
from .claude_e2e import Sandbox
from .conftest import PLUGIN, TOOLS, Session, StartSession
from .fake_anthropic import FakeAnthropic, Script, Turn, held, text, tool
from .peer import Peer, eventually


def joining(name: str) -> list[Script]:
    """The tool call of a model that is told to join."""
    return [
        tool(f"{TOOLS}__register", name=name, role=f"the {name}"),
        Turn(tools=[(f"{TOOLS}__agents", {}), (f"{TOOLS}__inbox", {})]),
        text(f"joined as {name}"),
    ]


def command_lines() -> list[str]:
    """The lines of /bus that do not depend on its arguments."""
    skill = (PLUGIN / "commands" / "bus" / "SKILL.md").read_text(encoding="utf-8")
    _, _, body = skill.partition("---\n")[2].partition("---\n")
    return [line.strip() for line in body.splitlines() if line.strip() and "$" not in line]


def test_two_sessions_join_and_work_together(session: StartSession, onlooker: Peer) -> None:
    """After `/bus NAME` in each, one session reads the other's message unprompted, and the sender learns when."""
    backend = session("project", *joining("backend"), join=False)
    frontend = session("project-2", *joining("frontend"), join=False)
    for one, name in ((backend, "backend"), (frontend, "frontend")):
        request = one.say(f"/bus {name}")
        assert command_lines()[0] in request.everything()
        one.name = name
        one.wait_until("idle")
        one.tui.wait_for(f"joined as {name}")
    registered, agents, inbox = frontend.model.main[-1].tool_results()
    assert "registered 'frontend' (the frontend). On the bus: backend (idle)." in registered
    assert [(a["name"], a.get("you", False)) for a in json.loads(agents)["agents"]] == [
        ("frontend", True),
        ("backend", False),
    ]
    assert json.loads(inbox) == {"messages": [], "pending_count": 0}

    answered = threading.Event()
    frontend.model.push(held("on it", answered))
    joined = len(frontend.model.main)
    backend.model.push(tool(f"{TOOLS}__send", to="frontend", content="the API is at /v2 now"), text("told them"))
    backend.turn("tell the frontend")
    assert "sent to 'frontend' (id 1): idle, being woken" in backend.model.main[-1].tool_results()

    (mail,) = reading.mail(frontend.model.wait_main(joined + 1))
    assert (mail.attributes["from"], mail.content) == ("backend", "the API is at /v2 now")
    assert state_told_to(backend) == "handed"
    answered.set()
    frontend.wait_until("idle")
    assert state_told_to(backend) == "read"


def state_told_to(sender: Session) -> str:
    """The state of message 1, as the tool message_status reports it to the sender."""
    sender.model.push(tool(f"{TOOLS}__message_status", message_id=1), text("I see"))
    sender.turn("did they read it")
    ((delivery),) = json.loads(sender.model.main[-1].tool_results()[-1])["deliveries"]
    return str(delivery["state"])


def test_the_command_without_a_terminal(box: Sandbox, onlooker: Peer) -> None:
    """`claude -p "/bus backend"` gives the model the command's text, with the name, and permits the tools."""
    with FakeAnthropic(joining("backend")) as model:
        env = {"ANTHROPIC_BASE_URL": model.url}
        out = box.run("-p", "--plugin-dir", str(PLUGIN), stdin="/bus backend", env=env)
    assert out.strip() == "joined as backend"
    asked = "\n".join(model.main[0].last_user())
    assert [line for line in command_lines() if line not in asked] == []
    assert "backend" in asked
    assert [name for name, agent in onlooker.agents().items() if agent.registered] == ["backend"]


def test_bus_name_joins_at_start(session: StartSession, onlooker: Peer) -> None:
    """A session started with BUS_NAME is registered under it before its first prompt."""
    frontend = session("frontend")
    eventually(lambda: is_registered(onlooker, "frontend"), "it is registered", onlooker.agents)
    listed = onlooker.agents()["frontend"]
    assert (listed.status, listed.cwd) == ("idle", str(frontend.folder))
    assert frontend.model.main == []


def test_a_name_in_use(session: StartSession, onlooker: Peer) -> None:
    """A session that asks for a live session's name is refused, and told the owner and a free name."""
    session("frontend")
    eventually(lambda: is_registered(onlooker, "frontend"), "it is registered", onlooker.agents)
    other = session("project", tool(f"{TOOLS}__register", name="frontend"), join=False)
    other.turn("join as frontend")
    (refusal,) = other.model.main[-1].tool_results()
    assert "'frontend' is held by a live session (idle, in " in refusal
    assert "'frontend-2' is free" in refusal


def is_registered(bus: Peer, name: str) -> bool:
    found = bus.agents().get(name)
    return bool(found and found.registered)
