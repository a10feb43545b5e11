"""The secret detector: which texts the bus refuses, and that it keeps nothing of them."""

from __future__ import annotations

import json
import logging
import string
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from claude_bus import detector, samples
from claude_bus.cli.doctor import examine
from claude_bus.config import Config
from claude_bus.detector import Suspicion, find
from claude_bus.errors import InvalidInput, SecretRefused
from claude_bus.mcp import tools
from claude_bus.model.messages import Draft
from claude_bus.sql import state
from tests.support.likely_secrets import ORDINARY, SECRETS
from tests.support.processes import environment, eventually
from tests.support.sessions import Party, say

TOKEN = SECRETS["github classic"]


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_found_within_a_message(kind: str) -> None:
    """Each kind of secret is found among other words, and on its line."""
    assert find(f"hello bob,\nuse this: {SECRETS[kind]}\nthanks")[0].line in (2, 3)


@pytest.mark.parametrize("kind", ORDINARY)
def test_what_only_resembles_a_secret_passes(kind: str) -> None:
    """Hashes, placeholders, public keys and talk about keys are not secrets."""
    assert find(ORDINARY[kind]) == []


@given(
    st.text(string.ascii_letters + string.digits, min_size=16, max_size=40),
    st.sampled_from(["localhost", "db", "127.0.0.1", "10.0.0.5", "[::1]", "host.docker.internal", "shop.local"]),
)
def test_a_password_that_nobody_guesses_is_a_secret_wherever_it_is_for(password: str, host: str) -> None:
    """A generated password is a secret even in the URL of a local host."""
    assume(len(set(password)) > 10)
    login = samples.login_of_url({"username": "app", "password": password, "host": host, "scheme": "postgres"})
    assert not samples.is_sample(password, login)


@given(st.text(), st.text(), st.text(), st.text())
def test_anything_at_all_can_be_asked_about(user: str, password: str, host: str, secret: str) -> None:
    """Any text in place of a login or a token is scanned without an error."""
    parts = {"username": user, "password": password, "host": host}
    samples.is_sample(secret, samples.login_of_url(parts))
    samples.is_sample(secret, samples.login_of_command(secret, f"curl -u {secret} http://{host}"))


def test_each_secret_is_told_with_its_line() -> None:
    """Several secrets are reported in the order of their lines."""
    text = f"one\n{TOKEN}\n\n{SECRETS['gitlab']} and {TOKEN}"
    assert find(text) == [Suspicion(2, "github-pat"), Suspicion(4, "github-pat"), Suspicion(4, "gitlab-pat")]


def test_secrets_are_found_from_many_threads_at_once() -> None:
    """All sessions of one server share the scanner."""
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(find, [TOKEN, ORDINARY["commit"]] * 50))
    assert found == [[Suspicion(1, "github-pat")], []] * 50


@given(st.text() | st.text(st.characters(codec=None, categories=["Cs", "Cc", "Co", "Lu"])))
def test_any_text_can_be_looked_at(text: str) -> None:
    """Control characters, unpaired surrogates and the like cause no error, and hide no secret."""
    found = find(f"{text}\n{TOKEN}\n")
    assert "github-pat" in {suspicion.kind for suspicion in found}


@pytest.mark.parametrize(
    "piece", ["a", "://a:b@", "eyJ", "-----BEGIN PRIVATE KEY-----\n", "\0", "😀", "AKIA", "sk-ant-"]
)
def test_a_hostile_text_of_any_size_that_can_be_sent_is_looked_at(piece: str) -> None:
    """Thousands of beginnings of a secret make the scanner neither fail nor hang."""
    find((piece * 65_536)[:65_536])


def test_nothing_is_asked_of_anybody() -> None:
    """Only the offline scanners of the library are used."""
    source = Path(detector.__file__).read_text(encoding="utf-8")
    imported = [line.split(" import ")[1] for line in source.splitlines() if "from kingfisher_sdk" in line]
    assert imported == ["Finding, Scanner", "Rules, Scanner"]


def test_plain_talk_does_not_load_the_scanner() -> None:
    """A message without anything like a secret is not delayed by the half second that loading takes."""
    text = "all is well in /home/alice/project/module.py at 55eceb8f1a2b3c4d5e6f708192a3b4c5d6e7f809"
    code = f"import sys; from claude_bus.detector import find; find({text!r}); print('kingfisher_sdk' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(Path()), capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_the_rules_are_compiled_ahead(tmp_path: Path) -> None:
    """Once: two processes that begin it at the same time leave one whole file, with which it is not begun again."""
    env = environment(tmp_path / "bus.db", KF_RULE_CACHE_DIR=str(tmp_path / "rules"))
    code = "import os; from claude_bus import detector; print(detector.prepare(os.environ))"

    def prepared() -> str:
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout

    assert [prepared(), prepared()] == ["True\n"] * 2
    eventually(lambda: list((tmp_path / "rules").glob("*.vscdb")), "the rules are compiled")
    assert prepared() == "False\n"
    assert len(list((tmp_path / "rules").iterdir())) == 1


def test_rules_that_cannot_be_kept_are_used_all_the_same(tmp_path: Path) -> None:
    """A cache folder that cannot be written is no obstacle to scanning."""
    (tmp_path / "file").write_text("")
    env = environment(tmp_path / "bus.db", KF_RULE_CACHE_DIR=str(tmp_path / "file" / "rules"))
    code = f"from claude_bus import detector; print([found.kind for found in detector.find({TOKEN!r})])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "['github-pat']\n"


# -- on the bus ------------------------------------------------------------------------------

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """All log records of any level; none may contain the secret."""
    caplog.set_level(logging.DEBUG)
    yield
    assert TOKEN not in caplog.text


def kept(party: Party) -> bytes:
    """All bytes of the database, including its write-ahead log."""
    return b"".join(path.read_bytes() for path in party.path.parent.glob("bus.db*"))


async def test_a_message_with_a_secret_is_refused(party: Party) -> None:
    """The sender learns the kind, the place and the way out; no part of the secret is stored or repeated."""
    alice, bob = await party.join("alice"), await party.join("bob")

    with pytest.raises(SecretRefused) as refused:
        await say(alice, "bob", f"hello\nhere: {TOKEN}")

    told = json.dumps(refused.value.as_dict())
    assert "github-pat on line 2" in refused.value.message
    assert "--file" in refused.value.message
    assert "allow_secret" in refused.value.message
    assert TOKEN not in told
    assert refused.value.data == {"found": [{"kind": "github-pat", "line": 2}]}
    assert (await bob.inbox()).messages == ()
    assert TOKEN.encode() not in kept(party)


async def test_a_refusal_of_many_stays_short(party: Party) -> None:
    """Three secrets are named, the rest are counted."""
    alice = await party.join("alice")
    with pytest.raises(SecretRefused, match=r"line 3 and 5 more\)"):
        await say(alice, "bob", "\n".join([TOKEN] * 8))


async def test_what_its_sender_allows_is_sent(party: Party) -> None:
    """The override applies to one message."""
    alice, bob = await party.join("alice"), await party.join("bob")

    await say(alice, "bob", TOKEN, allow_secret=True)

    assert [m.content for m in (await bob.inbox()).messages] == [TOKEN]
    with pytest.raises(SecretRefused):
        await say(alice, "bob", TOKEN)


@pytest.mark.parametrize("mode", ["overwrite", "append"])
async def test_state_is_no_place_for_secrets_either(party: Party, mode: state.Mode) -> None:
    """A value is refused or allowed like a message, also if it is JSON."""
    alice = await party.join("alice")
    await alice.set_state("login", "nobody")

    for value, as_json in ((TOKEN, False), (json.dumps({"token": TOKEN}), True)):
        with pytest.raises(SecretRefused, match="value looks like it holds a secret"):
            await alice.set_state("login", value, mode=mode, json=as_json)

    assert TOKEN.encode() not in kept(party)
    await alice.set_state("login", TOKEN, mode=mode, allow_secret=True)
    [entry] = await alice.get_state("login")
    assert str(entry.value).endswith(TOKEN)


async def test_deleting_looks_at_nothing(party: Party) -> None:
    """A deletion writes no value, so its arguments are not scanned."""
    alice = await party.join("alice")
    await alice.set_state("login", "nobody")
    await alice.set_state("login", TOKEN, mode="delete")
    assert await alice.get_state("login") == []


async def test_the_tools_pass_the_override_on(party: Party) -> None:
    """`send` and `set_state` use the same name for it."""
    alice = await party.join("alice")
    for tool, arguments in (("send", {"to": "bob", "content": TOKEN}), ("set_state", {"key": "k", "value": [TOKEN]})):
        with pytest.raises(SecretRefused):
            await tools.call(alice, tool, arguments)
        assert await tools.call(alice, tool, arguments | {"allow_secret": True})


async def test_what_is_wrong_anyhow_is_told_first(party: Party) -> None:
    """A message that is invalid in other ways is not scanned."""
    alice = await party.join("alice")
    with pytest.raises(InvalidInput):
        await alice.send(Draft((), TOKEN))


async def test_without_its_scanner_the_bus_still_carries_mail(
    party: Party, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A damaged installation of the scanner is logged and reported by `doctor`, and does not prevent sending."""
    detector._scanner.cache_clear()
    (tmp_path / "kingfisher_sdk.py").write_text("raise ImportError('damaged')")
    monkeypatch.delitem(sys.modules, "kingfisher_sdk", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    alice, bob = await party.join("alice"), await party.join("bob")

    await say(alice, "bob", TOKEN)

    assert "not scanned for secrets" in caplog.text
    assert [
        f.ok for f in await examine(Config(party.path), {}, party.path.parent, party.path.parent) if f.name == "secrets"
    ] == [False]
    assert len((await bob.inbox()).messages) == 1


def test_the_command_line_refuses_alike(tmp_path: Path) -> None:
    """`claude-bus send` exits with the documented status and prints one document; `--allow-secret` sends."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "claude_bus", "send", "bob", "--json", *arguments]
        return subprocess.run(
            command, env=environment(tmp_path / "bus.db"), input=TOKEN, capture_output=True, text=True, check=False
        )

    refused, sent = run(), run("--allow-secret")

    assert refused.returncode == 2
    assert json.loads(refused.stdout)["error"] == SecretRefused.code
    assert TOKEN not in refused.stdout + refused.stderr
    assert sent.returncode == 0
