"""Without mail the bus adds nothing to a conversation."""

from __future__ import annotations

import itertools

from .claude_e2e import Sandbox, Tui
from .conftest import StartSession
from .fake_anthropic import FakeAnthropic, Request
from .peer import Peer


def news_of(requests: list[Request]) -> list[list[str]]:
    return [request.last_user() for request in requests]


def growth(requests: list[Request]) -> list[int]:
    """The number of characters by which each conversation is longer than the one before."""
    sizes = [len(request.everything()) for request in requests]
    return [later - earlier for earlier, later in itertools.pairwise(sizes)]


def test_ten_quiet_prompts(session: StartSession, backend: Peer, box: Sandbox) -> None:
    """In ten prompts without mail the model reads exactly the characters that it would read without the plugin."""
    prompts = [f"prompt number {n}" for n in range(12)]
    frontend = session("frontend")
    for prompt in prompts:
        frontend.turn(prompt)

    with FakeAnthropic() as model:
        arguments = ("--permission-mode", "manual")
        with Tui(box, *arguments, env={"ANTHROPIC_BASE_URL": model.url}) as tui:
            for n, prompt in enumerate(prompts):
                tui.prompt(prompt)
                model.wait_main(n + 1)
                tui.wait_until_idle()

    quiet = frontend.model.main[2:]
    assert len(quiet) == 10
    assert news_of(quiet) == news_of(model.main[2:])
    assert growth(quiet) == growth(model.main[2:])
    assert len({request.system for request in quiet}) == 1
