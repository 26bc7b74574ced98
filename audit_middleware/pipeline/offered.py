"""What a request offers to meet requirements: the caller's reason, and the confirmation of what it is about.

A header that comes twice is ambiguous (proxies and frameworks pick different ones) and counts as none.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from ..context import MAX_REASON
from ..policy.requirements import usable

REASON, CONFIRM = b"x-request-reason", b"x-confirm"
_MAX_CONFIRM = 4096

Headers = Sequence[tuple[bytes, bytes]]


def reason_of(headers: Headers) -> str | None:
    """The reason in ``X-Request-Reason``, if it is `usable`."""
    return usable(_only(headers, REASON, MAX_REASON))


def confirms(headers: Headers, expected: str) -> bool:
    """Does ``X-Confirm`` repeat what the request is about? Characters beyond ASCII may be percent-encoded."""
    text = _only(headers, CONFIRM, _MAX_CONFIRM)
    return bool(text) and expected in (text, unquote(text or ""))


def _only(headers: Headers, name: bytes, limit: int) -> str | None:
    found = [value for key, value in headers if key == name]
    if len(found) != 1 or len(found[0]) > limit:
        return None
    try:
        return found[0].decode().strip(" \t")
    except UnicodeDecodeError:
        return None
