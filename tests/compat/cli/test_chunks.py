"""`claude-bus send-file` and `recv-file`: on our own bus, and on one that speaks the agent-bus protocol."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from claude_bus.compat.cli.chunks import packed
from claude_bus.config import Config
from claude_bus.connect import open_local
from claude_bus.model.identity import Address
from claude_bus.model.messages import Draft
from claude_bus.sql import messages
from tests.support.agent_bus_server import WIRES, environment, post, run
from tests.support.likely_secrets import SECRETS

pytestmark = pytest.mark.slow

NOISE = random.Random(3).randbytes(30_000)
"""Does not get smaller: nine pieces."""


@dataclass(frozen=True)
class Bus:
    """A bus with its users. `url` is "" for our own one of this machine."""

    folder: Path
    url: str

    def run(self, who: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        if self.url:
            return run(environment(self.folder, AGENT_BUS_URL=self.url, AGENT_NAME=who), *arguments)
        return run(environment(self.folder, BUS_NAME=who), *arguments)

    def json(self, who: str, *arguments: str, status: int = 0) -> dict[str, Any]:
        done = self.run(who, *arguments, "--json")
        assert done.returncode == status, done
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def post(self, who: str, bodies: Sequence[str], to: str = "bob") -> None:
        """Send these messages as they are."""
        if self.url:
            for body in bodies:
                post(self.url, to, body, who)
        else:
            anyio.run(self._post, Address(who, "default"), bodies, to)

    async def _post(self, me: Address, bodies: Sequence[str], to: str) -> None:
        async with open_local(Config(self.folder / ".claude-bus" / "bus.db")) as bus:
            for body in bodies:
                await bus.run(messages.send, me, Draft((to,), body, allow_secret=True))

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def out(self, name: str = "out") -> Path:
        return self.folder / name


@contextlib.contextmanager
def _local(_folder: Path) -> Iterator[None]:
    yield None


on_every_bus = pytest.mark.parametrize("bus", ["local", *WIRES], indirect=True)
"""For tests that depend on how a server keeps and pages messages: also on our own, served."""


@pytest.fixture(params=["local", "small"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bus]:
    """Our own bus, or one that speaks the protocol."""
    with WIRES.get(request.param, _local)(tmp_path) as server:
        yield Bus(tmp_path, server.url if server else "")


_CONTENTS = {"empty": b"", "text": b"hello\n", "zeros": b"\0" * 500_000, "noise": NOISE}


@pytest.mark.parametrize(
    ("bus", "name"),
    [*((bus, name) for bus in ("local", "small") for name in _CONTENTS), ("own", "noise")],
    indirect=["bus"],
)
def test_a_file_arrives_as_it_was(bus: Bus, name: str) -> None:
    """Whatever is in it; the reader's copy is the reader's alone."""
    content = _CONTENTS[name]
    sent = bus.json("ann", "send-file", "bob", bus.file("data.bin", content))
    found = bus.json("bob", "recv-file", sent["tag"], "--out", str(bus.out()))

    assert bus.out().read_bytes() == content
    assert bus.out().stat().st_mode & 0o777 == 0o600
    digest = hashlib.sha256(content).hexdigest()
    assert sent == {"tag": f"data.bin-{digest[:8]}", "messages": 9 if content is NOISE else 1, "sha256": digest}
    assert found == {"path": str(bus.out()), "size": len(content), "sha256": digest, "from": "ann"}


def test_the_pieces_are_the_conventions(bus: Bus, tmp_path: Path) -> None:
    """`TAG i/n sha=<sha256>`, a newline, about 5000 characters; together base64 of gzip of the file."""
    pieces = packed("T-1", NOISE)

    digest = hashlib.sha256(NOISE).hexdigest()
    heads, parts = zip(*(piece.split("\n") for piece in pieces), strict=True)
    assert list(heads) == [f"T-1 {number}/9 sha={digest}" for number in range(1, 10)]
    assert max(map(len, parts)) == 5_000
    assert gzip.decompress(base64.b64decode("".join(parts))) == NOISE


@on_every_bus
def test_any_order_any_mail_between_any_number_of_times(bus: Bus) -> None:
    """Pieces come shuffled, doubled, among other mail, with line ends of another system; the file is whole."""
    pieces = packed("T", NOISE)
    random.Random(1).shuffle(pieces)
    pieces[2] = pieces[2].replace("\n", "\r\n") + "\r\n"
    part = pieces[4].split("\n")[1]
    pieces[4] = pieces[4].replace(part, "\n".join(part[i : i + 76] for i in range(0, len(part), 76)))
    noise = ["hello", "T 1/2 is what?", "T 1/9 sha=short\nx", f"U 1/1 sha={'0' * 64}\nx", "Tx 1/9"]
    bus.post("ann", [pieces[0], noise[0], *pieces[:5], *noise[1:], *pieces[5:], pieces[8]])

    bus.json("bob", "recv-file", "T", "--out", str(bus.out()))
    assert bus.out().read_bytes() == NOISE


@on_every_bus
def test_what_lacks_is_named(bus: Bus) -> None:
    """An incomplete file is not written: which pieces are missing is said, and when they came it is there."""
    pieces = packed("T", NOISE)
    bus.post("ann", [*pieces[:3], *pieces[4:8]])
    refused = bus.json("bob", "recv-file", "T", "--out", str(bus.out()), status=3)
    assert refused["message"] == "of 'T' from 'ann' 7 of 9 pieces have come; missing: 4, 9"
    assert not bus.out().exists()

    bus.post("ann", [pieces[3], pieces[8]])
    bus.json("bob", "recv-file", "T", "--out", str(bus.out()))
    assert bus.out().read_bytes() == NOISE


def test_pieces_for_others_are_not_taken(bus: Bus) -> None:
    """A file is for whom it was sent to."""
    bus.post("ann", packed("T", b"for eve"), to="eve")
    assert bus.json("bob", "recv-file", "T", status=3)["message"] == "no piece of 'T' has come to you"
    assert bus.json("ann", "recv-file", "T", status=3)["error"] == "not_found"


@on_every_bus
def test_senders_with_the_same_tag_are_not_mixed(bus: Bus) -> None:
    """Their pieces make a file each; which one is meant has to be said, unless both are the same."""
    first, second = packed("T", NOISE), packed("T", NOISE[::-1])
    mixed = [piece for pair in zip(first, second, strict=True) for piece in pair]
    for number, piece in enumerate(mixed):
        bus.post("ann" if number % 2 == 0 else "eve", [piece])
    refused = bus.json("bob", "recv-file", "T", "--out", str(bus.out()), status=2)
    assert "(ann, eve): choose one with --from" in refused["message"]

    for sender, content in (("ann", NOISE), ("eve", NOISE[::-1])):
        bus.json("bob", "recv-file", "T", "--out", str(bus.out(sender)), "--from", sender)
        assert bus.out(sender).read_bytes() == content


def test_the_newest_of_one_sender_is_taken(bus: Bus) -> None:
    """A file that was sent again under its tag replaces the one before."""
    bus.post("ann", packed("T", b"old"))
    bus.post("ann", packed("T", b"new"))
    bus.json("bob", "recv-file", "T", "--out", str(bus.out()))
    assert bus.out().read_bytes() == b"new"


def _claims(body: bytes, digest: str) -> str:
    return f"T 1/1 sha={digest}\n{base64.b64encode(body).decode()}"


_PACKED = gzip.compress(b"x" * 100)
_DAMAGED = {
    "another file": _claims(gzip.compress(b"y"), hashlib.sha256(b"x").hexdigest()),
    "no gzip": _claims(b"plain", hashlib.sha256(b"plain").hexdigest()),
    "cut off": _claims(_PACKED[:-9], hashlib.sha256(b"x" * 100).hexdigest()),
    "more behind": _claims(_PACKED + _PACKED, hashlib.sha256(b"x" * 200).hexdigest()),
    "a broken checksum": _claims(_PACKED[:-8] + bytes(8), hashlib.sha256(b"x" * 100).hexdigest()),
    "no base64": f"T 1/1 sha={'0' * 64}\n%%%%",
}


@pytest.mark.parametrize("damage", _DAMAGED)
def test_what_is_damaged_is_refused(bus: Bus, damage: str) -> None:
    """A file that is not the very one the sender named is not written."""
    bus.post("ann", [_DAMAGED[damage]])
    refused = bus.json("bob", "recv-file", "T", "--out", str(bus.out()), status=2)
    assert "damaged" in refused["message"]
    assert not bus.out().exists()


def test_a_bomb_is_not_unpacked(bus: Bus) -> None:
    """A few messages that hold gigabytes are refused at the limit, without taking the memory."""
    bomb = gzip.compress(bytes(200 * 1024 * 1024))
    data = base64.b64encode(bomb).decode()
    parts = [data[i : i + 60_000] for i in range(0, len(data), 60_000)]
    bus.post("eve", [f"T {n}/{len(parts)} sha={'0' * 64}\n{part}" for n, part in enumerate(parts, 1)])
    assert bus.json("bob", "recv-file", "T", "--out", str(bus.out()), status=2)["error"] == "too_large"
    assert not bus.out().exists()


def test_nothing_is_overwritten_unless_forced(bus: Bus) -> None:
    """A file, folder or link that is there stays, and where a link points nothing is written, forced or not."""
    bus.post("ann", packed("T", b"new"))
    taken, target, link = bus.out("taken"), bus.out("target"), bus.out("link")
    taken.write_text("mine")
    link.symlink_to(target)
    for path in (taken, link):
        assert "--force" in bus.json("bob", "recv-file", "T", "--out", str(path), status=2)["message"]
    assert (taken.read_text(), target.exists()) == ("mine", False)

    for path in (taken, link):
        bus.json("bob", "recv-file", "T", "--out", str(path), "--force")
        assert path.read_text() == "new"
    assert not target.exists()
    for odd in (bus.folder, Path("/dev/null"), bus.folder / "no" / "folder"):
        bus.json("bob", "recv-file", "T", "--out", str(odd), "--force", status=2)
    assert Path("/dev/null").is_char_device()
    assert [p.name for p in bus.folder.glob(".*.part")] == []


@pytest.mark.parametrize("tag", ["../T", "/tmp/T", ".T", "a\\T", "c:T"])
def test_a_tag_names_no_place(bus: Bus, tag: str) -> None:
    """Without --out a tag that could lead out of this folder is refused; with it, it is a tag like any."""
    bus.post("ann", packed(tag, b"x"))
    assert "--out" in bus.json("bob", "recv-file", tag, status=2)["message"]
    bus.json("bob", "recv-file", tag, "--out", str(bus.out()))


def test_a_secret_in_a_file_is_refused(bus: Bus) -> None:
    """A packed secret can no longer be seen, so the file itself is checked; --allow-secret sends it."""
    path = bus.file("key", SECRETS["rsa key"].encode())
    assert bus.json("ann", "send-file", "bob", path, status=2)["error"] == "secret_refused"
    assert bus.json("bob", "recv-file", "key", status=3)["error"] == "not_found"
    bus.json("ann", "send-file", "bob", path, "--allow-secret", "--tag", "key")
    bus.json("bob", "recv-file", "key", "--out", str(bus.out()))


@pytest.mark.parametrize("tag", ["two words", "", "x" * 101, "a\x07b"])
def test_a_tag_has_its_form(bus: Bus, tag: str) -> None:
    """It is one printable word: pieces are recognized by it."""
    path = bus.file("x", b"x")
    expected = 0 if not tag else 2  # none given: it is made from the name
    assert bus.run("ann", "send-file", "bob", path, "--tag", tag).returncode == expected
    assert bus.run("bob", "recv-file", tag).returncode == 2


def test_what_is_no_file_is_not_sent(bus: Bus) -> None:
    """A folder, a device, or nothing at all: status 2."""
    for path in (str(bus.folder), "/dev/zero", str(bus.folder / "nothing")):
        assert bus.run("ann", "send-file", "bob", path).returncode == 2


# -- what only our own bus can do --------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Bus:
    return Bus(tmp_path, "")


def _unread(own: Bus) -> list[str]:
    return [m["content"][:20] for m in own.json("bob", "inbox", "--peek")["messages"]]


def test_other_mail_stays_unread_and_pieces_do_not(own: Bus) -> None:
    """The file's pieces are acknowledged once it is written, and only then; whatever else waits goes on waiting."""
    own.post("ann", ["before"])
    sent = own.json("ann", "send-file", "bob", own.file("x", b"x"))
    own.post("ann", ["after"])
    own.out().write_text("in the way")
    own.json("bob", "recv-file", sent["tag"], "--out", str(own.out()), status=2)
    assert len(_unread(own)) == 3

    own.json("bob", "recv-file", sent["tag"], "--out", str(own.out()), "--force")
    assert _unread(own) == ["before", "after"]


def test_a_file_can_be_taken_again(own: Bus) -> None:
    """A piece that was acknowledged is not gone."""
    sent = own.json("ann", "send-file", "bob", own.file("x", b"x"))
    for name in ("one", "two"):
        own.json("bob", "recv-file", sent["tag"], "--out", str(own.out(name)))
        assert own.out(name).read_bytes() == b"x"


def test_pieces_wake_nobody(own: Bus) -> None:
    """They are sent as fyi: no session is woken for a piece of a file."""
    own.json("ann", "send-file", "bob", own.file("x", b"x"))
    assert [m["kind"] for m in own.json("bob", "inbox", "--peek")["messages"]] == ["fyi"]


def test_a_file_is_not_sent_into_a_database_that_nobody_looks_into(own: Bus) -> None:
    """With --as our own bus is meant, and where BUS_URL says that it is elsewhere, this machine has none."""
    env = environment(own.folder, BUS_URL="https://bus.example.org")
    for command in (["send-file", "bob", own.file("x", b"x")], ["recv-file", "x"]):
        refused = run(env, *command, "--as", "ann")
        assert refused.returncode == 2
        assert b"https://bus.example.org: run this there, or name the database with --db" in refused.stderr
    assert not (own.folder / ".claude-bus").exists()

    database = ["--db", str(own.folder / "bus.db")]
    sent = json.loads(run(env, "send-file", "bob", own.file("x", b"x"), "--as", "ann", "--json", *database).stdout)
    run(env, "recv-file", sent["tag"], "--as", "bob", "--out", str(own.out()), *database)
    assert own.out().read_bytes() == b"x"
