"""A scripted Claude Code: a process with its server, a conversation, and a model that acts at random.

It records every answer before it acts on it; see `journal`.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from claude_bus.supervisor import _UNKNOWN

from .bell import Bell
from .blackboard import Phase
from .conversation import Conversation, Letter, fetched, injected
from .journal import Journal, read
from .program import command
from .stage import Stage
from .wire import Gone, How, Late, Wire, launch

PATIENCE = 60.0
"""Seconds after which a server that does not answer counts as hanging."""
_STORE_FAILED = 5
"""Exit status of a command that got no answer from the bus (other failures have it, too)."""
_LONG = "lorem ipsum " * 400


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call. `unknown`: the answer never arrived, so the call may have taken effect or not."""

    state: Literal["ok", "refused", "unknown"]
    text: str = ""
    data: Any = None


UNKNOWN = Outcome("unknown")
_CUT_OFF, _UNSURE = "cannot be reached", " known"
"""How the answers describe a failed call to a remote bus, and one that the bus may have received."""
_AGAIN = "send the same again"


class Client:
    """One run of the client program for one seat, from its start or resumption to its end or death."""

    def __init__(self, stage: Stage, seat: str, seats: list[str], generation: int) -> None:
        self.stage, self.seat, self.seats, self.generation = stage, seat, seats, generation
        self.rng = stage.rng("client", seat, generation)
        earlier = read(stage.journal(seat))
        self.journal = Journal(stage.journal(seat))
        self.conversation = Conversation()
        self._numbers: Iterator[int] = iter(range(1_000_000_000))
        self._wire: Wire | None = None
        self._bell = Bell(stage.work)
        self._prompt = ""
        self._interrupted = False
        self.received = 0
        """Messages received since the counter was last reset."""
        self.failed = False
        """Tells whether any call since the last reset got no answer."""
        self._session = self._resumed(earlier) or self._new_session()
        self._unsettled = _unsettled(earlier)
        self.journal.write("started", generation=generation, pid=os.getpid(), session=self._session)

    def _resumed(self, earlier: list[dict[str, Any]]) -> str:
        """The last conversation of this seat; sometimes it is abandoned for a new one."""
        sessions = [line["session"] for line in earlier if "session" in line]
        return sessions[-1] if sessions and self.rng.random() < 0.9 else ""

    def _new_session(self) -> str:
        return f"{self.seat}-{self.generation}-{next(self._numbers)}"

    @property
    def phase(self) -> Phase:
        return self.stage.board.phase

    # -- the server

    def _environment(self) -> dict[str, str]:
        folder = self.stage.work / "project"
        folder.mkdir(exist_ok=True)
        return self.stage.environment(
            self.seat,
            CLAUDECODE="1",
            CLAUDE_PLUGIN_ROOT="/",
            CLAUDE_PROJECT_DIR=str(folder),
            CLAUDE_CODE_SESSION_ID=self._session,
            CLAUDE_CODE_MESSAGING_SOCKET=str(self._bell.path),
            CLAUDE_CODE_MESSAGING_TOKEN="token",
        )

    def _connected(self) -> Wire:
        while not self._wire:
            how: How = "real" if self.rng.random() < self.stage.real else self.rng.choice(("direct", "supervised"))
            label = f"{self.seat}.{self.generation}.{next(self._numbers)}"
            self._wire = launch(self.stage, self.seat, label, self._environment(), how, greets=self.rng.random() < 0.5)
            try:
                self._wire.greet(PATIENCE)
            except Gone:
                self._bury()
            except Late:
                self._hung("initialize")
        return self._wire

    def _bury(self) -> None:
        """The server has ended, which is a fault unless it was killed."""
        assert self._wire
        status = self._wire.hang_up()
        self._wire = None
        self.journal.write("server gone", status=status)

    def _hung(self, what: str) -> None:
        self.journal.write("hung", doing=what)
        self.stage.roll.say("hung", seat=self.seat, doing=what)
        os._exit(1)

    def call(self, tool: str, patience: float = PATIENCE, /, **arguments: Any) -> Outcome:
        """Call a tool. A dead server is restarted first."""
        wire = self._connected()
        try:
            answer = wire.call(tool, arguments, patience)
        except Gone:
            self._bury()
            return self._lost(tool, "the server is gone")
        except Late:
            if patience == PATIENCE:
                self._hung(tool)
            return self._lost(tool, "given up")
        if "error" in answer:
            if answer["error"]["message"] != _UNKNOWN:
                self.journal.write("strange", tool=tool, answer=answer)
            return self._lost(tool, "the supervisor lost it")
        result = answer["result"]
        text = "".join(part["text"] for part in result["content"])
        if "failed unexpectedly" in text or "not as a claude-bus" in text or "no claude-bus of" in text:
            self.journal.write("strange", tool=tool, answer=text)
        if result.get("isError") and _CUT_OFF in text:
            lost = self._lost(tool, "the line")
            time.sleep(0.02)
            return replace(lost, text=text) if _UNSURE in text else Outcome("refused", text)
        return Outcome("refused" if result.get("isError") else "ok", text, result.get("structuredContent"))

    def _lost(self, tool: str, why: str) -> Outcome:
        self.journal.write("lost", tool=tool, why=why)
        self.failed = True
        return UNKNOWN

    # -- the conversation

    def event(self, event: str, **more: str) -> Outcome:
        """Run the hook of an event; the outcome's text is the text added for the model."""
        patience = 0.2 if self._impatient(self.stage.impatience) else PATIENCE
        common = {"session_id": self._session, "prompt_id": self._prompt, "permission_mode": "default"}
        outcome = self.call("hook", patience, event=event, **common, **more)
        if outcome.state != "ok" or not outcome.text:
            return replace(outcome, text="")
        context = json.loads(outcome.text).get("hookSpecificOutput", {}).get("additionalContext", "")
        letters = injected(context)
        if more.get("agent_id") and letters:
            self.journal.write("strange", tool="hook", answer="a subagent's event took mail")
        self.conversation.inject(letters)
        self._got(event, letters)
        return replace(outcome, text=context)

    def _impatient(self, probability: float) -> bool:
        return self.phase == Phase.FAULTS and self.rng.random() < probability

    def _got(self, via: str, letters: list[Letter]) -> None:
        if letters:
            self.received += len(letters)
            self.journal.write("got", via=via, letters=[asdict(letter) for letter in letters])

    def _answer(self) -> None:
        """The model answers, and from now on has seen everything that the request carried."""
        ids = self.conversation.answer()
        if ids:
            self.journal.write("answered", ids=ids)

    def _interrupt(self) -> None:
        self.journal.write("interrupted")
        self.conversation.give_up()
        self._interrupted = True

    # -- a turn

    def turn(self, batches: int, act: Callable[[], None]) -> None:
        """A prompt, some batches of tool calls, and the end of the turn; or an interruption at any point."""
        self._interrupted = False
        self._prompt = f"{self._session}-p{next(self._numbers)}"
        self.journal.write("prompted")
        self.event("UserPromptSubmit", prompt="go on")
        if self._impatient(0.06):
            return self._interrupt()
        if self._impatient(0.01):
            self._interrupt()
            self.event("StopFailure")
            return None
        self._answer()
        for _ in range(batches):
            self._batch(act)
            if self._interrupted:
                return None
        return self._end_turn()

    def _batch(self, act: Callable[[], None]) -> None:
        for _ in range(self.rng.choice((1, 1, 2))):
            act()
            if self._interrupted:
                return None
        if self._impatient(0.03):
            return self._interrupt()
        if self._impatient(0.05):
            self.event("PostToolBatch", agent_id="sub")
        self.conversation.close_batch()
        self.event("PostToolBatch")
        if self._impatient(0.03):
            self.event("UserPromptSubmit", prompt="and another thing")
        if self._impatient(0.02):
            return self._interrupt()
        return self._answer()

    def _end_turn(self) -> None:
        """End the turn; stop hooks may make the model continue it, a few times."""
        for _ in range(8):
            if not self.event("Stop").text:
                return None
            if self._impatient(0.05):
                return self._interrupt()
            self._answer()
        return None

    # -- a life

    def live(self) -> None:
        """Take part while there are faults; then finish, read the waiting mail, end."""
        self.join()
        while self.phase == Phase.FAULTS:
            self.turn(self.rng.randrange(4), self._act)
            self._between_turns()
        self._settle()
        self._until(Phase.DRAIN, "calm")
        self.drain()
        self._until(Phase.END, "drained")
        if self._wire:
            self.journal.write("ending")
            status = self._wire.hang_up()
            self.journal.write("ended", status=status)

    def join(self) -> None:
        """Register a name. A resumed session knows its own already."""
        if self._name() is None:
            self._register(self.seat)
        self._settle()

    def _between_turns(self) -> None:
        if self._impatient(0.04):
            self.conversation.clear()
            self._session = self._new_session()
            self.journal.write("cleared", session=self._session)
        elif self._impatient(0.02):
            self.event("PostCompact")
        self._bell.rang(self.rng.random() * 0.05)

    def _until(self, phase: Phase, say: str) -> None:
        self.stage.roll.say(say, seat=self.seat)
        while self.phase < phase:
            time.sleep(0.02)

    def drain(self) -> None:
        """Take turns until no more mail comes; journals a fault if it never stops coming."""
        time.sleep(self.stage.silence * 1.5)  # until the deaths of all other sessions have been noticed
        if self._name() is None:
            self._register(self.seat)
        quiet = 0
        for _ in range(1000):
            self.received, self.failed = 0, False
            self.turn(1, self._inbox)
            quiet = 0 if self.received or self.failed else quiet + 1
            if quiet == 2:
                break
        else:
            self.journal.write("strange", tool="inbox", answer="mail comes without end")
        self.journal.write("drained", name=self._name())

    # -- tools

    def _act(self) -> None:
        chosen = self.rng.choices(_ACTIONS, weights=_WEIGHTS)[0]
        chosen(self)

    def _name(self) -> str | None:
        """The session's name on the bus, or None if it has none (or the name cannot be found out)."""
        for _ in range(100):
            outcome = self.call("whoami")
            if outcome.state == "ok":
                name = None if outcome.text.startswith("not registered") else outcome.text
                self.journal.write("named", name=name)
                return name
            time.sleep(0.1 if _CUT_OFF in outcome.text else 0.01 if self.phase != Phase.FAULTS else 0)
        return None

    def _register(self, name: str) -> None:
        for _ in range(20):
            self.journal.write("registering", name=name)
            outcome = self.call("register", name=name)
            if outcome.state == "ok":
                self.journal.write("named", name=name)
                return
            time.sleep(0.1 if _CUT_OFF in outcome.text else 0)
            free = re.search(r"'([^']+)' is free", outcome.text)
            name = free[1] if free and outcome.state == "refused" else name

    def _rename(self) -> None:
        names = (self.seat, self.seat, f"{self.seat}-b", "shared", "shared")
        name = self.rng.choice(names)
        self.journal.write("registering", name=name)
        if self.call("register", name=name).state == "ok":
            self.journal.write("named", name=name)

    def _leave(self) -> None:
        self.journal.write("leaving")
        self.call("leave")
        self._register(self.seat)

    def _send(self) -> None:
        rng = self.rng
        token = f"{self.seat}.{self.generation}.{next(self._numbers)}"
        peers = [*self.seats, "shared", "carol", "ghost"]
        to: str | list[str] = rng.choice([*peers, *peers, "all", "all", "all", "s*"])
        if rng.random() < 0.05:
            to = rng.sample(peers, 3)
        draft: dict[str, Any] = {"to": to, "content": f"{token} {_LONG[: rng.choice((10, 40, 200, 3000))]}"}
        if self.conversation.known and rng.random() < 0.2:
            answered = rng.choice(self.conversation.known)
            draft |= {"reply_to": answered.id, "to": answered.token.split(".")[0]}
        if rng.random() < 0.5:
            draft["key"] = token
        if rng.random() < 0.06:
            draft["ttl"] = rng.choice((0.3, 600.0))
        draft["kind"] = rng.choice(("message", "message", "request", "fyi"))
        self._attempt(token, draft)

    def _attempt(self, token: str, draft: dict[str, Any]) -> None:
        """Send a message. If the answer is lost, a key makes it safe to send again, or to ask whether it was sent."""
        for _ in range(4):
            self.journal.write("sending", token=token, draft=draft)
            outcome = self.call("send", **draft)
            self.journal.write("sent", token=token, outcome=outcome.state, text=outcome.text)
            wire = self._wire
            again = "key" in draft or (_AGAIN in outcome.text and wire and wire.direct)
            if outcome.state != "unknown" or not again or self._name() is None:
                return
            if "key" not in draft and self._wire is not wire:  # the server that remembers it has been killed since
                return

    def _settle(self) -> None:
        """Send again, under the same name, the messages that an earlier run of this seat sent with a key but
        without an answer.
        """
        name = self._name()
        for token, draft, sender in self._unsettled:
            if sender == name:
                self._attempt(token, draft)
        self._unsettled = []

    def _inbox(self) -> None:
        options: dict[str, Any] = {"limit": self.rng.choice((1, 3, 50))}
        if self._impatient(0.15):
            options["peek"] = True
        cut = self._impatient(0.03)
        outcome = self.call("inbox", 0.005 if cut else PATIENCE, **options)
        if cut and outcome.state == "unknown":
            return self._interrupt()
        if outcome.state == "ok" and not options.get("peek"):
            letters = fetched(outcome.data)
            self.conversation.fetch(letters)
            self._got("inbox", letters)
        return None

    def _swap(self) -> None:
        """Compare-and-set: the new value names the value that it was made from."""
        key = self.rng.choice(("x", "y"))
        token = f"{self.seat}.{self.generation}.{next(self._numbers)}"
        begun = time.time()
        found = self.call("get_state", key=key)
        if found.state != "ok":
            return
        entries = found.data["state"]
        version, value = (entries[0]["version"], entries[0]["value"]) if entries else (0, "")
        self.journal.write("looked", key=key, version=version, value=value, begun=begun)
        made_from = value.split("<")[0]
        note = {"key": key, "token": token, "expected": version, "value": f"{token}<{made_from}"}
        self.journal.write("swapping", **note)
        begun = time.time()
        outcome = self.call("set_state", key=key, value=note["value"], expected_version=version)
        self.journal.write("swapped", **note, begun=begun, outcome=outcome.state, text=outcome.text)

    def _append(self) -> None:
        token = f"{self.seat}.{self.generation}.{next(self._numbers)}"
        self.journal.write("appending", token=token)
        outcome = self.call("set_state", key="log", value=token, mode="append")
        self.journal.write("appended", token=token, outcome=outcome.state, text=outcome.text)

    def _claim(self) -> None:
        path = self.rng.choice(("a/*", "a/1", "a/2", "b", "b/**", "port:1"))
        shared = self.rng.random() < 0.2
        outcome = self.call("claim", path=path, shared=shared, ttl=2_000_000.0)
        self.journal.write("claimed", path=path, shared=shared, outcome=outcome.state, text=outcome.text)

    def _release(self) -> None:
        self.journal.write("releasing")
        self.call("release")

    def _status(self) -> None:
        if self.conversation.known:
            self.call("message_status", message_id=self.rng.choice(self.conversation.known).id)

    def _look(self) -> None:
        self.call(self.rng.choice(("agents", "list_claims", "list_state", "history")))

    def _shell(self) -> None:
        """The model runs the command line in its shell."""
        env = self._environment()
        label = f"{self.seat}.{self.generation}.{next(self._numbers)}"
        if self.rng.random() < 0.5:
            arguments = ["send", self.rng.choice(self.seats), label, "--key", label]
            self.journal.write("sending", token=label, draft={"key": label})
            status, said = command(self.stage, self.seat, label, arguments, env)
            self._note_command(label, status, said)
            return
        status, said = command(self.stage, self.seat, label, ["--json", "inbox"], env)
        if status < 0:
            self.journal.write("lost", tool="command", why="killed")
        try:
            letters = fetched(json.loads(said))
        except ValueError:
            letters = []
        self.conversation.fetch(letters)
        self._got("command", letters)

    def _note_command(self, token: str, status: int, said: str) -> None:
        unknown = status < 0 or (status == _STORE_FAILED and self.seat in self.stage.far)
        outcome = "unknown" if unknown else "ok" if status == 0 and said.startswith("sent ") else "refused"
        self.journal.write("sent", token=token, outcome=outcome, text=said)


def _unsettled(earlier: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any], str]]:
    """Messages sent with a key through a tool and never answered, with the sender's name."""
    found: dict[str, tuple[str, dict[str, Any], str]] = {}
    name = ""
    for line in earlier:
        if line["what"] == "named":
            name = line["name"] or ""
        elif line["what"] in ("registering", "leaving"):
            name = ""
        elif line["what"] == "sending" and "content" in line["draft"] and "key" in line["draft"]:
            found[line["token"]] = (line["token"], line["draft"], name)
        elif line["what"] == "sent":
            found.pop(line["token"], None)
    return list(found.values())


_DOINGS: dict[Callable[[Client], None], int] = {
    Client._send: 40,
    Client._inbox: 16,
    Client._swap: 10,
    Client._append: 4,
    Client._claim: 7,
    Client._release: 3,
    Client._status: 4,
    Client._look: 3,
    Client._rename: 3,
    Client._leave: 1,
    Client._shell: 4,
}
_ACTIONS, _WEIGHTS = list(_DOINGS), list(_DOINGS.values())


def live(stage: Stage, seat: str, seats: list[str], generation: int) -> None:
    """The main function of a client's process."""
    stage.roll.born("client", seat)
    Client(stage, seat, seats, generation).live()
