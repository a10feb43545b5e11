"""The cheap test before the scanner lets nothing pass that the scanner would find, and lets ordinary messages pass."""

from __future__ import annotations

import base64
import random

import pytest
from kingfisher_sdk import Rules, Scanner

from claude_bus import secret_hints
from claude_bus.secret_hints import could_hold
from tests.support import secret_rules
from tests.support.likely_secrets import SECRETS
from tests.support.ordinary_messages import MESSAGES

HOSTILE = ("a", "://", "://a:b@", "eyJ", "key", "key=", "secret ", "0" * 10 + " ", "sk_", "box:", "pa-", "curl ", "s.")


def test_the_table_is_that_of_the_installed_rules() -> None:
    """Each rule is in the table with what its pattern needs, or has a shape or a check of its own.

    If this fails after an upgrade of the scanner: `python -m tests.support.secret_rules` prints the table anew.
    """
    table = {(kind, run): set(literals) for kind, run, literals in secret_hints.NEEDS}
    needed = secret_rules.table()

    assert {need: literals - table.get(need, set()) for need, literals in needed.items() if need not in table} == {}
    assert all(literals <= table[need] for need, literals in needed.items())
    assert not any("" in literals for literals in needed.values()), "a rule without any literal needs a shape"
    known = {*secret_hints.SHAPES, *secret_hints.CHECKED}
    assert known - secret_rules.rules().keys() == {"a rule of a later version"}


@pytest.mark.parametrize("kind", SECRETS)
def test_every_secret_is_looked_at(kind: str) -> None:
    """Secrets in the forms that are documented for them, plain and encoded."""
    text = f"use this: {SECRETS[kind]}\nthanks"
    assert could_hold(SECRETS[kind])
    assert could_hold(text)
    assert could_hold(base64.b64encode(text.encode()).decode())


def test_what_the_rules_match_is_looked_at() -> None:
    """Texts made from the pattern of each rule, whether or not the scanner finds them likely enough."""
    choose = random.Random(11)
    missed = {
        name: text
        for name, pattern in secret_rules.rules().items()
        for text in (secret_rules.sample(pattern, choose) for _ in range(20))
        if not could_hold(text)
    }
    assert missed == {}


def test_whatever_the_scanner_finds_is_looked_at() -> None:
    """Made from the patterns as well: within a text, alone on a line, and in base64 from any place on."""
    scanner, choose, found = Scanner(Rules()), random.Random(7), set()
    missed = {}
    for name, pattern in secret_rules.rules().items():
        for turn in range(6):
            made = secret_rules.sample(pattern, choose)
            encoded = base64.b64encode(f"{'.' * turn}use {made} now".encode()).decode()
            for text in (f"use {made} now", f"x\n{made}\n", f"value={encoded}", f"see a/{encoded}/b"):
                if any(finding.visible for finding in scanner.scan(text.encode())):
                    found.add(name)
                    if not could_hold(text):
                        missed[name] = text
    assert missed == {}
    assert len(found) > 0.8 * len(secret_rules.rules())


def test_ordinary_messages_are_not_looked_at() -> None:
    """Paths, addresses, digests, ids, code, errors and dates need no scanner."""
    passed_on = [message for message in MESSAGES if could_hold(message)]
    assert passed_on == []


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_text_is_decided(piece: str) -> None:
    """A mebibyte of what begins like a secret is read in linear time: a quadratic pattern would take hours."""
    could_hold((piece * 1_048_576)[:1_048_576])
