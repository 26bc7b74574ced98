"""Secrets that are known by their shape: card numbers, e-mail addresses, IBANs, tokens, or a pattern of one's own.

All patterns are RE2, whose time is linear in the text: what a client sends cannot make one of them explode. RE2 has no
look-around, so a shape is found generously and a check in Python decides; where one is doubtful, more is redacted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ..context import clean
from ..errors import ConfigError
from ..model import Json

__all__ = ["REDACTED", "Patterns"]

REDACTED = "[redacted]"

Check = Callable[[str], str]
"""Given what a pattern matched, returns what is to stand there: the same text, or one with the secret replaced."""

_SHORTEST = {"jwt": 10, "email": 1 << 60, "iban": 15, "card-number": 13, "us-ssn": 11}
"""What is shorter is none of these; an address is known by its ``@``. Texts are mostly short, a search is not free."""

_CARD_LENGTHS = range(13, 20)
_IBAN_LENGTHS = range(15, 35)
_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_LONG = 256  # a run longer than this is no number that anybody wrote down: it goes without a look


class Patterns:
    """Finds and replaces secrets in text. ``names`` are those of `NAMED`, or ``re:`` with an RE2 pattern."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        if isinstance(names, str):
            raise ConfigError("redact: patterns must be a list of names")
        names = list(dict.fromkeys(names))
        chosen = [_lookup(name) for name in names]
        self._each = [(_compile(source), check) for source, check in chosen]
        # Nearly all text holds no secret: one search over all patterns tells, at about 1 us a text.
        self._any = _compile("|".join(f"(?:{source})" for source, _ in chosen)) if chosen else None
        # Ours can be looked for in many texts at once. One of somebody else's may be anchored, or match a line break.
        self._ours = all(name in NAMED for name in names)
        self._short = min((_SHORTEST.get(name, 0) for name in names), default=0)

    def suspect(self, text: str) -> bool:
        """False if no part of the text can be a secret."""
        if self._any is None or not self._ours:
            return self._any is not None
        if len(text) < self._short and "@" not in text:
            return False
        try:
            return self._any.search(text) is not None
        except UnicodeEncodeError:
            return True

    def suspect_json(self, value: Json) -> bool:
        """False if no text, name or number in the value can be a secret: one search instead of one for each."""
        if self._any is None or not self._ours:
            return self._any is not None
        if type(value) is str and len(value) < self._short and "@" not in value:
            return False
        try:
            return self._any.search(msgspec.json.encode(value)) is not None
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
            return True  # not plain JSON: look at each

    def text(self, text: str) -> str:
        """The text with every secret replaced; the same object if there is none."""
        if self._any is None or not text or (len(text) < self._short and "@" not in text):
            return text
        try:
            if self._any.search(text) is None:
                return text
        except UnicodeEncodeError:  # lone surrogates, which JSON can carry and RE2 cannot read
            return self.text(clean(text, 4 * len(text)))
        found = text
        for pattern, check in self._each:
            found = pattern.sub(lambda match, check=check: check(match.group()), found)
        # One SHA-256 in a hundred has digits in it that could be a card number, and the log is full of them.
        return text if found == text or (self._ours and _DIGEST.fullmatch(text)) else found


def _lookup(name: str) -> tuple[str, Check]:
    if not isinstance(name, str):
        raise ConfigError(f"redact: a pattern must be text, not {type(name).__name__}")
    if name.startswith("re:"):
        return name[3:], _always
    if name not in NAMED:
        from difflib import get_close_matches  # here: most names are right

        near = get_close_matches(name, NAMED, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(NAMED)} and re:<RE2 pattern>"
        raise ConfigError(f"redact: there is no pattern {name!r}: {hint}")
    return NAMED[name]


def _compile(source: str) -> Any:
    import re2  # here: it takes 2 MB, and many services look for no patterns

    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(source, options)
    except re2.error as error:
        raise ConfigError(f"redact: {source!r} is no RE2 pattern: {error}") from None
    if pattern.search("") is not None:
        raise ConfigError(f"redact: {source!r} matches the empty text, and so everywhere")
    return pattern


def _always(_: str) -> str:
    return REDACTED


def _card(run: str) -> str:
    """Replaces a run of digits that contains a card number: 13 to 19 digits from 2 to 6 on, Luhn's check digit right.

    Any window of the run, as other digits may stand beside the number with no more than a space between.
    """
    digits = [int(character) for character in run if character.isdigit()]
    if len(digits) > _LONG:
        return REDACTED
    plain, doubled = (
        [0],
        [0],
    )  # sums over digits[:i], of the digits themselves at even places and doubled at odd, and v.v.
    for place, digit in enumerate(digits):
        twice = digit * 2 - 9 * (digit > 4)
        plain.append(plain[-1] + (twice if place % 2 else digit))
        doubled.append(doubled[-1] + (digit if place % 2 else twice))
    for end in range(_CARD_LENGTHS.start, len(digits) + 1):
        sums = plain if end % 2 else doubled  # the last digit, at place end - 1, counts once
        for length in _CARD_LENGTHS:
            start = end - length
            if start >= 0 and 2 <= digits[start] <= 6 and (sums[end] - sums[start]) % 10 == 0:
                return REDACTED
    return run


def _iban(run: str) -> str:
    """Replaces each IBAN (ISO 13616: check digits by mod 97) in a run of letters and digits."""
    places = [place for place, character in enumerate(run) if character.isalnum()]
    if len(places) > _LONG:
        return REDACTED
    compact = "".join(run[place] for place in places).upper()
    start = 0
    while start + _IBAN_LENGTHS.start <= len(compact):
        for length in reversed(_IBAN_LENGTHS):
            end = start + length
            if end <= len(compact) and _is_iban(compact[start:end]):
                return run[: places[start]] + REDACTED + _iban(run[places[end - 1] + 1 :])
        start += 1
    return run


def _is_iban(text: str) -> bool:
    if not (text[:2].isalpha() and text[2:4].isdigit()):
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


NAMED: dict[str, tuple[str, Check]] = {
    # Tokens first: an address or number inside of one goes with it.
    "jwt": (r"ey[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){2,4}", _always),
    "email": (r"""[^\s@"'<>(),;:\\/=&?]{1,64}@[^\s@"'<>(),;:\\/=&?.]+(?:\.[^\s@"'<>(),;:\\/=&?.]+)+""", _always),
    "iban": (r"(?i)[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,}", _iban),
    "card-number": (r"[0-9](?:[ .\-_/]{0,2}[0-9]){12,}", _card),
    "us-ssn": (r"[0-9]{3}[- ][0-9]{2}[- ][0-9]{4}", _always),
}
"""The patterns that have a name: RE2 source, and the check that decides about a match."""
