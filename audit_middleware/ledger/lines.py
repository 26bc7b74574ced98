"""Strict readings of the small parts that all C2SP text formats share: base64, decimals, names, lines.

Each value has exactly one spelling; whatever could be spelled twice could be changed without a signature noticing.

* base64: RFC 4648 section 4, with padding, unused bits zero (``YQ==`` is "a", ``YR==`` is refused)
* decimal: ASCII digits, no sign, no leading zero, at most 2^63-1
* name: not empty, no Unicode space, no "+", no control character
* text: UTF-8, no character below U+0020 but newline, ends with newline
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from functools import lru_cache

from ..errors import FormatError

LARGEST = 2**63 - 1
"""Largest size, index or time (C2SP tlog-cosignature bounds time; readers with signed integers bound the rest)."""

_NOT_IN_NAMES = re.compile(r"[+\x00-\x1f\s\ud800-\udfff]").search
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]").search
_SURROGATE = re.compile(r"[\ud800-\udfff]").search


def to_base64(data: bytes) -> str:
    """Returns standard base64 with padding."""
    return b64encode(data).decode("ascii")


def from_base64(text: str, what: str, error: type[FormatError] = FormatError) -> bytes:
    """Returns the bytes; raises ``error`` naming ``what`` unless ``text`` is their only spelling."""
    try:
        data = b64decode(text, validate=True)
    except ValueError as cause:
        raise error(f"{what}: not base64") from cause
    if to_base64(data) != text:
        raise error(f"{what}: base64 with stray bits")
    return data


def from_decimal(text: str, what: str, error: type[FormatError] = FormatError) -> int:
    """Returns the number; raises ``error`` naming ``what`` for signs, leading zeros and numbers beyond 2^63-1."""
    # isdigit() alone would let other scripts' digits through, and int() also takes underscores and spaces.
    if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0"):
        raise error(f"{what}: not a decimal number without leading zeros")
    if len(text) > 19 or int(text) > LARGEST:
        raise error(f"{what}: beyond 2^63-1")
    return int(text)


@lru_cache(32)  # asked of the same few names for every checkpoint
def is_name(text: str) -> bool:
    """True when ``text`` may name a key, or a log of ours."""
    return bool(text) and _NOT_IN_NAMES(text) is None


def check_text(text: str, what: str, error: type[FormatError] = FormatError) -> None:
    """Raises ``error`` naming ``what`` unless ``text`` may be the text of a note."""
    if not text.endswith("\n"):
        raise error(f"{what}: does not end with a newline")
    if has_control(text):
        raise error(f"{what}: holds a control character")
    if _SURROGATE(text):
        raise error(f"{what}: cannot be UTF-8")


def has_control(text: str) -> bool:
    """True when a character below U+0020 other than newline is in ``text``."""
    return _CONTROL(text) is not None
