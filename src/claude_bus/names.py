"""Rules for names: which are valid, which pretend to be another agent, and which look alike. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from .errors import InvalidInput

BROADCASTS = frozenset({"all", "any"})
"""Two words of the earlier systems that address all agents on the channel."""
MAX_NAME = 64

_SEPARATORS = "._-:+~#"
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0\U00016fe4")
"""Letters and marks that print nothing."""
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_NON_JOINER, _JOINER = "\u200c", "\u200d"
_VIRAMA = 9
"""Combining class of the marks after which Indic scripts need a joiner (RFC 5892, appendix A)."""
_MOST_MARKS = 6
"""Marks on one letter: Tibetan and Burmese stack that many, and more only disfigure the line."""

_AUTHORITIES = frozenset(
    {
        *("user", "users", "theuser", "youruser", "human", "thehuman", "system", "thesystem", "systemreminder"),
        *("assistant", "developer", "operator", "administrator", "anthropic", "claudebus"),
    }
)
"""Names, without separators, that a model obeys, or mistakes for itself or for the bus."""

_ALIKE = {
    **dict(zip("аеорсухіјѕһԁԛԝѵкгӏҽоѡ", "aeopcyxijshdqwvkrleow", strict=True)),
    **dict(zip("АВЕКМНОРСТУХІЈЅԚԜѴӀЗЬ", "ABEKMHOPCTYXIJSQWVI3b", strict=True)),
    **dict(zip("αονρυικγηχωετςϲ", "aovpuikynxwetcc", strict=True)),
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True)),
    **dict(zip("օոսհցգզՏԼՕՍ", "onuhgqqSLOU", strict=True)),
    **dict(zip("ᎠᎡᎢᎪᎫᎬᎳᎷᎻᏀᏃᏎᏏᏒᏔᏕᏙᏚᏞᏟᏢᏦᏧᏴ", "DRTAJEWMHGZ4bRWSVSLCPKdB", strict=True)),
    **dict(zip("ⲟⲣⲥⲞⲢⲤⲎⲒⲔⲘⲚⲦⲨⲬⲀⲂⲈⲌ", "opcOPCHIKMNTYXABEZ", strict=True)),
    **dict(zip("ꓐꓑꓓꓔꓖꓗꓙꓚꓜꓝꓟꓠꓡꓢꓣꓦꓧꓪꓫꓬꓮꓰꓲꓳꓴ", "BPDTGKJCZFMNLSRVHWXYAEIOU", strict=True)),
    **dict(zip("ıɑɡȷᴀᴄᴇᴏᴜᴠᴡᴢꜱǀ", "iagjaceouvwzsl", strict=True)),
}
"""Letters that look like Latin ones."""
_ONE_SCRIPT = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"})
"""Scripts with letters that look like another script's: one word may use only one of them."""


def check_name(name: str, what: str = "name") -> str:
    """Return `name` if it is a valid agent or channel name. Raises `InvalidInput` otherwise.

    A name has 1 to 64 letters with their marks, digits and `. _ - : + ~ #`, beginning with a letter or digit, in
    any script. `all` and `any` are reserved: they address all agents.
    """
    if not name or len(name) > MAX_NAME or cleaned(name) != name:
        raise InvalidInput(
            f"{what} {name[:80]!a} is not valid: use 1-{MAX_NAME} letters, digits or . _ - : + ~ #, "
            "beginning with a letter or digit"
        )
    if name in BROADCASTS:
        raise InvalidInput(f"{what} '{name}' is reserved: it addresses everybody; pick another")
    if unicodedata.normalize("NFC", name) != name:
        raise InvalidInput(f"{what} {name!a} is not valid: use composed characters (Unicode NFC)")
    return name


def check_new_name(name: str, known: Iterable[str]) -> str:
    """Return `name` if a new agent may take it. Raises `InvalidInput` if it could be mistaken for another's name.

    No agent may pretend to be the user, the model or the bus, or one of the names `known` on the channel.
    """
    check_name(name)
    if skeleton(name).casefold().translate(_NO_SEPARATORS) in _AUTHORITIES:
        raise InvalidInput(f"name {name!a} is reserved: a reader could take it for somebody else; pick another")
    mixed = next((found for word in re.split(r"[._\-:+~#]", name) if len(found := _scripts(word)) > 1), None)
    if mixed:
        scripts = " and ".join(sorted(script.capitalize() for script in mixed))
        raise InvalidInput(f"name {name!a} has {scripts} letters in one word, which look alike: use one script a word")
    alike = looks_like(name, known)
    if alike:
        raise InvalidInput(f"name {name!a} looks like '{alike}', which is on this channel; pick another")
    return name


def looks_like(name: str, known: Iterable[str]) -> str:
    """Return another one of the known names that looks the same, or "". Two names in ASCII never do."""
    others = (other for other in known if other != name and not (name.isascii() and other.isascii()))
    shape = skeleton(name)
    return next((other for other in others if skeleton(other) == shape), "")


def skeleton(name: str) -> str:
    """Return the look of a name: names with the same skeleton are hard to tell apart."""
    folded = unicodedata.normalize("NFKD", name)
    return unicodedata.normalize("NFC", "".join(map(_shape, folded)))


def _shape(char: str) -> str:
    if char in (_NON_JOINER, _JOINER):
        return ""
    digit = unicodedata.decimal(char, None)
    return _ALIKE.get(char, char) if digit is None else str(digit)


def _scripts(word: str) -> set[str]:
    """Return the scripts of a word, among those that can be mistaken for one another."""
    return {unicodedata.name(char, "").split(" ")[0] for char in word if char.isalpha()} & _ONE_SCRIPT


def cleaned(text: str, instead: str = "") -> str:
    """Return the text without characters that names cannot have, or with `instead` for each of them."""
    kept: list[str] = []
    for at, char in enumerate(text):
        fits = _fits(text[max(0, at - _MOST_MARKS) : at], char, text[at + 1 : at + 2])
        kept.append(char if fits and (kept or char.isalnum()) else instead if kept else "")
    return "".join(kept)


def _fits(before: str, char: str, after: str) -> bool:
    """Return whether a character is allowed at its position."""
    if char.isascii():
        return char.isalnum() or char in _SEPARATORS
    if char in (_NON_JOINER, _JOINER):
        return _joins(before[-1:], char, after)
    if char in _UNSEEN or _SELECTORS.match(char):
        return False
    if unicodedata.category(char) in ("Mn", "Mc"):
        return _is_marked(before)
    return char.isalnum()


def _joins(before: str, char: str, after: str) -> bool:
    """Return whether a joiner is within a word of a script that needs it."""
    if not (before and after):
        return False
    persian = all(unicodedata.name(each, "").startswith("ARABIC LETTER") for each in (before, after))
    return unicodedata.combining(before) == _VIRAMA or (char == _NON_JOINER and persian)


def _is_marked(before: str) -> bool:
    """Return whether a mark may follow: on a letter, or on a limited number of marks."""
    bare = [char for char in before if unicodedata.category(char) not in ("Mn", "Mc")]
    return bool(bare) and before[-1] not in _SEPARATORS


_NO_SEPARATORS = str.maketrans("", "", _SEPARATORS)
