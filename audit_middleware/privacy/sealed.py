"""How personal data looks in a record: one text that says what was done, whose key it needs, and what it holds.

::

    token.v1.<token>                    a person or thing, by its pseudonym
    sealed.v1.<token>.<base64url>       nonce (12 bytes), AES-256-GCM ciphertext and tag (16 bytes), no padding
    commit.v1.<token>.<base64url>       HMAC-SHA256 (32 bytes) under the person's salt

What is sealed or committed to is the value's JSON. Both are bound to their place by `binding`, as additional data of
the cipher or in front of the message: moved to another log, record or field, nothing opens. The token is 26 characters
of lower-case base32. AES-GCM does not commit to its key, so the log holds `commitment` of every key that is in use.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Literal, NamedTuple

from ..persons import MARK

__all__ = ["Mark", "base64_of", "binding", "commitment", "parse", "place_of", "text_of"]

Kind = Literal["token", "sealed", "commit"]


class Mark(NamedTuple):
    """One such text, taken apart; ``content`` is empty for a token."""

    kind: Kind
    token: str
    content: bytes = b""


def parse(text: object) -> Mark | None:
    """What a text of a record stands for; ``None`` for any other value, also for one that only begins like it."""
    if not isinstance(text, str) or (found := MARK.fullmatch(text)) is None:
        return None
    kind, token, content = found[1], found[2], found[3]
    if (kind == "token") == (content is not None):
        return None
    try:
        raw = b"" if content is None else base64.urlsafe_b64decode(content + "=" * (-len(content) % 4))
    except ValueError:
        return None
    return Mark(kind, token, raw)  # type: ignore[arg-type]  # the expression admits nothing else


def text_of(mark: Mark) -> str:
    """The text of a mark."""
    start = f"{mark.kind}.v1.{mark.token}"
    if mark.kind == "token":
        return start
    return f"{start}.{base64_of(mark.content)}"


def base64_of(content: bytes) -> str:
    """The last part of such a text."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def place_of(value: object) -> Mark | None:
    """The mark in place of a value of any kind: a text itself, ``{"personal": text}`` for an object, ``[text]`` for a
    list, so that a record keeps its schema."""
    if isinstance(value, dict) and len(value) == 1:
        value = value.get("personal")
    elif isinstance(value, list) and len(value) == 1:
        value = value[0]
    return parse(value)


def binding(origin: str, action_id: str, path: str) -> bytes:
    """What ties a sealed value to its place: log, record, field. None of the three holds a zero byte."""
    return f"{origin}\0{action_id}\0{path}".encode()


def commitment(secret: bytes) -> bytes:
    """32 bytes that name a key without giving it away; see `audit.subject_keys` among the control records."""
    return hashlib.sha256(b"audit key commit v1" + secret).digest()
