"""Names: they exist in every script, and none can be mistaken for another agent's."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from claude_bus import addresses, names
from claude_bus.errors import InvalidInput
from claude_bus.model.identity import Address
from claude_bus.sql import agents
from tests.support.sessions import Party, prompt_hook
from tests.support.store import Store

WORDS = {
    "Hindi": "हिन्दी",
    "Bengali": "বাংলা",
    "Gujarati": "ગુજરાતી",
    "Tamil": "தமிழ்",
    "Telugu": "తెలుగు",
    "Malayalam": "മലയാളം",
    "Sinhala": "සිංහල",
    "Thai": "น้ำ-ไทย",
    "Lao": "ລາວ",
    "Khmer": "ភាសាខ្មែរ",
    "Burmese": "မြန်မာ",
    "vowelled Arabic": "العَرَبِيَّة",
    "vowelled Hebrew": "עִבְרִית",
    "Persian with a non-joiner": "می\u200cخواهم",
    "Sanskrit with a joiner": "क्\u200dष",
    "Vietnamese": "Tiếng-Việt",
    "Russian beside Latin": "сервис-api",
    "Japanese beside Latin": "apiサーバー",
    "Greek": "κατάλογος",
}


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
def test_every_script_has_names(word: str) -> None:
    """A name may contain the marks and joiners of its script; a folder with that name yields exactly that name."""
    name = unicodedata.normalize("NFC", word)

    assert names.check_new_name(name, ["api", "backend"]) == name
    assert addresses.parse_address(f"{name}@{name}", "default") == Address(name, name)
    assert addresses.folder_name(f"/home/me/{name}", "") == name


@pytest.mark.parametrize(
    "name",
    [
        "\u0301a",
        "a-\u0301",
        "a" + "\u0323\u0334\u0335\u0336\u0337\u0338\u0327",
        "a\u200db",
        "a\u200cb",
        "क्\u200d",
        "\u200dक",
    ]
    + [
        f"a{unseen}b"
        for unseen in "\u034f\u115f\u1160\u17b4\u180b\u2800\u3164\ufe0f\uffa0\U000e0100\U000e0041\u00ad\u2063"
    ],
)
def test_a_name_has_no_letter_that_is_not_seen(name: str) -> None:
    """Marks without a letter, too many of them, joiners that join nothing, and blank letters are refused."""
    with pytest.raises(InvalidInput):
        names.check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("user", "User", "USER", "the-user", "u.s.e.r", "system", "System", "assistant", "human", "developer"),
        *("operator", "anthropic", "claude-bus", "system-reminder", "ｕｓｅｒ", "𝐮𝐬𝐞𝐫", "υѕеr"),
    ],
)
def test_nobody_passes_as_the_user_the_model_or_the_bus(name: str) -> None:
    """Case, separators and alphabet make no difference."""
    with pytest.raises(InvalidInput, match=r"reserved|look"):
        names.check_new_name(name, ())


@pytest.mark.parametrize(
    "name", ["user-service", "users-api", "system-tests", "claude", "codex", "humana", "assistants"]
)
def test_ordinary_names_stay_free(name: str) -> None:
    """A longer name that contains a reserved word describes a role, and is permitted."""
    assert names.check_new_name(name, ()) == name


@pytest.mark.parametrize("name", ["bаckend", "аpi", "Ωmega", "сервисX"])
def test_letters_of_two_scripts_that_look_alike_make_no_word(name: str) -> None:
    """A reader could not tell which letters they are."""
    with pytest.raises(InvalidInput, match="letters in one word"):
        names.check_new_name(name, ())


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("асе", "ace"),
        ("ａｐｉ", "api"),
        ("𝐚𝐩𝐢", "api"),
        ("ΑΡΙ", "API"),
        ("می\u200cخواهم", "میخواهم"),
        ("कa१", "कa1"),
        ("ꓮꓑꓲ", "API"),
    ],
)
def test_a_name_that_looks_like_another_is_refused(name: str, taken: str) -> None:
    """The check works in both directions; two names that look different are two names."""
    for one, other in ((name, taken), (taken, name)):
        with pytest.raises(InvalidInput, match="looks like"):
            names.check_new_name(one, ["else", other])
    assert names.check_new_name(name, ["else"]) == name


def test_names_that_differ_in_ascii_are_two() -> None:
    """They have always been different names."""
    assert names.check_new_name("api-l", ["api-1", "API-L"]) == "api-l"


# -- registration ----------------------------------------------------------------------------------


def test_a_program_cannot_take_what_is_somebody_elses(store: Store) -> None:
    """This includes names to which mail was already sent; but an agent that already has such a name keeps it."""
    ace = store.join("ace")
    for name in ("user", "асе"):
        store.send(ace, name)
        with pytest.raises(InvalidInput):
            store(agents.join_without_session, Address(name, "default"), "test")
    store.connection.execute("INSERT INTO agents (name, registered, last_seen) VALUES ('system', 1, 1)")

    store(agents.join_without_session, Address("system", "default"), "test")
    assert "system" in store.send(ace, "system").to


def test_a_session_cannot_rename_itself_to_what_is_somebody_elses(store: Store) -> None:
    """An agent that already has a name is refused like a newcomer, and keeps its name."""
    store.join("ace")
    bob = store.join("bob")
    for name, channel in (("user", ""), ("System", ""), ("асе", ""), ("\u0430lpha", ""), ("assistant", "web")):
        with pytest.raises(InvalidInput):
            store(agents.register, store.clients[bob].key, Address(name, channel or "default"), "", None)
    assert {agent.name for agent in store(agents.listing, "default", None)} == {"ace", "bob"}
    assert store.rename(bob, "robert").name == "robert"


@pytest.mark.anyio
async def test_a_session_that_is_given_such_a_name_is_told_and_listed(tmp_path: Path) -> None:
    """A session with BUS_NAME=user takes part under another name, and is told why."""
    party = Party(tmp_path / "bus.db")
    session = party.session(name="user")
    found = await session.presence.attach()
    told = await prompt_hook(session, "s", "p1", "default")
    with pytest.raises(InvalidInput, match="reserved"):
        await session.register("System")
    await party.close()

    assert (found.registered, found.address.name) == (False, "shop")
    assert told.context.startswith("BUS_NAME: name 'user' is reserved")


@pytest.mark.parametrize(
    ("folder", "name"), [("/home/user", "session"), ("/srv/system", "session"), ("/x/bаck", "session")]
)
def test_a_folder_makes_nobody_pass_as_another(folder: str, name: str) -> None:
    """A session is listed under its folder's name only if it could register that name."""
    assert addresses.folder_name(folder, "") == name
