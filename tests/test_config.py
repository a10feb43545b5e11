"""Settings from the environment."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from claude_bus import config
from claude_bus.config import Config
from claude_bus.errors import InvalidInput

HOME = Path("/home/me")


def test_an_empty_environment_gives_the_defaults() -> None:
    """Nothing needs to be set; an empty variable is as good as none."""
    expected = Config(
        HOME / ".claude-bus" / "bus.db",
        *("", "", "default", "auto", "confirm"),
        share_prompts=False,
        rate=120,
        busy_timeout=5.0,
    )

    assert Config.from_env({}, HOME) == expected
    settings = re.findall(r"^\| `(BUS_\w+)`", config.__doc__ or "", re.MULTILINE)
    assert len(settings) == 20
    assert Config.from_env(dict.fromkeys(settings, ""), HOME) == expected


def test_every_variable_sets_its_value() -> None:
    """Each setting of the table comes from its variable."""
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


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("~/x/bus.db", HOME / "x/bus.db"),
        ("~", HOME),
        ("bus.db", Path.cwd() / "bus.db"),
        ("/a b/ü.db", Path("/a b/ü.db")),
    ],
)
def test_paths_may_begin_with_the_home_folder(written: str, path: Path) -> None:
    """Clients pass variables on as they are written, without a shell."""
    assert Config.from_env({"BUS_DB": written}, HOME).db == path


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
    """A mistake in the environment is told, not guessed around."""
    with pytest.raises(InvalidInput, match=name) as refused:
        Config.from_env({name: value}, HOME)

    assert refused.value.message.isprintable()
