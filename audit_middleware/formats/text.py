"""Text on its way into another format: what cannot be seen is made visible, what is too long is cut and marked.

A record keeps what a client sent, whatever it was. A destination that splits lines, shows text in a terminal or turns
it into a chat message must not be steered by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ..context import CUT, clean

_PLAIN = re.compile(r"[ -~]*\Z")
_MENTION = re.compile(r"(?<!\w)@(?=\w)")
_BRACKETS = str.maketrans({"<": "\u2039", ">": "\u203a"})  # single guillemets: no markup anywhere, still readable
_SEPARATORS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
_encode = msgspec.json.encode
_sorted = msgspec.json.Encoder(order="sorted")
_LONGEST_TEXT = 32_000  # bytes; Lucene refuses a term of more than 32,766


def visible(text: str) -> str:
    """Characters that are not printed (controls, line and bidi separators, lone surrogates) as ``\\n``, ``\\u2028``."""
    if _PLAIN.match(text) or text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


def sentence(text: str) -> str:
    """Text for a message that people read, perhaps in a chat: visible, and neither markup nor a mention.

    The brackets of ``<!channel>`` become guillemets; an ``@`` that begins a word becomes a full-width one.
    """
    text = visible(text)
    if "<" in text or ">" in text:
        text = text.translate(_BRACKETS)
    return _MENTION.sub("\uff20", text) if "@" in text else text


def shortened(text: str, limit: int) -> str:
    """Text of at most ``limit`` bytes (>= 3) of UTF-8; a cut is marked by ``…``."""
    return text if len(text) * 4 <= limit else clean(text, limit)


def bounded(value: Any, limit: int) -> Any:
    """JSON with every text in it cut at ``limit`` bytes."""
    if isinstance(value, str):
        return shortened(value, limit)
    if isinstance(value, dict):
        return {name: bounded(item, limit) for name, item in value.items()}
    return [bounded(item, limit) for item in value] if isinstance(value, list) else value


def is_cut(text: str | None) -> bool:
    """True for text that was cut here or when it was recorded."""
    return text is not None and text.endswith(CUT)


def compact(value: Any) -> str | None:
    """Any JSON value as one text, for destinations to which a free shape would be a field each; at most 32,000 bytes.

    Nothing (``None``, ``{}``, ``[]``) is ``None``.
    """
    return shortened(to_json(value).decode(), _LONGEST_TEXT) if value not in (None, {}, []) else None


def to_json(value: Any) -> bytes:
    """Compact JSON, UTF-8, on one line by anyone's idea of a line. Lone surrogates become U+FFFD."""
    try:
        data = _encode(value)
    except UnicodeEncodeError:
        data = _encode(_valid(value))
    if data.isascii():
        return data
    for raw, escaped in _SEPARATORS:
        data = data.replace(raw, escaped)
    return data


def canonical(value: Any) -> bytes:
    """RFC 8785 for the values that records hold (integers, ASCII names), as the ledger writes entries."""
    try:
        return _sorted.encode(value)
    except UnicodeEncodeError:
        return _sorted.encode(_valid(value))


def without_nothing(value: dict[str, Any]) -> dict[str, Any]:
    """A mapping, and those in it, without members that are ``None`` or empty: absent is what destinations expect."""
    kept = {}
    for name, item in value.items():
        if type(item) is dict:
            item = without_nothing(item)
        if item is not None and item != {} and item != [] and item != "":
            kept[name] = item
    return kept


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, Mapping):
        return {_valid(name): _valid(item) for name, item in value.items()}
    return [_valid(item) for item in value] if isinstance(value, list | tuple) else value
