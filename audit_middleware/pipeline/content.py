"""What a record says of a captured body: its redacted content, or only that it was there."""

from __future__ import annotations

import msgspec

from ..context import clean, plain
from ..model import Json
from ..privacy.redact import Redactor
from .facts import Capture

__all__ = ["body_part", "digest_of"]

_SHORT = 256


def body_part(body: Capture | None, redactor: Redactor) -> Json:
    """`model.BodyPart`: JSON and forms are shown where all of them was kept."""
    if body is None:
        return None
    whole = body.complete and body.size == len(body.kept)
    kind = _kind(body.content_type)
    content: Json = None
    if whole and body.size and (kind == "application/json" or kind.endswith("+json")):
        content = _json(bytes(body.kept), body.limit, redactor)
    elif whole and body.size and kind == "application/x-www-form-urlencoded":
        content = clean(redactor.query(bytes(body.kept), limit=body.limit), max(body.limit, 3))
    kind_text = clean(body.content_type, _SHORT) if body.content_type else None
    return {"content": content, "content_type": kind_text, "size": body.size, "truncated": not whole}


def digest_of(body: Capture | None, part: Json) -> str | None:
    """The SHA-256 of a body whose `body_part` this is; none where something in it was or may have been redacted: short
    secrets could be found again by trying."""
    if body is None or not body.complete:
        return None
    known = _unredacted(part["content"], body) if part["content"] is not None else None
    if known or (known is None and _is_opaque(body.content_type)):
        digest: str = body.digest.hexdigest()
        return digest
    return None


def _kind(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()


def _json(raw: bytes, limit: int, redactor: Redactor) -> Json:
    try:
        return plain(redactor.value(msgspec.json.decode(raw)), limit=max(limit, 64))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # malformed: its size and digest stand for it


def _unredacted(content: Json, body: Capture) -> bool:
    """Is the recorded content all of the body, with nothing redacted?"""
    raw = bytes(body.kept)
    if isinstance(content, str) and not raw.lstrip().startswith(b'"'):
        return content.encode() == raw  # a form
    return bool(content == plain(msgspec.json.decode(raw), limit=body.limit))


def _is_opaque(content_type: str | None) -> bool:
    """A body of which no part is ever recorded or redacted: images, archives, other binary data."""
    kind = _kind(content_type)
    return kind.startswith(("image/", "audio/", "video/", "font/")) or kind in (
        "application/octet-stream", "application/pdf", "application/zip", "application/gzip",
    )  # fmt: skip
