"""Settings from the environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from claude_bus import config
from claude_bus.config import Access, AgentBus, Config, Serving, shown_address
from claude_bus.errors import InvalidInput

HOME = Path("/home/me")


def test_an_empty_environment_gives_the_defaults() -> None:
    """No setting is required; an empty variable counts as unset."""
    expected = Config(
        HOME / ".claude-bus" / "bus.db",
        *("", "", "default", "auto", "confirm"),
        share_prompts=False,
        rate=120,
        busy_timeout=5.0,
    )

    assert Config.from_env({}, HOME) == expected
    settings = re.findall(r"^\| `(BUS_\w+)`", config.__doc__ or "", re.MULTILINE)
    assert len(settings) == 21
    assert Config.from_env(dict.fromkeys(settings, ""), HOME) == expected


def test_every_variable_sets_its_value() -> None:
    """Each setting of the table is read from its variable."""
    env = {
        "BUS_DB": "/data/bus.db",
        "BUS_NAME": "backend",
        "BUS_ROLE": "owns the API",
        "BUS_CHANNEL": "shop",
        "BUS_WAKE": "never",
        "BUS_GUARD": "deny",
        "BUS_SHARE_PROMPTS": "1",
        "BUS_RATE": "0",
        "BUS_BUSY_TIMEOUT": "1.5",
    }

    assert Config.from_env(env, HOME) == Config(
        Path("/data/bus.db"),
        *("backend", "owns the API", "shop", "never", "deny"),
        share_prompts=True,
        rate=0,
        busy_timeout=1.5,
    )


@pytest.mark.parametrize("prefix", ["x y", "/../a", "/a/./b", "/{a}", "/é", "/a?b", "/a%20b", "https://h/a"])
def test_a_prefix_is_a_path_as_it_stands_in_requests(prefix: str) -> None:
    """Under any other prefix no request would match, or the wrong one would."""
    with pytest.raises(InvalidInput, match="BUS_PREFIX="):
        Serving.from_env({"BUS_PREFIX": prefix}, HOME)
    assert Serving.from_env({"BUS_PREFIX": "team//agent-bus_2.0/"}, HOME).prefix == "/team/agent-bus_2.0"


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("~/x/bus.db", HOME / "x/bus.db"),
        ("/a b/ü.db", Path("/a b/ü.db")),
        (" /a/bus.db\n", Path("/a/bus.db")),
        ("$HOME/bus.db", HOME / "bus.db"),
        ("${HOME}/bus.db", HOME / "bus.db"),
        ("/data/$TEAM/bus.db", Path("/data/red/bus.db")),
        ("${TEAM_DIR:-/srv/bus}/bus.db", Path("/srv/bus/bus.db")),
        ("${TEAM_DIR:-~}/bus.db", HOME / "bus.db"),
        ("/a/b$/bus.db", Path("/a/b$/bus.db")),
        ("", HOME / ".claude-bus/bus.db"),
        (" ", HOME / ".claude-bus/bus.db"),
    ],
)
def test_what_a_shell_would_have_understood_is_understood(written: str, path: Path) -> None:
    """Clients pass variables on as they are written, without a shell that would expand them."""
    assert Config.from_env({"BUS_DB": written, "TEAM": "red"}, HOME).db == path


@pytest.mark.parametrize(
    ("written", "said"),
    [
        *((path, "relative") for path in ("bus.db", "./bus.db", "../bus.db", "~bob/bus.db", "'/x/bus.db'")),
        *((uri, "cannot be shared") for uri in (":memory:", "file:/x/bus.db", "file::memory:", "sqlite:///x")),
        *((path, "not set, or not understood") for path in ("$NO/bus.db", "${NO}/x", "$(pwd)/x", "${HOME:+x}", "/${x")),
        *((address, "BUS_URL") for address in ("http://127.0.0.1:8765", "HTTPS://host")),
        *((path, "the name of a file") for path in ("/data/", "/a\nb")),
    ],
)
def test_a_database_that_would_be_another_in_each_folder_is_refused(written: str, said: str) -> None:
    """A path that is relative, or names no file, raises an error that says what to set."""
    with pytest.raises(InvalidInput, match=said) as refused:
        Config.from_env({"BUS_DB": written}, HOME)
    assert refused.value.message.startswith("BUS_DB=")
    assert refused.value.message.isprintable()


def test_without_a_home_folder_only_what_needs_it_is_refused() -> None:
    """A container's user may have no home folder: an absolute path, or a remote bus, is all that it needs."""
    assert Config.from_env({"BUS_DB": "/data/bus.db"}, None).db == Path("/data/bus.db")
    assert Config.from_env({"BUS_URL": "http://h:1"}, None).url == "http://h:1"
    for env in ({}, {"BUS_DB": "~/bus.db"}, {"BUS_DB": "/x", "BUS_TOKEN_FILE": "~/token"}):
        with pytest.raises(InvalidInput, match="no home folder"):
            Config.from_env(env, None)

    settings = AgentBus.from_env({"AGENT_BUS_URL": "http://h:1"}, None, "linux")
    assert settings.folder is None
    assert AgentBus.from_env({"XDG_STATE_HOME": "/x"}, None, "linux").folder == Path("/x/claude-bus")
    assert Serving.from_env({}, None).port == 8765


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BUS_NAME", "a b"),
        ("BUS_NAME", "all"),
        ("BUS_NAME", "a\x1b[2J"),
        ("BUS_ROLE", "two\nlines"),
        ("BUS_CHANNEL", "a/b"),
        ("BUS_WAKE", "sometimes"),
        ("BUS_GUARD", "on"),
        ("BUS_SHARE_PROMPTS", "yes"),
        ("BUS_BUSY_TIMEOUT", "soon"),
        ("BUS_BUSY_TIMEOUT", "-1"),
        ("BUS_BUSY_TIMEOUT", "nan"),
        ("BUS_BUSY_TIMEOUT", "601"),
    ],
)
def test_an_unusable_setting_is_an_error_that_names_it(name: str, value: str) -> None:
    """A mistake in the environment is reported and not guessed around."""
    with pytest.raises(InvalidInput, match=name) as refused:
        Config.from_env({name: value}, HOME)

    assert refused.value.message.isprintable()


@pytest.mark.parametrize(
    ("written", "prefix"), [("", ""), ("/", ""), ("agent-bus", "/agent-bus"), ("/a//b.c/", "/a/b.c")]
)
def test_a_prefix_is_a_path_however_it_is_written(written: str, prefix: str) -> None:
    """The slashes at both ends are optional."""
    assert Serving.from_env({"BUS_PREFIX": written}, HOME).prefix == prefix


@pytest.mark.parametrize("written", ["/a?b", "/a#b", "/a b", "/a%20b", "/{name}", "/../a", "/a/.", "/\u00fc", "/a\n"])
def test_a_prefix_that_no_client_would_ask_for_is_refused(written: str) -> None:
    """A prefix is refused if it has a special meaning in a URL, or is spelled differently there."""
    with pytest.raises(InvalidInput, match="BUS_PREFIX"):
        Serving.from_env({"BUS_PREFIX": written}, HOME)


# -- the agent-bus -----------------------------------------------------------------------

STATE = HOME / ".local" / "state" / "claude-bus"


def test_without_variables_there_is_no_other_bus() -> None:
    """Every variable of the table may be empty; only a name and a channel have defaults."""
    settings = re.findall(r"`((?:AGENT_\w+)|LOG|FULL|HEARTBEAT|PID_FILE)`", config.__doc__ or "")
    assert len(set(settings)) == 10
    for env in ({}, dict.fromkeys(settings, "")):
        assert AgentBus.from_env(env, HOME, "linux") == AgentBus(STATE)


def test_the_agent_bus_variables_set_their_values() -> None:
    """User and password are removed from the address; files may begin with the home folder."""
    env = {
        "AGENT_BUS_URL": "https://me:p%40ss@bus.example.org/agent-bus/",
        "AGENT_NAME": "spark",
        "AGENT_BUS_CHANNEL": "shop",
        "AGENT_BUS_UA": "Tester/1",
        "AGENT_BUS_STATE_DIR": "~/state",
        "AGENT_BUS_NO_CURSOR": "true",
        "LOG": "~/log",
        "FULL": "/f",
        "HEARTBEAT": "/h",
        "PID_FILE": "/p",
        "BUS_TOKEN": "t",
    }

    found = AgentBus.from_env(env, HOME, "linux")
    assert found == AgentBus(
        HOME / "state",
        "https://bus.example.org/agent-bus",
        own=True,
        name="spark",
        named=True,
        channel="shop",
        program="Tester/1",
        cursors=False,
        access=Access(token="t", basic=("me", "p@ss")),
        log=HOME / "log",
        full=Path("/f"),
        heartbeat=Path("/h"),
        pid_file=Path("/p"),
    )
    assert "p@ss" not in repr(found)


def test_bus_url_serves_with_its_name_channel_and_token() -> None:
    """A user of a remote bus need not configure it twice."""
    env = {"BUS_URL": "http://h:1", "BUS_NAME": "me", "BUS_CHANNEL": "shop", "BUS_TOKEN": "t"}

    assert AgentBus.from_env(env, HOME, "linux") == AgentBus(
        STATE, "http://h:1", name="me", named=True, channel="shop", access=Access("t")
    )


def test_a_password_in_the_address_is_not_a_part_of_it() -> None:
    """A program that shows the address does not show the password."""
    found = Config.from_env({"BUS_URL": "https://me:p%40ss@h:1/bus", "BUS_TOKEN": "bus_x"}, HOME)

    assert (found.url, found.access.basic) == ("https://h:1/bus", ("me", "p@ss"))
    assert "p@ss" not in repr(found)
    assert "bus_x" not in repr(found)


@pytest.mark.parametrize(
    ("ours", "other", "token"),
    [
        ("", "http://other", "t"),
        ("https://h", "https://h:443/agent-bus", "t"),
        ("https://h", "https://other", ""),
        ("https://h", "http://h", ""),
        ("http://h:1", "http://h:2", ""),
    ],
)
def test_a_token_goes_to_the_server_it_is_for(ours: str, other: str, token: str) -> None:
    """A token for BUS_URL is not sent to an AGENT_BUS_URL on another server; neither are its name and channel."""
    env = {"BUS_URL": ours, "AGENT_BUS_URL": other, "BUS_TOKEN": "t", "BUS_NAME": "me", "BUS_CHANNEL": "shop"}

    found = AgentBus.from_env(env, HOME, "linux")
    assert (found.access.token, found.name, found.channel) == (token, "agent", "default")


@pytest.mark.parametrize(
    ("platform", "env", "folder"),
    [
        ("linux", {"XDG_STATE_HOME": "/x"}, Path("/x/claude-bus")),
        ("linux", {"XDG_STATE_HOME": "relative"}, STATE),
        ("darwin", {"XDG_STATE_HOME": ""}, HOME / "Library" / "Application Support" / "claude-bus"),
        ("win32", {}, HOME / "AppData" / "Local" / "claude-bus"),
        ("win32", {"LOCALAPPDATA": "/l"}, Path("/l/claude-bus")),
    ],
)
def test_state_is_kept_where_the_system_keeps_it(platform: str, env: dict[str, str], folder: Path) -> None:
    """Each system has its own folder for such files."""
    assert AgentBus.from_env(env, HOME, platform).folder == folder


def test_a_user_agent_is_one_that_a_header_can_hold() -> None:
    """Others are refused with an error that names the setting."""
    with pytest.raises(InvalidInput, match="AGENT_BUS_UA"):
        AgentBus.from_env({"AGENT_BUS_UA": "Bücherwurm"}, HOME, "linux")


@pytest.mark.parametrize(
    "url", ["ftp://h", "host", "http://", "http://h:0", "http://h:99999", "http://h?x", "http://h\n"]
)
def test_an_unusable_address_is_an_error_that_names_it(url: str) -> None:
    """The error names the right one of the two variables."""
    for name in ("AGENT_BUS_URL", "BUS_URL"):
        with pytest.raises(InvalidInput, match=name):
            AgentBus.from_env({name: url}, HOME, "linux")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host:8765", "https://host:8765"),
        ("https://host/bus", "https://host/bus"),
        ("https://ann:hunter2@host/bus", "https://host/bus"),
        ("https://host/t/s3cret", "https://host/t/***"),
        ("https://host/bus/t/s3cret/x", "https://host/bus/t/***/x"),
        ("https://host/k/9f8e7d6c5b4a39281706f5e4", "https://host/k/***"),
        ("https://host/bus_abc", "https://host/***"),
        ("https://host/?token=s3cret", "https://host/"),
        ("ann:hunter2@host", "host"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    """Scheme and host stay: they tell which server it is."""
    assert shown_address(url) == shown


def test_an_address_that_is_refused_is_shown_like_that_too() -> None:
    """The faulty part may be behind the secret."""
    url = "https://ann:hunter2@host/t/s3cret?token=s3cret"
    for settings in (
        lambda: Config.from_env({"BUS_URL": url}, Path("/home/me")),
        lambda: AgentBus.from_env({"AGENT_BUS_URL": url}, Path("/home/me"), "linux"),
    ):
        with pytest.raises(InvalidInput, match=re.escape("'https://host/t/***' is not valid")):
            settings()
