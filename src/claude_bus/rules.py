"""The rules of the bus as pure functions: values in, values or a `BusError` out."""

from __future__ import annotations

import difflib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate

from . import jsons
from .errors import Forbidden, InvalidInput, RateLimited, TooLarge
from .model import KINDS, Address, Agent, Draft, File, Grant, Place
from .names import BROADCASTS, MAX_NAME, check_name, check_new_name, cleaned, looks_like
from .patterns import is_glob, normalize, plain, wildcards

__all__ = ["BROADCASTS", "MAX_NAME", "check_name", "check_new_name", "looks_like"]

DEFAULT_CHANNEL = "default"
MAX_CONTENT_BYTES = 65_536
MAX_VALUE_BYTES = 262_144
MAX_ROLE = 200
MAX_OWNS = 100
"""Globs that one name owns."""
MAX_PATH = 1_000
"""Characters of a path as somebody writes it, to claim or to own it."""
MAX_GLOB = 500
"""Characters of a path with wildcards."""
MAX_WILDCARDS = 10
MAX_PLACES = 200
"""Paths in one request."""
MAX_CLAIMS = 1_000
"""Claims of one name."""
MAX_GLOB_CLAIMS = 100
"""And as many with wildcards."""
MAX_CHANNEL_CLAIMS = 5_000
"""Claims on one channel, of all together."""
MAX_CHANNEL_GLOB_CLAIMS = 500
MAX_EFFORT = 200_000
"""Steps that one verb spends on comparing patterns, see `patterns.Effort`: each takes about a microsecond."""
MAX_DOING = 80
"""Characters of a prompt that peers see, if its user shares prompts."""
MAX_RECIPIENTS = 200
MAX_RECIPIENT_GLOBS = 10
"""And as many of them with wildcards."""
MAX_TAGS = 100
MAX_GUESSES = 2
"""Unknown recipients of a message for whom the name is looked for that was probably meant."""
MAX_CANDIDATES = 200
"""Names among which it is looked for: those seen last."""
MAX_FILES = 20
MAX_SEARCH = 1_000
MAX_PATH_BYTES = 4_096
MAX_PATH_ON_DISK = 32_768
"""Characters of a path that some system can have, with detours; no edit goes to a longer one."""
MAX_ABOVE = 8
"""Repositories that one lies in."""
MAX_CLAIM_TTL = 30 * 86_400.0
MAX_TTL = 365 * 86_400.0
MAX_TOKEN_TTL = 10 * 365 * 86_400.0
MAX_REPLIES = 20
"""Answers that the status of a message shows."""
MAX_ANSWER = 1_000_000
"""Characters of messages or values in one answer; the first comes whatever its size."""
MAX_AT_ONCE = 1_000
"""Messages, or versions of a key, in one answer."""
MAX_PROBLEMS = 100
"""Invalid parts of a request up to which it is looked which they are: that takes longer than to find them."""
MAX_NAMES = 2_000
"""Names on one channel that no session bears: those of programs, and of sessions that ended."""
MAX_NAMES_OF_TOKEN = 500
"""Of these, names that one token is for, unless it is for all."""
MAX_LEFT = 10_000
"""Names on one channel that left and are not forgotten yet."""
MAX_LEFT_OF_TOKEN = 2_500
"""Of these, names that one token is for, unless it is for all."""
MAX_EXPECTED = 10_000
"""Names on one channel under which nobody ever came, and for which mail waits."""
MAX_INBOXES = 10_000
"""Names in one answer that says how much mail waits for whom."""
MAX_RETAINED = 200
"""Earlier broadcasts that somebody who joins gets, the newest."""
MAX_SETTLED = 5_000
"""Messages that one request says to have had, or not."""
MAX_KEYS = 10_000
"""State keys of one channel."""
MAX_WAIT = 3_600.0
RETENTION = 30 * 86_400.0
"""Seconds that read messages and journal rows are kept."""
SILENCE = 90 * 86_400.0
"""Seconds that mail waits for somebody who is not heard of."""
READER_SILENCE = 30 * 86_400.0
"""And broadcasts for one who was never a session, and only read and sent over the wires of the earlier systems."""

IN_USE = 7 * 86_400.0
"""Seconds for which the bus must have been in use before anybody's silence counts."""

RING_AFTER = (0.0, 30.0, 120.0)
"""Seconds since the last ring after which a batch may ring for the 1st, 2nd, 3rd time."""
WAKE_EVERY = (6.0, 60.0)
"""Seconds of a session's time that one wake is worth, for mail of sessions and for mail of programs."""
WAKE_BURST = (20, 6)
"""Wakes in a row before the next has to wait for that, for mail of sessions and for mail of programs."""
NEWS = 3_600.0
"""Seconds for which a broadcast is news to somebody who joins later; older ones wait in the inbox."""
PROGRAM_PRESENT = 180.0
"""Seconds since a program's last request for which it counts as one that asks for its mail."""
GONE = 7 * 86_400.0
"""Seconds without a sign of life after which a name is left out where agents are listed."""
MAX_CONTINUATIONS = 3
"""Turns in a row that the Stop hook may continue because of mail."""
MAX_HOPS = 10
"""Messages that may lead to one another without work or a user's word between, and still wake their recipients."""
MAX_TALK = 30
"""As many of them at most: the next is refused."""
RATE_WINDOW = 60.0
"""Seconds over which a session's messages are counted."""
EDIT_CLAIM = 300.0
"""Seconds for which an edit claims its file."""
REFUSAL_LASTS = 600.0
"""Seconds within which an edit that was refused goes through when it is repeated."""
CALL_LASTS = 86_400.0
"""Seconds after which a call that a hook announced is over, or was never made."""
FOREIGN_HOST_SILENCE = 180.0
"""Seconds without a heartbeat after which a session counts as gone that cannot be asked after."""

_TICK = 1e-6
_SHA256 = re.compile("[0-9a-f]{64}")


def check_line(text: str, what: str, limit: int = MAX_ROLE) -> str:
    """One line of printable text of at most `limit` characters, or `InvalidInput`."""
    if len(text) > limit or not text.isprintable():
        raise InvalidInput(f"{what} must be one printable line of at most {limit} characters")
    return text


def check_owns(globs: Sequence[str] | None) -> tuple[str, ...] | None:
    """What an agent says that it owns, each one printable line; None for what it said before."""
    if globs is None:
        return None
    if len(globs) > MAX_OWNS:
        raise InvalidInput(f"owns has {len(globs)} globs, the limit is {MAX_OWNS}: name the folders that they are in")
    return tuple(check_glob(check_line(glob, "owns", MAX_PATH), "owns") for glob in globs)


def check_glob(pattern: str, what: str) -> str:
    """A pattern that costs little to compare with others."""
    if not is_glob(plain(pattern, "")):
        return pattern
    if len(pattern) > MAX_GLOB:
        raise InvalidInput(
            f"{what}: {pattern[:80]!a} has {len(pattern)} characters, the limit for one with wildcards is {MAX_GLOB}: "
            "name the folder that it is in"
        )
    count = wildcards(pattern)
    if count > MAX_WILDCARDS:
        raise InvalidInput(
            f"{what}: {pattern[:80]!a} has {count} wildcards, the limit is {MAX_WILDCARDS}: name the folder that it is "
            "in, or several paths"
        )
    return pattern


def check_utf8(text: str, what: str, limit: int, way_out: str) -> str:
    """Text that can be stored as UTF-8 in at most `limit` bytes."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"{what} holds half a surrogate pair; send valid Unicode text") from None
    if size > limit:
        raise TooLarge(f"{what} is {size} bytes, the limit is {limit}: {way_out}", size=size, limit=limit)
    return text


def check_draft(draft: Draft) -> Draft:
    """The draft, if everything about it that needs no database is valid."""
    check_recipient_count(len(draft.to))
    globs = sum(is_name_glob(name) for name in draft.to)
    if globs > MAX_RECIPIENT_GLOBS:
        raise InvalidInput(
            f"to has {globs} globs, the limit is {MAX_RECIPIENT_GLOBS}: put what they stand for into one"
        )
    if draft.kind not in KINDS:
        raise InvalidInput(f"kind {draft.kind!a} is unknown: use {', '.join(KINDS)}")
    if not draft.content and not draft.files:
        raise InvalidInput("content is empty: say something")
    check_utf8(
        draft.content,
        "content",
        MAX_CONTENT_BYTES,
        "put it into a file and name that in files, which sends its path and sha256",
    )
    if len(draft.tags) > MAX_TAGS:
        raise InvalidInput(f"tags has {len(draft.tags)} entries, the limit is {MAX_TAGS}: say the rest in content")
    for tag in draft.tags:
        check_line(tag, "a tag", MAX_NAME)
    if draft.ttl is not None:
        check_seconds(draft.ttl, "ttl", MAX_TTL)
    check_line(draft.key, "key")
    check_file_count(len(draft.files))
    for file in draft.files:
        check_file(file)
    return draft


def check_recipient_count(count: int) -> None:
    """As many as one message may have."""
    if not 1 <= count <= MAX_RECIPIENTS:
        raise InvalidInput(f"to must name 1 to {MAX_RECIPIENTS} recipients: a name, a list, a glob, or 'all'")


def check_file_count(count: int) -> None:
    """At most as many files as a message may name."""
    if count > MAX_FILES:
        raise InvalidInput(f"files has {count} entries, a message names at most {MAX_FILES}: put them into an archive")


def check_file(file: File) -> File:
    """A file as it can be stored: its path is text, its digest is one."""
    check_utf8(file.path, f"files: the path {file.path[:200]!a}", MAX_PATH_BYTES, "give the file a shorter one")
    check_line(file.host, "a file's host", 255)
    if not file.path or "\0" in file.path or file.size < 0 or not _SHA256.fullmatch(file.sha256):
        raise InvalidInput(f"files: {file.path[:200]!a} has no valid path, size or sha256")
    return file


def check_seconds(value: float, what: str, limit: float) -> float:
    """A positive, finite number of seconds up to `limit`."""
    if not (math.isfinite(value) and 0 < value <= limit):
        raise InvalidInput(f"{what} must be more than 0 and at most {limit:.0f} seconds")
    return value


def parse_seconds(text: str) -> float:
    """`90`, `90s`, `30m`, `2h`, `1d` as seconds; a `ValueError` for what is none of these."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86_400}.get(text.strip()[-1:].lower())
    try:
        return float(text.strip()[:-1] if unit else text) * (unit or 1)
    except ValueError:
        raise ValueError("give seconds, or a number with s, m, h or d such as '30m'") from None


def check_key(key: str) -> str:
    """A valid state key: one printable line of 1 to 200 characters."""
    if not key:
        raise InvalidInput("key is empty: name the state entry")
    return check_line(key, "key")


def check_key_count(count: int, channel: str) -> None:
    """Raise `TooLarge` if there are as many keys as there may be, and one more is to come."""
    if count >= MAX_KEYS:
        raise TooLarge(
            f"channel '{channel}' has {count} state keys, the limit is {MAX_KEYS}: delete some, or keep several values "
            "in one, as JSON",
            size=count,
            limit=MAX_KEYS,
        )


def check_values_size(size: int) -> None:
    """Raise `TooLarge` for more values than one answer has."""
    if size > MAX_ANSWER:
        raise TooLarge(
            f"these values have {size} characters together, one answer at most {MAX_ANSWER}: ask for the keys without "
            "their values (list_state), then for one by one, or for those with a prefix",
            size=size,
            limit=MAX_ANSWER,
        )


def at_most(limit: int, most: int) -> int:
    """How many are given to somebody who asks for `limit`, whatever that says."""
    return max(0, min(limit, most))


def carried(sizes: Iterable[int], most: int = 0) -> int:
    """How many of things with these sizes an answer of `most` characters (`MAX_ANSWER`) carries: the first, and those
    that fit with it."""
    return max(1, sum(size <= (most or MAX_ANSWER) for size in accumulate(sizes)))


def check_value(value: str) -> str:
    """A value that fits: at most 256 KB of UTF-8."""
    return check_utf8(value, "value", MAX_VALUE_BYTES, "store a path and sha256 instead")


def check_json(value: str) -> str:
    """A value declared as JSON that is JSON, with no more values and levels than everybody can read."""
    jsons.check(value.encode(errors="replace"), "value", jsons.MAX_VALUE_DEPTH)
    try:
        json.loads(value, parse_constant=_no_json)
    except (ValueError, RecursionError):
        raise InvalidInput("value is no JSON; store it as text (json: false)") from None
    return value


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not in JSON")


def check_search(search: str) -> str:
    """What to look for in messages: a text of at most 1,000 characters."""
    if len(search) > MAX_SEARCH:
        raise InvalidInput(
            f"search has {len(search)} characters, at most {MAX_SEARCH} can be looked for: take a few words"
        )
    return search


def mentions(content: str, search: str) -> bool:
    """Whether a text has the other in it, whatever the case of ASCII letters.

    The time is that of reading both, whatever they are; SQLite's LIKE multiplies it with the length of what it looks
    for where the text repeats the beginning of that.
    """
    return search.encode().lower() in content.encode().lower()


# -- files in pieces ---------------------------------------------------------------

CHUNK = 5_000
"""Characters of a file, packed as base64, that go into one message."""
MAX_CHUNKS = 5_000
MAX_FILE_BYTES = 64 * 1024 * 1024
"""The largest file that is sent or taken in pieces."""


def check_tag(tag: str) -> str:
    """A valid tag of a file sent in pieces: 1 to 100 printable characters without a space, or `InvalidInput`."""
    if not tag or len(tag) > 100 or not tag.isprintable() or " " in tag:
        raise InvalidInput(f"tag {tag[:100]!a} is not valid: use 1-100 printable characters without spaces")
    return tag


# -- addresses ------------------------------------------------------------------


def parse_address(text: str, channel: str, what: str = "recipient") -> Address:
    """`name` or `name@channel`; the part before the `@` may be a glob or a broadcast word. `what` it is, for errors."""
    name, at, other = text.strip().partition("@")
    if at:
        check_name(other, "channel")
    if not name:
        raise InvalidInput(f"{what} {text[:80]!a} has no name: use name or name@channel")
    if name in BROADCASTS:
        return Address("all", other or channel)
    if not is_name_glob(name):
        check_name(name, what)
    elif len(name) > MAX_NAME:
        raise InvalidInput(f"{what} {name[:80]!a} is a glob of more than {MAX_NAME} characters: make it shorter")
    return Address(name, other or channel)


def is_name_glob(name: str) -> bool:
    return any(c in name for c in "*?[")


def select(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a glob stands for, sorted."""
    return sorted(name for name in names if fnmatchcase(name, pattern))


def similar(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, or ''."""
    by_fold = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[close[0]] if close else ""


def free_name(wanted: str, taken: Iterable[str]) -> str:
    """`wanted`, or `wanted-2`, `wanted-3`, ...: the first that is not taken."""
    used = set(taken)
    if wanted not in used:
        return wanted
    numbers = (n for n in range(2, len(used) + 3) if f"{wanted[: MAX_NAME - 5]}-{n}" not in used)
    return f"{wanted[: MAX_NAME - 5]}-{next(numbers)}"


def folder_name(root: str, branch: str, otherwise: str = "session") -> str:
    """The name a session has before it registers: its folder, and its branch if special.

    `otherwise` where that is no name, or one that nobody can take.
    """
    parts = [re.split(r"[/\\]", root.rstrip("/\\"))[-1]]
    if branch not in ("", "main", "master"):
        parts.append(branch)
    words = "-".join(parts)
    name = re.sub(r"-{2,}", "-", cleaned(unicodedata.normalize("NFC", words), "-"))
    name = cleaned(name.strip("-._:+~#")[:MAX_NAME])
    try:
        return check_new_name(name, ())
    except InvalidInput:
        return otherwise


def is_gone(agent: Agent, now: float) -> bool:
    """Whether a name is left out where agents are listed: nobody has been heard under it for a week."""
    return agent.status == "offline" and now - agent.last_seen > GONE


# -- what a token permits --------------------------------------------------------


def permits(grant: Grant, who: Address) -> bool:
    """Whether the grant lets its bearer be `who`."""
    return _among(who.name, grant.names) and permits_channel(grant, who.channel)


def permits_channel(grant: Grant, channel: str) -> bool:
    """Whether the grant lets its bearer use `channel`, under whichever name."""
    return _among(channel, grant.channels)


def require(grant: Grant, who: Address) -> Address:
    """`who`, if the bearer of the grant may be that; "" as its name is anybody who only looks. Else `Forbidden`."""
    require_channel(grant, who.channel)
    if who.name and not _among(who.name, grant.names):
        raise Forbidden(
            f"the token of '{grant.owner}' is not for the name '{who.name}'; it may use {', '.join(grant.names)}",
            name=who.name,
            names=list(grant.names),
        )
    return who


def require_channel(grant: Grant, channel: str) -> str:
    """`channel`, if the bearer of the grant may use it, else `Forbidden`."""
    if not permits_channel(grant, channel):
        raise Forbidden(
            f"the token of '{grant.owner}' is not for the channel '{channel}'; it may use {', '.join(grant.channels)}",
            channel=channel,
        )
    return channel


def require_recipients(grant: Grant, to: Sequence[str], channel: str) -> None:
    """Raise `Forbidden` if one of the recipients, as addressed from `channel`, is on another than permitted;
    `InvalidInput` for more of them than one message has."""
    check_recipient_count(len(to))
    for recipient in to:
        require_channel(grant, parse_address(recipient, channel).channel)


def permitted_name(grant: Grant, name: str) -> str:
    """`name`, or what a pattern of the grant makes of it: `alice-*` makes `alice-shop` of `shop`."""
    made = (pattern.replace("*", name) for pattern in grant.names if pattern.count("*") == 1)
    names = (name, *(candidate[:MAX_NAME] for candidate in made))
    return next((candidate for candidate in names if _among(candidate, grant.names)), name)


def check_patterns(patterns: Sequence[str], what: str) -> tuple[str, ...]:
    """What a token is for: at least one, each a name in which `*` and `?` stand for other characters."""
    if not patterns:
        raise InvalidInput(f"{what} must name at least one, such as 'anna-*', or '*' for all")
    for pattern in patterns:
        try:
            check_name(pattern.replace("*", "a").replace("?", "a"), what)
        except InvalidInput:
            if not is_name_glob(pattern):
                raise
            raise InvalidInput(
                f"{what} {pattern[:80]!a} is not valid: each is a name, in which * and ? may stand for other characters"
            ) from None
    return tuple(patterns)


def _among(value: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


# -- time -----------------------------------------------------------------------


def next_ts(now: float, last: float) -> float:
    """A timestamp later than every earlier one, also when the clock jumped back.

    Readers with a time cursor (`ts > since`) rely on it.
    """
    return max(now, last + _TICK, math.nextafter(last, math.inf))


def rings(kind: str, broadcast: bool, urgent: bool, hops: int) -> bool:
    """Whether a message is a reason to wake an idle session.

    Direct mail is; a broadcast only if urgent; an `fyi` never; and nothing that is one
    more word in a talk that nobody works in.
    """
    return kind != "fyi" and (urgent or not broadcast) and hops < MAX_HOPS


def check_hops(hops: int) -> None:
    """Raise `RateLimited` when sessions have only talked for too long.

    A session elsewhere says itself how long it talked. One that lies gains nothing but `WAKE_BURST` wakes.
    """
    if hops < 0:
        raise InvalidInput("hops counts messages, so it cannot be negative")
    if hops >= MAX_TALK:
        raise RateLimited(
            f"{hops} messages in a row led to one another, without work or a word of a user between: this one is "
            "refused. End your turn, or do some work first; your user can tell you to go on",
            hops=hops,
        )


def check_rate(count: int, limit: int, oldest: float, now: float, to: str) -> None:
    """Raise `RateLimited` if `count` messages, the oldest sent at `oldest`, are all that `limit` allows."""
    if count >= limit:
        wait = max(1, math.ceil(oldest + RATE_WINDOW - now))
        raise RateLimited(
            f"{count} messages{to} in the last minute, the limit is {limit}: nothing was sent. Say it in one message, "
            f"or wait {wait} s (BUS_RATE sets the limit)",
            retry_after=wait,
        )


def ring_due(rings: int, since_last: float) -> bool:
    """Whether a batch that rang `rings` times, last `since_last` seconds ago, rings (again)."""
    return rings < len(RING_AFTER) and since_last >= RING_AFTER[rings]


def wake_wait(spent: float, now: float, *, by_program: bool) -> float:
    """Seconds until a session may be woken, whose wakes are spent until `spent`; 0 for now.

    A wake starts a turn of the model, which somebody pays for. After a burst each costs its time, so a loop
    of messages has a bound whoever writes them. A time that only a clock set back explains does not count.
    """
    every, burst = WAKE_EVERY[by_program], WAKE_BURST[by_program]
    ahead = spent - now
    return max(0.0, ahead - every * (burst - 1)) if ahead <= every * burst else 0.0


def wake_spent(spent: float, now: float, *, by_program: bool) -> float:
    """Until when wakes are spent after one more."""
    every = WAKE_EVERY[by_program]
    within = now <= spent <= now + every * WAKE_BURST[by_program]
    return (spent if within else now) + every


# -- claims ---------------------------------------------------------------------

_RESOURCE = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]+:(?![/\\])\S*")


def is_resource(path: str) -> bool:
    """`port:8080`, `gpu:0`, `branch:main`: a thing to hold that is no path.

    One letter before the colon is a drive, and `x://` an address of something else.
    """
    return _RESOURCE.fullmatch(path) is not None


def check_path(path: str) -> str:
    """A claimable pattern in its one spelling, or `InvalidInput`."""
    if not path or len(path) > MAX_PATH or not path.isprintable():
        raise InvalidInput(
            f"path must be a printable path, glob or resource name of 1 to {MAX_PATH} characters; several go in a list"
        )
    if is_resource(path):
        return path
    return check_glob(normalize(path) or ".", "path")


def check_name_count(count: int, limit: int, of: str) -> None:
    """Raise `TooLarge` if there are as many names as there may be, and one more is to come."""
    if count >= limit:
        raise TooLarge(
            f"{of} has {count} names that no session bears, the limit is {limit}: use one that is there, or let some "
            "leave (DELETE /v1/agents/NAME)",
            size=count,
            limit=limit,
        )


def check_left_count(count: int, limit: int, of: str) -> None:
    """Raise `TooLarge` if as many names have left as may be kept, and one more is to come."""
    if count >= limit:
        raise TooLarge(
            f"{of} has {count} names that left, the limit is {limit}: use one of them again; they are forgotten when "
            f"they were silent for {SILENCE / 86_400:.0f} days and have no mail",
            size=count,
            limit=limit,
        )


def check_expected_count(count: int, channel: str) -> None:
    """Raise `TooLarge` for more names without anybody behind them than mail may wait for."""
    if count > MAX_EXPECTED:
        raise TooLarge(
            f"mail on channel '{channel}' would wait for {count} names that nobody ever had, the limit is "
            f"{MAX_EXPECTED}: nothing was sent. agents() lists who is here",
            size=count,
            limit=MAX_EXPECTED,
        )


def check_message_count(count: int) -> None:
    """At most as many messages as one request may settle."""
    if count > MAX_SETTLED:
        raise InvalidInput(f"{count} messages at once, the limit is {MAX_SETTLED}: settle them in several requests")


MACHINE = "host:"
"""Begins the scope of an absolute path on one machine."""


def is_machine(scope: str) -> bool:
    """Whether the paths of this scope are absolute ones of one machine."""
    return scope.startswith(MACHINE)


def check_place(place: Place) -> None:
    """A place as it is stored: what a folder before it made longer may be longer than what somebody wrote."""
    check_place_size(place)
    for scope, path in ((place.scope, place.path), *place.above):
        check_line(scope, "a claim's scope", MAX_PATH_BYTES)
        check_line(path, "path", MAX_PATH_BYTES)
        if scope or not is_resource(path):
            check_glob(path, "path")


def check_place_size(place: Place) -> None:
    """Not more spellings than folders above have repositories, and no longer paths than files have."""
    if len(place.above) > MAX_ABOVE:
        raise InvalidInput(f"path: {len(place.above)} repositories above one another, the limit is {MAX_ABOVE}")
    if any(len(text) > 3 * MAX_PATH_BYTES for spelling in (place[:3], *place.above) for text in spelling):
        raise InvalidInput(f"path must have at most {MAX_PATH_BYTES} characters")


def check_place_count(count: int) -> None:
    """At most as many as one request may name."""
    if count > MAX_PLACES:
        raise InvalidInput(
            f"{count} paths at once, the limit is {MAX_PLACES}: name the folder they are in, a glob, or fewer at a time"
        )


def check_claim_count(count: int, limit: int, of: str, what: str) -> None:
    """Raise `InvalidInput` for more claims than there may be."""
    if count > limit:
        raise InvalidInput(
            f"that would make {count} {what} {of}, the limit is {limit}: release some, or claim the folder they are "
            "in. Nothing was claimed"
        )


# -- values ---------------------------------------------------------------------


def dump_list(items: Sequence[str]) -> str:
    """A list as a database column or a program reads it."""
    return json.dumps(list(items), ensure_ascii=False)


def load_list(column: str | None) -> tuple[str, ...]:
    """The list in a column; anything else (a foreign or damaged value) is an empty one."""
    try:
        value = jsons.loads(column or "[]")
    except ValueError:
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else ()
