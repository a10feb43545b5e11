"""The arguments of tools and hook events: read without pydantic, and exactly as pydantic reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from claude_bus.mcp import arguments, hooks
from claude_bus.mcp.arguments import Arguments
from claude_bus.mcp.tools import TOOLS
from claude_bus.session.hook_event import HookEvent
from tests.support.processes import Wire

texts = st.text(max_size=5) | st.sampled_from(
    ("message", "overwrite", "90", "90s", "2h", "nan", "inf", "-1", "1e999", "\ud800", "", "x")
)
numbers = st.integers(-2, 600) | st.sampled_from((10**30, 2**63, -(10**400))) | st.floats()
values: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    texts,
    st.lists(texts, max_size=2),
    st.lists(st.integers(), max_size=1),
    st.dictionaries(texts, numbers, max_size=1),
)
TYPES = sorted({tool.arguments for tool in TOOLS.values()}, key=lambda kind: kind.__name__)


def fields(found: Arguments) -> dict[str, Any]:
    return {name: getattr(found, name) for name in found.names()}


def same(one: object, other: object) -> bool:
    """Whether two values are equal and of the same types: 1, 1.0 and True are three things to a tool."""
    return repr(one) == repr(other)


@given(st.sampled_from(TYPES), st.data())
def test_arguments_that_are_read_by_hand_are_read_as_by_pydantic(kind: type[Arguments], data: st.DataObject) -> None:
    """Whatever is given: the two agree, or pydantic is asked."""
    names = st.sampled_from([*kind.names(), "other"])
    given_arguments = data.draw(st.dictionaries(names, values, max_size=4))

    plain = kind.plain(given_arguments)

    if plain is not None:
        assert same(fields(plain), fields(kind.validated(given_arguments)))


@pytest.mark.parametrize("kind", TYPES)
def test_every_annotation_has_both_readers(kind: type[Arguments]) -> None:
    """One that is written as declared needs no pydantic; and pydantic knows the same fields."""
    assert list(kind.model().model_fields) == kind.names()
    for annotation in kind.__annotations__.values():
        assert annotation in arguments._READERS


@given(st.dictionaries(st.sampled_from([*HookEvent.__slots__, "other"]), values, max_size=5))
def test_a_hook_event_is_read_as_by_pydantic(given_fields: dict[str, Any]) -> None:
    """The same events, and as many invalid fields."""
    try:
        expected = TypeAdapter(HookEvent).validate_python(given_fields)
    except ValidationError as error:
        with pytest.raises(hooks.Unreadable, match=f"^{error.error_count()} invalid fields"):
            hooks.read(given_fields)
    else:
        assert hooks.read(given_fields) == expected


_TELLING = """
import os, sys
from pathlib import Path
from claude_bus import __main__
from claude_bus.mcp import session_server
def told():
    print(*sorted({'mcp', 'pydantic', 'mcp_types'} & set(sys.modules)), file=sys.stderr)
    os._exit(0)
session_server._exit = told
sys.argv[1:] = ['stdio']
__main__.main()
"""


def test_calls_that_are_written_as_declared_need_no_pydantic(tmp_path: Path) -> None:
    """Hooks, and the usual calls of a model: what a session does seldom loads it."""

    class Telling(Wire):
        program = ("-c", _TELLING)

    server = Telling(tmp_path / "bus.db").start()
    try:
        server.ask("tools/list")
        server.hook("UserPromptSubmit")
        assert not server.call("register", name="alice", owns=["src/**"]).failed
        assert not server.call("send", to="bob", content="hi", kind="request", ttl="2h").failed
        assert not server.call("set_state", key="k", value={"a": 1}, expected_version=0).failed
        assert not server.call("claim", path="src/a.py", ttl=60).failed
        for tool in ("inbox", "agents", "history", "list_claims", "whoami", "leave"):
            assert not server.call(tool).failed
        assert server.process.stdin
        server.process.stdin.close()
        assert server.process.stderr
        assert server.process.stderr.read().split() == []
    finally:
        server.kill()


def test_a_mistake_is_explained_by_pydantic() -> None:
    """Its words name the argument; nothing of it is taken for plain."""
    found = TOOLS["send"].arguments

    assert found.plain({"to": "bob"}) is None
    assert found.plain({"to": "bob", "content": "x", "reply_to": "7"}) is None
    assert found.validated({"to": "bob", "content": "x", "reply_to": "7"}).reply_to == 7  # type: ignore[attr-defined]
    with pytest.raises(ValidationError):
        found.validated({"to": "bob"})
