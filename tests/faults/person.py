"""A person at a terminal who uses the command line. Only the commands are killed, never the terminal."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from .blackboard import Phase
from .conversation import fetched
from .journal import Journal
from .program import command
from .stage import Stage

NAME = "carol"


class Person:
    """Sends and reads under a name of its own, and reads all that its terminal shows."""

    def __init__(self, stage: Stage, seats: list[str]) -> None:
        self.stage, self.seats = stage, seats
        self.rng = stage.rng("person")
        self.journal = Journal(stage.journal(NAME))
        self._number = 0

    def live(self) -> None:
        while self.stage.board.phase == Phase.FAULTS:
            self._send() if self.rng.random() < 0.6 else self._read()
            time.sleep(self.rng.random() * 0.3)
        self.stage.roll.say("calm", seat=NAME)
        while self.stage.board.phase < Phase.DRAIN:
            time.sleep(0.02)
        time.sleep(self.stage.silence * 1.5)
        while self._read():
            pass
        self.journal.write("drained", name=NAME)
        self.stage.roll.say("drained", seat=NAME)

    def _run(self, *arguments: str) -> tuple[int, str]:
        self._number += 1
        env = self.stage.environment(NAME)
        return command(self.stage, NAME, f"{NAME}.{self._number}", ["--json", *arguments, "--as", NAME], env)

    def _send(self) -> None:
        token = f"{NAME}.0.{self._number}"
        to = self.rng.choice([*self.seats, "all"])
        for _ in range(3):
            self.journal.write("sending", token=token, draft={"to": to, "key": token})
            status, said = self._run("send", to, token, "--key", token)
            self._note(token, status, said)
            if status >= 0 and '"sent": true' not in said:
                return

    def _note(self, token: str, status: int, said: str) -> None:
        if status < 0:
            self.journal.write("sent", token=token, outcome="unknown", text="")
            return
        answer = json.loads(said)
        outcome = "unknown" if status and answer.get("sent") else "refused" if status else "ok"
        recipients = [one["recipient"] for one in answer.get("recipients", ())]
        self.journal.write("sent", token=token, outcome=outcome, text=said, id=answer.get("id"), recipients=recipients)

    def _read(self) -> bool:
        """Returns whether mail arrived, or may have arrived."""
        status, said = self._run("inbox")
        try:
            letters = fetched(json.loads(said))
        except ValueError:
            if status > 0:
                self.journal.write("strange", tool="inbox", answer=said)
            return True  # killed before or during the printing
        if letters:
            self.journal.write("got", via="command", letters=[asdict(letter) for letter in letters])
            self.journal.write("answered", ids=[letter.id for letter in letters])
        return bool(letters) or status != 0


def live(stage: Stage, seats: list[str]) -> None:
    """The main function of the person's process."""
    Person(stage, seats).live()
