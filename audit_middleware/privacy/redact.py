"""Redaction: what must not be recorded is replaced before anything is hashed, so that it never enters the log.

By name (`names`) or by shape (`patterns`), in JSON values, queries, paths, path parameters, headers and free text. What
is replaced reads ``[redacted]``. Nothing given is changed in place.

Not seen: a secret under a harmless name and without a known shape; JSON or forms inside of a text; shapes written in
other than ASCII digits and letters, or encoded twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from ..context import CUT, clean
from ..model import Json
from .names import Names, Path
from .patterns import REDACTED, Patterns

__all__ = ["DEFAULT_HEADERS", "REDACTED", "Redactor"]

DEFAULT_HEADERS = (
    "accept",
    "content-encoding",
    "content-length",
    "content-type",
    "idempotency-key",
    "origin",
    "referer",
)
"""The request headers that are recorded; all others are left out, whatever they hold."""

_URLS = frozenset({b"origin", b"referer"})
_MAX_DEPTH, _MAX_HEADER, _MAX_REMEMBERED = 64, 512, 128
_MOST_NAMES = 512  # of parameters that are remembered
_MAX_TEXT = 8192  # of a query or path: more than a record keeps, and few enough pairs not to hold up the loop
_AROUND_PAIRS = re.compile(r"([&;])")  # old parsers also separate at semicolons; what one of them saw is secret too
_SAFE = "[]:@!$'()*,~"

Decode = Callable[[str], str]
Encode = Callable[[str, str], str]


class Redactor:
    """Replaces what must not be recorded. Immutable and safe to use from any thread.

    Args:
        keys: names and dotted paths whose values are secret, besides `names.DEFAULT_KEYS`.
        patterns: shapes that are secret wherever they stand: names of `patterns.NAMED`, or ``re:<RE2>``.
        headers: the headers to record instead of `DEFAULT_HEADERS`.
    """

    def __init__(
        self, keys: Sequence[str] = (), patterns: Sequence[str] = (), *, headers: Sequence[str] = DEFAULT_HEADERS
    ) -> None:
        self._names = Names(keys)
        self._patterns = Patterns(patterns)
        self._shapes = len(patterns) > 0
        self._headers = {raw: raw.decode("latin-1") for raw in (name.lower().encode() for name in headers)}
        # The same few values come with most requests.
        self._known_header: Callable[[bytes, bytes], str] = lru_cache(512)(self._header)
        # So do the names of a route's parameters, which the application has chosen: those that are no secret.
        self._harmless: set[str] = set()

    def text(self, text: str) -> str:
        """Free text: by shape only."""
        return self._patterns.text(text)

    def value(self, json: Json) -> Json:
        """A JSON value at any depth up to 64, by name and shape; member names and numbers have shapes too."""
        if json is None or json == {}:
            return None if json is None else {}
        return self._value(json, (), 0, self._shapes and self._patterns.suspect_json(json))

    def params(self, params: dict[str, Json]) -> dict[str, Json]:
        """Path parameters by name and shape: what `value` makes of them, sooner. The same object if all may be seen."""
        if self._harmless.issuperset(params) or not self._secret_among(params):
            for name, value in params.items():
                if type(value) is not str or (
                    self._shapes and (self._patterns.suspect(name) or self._patterns.suspect(value))
                ):
                    break
            else:
                return params
        return self._mapping(params, (), 0, self._shapes and self._patterns.suspect_json(params))

    def query(self, query: str | bytes, *, limit: int = _MAX_TEXT) -> str:
        """A query string or form, order and spelling kept; what is malformed stays so.

        Give it whole: it is cut here, between two pairs, where it is longer than ``limit`` bytes or characters.
        """
        raw = _bounded(query, "&", limit)
        if ";" not in raw and not (self._shapes and self._patterns.suspect(unquote_plus(raw))):
            return "&".join([self._by_name(part) if "=" in part else part for part in raw.split("&")])
        parts = _AROUND_PAIRS.split(raw)
        return "".join(
            self._pair(part, unquote_plus, quote_plus) if at % 2 == 0 and part else part
            for at, part in enumerate(parts)
        )

    def path(self, path: str | bytes, params: Mapping[str, Json] | None = None) -> str:
        """The path of a request, whole. ``params`` are its parameters: values of secret ones stand in it as well."""
        secret = self._secret_among(params) if params else ()
        looked_at = secret or self._shapes
        if not looked_at and type(path) is str and len(path) <= _MAX_TEXT and path.isascii() and ";" not in path:
            return path  # nearly always
        raw = _bounded(path, "/", _MAX_TEXT)
        if params:
            for name in secret:
                raw = _without(raw, str(params[name]))
        if ";" not in raw and not (self._shapes and self._patterns.suspect(unquote(raw))):
            return raw
        return "/".join(self._segment(segment) if segment else segment for segment in raw.split("/"))

    def headers(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
        """The headers on the list, at most 512 bytes of each. URLs lose query, fragment and user."""
        found: dict[str, str] = {}
        for raw, value in headers:
            name = self._headers.get(raw)
            if name is not None:
                text = (self._known_header if len(value) <= _MAX_REMEMBERED else self._header)(raw, value)
                found[name] = clean(f"{found[name]}, {text}", _MAX_HEADER) if name in found else text
        return found

    def _header(self, name: bytes, value: bytes) -> str:
        if self._names.secret(name.decode("latin-1"))[0]:
            return REDACTED
        # Redacted before it is cut: half of a secret may no longer look like one. 8 KiB is what servers take in all.
        text = clean(value, 8192)
        return clean(self._url(text) if name in _URLS else self.text(text), _MAX_HEADER)

    def _url(self, url: str) -> str:
        bare = re.split(r"[?#]", url, maxsplit=1)[0]
        scheme, mark, rest = bare.partition("://")
        if not mark:
            return self.path(bare)
        authority, slash, path = rest.partition("/")
        return f"{scheme}://{authority.rpartition('@')[2]}{slash}{self.path(path)}"

    def _value(self, value: Json, path: Path, depth: int, shapes: bool) -> Json:
        """``shapes``: whether to look for them at all, or only at names."""
        kind = type(value)
        if kind is str:
            return self._patterns.text(value) if shapes else value
        if value is None or kind is bool:
            return value
        if kind is int or kind is float:
            return self._number(value) if shapes else value
        if depth > _MAX_DEPTH:
            return REDACTED
        if kind is dict or isinstance(value, Mapping):
            return self._mapping(value, path, depth, shapes)
        if isinstance(value, list | tuple):
            return self._list(value, path, depth, shapes)
        return self._patterns.text(value) if isinstance(value, str) else value

    def _mapping(self, members: Mapping[str, Json], path: Path, depth: int, shapes: bool) -> dict[str, Json]:
        out: dict[str, Json] = {}
        for name, value in members.items():
            secret, below = self._names.secret(name, path)
            shown = self._patterns.text(name) if shapes else name
            while shown in out:
                shown += "~"
            out[shown] = REDACTED if secret else self._value(value, below, depth + 1, shapes)
        return out

    def _list(self, items: Sequence[Json], path: Path, depth: int, shapes: bool) -> list[Json]:
        secret = self._names.secret_item(path)
        return [
            REDACTED if secret and not isinstance(item, dict | list) else self._value(item, path, depth + 1, shapes)
            for item in items
        ]

    def _number(self, value: float) -> Json:
        """Numbers have shapes too: a card number is one without quotes."""
        try:
            text = repr(value)
        except ValueError:  # more digits than Python converts
            return REDACTED
        return value if self._patterns.text(text) is text else REDACTED

    def _secret_among(self, names: Collection[str]) -> tuple[str, ...]:
        secret = tuple(name for name in names if self._names.secret(name)[0])
        if not secret and len(self._harmless) + len(names) <= _MOST_NAMES:
            self._harmless.update(names)
        return secret

    def _segment(self, segment: str) -> str:
        if ";" not in segment:
            return self._spelled(segment, unquote, quote)
        return ";".join(self._pair(part, unquote, quote) for part in segment.split(";"))  # matrix parameters

    def _by_name(self, part: str) -> str:
        name = part.partition("=")[0]
        return f"{name}={REDACTED}" if self._names.secret(unquote_plus(name))[0] else part

    def _pair(self, part: str, decode: Decode, encode: Encode) -> str:
        name, equals, value = part.partition("=")
        shown = self._spelled(name, decode, encode)
        if not equals:
            return shown
        secret = self._names.secret(decode(name))[0]
        return f"{shown}={REDACTED if secret else self._spelled(value, decode, encode)}"

    def _spelled(self, raw: str, decode: Decode, encode: Encode) -> str:
        """What was sent, by shape: secrets hide behind percent signs. Spelled anew only where one was found."""
        decoded = decode(raw)
        found = self._patterns.text(decoded)
        return raw if found is decoded else encode(found, _SAFE)


def _bounded(raw: str | bytes, between: str, limit: int) -> str:
    """At most so much text, cut at a separator: half of a secret no longer looks like one."""
    if len(raw) <= limit:
        return clean(raw, 4 * limit)
    text = clean(raw[:limit], 4 * limit)
    return f"{text[: text.rfind(between) + 1]}{CUT}"


def _without(path: str, secret: str) -> str:
    """The path without the value of a secret parameter; all of it goes where the value cannot be made out."""
    wanted = secret.casefold()
    segments = path.split("/")
    shown = [REDACTED if wanted in (one.casefold(), unquote(one).casefold()) else one for one in segments]
    if shown != segments or not secret:
        return "/".join(shown) if secret else path
    decoded = unquote(path)
    return quote(decoded.replace(secret, REDACTED), f"/{_SAFE}") if secret in decoded else f"/{REDACTED}"
