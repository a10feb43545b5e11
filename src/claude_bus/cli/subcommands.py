"""The declaration of commands to argparse."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from typing import Any, cast


class Unmeasured(argparse.HelpFormatter):
    """A formatter that does not ask how wide the terminal is.

    argparse makes one for each option that is declared, only to check it, and imports `shutil` for the width.
    """

    def __init__(self, prog: str, **_given: Any) -> None:
        super().__init__(prog, width=80)


class Subcommands:
    """The commands of a parser. Those that are not among `words` (unless that is None) get no options of their own.

    To declare all options takes longer than most commands do. A command is given by its whole name, so no more than
    those of the words are needed to parse them, or to show the usage or the help of the program.
    """

    def __init__(self, parser: argparse.ArgumentParser, words: Collection[str] | None) -> None:
        self._words = words
        self._kind = type(parser)
        self._undeclared = argparse.ArgumentParser(add_help=False)
        self.declared = [parser]
        """The parsers that have their options."""
        self._action = parser.add_subparsers(
            title="commands", metavar="COMMAND", prog=parser.prog, parser_class=cast("Any", self._parser)
        )

    def _parser(self, *, declared: bool, **given: Any) -> argparse.ArgumentParser:
        return self._kind(**given) if declared else self._undeclared

    def add(
        self,
        name: str,
        options: Callable[[argparse.ArgumentParser], None],
        parents: Sequence[argparse.ArgumentParser],
        what: str,
        description: str | None = None,
    ) -> None:
        """Declare a command that does `what`; `options` adds the options that are not those of its `parents`."""
        declared = self._words is None or name in self._words
        given: dict[str, Any] = {"parents": [*parents], "description": description, "formatter_class": Unmeasured}
        parser = self._action.add_parser(name, help=what, declared=declared, **given)
        if declared:
            options(parser)
            parser.set_defaults(command=name)
            self.declared.append(parser)

    def finish(self) -> None:
        """From here on usage and help are as wide as the terminal."""
        for parser in self.declared:
            parser.formatter_class = argparse.HelpFormatter


def nothing(_parser: argparse.ArgumentParser) -> None:
    """Add no options."""
