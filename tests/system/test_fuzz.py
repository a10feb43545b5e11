"""Every parser of what comes from outside, fed with anything: it answers or says what is wrong, and nothing is lost."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import sqlite3
import sys
import tempfile
import threading
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from claude_bus import (
    addresses,
    claim_paths,
    claim_text,
    claude_code,
    claude_settings,
    fence,
    names,
    patterns,
    quoting,
    text,
    worktree,
)
from claude_bus.cli import main as command_line
from claude_bus.cli import printing
from claude_bus.config import Config
from claude_bus.drivers import announcing, notices
from claude_bus.errors import BusError, InvalidInput, kinds
from claude_bus.mcp import hooks, server, tools
from claude_bus.model.claims import Claim
from claude_bus.model.identity import Overlap, Process, Roster
from claude_bus.model.messages import Message
from claude_bus.session.session import Session
from claude_bus.session.subagents import SessionGroup
from claude_bus.sql import sessions
from tests.support.effort import looks
from tests.support.foreign_input import HOSTILE, JSON_BITS, anything, arguments, clean_texts, files, numbers, texts
from tests.support.processes import PATIENCE, ROOT, Wire, wire
from tests.support.sessions import Party, carried, say, state_of
from tests.support.store import START

pytestmark = pytest.mark.slow

T = TypeVar("T")


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@contextlib.asynccontextmanager
async def company() -> AsyncIterator[tuple[Party, Session, Session]]:
    """Alice and Bob on a new file."""
    with folder() as place:
        party = Party(place / "bus.db")
        try:
            yield party, await party.join("alice"), await party.join("bob")
        finally:
            await party.close()


# -- tool arguments --------------------------------------------------------------------------------

words = st.sampled_from(("alice", "bob", "all", "src/*.py", "k", "1h", "x")) | texts
listed = st.lists(words, max_size=3)
several = words | listed
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "to": several,
    "path": several,
    "owns": listed,
    "files": listed,
    "tags": listed,
    "kind": st.sampled_from(("message", "request", "fyi")),
    "mode": st.sampled_from(("overwrite", "append", "delete")),
    "value": anything,
}
KINDS: dict[str, st.SearchStrategy[Any]] = {"str": words, "int": numbers, "bool": st.booleans()}


def fields_of(tool: tools.Tool) -> dict[str, st.SearchStrategy[Any]]:
    """For each argument of a tool what it may be given, by name or else by type."""
    found = tool.arguments.model_fields
    kinds = {
        name: KINDS.get(getattr(field.annotation, "__name__", ""), numbers | words) for name, field in found.items()
    }
    return {name: FIELDS.get(name, kind) for name, kind in kinds.items()}


def calls_of(name: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just(name), arguments(fields_of(tools.TOOLS[name])))


calls = st.sampled_from(sorted(tools.TOOLS)).flatmap(calls_of)


@looks(40)
@given(st.lists(calls, min_size=1, max_size=6))
@example([("set_state", {"key": "k", "value": {"a": float("inf")}}), ("get_state", {"key": "k"})])
def test_a_tool_answers_or_says_what_it_accepts(asked: list[tuple[str, dict[str, Any]]]) -> None:
    """Any arguments come to an answer that is JSON, or to one error of ours that names the way out."""

    async def run() -> None:
        async with company() as (_, _, bob):
            for name, given_arguments in asked:
                with anyio.move_on_after(0.05 if name == "wait" else None):
                    await _answers(bob, name, given_arguments)

    anyio.run(run)


async def _answers(session: Session, name: str, given_arguments: dict[str, Any]) -> None:
    """The answer of a tool is JSON; its error is one of ours, and names what is accepted if the arguments are not."""
    error: BusError | None = None
    answer: tools.Answer = ""
    try:
        answer = await tools.call(session, name, given_arguments)
    except BusError as raised:
        error = raised
    json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
    if error:
        assert error.message
        assert type(error) is not BusError
        assert "Accepted arguments: " in error.message or not isinstance(error.__cause__, ValidationError)


# -- hook events -------------------------------------------------------------------------------------

ids = st.sampled_from(("", "s", "s2", "p1", "p2")) | texts
an_event = arguments(
    {
        "event": st.sampled_from((*hooks.EVENTS, "SessionStart")),
        "session_id": ids,
        "prompt_id": ids,
        "agent_id": st.sampled_from(("", "", "", "a1")),
        "permission_mode": st.sampled_from(("default", "plan", "bypassPermissions")) | texts,
        "notification_type": st.sampled_from(("idle_prompt", "permission_prompt")) | texts,
        "prompt": texts,
        "tools": texts,
        "tool_use_id": ids,
        "path": texts,
        "notebook_path": texts,
    }
)


@looks(25)
@given(st.lists(st.tuples(an_event, st.booleans()), min_size=1, max_size=8))
def test_a_hook_always_answers_as_the_client_expects_and_nothing_is_lost(
    events: list[tuple[dict[str, Any], bool]],
) -> None:
    """Whatever the client sends: hook JSON within its limit or nothing; no mail is called read that was not seen."""

    async def run() -> None:
        async with company() as (party, alice, bob):
            everybody = SessionGroup(bob)
            sent: dict[int, str] = {}
            seen: set[str] = set()
            for number, (event, writes) in enumerate(events):
                if writes:
                    sent[await say(alice, "bob", f"mail {number}")] = f"mail {number}"
                seen |= set(carried(await _hook(everybody, event)))
                for message, content in sent.items():
                    assert await state_of(alice, message) != "read" or content in seen
            party.kill(bob)
            after = await party.join("bob")
            left = {m.content for m in (await after.inbox()).messages}
            assert left | seen >= set(sent.values())

    anyio.run(run)


async def _hook(everybody: SessionGroup, event: dict[str, Any]) -> str:
    """Return the text that an event puts before the model."""
    found = await server._call_hook(everybody, event)
    written = "".join(getattr(block, "text", "") for block in found.content)
    if found.is_error:
        assert written.startswith("hook: ")
        return ""
    answer = json.loads(written) if written else {}
    assert set(answer) <= {"hookSpecificOutput", "systemMessage"}
    output = answer.get("hookSpecificOutput", {})
    assert all(isinstance(value, str) for value in output.values())
    assert quoting.size(json.dumps(output, ensure_ascii=False)) <= 10_000
    return str(output.get("additionalContext", ""))


# -- the wire ------------------------------------------------------------------------------------------

METHODS = ("tools/call", "tools/list", "initialize", "ping", "notifications/cancelled", "server/discover", "no/such")
a_request = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | anything,
        "id": st.sampled_from(("x", None, 10**400, -1, 1.5, [], {})) | texts,
        "method": st.sampled_from(METHODS) | texts,
        "params": anything | st.fixed_dictionaries({"name": words, "arguments": anything}),
        "result": anything,
    },
)
lines = st.one_of(
    st.binary(max_size=60).map(lambda data: data.replace(b"\n", b"")),
    st.sampled_from((*JSON_BITS, b"x" * 50_000)),
    a_request.map(lambda request: json.dumps(request).encode()),
    st.lists(a_request, max_size=3).map(lambda batch: json.dumps(batch).encode()),
)


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """One server for all lines, whose complaints are read away."""
    with wire(tmp_path_factory.mktemp("wire") / "bus.db") as running:
        assert running.process.stderr
        threading.Thread(target=running.process.stderr.read, daemon=True).start()
        yield running


@looks(40)
@given(st.lists(lines, min_size=1, max_size=5))
def test_a_server_survives_any_line(talking: Wire, garbage: list[bytes]) -> None:
    """Whatever is written to it, the next call is answered."""
    for line in garbage:
        talking.write(line)

    assert "not registered" in talking.call("whoami").text


# -- what a model reads ---------------------------------------------------------------------------------

LABEL = "a1b2c3"
CLIENT_TAGS = re.compile(
    r"<\s*/?\s*(bus-message|system-reminder|cross-session|task-notif|command-|tool_)", re.IGNORECASE
)
letters = st.builds(
    Message,
    id=st.integers(0, 2**63 - 1),
    ts=st.floats(0, 4e9),
    sender=texts,
    to=texts | st.just("all"),
    content=texts | st.lists(st.sampled_from(HOSTILE), min_size=40, max_size=60).map("".join),
    kind=st.sampled_from(("message", "request", "fyi")),
    reply_to=st.none() | st.integers(-1, 2**63 - 1),
    tags=st.lists(texts, max_size=3).map(tuple),
    urgent=st.booleans(),
    possibly_seen=st.booleans(),
)


def unsafe(shown: str) -> list[str]:
    """Characters that act on their reader."""
    return [
        c for c in shown if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or c in "\u202e\u2028\ufeff"
    ]


@looks(80)
@given(st.lists(letters, max_size=4), st.integers(0, 9_000), st.integers(0, 10**6))
def test_a_fence_opens_and_closes_once(mail: list[Message], room: int, left: int) -> None:
    """Whatever its fields hold, a message is one block under one head, nothing in it acts, and its bound holds."""
    mail = [
        Message(m.id, m.ts, m.sender, m.to, m.content.replace("xxxxxx", LABEL), m.kind, m.reply_to, m.tags)
        for m in mail
    ]
    blocks = fence.fitting(mail, LABEL, room)

    assert sum(quoting.size(block) + 1 for block in blocks) <= room
    for block in blocks:
        first, last = block.split("\n")[0], block.split("\n")[-1]
        assert re.fullmatch(rf'<bus-message-{LABEL} id="\d+" from="[^"<>]*"( \w+="[^"<>]*")*>', first)
        assert last == f"</bus-message-{LABEL}>"
        assert len(CLIENT_TAGS.findall(block)) == 2
        assert not unsafe(block)
    assert not unsafe(text.mail(blocks, left))


SENTENCES: dict[str, Callable[[str, Message], str]] = {
    "introduction": lambda said, _: text.introduction(said, "default", True),
    "roster": lambda said, _: text.roster_line(Roster(((said, "idle"),))),
    "overlap": lambda said, _: text.overlap_line((Overlap(said, (said,)),)),
    "notice": lambda _, mail: text.notice([mail]),
    "refused": lambda said, _: claim_text.edit_refused(Claim(said, "", said, False, said, START), START, final=False),
    "warned": lambda said, _: claim_text.edit_warned(Claim(said, "", said, False, said, START), START),
    "doorbell": lambda said, _: text.doorbell(3, [said], 7, 1),
}


@looks(60)
@given(texts, letters)
def test_what_names_a_peer_is_one_line_that_does_nothing(said: str, mail: Message) -> None:
    """A name, path or reason of any origin stays within the line that mentions it."""
    for name, sentence in SENTENCES.items():
        shown = sentence(said, mail)
        assert "\n" not in shown, name
        assert not unsafe(shown), name
        assert not CLIENT_TAGS.search(shown), name
    assert len(text.recall([mail]).split("\n")) == 2
    assert not unsafe(printing.printed_message(mail))


def unless_refused(act: Callable[[], T], *names: str) -> T | None:
    """Return the result of an act; None if a sentence that is safe to show refuses it and names one of `names`."""
    refusal = ""
    try:
        return act()
    except InvalidInput as error:
        refusal = error.message
    assert not unsafe(refusal)
    assert not names or any(name in refusal for name in names)
    return None


# -- globs and addresses -------------------------------------------------------------------------------------

globs = st.lists(
    st.sampled_from(("*", "**", "/", "a", "b", "[ab]", "[!a]", "[", "]", "?", "a*b", "..")), max_size=60
).map("".join)


def steps(act: Callable[[], object]) -> int:
    """How many Python functions run meanwhile."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(before)
    return count


@looks(100)
@given(globs, globs)
@example("*" * 1_000, "*a" * 500)
@example("/".join(["**"] * 300), "/".join(["**", "*"] * 150))
@example("*[!x]" * 150, "[!y]*" * 150)
def test_the_work_of_two_patterns_is_at_most_their_product(one: str, other: str) -> None:
    """No pattern is worth writing to make the bus think for ever."""
    patterns._tokens.cache_clear()
    patterns._parts.cache_clear()

    assert steps(lambda: patterns.overlap(one, other)) <= 40 * (len(one) + 3) * (len(other) + 3)


@looks(100)
@given(texts | globs)
def test_an_address_is_understood_or_refused(said: str) -> None:
    """And what is understood stands for names on one channel, in a spelling that reads back."""
    found = unless_refused(lambda: addresses.parse_address(said, "default"))
    if not found:
        return
    names.check_name(found.channel)
    assert addresses.matching_names(found.name, ["alice", "a[b"]) in ([], ["alice"], ["a[b"], ["a[b", "alice"])
    assert addresses.parse_address(f"{found.name}@{found.channel}", "other") == found


@looks(100)
@given(texts | globs)
def test_a_path_is_claimed_in_one_spelling_or_refused(said: str) -> None:
    """A path that can be claimed keeps its spelling, overlaps itself, and can be shown."""
    path = unless_refused(lambda: claim_paths.check_path(said))
    if not path:
        return
    assert claim_paths.check_path(path) == path
    assert path.isprintable()
    assert claim_paths.is_resource(path) or patterns.overlap(path, path)


# -- settings, git's files, the client's files ---------------------------------------------------------------------

VARIABLES = (
    "BUS_DB",
    "BUS_NAME",
    "BUS_ROLE",
    "BUS_CHANNEL",
    "BUS_WAKE",
    "BUS_GUARD",
    "BUS_SHARE_PROMPTS",
    "BUS_BUSY_TIMEOUT",
)
environments = st.dictionaries(
    st.sampled_from(VARIABLES), words | st.sampled_from(("1", "never", "deny", "~", "~/x", "inf", "1_0"))
)


@looks(100)
@given(environments)
def test_settings_are_usable_or_refused_by_name(env: Mapping[str, str]) -> None:
    """A setting that cannot be is refused, naming the variable and nothing raw."""
    config = unless_refused(lambda: Config.from_env(env, Path("/home/me")), *env)
    if not config:
        return
    assert config.db.is_absolute()
    assert 0 <= config.busy_timeout <= 600
    assert names.check_name(config.channel) == config.channel


contents = st.one_of(
    st.binary(max_size=60),
    clean_texts.map(str.encode),
    clean_texts.map(lambda said: f"gitdir: {said}".encode()),
    clean_texts.map(lambda said: f"ref: refs/heads/{said}\n".encode()),
    clean_texts.map(lambda said: f'[remote "origin"]\n\turl = {said}\n'.encode()),
    st.sampled_from((b"gitdir: .", b"gitdir: .git", b"gitdir: \x00", b"gitdir: " + b"a/" * 3_000, b"..", b"\x00")),
)


@looks(80)
@given(st.booleans(), contents, contents, contents, clean_texts)
@example(False, b"gitdir: \x00", b"", b"", "x")
@example(True, b"", b"ref: refs/heads/main", b'[remote "origin"]\nurl = /\x00', "x")
def test_gits_files_may_hold_anything(linked: bool, git: bytes, head: bytes, config: bytes, path: str) -> None:
    """A folder stands for itself where git's files say nothing; a place in it can be stored or is refused."""
    with folder() as root:
        if linked:
            root.joinpath(".git").mkdir()
            for name, content in (("HEAD", head), ("config", config), ("commondir", git)):
                root.joinpath(".git", name).write_bytes(content)
        else:
            root.joinpath(".git").write_bytes(git)
        found = worktree.folder(root)
        for said in (found.cwd, found.root, found.repository, found.branch):
            said.encode()
        names.check_name(addresses.folder_name(found.root, found.branch))
        with contextlib.suppress(InvalidInput):
            scope, name = worktree.place(found, path)
            (scope + name).encode()


@looks(100)
@given(files)
def test_the_clients_session_file_may_hold_anything(content: bytes) -> None:
    """Only one that says so makes a session idle."""
    client = Process("here", 7, 1.0)
    with folder() as home:
        home.joinpath("sessions").mkdir()
        home.joinpath("sessions", "7.json").write_bytes(content)
        assert not claude_code.says_idle({"CLAUDE_CONFIG_DIR": str(home)}, client)


@looks(100)
@given(files | st.dictionaries(st.just("hooks"), anything).map(lambda value: json.dumps(value).encode()))
def test_the_clients_settings_are_kept_or_the_installation_is_refused(content: bytes) -> None:
    """Installed and taken out again, the user's settings say what they said; refused, they are untouched."""
    with folder() as config:
        settings = config / "settings.json"
        settings.write_bytes(content)
        try:
            claude_settings.install(config, ROOT, [])
        except claude_settings.Refused:
            assert settings.read_bytes() == content
            return
        assert set(hooks.EVENTS) <= set(json.loads(settings.read_bytes())["hooks"])
        claude_settings.uninstall(config, [ROOT])
        assert meaning(settings.read_bytes() if settings.exists() else b"") == meaning(content)


def meaning(written: bytes) -> Any:
    """Return the hooks that settings declare; events without hooks declare none."""
    document = json.loads(written) if written.decode(errors="replace").strip() else {}
    events = {event: groups for event, groups in document.get("hooks", {}).items() if groups}
    return {key: value for key, value in document.items() if key != "hooks"} | ({"hooks": events} if events else {})


# -- the database and its notices -----------------------------------------------------------------------------------

FOREIGN = {
    "agents": ("owns", "role", "branch", "repository", "cwd", "client", "doing", "session_id", "formerly"),
    "bindings": ("told", "overlaps", "session_id"),
    "messages": ("tags", "content", "recipient", "sender", "sender_channel"),
    "deliveries": ("via", "handed_by"),
    "state": ("value", "updated_by"),
    "state_history": ("value", "by"),
    "claims": ("reason", "path", "scope", "stem", "tree", "file"),
    "listeners": ("address",),
    "watches": ("address",),
}
columns = st.sampled_from([(table, column) for table, found in FOREIGN.items() for column in found])
LOOKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("agents", {}),
    ("inbox", {}),
    ("history", {}),
    ("message_status", {"message_id": 1}),
    ("get_state", {"key": "", "history": 5}),
    ("get_state", {"key": "j", "history": 5}),
    ("list_claims", {}),
    ("claim", {"path": "src/*"}),
    ("send", {"to": "alice", "content": "x", "reply_to": 1}),
    ("send", {"to": "*", "content": "x"}),
    ("set_state", {"key": "t", "value": "x"}),
    ("release", {}),
)


@looks(40)
@given(st.lists(st.tuples(columns, clean_texts), min_size=1, max_size=3), st.booleans())
@example([(("deliveries", "handed_by"), "x")], True)
@example([(("state", "value"), "{")], True)
@example([(("listeners", "address"), "udp:127.0.0.1:99999")], False)
@example([(("listeners", "address"), "udp:127.0.0.1:²")], False)
def test_columns_may_hold_foreign_values(foreign: list[tuple[tuple[str, str], str]], handed: bool) -> None:
    """A file that another program wrote into is read as far as it goes: answers, or an error of ours."""

    async def run() -> None:
        async with company() as (party, alice, bob):
            await say(alice, "bob")
            await alice.set_state("j", '{"a": 1}', json=True)
            await alice.set_state("t", "text")
            await alice.claim(["src/a.py"], ttl=60, shared=True, reason="")
            for session in (alice, bob):
                await session.bus.run(sessions.listen, "udp:127.0.0.1:1", session.client.key)
            if handed:
                await bob.inbox()
            with contextlib.closing(sqlite3.connect(party.path)) as other:
                for (table, column), value in foreign:
                    with contextlib.suppress(sqlite3.IntegrityError):
                        other.execute(f"UPDATE {table} SET {column} = ?", (value,))
                other.commit()
            for name, given_arguments in LOOKS:
                await _answers(bob, name, given_arguments)
            everybody = SessionGroup(bob)
            for event in ("UserPromptSubmit", "PostToolBatch", "Stop"):
                await _hook(
                    everybody, {"event": event, "session_id": "s", "prompt_id": "p", "permission_mode": "default"}
                )
            await bob.bus.prune()

    anyio.run(run)


@looks(100)
@given(st.lists(texts | st.from_regex(r"udp:127\.0\.0\.1:\d{1,6}", fullmatch=True), max_size=4))
@example(["udp:127.0.0.1:²", "udp:127.0.0.1:99999"])
def test_whom_to_tell_may_be_anything(addresses: list[str]) -> None:
    """An invalid address is passed over."""
    announcing.announce(addresses)


@looks(20)
@example([b""])
@given(st.lists(st.binary(max_size=2_000), min_size=1, max_size=5))
def test_a_notice_may_say_anything(datagrams: list[bytes]) -> None:
    """A sender without the listener's word is not heard, and keeps nobody else from being heard."""

    async def run() -> None:
        async with notices.notice_socket() as notice_socket:
            port = int(notice_socket.address.split(":")[2])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                for data in datagrams:
                    out.sendto(data, ("127.0.0.1", port))
            assert not await notice_socket.heard(0.0)
            announcing.announce([notice_socket.address])
            assert await notice_socket.heard(PATIENCE)

    anyio.run(run)


# -- the command line ----------------------------------------------------------------------------------

COMMANDS = ("send", "inbox", "agents", "guard")
OPTIONS = (
    "--json",
    "--as",
    "--peek",
    "--kind",
    "--reply-to",
    "--key",
    "--urgent",
    "--channel",
    "--version",
    "--",
    "-",
    "fyi",
    "7",
)
USES = (
    ("send", "bob", "hi"),
    ("send", "bob"),
    ("send", "a,b*,c@ops", "-"),
    ("inbox",),
    ("inbox", "--peek"),
    ("agents",),
)
command_lines = st.tuples(st.sampled_from(USES), st.lists(st.sampled_from(OPTIONS) | texts, max_size=3)).map(
    lambda pair: [*pair[0], *pair[1]]
)


@looks(200)
@given(st.lists(st.sampled_from((*COMMANDS, *OPTIONS)) | texts, max_size=6))
def test_any_command_line_is_understood_or_explained(words: list[str]) -> None:
    """Options are read, or the program ends as after `--help` (0) or bad input (2), saying something."""
    out, complaints = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaints):
        ended = status_of(lambda: bool(command_line._parse(command_line.build_parser(), words)))
    assert ended in (0, 2) if out.getvalue() or complaints.getvalue() else ended is True


def status_of(act: Callable[[], int]) -> object:
    """Return its result, or the status with which it ends the program."""
    try:
        return act()
    except SystemExit as ends:
        return ends.code
    except command_line._Unusable as error:
        print(error.usage, file=sys.stderr)
        return 2


@looks(40)
@given(command_lines, st.binary(max_size=30))
def test_a_command_ends_with_a_documented_status(words: list[str], stdin: bytes) -> None:
    """With --json its whole output is one document, whatever it was given."""
    out, complaints = io.StringIO(), io.StringIO()
    with folder() as place, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("BUS_", "CLAUDE"))]:
            patch.delenv(name)
        patch.setenv("BUS_DB", str(place / "bus.db"))
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(complaints):
            status = status_of(lambda: command_line.run([words[0], "--json", *words[1:]]))
    assert status in {0, *(kind.exit_status for kind in kinds().values())}, complaints.getvalue()
    if not complaints.getvalue() and "claude-bus " not in out.getvalue()[:20]:
        json.loads(out.getvalue())
