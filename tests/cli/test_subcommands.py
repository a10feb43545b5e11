"""The parser of one command line parses, helps and complains as the parser of all commands."""

from __future__ import annotations

import argparse

import pytest

from claude_bus.cli import main
from claude_bus.cli.commands import COMMANDS

NAMES = [name for name in COMMANDS if name] + ["setup", "serve", "stdio"]


def parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(action.choices)


def test_every_command_is_declared() -> None:
    """Each that can be run, in one order."""
    assert sorted(parsers(main.build_parser())) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_given_command_is_whole(name: str) -> None:
    """Its help, and that of the program, which names all commands, are those of the whole parser."""
    whole, given = main.build_parser(), main.build_parser(["--json", name])

    assert given.format_help() == whole.format_help()
    assert parsers(given)[name].format_help() == parsers(whole)[name].format_help()
    assert parsers(given)[name].prog == f"claude-bus {name}"


@pytest.mark.parametrize(
    "words", [["nosuch"], ["send"], ["token", "x"], ["inbox", "--wait", "x"], ["--channel", "send", "agents", "x"]]
)
def test_what_is_wrong_is_told_in_the_same_words(words: list[str]) -> None:
    """Also the list of commands for a word that is none of them."""

    def complaint(parser: argparse.ArgumentParser) -> str:
        with pytest.raises(main._Unusable) as raised:
            main._parse(parser, words)
        return raised.value.usage

    assert complaint(main.build_parser(words)) == complaint(main.build_parser())


def test_a_commands_name_in_another_place_is_no_obstacle() -> None:
    """A channel, or a text, may be called like a command."""
    words = ["--channel", "inbox", "send", "agents", "doctor"]
    options = main._parse(main.build_parser(words), words)
    assert (options.command, options.channel, options.to, options.content) == ("send", "inbox", "agents", "doctor")


def test_a_word_that_is_no_command_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Not an argument without a name."""
    assert main.run(["nosuch"]) == 2
    assert "argument COMMAND: invalid choice: 'nosuch'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["doctor", "setup", "guard", "serve"])
def test_the_help_says_more_than_the_name(name: str) -> None:
    """Of commands that change something, or whose output needs to be understood."""
    assert parsers(main.build_parser([name]))[name].description
